// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"
	"sync"
)

// tally counts the live sessions of inside hosts. It is shared by the shards, and
// touched only when a session is made or ends.
//
// An entry is known by a keyed 64-bit hash alone. With ten million entries two share one with a probability of about
// one in 400,000, and then share a bound.
type tally struct {
	mu    sync.Mutex
	slots []tallySlot // open addressing, load at most 3/4; grows to what the sessions need, and so is bounded by them
	n     int
	key   [2]uint64
}

type tallySlot struct {
	hash  uint64 // 0: empty
	count uint32
	// second and made are the last whole second with a new session, and how many it had.
	second, made uint16
}

func (t *tally) hash(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^t.key[0], b^t.key[1])
	return (hi ^ lo) | 1
}

func (t *tally) find(hash uint64) *tallySlot {
	if len(t.slots) == 0 {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	for i := hash >> 20 & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.hash == hash || s.hash == 0 {
			return s
		}
	}
}

// tallied is what add found.
type tallied uint8

const (
	counted tallied = iota
	tooMany         // as many as limit already
	tooFast         // as many as rate in this second already
)

// add counts one more, unless that would be more than limit, or more than rate in this second; 0 is no bound. Looking
// and counting are one step, so that the bounds hold exactly, whatever the shards do at the same time. With rate 0 it
// does not count towards a rate either.
func (t *tally) add(a, b uint64, second uint16, limit, rate int) tallied {
	t.mu.Lock()
	defer t.mu.Unlock()
	if 4*(t.n+1) > 3*len(t.slots) {
		t.grow()
	}
	h := t.hash(a, b)
	s := t.find(h)
	got, made := s.judge(second, 0, limit, rate)
	if got != counted {
		return got
	}
	if s.hash == 0 {
		s.hash = h
		t.n++
	}
	s.count++
	s.second, s.made = second, made
	if rate > 0 && made < 1<<16-1 {
		s.made++
	}
	return counted
}

// judge says what add does with one more, of which others are not in the books yet, and how many were made this second.
func (s *tallySlot) judge(second uint16, others, limit, rate int) (got tallied, made uint16) {
	made = s.made
	if s.second != second {
		made = 0
	}
	switch {
	case limit > 0 && int(s.count)+others >= limit:
		return tooMany, made
	case rate > 0 && int(made) >= rate:
		return tooFast, made
	}
	return counted, made
}

// look is what add would say, with so many others that are not in the books.
func (t *tally) look(a, b uint64, second uint16, others, limit, rate int) tallied {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.find(t.hash(a, b))
	if s == nil {
		s = &tallySlot{}
	}
	got, _ := s.judge(second, others, limit, rate)
	return got
}

// cancel takes back an add with the same rate that nothing came of.
func (t *tally) cancel(a, b uint64, rate int) {
	t.mu.Lock()
	if s := t.find(t.hash(a, b)); s != nil && rate > 0 && s.made > 0 {
		s.made--
	}
	t.mu.Unlock()
	t.drop(a, b)
}

func (t *tally) grow() {
	old := t.slots
	t.slots = make([]tallySlot, max(64, 2*len(old)))
	for _, s := range old {
		if s.hash != 0 {
			*t.find(s.hash) = s
		}
	}
}

func (t *tally) drop(a, b uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.find(t.hash(a, b))
	if s == nil || s.hash == 0 {
		return
	}
	if s.count--; s.count > 0 {
		return
	}
	// Close the gap, as in every table with linear probing.
	t.n--
	mask := uint64(len(t.slots) - 1)
	gap := s.hash >> 20 & mask
	for t.slots[gap].hash != s.hash {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; t.slots[i].hash != 0; i = (i + 1) & mask {
		if home := t.slots[i].hash >> 20 & mask; (i-home)&mask >= (i-gap)&mask {
			t.slots[gap] = t.slots[i]
			gap = i
		}
	}
	t.slots[gap] = tallySlot{}
}

// size is the memory of the table, in bytes.
func (t *tally) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return 16 * len(t.slots)
}

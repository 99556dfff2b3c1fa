// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"
	"sync"
)

// destCounts counts the live sessions to each destination that is seen from an external address. It is shared by the
// shards, and touched only when a session is made or ends.
//
// It is a hash table of keyed hash<<16 | count, 0 where empty, as large from its first use as the sessions can make it: it
// never stops to grow. Slots without an empty one between them are in the order of their hashes, so that a search ends at the
// first larger one and the load may be 8/9: 9 bytes a session. The order goes around the end of the slots, so hashes are
// compared by the sign of their difference, which holds as long as no run of used slots is half of them. Below 2^16
// sessions there are so many slots that none can be; above, none comes of random hashes.
//
// A destination is known by 48 bits of hash alone. Of a million, two share theirs with a probability of one in 560, and then
// share a bound.
type destCounts struct {
	mu       sync.Mutex
	slots    []uint64
	sessions int // the most that there can be
	key      [2]uint64
}

// destSlots is the number of slots for so many sessions, and one more that is about to be made in each shard.
func destSlots(sessions int) int {
	n := sessions + maxShards
	if n <= 1<<16 {
		return 2*n + 1
	}
	return n + n/8
}

// maxDestCount is the largest count, and so the largest bound.
const maxDestCount = 1<<16 - 1

func (d *destCounts) hash(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^d.key[0], b^d.key[1])
	return (hi ^ lo) &^ maxDestCount
}

func (d *destCounts) home(hash uint64) int {
	hi, _ := bits.Mul64(hash, uint64(len(d.slots)))
	return int(hi)
}

func (d *destCounts) after(pos int) int {
	if pos++; pos == len(d.slots) {
		return 0
	}
	return pos
}

// find is where hash is, or would be, and how many it has.
func (d *destCounts) find(hash uint64) (pos int, n uint64) {
	for pos = d.home(hash); ; pos = d.after(pos) {
		s := d.slots[pos]
		switch ahead := int64(s&^maxDestCount - hash); {
		case s == 0 || ahead > 0:
			return pos, 0
		case ahead == 0:
			return pos, s & maxDestCount
		}
	}
}

// add counts one more, unless that would be more than limit; 0 is none below maxDestCount. Looking and counting are one
// step, so that the bound holds exactly, whatever the shards do at the same time.
func (d *destCounts) add(a, b uint64, limit int) tallied {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slots == nil {
		d.slots = make([]uint64, destSlots(d.sessions))
	}
	hash := d.hash(a, b)
	pos, n := d.find(hash)
	switch {
	case judgeDest(n, limit) != counted:
		return tooMany
	case n > 0:
		d.slots[pos]++
		return counted
	}
	for s := hash | 1; s != 0; pos = d.after(pos) { // what is there moves up, to the next empty slot
		d.slots[pos], s = s, d.slots[pos]
	}
	return counted
}

func judgeDest(n uint64, limit int) tallied {
	if n >= maxDestCount || limit > 0 && n >= uint64(limit) {
		return tooMany
	}
	return counted
}

// look is what add would say.
func (d *destCounts) look(a, b uint64, limit int) tallied {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slots == nil {
		return counted
	}
	_, n := d.find(d.hash(a, b))
	return judgeDest(n, limit)
}

// drop takes back one add.
func (d *destCounts) drop(a, b uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slots == nil {
		return
	}
	pos, n := d.find(d.hash(a, b))
	if n == 0 {
		return
	}
	if n > 1 {
		d.slots[pos]--
		return
	}
	// What follows moves down, up to the first that is at home.
	for {
		next := d.after(pos)
		s := d.slots[next]
		if s == 0 || d.home(s&^maxDestCount) == next {
			break
		}
		d.slots[pos], pos = s, next
	}
	d.slots[pos] = 0
}

// size is the memory of the table, in bytes.
func (d *destCounts) size() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return 8 * len(d.slots)
}

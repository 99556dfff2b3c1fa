// SPDX-License-Identifier: Apache-2.0

package reasm

import (
	"errors"
	"fmt"
)

// Check walks everything and names the invariants that do not hold. It allocates; it is for tests and inspection.
func (s *Store) Check() error {
	c := checker{s: s, owned: make([]bool, len(s.blocks)), queued: make([]bool, len(s.sets)), use: make([]source, len(s.sources))}
	c.queue()
	c.index()
	for h := range s.sets {
		if h != 0 && s.sets[h].state != free {
			c.set(uint32(h))
		}
	}
	c.counts()
	c.sourceRecords()
	return errors.Join(c.faults...)
}

type checker struct {
	s      *Store
	owned  []bool   // blocks that are part of a piece or unused
	queued []bool   // sets in the queue
	use    []source // what sources hold, by the sets

	sets, blocks, pieces int
	faults               []error
}

func (c *checker) want(ok bool, format string, args ...any) bool {
	if !ok {
		c.faults = append(c.faults, fmt.Errorf("reasm: "+format, args...))
	}
	return ok
}

// waits reports whether a set of the state is in index and queue.
func waits(st state) bool { return st == open || st == overlapped || st == overfull }

func (c *checker) queue() {
	s, older := c.s, uint32(0)
	for h := s.oldest; h != 0; h = s.sets[h].newer {
		d := &s.sets[h]
		if !c.want(!c.queued[h], "set %d is queued twice", h) {
			return
		}
		c.queued[h] = true
		c.want(waits(d.state), "set %d is queued in state %d", h, d.state)
		c.want(d.older == older, "set %d is queued behind %d and says %d", h, older, d.older)
		c.want(int32(s.clock-d.born) >= 0, "set %d was born at %d, after %d", h, d.born, s.clock)
		c.want(older == 0 || int32(d.born-s.sets[older].born) >= 0, "set %d is older than %d before it", h, older)
		older = h
	}
	c.want(s.newest == older, "the queue ends at set %d and says %d", older, s.newest)
}

func (c *checker) index() {
	s, n, queued := c.s, 0, 0
	for i := range s.byKey {
		for h := s.byKey[i]; h != 0; h = s.sets[h].chain {
			d := &s.sets[h]
			c.want(c.queued[h], "set %d is indexed and not queued", h)
			c.want(s.bucketOf(&d.key) == &s.byKey[i], "set %d is in bucket %d, which is not its own", h, i)
			c.want(s.find(d.key) == h, "set %d is not what its key finds", h)
			if n++; !c.want(n < len(s.sets), "the index of sets is endless") {
				return
			}
		}
	}
	for _, q := range c.queued {
		if q {
			queued++
		}
	}
	c.want(n == queued, "%d sets are indexed, %d queued", n, queued)
}

func (c *checker) set(h uint32) {
	s, d := c.s, &c.s.sets[h]
	c.sets++
	c.want(c.queued[h] == waits(d.state), "set %d in state %d: queued is %v", h, d.state, c.queued[h])
	got, count, end := 0, 0, 0
	for p := d.first; p != 0; p = s.blocks[p].after {
		b := &s.blocks[p]
		if count++; !c.want(count <= MaxPieces, "set %d has more than %d pieces", h, MaxPieces) {
			return
		}
		c.want(b.size > 0 && b.start() >= end, "set %d: piece %d at %d..%d follows one that ends at %d", h, p, b.start(), b.end(), end)
		end = b.end()
		got += int(b.size)
		n := 0
		for q := p; q != 0; q = s.blocks[q].next {
			if !c.want(!c.owned[q], "set %d: block %d belongs to somebody else too", h, q) {
				return
			}
			c.owned[q] = true
			n++
		}
		c.want(n == blocksFor(int(b.hdr)+int(b.size)), "set %d: piece %d of %d bytes has %d blocks", h, p, int(b.hdr)+int(b.size), n)
		c.blocks += n
		c.use[d.source].blocks += uint32(n)
	}
	c.pieces += count
	c.use[d.source].sets++
	c.want(count == int(d.count) && got == int(d.got), "set %d has %d pieces, %d bytes and says %d, %d", h, count, got, d.count, d.got)
	c.want(d.total == 0 || end == int(d.total), "set %d has bytes up to %d and its end at %d", h, end, d.total)
	switch d.state {
	case open:
		c.want(count > 0 && got != int(d.total), "set %d is open with %d pieces, %d bytes of %d", h, count, got, d.total)
	case complete:
		c.want(count > 0 && got == int(d.total), "set %d is complete with %d pieces, %d bytes of %d", h, count, got, d.total)
	default:
		c.want(count == 0 && d.total == 0, "set %d is spoiled with %d pieces, an end at %d", h, count, d.total)
	}
	r := &s.sources[d.source]
	c.want(r.addr == d.key.Src && r.attachment == d.key.Attachment, "set %d names the source record %d, of somebody else", h, d.source)
}

func (c *checker) counts() {
	s, n := c.s, 0
	c.want(c.sets == s.usedSets && c.blocks == s.usedBlocks && c.pieces == s.pieces,
		"%d sets, %d blocks, %d pieces, and the counters say %d, %d, %d",
		c.sets, c.blocks, c.pieces, s.usedSets, s.usedBlocks, s.pieces)
	for b := s.freeBlock; b != 0; b = s.blocks[b].next {
		if !c.want(!c.owned[b], "unused block %d belongs to somebody", b) {
			return
		}
		c.owned[b] = true
		n++
	}
	c.want(n+c.blocks == len(s.blocks)-1, "%d blocks unused, %d used, of %d", n, c.blocks, len(s.blocks)-1)
	n = 0
	for h := s.freeSet; h != 0; h = s.sets[h].chain {
		if n++; !c.want(s.sets[h].state == free && n < len(s.sets), "set %d is unused in state %d", h, s.sets[h].state) {
			return
		}
	}
	c.want(n+c.sets == len(s.sets)-1, "%d sets unused, %d used, of %d", n, c.sets, len(s.sets)-1)
}

func (c *checker) sourceRecords() {
	s, used, unused := c.s, 0, 0
	for i := range s.bySource {
		for j := s.bySource[i]; j != 0; j = s.sources[j].chain {
			r := &s.sources[j]
			if used++; !c.want(used < len(s.sources), "the index of sources is endless") {
				return
			}
			c.want(s.findSource(r.addr, r.attachment) == j, "source %d is not what its address finds", j)
			c.want(r.sets > 0, "source %d has no set", j)
			c.want(r.sets == c.use[j].sets && r.blocks == c.use[j].blocks, "source %d has %d sets, %d blocks and says %d, %d",
				j, c.use[j].sets, c.use[j].blocks, r.sets, r.blocks)
			c.want(int(r.sets) <= s.setShare() && int(r.blocks) <= s.blockShare(), "source %d has more than its share", j)
		}
	}
	for j := s.freeSource; j != 0; j = s.sources[j].chain {
		if unused++; !c.want(c.use[j].sets == 0 && unused < len(s.sources), "unused source %d has sets", j) {
			return
		}
	}
	c.want(used+unused == len(s.sources)-1, "%d sources used, %d unused, of %d", used, unused, len(s.sources)-1)
}

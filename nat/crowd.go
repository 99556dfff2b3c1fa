// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"

	"github.com/tidegate/tidegate/conntrack"
)

// crowdKey is what ports are scarce for: an external address and protocol, and with address-and-port-dependent mapping
// a destination. lo tells the port classes apart.
type crowdKey struct {
	ext, rem uint32
	remPort  uint16
	lo       uint16
	proto    uint8
	one      bool // for one destination: not endpoint-independent
}

// crowd is the bitmap of the free ports for one crowdKey: two levels, a bit of sum for each word of free with one set.
type crowd struct {
	used uint64 // when, for the least recently used
	span span
	left int
	sum  [16]uint64
	free [1024]uint64
}

// crowds is the bounded pool of a shard; keys[i] is what live[i] is for.
type crowds struct {
	keys  []crowdKey
	live  []*crowd
	max   int
	clock uint64
}

// maxCrowds bounds the pool: a linear search must stay short.
const maxCrowds = 256

// newCrowds is enough for all that can be crowded at once with the usual port range.
func newCrowds(sessions int) crowds { return crowds{max: min(sessions/(1<<14)+4, maxCrowds)} }

// forget drops all bitmaps; they are made again where they are needed.
func (cs *crowds) forget() { cs.keys, cs.live = nil, nil }

func (q *want) key(ext uint32) crowdKey {
	k := crowdKey{ext: ext, lo: uint16(q.span.lo), proto: q.proto}
	if !q.independent {
		k.one, k.rem, k.remPort = true, q.rem, q.remPort
	}
	return k
}

func (cs *crowds) find(q *want, ext uint32) *crowd {
	if len(cs.live) == 0 {
		return nil
	}
	key := q.key(ext)
	for i := range cs.keys {
		if c := cs.live[i]; cs.keys[i] == key && c.span == q.span {
			return c
		}
	}
	return nil
}

// use notes that c was of use.
func (cs *crowds) use(c *crowd) {
	cs.clock++
	c.used = cs.clock
}

// crowd makes the bitmap by looking at each port.
func (w *Worker) crowd(sh *shard, q *want, ext uint32) *crowd {
	cs := &sh.crowds
	if w.why != nil { // not for the others
		cs = &w.why.crowds
	}
	at := len(cs.live)
	if at < cs.max {
		cs.live, cs.keys = append(cs.live, new(crowd)), append(cs.keys, crowdKey{})
	} else {
		at = 0
		for i, d := range cs.live {
			if d.used < cs.live[at].used {
				at = i
			}
		}
	}
	cs.clock++
	// Not to be found by its key yet: a dead session that is removed on the way must not be counted twice.
	c := cs.live[at]
	*c, cs.keys[at] = crowd{used: cs.clock, span: q.span}, crowdKey{}
	for first := uint32(0); first < q.span.n; first += maxBatch {
		last := min(first+maxBatch, q.span.n)
		w.touchPorts(sh, q, ext, first, last)
		for i := first; i < last; i++ {
			if w.isFree(sh, q, ext, q.span.port(i)) {
				c.mark(i)
			}
		}
	}
	cs.keys[at] = q.key(ext)
	return c
}

// touchPorts loads what isFree will look at for the places from first up to last, at most maxBatch, so that their cache misses
// overlap.
func (w *Worker) touchPorts(sh *shard, q *want, ext, first, last uint32) {
	t, n := sh.t, last-first
	for i := range n {
		if port := uint16(q.span.port(first + i)); q.independent {
			w.ask.tags[i] = t.HolderTag(ext, port, q.proto)
		} else {
			w.ask.tags[i] = t.InTag(ext, q.rem, port, q.proto)
		}
	}
	if q.independent {
		w.touched += t.LookupHolder(w.ask.tags[:n], w.ask.hs[:n])
	} else {
		w.touched += t.LookupIn(w.ask.tags[:n], w.ask.hs[:n])
	}
}

func (c *crowd) mark(i uint32) {
	if word := &c.free[i/64]; *word>>(i%64)&1 == 0 {
		*word |= 1 << (i % 64)
		c.sum[i/4096] |= 1 << (i / 64 % 64)
		c.left++
	}
}

func (c *crowd) clear(i uint32) {
	if word := &c.free[i/64]; *word>>(i%64)&1 != 0 {
		*word &^= 1 << (i % 64)
		if *word == 0 {
			c.sum[i/4096] &^= 1 << (i / 64 % 64)
		}
		c.left--
	}
}

// pick takes a free port.
func (c *crowd) pick(q *want) (uint16, bool) {
	i, ok := c.choose(q)
	if !ok {
		return 0, false
	}
	c.clear(i)
	return uint16(q.span.port(i)), true
}

// choose names the place of a free port: a random one of a random word, or of the next that has one.
func (c *crowd) choose(q *want) (place uint32, ok bool) {
	if c.left == 0 {
		return 0, false
	}
	mask := ^uint64(0)
	if q.onlyParity {
		mask = 0x5555555555555555 << q.parityOfPort
	}
	words := (q.span.n + 63) / 64
	start := q.below(words)
	for k, i := uint32(0), start; k <= words; {
		// The first word from i on that has a free port, by the summary.
		if s := c.sum[i/64] >> (i % 64); s == 0 {
			skip := min(64-i%64, words-i)
			k, i = k+skip, i+skip
		} else {
			skip := uint32(bits.TrailingZeros64(s))
			k, i = k+skip, i+skip
			if i < words && c.free[i]&mask != 0 {
				return i*64 + nth(c.free[i]&mask, q), true
			}
			k, i = k+1, i+1
		}
		if i >= words {
			i = 0
		}
	}
	return 0, false
}

// nth is a random one of the bits of v.
func nth(v uint64, q *want) uint32 {
	for n := q.below(uint32(bits.OnesCount64(v))); n > 0; n-- {
		v &= v - 1
	}
	return uint32(bits.TrailingZeros64(v))
}

// taken notes a port that was given out in another way than by pick.
func (cs *crowds) taken(sh *shard, q *want, ext, port uint32) {
	if c := cs.find(q, ext); c != nil {
		cs.use(c)
		if i, ok := c.span.place(port); ok {
			c.clear(i)
		}
	}
}

// kept notes that r will have its port, for which room was made: what was recycled may have been the only session of r's
// own mapping, which released its port.
func (cs *crowds) kept(r *conntrack.Record) {
	for i := range cs.keys {
		if k := &cs.keys[i]; k.ext != r.Ext || k.proto != r.Proto || k.one || !r.Has(conntrack.Independent) {
			continue
		}
		if place, ok := cs.live[i].span.place(uint32(r.ExtPort)); ok {
			cs.live[i].clear(place)
		}
	}
}

// released notes an external tuple that is free again. A destination where most ports are free is crowded no more.
func (cs *crowds) released(r *conntrack.Record) {
	// A record of an endpoint-independent mapping frees its port for everybody; so does a tombstone.
	one := !r.Has(conntrack.Independent) && r.State != conntrack.Quarantined
	for i := 0; i < len(cs.keys); i++ {
		k := &cs.keys[i]
		if k.ext != r.Ext || k.proto != r.Proto || k.one != one || one && (k.rem != r.Rem || k.remPort != r.RemPort) {
			continue
		}
		c := cs.live[i]
		if !c.span.has(uint32(r.ExtPort)) {
			continue
		}
		place, ok := c.span.place(uint32(r.ExtPort))
		if !ok {
			continue
		}
		if c.mark(place); uint32(c.left) > c.span.n/4*3 {
			last := len(cs.keys) - 1
			cs.keys[i], cs.live[i] = cs.keys[last], cs.live[last]
			cs.keys, cs.live = cs.keys[:last], cs.live[:last]
			i--
		}
	}
}

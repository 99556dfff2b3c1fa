// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"

	"github.com/tidegate/tidegate/conntrack"
)

// Theory of operation of the port allocator.
//
// Which ports are taken is nowhere written down but in the sessions: a port is free for a flow if a lookup finds no
// session that would share its external tuple. The allocator guesses: it looks at a few random ports (RFC 6056, M-10),
// which finds one soon as long as less than about three quarters are in use. Where the guesses fail it makes a bitmap of what
// is free for this external address and destination, by looking at each port once, and keeps it true from then on:
// every port that it gives out or that a session leaves is marked. So the cost stays flat up to the last port (B-30),
// and a destination that nobody crowds costs nothing.
//
// There can be only so many crowded destinations: each has most of the ports of an address in sessions. The
// bitmaps are a pool of that size; the one that was not used for longest gives way.
//
// A shard gives out only ports of its own: blocks of two neighbours (so that parity can be kept), dealt in turn.

// guesses is how many random ports are looked at before a bitmap is made, which costs a look at each port: with half of the
// ports taken one flow in 2^24 makes one, with three quarters one in 1,000, with nine tenths one in twelve.
const guesses = 24

// span is a range of ports of one shard: place i stands for a port.
type span struct {
	lo, hi uint32 // both included
	base   uint32
	shift  uint32 // the ports between two blocks, 2 × shards, as a power of two
	n      uint32 // places; some at the ends may be outside lo..hi
}

func newSpan(lo, hi uint32, shard, shards int) span {
	shift := uint32(bits.TrailingZeros32(2 * uint32(shards)))
	base := lo>>shift<<shift + 2*uint32(shard)
	s := span{lo: lo, hi: hi, base: base, shift: shift}
	if hi >= base {
		s.n = 2 * ((hi-base)>>shift + 1)
	}
	return s
}

func (s *span) port(i uint32) uint32 { return s.base + i>>1<<s.shift + i&1 }

func (s *span) has(port uint32) bool { return port >= s.lo && port <= s.hi }

// place is where port stands; the port must be of this shard.
func (s *span) place(port uint32) (uint32, bool) {
	if port < s.base || port > s.hi {
		return 0, false
	}
	d := port - s.base
	if d&(1<<s.shift-1) > 1 {
		return 0, false
	}
	return d>>s.shift<<1 + d&1, true
}

// shardOfPort is the shard that gives out a port.
func (e *Engine) shardOfPort(port uint16) int { return int(port>>1) & (len(e.shards) - 1) }

// want is what a new flow asks of the allocator.
type want struct {
	proto        uint8
	k            int // class
	pool         *pool
	poolNumber   uint16
	in, rem      uint32
	inPort       uint16
	remPort      uint16
	independent  bool
	span         span
	onlyParity   bool
	parityOfPort uint32
	random       uint64
}

// below is a random number less than n: what is random about it is the one word that the flow has got, for which it is
// multiplied on from choice to choice.
func (q *want) below(n uint32) uint32 {
	hi, _ := bits.Mul64(q.random, uint64(n))
	q.random = q.random*6364136223846793005 + 1442695040888963407
	return uint32(hi)
}

// spanOf is the ports that a flow may get.
func (w *Worker) spanOf(d *pool, k int, in uint32, inPort uint16, shard int) span {
	lo, hi := uint32(d.PortMin), uint32(d.PortMax)
	switch {
	case d.PortBlock > 0:
		_, lo = d.blocks.of(in)
		hi = lo + d.blocks.size - 1
	case k == ClassICMP:
		lo, hi = 0, 65535
	case d.PreserveClass && inPort < 1024: // RFC 4787 REQ-3a; below 512 there are too many services
		lo, hi = 512, 1023
	case d.PreserveClass:
		lo = max(lo, 1024)
	}
	return newSpan(lo, hi, shard, len(w.e.shards))
}

// allocate finds an external endpoint, or says that there is none. The shard is the flow's, and held.
func (w *Worker) allocate(sh *shard, q *want) (ext uint32, port uint16, ok bool) {
	addrs := q.pool.addrs
	if len(addrs) == 0 {
		return 0, 0, false
	}
	if w.why != nil {
		q.random = sh.random.ahead(0)
	} else {
		q.random = sh.random.take()
	}
	for again := false; ; again = true {
		first := w.e.firstAddress(q)
		n := len(addrs)
		if q.pool.Pooling == Paired {
			n = 1
		}
		for i := range n {
			ext := addrs[(first+i)%len(addrs)]
			limit := q.pool.PortsPerDestination
			a, b := destination(ext, q.rem, q.remPort, q.proto)
			if limit > 0 && w.countDestination(a, b, limit) != counted {
				continue
			}
			if port, ok := w.allocateAt(sh, q, ext); ok {
				return ext, port, true
			}
			if limit > 0 && w.why == nil {
				w.e.dests.drop(a, b)
			}
		}
		if again {
			return 0, 0, false
		}
		// What is left may have ended without anybody having looked: do that, and give up a port that waits.
		sh.t.Advance(w.tick, reclaimAtOnce)
		if q.independent {
			w.disinter(sh, q, addrs, first, n)
		}
	}
}

// firstAddress is the place of the address that is tried first.
func (e *Engine) firstAddress(q *want) int {
	// M-5: the address of a host is a keyed hash of the host's, so all shards and protocols agree about it.
	switch q.pool.Pooling {
	case Paired:
		return e.home(q.pool, q.in)
	case PairedSoft:
		return e.pairing(q.in, len(q.pool.addrs))
	}
	return int(q.below(uint32(len(q.pool.addrs))))
}

// guess is a random port of the span.
func (q *want) guess() uint32 {
	i := q.below(q.span.n)
	if q.onlyParity {
		i = i&^1 | q.parityOfPort
	}
	return q.span.port(i)
}

// reclaimAtOnce bounds the work of one refused flow.
const reclaimAtOnce = 1 << 17

// home is the place of a host's one address in a pool.
func (e *Engine) home(d *pool, in uint32) int {
	if d.PortBlock > 0 {
		i, _ := d.blocks.of(in)
		return i
	}
	return e.pairing(in, len(d.addrs))
}

// pairing is the place of a host's address in a pool of n (rendezvous hashing is not worth it: a change of the pool
// moves hosts only with their next mapping).
func (e *Engine) pairing(in uint32, n int) int {
	if n == 1 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(in)^e.key[0], e.key[1]|1)
	hi, _ = bits.Mul64(hi^lo, uint64(n))
	return int(hi)
}

// buriedAtOnce bounds the ports in quarantine that one refused flow looks at (B-30): those that wait longest may all be of
// another address or protocol. Beyond, the flow is refused and the quarantine holds.
const buriedAtOnce = 1 << 12

// disinter ends the quarantine of the port that has waited longest and that q could use (C-5).
func (w *Worker) disinter(sh *shard, q *want, addrs []uint32, first, n int) {
	found, left := conntrack.None, buriedAtOnce
	sh.t.Buried(func(h conntrack.Handle, r *conntrack.Record) bool {
		if left--; left < 0 {
			return false
		}
		if r.Proto != q.proto || !q.span.has(uint32(r.ExtPort)) || q.pool.isReserved(q.k, r.ExtPort) {
			return true
		}
		for i := range n {
			if addrs[(first+i)%len(addrs)] == r.Ext {
				found = h
				return false
			}
		}
		return true
	})
	switch {
	case w.why != nil:
		w.why.unburied = found
	case found != conntrack.None:
		w.e.kept.odd.unburied.Add(1)
		sh.t.Bury(found)
	}
}

// allocateAt finds a port of one address.
func (w *Worker) allocateAt(sh *shard, q *want, ext uint32) (uint16, bool) {
	s := &q.span
	if s.n == 0 {
		return 0, false
	}
	if q.pool.PreservePort && s.has(uint32(q.inPort)) && w.e.shardOfPort(q.inPort) == sh.number && w.isFree(sh, q, ext, uint32(q.inPort)) {
		if w.why == nil {
			sh.crowds.taken(sh, q, ext, uint32(q.inPort))
		}
		return q.inPort, true
	}
	if q.pool.PreserveParity && q.k != ClassICMP {
		q.onlyParity, q.parityOfPort = true, uint32(q.inPort)&1
		port, ok := w.search(sh, q, ext)
		if q.onlyParity = false; ok {
			return port, true
		}
		if w.why == nil {
			w.e.kept.odd.parityLost.Add(1)
		}
	}
	return w.search(sh, q, ext)
}

func (w *Worker) search(sh *shard, q *want, ext uint32) (uint16, bool) {
	c := sh.crowds.find(q, ext)
	if c == nil && w.why != nil {
		c = w.why.crowds.find(q, ext)
	}
	if c == nil {
		for range guesses {
			if p := q.guess(); w.isFree(sh, q, ext, p) {
				return uint16(p), true
			}
		}
		c = w.crowd(sh, q, ext)
	}
	if w.why != nil {
		i, ok := c.choose(q)
		return uint16(q.span.port(i)), ok
	}
	sh.crowds.use(c)
	return c.pick(q)
}

// isFree looks whether the external tuple is free; the session of a dead one is removed on the way.
func (w *Worker) isFree(sh *shard, q *want, ext, port uint32) bool {
	if !q.span.has(port) || q.k != ClassICMP && port == 0 || q.pool.isReserved(q.k, uint16(port)) {
		return false
	}
	if q.independent {
		return sh.t.Holder(ext, uint16(port), q.proto, w.tick) == conntrack.None
	}
	h, _ := sh.t.FindIn(sh.t.InTag(ext, q.rem, uint16(port), q.proto), ext, q.rem, uint16(port), q.remPort, q.proto)
	return sh.t.Live(h, w.tick) == conntrack.None
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// Theory of operation of the counters of pools.
//
// What passes is counted once, in the session that it passes by (Config.FlowCounters). A session that ends leaves its count
// to its pool, in its shard; so the traffic of a pool is what the ended sessions left and what the live ones have, and
// established packets cost what they cost without. All else is counted where it happens, off the path of established
// packets and under the lock that is held there anyway: beginnings of connections, drops, and the few packets that pass
// without a session.
//
// PoolStats adds the live ones up some records at a time, while packets go on. What it has seen of a shard is split in two
// by census: the records before it have been added up, and what one of those leaves is for the next time; what one behind it
// leaves meanwhile is added up in its stead. So each session is counted once, and no counter ever steps back.

// Traffic is an amount of packets. A super-packet (packet.Offload) is one, with its bytes as they are.
type Traffic struct {
	Packets uint64
	// Bytes are those of the IP packets, headers and all.
	Bytes uint64
}

func (t *Traffic) add(o Traffic) { t.Packets += o.Packets; t.Bytes += o.Bytes }

// PoolStats is what went through one pool of the policy since it is there. A pool with a new name begins at 0; one that
// takes over the addresses of another in one change may take over its sessions and what they have counted. After Adopt it is
// what the sessions that came over have counted, and what follows.
type PoolStats struct {
	// Name is that of the pool.
	Name string
	// ActiveConnections is how many TCP connections are established: opened to the end of the handshake, or picked up in the
	// middle, and neither closed by both ends, nor reset, nor timed out.
	ActiveConnections int
	PoolCounters
}

// PoolCounters are the counters of a pool. None steps back while the pool is there.
type PoolCounters struct {
	// Attempts counts TCP connections that began: a SYN made a session, or was the first of a new connection on the ports of
	// a closed one. A SYN that is sent again is none, nor is one that was refused. Established counts those whose handshake
	// was seen to its end.
	Attempts, Established uint64
	// IdleTimeouts counts established TCP connections that ended since nothing was sent for their time-out.
	IdleTimeouts uint64
	// PortErrors counts packets from inside that would have begun a flow of any protocol, and found no port (DropNoPort).
	PortErrors uint64
	// Received is what came for the pool, by Direction: Out from inside, In from outside; Sent is what left, Out to the outside
	// and In to the inside. Packets that the engine makes for a sender (RST, ICMP errors) are in Sent, those that wait
	// (fragments, held SYNs) in neither; a datagram in fragments counts when it is complete, by its pieces. A hairpin passes
	// both ways. They need Config.FlowCounters, and are 0 without.
	Received, Sent [2]Traffic
	// Dropped is what was received and not sent on, by Direction. What a Restriction kept from its host, or its host from
	// sending, is no matter of the pool and counted neither here nor in Received.
	Dropped [2]Traffic
}

func (c *PoolCounters) add(o *PoolCounters) {
	c.Attempts += o.Attempts
	c.Established += o.Established
	c.IdleTimeouts += o.IdleTimeouts
	c.PortErrors += o.PortErrors
	for d := range c.Sent {
		c.Received[d].add(o.Received[d])
		c.Sent[d].add(o.Sent[d])
		c.Dropped[d].add(o.Dropped[d])
	}
}

// pass counts what was received and sent on.
func (c *PoolCounters) pass(d Direction, t Traffic) {
	c.Received[d].add(t)
	c.Sent[d].add(t)
}

// drop counts what was received and not sent on.
func (c *PoolCounters) drop(d Direction, t Traffic) {
	c.Received[d].add(t)
	c.Dropped[d].add(t)
}

// session counts what passed by a session, of which n may be nil.
func (c *PoolCounters) session(n *conntrack.Count) {
	if n != nil {
		for d := range n.Bytes {
			c.pass(Direction(d), Traffic{uint64(n.Packets[d]), n.Bytes[d]})
		}
	}
}

// poolBooks are a shard's part of the counters, by the number of the pool. Those of filterPool mean nothing.
type poolBooks struct {
	pools []PoolCounters
	// next is the record from which PoolStats has not added up yet, None if it is not under way; late is what records from
	// there on have left to their pools since it began.
	next conntrack.Handle
	late []PoolCounters
}

// leave adds to a pool what the record h no longer has.
func (b *poolBooks) leave(h conntrack.Handle, pool int, c *PoolCounters) {
	b.pools[pool].add(c)
	if b.next != conntrack.None && h >= b.next {
		b.late[pool].add(c)
	}
}

// openBooks gives the pools of a new policy their books: old ones if they have been there before.
func (e *Engine) openBooks(c *policy) {
	for i := range e.shards {
		b := &e.shards[i].books
		b.pools = slices.Grow(b.pools, max(0, len(c.pools)-len(b.pools)))[:len(c.pools)]
	}
	for n := range c.pools {
		d := &c.pools[n]
		if d.since = c.epoch; e.pol != nil && n < len(e.pol.pools) && e.pol.pools[n].name == d.name {
			d.since = e.pol.pools[n].since
			continue
		}
		for i := range e.shards {
			e.shards[i].books.pools[n] = PoolCounters{}
		}
	}
}

// bookEnd leaves what an ended session has counted to its pool: not to another one that has its number now.
func (e *Engine) bookEnd(sh *shard, h conntrack.Handle, r *conntrack.Record, why conntrack.Reason) {
	n := int(r.Pool)
	if r.Has(conntrack.Filter) || n >= len(e.pol.pools) || int32(r.Epoch-e.pol.pools[n].since) < 0 {
		return
	}
	var c PoolCounters
	c.session(sh.t.Count(h))
	if why == conntrack.TimedOut && isActive(r) {
		c.IdleTimeouts = 1
	}
	sh.books.leave(h, n, &c)
}

// wrapped is for a session whose packets in a direction, of which it counts 32 bits, have come round to 0.
func (sh *shard) wrapped(h conntrack.Handle, r *conntrack.Record, d conntrack.Dir) {
	var c PoolCounters
	c.pass(Direction(d&1), Traffic{Packets: 1 << 32})
	sh.books.leave(h, int(r.Pool), &c)
}

func isActive(r *conntrack.Record) bool {
	return r.Proto == packet.TCP && r.State == conntrack.Established
}

// bookSegment notes what a TCP segment has made of its session, which was in the state was.
func (sh *shard) bookSegment(r *conntrack.Record, was conntrack.State, flags uint8) {
	c := &sh.books.pools[r.Pool]
	switch {
	case was == conntrack.Opening && r.State == conntrack.Established:
		c.Established++
	case was != conntrack.Opening && r.State == conntrack.Opening && flags&packet.SYN != 0: // T-11, T-12
		c.Attempts++
	}
}

// through notes that f is in a pool's hands from now on, on its way in direction d.
func (w *Worker) through(f *flow, pool int, d Direction) {
	if f.pool != filterPool && w.why == nil { // the outbound pass of a hairpin is over
		w.bookPass(f, w.books(f))
	}
	f.pool, f.dir, f.counted = pool, d, false
}

// arrive is through for a packet to an external address, from outside or on the second pass of a hairpin.
func (w *Worker) arrive(f *flow, dst owner) {
	pool := filterPool
	if dst.kind == external {
		pool = int(dst.pool)
	}
	w.through(f, pool, In)
}

// books are those of f's pool, in some shard.
func (w *Worker) books(f *flow) *PoolCounters {
	sh := w.held
	if sh == nil {
		sh = w.enter(w.e.shardOf(f.v.Src, 0, f.v.Proto))
	}
	return &sh.books.pools[f.pool]
}

// size is what f is.
func (w *Worker) size(f *flow) (t Traffic) {
	if !f.set {
		return Traffic{1, uint64(f.p.Len)}
	}
	for i := range w.pieces {
		t.add(Traffic{1, uint64(w.pieces[i].Len)})
	}
	return t
}

// counts is what a session counts for f.
func (f *flow) counts() Traffic { return Traffic{1, uint64(f.length + int(f.v.L4))} }

// bookPass notes of a packet that passed what its session has not counted.
func (w *Worker) bookPass(f *flow, c *PoolCounters) {
	size := w.size(f)
	if f.counted {
		one := f.counts()
		size = Traffic{size.Packets - one.Packets, size.Bytes - one.Bytes}
	}
	c.pass(f.dir, size)
}

// book notes what became of f in its pool, and what was emitted for its sake.
func (w *Worker) book(f *flow, v Verdict, made []Emission) {
	if f.counted && !f.set && len(made) == 0 && v.Forward() {
		return // its session has counted it
	}
	switch {
	case v == DropNotAllowed:
	case v.Dropped():
		c := w.books(f)
		c.drop(f.dir, w.size(f))
		if v == DropNoPort && f.dir == Out {
			c.PortErrors++
		}
		for i := range made {
			to := In
			if made[i].Side == Outside {
				to = Out
			}
			c.Sent[to].add(Traffic{1, uint64(made[i].Packet.Len)})
		}
	case v != HeldFragment && v != HeldSYN:
		c := w.books(f)
		w.bookPass(f, c)
		if f.cut > 0 { // then it left as what was made
			size := w.size(f)
			for i := range made {
				c.Sent[f.dir].add(Traffic{1, uint64(made[i].Packet.Len)})
			}
			c.Sent[f.dir].Packets -= size.Packets
			c.Sent[f.dir].Bytes -= size.Bytes
		}
	}
}

// poolsAtOnce bounds how long PoolStats holds a shard's lock: some tens of microseconds.
const poolsAtOnce = 512

// PoolStats are the counters of the policy's pools at the time now, in the order of the policy. It may run beside traffic,
// and holds a shard's lock for some hundred records at a time. Sessions that have ended by now and were not noticed yet are
// ended on the way.
//
// What passes while it runs is in the result or not; what passed before is, exactly.
func (e *Engine) PoolStats(now time.Duration) []PoolStats {
	e.mustBeMade()
	e.applyMu.Lock() // the pools stay the same meanwhile
	defer e.applyMu.Unlock()
	pol, ms := e.pol, e.latest(now)
	sums := make([]PoolStats, len(pol.pools))
	for i := range e.shards {
		for next := conntrack.Handle(1); next != conntrack.None; {
			next = e.addUp(&e.shards[i], next, ms, sums)
		}
	}
	out := make([]PoolStats, 0, len(pol.lines.Pools))
	for _, q := range pol.lines.Pools {
		s := sums[e.numbers[q.Name]]
		s.Name = q.Name
		if !e.cfg.FlowCounters {
			s.Received, s.Sent = [2]Traffic{}, [2]Traffic{}
		}
		out = append(out, s)
	}
	return out
}

// addUp adds the records of a shard from first on to sums, and with the first and the last what the pools have been left. It
// returns from where to go on, None after the last.
func (e *Engine) addUp(sh *shard, first conntrack.Handle, ms uint64, sums []PoolStats) conntrack.Handle {
	e.mu.RLock()
	defer e.mu.RUnlock()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	tick, b := sh.latest(ms), &sh.books
	if first == 1 {
		for n := range sums {
			sums[n].add(&b.pools[n])
		}
		b.late = make([]PoolCounters, len(sums))
	}
	b.next = first
	last := min(first+poolsAtOnce, conntrack.Handle(sh.t.Cap()+1))
	for h := first; h < last; h++ {
		r := sh.t.Rec(h)
		if r.State == conntrack.Free || r.State == conntrack.Quarantined || r.Has(conntrack.Filter) || sh.t.Live(h, tick) == conntrack.None {
			continue
		}
		s := &sums[r.Pool]
		s.session(sh.t.Count(h))
		if isActive(r) {
			s.ActiveConnections++
		}
	}
	if b.next = last; int(last) <= sh.t.Cap() {
		return last
	}
	for n := range sums {
		sums[n].add(&b.late[n])
	}
	b.next, b.late = conntrack.None, nil
	return conntrack.None
}

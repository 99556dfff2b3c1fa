// SPDX-License-Identifier: Apache-2.0

package conntrack

import "slices"

// Theory of operation of a rebuild.
//
// What outlives a process is records, their counts and the counters. A process may die between any two stores, so each
// change of a record is arranged in such a way that whatever is found makes sense by itself:
//
//	made       all fields while State is Free, then State and LastSeen in one store
//	ends       State becomes Free, then all else
//	waits      State becomes Quarantined and LastSeen the tick of death, in one store; what a tombstone needs of the
//	           rest stays as it is
//	answered   Replied last, after the links in the words of the other direction are gone
//	TCP        a new State last, together with LastSeen (see tcp.go)
//	all else   single words of which each is valid by itself: LastSeen, End, Ack, Win, Epoch, Attachment, Bits
//
// Stores of one thread are found in the order of the program, for a thread is stopped between two instructions and the
// memory outlives it. What the compiler may not reorder is stored atomically (commit, mark): only where a session is
// made, ends or changes its State, so established packets pay nothing.
//
// Links are never believed: the lists, indexes and the wheel are made anew, and so is Head. The order of lists is that
// of LastSeen, which is the best that can be had.
//
// Of two records that cannot both be, one goes: that of an older policy, or that which was seen less recently. It can only
// be what a policy had not yet looked at, or damage.

// Format is the number of this layout of records. Whoever changes what a Record, Count or Stats means gives another one.
const Format = 1

// Deposit adds a copy of a record, of another Table, and of its Count to an opened Table that has nothing at all in it but
// what was deposited, and reports whether there was room. c may be nil.
func (t *Table) Deposit(r *Record, c *Count) bool {
	if t.used == t.Cap() {
		return false
	}
	t.used++
	t.recs[t.used] = *r
	if t.counts != nil && c != nil {
		t.counts[t.used] = *c
	}
	return true
}

// Rebuild makes an opened Table usable: it looks at each record, drops what makes no sense, by itself or for vet, and makes
// all else anew from what remains. Epoch and Timeouts must be set, with a row for each Pool that vet lets pass; now is the
// tick at which the records were left. Sessions that are dead by then, or under another policy, are not treated any
// different: Advance and Reconsider find them. It returns how many records were dropped, of which Ended and Released
// are not told.
func (t *Table) Rebuild(now uint32, vet func(r *Record) bool) (dropped int) {
	if t.out == nil {
		t.index()
	}
	b := rebuild{t: t, vet: vet}
	t.wheel.now = now
	t.used, t.mappings, t.quarantine, t.unanswered = 0, 0, list{}, list{}
	for _, level := range t.free {
		clear(level)
	}
	n := Handle(len(t.recs))
	for h := Handle(1); h < n; h += rebuiltAtOnce {
		b.some(h, min(h+rebuiltAtOnce, n))
	}
	for i, h := range b.independent {
		if i%rebuiltAtOnce == 0 {
			b.touch(b.independent[i:min(i+rebuiltAtOnce, len(b.independent))])
		}
		b.attach(h)
	}
	// Oldest first; those of the same tick in the order of their records.
	sorted := func(hs []Handle) []uint64 {
		keys := make([]uint64, 0, len(hs))
		for _, h := range hs {
			if r := &t.recs[h]; r.State != Free {
				keys = append(keys, uint64(r.LastSeen-now-slack)<<32|uint64(h))
			}
		}
		slices.Sort(keys)
		return keys
	}
	for _, key := range sorted(b.unanswered) {
		t.push(&t.unanswered, Handle(key))
	}
	for _, key := range sorted(b.tombstones) {
		b.bury(Handle(key))
	}
	for _, h := range b.gone {
		t.recs[h].fill(&Record{})
		t.free.put(h)
	}
	for t.quarantine.n > t.maxQuarantined {
		t.stats.Displaced++
		t.bury(t.quarantine.first)
	}
	return b.dropped
}

// rebuiltAtOnce is how many records go through a stage of the rebuild together, so that their cache misses overlap.
const rebuiltAtOnce = 64

type rebuild struct {
	t                                   *Table
	vet                                 func(*Record) bool
	independent, unanswered, tombstones []Handle
	gone                                []Handle // dropped, and not among the free records yet
	dropped                             int
	touched                             uint64
}

// some puts the records from first up to end into the books that are by handle and by tuple.
func (b *rebuild) some(first, end Handle) {
	t := b.t
	var hs [rebuiltAtOnce]Handle
	var outs, ins [rebuiltAtOnce]uint32
	n := 0
	for h := first; h < end; h++ {
		r := &t.recs[h]
		if r.State != Free && (!r.sound() || !b.vet(r)) {
			b.dropped++
			r.commit(Free, r.LastSeen)
		}
		switch {
		case r.State == Free:
			t.free.put(h)
			continue
		case r.State == Quarantined:
			r.strip()
			b.tombstones = append(b.tombstones, h)
			t.used++
			continue
		}
		r.tidy()
		t.used++
		hs[n], outs[n], ins[n] = h, t.outTag(r), t.inTag(r)
		b.touched += t.out.touch(outs[n]) + t.in.touch(ins[n])
		n++
	}
	for i, h := range hs[:n] {
		r := &t.recs[h]
		if rival := t.FindOut(outs[i], r.In, r.Rem, uint32(r.InPort)<<16|uint32(r.RemPort), r.Proto); rival != None && !b.beats(h, rival) {
			continue
		}
		if r.Bits&Independent != 0 {
			b.independent = append(b.independent, h)
		} else {
			if rival := t.owner(ins[i], r); rival != None && !b.beats(h, rival) {
				continue
			}
			t.in.insert(ins[i], h)
		}
		t.out.insert(outs[i], h)
		if r.Bits&Replied == 0 {
			b.unanswered = append(b.unanswered, h)
		}
		t.wheel.place(h, r.LastSeen+t.Timeout(r))
	}
}

// owner is the session in the inbound index that has all of r's external tuple.
func (t *Table) owner(tag uint32, r *Record) Handle {
	pos, h := t.in.first(tag)
	for h != None && !t.recs[h].OwnsIn(r.Rem, r.Ext, uint32(r.RemPort)<<16|uint32(r.ExtPort), r.Proto) {
		pos, h = t.in.next(tag, pos+1)
	}
	return h
}

// beats drops h, which is in no index, or its rival, which is in those of tuples, and reports whether h remains.
func (b *rebuild) beats(h, rival Handle) bool {
	t := b.t
	r, q := &t.recs[h], &t.recs[rival]
	if d := int32(r.Epoch - q.Epoch); d < 0 || d == 0 && int32(r.LastSeen-q.LastSeen) <= 0 {
		b.drop(h)
		return false
	}
	t.out.remove(t.outTag(q), rival)
	if q.Bits&Independent == 0 {
		t.in.remove(t.inTag(q), rival)
	}
	t.wheel.take(rival)
	b.drop(rival)
	return true
}

func (b *rebuild) drop(h Handle) {
	r := &b.t.recs[h]
	r.commit(Free, r.LastSeen)
	b.gone = append(b.gone, h)
	b.t.used--
	b.dropped++
}

// touch loads what attach looks at for each of hs.
func (b *rebuild) touch(hs []Handle) {
	t := b.t
	for _, h := range hs {
		r := &t.recs[h]
		b.touched += t.in.touch(t.inTag(r)) + t.exts.touch(t.HolderTag(r.Ext, r.ExtPort, r.Proto)) +
			t.ends.touch(t.MappingTag(r.In, r.InPort, r.Pool, r.Proto))
	}
}

// attach puts a session into its endpoint-independent mapping, unless its external endpoint is of another inside endpoint, or
// its inside endpoint has another external one.
func (b *rebuild) attach(h Handle) {
	t := b.t
	d := &t.recs[h]
	if d.State == Free {
		return // it was beaten
	}
	exts, ends := t.HolderTag(d.Ext, d.ExtPort, d.Proto), t.MappingTag(d.In, d.InPort, d.Pool, d.Proto)
	pos, first := t.exts.first(exts)
	for first != None && !t.recs[first].ownsExt(d.Ext, d.ExtPort, d.Proto) {
		pos, first = t.exts.next(exts, pos+1)
	}
	pos, other := t.ends.first(ends)
	for other != None && !t.recs[other].ownsEnd(d.In, d.InPort, d.Pool, d.Proto) {
		pos, other = t.ends.next(ends, pos+1)
	}
	if first != other || t.owner(t.inTag(d), d) != None {
		t.out.remove(t.outTag(d), h)
		t.wheel.take(h)
		b.drop(h)
		return
	}
	t.join(h)
}

// bury puts a port into quarantine again, unless somebody has it.
func (b *rebuild) bury(h Handle) {
	t := b.t
	r := &t.recs[h]
	tag := t.HolderTag(r.Ext, r.ExtPort, r.Proto)
	pos, other := t.exts.first(tag)
	for other != None && !t.recs[other].ownsExt(r.Ext, r.ExtPort, r.Proto) {
		pos, other = t.exts.next(tag, pos+1)
	}
	if other != None && t.recs[other].State != Quarantined {
		b.drop(h)
		return
	}
	if other != None { // which has waited for longer
		t.exts.remove(tag, other)
		t.unlist(&t.quarantine, other)
		t.wheel.take(other)
		b.drop(other)
	}
	t.exts.insert(tag, h)
	t.push(&t.quarantine, h)
	t.wheel.place(h, r.LastSeen+t.Timeout(r))
}

// sound reports whether a record that is not free can be one.
func (r *Record) sound() bool {
	if r.State >= NumStates {
		return false
	}
	if r.State == Quarantined {
		return true
	}
	const link = Independent | Forwarded | Filter
	several := r.Bits&link&(r.Bits&link-1) != 0
	return r.State.fits(r.Proto) && !several && r.Bits < 2*Filter && r.Win[Out] <= unknownWindowLog && r.Win[In] <= unknownWindowLog
}

// tidy takes out of a session what is a link or the half of a change.
func (r *Record) tidy() {
	c := *r
	c.Bits &^= Head
	if c.Bits&Filter == 0 {
		c.Next, c.Prev = 0, 0
	}
	if c.Bits&Replied == 0 {
		d := c.replyDir()
		c.Win[d] = 0 // End and Ack become links again
		c.flags &^= (sawSYN | sawAcked | sawFIN | sawReSYN) << d
	} else if c.State == UDPOpening {
		c.State = UDP
	}
	if c != *r {
		if c.State != r.State {
			r.commit(c.State, c.LastSeen)
		}
		r.fill(&c)
	}
}

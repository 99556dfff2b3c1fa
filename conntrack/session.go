// SPDX-License-Identifier: Apache-2.0

package conntrack

import "math"

// Add makes a session of r's identity (addresses, ports, Proto, State, LastSeen, Epoch, Delta, Pool, Attachment, Bits)
// and returns its Handle, or None if no record is free. The caller has made sure that neither of its tuples is taken
// and, with Independent, that its external endpoint is that of the mapping, or free.
func (t *Table) Add(r *Record) Handle {
	h := t.free.take()
	if h == None {
		return None
	}
	d := &t.recs[h]
	if t.used == 0 {
		t.wheel.now = r.LastSeen // an empty wheel may stand anywhere
	}
	t.used++
	c := *r
	c.State, c.Bits = Free, c.Bits&^(Head|Replied)
	if c.Bits&Filter == 0 {
		c.Next, c.Prev = 0, 0
	}
	if t.counts != nil {
		t.counts[h] = Count{}
	}
	d.fill(&c)
	t.out.insert(t.outTag(d), h)
	if d.Bits&Independent != 0 {
		t.join(h)
	} else {
		t.in.insert(t.inTag(d), h)
	}
	t.push(&t.unanswered, h)
	crashPoint("add")
	d.commit(r.State, r.LastSeen)
	crashPoint("added")
	t.stats.Created++
	t.wheel.place(h, d.LastSeen+t.Timeout(d))
	return h
}

func (t *Table) outTag(r *Record) uint32 {
	return t.OutTag(r.In, r.Rem, uint32(r.InPort)<<16|uint32(r.RemPort), r.Proto)
}

func (t *Table) inTag(r *Record) uint32 { return t.InTag(r.Ext, r.Rem, r.ExtPort, r.Proto) }

// join puts h into the list of its mapping: behind the Head of its remote address, or else before the first session.
func (t *Table) join(h Handle) {
	d := &t.recs[h]
	exts := t.HolderTag(d.Ext, d.ExtPort, d.Proto)
	pos, first := t.exts.first(exts)
	for first != None && !t.recs[first].ownsExt(d.Ext, d.ExtPort, d.Proto) {
		pos, first = t.exts.next(exts, pos+1)
	}
	after := None
	if first != None {
		after = t.head(d)
	}
	if after == None {
		d.Bits |= Head
		t.in.insert(t.inTag(d), h)
		ends := t.MappingTag(d.In, d.InPort, d.Pool, d.Proto)
		if first == None {
			t.ends.insertFirst(ends, h)
			t.exts.insert(exts, h)
			t.mappings++
			return
		}
		t.ends.replace(ends, first, h)
		t.exts.replace(exts, first, h)
		d.Next, t.recs[first].Prev = uint32(first), uint32(h)
		return
	}
	next := t.recs[after].Next
	d.Prev, d.Next = uint32(after), next
	t.recs[after].Next = uint32(h)
	if next != 0 {
		t.recs[next].Prev = uint32(h)
	}
}

// head is the Head of d's mapping and remote address.
func (t *Table) head(d *Record) Handle {
	tag := t.inTag(d)
	pos, h := t.in.first(tag)
	for h != None {
		r := &t.recs[h]
		if r.Ext == d.Ext && r.Rem == d.Rem && r.ExtPort == d.ExtPort && r.Proto == d.Proto && r.Bits&Independent != 0 {
			return h
		}
		pos, h = t.in.next(tag, pos+1)
	}
	return None
}

// End removes a session that is no longer Alive, and counts why.
func (t *Table) End(h Handle, now uint32) {
	r := &t.recs[h]
	if t.expired(r, now) {
		t.remove(h, TimedOut, r.LastSeen+t.Timeout(r))
	} else {
		t.remove(h, Disagreed, now)
	}
}

// Unanswered is how many sessions never saw an answer.
func (t *Table) Unanswered() int { return t.unanswered.n }

// Oldest is the session that Recycle would remove, None if there is none.
func (t *Table) Oldest() Handle { return t.unanswered.first }

// Recycle removes the oldest session that never saw an answer and reports whether there was one.
func (t *Table) Recycle(now uint32) bool {
	h := t.unanswered.first
	if h == None {
		return false
	}
	t.remove(h, GaveWay, now)
	if t.recs[h].State == Quarantined { // a record is what was wanted
		t.bury(h)
	}
	return true
}

// Disinter gives up the port that has been in quarantine for longest, and reports whether there was one.
func (t *Table) Disinter() bool {
	h := t.quarantine.first
	if h == None {
		return false
	}
	t.bury(h)
	return true
}

// Buried iterates over the ports in quarantine, the oldest first, as long as yield wants; it must not change the Table.
func (t *Table) Buried(yield func(h Handle, r *Record) bool) {
	for h := t.quarantine.first; h != None; {
		r := &t.recs[h]
		if !yield(h, r) {
			return
		}
		next, _ := r.listLinks()
		h = Handle(*next)
	}
}

// Bury ends the quarantine of h.
func (t *Table) Bury(h Handle) { t.bury(h) }

// remove takes h, which died at the tick at, out of all books.
func (t *Table) remove(h Handle, why Reason, at uint32) {
	r := &t.recs[h]
	switch why {
	case TimedOut:
		t.stats.Expired++
	case GaveWay:
		t.stats.Recycled++
	case Disagreed:
		t.stats.Cut++
	}
	if t.Ended != nil {
		t.Ended(h, r, why, at)
	}
	t.out.remove(t.outTag(r), h)
	if r.Bits&Replied == 0 {
		t.unlist(&t.unanswered, h)
	}
	t.wheel.take(h)
	if r.Bits&Independent == 0 {
		t.in.remove(t.inTag(r), h)
		t.released(r, true)
		t.release(h)
		return
	}
	next, prev := Handle(r.Next), Handle(r.Prev)
	if r.Bits&Head != 0 {
		if tag := t.inTag(r); next != None && t.recs[next].Bits&Head == 0 {
			t.recs[next].Bits |= Head
			t.in.replace(tag, h, next)
		} else {
			t.in.remove(tag, h)
		}
	}
	if next != None {
		t.recs[next].Prev = uint32(prev)
	}
	if prev != None {
		t.recs[prev].Next = uint32(next)
		t.released(r, false)
		t.release(h)
		return
	}
	ends, exts := t.MappingTag(r.In, r.InPort, r.Pool, r.Proto), t.HolderTag(r.Ext, r.ExtPort, r.Proto)
	if next != None {
		t.ends.replace(ends, h, next)
		t.exts.replace(exts, h, next)
		t.released(r, false)
		t.release(h)
		return
	}
	t.ends.remove(ends, h)
	t.mappings--
	waits := r.Bits&Reusable == 0 && t.Timeouts[int(r.Pool)*int(NumStates)+int(Quarantined)] != 0
	t.released(r, !waits)
	if !waits {
		t.exts.remove(exts, h)
		t.release(h)
		return
	}
	crashPoint("bury")
	r.commit(Quarantined, at)
	r.strip()
	t.push(&t.quarantine, h)
	t.wheel.place(h, r.LastSeen+t.Timeout(r))
	if t.quarantine.n > t.maxQuarantined {
		t.stats.Displaced++
		t.bury(t.quarantine.first)
	}
}

// bury frees a tombstone.
func (t *Table) bury(h Handle) {
	r := &t.recs[h]
	t.exts.remove(t.HolderTag(r.Ext, r.ExtPort, r.Proto), h)
	t.unlist(&t.quarantine, h)
	t.wheel.take(h)
	t.released(r, true)
	t.release(h)
}

func (t *Table) released(r *Record, last bool) {
	if t.Released != nil {
		t.Released(r, last)
	}
}

func (t *Table) release(h Handle) {
	r := &t.recs[h]
	crashPoint("release")
	r.commit(Free, r.LastSeen)
	crashPoint("released")
	r.fill(&Record{})
	t.free.put(h)
	t.used--
}

// Answered notes the first packet from the side that did not start the session; more than once is harmless. TrackTCP
// does it by itself.
func (t *Table) Answered(h Handle) {
	r := &t.recs[h]
	if r.Bits&Replied != 0 {
		return // the words are no longer links
	}
	t.unlist(&t.unanswered, h)
	crashPoint("answer")
	r.mark(r.Bits | Replied)
	crashPoint("answered")
	if r.State == UDPOpening {
		r.State = UDP
	}
}

// Hasten must follow a change of State to one with a shorter time-out.
func (t *Table) Hasten(h Handle) {
	r := &t.recs[h]
	t.wheel.take(h)
	t.wheel.place(h, r.LastSeen+t.Timeout(r))
}

// listLinks are the words of r that link it in a list: next, prev. They are the tracking words of the direction that
// has not sent anything.
func (r *Record) listLinks() (next, prev *uint32) {
	d := r.replyDir()
	return &r.End[d], &r.Ack[d]
}

func (t *Table) push(l *list, h Handle) {
	next, prev := t.recs[h].listLinks()
	*next, *prev = 0, uint32(l.last)
	if l.last != None {
		n, _ := t.recs[l.last].listLinks()
		*n = uint32(h)
	} else {
		l.first = h
	}
	l.last = h
	l.n++
}

func (t *Table) unlist(l *list, h Handle) {
	next, prev := t.recs[h].listLinks()
	n, p := Handle(*next), Handle(*prev)
	*next, *prev = 0, 0
	if p != None {
		q, _ := t.recs[p].listLinks()
		*q = uint32(n)
	} else {
		l.first = n
	}
	if n != None {
		_, q := t.recs[n].listLinks()
		*q = uint32(p)
	} else {
		l.last = p
	}
	l.n--
}

// Advance moves the Table's time to now and gives back the records of what has ended by then, looking at no more than
// budget records. It reports whether it got there; if not, what remains is dead all the same. A now that is before the
// Table's time, by less than 2^24 ticks, does nothing.
//
// A Table cannot tell more than 3<<30 ticks (37 days) from less. After more than 1<<30 without Advance, whoever has a
// longer clock must call it, in steps, before any other use of now; it then does all there is to do, whatever the budget.
func (t *Table) Advance(now uint32, budget int) bool {
	w := &t.wheel
	if now-w.now > 1<<30 {
		budget = math.MaxInt
	}
	for {
		ahead := now - w.now
		slot, tick, ok := w.next()
		if ok && ahead >= 1<<32-slack {
			return true
		}
		if !ok || tick-w.now > ahead {
			w.now = now
			return true
		}
		w.now = tick
		n := 0
		for h := Handle(w.slots[slot]); h != None; h = Handle(w.slots[slot]) {
			if n%group == 0 {
				t.approach(h, min(group, budget))
			}
			n++
			if budget--; budget < 0 {
				return false
			}
			r := &t.recs[h]
			deadline := r.LastSeen + t.Timeout(r)
			switch {
			case int32(deadline-w.now) > 0:
				w.take(h)
				w.place(h, deadline)
			case r.State == Quarantined:
				t.bury(h)
			default:
				t.remove(h, TimedOut, deadline)
			}
		}
	}
}

// group is how many records of a slot Advance asks for at once, so that their cache misses overlap.
const group = 16

// approach loads what it takes to end n sessions, from h on in its slot.
func (t *Table) approach(h Handle, n int) {
	var hs [group]Handle
	var touched uint64
	w := &t.wheel
	k := 0
	for ; k < n && h != None; k++ {
		hs[k] = h
		touched += uint64(t.recs[h].State)
		h = Handle(w.links[h].next)
	}
	for _, h := range hs[:k] {
		r := &t.recs[h]
		if int32(r.LastSeen+t.Timeout(r)-w.now) > 0 {
			continue
		}
		touched += t.out.touch(t.outTag(r)) + t.in.touch(t.inTag(r))
		if r.Bits&Independent != 0 {
			touched += t.ends.touch(t.MappingTag(r.In, r.InPort, r.Pool, r.Proto)) + t.exts.touch(t.HolderTag(r.Ext, r.ExtPort, r.Proto))
		}
		if r.Bits&Replied == 0 { // a tombstone's are clear, too
			next, prev := r.listLinks()
			touched += uint64(t.recs[*next].State) + uint64(t.recs[*prev].State)
		}
	}
	t.touched += touched // keeps the loads
}

// Due is when Advance has something to do, and whether it ever has.
func (t *Table) Due() (tick uint32, ok bool) {
	_, tick, ok = t.wheel.next()
	return tick, ok
}

// Reconsider shows the live sessions among n records from the first on to Agrees, and ends those that it refuses. It
// tells the wheel of time-outs that have become shorter. It returns how many sessions go on, and the record to go on
// from, None after the last.
func (t *Table) Reconsider(first Handle, n int, now uint32) (kept int, next Handle) {
	for h := max(first, 1); h < Handle(len(t.recs)); h++ {
		if n--; n < 0 {
			return kept, h
		}
		switch r := &t.recs[h]; {
		case r.State == Free:
		case r.State == Quarantined:
			t.Hasten(h)
		case t.Live(h, now) != None:
			kept++
			t.Hasten(h)
		}
	}
	return kept, None
}

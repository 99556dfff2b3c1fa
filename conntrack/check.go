// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"fmt"
	"math/bits"
)

// maxFaults is how many broken invariants Check names before it gives up.
const maxFaults = 20

// Check walks the whole Table as of the tick now and names what is wrong with it; nil says that all books agree. It
// takes time and memory in proportion to the size of the Table, and changes nothing.
func (t *Table) Check(now uint32) error {
	c := checker{t: t, now: now, seen: make([]books, len(t.recs))}
	c.freeSet()
	c.queue("quarantine", &t.quarantine, buried)
	c.queue("unanswered", &t.unanswered, waiting)
	c.index("out", t.out, inOut, t.outTag)
	c.index("in", t.in, inIn, t.inTag)
	c.index("ends", t.ends, inEnds, func(r *Record) uint32 { return t.MappingTag(r.In, r.InPort, r.Pool, r.Proto) })
	c.index("exts", t.exts, inExts, func(r *Record) uint32 { return t.HolderTag(r.Ext, r.ExtPort, r.Proto) })
	c.wheel()
	c.mappings()
	c.tuples()
	c.records()
	return errors.Join(c.faults...)
}

// books are the places where a record was met.
type books uint16

const (
	unused books = 1 << iota
	buried
	waiting
	inOut
	inIn
	inEnds
	inExts
	inWheel
	inMapping
)

var bookNames = [...]string{"free set", "quarantine", "unanswered", "out", "in", "ends", "exts", "wheel", "mapping"}

func (b books) String() string {
	s := ""
	for i, name := range bookNames {
		if b&(1<<i) != 0 {
			s += ", " + name
		}
	}
	if s == "" {
		return "no book"
	}
	return s[2:]
}

type checker struct {
	t      *Table
	now    uint32
	seen   []books // by handle
	faults []error
}

func (c *checker) fault(format string, args ...any) {
	if len(c.faults) < maxFaults {
		c.faults = append(c.faults, fmt.Errorf("conntrack: "+format, args...))
	}
}

// meet notes that a book names h, and reports whether it may: a record that there is, for the first time.
func (c *checker) meet(b books, h Handle) bool {
	switch {
	case h == None || int(h) >= len(c.seen):
		c.fault("%v: names record %d of %d", b, h, c.t.Cap())
	case c.seen[h]&b != 0:
		c.fault("%v: names record %d twice", b, h)
	default:
		c.seen[h] |= b
		return true
	}
	return false
}

func (c *checker) freeSet() {
	n := 0
	for l, level := range c.t.free {
		for i, word := range level {
			if l+1 < len(c.t.free) && c.t.free[l+1][i/64]>>(i%64)&1 != min(word, 1) {
				c.fault("free set: word %d of level %d is %#x, and the level above does not know", i, l, word)
			}
			for ; l == 0 && word != 0; word &= word - 1 {
				c.meet(unused, Handle(i*64+bits.TrailingZeros64(word)))
				n++
			}
		}
	}
	if want := c.t.Cap() - c.t.used; n != want {
		c.fault("free set: has %d records, but %d are not used", n, want)
	}
}

func (c *checker) queue(name string, l *list, b books) {
	n, last := 0, None
	for h := l.first; h != None && c.meet(b, h); n++ {
		next, prev := c.t.recs[h].listLinks()
		if Handle(*prev) != last {
			c.fault("%s: record %d has %d before it, not %d", name, h, *prev, last)
		}
		last, h = h, Handle(*next)
	}
	if last != l.last || n != l.n {
		c.fault("%s: ends with record %d after %d, not with %d after %d", name, last, n, l.last, l.n)
	}
}

// index checks that every entry can be found: it has what is kept of its record's tag, it knows how far from home it is, and
// each bucket from its home on counts it among those that passed; and that nobody else is counted, so that searches end.
func (c *checker) index(name string, x index, b books, tag func(*Record) uint32) {
	passed := make([]uint32, len(x))
	for n := range x {
		k := &x[n]
		for place := range 64 {
			if place&7 > 1 || slot(place) >= bucketSize {
				continue
			}
			is, ref := k.tags[place&1]>>(place&^7)&0xff, k.refs[slot(place)]
			if is == 0 && ref == 0 {
				continue
			}
			h := Handle(ref & handleMask)
			if !c.meet(b, h) {
				continue
			}
			want := tag(&c.t.recs[h])
			home := x.home(want)
			if is != low(want) || ref != x.away(uint32(h)|refBits(want), home, uint32(n)) {
				c.fault("%s: bucket %d has %#x and %#x for record %d, whose tag is %#x, and home bucket %d", name, n, is, ref, h, want, home)
				continue
			}
			for i := home; i != uint32(n); i = x.follow(i) {
				passed[i]++
			}
		}
	}
	for n := range x {
		if got := x[n].passed(); got != passed[n] {
			c.fault("%s: bucket %d was passed by %d, not %d", name, n, passed[n], got)
		}
	}
}

// wheel checks that each record's slot comes up no later than its deadline.
func (c *checker) wheel() {
	w := &c.t.wheel
	if c.t.used > 0 && int32(c.now-w.now) < -slack {
		c.fault("wheel: stands at tick %d, after now, %d", w.now, c.now)
	}
	for slot, first := range w.slots {
		if marked := w.used[slot/64]>>(slot%64)&1 != 0; marked != (first != 0) {
			c.fault("wheel: slot %d begins with record %d, but its bit is %t", slot, first, marked)
		}
		prev := firstBit | uint32(slot)
		for h := Handle(first); h != None && c.meet(inWheel, h); h = Handle(w.links[h].next) {
			if w.links[h].prev != prev {
				c.fault("wheel: record %d has %#x before it, not %#x", h, w.links[h].prev, prev)
			}
			prev = uint32(h)
			r := &c.t.recs[h]
			if r.State == Free || r.State >= NumStates {
				continue // records says so
			}
			tick, ok := w.comesUp(uint32(slot))
			deadline := r.LastSeen + c.t.Timeout(r)
			if !ok || tick != w.now && int32(tick-deadline) > 0 {
				c.fault("wheel: at tick %d, record %d is in slot %d, too late for tick %d", w.now, h, slot, deadline)
			}
		}
	}
}

// comesUp is the tick when a slot does, and whether it ever will.
func (w *wheel) comesUp(slot uint32) (tick uint32, ok bool) {
	level, s := slot/256, slot%256
	at := w.now >> (8 * level) & 255
	if s == at {
		return w.now, true
	}
	high := uint64(1)<<(8*level+8) - 1
	return w.now&^uint32(high) | s<<(8*level), s > at || level == 3
}

// mappings walks the list of each endpoint-independent mapping.
func (c *checker) mappings() {
	t := c.t
	n := 0
	for i := 1; i < len(t.recs); i++ {
		first := &t.recs[i]
		if !first.isSession() || !first.Has(Independent) || first.Prev != 0 {
			continue
		}
		n++
		if c.seen[i]&inEnds == 0 || c.seen[i]&inExts == 0 {
			c.fault("mapping: its first session, record %d, is not in ends and exts", i)
		}
		remotes := map[uint32]bool{}
		last := None
		for h := Handle(i); h != None && c.meet(inMapping, h); {
			r := &t.recs[h]
			if !r.isSession() || !r.Has(Independent) ||
				!r.ownsEnd(first.In, first.InPort, first.Pool, first.Proto) || !r.ownsExt(first.Ext, first.ExtPort, first.Proto) {
				c.fault("mapping: record %d is of another one than record %d, or of none", h, i)
			}
			if Handle(r.Prev) != last {
				c.fault("mapping: record %d has %d before it, not %d", h, r.Prev, last)
			}
			starts := last == None || t.recs[last].Rem != r.Rem
			if starts && remotes[r.Rem] {
				c.fault("mapping: record %d is apart from the others to its remote address", h)
			}
			if r.Has(Head) != starts {
				c.fault("mapping: record %d, first to its remote address: %t, Head: %t", h, starts, r.Has(Head))
			}
			if last != None && c.seen[h]&(inEnds|inExts) != 0 {
				c.fault("mapping: record %d is in ends or exts, but not the first", h)
			}
			remotes[r.Rem] = true
			last, h = h, Handle(r.Next)
		}
	}
	if n != t.mappings {
		c.fault("mapping: there are %d, not %d", n, t.mappings)
	}
}

func (r *Record) isSession() bool { return r.State != Free && r.State < Quarantined }

// tuples checks that nothing is there twice. A session that has timed out counts, for it would hide the other from a
// lookup; one of another policy does not, for the two may have been made by different rules.
func (c *checker) tuples() {
	type tuple struct {
		addr, rem     uint32
		port, remPort uint16
		proto         uint8
	}
	type endpoint struct {
		addr  uint32
		port  uint16
		proto uint8
	}
	outs, ins := map[tuple]int{}, map[tuple]int{}
	exts := map[endpoint]int{}
	for i := 1; i < len(c.t.recs); i++ {
		r := &c.t.recs[i]
		if r.isSession() && r.Epoch == c.t.Epoch {
			twice(c, outs, tuple{r.In, r.Rem, r.InPort, r.RemPort, r.Proto}, i, "inside tuple")
			twice(c, ins, tuple{r.Ext, r.Rem, r.ExtPort, r.RemPort, r.Proto}, i, "external tuple")
		}
		if r.State == Quarantined || r.isSession() && r.Has(Independent) && r.Prev == 0 {
			twice(c, exts, endpoint{r.Ext, r.ExtPort, r.Proto}, i, "owner of an external endpoint")
		}
	}
}

func twice[K comparable](c *checker, m map[K]int, key K, i int, what string) {
	if other, ok := m[key]; ok {
		c.fault("records %d and %d have the same %s", other, i, what)
	}
	m[key] = i
}

// records checks that each record is in exactly the books that its state calls for.
func (c *checker) records() {
	used := 0
	for i := 1; i < len(c.t.recs); i++ {
		r := &c.t.recs[i]
		var want books
		switch {
		case r.State == Free:
			want = unused
		case r.State == Quarantined:
			want = buried | inExts | inWheel
		case r.State >= NumStates:
			c.fault("record %d has state %d", i, r.State)
			continue
		default:
			want = inOut | inWheel
			if !r.Has(Replied) {
				want |= waiting
			}
			if !r.Has(Independent) || r.Has(Head) {
				want |= inIn
			}
			if r.Has(Independent) {
				want |= inMapping | c.seen[i]&(inEnds|inExts) // mappings has looked at those
			} else if r.Has(Head) || r.Bits&Filter == 0 && (r.Next != 0 || r.Prev != 0) {
				c.fault("record %d has no mapping, but is linked to one", i)
			}
			if !r.State.fits(r.Proto) {
				c.fault("record %d of protocol %d is in state %v", i, r.Proto, r.State)
			}
			if int32(c.now-r.LastSeen) < -slack {
				c.fault("record %d was last seen at tick %d, after now, %d", i, r.LastSeen, c.now)
			}
		}
		if r.State != Free {
			used++
		}
		if c.seen[i] != want {
			c.fault("record %d (%v) is in %v, but belongs in %v", i, r.State, c.seen[i], want)
		}
		if c.seen[i]&inWheel == 0 && c.t.wheel.links[i] != (link{}) {
			c.fault("record %d is in no slot of the wheel, but linked", i)
		}
	}
	if used != c.t.used {
		c.fault("%d records are used, not %d", used, c.t.used)
	}
}

// fits reports whether a session of a protocol can be in s.
func (s State) fits(proto uint8) bool {
	switch proto {
	case 1:
		return s == Query
	case 6:
		return s >= Opening && s <= Reset
	case 17:
		return s == UDPOpening || s == UDP || s == DNS
	}
	return s == UDPOpening || s == UDP
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

import "math/bits"

// wheel is a hierarchical timing wheel of records: four levels of 256 slots, of 1, 2^8, 2^16 and 2^24 ticks, which
// cover all of the 2^32 ticks.
//
// A record stands in the level of the highest byte in which its deadline differs from the wheel's now, in the slot of
// that byte of the deadline. It is a lazy wheel: refreshing a session does not touch it. When a record's slot comes up
// the deadline is computed anew, and the record moves on or dies. Only a deadline that comes nearer must be told.
//
// Invariant: a record is in a slot that comes up no later than its deadline.
type wheel struct {
	now   uint32
	links []link // by handle
	slots [4 * 256]uint32
	used  [4 * 256 / 64]uint64
}

// link is a record's place in the list of its slot; the first one's prev is the slot with firstBit set. A record in no
// slot has prev 0.
type link struct{ next, prev uint32 }

const firstBit = 1 << 31

// place puts h where deadline says; one that has passed fires with the next step.
func (w *wheel) place(h Handle, deadline uint32) {
	if int32(deadline-w.now) < 0 {
		deadline = w.now
	}
	level := uint32(0)
	if x := deadline ^ w.now; x != 0 {
		level = uint32(bits.Len32(x)-1) / 8
	}
	slot := level<<8 | deadline>>(8*level)&255
	first := w.slots[slot]
	w.links[h] = link{first, firstBit | slot}
	if first != 0 {
		w.links[first].prev = uint32(h)
	}
	w.slots[slot] = uint32(h)
	w.used[slot/64] |= 1 << (slot % 64)
}

// take removes h.
func (w *wheel) take(h Handle) {
	l := w.links[h]
	if l.prev == 0 {
		return
	}
	if l.prev&firstBit != 0 {
		slot := l.prev &^ firstBit
		w.slots[slot] = l.next
		if l.next == 0 {
			w.used[slot/64] &^= 1 << (slot % 64)
		}
	} else {
		w.links[l.prev].next = l.next
	}
	if l.next != 0 {
		w.links[l.next].prev = l.prev
	}
	w.links[h] = link{}
}

// next is the first used slot and the tick when it comes up.
func (w *wheel) next() (slot, tick uint32, ok bool) {
	// A slot of a higher level that has come up and is not empty yet may have any deadline, so it goes before all else.
	for level := uint32(3); level > 0; level-- {
		if at := w.now >> (8 * level) & 255; w.slots[level<<8|at] != 0 {
			return level<<8 | at, w.now, true
		}
	}
	for level := uint32(0); level < 4; level++ {
		s, found := w.usedFrom(level, w.now>>(8*level)&255)
		if !found && level == 3 { // around the end of time
			s, found = w.usedFrom(level, 0)
		}
		if found {
			high := uint32(uint64(1)<<(8*level+8) - 1)
			return level<<8 | s, w.now&^high | s<<(8*level), true
		}
	}
	return 0, 0, false
}

// usedFrom is the first used slot of a level from at on.
func (w *wheel) usedFrom(level, at uint32) (uint32, bool) {
	for i := at; i < 256; i = (i | 63) + 1 {
		if v := w.used[level*4+i/64] >> (i % 64); v != 0 {
			return i + uint32(bits.TrailingZeros64(v)), true
		}
	}
	return 0, false
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

import "math/bits"

// An index is an open-addressing hash table of tag<<32 | handle, 0 where empty, with linear probing.
//
// The tag is all that is kept of the hash, and the home of an entry is computed from the tag alone, so that removal can
// close the gap behind it (no tombstones, so no slow decay) without looking at a record. Slots are in the order of
// their homes, so a tag tells neighbours apart by the 32-log2(len) bits that the home does not use; a wrong guess costs
// a look at a record, which is compared in full.
type index []uint64

// slotsFor is the number of slots for n entries: a load of at most 3/4.
func slotsFor(n int) int { return n + n/3 + 8 }

func (x index) home(tag uint32) uint32 {
	hi, _ := bits.Mul64(uint64(tag)<<32, uint64(len(x)))
	return uint32(hi)
}

// scan returns the first slot from pos on whose tag fits and its handle, or an empty slot and None.
func (x index) scan(tag, pos uint32) (uint32, Handle) {
	for {
		if pos >= uint32(len(x)) {
			pos = 0
		}
		s := x[pos]
		if s == 0 || uint32(s>>32) == tag {
			return pos, Handle(s)
		}
		pos++
	}
}

// insert puts h behind what is there; the caller knows that h is not in x and that there is room.
func (x index) insert(tag uint32, h Handle) {
	pos := x.home(tag)
	for x[pos] != 0 {
		if pos++; pos == uint32(len(x)) {
			pos = 0
		}
	}
	x[pos] = uint64(tag)<<32 | uint64(h)
}

// insertFirst puts h before what is there with the same tag, which moves up.
func (x index) insertFirst(tag uint32, h Handle) {
	for pos := x.home(tag); h != None; pos++ {
		var g Handle
		pos, g = x.scan(tag, pos)
		x[pos] = uint64(tag)<<32 | uint64(h)
		h = g
	}
}

// find returns the slot of h, whose tag is tag.
func (x index) find(tag uint32, h Handle) (uint32, bool) {
	pos := x.home(tag)
	for {
		p, g := x.scan(tag, pos)
		if g == h {
			return p, true
		}
		if g == None {
			return 0, false
		}
		pos = p + 1
	}
}

// replace makes the slot of h name g, which has the same key.
func (x index) replace(tag uint32, h, g Handle) {
	if pos, ok := x.find(tag, h); ok {
		x[pos] = uint64(tag)<<32 | uint64(g)
	}
}

// remove takes h out and moves up what probed past it.
func (x index) remove(tag uint32, h Handle) {
	pos, ok := x.find(tag, h)
	if !ok {
		return
	}
	n := uint32(len(x))
	next := pos
	for {
		if next++; next == n {
			next = 0
		}
		s := x[next]
		if s == 0 {
			break
		}
		// An entry may move to pos unless its home lies behind pos, cyclically in (pos, next].
		fromHome, fromPos := next-x.home(uint32(s>>32)), next-pos
		if int32(fromHome) < 0 {
			fromHome += n
		}
		if int32(fromPos) < 0 {
			fromPos += n
		}
		if fromHome >= fromPos {
			x[pos] = s
			pos = next
		}
	}
	x[pos] = 0
}

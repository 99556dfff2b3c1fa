// SPDX-License-Identifier: Apache-2.0

package conntrack

import "math/bits"

// An index is an open-addressing hash table of handles in buckets of a cache line. An entry stands in its home bucket or,
// if that was full, in the next one that was not. Each bucket counts the entries that passed it, so a search ends where
// nobody went on, and there are no tombstones: what leaves a bucket that was passed makes room for one that stands in the
// next, so that the index is not slower after years of churn than when it was filled (one search in 50 sees a second line).
//
// What is kept of a hash, here called tag, is ten bits; its upper ones say the home. The byte of all entries of a bucket is
// compared at once, so a search takes no branch that depends on where in the bucket the entry stands. A wrong guess costs
// a look at a record, which is compared in full.
type index []bucket

// bucketSize is how many entries a bucket has room for, bucketLoad how many there are for each when the index is full.
const (
	bucketSize = 12
	bucketLoad = 8
)

// bucket is a cache line. Of the entry at place k, a byte of the tags is the low one of its tag, or 1 for 0; 0 is
// nobody. Those of the first word have the places 0, 8, 16 and so on, those of the second 1, 9, 17 and 25: the
// places are what match returns. The upper half of the second word is how many entries passed.
type bucket struct {
	tags [2]uint64
	// refs are handles, with two more bits of the tag above, and above them how many buckets the entry is away from home,
	// 3 being that many or more.
	refs [bucketSize]uint32
}

const (
	handleMask = MaxSessions
	tagBits    = 3 << 28
	oneAway    = 1 << 30
	onePassed  = 1 << 32

	ones = 0x0101010101010101 // a byte eight times is its product with it
	lows = 0x7f7f7f7f7f7f7f7f
)

// bucketsFor is how many buckets hold n entries, with room to spare in at least one.
func bucketsFor(n int) int { return n/bucketLoad + 1 }

// follow is the bucket after n.
func (x index) follow(n uint32) uint32 {
	if n++; n == uint32(len(x)) {
		return 0
	}
	return n
}

// away is a ref whose entry stands in bucket n, and was to stand in bucket from.
func (x index) away(ref, from, n uint32) uint32 {
	d := int(n) - int(from)
	if d < 0 {
		d += len(x)
	}
	return ref&(oneAway-1) | min(ref/oneAway+uint32(d), 3)*oneAway
}

// home is the bucket where a search for a tag starts.
func (x index) home(tag uint32) uint32 {
	return uint32(uint64(tag) * uint64(len(x)) >> 32)
}

// low is what a bucket's tags have of a tag, refBits what its refs have.
func low(tag uint32) uint64 {
	b := tag & 0xff
	return uint64(b | (b-1)>>31)
}

func refBits(tag uint32) uint32 { return tag << 20 & tagBits }

// match is a bit for each place whose byte is b.
func (k *bucket) match(b uint64) uint64 {
	p := b * ones
	x, y := k.tags[0]^p, k.tags[1]^p
	// The high bit of a byte is what is left of it, if anything is.
	x = ^(x&lows + lows | x | lows)
	y = ^(y&lows + lows | y | lows) & (1<<32 - 1)
	return x>>7 | y>>6
}

// slot is where in refs the entry of a place is.
func slot(place int) int { return place>>3 | place&1<<3 }

func (k *bucket) passed() uint32 { return uint32(k.tags[1] >> 32) }

// set has ref and the byte b of a tag at a place, where nobody is.
func (k *bucket) set(place int, b uint64, ref uint32) {
	k.tags[place&1] |= b << (place &^ 7)
	k.refs[slot(place)] = ref
}

func (k *bucket) clear(place int) {
	k.tags[place&1] &^= 0xff << (place &^ 7)
	k.refs[slot(place)] = 0
}

// touch loads the home of a tag.
func (x index) touch(tag uint32) uint64 { return x[x.home(tag)].tags[0] }

// first returns the first entry whose tag fits, as far as that is kept, and where it stands; or None.
func (x index) first(tag uint32) (pos uint32, h Handle) { return x.next(tag, x.home(tag)*64) }

// next is first for what is not before pos, which is one above what first or next returned.
func (x index) next(tag, pos uint32) (uint32, Handle) {
	n, b := pos/64, low(tag)
	above := ^uint64(0) << (pos % 64)
	for {
		k := &x[n]
		for m := k.match(b) & above; m != 0; m &= m - 1 {
			place := bits.TrailingZeros64(m)
			if ref := k.refs[slot(place)]; (ref^refBits(tag))&tagBits == 0 {
				return n*64 + uint32(place), Handle(ref & handleMask)
			}
		}
		if k.passed() == 0 {
			return 0, None
		}
		if n = x.follow(n); n == x.home(tag) {
			return 0, None
		}
		above = ^uint64(0)
	}
}

// lookup is first for several tags at once, in stages whose cache misses overlap. It returns something made of what it
// loaded, which the caller has to keep.
func (x index) lookup(tags []uint32, hs []Handle) (touched uint64) {
	hs = hs[:len(tags)]
	for i, tag := range tags {
		n := x.home(tag)
		hs[i] = Handle(n)
		touched += x[n].tags[0]
	}
	for i, tag := range tags {
		n := uint32(hs[i])
		k := &x[n]
		m := k.match(low(tag))
		ref := k.refs[slot(bits.TrailingZeros64(m))] // any, if there is none
		switch {
		case m != 0 && (ref^refBits(tag))&tagBits == 0:
			hs[i] = Handle(ref & handleMask)
		case m == 0 && k.passed() == 0:
			hs[i] = None
		default:
			_, hs[i] = x.next(tag, n*64)
		}
	}
	return touched
}

// insert adds h; the caller knows that h is not in x and that there is room.
func (x index) insert(tag uint32, h Handle) {
	home := x.home(tag)
	for n := home; ; n = x.follow(n) {
		k := &x[n]
		if m := k.match(0); m != 0 {
			k.set(bits.TrailingZeros64(m), low(tag), x.away(uint32(h)|refBits(tag), home, n))
			return
		}
		k.tags[1] += onePassed
	}
}

// insertFirst adds h so that a search finds it before what is there with the same tag.
func (x index) insertFirst(tag uint32, h Handle) {
	x.insert(tag, h)
	// All that fits, up to h, moves up by one: each bucket is passed as often as before.
	ref, from := uint32(h)|refBits(tag), x.home(tag)
	for pos, g := x.first(tag); ; pos, g = x.next(tag, pos+1) {
		at := &x[pos/64].refs[slot(int(pos%64))]
		was := *at
		*at = x.away(ref, from, pos/64)
		if g == h {
			return
		}
		ref, from = was, pos/64
	}
}

// find returns where h is, whose tag is tag.
func (x index) find(tag uint32, h Handle) (pos uint32, ok bool) {
	pos, g := x.first(tag)
	for g != h {
		if g == None {
			return 0, false
		}
		pos, g = x.next(tag, pos+1)
	}
	return pos, true
}

// replace has g where h is, which has the same key.
func (x index) replace(tag uint32, h, g Handle) {
	if pos, ok := x.find(tag, h); ok {
		ref := &x[pos/64].refs[slot(int(pos%64))]
		*ref = *ref&^handleMask | uint32(g)
	}
}

// remove takes h out, and has one that had to go on take its place, and one take that one's.
func (x index) remove(tag uint32, h Handle) {
	pos, ok := x.find(tag, h)
	if !ok {
		return
	}
	at, place := pos/64, int(pos%64)
	x[at].clear(place)
	for n := x.home(tag); n != at; n = x.follow(n) {
		x[n].tags[1] -= onePassed
	}
	for x[at].passed() != 0 {
		next := x.follow(at)
		k := &x[next]
		from, ok := k.stray()
		if !ok {
			return
		}
		x[at].set(place, k.tags[from&1]>>(from&^7)&0xff, k.refs[slot(from)]-oneAway)
		x[at].tags[1] -= onePassed
		k.clear(from)
		at, place = next, from
	}
}

// stray is the place of an entry that is not at home, and not so far away that nobody knows how far.
func (k *bucket) stray() (place int, ok bool) {
	for s, ref := range k.refs {
		if ref/oneAway%3 != 0 {
			return s<<3&63 | s>>3, true
		}
	}
	return 0, false
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
)

// to4 is the IPv4 address as a number, from4 the way back.
func to4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func from4(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// kind is what an address is to us.
type kind uint8

const (
	remote   kind = iota // anybody else's
	martian              // nobody's: it may not be on a wire
	inside               // of Policy.Inside
	external             // of a pool: given out, or draining
	static               // the outside end of a 1:1 mapping
	unlent               // ours, and not in use
)

// owner is a kind, and for external the pool, and whether the address is draining and whether the pool is private.
type owner struct {
	kind     kind
	draining bool
	private  bool
	pool     uint16
}

// ours reports whether packets may leave with such a source.
func (o owner) ours() bool { return o.kind == external || o.kind == static }

// martians may be neither source nor destination of a packet that is forwarded (RFC 1812, section 5.3.7; RFC 6890):
// "this network", loopback, link-local (the metadata service too, B-34), multicast, reserved and broadcast.
var martians = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
}

// leaf is o as a number that is not negative, ownerOf the way back.
func (o owner) leaf() int32 {
	n := int32(o.pool)<<8 | int32(o.kind)
	if o.draining {
		n |= 1 << 4
	}
	if o.private {
		n |= 1 << 5
	}
	return n
}

func ownerOf(leaf int32) owner {
	return owner{kind: kind(leaf & 15), draining: leaf&(1<<4) != 0, private: leaf&(1<<5) != 0, pool: uint16(leaf >> 8)}
}

// owners is the longest-prefix table of kinds: a tree of nodes with an entry for each value of a byte of the address, which is
// a leaf, or of the node for the next byte the negative number. In front there is a filter: a bit for each /16 that any
// prefix touches. Most packets have a remote address, and for those one bit is all that is read.
type owners struct {
	filter [1 << 16 / 64]uint64
	nodes  [][256]int32
	ranges []ownedRange // until build
}

type ownedRange struct {
	first uint32
	bits  int
	owner owner
}

// insert adds a prefix. It counts when build has been called.
func (t *owners) insert(p netip.Prefix, o owner) {
	t.ranges = append(t.ranges, ownedRange{to4(p.Masked().Addr()), p.Bits(), o})
}

// build makes the tree: the longest prefix counts, of equal ones the last.
func (t *owners) build() {
	slices.SortStableFunc(t.ranges, func(a, b ownedRange) int { return cmp.Compare(a.bits, b.bits) })
	t.nodes = make([][256]int32, 1)
	for _, r := range t.ranges {
		for i, n := r.first>>16, max(1, 1<<16>>r.bits); n > 0; i, n = i+1, n-1 {
			t.filter[i/64] |= 1 << (i % 64)
		}
		at, depth := int32(0), 0
		for ; r.bits > 8*(depth+1); depth++ {
			at = t.below(at, r.first>>(24-8*depth)&255)
		}
		first := r.first >> (24 - 8*depth) & 255
		for i := range uint32(1) << (8*(depth+1) - r.bits) {
			t.nodes[at][first+i] = r.owner.leaf() // what is below has come in no earlier, so there is nothing
		}
	}
	t.ranges = nil
}

// below is the node under an entry, which is made if there is none.
func (t *owners) below(at int32, i uint32) int32 {
	leaf := t.nodes[at][i]
	if leaf < 0 {
		return -leaf
	}
	var all [256]int32
	for j := range all {
		all[j] = leaf
	}
	t.nodes = append(t.nodes, all)
	n := int32(len(t.nodes) - 1)
	t.nodes[at][i] = -n
	return n
}

// surelyRemote reports whether a is nobody's that the policy knows, by the filter alone.
func (t *owners) surelyRemote(a uint32) bool {
	i := a >> 16
	return t.filter[i/64]>>(i%64)&1 == 0
}

// of is what a is.
func (t *owners) of(a uint32) owner {
	if t.surelyRemote(a) {
		return owner{}
	}
	n := t.nodes[0][a>>24]
	for shift := 16; n < 0; shift -= 8 {
		n = t.nodes[-n][a>>shift&255]
	}
	return ownerOf(n)
}

// addrMap is a flat hash table from address to address, at most half full; 0.0.0.0 is neither.
type addrMap struct {
	slots []uint64
	key   uint64
	n     int
}

func newAddrMap(n int, key uint64) addrMap {
	return addrMap{slots: make([]uint64, 2*n+8), key: key}
}

func (m *addrMap) home(a uint32) uint32 {
	hi, lo := bits.Mul64(uint64(a)^m.key, 0x9e3779b97f4a7c15)
	hi, _ = bits.Mul64(hi^lo, uint64(len(m.slots)))
	return uint32(hi)
}

func (m *addrMap) insert(from, to uint32) {
	pos := m.home(from)
	for m.slots[pos] != 0 {
		if pos++; pos == uint32(len(m.slots)) {
			pos = 0
		}
	}
	m.slots[pos] = uint64(from)<<32 | uint64(to)
	m.n++
}

// touch loads the slot where a search for a starts.
func (m *addrMap) touch(a uint32) uint64 {
	if m.n == 0 {
		return 0
	}
	return m.slots[m.home(a)]
}

// get is what a maps to, or 0.
func (m *addrMap) get(a uint32) uint32 {
	if m.n == 0 {
		return 0
	}
	for pos := m.home(a); ; pos++ {
		if pos >= uint32(len(m.slots)) {
			pos = 0
		}
		s := m.slots[pos]
		if s == 0 || uint32(s>>32) == a {
			return uint32(s)
		}
	}
}

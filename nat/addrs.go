// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"
	"net/netip"

	"github.com/gaissmai/bart"
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

// owners is the longest-prefix table of kinds, with a filter in front: a bit for each /16 that any prefix touches. Most
// packets have a remote address, and for those one bit is all that is read.
type owners struct {
	filter [1 << 16 / 64]uint64
	table  bart.Table[owner]
}

func (t *owners) insert(p netip.Prefix, o owner) {
	t.table.Insert(p, o)
	first := to4(p.Masked().Addr()) >> 16
	n := uint32(1)
	if p.Bits() < 16 {
		n = 1 << (16 - p.Bits())
	}
	for i := first; i < first+n; i++ {
		t.filter[i/64] |= 1 << (i % 64)
	}
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
	o, _ := t.table.Lookup(from4(a))
	return o
}

// addrMap is a flat hash table from address to address; 0.0.0.0 is neither.
type addrMap struct {
	slots []uint64
	key   uint64
	n     int
}

func newAddrMap(n int, key uint64) addrMap {
	return addrMap{slots: make([]uint64, n+n/2+8), key: key}
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

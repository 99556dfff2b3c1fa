// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestOwners holds the tree against a search through all prefixes.
func TestOwners(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 200 {
		var o owners
		type line struct {
			p netip.Prefix
			o owner
		}
		var lines []line
		for range r.IntN(60) {
			// Near each other, so that they are inside each other.
			a := from4(10<<24 + r.Uint32()&0x00030303)
			p := netip.PrefixFrom(a, r.IntN(33)).Masked()
			w := owner{kind: kind(1 + r.IntN(int(unlent))), draining: r.IntN(2) == 0, private: r.IntN(2) == 0, pool: uint16(r.Uint32())}
			lines = append(lines, line{p, w})
			o.insert(p, w)
		}
		o.build()
		for range 500 {
			a := 10<<24 + r.Uint32()&0x00030303
			if r.IntN(4) == 0 {
				a = r.Uint32()
			}
			want, bits := owner{}, -1
			for _, l := range lines {
				if l.p.Contains(from4(a)) && l.p.Bits() >= bits {
					want, bits = l.o, l.p.Bits()
				}
			}
			if got := o.of(a); got != want || o.surelyRemote(a) && bits >= 0 {
				t.Fatalf("round %d: %v is %+v, want %+v of /%d; %v", round, from4(a), got, want, bits, lines)
			}
		}
	}
}

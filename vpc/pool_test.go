// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAggregate(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		want []string
	}{
		{"nothing", nil, nil},
		{"one", []string{"198.51.100.7"}, []string{"198.51.100.7/32"}},
		{"a pair", []string{"198.51.100.7", "198.51.100.6"}, []string{"198.51.100.6/31"}},
		{"neighbours of two pairs", []string{"198.51.100.7", "198.51.100.8"}, []string{"198.51.100.7/32", "198.51.100.8/32"}},
		{"three", []string{"198.51.100.4", "198.51.100.5", "198.51.100.6"}, []string{"198.51.100.4/31", "198.51.100.6/32"}},
		{"a hole", []string{"198.51.100.4", "198.51.100.5", "198.51.100.7", "198.51.100.8"},
			[]string{"198.51.100.4/31", "198.51.100.7/32", "198.51.100.8/32"}},
		{"both ends", []string{"0.0.0.0", "255.255.255.255"}, []string{"0.0.0.0/32", "255.255.255.255/32"}},
	} {
		var in []netip.Addr
		var want []netip.Prefix
		for _, s := range c.in {
			in = append(in, addr(s))
		}
		for _, s := range c.want {
			want = append(want, prefix(s))
		}
		sameAs(t, c.name, aggregate(in), want)
	}
}

// The prefixes cover exactly the addresses, and no two of them are halves of one.
func TestAggregateAnySet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []netip.Addr
		for _, n := range rapid.SliceOfNDistinct(rapid.Uint32Range(0, 63), 0, 64, rapid.ID).Draw(t, "hosts") {
			in = append(in, netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0xc6336400+n))))
		}
		out := aggregate(in)
		var covered []netip.Addr
		for i, p := range out {
			for ip := p.Addr(); p.Contains(ip); ip = ip.Next() {
				covered = append(covered, ip)
			}
			parent := netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
			if i > 0 && out[i-1].Bits() == p.Bits() && parent.Contains(out[i-1].Addr()) {
				t.Fatalf("%v and %v are one prefix", out[i-1], p)
			}
		}
		if !slices.Equal(covered, in) { // aggregate has sorted in
			t.Fatalf("%v covers %v, not %v", out, covered, in)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TestExpect: what a batch has asked for is what its new flows get: it saves nothing otherwise. Of the packets of a batch the
// last two are no new flows.
func TestExpect(t *testing.T) {
	type change func(*Profile)
	for name, changes := range map[string][]change{
		"endpoint-independent":       nil,
		"address-and-port-dependent": {func(f *Profile) { f.Mapping[ClassUDP] = AddressAndPortDependent }},
		"any address":                {func(f *Profile) { f.Pooling = Arbitrary }},
		"any address, each session": {func(f *Profile) {
			f.Pooling, f.Mapping[ClassUDP] = Arbitrary, AddressAndPortDependent
		}},
		"parity":      {func(f *Profile) { f.PreserveParity = true }},
		"ports":       {func(f *Profile) { f.PreservePort = true }},
		"few ports":   {func(f *Profile) { f.PortMin, f.PortMax = 2000, 3000 }},
		"few, parity": {func(f *Profile) { f.PortMin, f.PortMax, f.PreserveParity = 2000, 3000, true }},
	} {
		t.Run(name, func(t *testing.T) {
			profile := GatewayProfile()
			for _, c := range changes {
				c(&profile)
			}
			if profile.Mapping[ClassUDP] == AddressAndPortDependent {
				profile.Filtering[ClassUDP] = FilterAddressAndPortDependent
			}
			all := netip.MustParsePrefix("10.0.0.0/8")
			p := &Policy{
				Inside: []netip.Prefix{all}, Routes: []Route{{Source: all, Pool: "pool"}},
				Pools: []Pool{{
					Name: "pool", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}, Profile: profile,
				}},
			}
			e, err := New(Config{Sessions: 4096, Seed: 7}, p)
			if err != nil {
				t.Fatal(err)
			}
			w := e.Worker()
			made, hits := 0, 0
			for b := range 24 {
				var ps []packet.Packet
				for i := range maxBatch {
					n := b*(maxBatch-2) + i
					if i >= maxBatch-2 {
						n = 0 // the first of all
					}
					src := netip.AddrFrom4([4]byte{10, 0, byte(n >> 3 >> 8), byte(n >> 3)})
					ps = append(ps, packet.From(craft.UDP(craft.IP{Src: src, Dst: netip.MustParseAddr("203.0.113.9")}, uint16(5000+n&7), 53, nil)))
				}
				vs := make([]Verdict, len(ps))
				w.Batch(ps, FromInside, 0, vs)
				for i, v := range vs {
					if v != Outbound {
						t.Fatalf("batch %d, packet %d: %v", b, i, v)
					}
				}
				for i := range maxBatch - 2 {
					f, out := &w.flows[i], ps[i].Bytes()
					made++
					if int(f.item) == i && f.ext == be.Uint32(out[12:]) && slices.Contains(f.ports[:], be.Uint16(out[20:])) {
						hits++
					}
				}
			}
			t.Logf("%d of %d", hits, made)
			if hits < made*4/5 {
				t.Errorf("%d of %d flows got what was asked for", hits, made)
			}
		})
	}
}

// TestNumbers: what is seen ahead is what is taken then.
func TestNumbers(t *testing.T) {
	a, b := newNumbers([32]byte{1}), newNumbers([32]byte{1})
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[uint64]bool{}
	for range 1000 {
		n := r.IntN(maxBatch + 1)
		var ahead []uint64
		for k := range n {
			ahead = append(ahead, a.ahead(uint32(k)))
		}
		for k, want := range ahead {
			got := a.take()
			if got != want || b.take() != want || seen[got] {
				t.Fatalf("word %d of %d: %#x, seen as %#x, %v", k, n, got, want, seen[got])
			}
			seen[got] = true
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// hairpins is H-1: B reaches A by A's external endpoint, and both see external addresses alone.
func hairpins(g *gate) {
	for _, proto := range []uint8{packet.UDP, packet.TCP} {
		extA := g.opens(proto, at(A, 5000), at(R1, 53))
		extB := g.opens(proto, at(B, 6000), at(R1, 53))
		r := g.want(g.out(of(proto, at(B, 6000), extA)), nat.Hairpin)
		if srcOf(r.b) != extB || dstOf(r.b) != at(A, 5000) {
			g.Errorf("A hears %s", craft.Describe(r.b))
		}
		if r.b[8] != 63 {
			g.Errorf("TTL %d", r.b[8])
		}
		r = g.want(g.out(answer(proto, at(A, 5000), extB)), nat.Hairpin)
		if srcOf(r.b) != extA || dstOf(r.b) != at(B, 6000) {
			g.Errorf("B hears %s", craft.Describe(r.b))
		}
	}
}

func TestH1_Hairpin(t *testing.T) {
	for _, change := range []func(*nat.Policy){func(*nat.Policy) {}, twoAddresses} {
		trial{policy: policy(nat.RFCProfile(), change)}.run(t, func(g *gate) {
			hairpins(g)
			if n := g.stats().Verdicts[nat.Outbound]; n != 4 { // those of the mappings
				g.Errorf("%d packets went outside", n)
			}
		})
	}
	// Between 1:1 mappings, and between one and a pool: here nothing is filtered and nothing changes but addresses.
	trial{policy: policy(nat.RFCProfile(), static(A, E1), static(B, E2))}.run(t, func(g *gate) {
		extC := g.opens(packet.UDP, at(C, 7000), at(R1, 53))
		for _, c := range []struct{ src, dst, seen, arrives end }{
			{at(A, 1), at(E2, 2), at(E1, 1), at(B, 2)},
			{at(C, 7000), at(E1, 2), extC, at(A, 2)},
			{at(A, 2), extC, at(E1, 2), at(C, 7000)},
		} {
			r := g.want(g.out(udp(c.src, c.dst, "")), nat.Hairpin)
			if srcOf(r.b) != c.seen || dstOf(r.b) != c.arrives {
				g.Errorf("%v to %v arrives as %s", c.src, c.dst, craft.Describe(r.b))
			}
		}
		r := g.want(g.out(ping(at(A, 9), E2)), nat.Hairpin)
		if src, dst := addrs(r.b); src != E1 || dst != B {
			g.Errorf("ping arrives as %s", craft.Describe(r.b))
		}
	})
}

func TestH2_HairpinIsFiltered(t *testing.T) {
	for _, how := range []nat.Filtering{nat.FilterAddressDependent, nat.FilterAddressAndPortDependent} {
		trial{policy: policy(custom(filtering(how)))}.run(t, func(g *gate) {
			for _, proto := range []uint8{packet.UDP, packet.TCP} {
				extA := g.opens(proto, at(A, 5000), at(R1, 53))
				extB := g.opens(proto, at(B, 6000), at(R1, 53))
				g.want(g.out(of(proto, at(B, 6000), extA)), nat.DropFiltered)
				// Asked for by A, it passes.
				g.want(g.out(of(proto, at(A, 5000), extB)), nat.Hairpin)
				g.want(g.out(of(proto, at(B, 6000), extA)), nat.Hairpin)
			}
			if n := g.stats().HeldSYNs; n != 0 {
				g.Errorf("%d SYNs are held", n)
			}
		})
	}
	trial{policy: policy(nat.RFCProfile(), func(p *nat.Policy) { p.HairpinOff = true })}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
		g.drops(nat.DropHairpin, 0, udp(at(B, 6000), ext, ""))
	})
}

func TestH3_HairpinnedErrors(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for _, proto := range []uint8{packet.UDP, packet.TCP} {
			extA := g.opens(proto, at(A, 5000), at(R1, 53))
			sent := of(proto, at(B, 6000), extA)
			got := g.want(g.out(bytes.Clone(sent)), nat.Hairpin).b
			for _, e := range icmpErrors {
				r := g.want(g.out(icmp(A, srcOf(got).Addr(), e.typ, e.code, 0, got)), nat.ErrorInbound)
				if src, dst := addrs(r.b); src != PA || dst != B || l4(r.b)[0] != e.typ || l4(r.b)[1] != e.code {
					g.Errorf("B hears %s", craft.Describe(r.b))
				}
				if want := received(sent, 63); !bytes.Equal(craft.Quote(r.b), want) {
					g.Errorf("quoted\n% x, want\n% x", craft.Quote(r.b), want)
				}
				if err := craft.Verify(r.b); err != nil {
					g.Error(err)
				}
				if r.b[8] != 63 {
					g.Errorf("TTL %d", r.b[8])
				}
			}
		}
	})
}

// selfAddressed is H-4.
func selfAddressed(g *gate) {
	for _, proto := range []uint8{packet.UDP, packet.TCP} {
		ext := g.opens(proto, at(A, 5000), at(R1, 53))
		r := g.want(g.out(of(proto, at(A, 6000), ext)), nat.Hairpin)
		if src := srcOf(r.b); src.Addr() != PA || src == ext || dstOf(r.b) != at(A, 5000) {
			g.Errorf("A hears %s", craft.Describe(r.b))
		}
		g.want(g.out(of(proto, at(A, 5000), ext)), nat.DropLand)
	}
}

func TestH4_SelfAddressed(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, selfAddressed)
	trial{policy: policy(nat.RFCProfile(), static(A, E1))}.run(t, func(g *gate) {
		g.want(g.out(udp(at(A, 5000), at(E1, 5000), "")), nat.DropLand)
		g.want(g.out(udp(at(A, 5000), at(E1, 5001), "")), nat.Hairpin)
		g.want(g.out(ping(at(A, 5000), E1)), nat.DropLand)
	})
}

func TestC5_Quarantine(t *testing.T) {
	// A port that is free again waits while there are others.
	trial{policy: policy(custom(ports(2000, 2099))), oneShard: true}.run(t, func(g *gate) {
		freed := g.opens(packet.UDP, at(A, 1024), at(R1, 53))
		g.at(sec(300)) // it ends
		taken := map[end]bool{}
		for i := range 99 {
			ext := g.opens(packet.UDP, at(B, uint16(2000+i)), at(R1, 53))
			if taken[ext] = true; ext == freed {
				g.Fatalf("flow %d was given the port in quarantine", i)
			}
		}
		if s := g.stats(); s.Quarantined != 1 || s.Unburied != 0 {
			g.Errorf("%+v", s)
		}
		g.drops(nat.DropNoMapping, 1, udp(at(R1, 53), freed, "late"))
		g.at(sec(300 + 119.9))
		if n := g.stats().Quarantined; n != 1 {
			g.Error("its time was over too early")
		}
		g.at(sec(300 + 120))
		if got := g.opens(packet.UDP, at(C, 5000), at(R1, 53)); got != freed {
			g.Errorf("%v, want the only free one, %v", got, freed)
		}
		if s := g.stats(); s.Quarantined != 0 || s.Unburied != 0 {
			g.Errorf("%+v", s)
		}
	})
	// All 64,512 ports: with no other left the oldest goes first, counted.
	trial{policy: policy(nat.RFCProfile()), config: nat.Config{Sessions: 1 << 17}, oneShard: true}.run(t, func(g *gate) {
		const all = 65536 - 1024
		var buried []end
		open := func(from, to int, h netip.Addr) {
			for i := from; i < to; i += 200 {
				var bs [][]byte
				for j := i; j < min(i+200, to); j++ {
					bs = append(bs, udp(at(h, uint16(1024+j)), at(R1, 53), ""))
				}
				for _, r := range g.outAll(bs) {
					ext := srcOf(g.want(r, nat.Outbound).b)
					if h == A {
						buried = append(buried, ext)
					}
				}
			}
		}
		open(0, 1, A)
		g.at(sec(1))
		open(1, 2, A)
		g.at(sec(2))
		open(2, 3, A)
		g.at(sec(290))
		open(0, all-3, B)
		g.at(sec(310)) // A's three have ended, at 300, 301 and 302
		for i, want := range buried {
			if got := g.opens(packet.UDP, at(C, uint16(5000+i)), at(R1, 53)); got != want {
				g.Errorf("flow %d has %v, want the one that waits for longest, %v", i, got, want)
			}
			if n := g.stats().Unburied; n != uint64(i+1) {
				g.Errorf("%d counted, want %d", n, i+1)
			}
		}
		g.want(g.out(udp(at(C, 6000), at(R1, 53), "")), nat.DropNoPort)
	})
	// Those of another protocol, though they wait for longer, are no use.
	trial{policy: policy(custom(ports(2000, 2003))), oneShard: true}.run(t, func(g *gate) {
		var mine []end
		for i := range 4 {
			in := at(A, uint16(5000+i))
			g.opens(packet.TCP, in, at(R1, 80)) // ends after 240 s
			mine = append(mine, g.opens(packet.UDP, in, at(R1, 80)))
			g.at(g.now + time.Second)
		}
		g.at(sec(310))
		if n := g.stats().Quarantined; n != 8 {
			g.Errorf("%d ports wait", n)
		}
		if got := g.opens(packet.UDP, at(B, 5000), at(R1, 80)); got != mine[0] {
			g.Errorf("%v, want %v", got, mine[0])
		}
		if s := g.stats(); s.Quarantined != 7 || s.Unburied != 1 {
			g.Errorf("%+v", s)
		}
	})
	// How many may wait is configurable: one more and the oldest is free, counted.
	for _, shards := range []int{1, 4} {
		const most = 8
		g := newGate(t, nat.Config{QuarantinedPorts: most, Shards: shards}, policy(nat.RFCProfile()))
		for i := range 50 {
			g.opens(packet.UDP, at(A, uint16(5000+i)), at(R1, 53))
		}
		g.at(sec(300))
		g.tick()
		if s := g.stats(); s.Quarantined > most || s.Quarantined < most/shards || int(s.Unburied)+s.Quarantined != 50 {
			g.Errorf("%d wait, %d do no longer", s.Quarantined, s.Unburied)
		}
		g.finish()
	}
	trial{policy: policy(custom(ports(2000, 2009))), config: nat.Config{QuarantinedPorts: 3}, oneShard: true}.run(t, func(g *gate) {
		var ended []end
		for i := range 5 {
			ended = append(ended, g.opens(packet.UDP, at(A, uint16(5000+i)), at(R1, 53)))
			g.at(g.now + time.Second)
		}
		g.at(sec(310))
		taken := map[end]bool{}
		for i := range 7 { // the five that were never used, and the two that waited for longest
			taken[g.opens(packet.UDP, at(B, uint16(5000+i)), at(R1, 53))] = true
		}
		if !taken[ended[0]] || !taken[ended[1]] || taken[ended[2]] || g.stats().Unburied != 2 {
			g.Errorf("%v are given out again, of %v; %d counted", taken, ended, g.stats().Unburied)
		}
	})
	// It is configurable, and not needed where a filter stands in front (RFC 6888 REQ-8).
	for _, f := range []nat.Profile{
		custom(ports(2000, 2000), func(f *nat.Profile) { f.Quarantine = 0 }),
		custom(ports(2000, 2000), filtering(nat.FilterAddressDependent)),
		custom(ports(2000, 2000), filtering(nat.FilterAddressAndPortDependent)),
	} {
		trial{policy: policy(f), oneShard: true}.run(t, func(g *gate) {
			g.opens(packet.UDP, at(A, 5000), at(R1, 53))
			g.at(300 * time.Second)
			g.opens(packet.UDP, at(B, 5000), at(R1, 53))
			if n := g.stats().Unburied; n != 0 {
				g.Errorf("%d counted", n)
			}
		})
	}
}

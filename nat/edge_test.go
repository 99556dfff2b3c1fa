// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TestErrorsTooBig: an ICMP error that does not fit is dropped, and nobody is told (I-16).
func TestErrorsTooBig(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(B, E1), mtu(600, 600))}.run(t, func(g *gate) {
		long := random(600)
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		about := func(src, dst end) []byte { return udp(src, dst, string(long)) }
		g.drops(nat.DropTooBig, 1, icmp(X, PA, packet.Unreachable, 3, 0, about(ext, at(R1, 80))))
		g.drops(nat.DropTooBig, 0, icmp(A, R1, packet.Unreachable, 3, 0, about(at(R1, 80), at(A, 5000))))
		g.drops(nat.DropTooBig, 1, icmp(X, E1, packet.Unreachable, 3, 0, about(at(E1, 5000), at(R1, 80))))
		g.drops(nat.DropTooBig, 0, icmp(B, R1, packet.Unreachable, 3, 0, about(at(R1, 80), at(B, 5000))))
	})
}

// TestCutOptions: options that are copied into later pieces are padded; pieces may be longer than the usual MTU.
func TestCutOptions(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), mtu(0, 4000))}.run(t, func(g *gate) {
		options := []byte{1, 0x88, 3, 9, 7, 3, 4, 0}
		b := craft.UDP(craft.IP{Src: A, Dst: R1, Options: options}, 5000, 80, random(9000))
		r := g.want(g.out(b), nat.Fragmented)
		if len(r.emitted) != 3 || len(r.emitted[0].b) <= 3900 {
			g.Fatalf("%d pieces", len(r.emitted))
		}
		for _, e := range r.emitted[1:] {
			if want := []byte{0x88, 3, 9, 0}; e.b[0] != 0x46 || !bytes.Equal(e.b[20:24], want) {
				g.Errorf("options % x, want % x", e.b[20:24], want)
			}
		}
		g.reassembled(r.emitted, nat.Outside)
	})
}

// TestOtherProtocols: through a 1:1 mapping every protocol passes, and the checksum of those that have a pseudo-header
// follows, in quotes too (IGW-2, P-5).
func TestOtherProtocols(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(C, E1))}.run(t, func(g *gate) {
		for _, c := range []struct {
			proto uint8
			sum   int
		}{{packet.DCCP, 6}, {packet.UDPLite, 6}, {47, 0}, {50, 0}, {51, 0}, {132, 0}, {253, 0}} {
			for _, n := range []int{4, 8, 40} {
				body := random(n)
				sent := craft.IPv4(head(C, R1), c.proto, body)
				if c.sum > 0 && n > 7 { // what it should be for these addresses
					be.PutUint16(l4(sent)[c.sum:], 0)
					be.PutUint16(l4(sent)[c.sum:], pseudoSum(sent))
				}
				r := g.want(g.out(bytes.Clone(sent)), nat.StaticOutbound)
				want := bytes.Clone(sent)
				copy(want[12:], E1.AsSlice())
				if c.sum > 0 && n > 7 {
					be.PutUint16(l4(want)[c.sum:], 0)
					be.PutUint16(l4(want)[c.sum:], pseudoSum(want))
				}
				if craft.SetTTL(want, 63); !bytes.Equal(r.b, want) {
					g.Errorf("protocol %d, %d bytes: % x, want % x", c.proto, n, r.b, want)
				}
				quoted := g.want(g.in(icmp(X, E1, packet.TimeExceeded, 0, 0, r.b)), nat.ErrorInbound).b
				if want := received(sent, 63); !bytes.Equal(craft.Quote(quoted), want) {
					g.Errorf("protocol %d, %d bytes: quoted % x, want % x", c.proto, n, craft.Quote(quoted), want)
				}
			}
		}
	})
}

// pseudoSum is the checksum of b's transport part with its pseudo-header, the field in it 0.
func pseudoSum(b []byte) uint16 {
	t := l4(b)
	c := craft.Checksum(b[12:20], []byte{0, b[9], byte(len(t) >> 8), byte(len(t))}, t)
	if c == 0 {
		return 0xffff
	}
	return c
}

// TestOneWayOnly: two ends talk through one external endpoint at a time, and a pool whose addresses all drain has none.
func TestOneWayOnly(t *testing.T) {
	p := policy(nat.RFCProfile(), forwardTo)
	p.Forwards = append(p.Forwards, nat.Forward{Protocol: packet.TCP, Outside: at(PA, 8081), Inside: at(A, 80)})
	trial{policy: p}.run(t, func(g *gate) {
		g.reaches(at(A, 80), tcp(at(R1, 999), at(PA, 8080), syn, 1, 0, ""))
		g.drops(nat.DropNoPort, 1, tcp(at(R1, 999), at(PA, 8081), syn, 1, 0, ""))
		g.reaches(at(A, 80), tcp(at(R1, 998), at(PA, 8081), syn, 1, 0, ""))
	})
	drained := policy(nat.AWSProfile(), func(p *nat.Policy) {
		p.Pools[0].Addresses, p.Pools[0].Draining = nil, []netip.Addr{PA}
	})
	trial{policy: drained}.run(t, func(g *gate) {
		g.drops(nat.DropNoPort, 0, udp(at(A, 5000), at(R1, 80), ""))
	})
}

// TestPreservedInACrowd: where a destination is so crowded that its free ports are kept account of, a port that is preserved
// is taken off it, and ports of another class are none of it.
func TestPreservedInACrowd(t *testing.T) {
	f := custom(overlapping, ports(1000, 2019), func(f *nat.Profile) { f.PreservePort = true })
	f.PortMin = 2000 // what is below 1024 is another class
	trial{policy: policy(f), oneShard: true}.run(t, func(g *gate) {
		rem := at(R1, 80)
		g.opens(packet.UDP, at(A, 68), rem)
		var held []uint16 // by inside port
		for i := range uint16(20) {
			held = append(held, g.opens(packet.UDP, at(A, 5000+i), rem).Port())
		}
		g.want(g.out(udp(at(B, 1), rem, "")), nat.Outbound) // of the other class
		g.want(g.out(udp(at(B, 5000), rem, "")), nat.DropNoPort)
		const freed = 2007
		g.at(sec(200))
		for i, port := range held {
			if port != freed {
				g.opens(packet.UDP, at(A, uint16(5000+i)), rem)
			}
		}
		g.at(sec(300))
		if got := g.opens(packet.UDP, at(B, freed), rem); got.Port() != freed {
			g.Errorf("B has %v", got)
		}
		g.want(g.out(udp(at(C, 5000), rem, "")), nat.DropNoPort)
	})
}

// TestLongQuarantine: of the ports that wait a refused flow looks at so many, the first ones, and no more (B-30).
func TestLongQuarantine(t *testing.T) {
	for waiting, want := range map[int]nat.Verdict{4000: nat.Outbound, 4200: nat.DropNoPort} {
		p := policy(custom(), func(p *nat.Policy) {
			p.Pools = append(p.Pools, nat.Pool{Name: "small", Addresses: []netip.Addr{PB}, Profile: custom(ports(2000, 2000))})
			p.Routes = append(p.Routes, nat.Route{Source: netip.PrefixFrom(B, 32), Pool: "small"})
		})
		trial{policy: p, config: nat.Config{Sessions: 8192}, oneShard: true}.run(t, func(g *gate) {
			for i := range waiting {
				g.opens(packet.UDP, at(A, uint16(2000+i)), at(R1, 80))
			}
			g.at(sec(1))
			g.opens(packet.UDP, at(B, 5000), at(R1, 80))
			g.at(sec(300.5))
			for g.stats().Quarantined < waiting { // those that have ended are buried, some at a time
			}
			g.at(sec(302))
			g.want(g.out(udp(at(B, 5001), at(R1, 80), "")), want)
		})
	}
}

// TestApplyChecksSourcesAgain: a session that goes on does not excuse its packets from the sources that an attachment has
// now, neither singly nor in a batch.
func TestApplyChecksSourcesAgain(t *testing.T) {
	p := policy(nat.Profile{})
	e, err := nat.New(nat.Config{Sessions: 8}, &p)
	if err != nil {
		t.Fatal(err)
	}
	w := e.Worker()
	ps, vs := make([]packet.Packet, 1), make([]nat.Verdict, 1)
	for _, want := range []nat.Verdict{nat.Outbound, nat.DropSpoof} {
		for range 2 {
			ps[0] = packet.From(udp(at(A, 5000), at(R1, 80), "x"))
			if w.Batch(ps, 0, 0, vs); vs[0] != want {
				t.Errorf("%v, want %v", vs[0], want)
			}
		}
		q := policy(nat.Profile{})
		q.Attachments[0].Sources = []netip.Prefix{netip.PrefixFrom(B, 32)}
		if _, err := e.Apply(&q, 0); err != nil {
			t.Fatal(err)
		}
	}
}

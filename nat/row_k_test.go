// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

func TestK1_IncrementalUpdate(t *testing.T) {
	if got := packet.Delta16(0x5555, 0x3285).Apply(0xdd2f); got != 0 {
		t.Errorf("RFC 1624 example: %#04x, want 0", got)
	}
	r := rand.New(rand.NewPCG(1, 1))
	manyWords(t, r, 1, 100_000)
}

// manyWords changes n words of random messages at once and compares with a full recomputation.
func manyWords(t *testing.T, r *rand.Rand, n, times int) {
	t.Helper()
	b := make([]byte, 2*n+8)
	for range times {
		for i := range b {
			if b[i] = byte(r.Uint32()); r.IntN(4) == 0 {
				b[i] = byte(-r.IntN(2)) // 0 and 0xff are where it goes wrong
			}
		}
		sum := craft.Checksum(b)
		delta := packet.NoDelta
		for i := range n {
			to := uint16(r.Uint32())
			delta = delta.Plus(packet.Delta16(be.Uint16(b[2*i:]), to))
			be.PutUint16(b[2*i:], to)
		}
		if got, want := delta.Apply(sum), craft.Checksum(b); got != want && !allZero(b) {
			t.Fatalf("% x: %#04x, want %#04x", b, got, want)
		}
	}
}

// allZero is the message whose checksum is 0xffff and not 0: no packet is.
func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// randomPackets calls f with batches of packets of some hundred flows of A and B, with valid checksums.
func randomPackets(n int, f func([]packet.Packet)) {
	r := rand.New(rand.NewPCG(2, 2))
	templates := make([][]byte, 300)
	for i := range templates {
		payload := random(i % 61)
		src, dst := at([]netip.Addr{A, B}[i%2], uint16(2000+i)), at(far(i), 80)
		switch i % 3 {
		case 0:
			templates[i] = tcp(src, dst, syn, r.Uint32(), 0, string(payload))
		case 1:
			templates[i] = udp(src, dst, string(payload))
		default:
			templates[i] = craft.Query(head(src.Addr(), dst.Addr()), packet.Echo, 0, src.Port(), 1, payload)
		}
	}
	ps := make([]packet.Packet, 64)
	for range n / len(ps) {
		for i := range ps {
			b := templates[r.IntN(len(templates))]
			if t := l4(b); len(t) > 20 {
				for j := 20; j < len(t); j++ {
					t[j] = byte(r.Uint32()) | byte(-r.IntN(2))
				}
			}
			b[1] = byte(r.Uint32())
			be.PutUint16(b[4:], uint16(r.Uint32()))
			be.PutUint16(b[6:], uint16(r.IntN(2))<<14)
			if b[9] == packet.TCP {
				be.PutUint32(l4(b)[4:], r.Uint32())
				be.PutUint16(l4(b)[14:], uint16(r.Uint32()))
			}
			craft.Fix(b)
			ps[i] = packet.From(b)
		}
		f(ps)
	}
}

func TestK2_IncrementalIsFull(t *testing.T) {
	p := policy(nat.RFCProfile(), static(B, E1))
	for _, batch := range []bool{false, true} {
		g := newGate(t, nat.Config{}, p)
		vs, was := make([]nat.Verdict, 64), make([]packet.Packet, 64)
		randomPackets(500_000, func(ps []packet.Packet) {
			for i := range ps {
				was[i] = ps[i].Clone()
			}
			if batch {
				g.w.Batch(ps, 0, 0, vs)
			} else {
				for i := range ps {
					vs[i] = g.w.Translate(&ps[i], 0, 0)
				}
			}
			for i := range ps {
				if v := vs[i]; v != nat.Outbound && v != nat.StaticOutbound {
					t.Fatalf("%v", v)
				}
				if err := g.laws.Packet(0, was[i], ps[i], vs[i], nil); err != nil { // what came was right
					t.Fatal(err)
				}
			}
		})
	}
	// What arrives wrong leaves as wrong; the gate compares by how much.
	trial{policy: p}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			for _, h := range []netip.Addr{A, B} {
				for _, d := range []uint32{0x0101, 1, 0xfffe, 0x8000} {
					b := of(proto, at(h, 5000), at(R1, 80))
					field := l4(b)[checksumAt[proto]:]
					x := uint32(be.Uint16(field)) + d
					be.PutUint16(field, uint16(x+x>>16))
					r := g.out(bytes.Clone(b))
					if !r.Forward() {
						g.Fatalf("%v", r.Verdict)
					}
					if got := craft.Skews(r.b)[1]; uint32(got) != d {
						g.Errorf("off by %#x became off by %#x", d, got)
					}
				}
			}
		}
	})
}

func TestK3_TTL(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(C, E1))}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		for name, r := range map[string]result{
			"out":       g.out(udp(at(A, 5000), at(R1, 80), "")),
			"in":        g.in(udp(at(R1, 80), ext, "")),
			"hairpin":   g.out(udp(at(B, 5000), ext, "")),
			"1:1 out":   g.out(udp(at(C, 5000), at(R1, 80), "")),
			"1:1 in":    g.in(udp(at(R1, 80), at(E1, 5000), "")),
			"untouched": g.out(udp(at(A, 5000), at(B, 80), "")),
			"error out": g.out(icmp(A, R1, 3, 3, 0, udp(at(R1, 80), at(A, 5000), ""))),
			"error in":  g.in(icmp(X, PA, 3, 3, 0, udp(ext, at(R1, 80), ""))),
		} {
			if !r.Forward() || r.b[8] != 63 {
				g.Errorf("%s: %v, TTL %d", name, r.Verdict, r.b[8])
			} else if err := craft.Verify(r.b); err != nil {
				g.Errorf("%s: %v", name, err)
			}
		}
	})
	// Where the kernel is the router, it has taken the step.
	p := policy(nat.RFCProfile(), func(p *nat.Policy) { p.Attachments = nil })
	trial{policy: p}.run(t, func(g *gate) {
		if r := g.want(g.out(craft.SetTTL(udp(at(A, 5000), at(R1, 80), ""), 1)), nat.Outbound); r.b[8] != 1 {
			g.Errorf("TTL %d", r.b[8])
		}
	})
}

// headersStay is K-4: with any DSCP and ECN bits, only what a NAT must change is changed.
func headersStay(g *gate) {
	options := []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7} // timestamps too (B-50)
	for tos := range 256 {
		s := craft.Segment{Src: 5000, Dst: 80, Seq: 0xdeadbeef, Flags: syn, Window: 4321, Options: options}
		for _, df := range []bool{true, false} {
			ip := craft.IP{Src: A, Dst: R1, TOS: uint8(tos), ID: 0x1234, DF: df, Options: []byte{0x94, 4, 0, 0}}
			b := craft.TCP(ip, s, []byte("payload"))
			be.PutUint16(l4(b)[18:], 99) // urgent pointer without flag
			l4(b)[13] |= 0xc0            // ECE and CWR
			craft.Fix(b)
			got := g.want(g.out(bytes.Clone(b)), nat.Outbound).b
			ext := srcOf(got)
			if !df { // RFC 6864: the identification is ours
				copy(b[4:6], got[4:6])
			}
			equalBut(g.T, b, got, 12)
			ip.Src, ip.Dst = R1, PA
			back := craft.TCP(ip, craft.Segment{Src: 80, Dst: ext.Port(), Seq: 7, Ack: 8, Flags: syn | ack, Options: options}, []byte("x"))
			equalBut(g.T, back, g.reaches(at(A, 5000), bytes.Clone(back)).b, 16)
		}
	}
}

func TestK4_TheRestStays(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, headersStay)
}

// ipOptions is K-5.
func ipOptions(g *gate) {
	for _, proto := range allProtocols {
		for ihl := 6; ihl <= 15; ihl++ {
			b := withOptions(of(proto, at(A, 5000), at(R1, 80)), ihl)
			r := g.want(g.out(bytes.Clone(b)), nat.Outbound)
			equalBut(g.T, b, r.b, 12)
			if ext := srcOf(r.b); ext != g.session(proto, at(A, 5000), at(R1, 80)).External {
				g.Errorf("IHL %d: leaves from %v", ihl, ext)
			}
			back := withOptions(answer(proto, at(R1, 80), srcOf(r.b)), ihl)
			equalBut(g.T, back, g.reaches(at(A, 5000), bytes.Clone(back)).b, 16)
		}
	}
	with := func(o ...byte) []byte {
		ip := head(A, R1)
		ip.Options = o
		return craft.UDP(ip, 5000, 80, []byte("data"))
	}
	for _, route := range []byte{0x83, 0x89} { // loose and strict source route
		g.drops(nat.DropSourceRoute, 0, with(route, 7, 4, 203, 0, 113, 10))
		g.drops(nat.DropSourceRoute, 0, with(1, 1, 1, route, 3, 4))
		b := with(route, 7, 4, 203, 0, 113, 10)
		copy(b[12:], R1.AsSlice())
		copy(b[16:], PA.AsSlice())
		craft.Fix(b)
		g.drops(nat.DropSourceRoute, 1, b)
	}
	g.want(g.out(with(0, 0x83, 7, 4, 203, 0, 113)), nat.Outbound) // behind the end of the list it is none
	g.want(g.out(with(0x94, 4, 0, 0)), nat.Outbound)              // router alert
	g.drops(nat.DropMalformed, 0, with(7, 1, 0, 0))
	g.drops(nat.DropMalformed, 0, with(7, 9, 0, 0))
}

func TestK5_Options(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, ipOptions)
}

func TestK6_Malformed(t *testing.T) {
	good := func(from int) []byte {
		if from == 1 {
			return udp(at(R1, 80), at(PA, 5000), "data")
		}
		return udp(at(A, 5000), at(R1, 80), "data")
	}
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for from := range 2 {
			for _, c := range []struct {
				name  string
				spoil func([]byte) []byte
				want  nat.Verdict
			}{
				{"version 6", func(b []byte) []byte { b[0] = 0x65; return craft.SetTTL(b, 9) }, nat.DropNotIPv4},
				{"version 0", func(b []byte) []byte { b[0] = 0x05; return craft.SetTTL(b, 9) }, nat.DropNotIPv4},
				{"IHL 4", func(b []byte) []byte { b[0] = 0x44; return b }, nat.DropHeaderLength},
				{"IHL 0", func(b []byte) []byte { b[0] = 0x40; return b }, nat.DropHeaderLength},
				{"IHL 15 of 32 bytes", func(b []byte) []byte { b[0] = 0x4f; return b[:32] }, nat.DropTotalLength},
				{"total below header", func(b []byte) []byte { be.PutUint16(b[2:], 19); return craft.SetTTL(b, 9) }, nat.DropTotalLength},
				{"total 0", func(b []byte) []byte { be.PutUint16(b[2:], 0); return craft.SetTTL(b, 9) }, nat.DropTotalLength},
				{"total beyond buffer", func(b []byte) []byte { be.PutUint16(b[2:], 33); return craft.SetTTL(b, 9) }, nat.DropTruncated},
				{"checksum", func(b []byte) []byte { b[10] ^= 1; return b }, nat.DropHeaderChecksum},
				{"checksum with options", func(b []byte) []byte { b = withOptions(b, 7); b[11]++; return b }, nat.DropHeaderChecksum},
				{"nothing", func([]byte) []byte { return nil }, nat.DropMalformed},
				{"19 bytes", func(b []byte) []byte { return b[:19] }, nat.DropMalformed},
				{"no transport", func(b []byte) []byte { be.PutUint16(b[2:], 20); return craft.SetTTL(b[:20], 9) }, nat.DropMalformed},
			} {
				before := g.state()
				r := g.send(nat.AttachmentID(from), packet.From(c.spoil(good(from))))[0]
				if r.Verdict != c.want || len(r.emitted) > 0 || g.state() != before {
					g.Errorf("%s from side %d: %v, want %v without a trace", c.name, from, r.Verdict, c.want)
				}
			}
		}
		b := good(0)
		if r := g.want(g.out(append(bytes.Clone(b), "behind the packet"...)), nat.Outbound); len(r.b) != len(b) {
			g.Errorf("%d bytes leave, want %d", len(r.b), len(b))
		}
	})
}

// martians is K-7: sources and destinations that may not be.
func martians(g *gate) {
	ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.1.1", "169.254.169.254", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
	} {
		bad := ip4(a)
		g.drops(nat.DropMartian, 0, udp(at(bad, 5000), at(R1, 80), ""))
		g.drops(nat.DropMartian, 0, udp(at(A, 5000), at(bad, 80), ""))
		g.drops(nat.DropMartian, 0, udp(at(C, 5000), at(bad, 80), "")) // 1:1
		g.drops(nat.DropMartian, 1, udp(at(bad, 80), ext, ""))
		g.drops(nat.DropMartian, 1, udp(at(bad, 80), at(E1, 80), ""))
		g.drops(nat.DropMartian, 1, udp(at(R1, 80), at(bad, 80), ""))
	}
	// Ours, from outside: of the pool, draining, 1:1, not in use; and inside addresses.
	for _, ours := range []netip.Addr{PA, PB, E1, E2, A, B, G} {
		g.drops(nat.DropMartian, 1, udp(at(ours, 80), ext, ""))
		g.drops(nat.DropMartian, 1, udp(at(ours, 80), at(E1, 80), ""))
	}
	// From inside: what does not belong to the sender.
	for _, other := range []netip.Addr{R1, PA, PB, E1, E2, B, ip4("10.1.0.1"), ip4("192.168.0.1")} {
		g.drops(nat.DropSpoof, 0, udp(at(other, 5000), at(R1, 80), ""))
		g.drops(nat.DropSpoof, 0, tcp(at(other, 5000), at(R1, 80), syn, 1, 0, ""))
	}
	g.drops(nat.DropAttachment, 9, udp(at(A, 5000), at(R1, 80), ""))
	g.drops(nat.DropUnassigned, 1, udp(at(R1, 80), at(R2, 80), ""))
	g.drops(nat.DropUnassigned, 1, udp(at(R1, 80), at(A, 80), ""))
	g.drops(nat.DropUnassigned, 1, udp(at(R1, 80), at(E2, 80), ""))
}

// sourcesOfAAndC lets attachment 0 use two inside addresses only, and E2 be ours without use.
func sourcesOfAAndC(p *nat.Policy) {
	p.Attachments[0].Sources = []netip.Prefix{netip.PrefixFrom(A, 32), netip.PrefixFrom(C, 32)}
	p.Pools[0].Draining = []netip.Addr{PB}
	p.Unlent = []netip.Prefix{netip.PrefixFrom(E2, 32)}
}

func TestK7_Martians(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(C, E1), sourcesOfAAndC)}.run(t, martians)
}

// partialChecksums is K-8: four cases, and those with a complete checksum beside them; a 1:1 mapping as well.
func partialChecksums(g *gate) {
	for _, proto := range []uint8{packet.TCP, packet.UDP} {
		for _, h := range []netip.Addr{A, C} {
			in, rem := at(h, 5000), at(R1, 80)
			var ext end
			for _, from := range []nat.AttachmentID{0, 1} {
				for _, ihl := range []int{5, 8} {
					for _, offload := range []bool{true, false} {
						b := of(proto, in, rem)
						if from == 1 {
							b = answer(proto, rem, ext)
						}
						if ihl > 5 {
							b = withOptions(b, ihl)
						}
						p := packet.From(b)
						if offload {
							p = craft.Partial(b)
						}
						was := p.Offload
						r := g.send(from, p)[0] // judges the sum that a card would send
						if !r.Forward() {
							g.Fatalf("%v", r.Verdict)
						}
						if ext = srcOf(r.b); from == 1 {
							ext = dstOf(b)
						}
						if r.p.Offload != was {
							g.Errorf("offload was %+v and is %+v", was, r.p.Offload)
						}
						// Without offload on the way out it is completed in software.
						q := r.p.Clone()
						if err := packet.Complete(&q); err != nil {
							g.Error(err)
						}
						if err := craft.Verify(q.Bytes()); err != nil {
							g.Errorf("protocol %d, offload %t, attachment %d: %v", proto, offload, from, err)
						}
					}
				}
			}
		}
	}
}

func TestK8_PartialChecksums(t *testing.T) {
	p := policy(nat.RFCProfile(), static(C, E1), func(p *nat.Policy) { p.MSSClamp = 1000 })
	trial{policy: p}.run(t, partialChecksums)
}

// superPackets is K-9: 64 KB in one packet, which fit an MTU of 1400 as segments.
func superPackets(g *gate) {
	const size = 1340
	for _, h := range []netip.Addr{A, C} {
		for _, proto := range []uint8{packet.TCP, packet.UDP} {
			in, rem := at(h, 5000), at(R1, 80)
			g.out(of(proto, in, rem))
			payload := random(64000)
			ip := craft.IP{Src: h, Dst: R1, ID: 400}
			var b []byte
			if proto == packet.TCP {
				b = craft.TCP(ip, craft.Segment{Src: 5000, Dst: 80, Seq: 101, Flags: ack, Window: 9}, payload)
			} else {
				b = craft.UDP(ip, 5000, 80, payload)
			}
			p := craft.Super(b, size)
			was := p.Offload
			r := g.send(0, p)[0]
			if !r.Forward() || len(r.emitted) > 0 {
				g.Fatalf("%v, %d emitted", r.Verdict, len(r.emitted))
			}
			if r.p.Offload != was {
				g.Errorf("offload was %+v and is %+v", was, r.p.Offload)
			}
			var got []byte
			id := be.Uint16(r.b[4:])
			n := 0
			err := packet.Segment(&r.p, nil, func(q packet.Packet) error {
				b := q.Bytes()
				if err := craft.Verify(b); err != nil {
					g.Errorf("segment %d: %v", n, err)
				}
				if len(b) > 1400 || be.Uint16(b[4:]) != id+uint16(n) || srcOf(b) != srcOf(r.b) {
					g.Errorf("segment %d: %s", n, craft.Describe(b))
				}
				n++
				got = append(got, b[int(was.HdrLen):]...)
				return nil
			})
			if err != nil || !bytes.Equal(got, payload) || n != 48 {
				g.Errorf("%d segments, %v", n, err)
			}
			// The next one does not repeat their identifications.
			if h == A {
				next := g.out(datagram(in, rem, 1, nil))
				if proto == packet.UDP {
					if d := be.Uint16(next.b[4:]) - id; d < 48 {
						g.Errorf("identification %d after %d of 48", be.Uint16(next.b[4:]), id)
					}
				}
			}
			// Segments that are too long are too long.
			p = craft.Super(b, 1400)
			r = g.want(g.send(0, p)[0], nat.DropTooBig)
			if len(r.emitted) != 1 || be.Uint16(l4(r.emitted[0].b)[6:]) != 1400 {
				g.Error("no 3/4 with 1400")
			}
		}
	}
}

func TestK9_SuperPackets(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(C, E1), mtu(1400, 1400))}.run(t, superPackets)
}

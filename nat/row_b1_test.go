// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// Series B is the bugs that other NATs have had. Where a row of another series has the same scenario it is run here
// with another profile.

func TestB1_NoChecksumIsNotPatched(t *testing.T) {
	forward := func(p *nat.Policy) {
		p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(PA, 8053), Inside: at(B, 53)}}
	}
	trial{policy: policy(nat.RFCProfile(), forward, static(C, E1))}.run(t, func(g *gate) {
		out := g.want(g.out(noChecksum(udp(at(A, 5000), at(R1, 53), "data"))), nat.Outbound)
		ext := srcOf(out.b)
		quote := g.want(g.in(icmp(X, PA, 3, 3, 0, out.b)), nat.ErrorInbound)
		for name, b := range map[string][]byte{
			"SNAT":    out.b,
			"DNAT":    g.reaches(at(B, 53), noChecksum(udp(at(R1, 9), at(PA, 8053), "data"))).b,
			"1:1":     g.want(g.out(noChecksum(udp(at(C, 5000), at(R1, 53), "data"))), nat.StaticOutbound).b,
			"hairpin": g.want(g.out(noChecksum(udp(at(B, 6000), ext, "data"))), nat.Hairpin).b,
			"quote":   craft.Quote(quote.b),
		} {
			if sum := be.Uint16(l4(b)[6:]); sum != 0 {
				g.Errorf("%s: %#04x", name, sum)
			}
		}
	})
}

func TestB2_ZeroOfEachProtocol(t *testing.T) {
	b, p := vectorU6(t)
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		if sum := be.Uint16(l4(g.want(g.out(b), nat.Outbound).b)[6:]); sum != 0xffff {
			g.Errorf("UDP: %#04x", sum)
		}
	})
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			// With what the checksum would be as a word of payload, and as the identification, it becomes 0.
			build := func(src end, ttl uint8, payload, id uint16) []byte {
				ip := craft.IP{Src: src.Addr(), Dst: R1, ID: id, DF: true, TTL: ttl}
				body := []byte{byte(payload >> 8), byte(payload)}
				switch proto {
				case packet.TCP:
					return craft.TCP(ip, craft.Segment{Src: src.Port(), Dst: 80, Seq: 100, Flags: syn}, body)
				case packet.UDP:
					return craft.UDP(ip, src.Port(), 80, body)
				}
				return craft.Query(ip, packet.Echo, 0, src.Port(), 1, body)
			}
			in := at(A, 5000)
			ext := g.opens(proto, in, at(R1, 80))
			field := checksumAt[proto]
			becomes := build(ext, 63, 0, 0)
			sent := build(in, 64, be.Uint16(l4(becomes)[field:]), be.Uint16(becomes[10:]))
			got := g.want(g.out(sent), nat.Outbound).b
			want := uint16(0)
			if proto == packet.UDP {
				want = 0xffff
			}
			if sum := be.Uint16(l4(got)[field:]); sum != want {
				g.Errorf("protocol %d: %#04x, want %#04x", proto, sum, want)
			}
			if sum := be.Uint16(got[10:]); sum != 0 {
				g.Errorf("IP header: %#04x", sum)
			}
		}
	})
}

func TestB3_ManyFieldsAtOnce(t *testing.T) {
	if got := packet.Delta16(0x5555, 0x3285).Apply(0xdd2f); got != 0 {
		t.Errorf("%#04x", got)
	}
	manyWords(t, rand.New(rand.NewPCG(3, 12)), 12, 1_000_000)
}

func TestB5_QuotesAreTranslated(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			errorsInbound(g, proto, X)
		}
	})
}

func TestB6_OuterChecksumFollows(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, traceroute)
}

func TestB8_TruncatedQuotes(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, quoteLengths)
}

func TestB9_BadQuotedHeader(t *testing.T) {
	for _, strict := range []bool{false, true} {
		p := policy(nat.GatewayProfile(), func(p *nat.Policy) { p.StrictQuotes = strict })
		trial{policy: p}.run(t, func(g *gate) {
			want := nat.ErrorInbound
			if strict {
				want = nat.DropICMPQuoteChecksum
			}
			for i, proto := range allProtocols {
				ext := g.want(g.out(flowOf(proto)), nat.Outbound).b
				g.want(g.in(badQuoteHeader(ext)), want)
				if n := g.stats().QuoteChecksums; !strict && n != uint64(i+1) || strict && n != 0 {
					g.Errorf("strict %t: %d counted", strict, n)
				}
			}
		})
	}
}

func TestB10_ErrorsDoNotKill(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, errorsDoNotCount)
}

func TestB11_ErrorStorm(t *testing.T) {
	const limit = 100
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		bs := make([][]byte, 100)
		for second, packets := range []int{100_000, 10_000, 10_000} {
			made := 0
			for i := 0; i < packets; i += len(bs) {
				g.at(time.Duration(second)*time.Second + time.Duration(i)*time.Second/time.Duration(packets))
				for j := range bs {
					bs[j] = craft.SetTTL(udp(at(A, uint16(1+j)), at(R1, 80), ""), 1)
				}
				for _, r := range g.outAll(bs) {
					made += len(g.want(r, nat.DropTTL).emitted)
				}
			}
			if made != limit {
				g.Errorf("second %d: %d errors", second, made)
			}
		}
		if s := g.stats(); s.ICMPSuppressed == 0 || s.Emitted+s.ICMPSuppressed != s.Verdicts[nat.DropTTL] {
			g.Errorf("%+v", s)
		}
	})
	noErrorAbout(t)
}

func TestB12_InsideAddressesStayInside(t *testing.T) {
	p := policy(nat.RFCProfile(), static(B, E1), mtu(1300, 1400), func(p *nat.Policy) {
		p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(PA, 8053), Inside: at(C, 53)}}
	})
	trial{policy: p}.run(t, func(g *gate) {
		n := 0
		outside := func(r result) {
			g.Helper()
			out := r.emitted
			if r.Forward() && r.Side() == nat.Outside {
				out = append(out, emitted{nat.Outside, r.b, 0})
			}
			for _, e := range out {
				if e.side != nat.Outside {
					continue
				}
				n++
				// Nowhere in the headers or in what is quoted of others'; the payloads of this test have none either.
				for i := range len(e.b) - 1 {
					if e.b[i] == 10 && e.b[i+1] == 0 && i+4 <= len(e.b) && insideNet.Contains(netip.AddrFrom4([4]byte(e.b[i:i+4]))) {
						g.Errorf("an inside address at byte %d of % x", i, e.b)
					}
				}
			}
		}
		big := string(bytes.Repeat([]byte("x"), 1480))
		for _, h := range []netip.Addr{A, B, insideRouter7} {
			in := at(h, 5000)
			r := g.out(udp(in, at(R1, 80), "data"))
			outside(r)
			ext := srcOf(r.b)
			for _, b := range [][]byte{
				craft.SetTTL(udp(at(R1, 80), ext, ""), 1), udp(at(R1, 80), ext, big), udp(at(R2, 1), ext, big), craft.SetTTL(udp(at(R2, 9), ext, ""), 1),
				tcp(at(R1, 1), ext, syn, 1, 0, ""), tcp(at(R1, 1), ext, ack, 1, 0, ""), ping(at(R1, 1), ext.Addr()), craft.SetTTL(ping(at(R1, 1), ext.Addr()), 1),
			} {
				outside(g.in(b))
			}
			got := g.in(udp(at(R1, 80), ext, "x")).b
			for _, sender := range []netip.Addr{h, insideRouter7, C} {
				for _, e := range icmpErrors {
					outside(g.out(icmp(sender, R1, e.typ, e.code, 0, got)))
					outside(g.out(icmp(sender, R1, e.typ, e.code, 0, got[:28])))
				}
			}
			outside(g.out(udp(in, at(E1, 80), "")))
			outside(g.out(udp(in, at(R1, 81), big)))
			outside(g.out(datagram(in, at(R1, 82), 1, []byte(big+big))))
		}
		outside(g.in(udp(at(R1, 9), at(PA, 8053), big)))
		outside(g.in(udp(at(R1, 9), at(PA, 8053), "")))
		g.at(sec(7))
		for _, e := range g.tick() {
			outside(result{emitted: []emitted{e}})
		}
		if n < 60 {
			g.Errorf("only %d packets were looked at", n)
		}
	})
}

func TestB13_PortZero(t *testing.T) {
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.AWSProfile(), custom(anyClass, ports(1, 65535))} {
		trial{policy: policy(f)}.run(t, func(g *gate) {
			for _, proto := range []uint8{packet.UDP, packet.TCP} {
				for _, c := range []struct{ in, rem end }{{at(A, 0), at(R1, 80)}, {at(A, 5000), at(R1, 0)}, {at(B, 0), at(R2, 0)}} {
					ext := g.opens(proto, c.in, c.rem)
					if ext.Port() == 0 {
						g.Errorf("%v has external port 0", c.in)
					}
					g.reaches(c.in, answer(proto, c.rem, ext))
					if got := g.opens(proto, c.in, c.rem); got != ext {
						g.Errorf("%v: %v, before %v", c.in, got, ext)
					}
				}
				if r := g.in(of(proto, at(R1, 0), at(PA, 0))); r.Forward() {
					g.Errorf("port 0 of the pool: %v", r.Verdict)
				}
			}
		})
	}
	// A million allocations over all of the range.
	g := newGate(t, nat.Config{Sessions: 1 << 16}, policy(custom(overlapping, anyClass, ports(1, 65535))))
	s := g.sender(0)
	for i := range 1_000_000 {
		s.now = time.Duration(i) * 10 * time.Millisecond
		ports := uint32(i) * 2654435761
		if v := s.send(at(A, uint16(ports>>16)), at(R1, uint16(ports))); v != nat.Outbound {
			t.Fatal(v)
		}
		if s.src().Port() == 0 {
			t.Fatal("port 0 was given out")
		}
	}
}

func TestB14_SimultaneousOpenInAllOrders(t *testing.T) {
	for _, theirsFirst := range []bool{false, true} { // R1's SYN is there before A's
		for _, answersFirst := range []bool{false, true} { // R1's SYN+ACK before A's
			f := custom(func(f *nat.Profile) { f.PreservePort = true })
			trial{policy: policy(f), oneShard: true}.run(t, func(g *gate) {
				in, rem := at(A, 5000), at(R1, 6000)
				c := &conn{gate: g, in: in, rem: rem, ext: at(PA, 5000), seq: 100, back: 900}
				theirs := tcp(rem, c.ext, syn, 900, 0, "")
				if theirsFirst {
					g.want(g.in(bytes.Clone(theirs)), nat.HeldSYN)
				}
				c.sends(syn, "")
				g.reaches(in, theirs)
				c.is("opening")
				ours := func() { g.want(g.out(tcp(in, rem, syn|ack, 100, 901, "")), nat.Outbound) }
				answers := func() { g.reaches(in, tcp(rem, c.ext, syn|ack, 900, 101, "")) }
				if answersFirst {
					answers()
					ours()
				} else {
					ours()
					answers()
				}
				c.is("established")
				c.seq, c.back = 101, 901
				c.sends(ack, "data")
				c.hears(ack, "data")
				c.expires(longest)
			})
		}
	}
}

func TestB15_ReuseOfEndedConnections(t *testing.T) {
	for _, end := range []func(c *conn){
		func(c *conn) { c.closes() },
		func(c *conn) { // the peer first
			c.hears(fin|ack, "")
			c.sends(ack, "")
			c.sends(fin|ack, "")
			c.hears(ack, "")
			c.is("closing")
		},
		func(c *conn) { c.hears(rst, ""); c.is("reset") },
		func(c *conn) { c.sends(rst, ""); c.is("reset") },
		func(c *conn) { c.sends(fin|ack, ""); c.hears(fin|ack, ""); c.is("closing") },
	} {
		for _, f := range []nat.Profile{nat.RFCProfile(), nat.GatewayProfile()} {
			trial{policy: policy(f)}.run(t, func(g *gate) {
				c := g.dial(at(A, 5000), at(R1, 80))
				end(c)
				reopens(g, c)
			})
		}
	}
}

// keepsEndedPorts checks that the port of a closed connection is nobody else's while the server may remember it.
func keepsEndedPorts(t *testing.T) {
	for _, f := range []nat.Profile{custom(ports(2000, 2001)), custom(overlapping, ports(2000, 2001))} {
		trial{policy: policy(f), oneShard: true}.run(t, func(g *gate) {
			rem := at(R1, 80)
			c := g.dial(at(A, 5000), rem)
			c.closes()
			// A is gone. B's first connection gets the other port, and its second none.
			d := g.dial(at(B, 5000), rem)
			if d.ext == c.ext {
				g.Fatal("B was given the port of A's connection")
			}
			g.want(g.out(tcp(at(B, 5001), rem, syn, 1, 0, "")), nat.DropNoPort)
			// What the server still says about the old one is for A alone, and later for nobody.
			c.hears(ack, "")
			g.at(sec(241))
			if r := g.in(c.segIn(ack, "")); r.Forward() {
				g.Errorf("the server's late ACK: %v", r)
			}
		})
	}
}

func TestB16_PortOfAClosedConnection(t *testing.T) { keepsEndedPorts(t) }

func TestB17_BlindResetSweep(t *testing.T) {
	trial{policy: policy(nat.RFCProfile()), oneShard: true}.run(t, func(g *gate) {
		var conns []*conn
		for i := range 100 {
			c := g.dial(at(addr10(i), 5000), at(R1, 80))
			c.hears(ack|psh, "data")
			c.sends(ack, "")
			conns = append(conns, c)
		}
		g.at(sec(10))
		r := rand.New(rand.NewPCG(17, 1))
		expected := map[uint16]uint32{}
		for _, c := range conns {
			expected[c.ext.Port()] = c.back
		}
		for port := 0; port < 1<<16; port += 64 {
			var bs [][]byte
			for i := range 64 {
				seq := r.Uint32()
				if next, ok := expected[uint16(port+i)]; ok && seq == next {
					seq++
				}
				bs = append(bs, tcp(at(R1, 80), at(PA, uint16(port+i)), rst, seq, 0, ""))
			}
			g.inAll(bs)
		}
		for _, c := range conns {
			c.is("established")
			c.expires(longest)
		}
	})
}

func TestB18_ResetIsNotTheEnd(t *testing.T) {
	f := nat.GatewayProfile()
	f.Timeouts.TCPClosing = 240 * time.Second
	trial{policy: policy(f)}.run(t, resets)
}

func TestB19_OutOfWindowIsTranslated(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, tolerates)
}

func TestB20_NoHijackBehindTheNAT(t *testing.T) {
	p := policy(nat.GatewayProfile(), func(p *nat.Policy) { p.Attachments[0].Sources = nil })
	p.Attachments = append(p.Attachments, nat.Attachment{ID: 2, Side: nat.Inside, Router: true, Sources: []netip.Prefix{netip.PrefixFrom(B, 32)}})
	p.Attachments[0].Sources = []netip.Prefix{netip.PrefixFrom(A, 32)}
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		c := g.dial(at(A, 5000), at(R1, 80))
		if c.ext.Port() == 5000 {
			g.Error("the port is preserved")
		}
		before := c.session()
		// B, as A or as the server, gets nothing through.
		g.drops(nat.DropSpoof, 2, tcp(c.in, c.rem, rst, c.seq, 0, ""))
		g.drops(nat.DropSpoof, 2, tcp(c.rem, c.ext, rst, c.back, 0, ""))
		g.drops(nat.DropSpoof, 2, tcp(c.rem, c.in, rst, c.back, 0, ""))
		// B fills all ports towards the same server: it never gets A's, nor what is for A.
		for i := range 2000 {
			r := g.want(g.send(2, packet.From(tcp(at(B, uint16(1024+i)), c.rem, syn, 1, 0, "")))[0], nat.Outbound)
			if srcOf(r.b) == c.ext {
				g.Fatal("B has A's port")
			}
			if i%100 == 0 {
				g.check()
			}
		}
		if after := c.session(); after != before {
			g.Errorf("%+v, before %+v", after, before)
		}
		c.hears(ack, "still A's")
	})
}

func TestB21_GatewayTellsNothing(t *testing.T) {
	trial{policy: policy(nat.AWSProfile(), mtu(1400, 1400))}.run(t, func(g *gate) {
		forgedMTU(g)
		for _, size := range []int{0, 56, 1372} {
			ping := craft.Query(head(R1, PA), packet.Echo, 0, 1, 1, random(size))
			g.drops(nat.DropNoMapping, 1, ping)
			ping = craft.Query(head(A, PA), packet.Echo, 0, 1, 1, random(size))
			if r := g.out(ping); r.Forward() || len(r.emitted) > 0 {
				g.Errorf("a ping from inside: %v", r)
			}
		}
	})
}

func TestB22_EchoIdentifiers(t *testing.T) {
	trial{policy: policy(nat.RFCProfile()), config: nat.Config{Sessions: 1 << 17}, oneShard: true}.run(t, func(g *gate) {
		ids := map[end]bool{}
		const n = 32_500
		for i := 0; i < n; i += 100 {
			var bs [][]byte
			for j := range 100 {
				bs = append(bs, ping(at(A, uint16(i+j)), R1), ping(at(B, uint16(i+j)), R1))
			}
			for k, r := range g.outAll(bs) {
				ext := srcOf(g.want(r, nat.Outbound).b)
				if ids[ext] {
					g.Fatalf("%v was given out twice", ext)
				}
				if ids[ext] = true; i == 0 || ext.Port() == 0 {
					g.reaches(srcOf(bs[k]), pong(R1, ext))
				}
			}
		}
		if len(ids) != 2*n {
			g.Errorf("%d identifiers", len(ids))
		}
	})
	trial{policy: policy(custom(ports(2000, 2003))), oneShard: true}.run(t, func(g *gate) {
		for i := range 5 {
			g.out(udp(at(A, uint16(5000+i)), at(R1, 80), ""))
			g.out(tcp(at(A, uint16(5000+i)), at(R1, 80), syn, 1, 0, ""))
		}
		if n := g.stats().Verdicts[nat.DropNoPort]; n != 2 {
			g.Errorf("%d were refused", n)
		}
		for i := range 100 {
			g.reaches(at(A, uint16(i)), pong(R1, g.opens(packet.ICMP, at(A, uint16(i)), at(R1, 0))))
		}
	})
}

func TestB23_HairpinHidesTheSender(t *testing.T) {
	f := custom(func(f *nat.Profile) { f.Pooling = nat.Arbitrary })
	trial{policy: policy(f, twoAddresses)}.run(t, hairpins)
}

func TestB24_LastFragmentFirst(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, allOrders)
	trial{policy: policy(nat.GatewayProfile())}.run(t, pieceLimit)
}

func TestB25_LaterFragmentsHaveNoPorts(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile(), static(B, E1))}.run(t, laterPieces)
}

func TestB26_FragmentsThatLie(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, overlaps)
	trial{policy: policy(nat.GatewayProfile())}.run(t, tinyFragments)
}

func TestB27_Identifications(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, identifications)
	// Datagrams that may be fragmented have different identifications for 30 s, to each peer, from all hosts together.
	trial{policy: policy(nat.GatewayProfile())}.run(t, func(g *gate) {
		seen := map[uint16]bool{}
		for i := range 3000 {
			g.at(time.Duration(i) * 10 * time.Millisecond)
			h := []netip.Addr{A, B, C}[i%3]
			id := be.Uint16(g.want(g.out(datagram(at(h, 5000), at(R1, 80), 0, nil)), nat.Outbound).b[4:])
			if seen[id] {
				g.Fatalf("identification %d twice in 30 s", id)
			}
			seen[id] = true
		}
	})
}

func TestB28_PortsAreNotInTheOptions(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, ipOptions)
	trial{policy: policy(nat.GatewayProfile())}.run(t, func(g *gate) {
		for ihl := 6; ihl <= 15; ihl++ {
			sent := withOptions(flowOf(packet.UDP), ihl)
			ext := g.want(g.out(bytes.Clone(sent)), nat.Outbound).b
			m := withOptions(icmp(X, PA, 11, 0, 0, received(ext, 1)), ihl) // options outside, too
			if r := g.want(g.in(m), nat.ErrorInbound); !bytes.Equal(craft.Quote(r.b), received(sent, 1)) {
				g.Errorf("IHL %d: quotes % x", ihl, craft.Quote(r.b))
			}
		}
	})
}

func TestB29_TTL(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, ttlEnds)
	trial{policy: policy(nat.GatewayProfile())}.run(t, func(g *gate) {
		r := g.want(g.out(craft.SetTTL(tcp(at(A, 5000), at(R1, 80), syn, 1, 0, ""), 2)), nat.Outbound)
		if r.b[8] != 1 {
			g.Errorf("TTL %d", r.b[8])
		}
		for ttl := 255; ttl >= 2; ttl-- {
			ext := srcOf(r.b)
			back := g.reaches(at(A, 5000), craft.SetTTL(tcp(at(R1, 80), ext, syn|ack, 9, 2, ""), uint8(ttl)))
			if int(back.b[8]) != ttl-1 {
				g.Errorf("TTL %d became %d", ttl, back.b[8])
			}
		}
	})
}

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

// icmpErrors are of the three types that are translated, with codes that hosts see.
var icmpErrors = []struct{ typ, code uint8 }{
	{packet.Unreachable, 0}, {packet.Unreachable, 1}, {packet.Unreachable, 3}, {packet.Unreachable, 4}, {packet.Unreachable, 13},
	{packet.TimeExceeded, 0}, {packet.TimeExceeded, 1}, {packet.ParameterProblem, 0},
}

func TestI1_Queries(t *testing.T) {
	for _, typ := range []uint8{packet.Echo, packet.Timestamp} {
		trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
			query := func(src, dst netip.Addr) []byte {
				return craft.Query(head(src, dst), typ, 0, 0x1234, 77, []byte("twelve bytes"))
			}
			exts := map[end]bool{}
			for _, h := range []netip.Addr{A, B} {
				sent := query(h, R1)
				r := g.want(g.out(bytes.Clone(sent)), nat.Outbound)
				ext := srcOf(r.b)
				exts[ext] = true
				reply := bytes.Clone(r.b) // as R1 makes it: types and ends swapped
				l4(reply)[0] = typ + 1
				if typ == packet.Echo {
					l4(reply)[0] = packet.EchoReply
				}
				copy(reply[12:], R1.AsSlice())
				copy(reply[16:], PA.AsSlice())
				craft.Fix(reply)
				back := g.reaches(at(h, 0x1234), reply).b
				if !bytes.Equal(l4(back)[4:], l4(sent)[4:]) || craft.Verify(back) != nil {
					g.Errorf("%v hears % x", h, l4(back))
				}
				if got := srcOf(g.want(g.out(query(h, R2)), nat.Outbound).b); got != ext {
					g.Errorf("%v has identifier %v to R1 and %v to R2", h, ext, got)
				}
			}
			if len(exts) != 2 {
				g.Error("two hosts share an identifier")
			}
		})
	}
}

func TestI2_QueryLifetime(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		early, late := g.opens(packet.ICMP, at(A, 1), at(R1, 0)), g.opens(packet.ICMP, at(B, 1), at(R1, 0))
		g.at(sec(59.9))
		g.reaches(at(A, 1), pong(R1, early))
		g.at(sec(60.1))
		g.drops(nat.DropNoMapping, 1, pong(R1, late))
	})
	f := custom(func(f *nat.Profile) { f.Timeouts.ICMP = 5 * time.Second })
	trial{policy: policy(f)}.run(t, func(g *gate) {
		ext := g.opens(packet.ICMP, at(A, 1), at(R1, 0))
		g.at(sec(5))
		g.drops(nat.DropNoMapping, 1, pong(R1, ext))
	})
	f.Name = "rfc"
	if p := policy(f); p.Validate() == nil {
		t.Error("the rfc profile accepts 5 s")
	}
}

// flowOf is a packet of each protocol from A, with some payload.
func flowOf(proto uint8) []byte {
	switch proto {
	case packet.TCP:
		return tcp(at(A, 5000), at(R1, 80), syn, 100, 0, "some data")
	case packet.UDP:
		return udp(at(A, 5000), at(R1, 80), "some data of a datagram")
	}
	return craft.Query(head(A, R1), packet.Echo, 0, 5000, 9, []byte("some data of a ping"))
}

// received is an outbound packet as a router some hops on has it.
func received(b []byte, ttl uint8) []byte { return craft.SetTTL(bytes.Clone(b), ttl) }

// errorsInbound is I-3 and I-4 for one protocol: whatever comes back about a packet, A knows it by its quote.
func errorsInbound(g *gate, proto uint8, from netip.Addr) {
	sent := flowOf(proto)
	ext := g.want(g.out(bytes.Clone(sent)), nat.Outbound).b
	for _, e := range icmpErrors {
		m := icmp(from, PA, e.typ, e.code, 0, received(ext, 1))
		r := g.want(g.in(m), nat.ErrorInbound)
		if src, dst := addrs(r.b); src != from || dst != A || l4(r.b)[0] != e.typ || l4(r.b)[1] != e.code {
			g.Errorf("A hears %s", craft.Describe(r.b))
		}
		if err := craft.Verify(r.b); err != nil {
			g.Error(err)
		}
		if want := received(sent, 1); !bytes.Equal(craft.Quote(r.b), want) {
			g.Errorf("protocol %d: quoted\n% x, want\n% x", proto, craft.Quote(r.b), want)
		}
	}
}

func TestI3_InboundErrors(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		g.want(g.out(tcp(at(A, 5000), at(R1, 80), syn, 1, 0, "")), nat.Outbound)
		ext := g.session(packet.TCP, at(A, 5000), at(R1, 80)).External
		r := g.want(g.in(icmp(X, PA, packet.TimeExceeded, 0, 0, tcp(ext, at(R1, 80), syn, 1, 0, ""))), nat.ErrorInbound)
		if src, dst := addrs(r.b); src != X || dst != A || l4(r.b)[0] != 11 || l4(r.b)[1] != 0 {
			g.Errorf("A hears %s", craft.Describe(r.b))
		}
		if q := craft.Quote(r.b); srcOf(q) != at(A, 5000) || dstOf(q) != at(R1, 80) {
			g.Errorf("quotes %s", craft.Describe(q))
		}
	})
	// About what port forwards answer, in whatever shard.
	ends := []end{at(A, 80), at(B, 80), at(C, 80), at(C, 443)}
	p := policy(nat.RFCProfile(), func(p *nat.Policy) {
		for i, in := range ends {
			p.Forwards = append(p.Forwards, nat.Forward{Protocol: packet.TCP, Outside: at(PA, 8080+uint16(i)), Inside: in})
		}
	})
	trial{policy: p}.run(t, func(g *gate) {
		for i, in := range ends {
			g.reaches(in, tcp(at(R2, 999), at(PA, 8080+uint16(i)), syn, 1, 0, ""))
			sent := g.want(g.out(tcp(in, at(R2, 999), syn|ack, 1, 2, "")), nat.Outbound).b
			r := g.want(g.in(icmp(X, PA, packet.TimeExceeded, 0, 0, sent)), nat.ErrorInbound)
			if q := craft.Quote(r.b); dstOf(r.b).Addr() != in.Addr() || srcOf(q) != in || dstOf(q) != at(R2, 999) {
				g.Errorf("%v hears %s", in, craft.Describe(r.b))
			}
		}
	})
}

func TestI4_QuotesAreWhatWasSent(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			errorsInbound(g, proto, X)
		}
	})
}

// checksumAt is where the transport header has its checksum.
var checksumAt = map[uint8]int{packet.TCP: 16, packet.UDP: 6, packet.ICMP: 2}

// quoteLengths is the I-5 matrix: quotes of n bytes behind the IP header.
func quoteLengths(g *gate) {
	for _, proto := range allProtocols {
		for _, without := range []bool{false, true} {
			sent := flowOf(proto)
			if without {
				if proto != packet.UDP {
					continue
				}
				noChecksum(sent)
			}
			ext := g.want(g.out(bytes.Clone(sent)), nat.Outbound).b
			for _, n := range []int{4, 5, 6, 7, 8, 12, 16, 17, 18, 19, 20, 28} {
				m := icmp(X, PA, packet.TimeExceeded, 0, 0, received(ext, 1)[:20+n])
				if proto == packet.ICMP && n < 6 {
					g.drops(nat.DropICMPQuote, 1, m)
					continue
				}
				r := g.want(g.in(bytes.Clone(m)), nat.ErrorInbound)
				want := received(sent, 1)[:20+n]
				got := craft.Quote(r.b)
				if field := checksumAt[proto]; n == field+1 { // half of it is quoted, and stays as it is
					want[20+field] = craft.Quote(m)[20+field]
				}
				if len(r.b) != len(m) || !bytes.Equal(got, want) {
					g.Errorf("protocol %d, %d bytes: quoted\n% x, want\n% x", proto, n, got, want)
				}
				if err := craft.Verify(r.b); err != nil {
					g.Errorf("protocol %d, %d bytes: %v", proto, n, err)
				}
			}
			for n := range 4 {
				g.drops(nat.DropICMPQuote, 1, icmp(X, PA, packet.TimeExceeded, 0, 0, received(ext, 1)[:20+n]))
			}
		}
	}
}

func TestI5_OnlyQuotedBytesAreTouched(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		quoteLengths(g)
		// A quoted transport checksum that is wrong is nobody's business.
		for _, proto := range allProtocols {
			quote := received(g.want(g.out(flowOf(proto)), nat.Outbound).b, 1)
			quote[len(quote)-1] ^= 0x55
			g.want(g.in(icmp(X, PA, packet.TimeExceeded, 0, 0, quote)), nat.ErrorInbound)
		}
	})
}

// badQuoteHeader quotes b with a header checksum that is off.
func badQuoteHeader(b []byte) []byte {
	q := bytes.Clone(b)
	q[10] ^= 0x40
	return icmp(X, PA, packet.TimeExceeded, 0, 0, q)
}

func TestI6_ChecksumsOfErrors(t *testing.T) {
	for _, strict := range []bool{false, true} {
		p := policy(nat.RFCProfile(), func(p *nat.Policy) { p.StrictQuotes = strict })
		trial{policy: p}.run(t, func(g *gate) {
			ext := g.want(g.out(flowOf(packet.UDP)), nat.Outbound).b
			m := icmp(X, PA, packet.TimeExceeded, 0, 0, ext)
			l4(m)[5] ^= 1 // in the unused word
			g.drops(nat.DropICMPChecksum, 1, m)
			if strict {
				g.drops(nat.DropICMPQuoteChecksum, 1, badQuoteHeader(ext))
			} else {
				g.want(g.in(badQuoteHeader(ext)), nat.ErrorInbound)
			}
			ext = g.want(g.out(withOptions(flowOf(packet.UDP), 9)), nat.Outbound).b
			ext[20] ^= 3 // not the filling that sums up to nothing
			craft.Fix(ext)
			g.want(g.in(icmp(X, PA, packet.TimeExceeded, 0, 0, ext)), nat.ErrorInbound) // right with its options
			if n := g.stats().QuoteChecksums; n == 0 != strict || n > 1 {
				g.Errorf("strict: %t, passed: %d", strict, n)
			}
		})
	}
}

// withOptions is b with an IP header of ihl words, filled with options that mean nothing.
func withOptions(b []byte, ihl int) []byte {
	n := int(b[0]&15) * 4
	o := bytes.Clone(b[:20])
	for range 4 * (ihl - 5) {
		o = append(o, 1)
	}
	o = append(o, b[n:]...)
	o[0] = 0x40 | byte(ihl)
	be.PutUint16(o[2:], uint16(len(o)))
	return craft.SetTTL(o, o[8])
}

func TestI7_OptionsInQuotes(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			for ihl := 6; ihl <= 15; ihl++ {
				sent := withOptions(flowOf(proto), ihl)
				ext := g.want(g.out(bytes.Clone(sent)), nat.Outbound).b
				r := g.want(g.in(icmp(X, PA, packet.TimeExceeded, 0, 0, received(ext, 1))), nat.ErrorInbound)
				if want := received(sent, 1); !bytes.Equal(craft.Quote(r.b), want) {
					g.Errorf("IHL %d: quoted\n% x, want\n% x", ihl, craft.Quote(r.b), want)
				}
			}
		}
		ext := g.want(g.out(flowOf(packet.UDP)), nat.Outbound).b
		for _, ihl := range []byte{0, 4, 15} { // 15 is beyond what is quoted
			q := bytes.Clone(ext)[:28]
			q[0] = 0x40 | ihl
			g.drops(nat.DropICMPQuote, 1, icmp(X, PA, packet.TimeExceeded, 0, 0, q))
		}
	})
}

func TestI8_ExtensionsStay(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			sent := flowOf(proto)
			ext := received(g.want(g.out(bytes.Clone(sent)), nat.Outbound).b, 1)
			quote := append(ext, make([]byte, 128-len(ext))...) // RFC 4884: padded to 128 bytes, 32 words
			mpls := []byte{0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 1}
			be.PutUint16(mpls[2:], craft.Checksum(mpls))
			for _, e := range icmpErrors {
				m := icmp(X, PA, e.typ, e.code, 32<<16, append(bytes.Clone(quote), mpls...))
				r := g.want(g.in(m), nat.ErrorInbound)
				got := craft.Quote(r.b)
				if !bytes.Equal(got[128:], mpls) || !bytes.Equal(got[len(sent):128], quote[len(sent):128]) {
					g.Errorf("padding or extension became % x", got[len(sent):])
				}
				if l4(r.b)[5] != 32 || !bytes.Equal(got[:len(sent)], received(sent, 1)) {
					g.Error("length field or quote are wrong")
				}
				if err := craft.Verify(r.b); err != nil {
					g.Error(err)
				}
			}
		}
	})
}

func TestI9_ErrorsAboutNothing(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		for _, proto := range allProtocols {
			g.drops(nat.DropICMPNoMapping, 1, icmp(X, PA, packet.Unreachable, 3, 0, of(proto, at(PA, 9), at(R2, 80))))
			g.drops(nat.DropICMPNoMapping, 0, icmp(A, R2, packet.Unreachable, 3, 0, answer(proto, at(R2, 80), at(A, 9))))
		}
		// No session has sent an echo reply.
		ext := g.opens(packet.ICMP, at(A, 5000), at(R1, 0))
		g.drops(nat.DropICMPNoMapping, 1, icmp(X, PA, packet.Unreachable, 3, 0, craft.Query(head(PA, R1), packet.EchoReply, 0, ext.Port(), 1, nil)))
		// Nor does one get in with somebody else's destination, or with another protocol.
		g.drops(nat.DropICMPQuote, 1, icmp(X, PA, packet.Unreachable, 3, 0, of(packet.UDP, at(PB, 9), at(R1, 80))))
		g.drops(nat.DropICMPNoMapping, 1, icmp(X, PA, packet.Unreachable, 3, 0, craft.IPv4(head(PA, R1), 47, make([]byte, 20))))
	})
}

func TestI10_OutboundErrors(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			rem := at(R1, 80)
			ext := g.opens(proto, at(A, 5000), rem)
			came := answer(proto, rem, ext)
			got := g.reaches(at(A, 5000), bytes.Clone(came)).b
			for _, sender := range []netip.Addr{A, insideRouter7} {
				r := g.want(g.out(icmp(sender, R1, packet.TimeExceeded, 0, 0, received(got, 1))), nat.ErrorOutbound)
				if src, dst := addrs(r.b); src != PA || dst != R1 {
					g.Errorf("emerges as %s", craft.Describe(r.b))
				}
				if want := received(came, 1); !bytes.Equal(craft.Quote(r.b), want) {
					g.Errorf("quoted\n% x, want\n% x", craft.Quote(r.b), want)
				}
				if err := craft.Verify(r.b); err != nil {
					g.Error(err)
				}
			}
		}
		// A datagram that only the mapping let in, from an endpoint that A never wrote to.
		ext := g.session(packet.UDP, at(A, 5000), at(R1, 80)).External
		got := g.reaches(at(A, 5000), udp(at(R2, 9), ext, "")).b
		r := g.want(g.out(icmp(A, R2, packet.Unreachable, 3, 0, got)), nat.ErrorOutbound)
		if q := craft.Quote(r.b); dstOf(q) != ext {
			g.Errorf("quotes %s", craft.Describe(q))
		}
	})
}

// A router without an address of its own outside complains about packets to a 1:1 host, of whatever protocol.
func TestI10_RouterAboutStaticHost(t *testing.T) {
	e1 := netip.MustParseAddr("198.51.100.129")
	for _, pool := range []string{"", "pool"} {
		p := policy(nat.RFCProfile())
		p.Static = []nat.Static{{Inside: B, Outside: e1}}
		for i := range p.Routes {
			p.Routes[i].Static = true
			if pool == "" {
				p.Routes[i].Pool = ""
			}
		}
		trial{policy: p}.run(t, func(g *gate) {
			came := udp(at(R1, 9), at(e1, 7), "")
			got := g.want(g.in(bytes.Clone(came)), nat.StaticInbound).b
			for _, kind := range []struct{ typ, code uint8 }{{packet.TimeExceeded, 0}, {packet.Unreachable, 1}, {packet.Unreachable, 4}} {
				r := g.want(g.out(icmp(insideRouter7, R1, kind.typ, kind.code, 1300, received(got, 1))), nat.ErrorOutbound)
				if src, dst := addrs(r.b); src != e1 || dst != R1 {
					g.Errorf("emerges as %s", craft.Describe(r.b))
				}
				if want := received(came, 1); !bytes.Equal(craft.Quote(r.b), want) {
					g.Errorf("quoted\n% x, want\n% x", craft.Quote(r.b), want)
				}
			}
		})
	}
}

// errorsDoNotCount sends errors about a flow of each protocol, both ways, every ten seconds.
func errorsDoNotCount(g *gate) {
	type flow struct {
		out, in []byte // as seen inside
		ext     []byte // the outbound one as seen outside
		proto   uint8
		expiry  time.Duration
	}
	var flows []flow
	for _, proto := range allProtocols {
		out := flowOf(proto)
		ext := g.want(g.out(bytes.Clone(out)), nat.Outbound).b
		in := g.reaches(at(A, 5000), answer(proto, at(R1, 80), srcOf(ext))).b
		flows = append(flows, flow{out, in, ext, proto, g.session(proto, at(A, 5000), at(R1, 80)).Expires})
	}
	for i := range 5 {
		g.at(time.Duration(i+1) * 10 * time.Second)
		for _, f := range flows {
			for _, e := range icmpErrors {
				g.want(g.in(icmp(X, PA, e.typ, e.code, 0, f.ext)), nat.ErrorInbound)
				g.want(g.out(icmp(A, R1, e.typ, e.code, 0, f.in)), nat.ErrorOutbound)
			}
			if s := g.session(f.proto, at(A, 5000), at(R1, 80)); s.Expires != f.expiry {
				g.Errorf("protocol %d: ends at %v, before the errors at %v", f.proto, s.Expires, f.expiry)
			}
		}
	}
	g.at(sec(60))
	for _, s := range g.sessions() {
		if s.Protocol == packet.ICMP {
			g.Error("the errors kept the query alive")
		}
	}
}

func TestI11_ErrorsRefreshAndEndNothing(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, errorsDoNotCount)
}

// refusals checks what 10,000 flows that get no port in one second are told.
func refusals(t *testing.T, how nat.Refusal, code int) {
	const limit = 50
	f := custom(ports(2000, 2007), func(f *nat.Profile) { f.NoPort = how })
	p := policy(f, func(p *nat.Policy) { p.ICMPErrorsPerSecond = limit })
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		for i := range 8 {
			g.opens(packet.UDP, at(A, uint16(5000+i)), at(R1, 80))
		}
		told := 0
		for i := range 10_000 {
			g.at(time.Duration(i) * 100 * time.Microsecond)
			b := udp(at(B, uint16(5000+i)), at(R1, 80), "data")
			r := g.want(g.out(bytes.Clone(b)), nat.DropNoPort)
			for _, e := range r.emitted {
				told++
				src, dst := addrs(e.b)
				if e.side != nat.Inside || src != G || dst != B || l4(e.b)[0] != 3 || int(l4(e.b)[1]) != code || !bytes.Equal(craft.Quote(e.b), b) {
					g.Fatalf("told %s", craft.Describe(e.b))
				}
			}
		}
		if code >= 0 && told != limit || code < 0 && told != 0 {
			g.Errorf("%d told", told)
		}
		if s := g.stats(); s.Sessions != 8 || code >= 0 && int(s.ICMPSuppressed) != 10_000-told {
			g.Errorf("%+v", s)
		}
	})
}

func TestI12_RefusalIsTold(t *testing.T) {
	refusals(t, nat.RefuseProhibited, 13)
	refusals(t, nat.RefuseHostUnreachable, 1)
	refusals(t, nat.RefuseSilently, -1)
	if nat.RFCProfile().NoPort != nat.RefuseProhibited || nat.AWSProfile().NoPort != nat.RefuseSilently {
		t.Error("the profiles")
	}
}

func TestI13_ErrorsFromAnyRouter(t *testing.T) {
	trial{policy: policy(custom(overlapping))}.run(t, func(g *gate) {
		for _, proto := range allProtocols {
			errorsInbound(g, proto, X)
			errorsInbound(g, proto, R2)
		}
	})
}

// traceroute is I-14: the errors that an ICMP traceroute lives on.
func traceroute(g *gate) {
	for ttl := 2; ttl < 10; ttl++ {
		sent := craft.SetTTL(craft.Query(head(A, R1), packet.Echo, 0, 0xabcd, uint16(ttl), []byte("probe")), uint8(ttl))
		ext := g.want(g.out(bytes.Clone(sent)), nat.Outbound).b
		if srcOf(ext).Port() == 0xabcd {
			g.Error("the external identifier is the same: this proves nothing")
		}
		hop := netip.AddrFrom4([4]byte{192, 0, 2, byte(ttl)})
		r := g.want(g.in(icmp(hop, PA, packet.TimeExceeded, 0, 0, received(ext, 1))), nat.ErrorInbound)
		if src, _ := addrs(r.b); src != hop || !bytes.Equal(craft.Quote(r.b), received(sent, 1)) {
			g.Errorf("A hears %s", craft.Describe(r.b))
		}
		if err := craft.Verify(r.b); err != nil {
			g.Error(err)
		}
		if skews := craft.Skews(r.b); len(skews) != 4 || skews[3] != 0 {
			g.Errorf("checksums, the quoted one last, are off by %x", skews)
		}
	}
}

func TestI14_ErrorsAboutQueries(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, traceroute)
}

// ttlEnds is I-15 for both sides.
func ttlEnds(g *gate) {
	ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
	for _, ttl := range []uint8{0, 1} {
		for _, c := range []struct {
			from   nat.AttachmentID
			side   nat.Side
			b      []byte
			router netip.Addr
		}{
			{0, nat.Inside, udp(at(A, 5000), at(R1, 80), "data"), G},
			{0, nat.Inside, tcp(at(B, 5000), at(R1, 80), syn, 1, 0, ""), G},
			{0, nat.Inside, udp(at(A, 5000), at(B, 80), "data"), G},
			{1, nat.Outside, udp(at(R1, 80), ext, "data"), PA},
		} {
			craft.SetTTL(c.b, ttl)
			before := g.state()
			expiry := g.session(packet.UDP, at(A, 5000), at(R1, 80)).Expires
			r := g.want(g.send(c.from, packet.From(c.b))[0], nat.DropTTL)
			if len(r.emitted) != 1 || r.emitted[0].side != c.side {
				g.Fatalf("%d answers", len(r.emitted))
			}
			m := r.emitted[0].b
			from, _ := addrs(c.b)
			if src, dst := addrs(m); src != c.router || dst != from || l4(m)[0] != 11 || l4(m)[1] != 0 || !bytes.Equal(craft.Quote(m), c.b) {
				g.Errorf("answered with %s", craft.Describe(m))
			}
			if g.state() != before || g.session(packet.UDP, at(A, 5000), at(R1, 80)).Expires != expiry {
				g.Error("state was made or refreshed")
			}
		}
		g.at(g.now + time.Second)
	}
	if n := g.stats().Created; n != 1 {
		g.Errorf("%d sessions were made", n)
	}
}

func TestI15_TTLEnds(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, ttlEnds)
	// With an address of its own outside, the router speaks as that.
	p := policy(nat.RFCProfile(), func(p *nat.Policy) { p.OutsideRouter = GX })
	trial{policy: p}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		r := g.want(g.in(craft.SetTTL(udp(at(R1, 80), ext, ""), 1)), nat.DropTTL)
		if src, _ := addrs(r.emitted[0].b); src != GX {
			g.Errorf("speaks as %v", src)
		}
	})
}

// noErrorAbout sends what nobody may be told about, with a TTL that ends here and too big.
func noErrorAbout(t *testing.T) {
	big := string(make([]byte, 1500))
	for _, c := range []struct {
		name string
		from nat.AttachmentID
		b    []byte
	}{
		{"error", 0, icmp(A, R1, packet.Unreachable, 3, 0, udp(at(R1, 80), at(A, 5000), big))},
		{"error, inbound", 1, icmp(X, PA, packet.Unreachable, 3, 0, udp(at(PA, 5000), at(R1, 80), big))},
		{"redirect", 0, craft.Query(head(A, R1), packet.Redirect, 1, 0, 0, []byte(big))},
		{"source quench", 1, craft.Query(head(X, PA), packet.SourceQuench, 0, 0, 0, []byte(big))},
		{"later fragment", 0, craft.IPv4(craft.IP{Src: A, Dst: R1, Offset: 800, DF: true}, packet.UDP, []byte(big))},
		{"later fragment, inbound", 1, craft.IPv4(craft.IP{Src: R1, Dst: PA, Offset: 800, DF: true}, packet.UDP, []byte(big))},
		{"multicast", 0, udp(at(A, 1), at(ip4("224.0.0.251"), 5353), big)},
		{"broadcast", 0, udp(at(A, 1), at(ip4("255.255.255.255"), 67), big)},
		{"zero source", 0, udp(at(ip4("0.0.0.0"), 68), at(R1, 67), big)},
		{"multicast source", 1, udp(at(ip4("224.0.0.1"), 68), at(PA, 67), big)},
		{"loopback source", 1, udp(at(ip4("127.0.0.1"), 68), at(PA, 67), big)},
		{"spoofed", 0, udp(at(R2, 68), at(R1, 67), big)},
	} {
		for _, ttl := range []uint8{1, 64} {
			trial{policy: policy(nat.RFCProfile(), mtu(1400, 1400))}.run(t, func(g *gate) {
				r := g.send(c.from, packet.From(craft.SetTTL(bytes.Clone(c.b), ttl)))[0]
				if len(r.emitted) > 0 {
					g.Errorf("%s, TTL %d: %v, answered with %s", c.name, ttl, r.Verdict, craft.Describe(r.emitted[0].b))
				}
				if r.Forward() {
					g.Errorf("%s, TTL %d: %v", c.name, ttl, r.Verdict)
				}
			})
		}
	}
}

func TestI16_NoErrorsAboutThese(t *testing.T) {
	noErrorAbout(t)
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		ext := g.want(g.out(flowOf(packet.UDP)), nat.Outbound).b
		inner := icmp(PA, R1, packet.Unreachable, 3, 0, ext)
		g.drops(nat.DropICMPQuote, 1, icmp(X, PA, packet.Unreachable, 3, 0, inner))
		inner = icmp(R1, A, packet.Unreachable, 3, 0, flowOf(packet.UDP))
		g.drops(nat.DropICMPQuote, 0, icmp(A, R1, packet.Unreachable, 3, 0, inner))
	})
}

func TestI17_DSCPAndUntranslatedTypes(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(B, E1), mtu(0, 1400))}.run(t, func(g *gate) {
		for _, b := range [][]byte{
			craft.UDP(craft.IP{Src: A, Dst: R1, TOS: 46<<2 | 3, TTL: 1}, 5000, 80, nil),
			craft.UDP(craft.IP{Src: A, Dst: R1, TOS: 46<<2 | 1, DF: true}, 5000, 80, make([]byte, 1500)),
		} {
			r := g.out(b)
			if len(r.emitted) != 1 || r.emitted[0].b[1] != 46<<2 {
				g.Errorf("%v: %d answers, or one with another DSCP", r.Verdict, len(r.emitted))
			}
		}
		ext := g.want(g.out(flowOf(packet.UDP)), nat.Outbound).b
		for _, typ := range []uint8{packet.SourceQuench, packet.Redirect} {
			quench := func(src, dst netip.Addr, about []byte) []byte {
				return craft.Query(head(src, dst), typ, 0, 0, 0, about)
			}
			g.drops(nat.DropProtocol, 1, quench(X, PA, ext))
			g.drops(nat.DropProtocol, 1, quench(X, E1, udp(at(E1, 1), at(R1, 1), "")))
			g.drops(nat.DropProtocol, 0, quench(A, R1, udp(at(R1, 1), at(A, 1), "")))
			g.drops(nat.DropProtocol, 0, quench(B, R1, udp(at(R1, 1), at(B, 1), "")))
		}
	})
}

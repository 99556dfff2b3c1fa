// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// restrict restricts hosts by a name.
func restrict(name string, in, out []nat.Allow, hosts ...netip.Addr) func(*nat.Policy) {
	return func(p *nat.Policy) {
		p.Restrictions = append(p.Restrictions, nat.Restriction{Name: name, Hosts: hosts, In: in, Out: out})
	}
}

// allow is a rule for one port, of ICMP one type, and everybody or some. Port 0 is all.
func allow(proto int, port uint16, remotes ...netip.Addr) nat.Allow {
	a := nat.Allow{Protocol: proto, PortMin: port, PortMax: port}
	switch {
	case port == 0:
		a.PortMax = 65535
	case proto == packet.ICMP:
		a.PortMin, a.PortMax = port<<8, port<<8|255
	}
	for _, r := range remotes {
		a.Remotes = append(a.Remotes, netip.PrefixFrom(r, 32))
	}
	return a
}

func rules(all ...nat.Allow) []nat.Allow { return all }

// everything allows all.
var everything = rules(nat.Allow{Protocol: -1})

// bypassed sends what is for r on untranslated.
func bypassed(r netip.Addr) func(*nat.Policy) {
	return func(p *nat.Policy) {
		p.Routes = append(p.Routes, nat.Route{Source: insideNet, Destination: netip.PrefixFrom(r, 32), Bypass: true})
	}
}

// raw is a packet of a protocol that has no ports.
func raw(proto uint8, src, dst netip.Addr) []byte {
	return craft.IPv4(head(src, dst), proto, make([]byte, 24))
}

func TestSG1_OutRules(t *testing.T) {
	t.Parallel()
	out := rules(allow(packet.TCP, 80), allow(packet.UDP, 53, R1), nat.Allow{Protocol: packet.ICMP, PortMin: packet.Echo << 8, PortMax: packet.Echo << 8, Remotes: []netip.Prefix{netip.PrefixFrom(R2, 32)}}, allow(47, 0))
	trial{policy: policy(nat.Profile{}, static(A, E1), restrict("a", nil, out, A))}.run(t, func(g *gate) {
		for _, b := range [][]byte{
			tcp(at(A, 5000), at(R1, 81), syn, 1, 0, ""), tcp(at(A, 80), at(R1, 5000), ack, 1, 1, ""), udp(at(A, 5000), at(R2, 53), "x"),
			udp(at(A, 53), at(R1, 54), "x"), ping(at(A, 1), R1), raw(50, A, R1), craft.Query(head(A, R1), 17, 0, 1, 1, nil),
		} {
			g.drops(nat.DropNotAllowed, 0, b)
		}
		g.drops(nat.DropNotAllowed, 0, craft.Query(head(A, R2), packet.Echo, 1, 7, 1, nil)) // another code
		for _, c := range []struct{ out, back []byte }{
			{tcp(at(A, 5000), at(R1, 80), syn, 100, 0, ""), tcp(at(R1, 80), at(E1, 5000), syn|ack, 900, 101, "")},
			{udp(at(A, 5000), at(R1, 53), "x"), udp(at(R1, 53), at(E1, 5000), "y")},
			{ping(at(A, 7), R2), pong(R2, at(E1, 7))},
			{raw(47, A, R1), raw(47, R1, E1)},
		} {
			g.drops(nat.DropNotAllowed, 1, c.back)
			g.want(g.out(c.out), nat.StaticOutbound)
			g.want(g.in(c.back), nat.StaticInbound)
		}
		if n := len(g.sessions()); n != 4 {
			t.Fatalf("%d sessions: want one for each flow", n)
		}
		s := g.session(packet.TCP, at(A, 5000), at(R1, 80))
		if s.External != s.Inside || s.Inbound || !s.Replied || s.State != "opening" {
			t.Errorf("%+v", s)
		}
		if s := g.session(47, at(A, 0), at(R1, 0)); s.State != "udp" {
			t.Errorf("%+v", s)
		}
		g.drops(nat.DropNotAllowed, 1, tcp(at(R1, 81), at(E1, 5000), syn|ack, 900, 101, ""))
		g.drops(nat.DropNotAllowed, 1, udp(at(R2, 53), at(E1, 5000), "y"))
	})
}

func TestSG2_InRules(t *testing.T) {
	t.Parallel()
	in := rules(allow(packet.TCP, 22, R1), nat.Allow{Protocol: packet.UDP, PortMin: 100, PortMax: 200}, allow(packet.ICMP, packet.Echo))
	trial{policy: policy(nat.Profile{}, static(A, E1), restrict("a", in, nil, A))}.run(t, func(g *gate) {
		for _, b := range [][]byte{
			tcp(at(R2, 5000), at(E1, 22), syn, 1, 0, ""), tcp(at(R1, 22), at(E1, 23), syn, 1, 0, ""), udp(at(R1, 150), at(E1, 99), "x"),
			udp(at(R1, 150), at(E1, 201), "x"), pong(R1, at(E1, 1)), raw(47, R1, E1),
		} {
			g.drops(nat.DropNotAllowed, 1, b)
		}
		for _, c := range []struct{ in, back []byte }{
			{tcp(at(R1, 5000), at(E1, 22), syn, 100, 0, ""), tcp(at(A, 22), at(R1, 5000), syn|ack, 900, 101, "")},
			{udp(at(R2, 5000), at(E1, 100), "x"), udp(at(A, 100), at(R2, 5000), "y")},
			{udp(at(R2, 53), at(E1, 200), "x"), udp(at(A, 200), at(R2, 53), "y")},
			{ping(at(R2, 7), E1), pong(A, at(R2, 7))},
		} {
			g.drops(nat.DropNotAllowed, 0, c.back)
			g.want(g.in(c.in), nat.StaticInbound)
			g.want(g.out(c.back), nat.StaticOutbound)
		}
		if s := g.session(packet.UDP, at(A, 200), at(R2, 53)); s.State != "udp" || !s.Inbound || !s.Replied {
			t.Errorf("%+v", s)
		}
	})
	other := netip.MustParseAddr("10.0.1.99")
	// Hosts whose rules are the same list, or the beginning of it.
	trial{policy: policy(nat.Profile{}, restrict("a", in[:1], nil, A), restrict("b", in, nil, B), restrict("x", in, nil, other))}.run(t, func(g *gate) {
		g.drops(nat.DropNotAllowed, 0, udp(at(C, 5000), at(A, 150), "x"))
		g.want(g.out(udp(at(C, 5000), at(B, 150), "x")), nat.Untouched)
		g.want(g.out(udp(at(C, 5000), at(other, 150), "x")), nat.Untouched)
		g.drops(nat.DropNotAllowed, 0, udp(at(C, 5000), at(other, 99), "x"))
	})
}

func TestSG3_InsideBothEndsAreJudged(t *testing.T) {
	t.Parallel()
	trial{policy: policy(nat.Profile{},
		restrict("a", nil, rules(allow(packet.TCP, 80, B, C), allow(packet.UDP, 53)), A),
		restrict("b", rules(allow(packet.TCP, 80, A), allow(packet.TCP, 81)), nil, B))}.run(t, func(g *gate) {
		g.drops(nat.DropNotAllowed, 0, tcp(at(A, 5000), at(B, 81), syn, 1, 0, "")) // A may not
		g.drops(nat.DropNotAllowed, 0, udp(at(A, 5000), at(B, 53), "x"))           // B does not want to
		g.drops(nat.DropNotAllowed, 0, tcp(at(B, 80), at(A, 5000), syn|ack, 1, 1, ""))
		g.drops(nat.DropNotAllowed, 0, tcp(at(C, 5000), at(A, 80), syn, 1, 0, ""))
		g.want(g.out(tcp(at(A, 5000), at(B, 80), syn, 100, 0, "")), nat.Untouched)
		g.want(g.out(tcp(at(B, 80), at(A, 5000), syn|ack, 900, 101, "")), nat.Untouched)
		g.want(g.out(tcp(at(A, 5000), at(B, 80), ack, 101, 901, "")), nat.Untouched)
		a, b := g.session(packet.TCP, at(A, 5000), at(B, 80)), g.session(packet.TCP, at(B, 80), at(A, 5000))
		if a.State != "established" || b.State != "established" || a.Inbound || !b.Inbound || !a.Replied || !b.Replied || a.Expires != b.Expires {
			t.Errorf("%+v, %+v", a, b)
		}
		g.want(g.out(tcp(at(A, 5000), at(C, 80), syn, 100, 0, "")), nat.Untouched)
		g.want(g.out(tcp(at(C, 80), at(A, 5000), rst|ack, 0, 101, "")), nat.Untouched)
		if n := len(g.sessions()); n != 3 {
			t.Errorf("%d sessions: want one for each restricted end", n)
		}
	})
}

func TestSG4_PoolOutbound(t *testing.T) {
	t.Parallel()
	p := policy(nat.Profile{}, restrict("a", nil, rules(allow(packet.TCP, 80), allow(packet.UDP, 53), allow(packet.ICMP, 0, R1)), A))
	p.Pools[0].Profile = custom(func(f *nat.Profile) { f.Stray, f.NoPort = nat.StrayReset, nat.RefuseProhibited })
	trial{policy: p}.run(t, func(g *gate) {
		g.drops(nat.DropNotAllowed, 0, tcp(at(A, 5000), at(R1, 81), syn, 1, 0, ""))
		g.drops(nat.DropNotAllowed, 0, tcp(at(A, 5000), at(R1, 81), ack, 1, 1, "x")) // not answered with a RST
		g.drops(nat.DropNotAllowed, 0, udp(at(A, 5000), at(R1, 54), "x"))
		g.drops(nat.DropNotAllowed, 0, ping(at(A, 5), R2))
		c := g.dial(at(A, 5000), at(R1, 80))
		q := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
		g.reaches(at(A, 5000), udp(at(R1, 53), q, "y"))
		e := g.opens(packet.ICMP, at(A, 5), at(R1, 0))
		g.reaches(at(A, 5), pong(R1, e))
		p.Restrictions = nil
		restrict("a", nil, nil, A)(&p)
		if i := g.apply(p); i.Kept != 3 || i.Cut != 0 {
			t.Errorf("%+v", i)
		}
		c.sends(ack, "more")
		c.hears(ack, "more")
		g.opens(packet.UDP, at(B, 5000), at(R1, 54))
	})
}

func TestSG5_PoolInbound(t *testing.T) {
	t.Parallel()
	in := rules(allow(packet.TCP, 80, R1), allow(packet.UDP, 5000, R2))
	p := policy(custom(), restrict("a", in, rules(allow(packet.UDP, 53, R1)), A))
	p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(A, 80)}, {Protocol: packet.UDP, Outside: at(PA, 8081), Inside: at(A, 81)}}
	trial{policy: p}.run(t, func(g *gate) {
		g.drops(nat.DropNotAllowed, 1, tcp(at(R2, 5000), at(PA, 8080), syn, 1, 0, ""))
		g.drops(nat.DropNotAllowed, 1, udp(at(R1, 5000), at(PA, 8081), "x"))
		g.reaches(at(A, 80), tcp(at(R1, 5000), at(PA, 8080), syn, 1, 0, ""))
		g.want(g.out(tcp(at(A, 80), at(R1, 5000), syn|ack, 1, 2, "")), nat.Outbound)
		// An endpoint-independent mapping lets all in, the rules only some; whose answer passes.
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
		g.drops(nat.DropNotAllowed, 1, udp(at(R1, 54), ext, "x"))
		g.drops(nat.DropNotAllowed, 0, udp(at(A, 5000), at(R2, 7), "x"))
		g.reaches(at(A, 5000), udp(at(R2, 7), ext, "x"))
		g.want(g.out(udp(at(A, 5000), at(R2, 7), "x")), nat.Outbound)
		if s := g.session(packet.UDP, at(A, 5000), at(R2, 7)); !s.Inbound || s.External != ext {
			t.Errorf("%+v", s)
		}
	})
}

func TestSG6_Bypass(t *testing.T) {
	t.Parallel()
	p := policy(nat.Profile{}, bypassed(R1), restrict("a", rules(allow(packet.TCP, 22)), rules(allow(packet.UDP, 53)), A))
	trial{policy: p}.run(t, func(g *gate) {
		g.drops(nat.DropNotAllowed, 0, udp(at(A, 5000), at(R1, 54), "x"))
		g.drops(nat.DropNotAllowed, 1, udp(at(R1, 53), at(A, 5000), "x"))
		g.drops(nat.DropNotAllowed, 1, tcp(at(R1, 5000), at(A, 23), syn, 1, 0, ""))
		g.want(g.out(udp(at(A, 5000), at(R1, 53), "x")), nat.Bypassed)
		g.want(g.in(udp(at(R1, 53), at(A, 5000), "x")), nat.Untouched)
		g.want(g.in(tcp(at(R1, 5000), at(A, 22), syn, 100, 0, "")), nat.Untouched)
		g.want(g.out(tcp(at(A, 22), at(R1, 5000), syn|ack, 900, 101, "")), nat.Bypassed)
		g.want(g.in(udp(at(R1, 53), at(B, 5000), "x")), nat.Untouched)
	})
}

func TestSG7_Hairpin(t *testing.T) {
	t.Parallel()
	p := policy(custom(), static(A, E1), static(B, E2),
		restrict("a", nil, rules(allow(packet.UDP, 53, E2), allow(packet.TCP, 8080)), A), restrict("b", rules(allow(packet.UDP, 53, E1)), nil, B),
		restrict("c", rules(allow(packet.TCP, 80, E1)), rules(allow(packet.UDP, 53)), C))
	p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(C, 80)}}
	trial{policy: p}.run(t, func(g *gate) {
		g.drops(nat.DropNotAllowed, 0, udp(at(A, 5000), at(E2, 54), "x"))
		g.want(g.out(udp(at(A, 5000), at(E2, 53), "x")), nat.Hairpin)
		g.want(g.out(udp(at(B, 53), at(E1, 5000), "y")), nat.Hairpin)
		g.want(g.out(udp(at(C, 5000), at(E2, 53), "x")), nat.DropNotAllowed) // B knows C by the pool's address
		g.want(g.out(tcp(at(A, 5000), at(PA, 8080), syn, 100, 0, "")), nat.Hairpin)
		g.want(g.out(tcp(at(C, 80), at(E1, 5000), syn|ack, 900, 101, "")), nat.Hairpin)
		g.want(g.out(tcp(at(B, 5000), at(PA, 8080), syn, 100, 0, "")), nat.DropNotAllowed)
	})
}

func TestSG8_ANewFlowOnOldPortsIsJudged(t *testing.T) {
	t.Parallel()
	p := policy(nat.Profile{}, static(A, E1), restrict("a", rules(allow(packet.TCP, 22), allow(packet.ICMP, packet.Echo)), rules(allow(packet.TCP, 80)), A, B))
	trial{policy: p}.run(t, func(g *gate) {
		out := func(flags uint8, seq, ackNo uint32) []byte {
			return tcp(at(A, 22), at(R1, 5000), flags, seq, ackNo, "")
		}
		in := func(flags uint8, seq, ackNo uint32) []byte {
			return tcp(at(R1, 5000), at(E1, 22), flags, seq, ackNo, "")
		}
		g.want(g.in(in(syn, 100, 0)), nat.StaticInbound)
		g.want(g.in(in(syn, 100, 0)), nat.StaticInbound)
		g.want(g.out(out(syn|ack, 900, 101)), nat.StaticOutbound)
		g.want(g.in(in(ack, 101, 901)), nat.StaticInbound)
		g.drops(nat.DropNotAllowed, 0, out(syn, 5000, 0)) // established: it is A now who would start
		g.want(g.in(in(fin|ack, 101, 901)), nat.StaticInbound)
		g.want(g.out(out(fin|ack, 901, 102)), nat.StaticOutbound)
		g.drops(nat.DropNotAllowed, 0, out(syn, 5000, 0)) // closing
		g.want(g.in(in(syn, 70000, 0)), nat.StaticInbound)
		if s := g.session(packet.TCP, at(A, 22), at(R1, 5000)); s.State != "opening" || !s.Inbound {
			t.Errorf("%+v", s)
		}
		g.want(g.in(ping(at(R1, 9), E1)), nat.StaticInbound)
		g.drops(nat.DropNotAllowed, 0, ping(at(A, 9), R1))
		g.want(g.out(pong(A, at(R1, 9))), nat.StaticOutbound)
		// In a pool, too, once the rules have gone.
		c := g.dial(at(B, 5000), at(R1, 80))
		c.closes()
		now := func(out []nat.Allow) {
			p := p
			p.Restrictions = []nat.Restriction{{Name: "a", Hosts: []netip.Addr{A, B}, In: p.Restrictions[0].In, Out: out}}
			g.apply(p)
		}
		now(nil)
		g.drops(nat.DropNotAllowed, 0, tcp(c.in, c.rem, syn, 1, 0, ""))
		g.drops(nat.DropNotAllowed, 1, tcp(c.rem, c.ext, syn, 1, 0, ""))
		now(everything)
		g.want(g.out(tcp(c.in, c.rem, syn, 1, 0, "")), nat.Outbound)
		c.is("opening")
	})
}

func TestSG9_Pickup(t *testing.T) {
	t.Parallel()
	trial{policy: policy(nat.Profile{}, static(A, E1), restrict("a", rules(allow(packet.TCP, 22)), rules(allow(packet.TCP, 80)), A))}.run(t, func(g *gate) {
		before := g.state()
		g.want(g.out(tcp(at(A, 4000), at(R1, 80), rst, 7, 0, "")), nat.StaticOutbound) // nobody answers that
		if g.state() != before {
			t.Error("a RST makes a session")
		}
		g.want(g.out(tcp(at(A, 5000), at(R1, 80), ack, 7000, 8000, "x")), nat.StaticOutbound)
		g.want(g.in(tcp(at(R1, 80), at(E1, 5000), ack, 8000, 7001, "y")), nat.StaticInbound)
		g.want(g.in(tcp(at(R1, 4000), at(E1, 22), ack|psh, 7000, 8000, "x")), nat.StaticInbound)
		g.want(g.out(tcp(at(A, 22), at(R1, 4000), ack, 8000, 7001, "y")), nat.StaticOutbound)
		for _, s := range g.sessions() {
			if s.State != "established" || !s.Replied {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestSG10_ICMPErrors(t *testing.T) {
	t.Parallel()
	p := policy(custom(), static(A, E1), bypassed(R2), restrict("a", rules(allow(packet.UDP, 53), allow(packet.ICMP, packet.TimeExceeded, X)), rules(allow(packet.UDP, 0)), A, B))
	trial{policy: p}.run(t, func(g *gate) {
		port := func(src, dst netip.Addr, q []byte) []byte { return icmp(src, dst, packet.Unreachable, 3, 0, q) }
		q := udp(at(E1, 5000), at(R1, 80), "x")
		g.drops(nat.DropNotAllowed, 1, port(R1, E1, q))
		g.want(g.out(udp(at(A, 5000), at(R1, 80), "x")), nat.StaticOutbound)
		g.want(g.in(port(R1, E1, q)), nat.ErrorInbound)
		g.want(g.in(port(X, E1, q)), nat.ErrorInbound)
		other := udp(at(E1, 5001), at(R1, 80), "x")
		g.drops(nat.DropNotAllowed, 1, port(X, E1, other))
		g.want(g.in(icmp(X, E1, packet.TimeExceeded, 0, 0, other)), nat.ErrorInbound)
		// About what was sent to A.
		g.drops(nat.DropNotAllowed, 0, port(A, R1, udp(at(R1, 9), at(A, 53), "x")))
		g.want(g.in(udp(at(R1, 9), at(E1, 53), "x")), nat.StaticInbound)
		g.want(g.out(port(A, R1, udp(at(R1, 9), at(A, 53), "x"))), nat.ErrorOutbound)
		// In a pool: of a session, and of a mapping that lets in what the rules do not.
		ext := g.opens(packet.UDP, at(B, 5000), at(R1, 80))
		g.want(g.out(port(B, R1, udp(at(R1, 80), at(B, 5000), "x"))), nat.ErrorOutbound)
		g.want(g.in(port(X, ext.Addr(), udp(ext, at(R1, 80), "x"))), nat.ErrorInbound)
		g.drops(nat.DropNotAllowed, 0, port(B, R1, udp(at(R1, 81), at(B, 5000), "x")))
		// Past the pool, and inside.
		g.drops(nat.DropNotAllowed, 1, port(R2, A, udp(at(A, 5), at(R2, 80), "x")))
		g.want(g.out(udp(at(A, 5), at(R2, 80), "x")), nat.Bypassed)
		g.want(g.in(port(R2, A, udp(at(A, 5), at(R2, 80), "x"))), nat.Untouched)
		g.drops(nat.DropNotAllowed, 0, port(C, A, udp(at(A, 5), at(C, 80), "x")))
		g.drops(nat.DropNotAllowed, 0, port(C, A, udp(at(A, 5), at(R2, 80), "x")[:22]))
	})
}

func TestSG11_Fragments(t *testing.T) {
	t.Parallel()
	p := policy(custom(), static(A, E1), static(B, E2), bypassed(R2),
		restrict("a", rules(allow(packet.UDP, 53)), rules(allow(packet.UDP, 80), allow(47, 0)), A))
	trial{policy: p}.run(t, func(g *gate) {
		cut := func(src, dst end) [][]byte {
			h := head(src.Addr(), dst.Addr())
			h.DF = false
			return craft.Cut(craft.UDP(h, src.Port(), dst.Port(), make([]byte, 100)), 32, 64)
		}
		for _, c := range []struct {
			from     nat.AttachmentID
			src, dst end
			left     netip.Addr // its source when it has gone
		}{
			{0, at(A, 5), at(R1, 80), E1}, {1, at(R1, 9), at(E1, 53), R1}, {0, at(A, 5), at(R2, 80), A}, {1, at(R2, 9), at(A, 53), R2},
			{0, at(A, 5), at(C, 80), A}, {0, at(C, 9), at(A, 53), C}, {0, at(B, 9), at(E1, 53), E2}, {0, at(A, 5), at(E2, 80), E1},
		} {
			// The first piece last: nothing goes before it is known what it belongs to.
			bad := cut(c.src, at(c.dst.Addr(), 54))
			for i, v := range []nat.Verdict{nat.HeldFragment, nat.HeldFragment, nat.DropNotAllowed} {
				if r := g.want(g.send(c.from, packet.From(bad[2-i]))[0], v); len(r.emitted) > 0 {
					t.Fatalf("%v to %v: something went on", c.src, c.dst)
				}
			}
			good := cut(c.src, c.dst)
			g.want(g.send(c.from, packet.From(good[1]))[0], nat.HeldFragment)
			g.want(g.send(c.from, packet.From(good[0]))[0], nat.HeldFragment)
			r := g.want(g.send(c.from, packet.From(good[2]))[0], nat.Reassembled)
			if len(r.emitted) != 3 {
				t.Fatalf("%v to %v: %d pieces", c.src, c.dst, len(r.emitted))
			}
			for _, e := range r.emitted {
				if src, _ := addrs(e.b); src != c.left || e.b[8] != good[0][8]-1 {
					t.Errorf("%v to %v: leaves as %s", c.src, c.dst, craft.Describe(e.b))
				}
			}
		}
		// A protocol without ports has nothing to wait for.
		h := head(A, R1)
		h.DF = false
		for _, b := range craft.Cut(craft.IPv4(h, 47, make([]byte, 64)), 32) {
			g.want(g.out(b), nat.StaticOutbound)
		}
		if s := g.stats(); s.FragmentSets != 0 {
			t.Errorf("%d sets are left", s.FragmentSets)
		}
	})
}

func TestSG12_ChangesOfRulesAndOwners(t *testing.T) {
	t.Parallel()
	base := policy(nat.Profile{}, static(A, E1))
	with := func(name string, out []nat.Allow, hosts ...netip.Addr) nat.Policy {
		p := base
		restrict(name, nil, out, hosts...)(&p)
		return p
	}
	trial{policy: with("a", everything, A, B)}.run(t, func(g *gate) {
		flows := func() {
			g.want(g.out(udp(at(A, 5000), at(R1, 80), "x")), nat.StaticOutbound)
			g.want(g.out(udp(at(B, 5000), at(C, 80), "x")), nat.Untouched)
		}
		answers := func(static, inside nat.Verdict) {
			t.Helper()
			g.want(g.in(udp(at(R1, 80), at(E1, 5000), "x")), static)
			g.want(g.out(udp(at(C, 80), at(B, 5000), "x")), inside)
		}
		apply := func(p nat.Policy, kept, cut int) {
			t.Helper()
			if i := g.apply(p); i.Kept != kept || i.Cut != cut {
				t.Fatalf("%+v, want %d kept and %d cut", i, kept, cut)
			}
		}
		flows()
		apply(with("a", nil, A, B), 2, 0) // other rules
		answers(nat.StaticInbound, nat.Untouched)
		apply(with("b", everything, A, B), 0, 2) // another name
		answers(nat.DropNotAllowed, nat.DropNotAllowed)
		flows()
		apply(with("b", nil, A), 1, 1) // a host less
		answers(nat.StaticInbound, nat.Untouched)
		apply(base, 0, 1) // gone
		apply(with("b", nil, A, B), 0, 0)
		answers(nat.DropNotAllowed, nat.DropNotAllowed)
		apply(with("b", everything, A, B), 0, 0)
		flows()
		p := with("b", everything, A, B)
		p.Static = nil // A goes through the pool now
		apply(p, 1, 1)
		g.want(g.out(udp(at(A, 5000), at(R1, 80), "x")), nat.Outbound)
	})
}

func TestSG13_FilterSessionsHaveLimits(t *testing.T) {
	t.Parallel()
	p := policy(nat.Profile{}, static(A, E1), restrict("a", everything, everything, A, B))
	p.RestrictionTimeouts = nat.Timeouts{UDP: sec(50), UDPOpening: sec(20), TCPOpening: sec(7)}
	flow := func(n int) []byte { return udp(at(A, uint16(5000+n)), at(R1, 80), "x") }
	trial{policy: p, config: nat.Config{Sessions: 4}, oneShard: true}.run(t, func(g *gate) {
		for n := range 3 {
			g.want(g.out(flow(n)), nat.StaticOutbound)
			g.want(g.in(udp(at(R1, 80), at(E1, uint16(5000+n)), "y")), nat.StaticInbound)
		}
		g.drops(nat.DropTableFull, 0, udp(at(A, 1), at(B, 2), "x")) // two are wanted, and there is one
		g.want(g.out(flow(3)), nat.StaticOutbound)
		g.want(g.out(flow(4)), nat.StaticOutbound) // instead of what was not answered
		g.want(g.in(udp(at(R1, 80), at(E1, 5004), "y")), nat.StaticInbound)
		g.drops(nat.DropTableFull, 0, flow(5))
		g.drops(nat.DropTableFull, 1, udp(at(R1, 80), at(E1, 5005), "y"))
		g.at(sec(49.999))
		g.drops(nat.DropTableFull, 0, flow(5))
		g.at(sec(50))
		if n := len(g.sessions()); n != 0 {
			t.Fatalf("%d sessions", n)
		}
		g.want(g.out(udp(at(A, 1), at(B, 2), "x")), nat.Untouched)
		g.want(g.out(tcp(at(A, 1), at(R1, 2), syn, 1, 0, "")), nat.StaticOutbound)
		g.at(sec(57))
		if n := len(g.sessions()); n != 2 {
			t.Errorf("%d sessions", n)
		}
		g.at(sec(70))
		if n := len(g.sessions()); n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
	p.HostSessions, p.HostRate = 3, 2
	trial{policy: p}.run(t, func(g *gate) {
		g.want(g.out(flow(0)), nat.StaticOutbound)
		g.want(g.out(flow(1)), nat.StaticOutbound)
		g.drops(nat.DropHostRate, 0, flow(2))
		g.want(g.in(udp(at(R1, 80), at(E1, 1), "x")), nat.StaticInbound) // nobody outside uses up its rate
		g.at(sec(1))
		g.drops(nat.DropHostLimit, 0, flow(2))
		g.drops(nat.DropHostLimit, 0, udp(at(A, 1), at(B, 2), "x"))
		g.drops(nat.DropHostLimit, 0, udp(at(B, 1), at(A, 2), "x")) // and nothing of B's is left
		for n := range 2 {
			g.want(g.out(udp(at(B, uint16(n)), at(C, 2), "x")), nat.Untouched)
		}
	})
}

// TestSG13_ManyWorkers: the first packets of one flow may come to several workers at once, and it is one flow.
func TestSG13_ManyWorkers(t *testing.T) {
	t.Parallel()
	const flows, limit = 500, 600
	p := policy(nat.Profile{}, restrict("a", everything, everything, A, B))
	p.HostSessions = limit
	e, err := nat.New(nat.Config{Sessions: 4096, Shards: 4, Seed: 1}, &p)
	if err != nil {
		t.Fatal(err)
	}
	flow := func(n int) packet.Packet { return packet.From(udp(at(A, uint16(1000+n)), at(B, 80), "x")) }
	var wg sync.WaitGroup
	for range 4 {
		w := e.Worker()
		wg.Go(func() {
			for n := range flows {
				q := flow(n)
				// As many as there are workers may be counted twice for a moment, which the limit has room for.
				if v := w.Translate(&q, 0, 0); v != nat.Untouched {
					t.Errorf("flow %d: %v", n, v)
				}
			}
		})
	}
	wg.Wait()
	if s := e.Stats(0); s.Sessions != 2*flows || s.Created != 2*flows {
		t.Errorf("%d sessions, %d were made; want %d", s.Sessions, s.Created, 2*flows)
	}
	if err := e.Check(0); err != nil {
		t.Error(err)
	}
	w := e.Worker()
	for n := flows; n <= limit; n++ {
		q := flow(n)
		want := nat.Untouched
		if n == limit {
			want = nat.DropHostLimit
		}
		if v := w.Translate(&q, 0, 0); v != want {
			t.Fatalf("flow %d: %v, want %v", n, v, want)
		}
	}
}

func TestSG14_Validation(t *testing.T) {
	t.Parallel()
	p := policy(nat.Profile{}, restrict("a", rules(nat.Allow{Protocol: 256}, nat.Allow{Protocol: 6, PortMin: 2, PortMax: 1}), nil, A, A), restrict("a", nil, nil, R1),
		restrict("", nil, rules(nat.Allow{Protocol: 47, PortMin: 1, PortMax: 2}, nat.Allow{Protocol: 1, PortMin: 8, PortMax: 7},
			nat.Allow{Protocol: -1, Remotes: []netip.Prefix{{}}}), A, netip.Addr{}))
	p.RestrictionTimeouts.UDP = -1
	err := p.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	const want = `restriction "a": 10.0.1.10 is restricted by restriction "a" already: a host has one restriction, with all its rules
restriction "a": In 1: protocol 256: want -1, for all, to 255
restriction "a": In 2: 2 to 1: the smaller first
restriction "a": there are two of that name
restriction "a": 203.0.113.9 is not inside
restriction 3: has no name
restriction 3: 10.0.1.10 is restricted by restriction "a" already: a host has one restriction, with all its rules
restriction 3: invalid IP is not an IPv4 address
restriction 3: Out 1: 1 to 2: only TCP and UDP have ports, and ICMP types; leave them out
restriction 3: Out 2: 8 to 7: the smaller first
restriction 3: Out 3: invalid Prefix is not an IPv4 prefix
restrictions: time-out of UDP: -1ns is not between 1ms and 168h0m0s`
	if err.Error() != want {
		t.Errorf("%v", err)
	}
	p = policy(nat.Profile{}, restrict("a", rules(nat.Allow{Protocol: -1, PortMax: 65535}, nat.Allow{Protocol: 1, PortMax: 65535}), nil), restrict("b", nil, nil, A, B))
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
}

func TestSG15_OthersCostNothing(t *testing.T) {
	t.Parallel()
	trial{policy: policy(nat.Profile{}, static(A, E1), static(B, E2), bypassed(R2), restrict("c", nil, nil, C))}.run(t, func(g *gate) {
		before := g.state()
		g.want(g.out(tcp(at(A, 5), at(R1, 80), syn, 1, 0, "")), nat.StaticOutbound)
		g.want(g.in(tcp(at(R1, 5), at(E1, 80), syn, 1, 0, "")), nat.StaticInbound)
		g.want(g.out(udp(at(A, 5), at(E2, 80), "x")), nat.Hairpin)
		g.want(g.out(udp(at(A, 5), at(B, 80), "x")), nat.Untouched)
		g.want(g.out(udp(at(A, 5), at(R2, 80), "x")), nat.Bypassed)
		g.drops(nat.DropNotAllowed, 0, udp(at(A, 5), at(C, 80), "x"))
		if g.state() != before {
			t.Error("something is remembered")
		}
	})
}

// TestSG7_TheWayBackIsAPool: a host that is reached 1:1 and has its way to the same ends through a pool has one session
// with them, which is not the pool's. So its answers do not leave with an address that nobody asked, and its ICMP errors
// leave with the one that was.
func TestSG7_TheWayBackIsAPool(t *testing.T) {
	t.Parallel()
	throughPool := func(p *nat.Policy) { p.Routes = []nat.Route{{Source: insideNet, Pool: "pool"}} }
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.AWSProfile()} {
		trial{policy: policy(f, static(A, E1), throughPool, restrict("a", rules(allow(packet.UDP, 53)), everything, A))}.run(t, func(g *gate) {
			asked := udp(at(R1, 999), at(E1, 53), "x")
			came := g.want(g.in(asked), nat.StaticInbound).b
			g.drops(nat.DropNoPort, 0, udp(at(A, 53), at(R1, 999), "y"))
			if b := g.want(g.out(craft.Error(head(A, R1), 3, 3, 0, came)), nat.ErrorOutbound).b; srcOf(b).Addr() != E1 {
				g.Errorf("the error came from %v", srcOf(b))
			}
			if n := len(g.sessions()); n != 1 {
				g.Errorf("%d sessions", n)
			}
			g.want(g.out(udp(at(A, 53), at(R2, 999), "y")), nat.Outbound) // others get its pool
		})
	}
}

// TestSG7_OutOfWindow: a RST that is out of the window of one host's session is dropped, whether the other end is a
// restricted host, too, or not, and both sessions go on.
func TestSG7_OutOfWindow(t *testing.T) {
	t.Parallel()
	strict := func(p *nat.Policy) { p.DropBadResets = true }
	trial{policy: policy(nat.Profile{}, strict, static(B, E1), restrict("a", nil, everything, A), restrict("b", everything, nil, B))}.run(t, func(g *gate) {
		for _, rem := range []netip.Addr{B, R1} {
			to, from := at(rem, 80), at(A, 5000)
			if rem == R1 {
				from, to = at(R1, 5000), at(B, 80)
			}
			seen := func(src, dst end) (nat.AttachmentID, end, end) { // as it arrives
				if src.Addr() == R1 {
					return 1, src, at(E1, dst.Port())
				}
				return 0, src, dst
			}
			send := func(src, dst end, flags uint8, seq, ackNo uint32) result {
				id, s, d := seen(src, dst)
				return g.send(id, packet.From(tcp(s, d, flags, seq, ackNo, "")))[0]
			}
			for _, r := range []result{send(from, to, syn, 100, 0), send(to, from, syn|ack, 900, 101), send(from, to, ack, 101, 901)} {
				if r.Dropped() {
					g.Fatal(r.Verdict)
				}
			}
			id, s, d := seen(to, from)
			g.drops(nat.DropOutOfWindow, id, tcp(s, d, packet.RST, 900+1<<30, 0, ""))
			if r := send(to, from, ack, 901, 101); r.Dropped() {
				g.Fatal(r.Verdict)
			}
		}
	})
}

// TestSG7_HairpinInPieces: a datagram in pieces is gathered for the rules of its receiver, and cut again if a piece is too
// long for the link that it goes back to.
func TestSG7_HairpinInPieces(t *testing.T) {
	t.Parallel()
	for _, longest := range []int{560, 1000} {
		trial{policy: policy(nat.Profile{}, static(A, E1), static(B, E2), mtu(600, 1500), restrict("a", rules(allow(packet.UDP, 53)), nil, A))}.run(t, func(g *gate) {
			whole := craft.UDP(craft.IP{Src: B, Dst: E1, ID: 9}, 5000, 53, make([]byte, 1400))
			var all []emitted
			for _, b := range craft.Cut(whole, longest) {
				r := g.out(b)
				if r.Forward() {
					all = append(all, emitted{b: r.b})
				}
				all = append(all, r.emitted...)
			}
			if len(all) < 3 {
				g.Fatalf("%d pieces", len(all))
			}
			for _, e := range all {
				if len(e.b) > 600 {
					g.Errorf("a piece of %d bytes", len(e.b))
				}
			}
		})
	}
}

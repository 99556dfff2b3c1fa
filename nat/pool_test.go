// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TestPoolRouter: each NAT gateway answers for itself.
func TestPoolRouter(t *testing.T) {
	t.Parallel()
	p := policy(custom(), static(C, E1), bypassed(R2), mtu(0, 1000))
	p.Pools[0].Router = ip4("10.0.0.11")
	p.Pools = append(p.Pools, nat.Pool{Name: "second", Addresses: []netip.Addr{PB}, Router: ip4("10.0.0.12")}, nat.Pool{Name: "third"})
	for i, h := range []netip.Addr{B, addr10(1)} {
		p.Routes = append(p.Routes, nat.Route{Source: netip.PrefixFrom(h, 32), Pool: p.Pools[1+i].Name})
	}
	trial{policy: p}.run(t, func(g *gate) {
		for _, c := range []struct {
			src, dst, router netip.Addr
		}{{A, R1, ip4("10.0.0.11")}, {B, R1, ip4("10.0.0.12")}, {addr10(1), R1, G}, {C, R1, G}, {A, R2, G}, {A, B, G}, {A, E1, ip4("10.0.0.11")}} {
			b := craft.SetTTL(udp(at(c.src, 5000), at(c.dst, 80), "x"), 1)
			r := g.want(g.out(b), nat.DropTTL)
			if src, dst := addrs(r.emitted[0].b); src != c.router || dst != c.src {
				t.Errorf("%v to %v: %s", c.src, c.dst, craft.Describe(r.emitted[0].b))
			}
		}
		r := g.want(g.out(udp(at(B, 5000), at(R1, 80), string(make([]byte, 1000)))), nat.DropTooBig)
		if src, _ := addrs(r.emitted[0].b); src != ip4("10.0.0.12") {
			t.Errorf("%s", craft.Describe(r.emitted[0].b))
		}
	})
	p.Pools[0].Router = ip4("::1")
	if err := p.Validate(); err == nil || err.Error() != `pool "pool": router: ::1 is not an IPv4 address` {
		t.Error(err)
	}
}

// TestPrivatePool: a private NAT gateway has addresses of the inside, and translates all the same (NGW-2, NGW-11).
func TestPrivatePool(t *testing.T) {
	t.Parallel()
	ext := ip4("10.0.1.200")
	p := policy(custom())
	p.Pools[0].Addresses, p.Pools[0].Private = []netip.Addr{ext}, true
	before := policy(custom(), restrict("a", nil, everything, A))
	before.Pools[0].Addresses = []netip.Addr{PA}
	trial{policy: before}.run(t, func(g *gate) {
		g.want(g.out(udp(at(A, 5), at(ext, 6), "x")), nat.Untouched) // it is a host's yet
		if i := g.apply(p); i.Cut != 1 {
			t.Errorf("%+v", i)
		}
		c := g.dial(at(A, 5000), at(X, 443))
		if c.ext.Addr() != ext {
			t.Fatalf("leaves as %v", c.ext)
		}
		c.hears(ack|psh, "x")
		q := g.opens(packet.UDP, at(B, 5000), at(X, 53))
		g.reaches(at(B, 5000), udp(at(X, 53), q, "y"))
		g.want(g.in(icmp(R1, ext, packet.TimeExceeded, 0, 0, udp(q, at(X, 53), "data"))), nat.ErrorInbound)
		g.want(g.in(udp(at(X, 53), at(A, 5000), "y")), nat.DropUnassigned)
		for _, b := range [][]byte{ping(at(A, 1), ext), udp(at(A, 5001), q, "x"), tcp(at(B, 1), c.ext, syn, 1, 0, "")} {
			g.drops(nat.DropNoMapping, 0, b)
		}
		g.drops(nat.DropNoMapping, 1, ping(at(X, 1), ext))
		g.drops(nat.DropMartian, 1, udp(q, at(PA, 1), "x"))
		g.drops(nat.DropSpoof, 0, udp(q, at(X, 1), "x"))
	})
	p.Attachments[0].Sources = []netip.Prefix{insideNet}
	trial{policy: p}.run(t, func(g *gate) { g.drops(nat.DropSpoof, 0, udp(at(ext, 1), at(B, 1), "x")) })
	p.Static = []nat.Static{{Inside: ext, Outside: E1}}
	p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(ext, 1), Inside: at(ext, 2)}}
	restrict("a", nil, nil, ext)(&p)
	const want = `static 10.0.1.200 to 198.51.100.129: 10.0.1.200 belongs to pool "pool" already
forward 10.0.1.200:1 to 10.0.1.200:2: 10.0.1.200 belongs to pool "pool" already
restriction "a": 10.0.1.200 belongs to pool "pool" already`
	if err := p.Validate(); err == nil || err.Error() != want {
		t.Error(err)
	}
	p = policy(custom())
	p.Pools[0].Addresses = []netip.Addr{ext}
	if err := p.Validate(); err == nil {
		t.Error("accepted as a public one")
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
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

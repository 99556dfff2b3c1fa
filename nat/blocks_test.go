// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// blocks is the rfc profile with port blocks.
func blocks(n int, changes ...func(*nat.Profile)) nat.Profile {
	f := custom(anyClass, func(f *nat.Profile) { f.PortBlock = n })
	for _, c := range changes {
		c(&f)
	}
	return f
}

// someHosts are routed: 10.0.1.0/28, then 10.0.0.0/29.
func someHosts(p *nat.Policy) {
	p.Routes = []nat.Route{
		{Source: netip.MustParsePrefix("10.0.1.0/28"), Pool: "pool"},
		{Source: netip.MustParsePrefix("10.0.1.0/28"), Destination: netip.MustParsePrefix("203.0.113.0/24"), Pool: "pool"},
		{Source: netip.MustParsePrefix("10.0.0.0/29"), Pool: "pool"},
	}
}

// TestPortBlock: RFC 7422. A and B are 10.0.1.10 and .11 of 10.0.1.0/28, the gateway 10.0.0.1 of 10.0.0.0/29, so they are
// numbers 10, 11 and 17. With 14 blocks an address the third is on the second address.
func TestPortBlock(t *testing.T) {
	p := policy(blocks(8, ports(2000, 2115), func(f *nat.Profile) { f.PreserveParity = true }), someHosts, twoAddresses)
	p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(PA, 2081), Inside: at(C, 53)}}
	p.Services = []nat.Service{{Protocol: packet.UDP, Endpoint: at(PB, 2082)}}
	want := map[netip.Addr]struct {
		ext    netip.Addr
		lo, hi uint16
	}{A: {PA, 2080, 2087}, B: {PA, 2088, 2095}, G: {PB, 2024, 2031}}
	for _, proto := range []uint8{packet.TCP, packet.UDP, packet.ICMP} {
		for host, w := range want {
			trial{policy: p, oneShard: true}.run(t, func(g *gate) {
				n := uint16(8)
				if host == A && proto == packet.UDP {
					n = 6 // the forward and the service have one each
				}
				for i := range n {
					ext := g.opens(proto, at(host, 5000+i), at(R1, 80))
					if ext.Addr() != w.ext || ext.Port() < w.lo || ext.Port() > w.hi {
						g.Errorf("%v has %v, want %v from %d to %d", host, ext, w.ext, w.lo, w.hi)
					}
					if who, ok := p.Subscriber(ext); !ok || who != host {
						g.Errorf("%v is of %v, not %v", ext, host, who)
					}
					g.reaches(at(host, 5000+i), answer(proto, at(R1, 80), ext))
				}
				g.want(g.out(of(proto, at(host, 6000), at(R1, 80))), nat.DropNoPort)
			})
		}
	}
}

// TestPortBlockOverlapping: by destination, too, a host has its own ports only; and each shard has some of each block.
func TestPortBlockOverlapping(t *testing.T) {
	p := policy(blocks(8, overlapping, ports(2000, 2200)), someHosts)
	trial{policy: p}.run(t, func(g *gate) {
		for i := range 40 { // no two to one destination
			for _, host := range []netip.Addr{A, B, C} {
				ext := g.opens(packet.TCP, at(host, uint16(5000+i)), at(far(i), 80))
				if who, ok := p.Subscriber(ext); !ok || who != host {
					g.Errorf("%v is of %v, not %v", ext, host, who)
				}
			}
		}
	})
}

// TestPortBlockMoves: who has another block under a new policy has no session of the old one.
func TestPortBlockMoves(t *testing.T) {
	p := policy(blocks(8, ports(2000, 2200)), someHosts)
	trial{policy: p}.run(t, func(g *gate) {
		for port := range uint16(3) {
			g.opens(packet.UDP, at(A, 5000+port), at(R1, 80))
		}
		old := g.opens(packet.UDP, at(G, 5000), at(R1, 80))
		q := p
		q.Routes = p.Routes[1:]
		if i := g.apply(q); i.Cut != 0 { // the same sources, in the same order
			g.Errorf("%+v", i)
		}
		q.Routes = []nat.Route{p.Routes[2], p.Routes[0]}
		if i := g.apply(q); i.Cut != 4 || i.Kept != 0 {
			g.Errorf("%+v", i)
		}
		g.drops(nat.DropNoMapping, 1, udp(at(R1, 80), old, ""))
		if was, _ := p.Subscriber(old); was != G {
			g.Errorf("%v was of %v", old, was)
		}
		if now := g.opens(packet.UDP, at(G, 5000), at(R1, 80)); now.Port() < 2008 || now.Port() > 2015 {
			g.Errorf("number 1 has %v", now)
		}
	})
}

// TestPortBlockArithmetic: a /16 on 256 addresses, 252 ports each (RFC 7422, section 2), there and back.
func TestPortBlockArithmetic(t *testing.T) {
	p := policy(blocks(252))
	p.Pools[0].Addresses = nil
	for i := range 256 {
		p.Pools[0].Addresses = append(p.Pools[0].Addresses, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	in := netip.MustParseAddr("10.0.0.0")
	for a := range 256 {
		for block := range 256 {
			lo := 1024 + block*252
			for _, port := range []int{lo, lo + 251} {
				ext := at(p.Pools[0].Addresses[a], uint16(port))
				if got, ok := p.Subscriber(ext); !ok || got != in {
					t.Fatalf("%v is of %v, want %v", ext, got, in)
				}
			}
			in = in.Next()
		}
	}
	p.Routes[0].Source = netip.MustParsePrefix("10.0.0.0/24")
	for _, nobody := range []end{at(PA, 1023), at(PA, 2000), at(GX, 2000), at(R1, 2000)} {
		if got, ok := p.Subscriber(nobody); ok {
			t.Errorf("%v is of %v", nobody, got)
		}
	}
}

func TestPortBlockFaults(t *testing.T) {
	good := func(p *nat.Policy) {}
	pool := func(f func(*nat.Pool)) func(*nat.Policy) { return func(p *nat.Policy) { f(&p.Pools[0]) } }
	route := func(source string) func(*nat.Policy) {
		return func(p *nat.Policy) {
			p.Routes = append(p.Routes, nat.Route{Source: netip.MustParsePrefix(source), Pool: "pool"})
		}
	}
	for name, c := range map[string]struct {
		shards int
		change func(*nat.Policy)
		want   string
	}{
		"good":           {4, good, ""},
		"negative":       {1, pool(func(q *nat.Pool) { q.Profile.PortBlock = -1 }), "a block of -1 ports"},
		"too large":      {1, pool(func(q *nat.Pool) { q.Profile.PortBlock = 202 }), "a block of 202 ports: want 1 to 201"},
		"other pooling":  {1, pool(func(q *nat.Pool) { q.Profile.Pooling = nat.PairedSoft }), "paired pooling"},
		"classes":        {1, pool(func(q *nat.Pool) { q.Profile.PreserveClass = true }), "turn off PreserveClass"},
		"draining":       {1, pool(func(q *nat.Pool) { q.Draining = []netip.Addr{PB} }), "cannot drain"},
		"too many hosts": {1, route("10.0.2.0/31"), "26 inside addresses are routed to it, and it has 25 blocks of 8 ports"},
		"everybody":      {1, route("0.0.0.0/0"), "overlap"},
		"overlap":        {1, route("10.0.1.8/30"), "10.0.1.0/28 and 10.0.1.8/30 are both routed"},
		"many shards":    {8, good, "a block of 8 ports is too small for 8 shards: want 16"},
	} {
		p := policy(blocks(8, ports(2000, 2200)), someHosts)
		c.change(&p)
		e, err := nat.New(nat.Config{Shards: c.shards}, &p)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case e != nil:
			q := p
			q.Pools = []nat.Pool{p.Pools[0]}
			q.Pools[0].Profile.PortBlock = 6
			if _, err := e.Apply(&q, 0); err == nil || !strings.Contains(err.Error(), "too small for 4 shards") {
				t.Errorf("Apply: %v", err)
			}
		}
	}
}

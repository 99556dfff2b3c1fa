// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"net/netip"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// sink is an internet that remembers what it was sent.
type sink struct {
	tun.Device
	got []netip.Addr
}

func (s *sink) MTU() (int, error) { return 1500, nil }
func (s *sink) Write(ps []packet.Packet) (int, error) {
	for i := range ps {
		s.got = append(s.got, netip.AddrFrom4([4]byte(ps[i].Bytes()[16:])))
	}
	return len(ps), nil
}

func between(src, dst string) packet.Packet {
	b := make([]byte, 28)
	a, z := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], a[:])
	copy(b[16:], z[:])
	return packet.From(b)
}

// Where a packet goes, and that none with a private or foreign source gets to the internet, nor a spoofed one in.
func TestExchange(t *testing.T) {
	out := &sink{}
	x := newExchange(out)
	x.private = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	a, b, c := x.plug("vpc-a"), x.plug("vpc-b"), x.plug("vpc-c")
	address := netip.MustParseAddr
	x.steer("vpc-a", &nat.Policy{Static: []nat.Static{{Inside: address("10.0.0.4"), Outside: address("198.51.100.1")}}})
	x.steer("vpc-b", &nat.Policy{Pools: []nat.Pool{
		{Addresses: []netip.Addr{address("198.51.100.2")}, Draining: []netip.Addr{address("198.51.100.3")}},
		{Addresses: []netip.Addr{address("10.1.0.9")}, Private: true},
	}})
	transit := map[string][]network{"vpc-a": {{netip.MustParsePrefix("10.1.0.0/16"), "vpc-b"}}, "vpc-b": {{netip.MustParsePrefix("10.0.0.0/16"), "vpc-a"}}}
	if pool := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}; !x.serve(pool, transit) || x.serve(pool, transit) {
		t.Error("the pool has changed once")
	}
	for _, test := range []struct {
		what, from, src, dst string
		to                   *outlet
		internet             bool
	}{
		{"an address of a", "", "203.0.113.9", "198.51.100.1", a, false},
		{"an address of b's gateway", "", "203.0.113.9", "198.51.100.2", b, false},
		{"one that drains", "", "203.0.113.9", "198.51.100.3", b, false},
		{"nobody's address is refused by an engine", "", "203.0.113.9", "198.51.100.7", a, false},
		{"a private address, from the internet", "", "203.0.113.9", "10.1.0.9", nil, false},
		{"a private address, as a peer", "", "10.0.0.4", "10.1.0.9", nil, false},
		{"a private address that the internet routes here is refused by an engine", "", "203.0.113.9", "10.9.0.1", a, false},
		{"one of our own sources, to that address", "", "198.51.100.2", "10.9.0.1", nil, false},
		{"private, from a VPC, to that address", "vpc-a", "10.0.0.4", "10.9.0.1", nil, false},
		{"something else, from the internet", "", "203.0.113.9", "192.0.2.1", nil, false},
		{"one of our own sources, from the internet", "", "198.51.100.2", "198.51.100.1", nil, false},
		{"out", "vpc-a", "198.51.100.1", "203.0.113.9", nil, true},
		{"to the other VPC", "vpc-a", "198.51.100.1", "198.51.100.2", b, false},
		{"private, to the internet", "vpc-a", "10.0.0.4", "203.0.113.9", nil, false},
		{"private, to a public address", "vpc-a", "10.0.0.4", "198.51.100.2", nil, false},
		{"to the peer", "vpc-a", "10.0.0.4", "10.1.0.9", b, false},
		{"from the peer", "vpc-b", "10.1.0.9", "10.0.0.4", a, false},
		{"without a transit gateway", "vpc-c", "10.2.0.4", "10.0.0.4", nil, false},
	} {
		out.got = nil
		before, p := x.dropped.Load(), between(test.src, test.dst)
		if err := x.send(test.from, []packet.Packet{p}); err != nil {
			t.Fatal(err)
		}
		for _, o := range []*outlet{a, b, c} {
			if got := len(o.in) == 1; got != (o == test.to) {
				t.Errorf("%s: %s has it: %v", test.what, o.vpc, got)
			}
			for len(o.in) > 0 {
				<-o.in
			}
		}
		if got := len(out.got) == 1; got != test.internet {
			t.Errorf("%s: the internet has it: %v", test.what, got)
		}
		if got := x.dropped.Load() == before+1; got != (test.to == nil && !test.internet) {
			t.Errorf("%s: dropped: %v", test.what, got)
		}
	}
	// An address is withdrawn with the policy, an outlet with its edge.
	x.steer("vpc-b", nil)
	_ = a.Close()
	if to, _ := x.way("", address("203.0.113.9"), address("198.51.100.2")); to != b {
		t.Errorf("%v has it", to)
	}
	if n, err := a.Write([]packet.Packet{between("198.51.100.1", "203.0.113.9")}); n != 0 || err == nil {
		t.Errorf("a closed outlet took %d, %v", n, err)
	}
}

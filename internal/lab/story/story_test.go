// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

func TestParseTraceroute(t *testing.T) {
	want := []string{"10.0.1.4", "*", "203.0.113.10"}
	for name, out := range map[string]string{
		"traceroute": "traceroute to 203.0.113.10 (203.0.113.10), 8 hops max, 60 byte packets\n" +
			" 1  10.0.1.4 (10.0.1.4)  0.250 ms\n 2  *\n 3  mirror (203.0.113.10)  0.205 ms\n",
		"inetutils": "traceroute to 203.0.113.10 (203.0.113.10), 8 hops max\n" +
			"  1   10.0.1.4  0,012ms \n  2   * \n  3   203.0.113.10  0,045ms \n",
	} {
		if got := parseTraceroute(out); !slices.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// route is a host at the end of a path with MTUs by hop.
type route struct {
	Host
	mtus []int
	dst  netip.Addr
}

func (p route) Probe(_ context.Context, q lab.Probe) (lab.ProbeReply, error) {
	for i, mtu := range p.mtus {
		router := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		switch {
		case q.TTL == i+1:
			return lab.ProbeReply{From: router, Type: packet.TimeExceeded}, nil
		case mtu == 0:
			return lab.ProbeReply{}, errors.New("a black hole")
		case q.Size > mtu:
			return lab.ProbeReply{From: router, Type: packet.Unreachable, Code: fragNeeded, MTU: mtu}, nil
		}
	}
	return lab.ProbeReply{From: p.dst, Type: packet.Unreachable, Code: portUnreach}, nil
}

func TestPathsInGo(t *testing.T) {
	ctx := context.Background()
	p := route{mtus: []int{1500, 1450, 1400}, dst: mirrorAddr}
	hops, err := Tools{}.traceroute(ctx, p, mirrorAddr)
	if want := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", mirrorAddr.String()}; !slices.Equal(hops, want) || err != nil {
		t.Errorf("traceroute: %v, %v", hops, err)
	}
	if mtu, err := (Tools{}).pathMTU(ctx, p, mirrorAddr); mtu != 1400 || err != nil {
		t.Errorf("pathMTU: %d, %v", mtu, err)
	}
	p.mtus[1] = 0
	if hops, _ := (Tools{}).traceroute(ctx, p, mirrorAddr); len(hops) != maxHops || hops[2] != "*" {
		t.Errorf("traceroute into a black hole: %v", hops)
	}
	if mtu, err := (Tools{}).pathMTU(ctx, p, mirrorAddr); err == nil {
		t.Errorf("pathMTU into a black hole: %d", mtu)
	}
}

// without leaves all addresses but one.
func TestWithout(t *testing.T) {
	whole := netip.MustParsePrefix("198.51.100.128/29")
	other := netip.MustParsePrefix("198.51.100.8/32")
	for gone := whole.Addr(); whole.Contains(gone); gone = gone.Next() {
		left := without([]netip.Prefix{whole, other}, gone)
		for a := whole.Addr(); whole.Contains(a); a = a.Next() {
			n := 0
			for _, p := range left {
				if p.Contains(a) {
					n++
				}
			}
			if want := 1; a == gone && n != 0 || a != gone && n != want {
				t.Fatalf("without %v: %v", gone, left)
			}
		}
		if !slices.Contains(left, other) {
			t.Fatalf("without %v: %v", gone, left)
		}
	}
}

// Each fault leaves a policy that the engine takes, through all the changes of the story.
func TestFaultyPolicies(t *testing.T) {
	for _, name := range append(FaultNames(), "none") {
		n, err := NewNetwork()
		if err != nil {
			t.Fatal(err)
		}
		var fault lab.Fault
		if name != "none" {
			fault = Faults[name].Plant()
		}
		var old *nat.Policy
		for _, change := range []struct {
			what string
			do   func() error
		}{
			{"nothing", func() error { return nil }},
			{"associate", func() error { _, err := n.associate(Was); return err }},
			{"disassociate", func() error { return n.disassociate(Was) }},
			{"NAT gateway", func() error { _, err := n.natGateway(); return err }},
			{"stop", func() error { return n.stop(Web) }},
			{"start", func() error { return n.start(Web) }},
		} {
			if err := change.do(); err != nil {
				t.Fatalf("%s: %v", change.what, err)
			}
			p, err := n.Policy()
			if err != nil {
				t.Fatalf("%s: %v", change.what, err)
			}
			if fault.Policy != nil {
				p = fault.Policy(old, p)
			}
			if err := p.Validate(); err != nil {
				t.Errorf("fault %s, %s: %v", name, change.what, err)
			}
			old = p
		}
	}
}

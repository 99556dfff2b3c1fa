// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/stuntest"
	"github.com/tidegate/tidegate/nat/nattest"
)

const (
	independent = stuntest.EndpointIndependent
	dependent   = stuntest.AddressAndPortDependent

	anybody  = stuntest.FilterEndpointIndependent
	address  = stuntest.FilterAddressDependent
	endpoint = stuntest.FilterAddressAndPortDependent
)

// stunServer is an RFC 5780 server on two hosts of the internet: it needs two addresses.
func stunServer(t *testing.T, n *nattest.Network) *stuntest.Server {
	t.Helper()
	hosts := [2]*nattest.Host{n.Host("stun-a"), n.Host("stun-b")}
	listen := func(at netip.AddrPort) (net.PacketConn, error) {
		if at.Addr() == hosts[0].Addr() {
			return hosts[0].ListenPacket("udp", at.String())
		}
		return hosts[1].ListenPacket("udp", at.String())
	}
	s, err := stuntest.Listen(listen, [2]netip.Addr{hosts[0].Addr(), hosts[1].Addr()}, [2]uint16{3478, 3479})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// stunClient asks it from a host.
func stunClient(s *stuntest.Server, h *nattest.Host) *stuntest.Client {
	return &stuntest.Client{
		Server: s.Addr(),
		Open:   func() (net.PacketConn, error) { return h.ListenPacket("udp", ":0") },
	}
}

// TestPresetsSTUN: each preset is, to a client behind it, what its name says. The engine is not asked.
func TestPresetsSTUN(t *testing.T) {
	type behaviour struct {
		mapping   stuntest.Mapping
		filtering stuntest.Filtering
		hairpin   bool
		lifetime  time.Duration // of UDP
	}
	want := map[string]behaviour{
		"full-cone":            {independent, anybody, true, 300 * time.Second},
		"restricted-cone":      {independent, address, true, 300 * time.Second},
		"port-restricted-cone": {independent, endpoint, true, 300 * time.Second},
		"symmetric":            {dependent, endpoint, false, 300 * time.Second},
		"rfc7857":              {independent, anybody, true, 300 * time.Second},
		"aws-nat-gateway":      {dependent, endpoint, false, 350 * time.Second},
		"linux-masquerade":     {independent, endpoint, false, 120 * time.Second}, // as long as nobody wants the same port
		"carrier-grade":        {independent, anybody, true, 300 * time.Second},
		"double-nat":           {independent, endpoint, true, 300 * time.Second},
		"corporate":            {dependent, endpoint, false, 30 * time.Second},
	}
	for _, b := range nattest.Presets() {
		t.Run(b.Name, func(t *testing.T) {
			nattest.Run(t, nattest.Config{Seed: 1}, func(t *testing.T, n *nattest.Network) {
				client := stunClient(stunServer(t, n), n.NAT(b).Host("client"))
				got, err := client.Discover(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				lifetime, err := client.Lifetime(t.Context(), time.Hour, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				// Between a second too little, the precision, and what the probes themselves take.
				w := want[b.Name]
				if w.lifetime-2*time.Second < lifetime && lifetime < w.lifetime {
					lifetime = w.lifetime
				}
				if g := (behaviour{got.Mapping, got.Filtering, got.Hairpin, lifetime}); g != w {
					t.Errorf("got %+v, want %+v", g, w)
				}
			})
		})
	}
}

// TestLinuxMasquerade: it looks endpoint-independent until two hosts want one port.
func TestLinuxMasquerade(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := stunServer(t, n)
		x := n.NAT(nattest.LinuxMasquerade())
		discover := func(h *nattest.Host) stuntest.Behaviour {
			t.Helper()
			c := stunClient(server, h)
			c.Open = func() (net.PacketConn, error) { return h.ListenPacket("udp", ":5000") }
			mapped, mapping, err := c.Mapping(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return stuntest.Behaviour{Mapped: mapped, Mapping: mapping}
		}
		if b := discover(x.Host("first")); b.Mapping != independent || b.Mapped.Port() != 5000 {
			t.Errorf("the first host: %+v", b)
		}
		if b := discover(x.Host("second")); b.Mapping != dependent || b.Mapped.Port() == 5000 {
			t.Errorf("the second host with that port: %+v", b)
		}
	})
}

// TestCarrierGrade: a host's ports are in its block, on one address, and name the host.
func TestCarrierGrade(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := stunServer(t, n)
		b := nattest.CarrierGrade()
		x := n.NAT(b)
		for _, name := range []string{"alice", "bob"} {
			host := x.Host(name)
			client := stunClient(server, host)
			var low, high netip.AddrPort
			for range 20 {
				mapped, _, err := client.Mapping(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !low.IsValid() || mapped.Compare(low) < 0 {
					low = mapped
				}
				if mapped.Compare(high) > 0 {
					high = mapped
				}
				if who, ok := x.Policy().Subscriber(mapped); !ok || who != host.Addr() {
					t.Errorf("%v is %s's, not %v's (%v)", mapped, name, who, ok)
				}
			}
			if low.Addr() != high.Addr() || int(high.Port()-low.Port()) >= b.Profile.PortBlock || low == high {
				t.Errorf("%s has the ports from %v to %v", name, low, high)
			}
		}
	})
}

// TestDoubleNAT: a host behind two NATs has one of the carrier's addresses, and the two are not one.
func TestDoubleNAT(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := stunServer(t, n)
		home := n.NAT(nattest.DoubleNAT())
		carrier := home.Upstream()
		mapped, _, err := stunClient(server, home.Host("laptop")).Mapping(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if mapped.Addr() != carrier.Public() && mapped.Addr() != carrier.Publics()[1] {
			t.Errorf("the server sees %v, of neither %v", mapped, carrier.Publics())
		}
		if !carrier.Inside().Contains(home.Public()) {
			t.Errorf("the home NAT has %v, which is not in the carrier's %v", home.Public(), carrier.Inside())
		}
		if who, ok := carrier.Policy().Subscriber(mapped); !ok || who != home.Public() {
			t.Errorf("to the carrier %v is %v's (%v)", mapped, who, ok)
		}
	})
}

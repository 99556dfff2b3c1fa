// SPDX-License-Identifier: Apache-2.0

package stuntest_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/tidegate/tidegate/internal/stuntest"
)

// TestLoopback is over sockets of the system, with no NAT at all. (Linux has all of 127/8.)
func TestLoopback(t *testing.T) {
	t.Parallel()
	listen := func(at netip.AddrPort) (net.PacketConn, error) { return net.ListenPacket("udp4", at.String()) }
	var ports [2]uint16 // free ones, most probably at both addresses
	for i := range ports {
		c, err := listen(netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ports[i] = netip.MustParseAddrPort(c.LocalAddr().String()).Port()
	}
	s, err := stuntest.Listen(listen, [2]netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}, ports)
	if err != nil {
		t.Fatal(err)
	}
	c := &stuntest.Client{Open: func() (net.PacketConn, error) { return net.ListenPacket("udp4", "127.0.0.1:0") }, Server: s.Addr()}
	b, err := c.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := stuntest.Behaviour{Mapping: stuntest.EndpointIndependent, Filtering: stuntest.FilterEndpointIndependent, Hairpin: true, Mapped: b.Mapped}
	if b != want {
		t.Errorf("got %+v, want %+v", b, want)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

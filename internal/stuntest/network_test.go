// SPDX-License-Identifier: Apache-2.0

package stuntest_test

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/stuntest"
)

var (
	inside = netip.MustParseAddr("10.0.0.1")
	public = netip.MustParseAddr("203.0.113.1")
)

// network is an internet in memory, and a host behind a NAT of any kind.
type network struct {
	mapping   stuntest.Mapping
	filtering stuntest.Filtering
	hairpin   bool
	// internal has hairpinned datagrams keep the source inside, as RFC 4787 REQ-9a forbids.
	internal bool
	lifetime time.Duration
	// lose says of each datagram that a socket sends, counted from 1, whether it is lost.
	lose func(n int) bool

	mu       sync.Mutex
	sockets  map[netip.AddrPort]*socket
	mappings []*mapping
	sent     int
	ports    uint16
}

type mapping struct {
	inside, remote, external netip.AddrPort
	sentTo                   map[netip.AddrPort]bool
	last                     time.Time
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

func (n *network) listen(at netip.AddrPort) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Port() == 0 {
		n.ports++
		at = netip.AddrPortFrom(at.Addr(), 5000+n.ports)
	}
	if n.sockets == nil {
		n.sockets = map[netip.AddrPort]*socket{}
	}
	if n.sockets[at] != nil {
		return nil, os.ErrExist
	}
	s := &socket{net: n, addr: at, in: make(chan datagram, 16), closed: make(chan struct{})}
	n.sockets[at] = s
	return s, nil
}

func (n *network) open() (net.PacketConn, error) { return n.listen(netip.AddrPortFrom(inside, 0)) }

func (n *network) send(from, to netip.AddrPort, data []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	if n.lose != nil && n.lose(n.sent) {
		return
	}
	src := from
	if from.Addr() == inside {
		src = n.out(from, to).external
	}
	if to.Addr() == public {
		m := n.in(src, to)
		if m == nil || from.Addr() == inside && !n.hairpin {
			return
		}
		if n.internal {
			src = from
		}
		to = m.inside
	}
	if s := n.sockets[to]; s != nil {
		s.in <- datagram{src, data}
	}
}

func (n *network) out(from, to netip.AddrPort) *mapping {
	key := to
	switch n.mapping {
	case stuntest.EndpointIndependent:
		key = netip.AddrPort{}
	case stuntest.AddressDependent:
		key = netip.AddrPortFrom(to.Addr(), 0)
	}
	for _, m := range n.mappings {
		if m.inside == from && m.remote == key && n.alive(m) {
			m.sentTo[to], m.last = true, time.Now()
			return m
		}
	}
	n.ports++
	m := &mapping{from, key, netip.AddrPortFrom(public, 20000+n.ports), map[netip.AddrPort]bool{to: true}, time.Now()}
	n.mappings = append(n.mappings, m)
	return m
}

func (n *network) in(from, to netip.AddrPort) *mapping {
	for _, m := range n.mappings {
		if m.external != to || !n.alive(m) {
			continue
		}
		for a := range m.sentTo {
			switch {
			case n.filtering == stuntest.FilterEndpointIndependent,
				n.filtering == stuntest.FilterAddressDependent && a.Addr() == from.Addr(),
				a == from:
				return m
			}
		}
	}
	return nil
}

func (n *network) alive(m *mapping) bool { return n.lifetime == 0 || time.Since(m.last) < n.lifetime }

// socket is one that its reader gives a deadline before each read.
type socket struct {
	net      *network
	addr     netip.AddrPort
	in       chan datagram
	closed   chan struct{}
	deadline time.Time
}

func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	var expired <-chan time.Time
	if !s.deadline.IsZero() {
		t := time.NewTimer(time.Until(s.deadline))
		defer t.Stop()
		expired = t.C
	}
	select {
	case d := <-s.in:
		return copy(b, d.data), net.UDPAddrFromAddrPort(d.from), nil
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case <-s.closed:
		return 0, nil, net.ErrClosed
	}
}

func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	s.net.send(s.addr, netip.MustParseAddrPort(to.String()), append([]byte(nil), b...))
	return len(b), nil
}

func (s *socket) Close() error {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	delete(s.net.sockets, s.addr)
	close(s.closed)
	return nil
}

func (s *socket) SetReadDeadline(t time.Time) error  { s.deadline = t; return nil }
func (s *socket) SetDeadline(t time.Time) error      { return s.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(_ time.Time) error { return nil }
func (s *socket) LocalAddr() net.Addr                { return net.UDPAddrFromAddrPort(s.addr) }

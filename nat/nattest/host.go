// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/netstack"
)

// Host is a host with a TCP/IP stack of its own. Its connections are those of package net, and their errors, too: a
// refused connection is syscall.ECONNREFUSED, a deadline os.ErrDeadlineExceeded.
//
// Where an address is wanted, the name of a host of the same network does as well: "server:80". It stands for the address
// that the host itself has.
//
// In one thing connections are not as in package net: they send no TCP keep-alives before SetKeepAlive, so that idle ones
// are idle. They have the methods CloseRead, CloseWrite, SetKeepAlive and SetKeepAlivePeriod of net.TCPConn;
// those of UDP have SetTTL(uint8) error.
type Host struct {
	name  string
	net   *Network
	stack *netstack.Host
	port  *port
	http  *http.Transport
}

func (s *site) host(name string, link []Link) *Host {
	n := s.net
	n.tb.Helper()
	if err := n.checkName(name); err != nil {
		n.tb.Fatalf("nattest: %v", err)
	}
	l := n.link(link)
	addr, ok := s.allocate(s.prefix, &s.next)
	if !ok {
		n.tb.Fatalf("nattest: host %s: %v is full", name, s.prefix)
	}
	h := &Host{name: name, net: n}
	h.port = s.attach(name, l, func(b []byte) { h.stack.Inject(b) })
	var err error
	h.stack, err = netstack.New(netstack.Config{
		Addrs: []netip.Addr{addr}, MTU: l.mtu(), Seed: n.seed ^ uint64(h.port.owner.number)<<32,
		Output: h.port.emit, AfterFunc: n.clock.timers(&h.port.owner), Wake: n.clock.release,
	})
	if err != nil {
		n.tb.Fatalf("nattest: host %s: %v", name, err)
	}
	s.setPort(addr, h.port)
	h.http = &http.Transport{DialContext: h.DialContext}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[name] = h
	return h
}

// checkName: names stand where addresses do, so they must not be any.
func (n *Network) checkName(name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch _, err := netip.ParseAddr(name); {
	case err == nil || name == "" || strings.ContainsAny(name, ":[]%/ "):
		return fmt.Errorf("%q is no name for a host: it would not do in an address", name)
	case n.hosts[name] != nil:
		return fmt.Errorf("there are two hosts with the name %q", name)
	}
	return nil
}

func (h *Host) close() error {
	h.http.CloseIdleConnections()
	return h.stack.Close()
}

// Name is what the host was called when it was made.
func (h *Host) Name() string { return h.name }

// Addr is the host's own address: behind a NAT a private one.
func (h *Host) Addr() netip.Addr { return h.stack.Addr() }

// SetLink changes the host's link from now on. The MTU of its interface stays.
func (h *Host) SetLink(l Link) { h.port.setLink(l) }

func (p *port) setLink(l Link) {
	n := p.site.net
	n.tb.Helper()
	if err := l.validate(); err != nil {
		n.tb.Fatalf("nattest: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
}

// resolve puts the address of a host in place of its name.
func (h *Host) resolve(address string) string {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return address // the stack says what is wrong with it
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if to := h.net.hosts[name]; to != nil {
		return net.JoinHostPort(to.Addr().String(), port)
	}
	return address
}

// Dial is as net.Dial with "tcp" or "udp".
func (h *Host) Dial(network, address string) (net.Conn, error) {
	return h.DialContext(context.Background(), network, address)
}

// DialContext is as net.Dialer.DialContext: it fits http.Transport.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.stack.DialContext(ctx, network, h.resolve(address))
}

// DialFrom is DialContext from a local port, 0 being any.
func (h *Host) DialFrom(ctx context.Context, network string, port uint16, address string) (net.Conn, error) {
	return h.stack.DialFrom(ctx, network, port, h.resolve(address))
}

// Listen is as net.Listen with "tcp".
func (h *Host) Listen(network, address string) (net.Listener, error) {
	return h.stack.Listen(network, h.resolve(address))
}

// ListenPacket is as net.ListenPacket with "udp".
func (h *Host) ListenPacket(network, address string) (net.PacketConn, error) {
	return h.stack.ListenPacket(network, h.resolve(address))
}

// Ping sends an ICMP echo request and waits for its reply, for a minute at most.
func (h *Host) Ping(to netip.Addr) (rtt time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("no answer in a minute"))
	defer cancel()
	return h.stack.Ping(ctx, to, 56)
}

// HTTPClient is a client whose connections are the host's, and are closed with it.
func (h *Host) HTTPClient() *http.Client { return &http.Client{Transport: h.http} }

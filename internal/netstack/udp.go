// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// UDPConn is a UDP socket: a net.PacketConn, and a net.Conn if it was dialed.
type UDPConn struct{ *socket }

// ListenUDP opens a socket that hears everybody. Port 0 is a free one.
func (h *Host) ListenUDP(local netip.AddrPort) (*UDPConn, error) {
	return h.udp("listen", local, netip.AddrPort{})
}

// DialUDP opens a socket that hears one peer, and its ICMP errors.
func (h *Host) DialUDP(local, remote netip.AddrPort) (*UDPConn, error) {
	return h.udp("dial", local, remote)
}

func (h *Host) udp(op string, local, remote netip.AddrPort) (*UDPConn, error) {
	s, err := h.open("udp", udp.ProtocolNumber, local, remote)
	if err != nil {
		return nil, opError(op, "udp", net.UDPAddrFromAddrPort(local), nil, err)
	}
	var refused tcpip.Error
	h.do(func() {
		s.ep.SocketOptions().SetBroadcast(true) // as package net does
		// The stack learns no path MTU for UDP: with DF, what is too big would be lost for ever.
		refused = s.ep.SetSockOptInt(tcpip.MTUDiscoverOption, int(tcpip.PMTUDiscoveryDont))
		if refused == nil && remote.IsValid() {
			refused = s.ep.Connect(fullAddress(remote))
			s.remote = net.UDPAddrFromAddrPort(remote)
		}
		if a, err := s.ep.GetLocalAddress(); err == nil {
			s.local = net.UDPAddrFromAddrPort(addrPort(a))
		}
	})
	if refused != nil {
		_ = s.shut(s.ep.Abort)
		return nil, opError(op, "udp", net.UDPAddrFromAddrPort(local), s.remote, goError(refused))
	}
	return &UDPConn{s}, nil
}

// ReadFrom is net.PacketConn's. What does not fit b is lost.
func (c *UDPConn) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	n, a, err := c.ReadFromAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(a), nil
}

// ReadFromAddrPort is as with net.UDPConn.
func (c *UDPConn) ReadFromAddrPort(b []byte) (n int, from netip.AddrPort, err error) {
	err = c.try(waiter.ReadableEvents|waiter.EventErr, &c.read, context.Background(), func() tcpip.Error {
		w := tcpip.SliceWriter(b)
		r, err := c.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		if _, short := err.(*tcpip.ErrBadBuffer); short {
			err = nil // the datagram is longer than b
		}
		n, from = r.Count, addrPort(r.RemoteAddr)
		return err
	})
	return n, from, c.opError("read", err)
}

// Read is net.Conn's.
func (c *UDPConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromAddrPort(b)
	return n, err
}

// Write is net.Conn's, of a socket that was dialed.
func (c *UDPConn) Write(b []byte) (int, error) { return c.send(b, nil) }

// WriteTo is net.PacketConn's, to a *net.UDPAddr.
func (c *UDPConn) WriteTo(b []byte, to net.Addr) (int, error) {
	a, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, opError("write", "udp", c.local, to, fmt.Errorf("%v is no UDP address", to))
	}
	return c.WriteToAddrPort(b, a.AddrPort())
}

// WriteToAddrPort is as with net.UDPConn.
func (c *UDPConn) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if a := to.Addr(); !a.Unmap().Is4() {
		return 0, c.opError("write", notIPv4(a))
	}
	f := fullAddress(to)
	return c.send(b, &f)
}

func (c *UDPConn) send(b []byte, to *tcpip.FullAddress) (n int, err error) {
	err = c.try(waiter.WritableEvents|waiter.EventErr, &c.write, context.Background(), func() tcpip.Error {
		m, err := c.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{To: to})
		n = int(m)
		return err
	})
	return n, c.opError("write", err)
}

// SetTTL sets the time to live of what is sent from now on; 0 is the default.
func (c *UDPConn) SetTTL(ttl uint8) error {
	var err tcpip.Error
	c.host.do(func() { err = c.ep.SetSockOptInt(tcpip.IPv4TTLOption, int(ttl)) })
	return c.opError("setsockopt", goError(err))
}

// DontFragment sets DF in what is sent from now on.
func (c *UDPConn) DontFragment() error {
	var err tcpip.Error
	c.host.do(func() { err = c.ep.SetSockOptInt(tcpip.MTUDiscoverOption, int(tcpip.PMTUDiscoveryDo)) })
	return c.opError("setsockopt", goError(err))
}

// Close is net.PacketConn's.
func (c *UDPConn) Close() error { return c.shut(c.ep.Close) }

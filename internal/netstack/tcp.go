// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is how many connections a listener keeps for Accept.
const backlog = 1024

// TCPConn is a TCP connection: a net.Conn, and half of it can be closed.
type TCPConn struct{ *socket }

// DialTCP connects from a local address, of which the address, the port or both may be missing.
func (h *Host) DialTCP(ctx context.Context, local, remote netip.AddrPort) (*TCPConn, error) {
	to := net.TCPAddrFromAddrPort(remote)
	s, err := h.open("tcp", tcp.ProtocolNumber, local, remote)
	if err != nil {
		return nil, opError("dial", "tcp", nil, to, err)
	}
	s.remote = to
	started := false
	err = s.try(waiter.WritableEvents|waiter.EventHUp|waiter.EventErr, &s.write, ctx, func() tcpip.Error {
		if !started {
			started = true
			return s.ep.Connect(fullAddress(remote))
		}
		if s.ep.Readiness(waiter.WritableEvents|waiter.EventHUp|waiter.EventErr) == 0 {
			return &tcpip.ErrWouldBlock{}
		}
		if tcp.EndpointState(s.ep.State()) == tcp.StateEstablished {
			return nil
		}
		if err := s.ep.LastError(); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		_ = s.shut(s.ep.Abort)
		return nil, opError("dial", "tcp", nil, to, err)
	}
	return s.connected(), nil
}

// connected makes a connection of an endpoint that is one.
func (s *socket) connected() *TCPConn {
	s.host.do(func() {
		if a, err := s.ep.GetLocalAddress(); err == nil {
			s.local = net.TCPAddrFromAddrPort(addrPort(a))
		}
		if a, err := s.ep.GetRemoteAddress(); err == nil {
			s.remote = net.TCPAddrFromAddrPort(addrPort(a))
		}
		s.ep.SocketOptions().SetDelayOption(false) // as package net does
	})
	return &TCPConn{s}
}

// Read is io.Reader's.
func (c *TCPConn) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	err = c.try(waiter.ReadableEvents, &c.read, context.Background(), func() tcpip.Error {
		w := tcpip.SliceWriter(b)
		r, err := c.ep.Read(&w, tcpip.ReadOptions{})
		n = r.Count
		if n > 0 {
			c.ep.ModerateRecvBuf(n)
			return nil
		}
		return err
	})
	return n, c.opError("read", err)
}

// Write is io.Writer's.
func (c *TCPConn) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		err = c.try(waiter.WritableEvents|waiter.EventHUp|waiter.EventErr, &c.write, context.Background(), func() tcpip.Error {
			m, err := c.ep.Write(bytes.NewReader(b[n:]), tcpip.WriteOptions{})
			n += int(m)
			if m > 0 {
				return nil
			}
			return err
		})
	}
	return n, c.opError("write", err)
}

// Close ends the connection in order: what was written still goes out.
func (c *TCPConn) Close() error { return c.shut(c.ep.Close) }

// Abort ends it with a RST.
func (c *TCPConn) Abort() error { return c.shut(c.ep.Abort) }

// CloseWrite sends a FIN; reading goes on.
func (c *TCPConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

// CloseRead ends reading.
func (c *TCPConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// SetKeepAlive has the connection probe a peer that is silent, or not, which it does not from the start.
func (c *TCPConn) SetKeepAlive(on bool) error {
	c.host.do(func() { c.ep.SocketOptions().SetKeepAlive(on) })
	return nil
}

// SetKeepAlivePeriod is how long the peer is silent before it is probed, and between two probes.
func (c *TCPConn) SetKeepAlivePeriod(d time.Duration) error {
	var err tcpip.Error
	c.host.do(func() {
		idle, interval := tcpip.KeepaliveIdleOption(d), tcpip.KeepaliveIntervalOption(d)
		if err = c.ep.SetSockOpt(&idle); err == nil {
			err = c.ep.SetSockOpt(&interval)
		}
	})
	return c.opError("set", goError(err))
}

func (c *TCPConn) shutdown(how tcpip.ShutdownFlags) error {
	var err tcpip.Error
	c.host.do(func() { err = c.ep.Shutdown(how) })
	return c.opError("shutdown", goError(err))
}

// TCPListener is a net.Listener.
type TCPListener struct{ *socket }

// ListenTCP waits for connections. Port 0 is a free one.
func (h *Host) ListenTCP(local netip.AddrPort) (*TCPListener, error) {
	at := net.TCPAddrFromAddrPort(local)
	s, err := h.open("tcp", tcp.ProtocolNumber, local, netip.AddrPort{})
	if err != nil {
		return nil, opError("listen", "tcp", nil, at, err)
	}
	var refused tcpip.Error
	h.do(func() {
		refused = s.ep.Listen(backlog)
		if a, err := s.ep.GetLocalAddress(); err == nil {
			s.local = net.TCPAddrFromAddrPort(addrPort(a))
		}
	})
	if refused != nil {
		_ = s.shut(s.ep.Abort)
		return nil, opError("listen", "tcp", nil, at, goError(refused))
	}
	return &TCPListener{s}, nil
}

// Accept is net.Listener's.
func (l *TCPListener) Accept() (net.Conn, error) {
	var s *socket
	err := l.try(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr, &l.read, context.Background(), func() tcpip.Error {
		ep, wq, err := l.ep.Accept(nil)
		if err == nil {
			s = l.host.opened("tcp", ep, wq)
		}
		return err
	})
	if err == io.EOF {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, l.opError("accept", err)
	}
	return s.connected(), nil
}

// Addr is net.Listener's.
func (l *TCPListener) Addr() net.Addr { return l.local }

// Close is net.Listener's.
func (l *TCPListener) Close() error { return l.shut(l.ep.Close) }

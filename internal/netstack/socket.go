// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is an endpoint of the stack, and what every kind of connection needs.
type socket struct {
	host          *Host
	number        int // in the order of opening
	ep            tcpip.Endpoint
	wq            *waiter.Queue
	network       string
	local, remote net.Addr

	once        sync.Once
	closed      chan struct{}
	read, write deadline
}

// open makes an endpoint with a local address and port, of which either may be missing. remote is whom it is for, if that
// is known.
func (h *Host) open(network string, proto tcpip.TransportProtocolNumber, local, remote netip.AddrPort) (*socket, error) {
	for _, a := range []netip.Addr{local.Addr(), remote.Addr()} {
		if a.IsValid() && !a.Unmap().Is4() {
			return nil, notIPv4(a)
		}
	}
	if a := local.Addr().Unmap(); a.IsValid() && !a.IsUnspecified() && !slices.Contains(h.addrs, a) {
		return nil, syscall.EADDRNOTAVAIL // the stack looks at the interface alone
	}
	var wq waiter.Queue
	var s *socket
	var err tcpip.Error
	h.do(func() {
		if h.closed {
			return
		}
		var ep tcpip.Endpoint
		if ep, err = h.stack.NewEndpoint(proto, ipv4.ProtocolNumber, &wq); err != nil {
			return
		}
		if err = h.bind(ep, proto, local, remote); err != nil {
			ep.Close()
			return
		}
		s = h.opened(network, ep, &wq)
	})
	switch {
	case err != nil:
		return nil, goError(err)
	case s == nil:
		return nil, errClosedHost
	}
	return s, nil
}

// socketKind is what sockets have in common that share a sequence of ports.
type socketKind struct {
	proto  tcpip.TransportProtocolNumber
	remote netip.AddrPort
}

// bind gives an endpoint its local address and port. A port of the host's choice follows from the seed, the remote endpoint
// and how many it has chosen for that, so that it does not depend on what goes on in the same moment.
func (h *Host) bind(ep tcpip.Endpoint, proto tcpip.TransportProtocolNumber, local, remote netip.AddrPort) tcpip.Error {
	if local.Port() != 0 {
		return ep.Bind(fullAddress(local))
	}
	kind := socketKind{proto, remote}
	for range 100 {
		h.ports[kind]++
		f := fnv.New64a()
		fmt.Fprintln(f, h.seed, proto, remote, h.ports[kind])
		port := firstEphemeral + uint16(f.Sum64()%(1<<16-firstEphemeral))
		err := ep.Bind(fullAddress(netip.AddrPortFrom(local.Addr(), port)))
		if _, used := err.(*tcpip.ErrPortInUse); !used {
			return err
		}
	}
	return ep.Bind(fullAddress(local)) // the stack finds the last free ones
}

// firstEphemeral is where ports of the host's choice begin.
const firstEphemeral = 16000

// opened is the socket of an endpoint. The caller has the stack to itself.
func (h *Host) opened(network string, ep tcpip.Endpoint, wq *waiter.Queue) *socket {
	s := &socket{
		host: h, ep: ep, wq: wq, network: network, closed: make(chan struct{}), read: newDeadline(h), write: newDeadline(h),
	}
	h.number++
	s.number = h.number
	h.sockets[s] = struct{}{}
	return s
}

// try calls f with the stack to itself until it need not wait, and waits for an event of the mask in between.
func (s *socket) try(mask waiter.EventMask, d *deadline, ctx context.Context, f func() tcpip.Error) error {
	var entry waiter.Entry
	ready := &signal{socket: s, mask: mask, ch: make(chan struct{}, 1)}
	entry.Init(ready, mask)
	s.wq.EventRegister(&entry)
	defer s.wq.EventUnregister(&entry)
	for {
		timeout := d.passed()
		select {
		case <-s.closed:
			return net.ErrClosed
		case <-timeout:
			return os.ErrDeadlineExceeded
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		var err tcpip.Error
		s.host.do(func() {
			if err = &(tcpip.ErrInvalidEndpointState{}); !s.host.closed {
				err = f()
			}
		})
		switch err.(type) {
		case *tcpip.ErrWouldBlock, *tcpip.ErrConnectStarted:
		case *tcpip.ErrAborted, *tcpip.ErrInvalidEndpointState, *tcpip.ErrClosedForReceive:
			select {
			case <-s.closed:
				return net.ErrClosed
			default:
				return goError(err)
			}
		default:
			return goError(err)
		}
		select {
		case <-ready.ch:
		case <-s.closed:
		case <-timeout:
		case <-ctx.Done():
		}
	}
}

// signal wakes a call that waits, by way of Config.Wake.
type signal struct {
	socket *socket
	mask   waiter.EventMask
	ch     chan struct{}
	queued atomic.Bool
}

// NotifyEvent is waiter.EventListener's.
func (s *signal) NotifyEvent(waiter.EventMask) {
	if s.queued.Swap(true) {
		return
	}
	h := s.socket.host
	h.calledMu.Lock()
	defer h.calledMu.Unlock()
	h.called = append(h.called, s)
}

func (s *signal) release() {
	s.queued.Store(false)
	select {
	case s.ch <- struct{}{}:
	default:
	}
}

// shut closes the endpoint; how is what to do with it. The second time is an error, as with package net.
func (s *socket) shut(how func()) error {
	err := net.ErrClosed
	s.once.Do(func() {
		err = nil
		close(s.closed)
		s.host.do(func() {
			delete(s.host.sockets, s)
			how()
		})
		s.read.set(time.Time{})
		s.write.set(time.Time{})
	})
	if err != nil {
		return s.opError("close", err)
	}
	return nil
}

func (s *socket) LocalAddr() net.Addr  { return s.local }
func (s *socket) RemoteAddr() net.Addr { return s.remote }

func (s *socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *socket) SetReadDeadline(t time.Time) error  { return s.setDeadline(&s.read, t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.write, t) }

func (s *socket) setDeadline(d *deadline, t time.Time) error {
	select {
	case <-s.closed:
		return s.opError("set", net.ErrClosed)
	default:
		d.set(t)
		return nil
	}
}

func (s *socket) opError(op string, err error) error {
	return opError(op, s.network, s.local, s.remote, err)
}

func notIPv4(a netip.Addr) error { return fmt.Errorf("%v is no IPv4 address", a) }

// fullAddress is an address and port in the words of the stack; an invalid or unspecified address is none.
func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nic, Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.Addr = tcpip.AddrFrom4(a.Addr().Unmap().As4())
	}
	return f
}

func addrPort(f tcpip.FullAddress) netip.AddrPort {
	a, ok := netip.AddrFromSlice(f.Addr.AsSlice())
	if !ok {
		a = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(a, f.Port)
}

// literal parses the address of a call: host:port, where both may be missing.
func literal(address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	a := netip.IPv4Unspecified()
	if host != "" {
		if a, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is no IP address: these hosts have no resolver", host)
		}
	}
	if !a.Unmap().Is4() {
		return netip.AddrPort{}, notIPv4(a)
	}
	// Not net.LookupPort: its resolver has channels that outlive a bubble, and systems differ in the names they know.
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no port number", port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// deadline is a point in time that may move, and a channel that is closed when it has passed.
type deadline struct {
	host  *Host
	mu    sync.Mutex
	timer Timer
	ch    chan struct{}
}

func newDeadline(h *Host) deadline { return deadline{host: h, ch: make(chan struct{})} }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

// set moves the deadline; calls that wait for the old one see the new one.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.ch: // it has passed: the next calls get another
		d.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.ch)
		return
	}
	var timer Timer
	timer = d.host.after(left, func() {
		d.host.wake(func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.timer == timer {
				d.timer = nil
				close(d.ch)
			}
		})
	})
	d.timer = timer
}

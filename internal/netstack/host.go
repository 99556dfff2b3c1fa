// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Config is what a Host is made of.
type Config struct {
	// Addrs are the IPv4 addresses of the host, at least one; the first is the source of what it sends unasked.
	Addrs []netip.Addr
	// MTU is the largest IP packet it sends, in bytes; 0 means 1,500.
	MTU int
	// Seed makes the random choices of the stack (ports, sequence numbers): equal seeds, equal choices.
	Seed uint64
	// Output is called with each IP packet that the host sends; the bytes are its own to keep. It must not block, nor call
	// the Host, and may be called from several goroutines at once, during a call to the Host only.
	Output func(b []byte)
	// AfterFunc is time.AfterFunc, or a timer queue of the caller's that runs on the clock of package time; nil means the
	// former.
	AfterFunc func(d time.Duration, f func()) Timer
	// Wake is called when a goroutine that waits for the host may go on, with what lets it: it may be called later. It must
	// not block, nor call the Host; nil means at once.
	Wake func(release func())
}

// Timer is what Config.AfterFunc returns: *time.Timer has these methods.
type Timer interface {
	Stop() bool
	Reset(d time.Duration) bool
}

// Host is a host with one interface, on which everything is one step away. All its methods may be called from any
// goroutine.
type Host struct {
	addrs []netip.Addr
	seed  uint64
	after func(time.Duration, func()) Timer
	wake  func(release func())

	mu      sync.Mutex // turns at the stack
	stack   *stack.Stack
	link    *link
	ports   map[socketKind]int   // how many were chosen
	number  int                  // of the last socket
	sockets map[*socket]struct{} // what is open, so that Close ends it
	closed  bool                 // nothing is opened, sent or received any more
	ended   bool                 // the stack's goroutines are gone

	calledMu sync.Mutex
	called   []*signal // by the stack, since its turn began

	tapMu sync.Mutex
	taps  map[*func([]byte)]struct{}
}

const nic tcpip.NICID = 1

// New makes a host. Close ends it and its connections.
func New(c Config) (*Host, error) {
	if len(c.Addrs) == 0 {
		return nil, errors.New("netstack: a host needs an address")
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < header.IPv4MinimumMTU {
		return nil, fmt.Errorf("netstack: an MTU of %d is below the %d bytes that IPv4 needs", c.MTU, header.IPv4MinimumMTU)
	}
	if c.AfterFunc == nil {
		c.AfterFunc = func(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
	}
	if c.Wake == nil {
		c.Wake = func(release func()) { release() }
	}
	h := &Host{
		addrs: c.Addrs, after: c.AfterFunc, wake: c.Wake, link: newLink(c.MTU, c.Output),
		seed: c.Seed, ports: map[socketKind]int{}, sockets: map[*socket]struct{}{}, taps: map[*func([]byte)]struct{}{},
	}
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		Clock:              &clock{start: time.Now(), host: h, after: c.AfterFunc},
		RandSource:         newSource(c.Seed),
		SecureRNG:          rand.New(newSource(^c.Seed)),
		HandleLocal:        true,
	})
	h.stack.Pause()
	if err := h.configure(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) configure() error {
	if err := h.stack.CreateNIC(nic, h.link); err != nil {
		return fmt.Errorf("netstack: interface: %v", err)
	}
	for _, a := range h.addrs {
		if !a.Is4() {
			return fmt.Errorf("netstack: %v is no IPv4 address", a)
		}
		p := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFrom4(a.As4()).WithPrefix()}
		if err := h.stack.AddProtocolAddress(nic, p, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("netstack: address %v: %v", a, err)
		}
	}
	h.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	sack := tcpip.TCPSACKEnabled(true)
	if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("netstack: selective acknowledgements: %v", err)
	}
	return nil
}

// Addr is the first address of the host.
func (h *Host) Addr() netip.Addr { return h.addrs[0] }

// do runs f with the stack to itself, and then all that the stack makes of it.
func (h *Host) do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	if !h.ended {
		h.settle()
	}
	h.release()
}

// settle lets the TCP goroutines work until they have nothing to do. A segment for an endpoint that is closing may be
// handed on to the next one, which may be with a goroutine that is held already: hence twice; and a host that talks to
// itself hears its own segments.
func (h *Host) settle() {
	heard := h.stack.Stats().TCP.ValidSegmentsReceived
	for round := 0; ; round++ {
		before := heard.Value()
		h.stack.Resume()
		h.stack.Pause()
		if round > 0 && heard.Value() == before {
			return
		}
	}
}

// release wakes whom the stack has called, in an order that does not depend on its goroutines.
func (h *Host) release() {
	h.calledMu.Lock()
	called := h.called
	h.called = nil
	h.calledMu.Unlock()
	slices.SortFunc(called, func(a, b *signal) int {
		return cmp.Or(cmp.Compare(a.socket.number, b.socket.number), cmp.Compare(a.mask, b.mask))
	})
	for _, s := range called {
		h.wake(s.release)
	}
}

// Inject gives the host an IP packet that arrived for it. The bytes are copied.
func (h *Host) Inject(b []byte) {
	h.tapMu.Lock()
	for t := range h.taps {
		(*t)(b)
	}
	h.tapMu.Unlock()
	h.do(func() {
		if h.closed || !h.link.IsAttached() {
			return
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		h.link.dispatcher.DeliverNetworkPacket(ipv4.ProtocolNumber, pkt)
		pkt.DecRef()
	})
}

// Tap has f called with each IP packet that arrives, until the returned function is called. f must neither keep the
// bytes, nor block, nor call the Host.
func (h *Host) Tap(f func(b []byte)) (remove func()) {
	h.tapMu.Lock()
	defer h.tapMu.Unlock()
	h.taps[&f] = struct{}{}
	return func() {
		h.tapMu.Lock()
		defer h.tapMu.Unlock()
		delete(h.taps, &f)
	}
}

// ChecksumErrors is how many packets the stack has dropped so far because a checksum was wrong; of IP and ICMP, also
// those that were wrong in another way.
func (h *Host) ChecksumErrors() uint64 {
	s := h.stack.Stats()
	return s.TCP.ChecksumErrors.Value() + s.UDP.ChecksumErrors.Value() +
		s.IP.MalformedPacketsReceived.Value() + s.ICMP.V4.PacketsReceived.Invalid.Value()
}

// Close ends the host: connections are aborted without a word to their peers, and every call that waits returns
// net.ErrClosed.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.link.out = func([]byte) {}
	open := slices.Collect(maps.Keys(h.sockets))
	h.mu.Unlock()
	for _, s := range open {
		_ = s.shut(s.ep.Abort) // somebody else has closed it in the meantime
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.stack.Close()
	h.stack.Resume()
	h.stack.Wait()
	h.release()
	return nil
}

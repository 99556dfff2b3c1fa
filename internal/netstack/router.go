// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Interface is one of a Router's.
type Interface struct {
	// Addr is the router's IPv4 address there, by which the errors it sends there are known.
	Addr netip.Addr
	// MTU is the largest IP packet it sends, in bytes; 0 means 1,500.
	MTU int
	// Routes are what is behind the interface. Among all interfaces the longest match counts.
	Routes []netip.Prefix
	// Output is called with each IP packet that leaves by the interface; the bytes are its own to keep. It must neither
	// block nor call the Router.
	Output func(b []byte)
}

// Router is a stack that forwards between its interfaces: it takes its step of the time to live, refuses what is too
// big and must not be fragmented, fragments the rest, and answers pings and what it cannot forward with ICMP. What it
// forwards keeps its transport checksum, right or wrong. All its methods may be called from any goroutine.
type Router struct {
	own map[netip.Addr]bool

	mu    sync.Mutex // turns at the stack
	stack *stack.Stack
	links []*link
}

// NewRouter makes a router. It has no goroutines.
func NewRouter(interfaces ...Interface) (*Router, error) {
	r := &Router{own: map[netip.Addr]bool{}, stack: stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		RandSource:       newSource(0),
		SecureRNG:        rand.New(newSource(0)),
		HandleLocal:      true,
	})}
	for i, in := range interfaces {
		if err := r.add(tcpip.NICID(i+1), in); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if err := r.stack.SetForwardingDefaultAndAllNICs(ipv4.ProtocolNumber, true); err != nil {
		return nil, errors.Join(fmt.Errorf("netstack: forwarding: %v", err), r.Close())
	}
	return r, nil
}

func (r *Router) add(id tcpip.NICID, in Interface) error {
	l, err := newLink(in.MTU, in.Output)
	if err != nil {
		return err
	}
	// The stack would compute the transport checksum of what it forwards, and so make wrong ones right.
	l.capabilities = stack.CapabilityTXChecksumOffload
	if err := addInterface(r.stack, id, l, in.Addr); err != nil {
		return err
	}
	r.links = append(r.links, l)
	r.own[in.Addr] = true
	for _, p := range in.Routes {
		if !p.IsValid() || !p.Addr().Is4() {
			return fmt.Errorf("netstack: %v is no IPv4 prefix", p)
		}
		dst := tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(p.Masked().Addr().As4()), PrefixLen: p.Bits()}
		r.stack.AddRoute(tcpip.Route{Destination: dst.Subnet(), NIC: id})
	}
	return nil
}

// Inject gives the router an IP packet that arrived at its i-th interface. The bytes are copied.
func (r *Router) Inject(i int, b []byte) {
	b = bytes.Clone(b)
	r.expire(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	r.links[i].dispatcher.DeliverNetworkPacket(ipv4.ProtocolNumber, pkt)
}

// expire makes a TTL of 1 in a packet to be forwarded 0. The stack forwards it with 0, and drops it only at the next
// router; it is to be dropped here (RFC 1812, section 5.3.1), and a traceroute is to see this router.
func (r *Router) expire(b []byte) {
	h := header.IPv4(b)
	if len(h) < header.IPv4MinimumSize || h.TTL() != 1 || r.own[netip.AddrFrom4(h.DestinationAddress().As4())] {
		return
	}
	h.SetTTL(0)
	sum := uint32(h.Checksum()) + 0x100 // RFC 1624: a wrong one stays wrong
	h.SetChecksum(uint16(sum + sum>>16))
}

// ChecksumErrors is how many packets the router has dropped so far because a checksum was wrong: that of IP, or of ICMP
// to itself.
func (r *Router) ChecksumErrors() uint64 { return checksumErrors(r.stack) }

// Close ends the router. It may be called once, after the last Inject.
func (r *Router) Close() error {
	r.stack.Destroy()
	return nil
}

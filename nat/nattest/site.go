// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	"github.com/tidegate/tidegate/packet"
)

// site is a network that hosts and NATs are on: the internet, or what is behind a NAT.
type site struct {
	net    *Network
	prefix netip.Prefix // of its hosts
	next   netip.Addr   // the next one for a host
	// up takes what is for nobody here; nil is the internet, which is one router that forgets such packets.
	up func(b []byte)

	mu    sync.Mutex
	ports map[netip.Addr]*port
}

// portOf is where an address is, or nil.
func (s *site) portOf(a netip.Addr) *port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ports[a]
}

// setPort says where an address is; nil is nowhere.
func (s *site) setPort(a netip.Addr, p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.ports, a)
		return
	}
	s.ports[a] = p
}

// port is where a host or a NAT is on a site: a link, and the addresses behind it.
type port struct {
	site   *site
	name   string
	owner  owner
	mu     sync.Mutex // guards link
	link   Link
	toSite wire
	toNode wire

	outMu    sync.Mutex
	out      [][]byte // what the node has sent in this moment
	flushing bool
}

func (s *site) attach(name string, l Link, deliver func(b []byte)) *port {
	p := &port{site: s, name: name, link: l}
	p.owner.number = s.net.number()
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(s.net.seed, uint64(p.owner.number)<<1|n)) }
	p.toSite = wire{clock: s.net.clock, owner: &p.owner, rand: random(0), to: s.route}
	p.toNode = wire{clock: s.net.clock, owner: &p.owner, rand: random(1), to: func(b []byte) {
		s.net.capture(p, b)
		deliver(b)
	}}
	return p
}

func (p *port) Link() Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// emit takes what a host sends, in whatever goroutine. What comes out in one moment goes on the wire together, flow by
// flow, so that the order does not depend on which goroutine was first.
func (p *port) emit(b []byte) {
	p.outMu.Lock()
	defer p.outMu.Unlock()
	p.out = append(p.out, b)
	if !p.flushing {
		p.flushing = true
		p.site.net.clock.after(&p.owner, 0, p.flush)
	}
}

func (p *port) flush() {
	p.outMu.Lock()
	out := p.out
	p.out, p.flushing = nil, false
	p.outMu.Unlock()
	slices.SortStableFunc(out, func(a, b []byte) int { return bytes.Compare(flowKey(a), flowKey(b)) })
	for _, b := range out {
		p.send(b)
	}
}

// flowKey orders packets by flow: protocol, addresses and, outside of later fragments, ports.
func flowKey(b []byte) []byte {
	key := append([]byte{b[9]}, b[12:20]...)
	if at := int(b[0]&15) * 4; b[6]&0x1f == 0 && b[7] == 0 && b[9] != packet.ICMP && len(b) >= at+4 {
		key = append(key, b[at:at+4]...)
	}
	return key
}

// send puts a packet of the node on its wire.
func (p *port) send(b []byte) {
	p.site.net.capture(p, b)
	p.toSite.send(p.Link(), b)
}

// route takes a packet that has arrived at the site to where it goes.
func (s *site) route(b []byte) {
	dst := netip.AddrFrom4([4]byte(b[16:20]))
	p := s.portOf(dst)
	switch {
	case s.up == nil:
		s.forward(b, p)
	case p != nil:
		p.toNode.send(p.Link(), b)
	case dst != s.router(): // the router's own address answers nobody
		s.up(b)
	}
}

// forward is the router of the internet: one step of the TTL, and the MTU of the link that a packet leaves by.
func (s *site) forward(b []byte, p *port) {
	if b[8] <= 1 {
		s.answer(b, 11, 0, 0)
		return
	}
	if p == nil {
		return
	}
	setTTL(b, b[8]-1)
	l := p.Link()
	if len(b) <= l.mtu() {
		p.toNode.send(l, b)
		return
	}
	if b[6]&0x40 != 0 {
		s.answer(b, 3, 4, uint16(l.mtu()))
		return
	}
	for _, piece := range fragment(b, l.mtu()) {
		p.toNode.send(l, piece)
	}
}

// answer sends the router's ICMP error about a packet to its source.
func (s *site) answer(about []byte, kind, code uint8, mtu uint16) {
	if e := icmpError(s.router(), about, kind, code, mtu); e != nil {
		if p := s.portOf(netip.AddrFrom4([4]byte(about[12:16]))); p != nil {
			p.toNode.send(p.Link(), e)
		}
	}
}

// allocate gives out the next address that is free, and after the last one those that have become free.
func (s *site) allocate(within netip.Prefix, next *netip.Addr) (netip.Addr, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 1 << (32 - within.Bits()) {
		a := *next
		if *next = a.Next(); !within.Contains(*next) { // the last one may be a broadcast address
			*next = within.Addr().Next()
			continue
		}
		if _, taken := s.ports[a]; !taken && a != s.router() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// router is the address of the NAT on a site behind it.
func (s *site) router() netip.Addr {
	if s.up == nil {
		return s.net.router
	}
	return s.prefix.Addr().Next()
}

// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// NAT is a NAT with a Tidegate engine in it. It is the router of the network on its inside, where hosts and further NATs
// are put with Host and NAT.
type NAT struct {
	name      string
	net       *Network
	behaviour Behaviour
	outer     *site
	inner     *site
	port      *port
	upstream  *NAT
	pool      string
	timer     *event

	mu      sync.Mutex
	engine  *nat.Engine
	worker  *nat.Worker // for the goroutine of the clock
	policy  nat.Policy
	boots   uint64
	records []Record
	events  []nat.Event
	deaf    bool           // eats ICMP errors
	blocked []netip.Prefix // remote addresses
}

const poolName = "nat"

func (s *site) nat(b Behaviour, link []Link) *NAT {
	n := s.net
	n.tb.Helper()
	var upstream *NAT
	if b.Behind != nil {
		upstream = s.nat(*b.Behind, link)
		s, link = upstream.inner, nil
	}
	l := n.link(link)
	if b.Profile == (nat.Profile{}) {
		b.Profile = nat.GatewayProfile()
	}
	if b.Name == "" {
		b.Name = b.Profile.Name
	}
	x := &NAT{net: n, behaviour: b, outer: s, upstream: upstream}
	x.port = s.attach("", l, func(p []byte) { x.translate(p, nat.FromOutside) })
	x.name = fmt.Sprintf("nat %d (%s)", x.port.owner.number, b.Name)
	x.port.name = x.name
	count := len(n.NATs()) + 1
	if count > 255 {
		n.tb.Fatal("nattest: a network has room for 255 NATs")
	}
	inside := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(count), 0, 0}), 24)
	router := inside.Addr().Next()
	x.inner = &site{
		net: n, prefix: inside, ports: map[netip.Addr]*port{}, next: router.Next(),
		up: func(p []byte) { x.translate(p, nat.FromInside) },
	}
	x.policy = nat.Policy{
		Attachments: []nat.Attachment{
			{ID: nat.FromInside, Side: nat.Inside, Router: true},
			{ID: nat.FromOutside, Side: nat.Outside, Router: true, MTU: l.mtu()},
		},
		Inside:       []netip.Prefix{inside},
		Pools:        []nat.Pool{{Name: poolName, Addresses: x.lease(max(1, b.Addresses)), Profile: b.Profile}},
		Routes:       []nat.Route{{Source: inside, Pool: poolName, Static: true}},
		HairpinOff:   b.HairpinOff,
		HostSessions: b.HostSessions,
		InsideRouter: router,
	}
	x.boot()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nats = append(n.nats, x)
	return x
}

// lease takes so many addresses of the outer network.
func (x *NAT) lease(count int) []netip.Addr {
	n := x.net
	n.tb.Helper()
	within, next := natPrefix, &n.publics
	if x.outer != n.internet {
		within, next = x.outer.prefix, &x.outer.next
	}
	var addrs []netip.Addr
	for range count {
		a, ok := x.outer.allocate(within, next)
		if !ok {
			n.tb.Fatalf("nattest: %s: no address is left in %v", x.name, within)
		}
		x.outer.setPort(a, x.port)
		addrs = append(addrs, a)
	}
	return addrs
}

// boot makes the engine, with nothing in its tables.
func (x *NAT) boot() {
	x.net.tb.Helper()
	x.boots++
	sessions := x.behaviour.Sessions
	if sessions == 0 {
		sessions = 4096
	}
	e, err := nat.New(nat.Config{
		Sessions: sessions, Seed: 1 + x.net.seed ^ uint64(x.port.owner.number)<<40 ^ x.boots<<56, FlowCounters: true,
		Events: sessions + 64, // taken after each packet: with it all may end, and something begin
	}, &x.policy)
	if err != nil {
		x.net.tb.Fatalf("nattest: %s: %v", x.name, err)
	}
	x.engine, x.worker = e, e.Worker()
}

// translate takes a packet through the engine. It runs in the goroutine of the clock.
func (x *NAT) translate(b []byte, from nat.AttachmentID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := Record{At: x.net.clock.due.Sub(x.net.start), From: nat.Side(from)}
	r.Source, r.Destination, r.Protocol = ends(b)
	if r.Fault = x.fault(b, from); r.Fault != "" {
		x.log(r)
		return
	}
	p := packet.From(b)
	r.Verdict = x.worker.Translate(&p, from, x.net.Elapsed())
	if r.Verdict.Forward() {
		r.NewSource, r.NewDestination, _ = ends(p.Bytes())
	}
	x.log(r)
	if r.Verdict.Forward() {
		x.deliver(r.Verdict.Side(), p.Bytes())
	}
	x.emitted()
	x.tick()
}

// fault is what stands in a packet's way before the engine, or "".
func (x *NAT) fault(b []byte, from nat.AttachmentID) string {
	if x.deaf && isICMPError(b) {
		return "an ICMP error, eaten"
	}
	remote := netip.AddrFrom4([4]byte(b[16:20]))
	if from == nat.FromOutside {
		remote = netip.AddrFrom4([4]byte(b[12:16]))
	}
	for _, p := range x.blocked {
		if p.Contains(remote) {
			return "blocked by a rule"
		}
	}
	return ""
}

// emitted sends what the engine made beside its input, and keeps what it told.
func (x *NAT) emitted() {
	x.listen()
	for _, e := range x.worker.Emitted() {
		x.deliver(e.Side, append([]byte(nil), e.Packet.Bytes()...))
	}
}

func (x *NAT) deliver(side nat.Side, b []byte) {
	if side == nat.Outside {
		x.port.send(b)
		return
	}
	if p := x.inner.portOf(netip.AddrFrom4([4]byte(b[16:20]))); p != nil {
		p.toNode.send(p.Link(), b)
	}
}

// tick has the engine called when a timer of its own is due that emits something. Without one it is left alone: a network
// in which nothing happens has no timers.
func (x *NAT) tick() {
	due, ok := x.engine.NextTimer()
	if !ok || x.timer != nil {
		return
	}
	x.timer = x.net.clock.after(&x.port.owner, due-x.net.Elapsed(), func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.timer = nil
		x.worker.Tick(x.net.Elapsed())
		x.emitted()
		x.tick()
	})
}

// Host puts a host behind the NAT, with a private address.
func (x *NAT) Host(name string, link ...Link) *Host {
	x.net.tb.Helper()
	return x.inner.host(name, link)
}

// NAT puts another NAT behind this one.
func (x *NAT) NAT(b Behaviour, link ...Link) *NAT {
	x.net.tb.Helper()
	return x.inner.nat(b, link)
}

// Upstream is the NAT that Behaviour.Behind made, or nil.
func (x *NAT) Upstream() *NAT { return x.upstream }

// Name is the NAT's number and behaviour.
func (x *NAT) Name() string { return x.name }

// Inside is the NAT's private network.
func (x *NAT) Inside() netip.Prefix { return x.inner.prefix }

// Public is the NAT's external address, or the first of them.
func (x *NAT) Public() netip.Addr { return x.Publics()[0] }

// Publics are its external addresses.
func (x *NAT) Publics() []netip.Addr {
	x.mu.Lock()
	defer x.mu.Unlock()
	pool := x.policy.Pools[0]
	return append(append([]netip.Addr(nil), pool.Addresses...), pool.Draining...)
}

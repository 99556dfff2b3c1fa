// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// policy answers questions about a nat.Policy by looking through its lists.
type policy struct {
	nat.Policy
	tracker nat.Pool // stands for a pool where a filter session has none
}

// newPolicy copies p and fills in what it leaves out.
func newPolicy(p *nat.Policy) *policy {
	q := &policy{Policy: *p}
	q.Restrictions = slices.Clone(q.Restrictions)
	q.tracker.Profile = nat.GatewayProfile()
	q.tracker.Profile.InboundRefresh = true
	t, given := &q.tracker.Profile.Timeouts, p.RestrictionTimeouts
	t.UDP, t.DNS, t.UDPOpening = cmp.Or(given.UDP, t.UDP), cmp.Or(given.DNS, t.DNS), given.UDPOpening
	t.TCPEstablished, t.TCPOpening = cmp.Or(given.TCPEstablished, t.TCPEstablished), cmp.Or(given.TCPOpening, t.TCPOpening)
	t.TCPClosing, t.ICMP = cmp.Or(given.TCPClosing, t.TCPClosing), cmp.Or(given.ICMP, t.ICMP)
	if len(q.Attachments) == 0 {
		q.Attachments = []nat.Attachment{{ID: 0, Side: nat.Inside}, {ID: 1, Side: nat.Outside}}
	}
	q.Attachments = slices.Clone(q.Attachments)
	q.Inside = slices.Clone(q.Inside)
	q.Routes = slices.Clone(q.Routes)
	q.Static = slices.Clone(q.Static)
	q.Forwards = slices.Clone(q.Forwards)
	q.Services = slices.Clone(q.Services)
	q.Unlent = slices.Clone(q.Unlent)
	q.Pools = slices.Clone(q.Pools)
	for i := range q.Pools {
		o := &q.Pools[i]
		o.Addresses, o.Draining = slices.Clone(o.Addresses), slices.Clone(o.Draining)
		if o.Profile == (nat.Profile{}) {
			o.Profile = nat.GatewayProfile()
		}
	}
	return q
}

func (p *policy) attachment(id nat.AttachmentID) (nat.Attachment, bool) {
	i := slices.IndexFunc(p.Attachments, func(a nat.Attachment) bool { return a.ID == id })
	if i < 0 {
		return nat.Attachment{}, false
	}
	return p.Attachments[i], true
}

// mtu is the largest packet that may leave on a side; 0: somebody else answers for it.
func (p *policy) mtu(side nat.Side) int {
	mtu := 0
	for _, a := range p.Attachments {
		if a.Router && a.Side == side && a.MTU > 0 && (mtu == 0 || a.MTU < mtu) {
			mtu = a.MTU
		}
	}
	return mtu
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// martian addresses may not be on a wire (RFC 1812, section 5.3.7; K-7, B-34).
func martian(a netip.Addr) bool {
	b := a.As4()
	return b[0] == 0 || b[0] == 127 || b[0] == 169 && b[1] == 254 || b[0] >= 224
}

// inside addresses are those of hosts: those of a private pool are not, though they may lie among them (NGW-11).
func (p *policy) inside(a netip.Addr) bool { return contains(p.Inside, a) && !p.private(a) }

func (p *policy) private(a netip.Addr) bool {
	pool, _ := p.poolOf(a)
	return pool != nil && pool.Private
}

// poolOf is the pool with an external address; draining is whether it takes no new sessions.
func (p *policy) poolOf(a netip.Addr) (pool *nat.Pool, draining bool) {
	for i := range p.Pools {
		if slices.Contains(p.Pools[i].Addresses, a) {
			return &p.Pools[i], false
		}
		if slices.Contains(p.Pools[i].Draining, a) {
			return &p.Pools[i], true
		}
	}
	return nil, false
}

func (p *policy) pool(name string) *nat.Pool {
	i := slices.IndexFunc(p.Pools, func(q nat.Pool) bool { return q.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Pools[i]
}

// poolFor is what says how a session is treated.
func (p *policy) poolFor(s *session) *nat.Pool {
	if s.filter != "" {
		return &p.tracker
	}
	return p.pool(s.pool)
}

// staticOut and staticIn are the other end of a 1:1 mapping.
func (p *policy) staticOut(in netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(p.Static, func(s nat.Static) bool { return s.Inside == in })
	if i < 0 {
		return netip.Addr{}, false
	}
	return p.Static[i].Outside, true
}

func (p *policy) staticIn(ext netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(p.Static, func(s nat.Static) bool { return s.Outside == ext })
	if i < 0 {
		return netip.Addr{}, false
	}
	return p.Static[i].Inside, true
}

// lent: the address is external and in use; unlent: ours, and not in use.
func (p *policy) lent(a netip.Addr) bool {
	pool, _ := p.poolOf(a)
	_, static := p.staticIn(a)
	return pool != nil || static
}

func (p *policy) unlent(a netip.Addr) bool { return !p.lent(a) && contains(p.Unlent, a) }

// external addresses are ours.
func (p *policy) external(a netip.Addr) bool { return p.lent(a) || p.unlent(a) }

func (p *policy) service(proto uint8, at netip.AddrPort) bool {
	return slices.Contains(p.Services, nat.Service{Protocol: proto, Endpoint: at})
}

// forwardIn is where a port forward leads; forwardOut is the first forward of pool that leads to in.
func (p *policy) forwardIn(proto uint8, ext netip.AddrPort) (in netip.AddrPort, ok bool) {
	for _, f := range p.Forwards {
		if f.Protocol == proto && f.Outside == ext {
			return f.Inside, true
		}
	}
	return in, false
}

// nil is any pool.
func (p *policy) forwardOut(pool *nat.Pool, proto uint8, in netip.AddrPort) (ext netip.AddrPort, ok bool) {
	for _, f := range p.Forwards {
		if f.Protocol == proto && f.Inside == in && (pool == nil || slices.Contains(pool.Addresses, f.Outside.Addr())) {
			return f.Outside, true
		}
	}
	return ext, false
}

// reserved ports of a pool are those of forwards and services on its addresses: they are never given out (M-15).
func (p *policy) reserved(pool *nat.Pool, proto uint8, port uint16) bool {
	of := func(proto2 uint8, at netip.AddrPort) bool {
		q, _ := p.poolOf(at.Addr())
		return proto2 == proto && at.Port() == port && q == pool
	}
	return slices.ContainsFunc(p.Forwards, func(f nat.Forward) bool { return of(f.Protocol, f.Outside) }) ||
		slices.ContainsFunc(p.Services, func(s nat.Service) bool { return of(s.Protocol, s.Endpoint) })
}

// route is the way of src to dst: of the routes with the longest matching source the one with the longest matching
// destination.
func (p *policy) route(src, dst netip.Addr) (best nat.Route, ok bool) {
	longest := -1
	for _, r := range p.Routes {
		if r.Source.Contains(src) {
			longest = max(longest, r.Source.Bits())
		}
	}
	bits := -1
	for _, r := range p.Routes {
		if r.Source.Bits() != longest || !r.Source.Contains(src) {
			continue
		}
		n := 0
		if r.Destination.IsValid() {
			if !r.Destination.Contains(dst) {
				continue
			}
			n = r.Destination.Bits()
		}
		if n > bits {
			best, bits, ok = r, n, true
		}
	}
	return best, ok
}

// class is what profiles call a protocol.
func class(proto uint8) int {
	switch proto {
	case packet.TCP:
		return nat.ClassTCP
	case packet.UDP:
		return nat.ClassUDP
	}
	return nat.ClassICMP
}

func independent(pool *nat.Pool, proto uint8) bool {
	return pool.Profile.Mapping[class(proto)] == nat.EndpointIndependent
}

// timeout is how long a session lives after the packet that refreshed it.
func (p *policy) timeout(s *session) int64 {
	t := p.poolFor(s).Profile.Timeouts
	d := t.UDP
	switch {
	case s.proto == packet.TCP && s.tcp.state == opening:
		d = t.TCPOpening
	case s.proto == packet.TCP && s.tcp.state == established:
		d = t.TCPEstablished
	case s.proto == packet.TCP:
		d = t.TCPClosing
	case s.dns():
		d = t.DNS
	case s.proto == packet.ICMP:
		d = t.ICMP
	case !s.replied && t.UDPOpening != 0:
		d = t.UDPOpening
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// agrees reports whether a session may go on under this policy: it would still be sent out by its pool, as it is.
func (p *policy) agrees(s *session) bool {
	if s.filter != "" {
		return p.keeps(s)
	}
	pool, _ := p.poolOf(s.ext.Addr())
	if pool == nil || pool.Name != s.pool || !p.inside(s.in.Addr()) || p.inside(s.rem.Addr()) || p.private(s.rem.Addr()) {
		return false
	}
	if s.forwarded {
		if in, ok := p.forwardIn(s.proto, s.ext); !ok || in != s.in {
			return false
		}
	} else if s.independent != independent(pool, s.proto) || p.reserved(pool, s.proto, s.ext.Port()) {
		return false
	}
	if !s.forwarded && pool.Profile.PortBlock > 0 {
		if ext, lo := p.block(pool, s.in.Addr()); s.ext.Addr() != ext || int(s.ext.Port()) < lo || int(s.ext.Port()) >= lo+pool.Profile.PortBlock {
			return false
		}
	}
	r, ok := p.route(s.in.Addr(), s.rem.Addr())
	_, static := p.staticOut(s.in.Addr())
	switch {
	case ok && (r.Bypass || r.Static && static):
		return false
	case ok && r.Pool == s.pool:
		return true
	default: // a forward needs no way out of its own
		return s.forwarded && s.tcp.inbound
	}
}

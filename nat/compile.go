// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"time"

	"github.com/gaissmai/bart"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// policy is a compiled Policy: immutable, but for epoch, which Apply sets before anybody sees it.
type policy struct {
	epoch      uint32
	unbroken   uint32       // the epoch since which no host has lost a restriction
	lines      Policy       // as it was written, for Explain: the lists alone
	atts       []attachment // by AttachmentID
	mtu        [2]int       // by egress Side; 0: not ours to check
	minMTU     int          // packets up to here need no check at all
	owners     owners
	routes     bart.Table[*routeSet]
	pools      []pool                // by the number in Record.Pool, from filterPool on; a gap has no addresses
	outOf      addrMap               // 1:1, by inside address
	inOf       addrMap               // by outside address
	alwaysOut  addrMap               // those of outOf that leave by it wherever they go
	forwardsIn map[endpoint]endpoint // outside -> inside
	forwards   map[endpoint][]endpoint
	services   map[endpoint]bool
	restricted addrMap // restricted hosts: one more than their place in bounds
	bounds     []bound
	bypass     bool // some route has Bypass
	draining   bool // some pool has Draining
	routers    bool // some pool has a Router

	hairpinOff, strictQuotes, dropBadResets bool
	mssClamp                                uint16
	router                                  [2]uint32 // by Side; 0: see Policy
	icmpRate                                int
	hostSessions, hostRate                  int
}

// endpoint is an address and a port of a protocol.
type endpoint struct {
	addr  uint32
	port  uint16
	proto uint8
}

type attachment struct {
	known, router bool
	side          Side
	sources       *bart.Lite // nil: any inside address
}

type routeSet struct{ byDst bart.Table[route] }

type route struct {
	static, bypass bool
	pool           int // -1: none
	line           int // in Policy.Routes
}

type pool struct {
	Profile
	name   string
	addrs  []uint32
	blocks blocks
	router uint32 // 0: that of the policy
	since  uint32 // the first policy that had this name at this number without a break
	// reserved has a bit for each port that forwards and services take, by class.
	reserved [NumClasses]*[1 << 16 / 64]uint64
}

// class is the profile class of a protocol; ok is false for those that NAPT does not know.
func class(proto uint8) (c int, ok bool) {
	switch proto {
	case packet.TCP:
		return ClassTCP, true
	case packet.UDP:
		return ClassUDP, true
	case packet.ICMP:
		return ClassICMP, true
	}
	return 0, false
}

// defaultAttachments are what a Policy without any has.
var defaultAttachments = []Attachment{{ID: FromInside, Side: Inside}, {ID: FromOutside, Side: Outside}}

// compile makes a policy of a valid Policy. number gives each pool its place: sessions name it by that.
func (p *Policy) compile(number func(name string) int, key uint64) *policy {
	c := &policy{
		lines:      p.lists(),
		hairpinOff: p.HairpinOff, strictQuotes: p.StrictQuotes, dropBadResets: p.DropBadResets, mssClamp: p.MSSClamp,
		icmpRate: p.ICMPErrorsPerSecond, hostSessions: p.HostSessions, hostRate: p.HostRate,
		forwardsIn: map[endpoint]endpoint{}, forwards: map[endpoint][]endpoint{}, services: map[endpoint]bool{},
		outOf: newAddrMap(len(p.Static), key), inOf: newAddrMap(len(p.Static), key), alwaysOut: newAddrMap(len(p.Static), key),
	}
	if c.icmpRate == 0 {
		c.icmpRate = 100
	}
	for s, a := range [2]netip.Addr{p.InsideRouter, p.OutsideRouter} {
		if a.IsValid() {
			c.router[s] = to4(a)
		}
	}
	for _, m := range martians {
		c.owners.insert(m, owner{kind: martian})
	}
	for _, pre := range p.Inside {
		c.owners.insert(pre, owner{kind: inside})
	}
	for _, pre := range p.Unlent {
		c.owners.insert(pre, owner{kind: unlent})
	}
	c.compileAttachments(p)
	c.compileRestrictions(p, key)
	c.pools = append(c.pools, p.filterPool())
	for _, q := range p.Pools {
		c.compilePool(q, number(q.Name))
		c.pools[number(q.Name)].blocks = p.blocksOf(&q)
	}
	for _, s := range p.Static {
		in, out := to4(s.Inside), to4(s.Outside)
		c.outOf.insert(in, out)
		c.inOf.insert(out, in)
		c.owners.insert(netip.PrefixFrom(s.Outside, 32), owner{kind: static})
	}
	c.owners.build()
	for _, f := range p.Forwards {
		out, in := endpointOf(f.Protocol, f.Outside), endpointOf(f.Protocol, f.Inside)
		c.forwardsIn[out] = in
		c.forwards[in] = append(c.forwards[in], out)
		c.reserve(out)
	}
	for _, s := range p.Services {
		e := endpointOf(s.Protocol, s.Endpoint)
		c.services[e] = true
		c.reserve(e)
	}
	c.compileRoutes(p, number)
	for _, s := range p.Static {
		if c.boundOf(to4(s.Inside)) != nil {
			continue
		}
		if set, ok := c.routes.Lookup(s.Inside); ok && set.byDst.Size() == 1 {
			if way, ok := set.byDst.Get(everywhere); ok && way.static && !way.bypass {
				c.alwaysOut.insert(to4(s.Inside), to4(s.Outside))
			}
		}
	}
	return c
}

func endpointOf(proto uint8, a netip.AddrPort) endpoint {
	return endpoint{to4(a.Addr()), a.Port(), proto}
}

func (c *policy) compileAttachments(p *Policy) {
	atts := p.Attachments
	if len(atts) == 0 {
		atts = defaultAttachments
	}
	for _, a := range atts {
		for len(c.atts) <= int(a.ID) {
			c.atts = append(c.atts, attachment{})
		}
		d := attachment{known: true, side: a.Side, router: a.Router}
		if a.Side == Inside && len(a.Sources) > 0 {
			d.sources = new(bart.Lite)
			for _, s := range a.Sources {
				d.sources.Insert(s.Masked())
			}
		}
		c.atts[a.ID] = d
		if a.Router && a.MTU > 0 && (c.mtu[a.Side] == 0 || a.MTU < c.mtu[a.Side]) {
			c.mtu[a.Side] = a.MTU
		}
	}
	c.minMTU = 1 << 16
	for _, m := range c.mtu {
		if m > 0 {
			c.minMTU = min(c.minMTU, m)
		}
	}
}

func (c *policy) compilePool(q Pool, n int) {
	for len(c.pools) <= n {
		c.pools = append(c.pools, pool{})
	}
	d := &c.pools[n]
	d.Profile, d.name = q.Profile.orDefault(), q.Name
	if q.Router.IsValid() {
		c.routers, d.router = true, to4(q.Router)
	}
	for _, a := range q.Addresses {
		d.addrs = append(d.addrs, to4(a))
		c.owners.insert(netip.PrefixFrom(a, 32), owner{kind: external, pool: uint16(n), private: q.Private})
	}
	for _, a := range q.Draining {
		c.draining = true
		c.owners.insert(netip.PrefixFrom(a, 32), owner{kind: external, pool: uint16(n), draining: true, private: q.Private})
	}
}

// filterPool is what filter sessions take for their pool.
func (p *Policy) filterPool() pool {
	f := GatewayProfile()
	f.Timeouts = p.RestrictionTimeouts
	f.InboundRefresh = true
	for k := range NumClasses {
		f.Mapping[k] = AddressAndPortDependent
	}
	return pool{Profile: f.orDefault()}
}

func (c *policy) reserve(e endpoint) {
	o := c.owners.of(e.addr)
	k, ok := class(e.proto)
	if o.kind != external || !ok {
		return
	}
	d := &c.pools[o.pool]
	if d.reserved[k] == nil {
		d.reserved[k] = new([1 << 16 / 64]uint64)
	}
	d.reserved[k][e.port/64] |= 1 << (e.port % 64)
}

// reserves reports whether e is reserved: by a policy that came after the session that has it.
func (c *policy) reserves(e endpoint) bool {
	o := c.owners.of(e.addr)
	k, ok := class(e.proto)
	return ok && o.kind == external && c.pools[o.pool].isReserved(k, e.port)
}

func (d *pool) isReserved(k int, port uint16) bool {
	return d.reserved[k] != nil && d.reserved[k][port/64]>>(port%64)&1 != 0
}

func (c *policy) compileRoutes(p *Policy, number func(string) int) {
	sets := map[netip.Prefix]*routeSet{}
	for i, r := range p.Routes {
		src := r.Source.Masked()
		set := sets[src]
		if set == nil {
			set = new(routeSet)
			sets[src] = set
			c.routes.Insert(src, set)
		}
		d := route{static: r.Static, bypass: r.Bypass, pool: -1, line: i}
		if r.Pool != "" {
			d.pool = number(r.Pool)
		}
		c.bypass = c.bypass || r.Bypass
		dst := everywhere
		if r.Destination.IsValid() {
			dst = r.Destination.Masked()
		}
		set.byDst.Insert(dst, d)
	}
}

// everywhere is the destination of a default route.
var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// route is the way of src to dst.
func (c *policy) route(src, dst uint32) (route, bool) {
	set, ok := c.routes.Lookup(from4(src))
	if !ok {
		return route{}, false
	}
	return set.byDst.Lookup(from4(dst))
}

// insideRouter is where an ICMP error about a packet of an inside host is from, 0 if from nobody in particular.
func (c *policy) insideRouter(src, dst uint32) uint32 {
	if c.routers && c.owners.of(dst).kind != inside {
		way, ok := c.route(src, dst)
		if ok && !way.bypass && way.pool >= 0 && !(way.static && c.outOf.get(src) != 0) && c.pools[way.pool].router != 0 {
			return c.pools[way.pool].router
		}
	}
	return c.router[Inside]
}

// orDefault fills in what a Profile leaves out.
func (f Profile) orDefault() Profile {
	if f == (Profile{}) {
		f = GatewayProfile()
	}
	var d Timeouts
	switch f.Name {
	case "rfc":
		d = RFCProfile().Timeouts
	case "aws":
		d = AWSProfile().Timeouts
	default:
		d = GatewayProfile().Timeouts
	}
	t := &f.Timeouts
	for _, v := range []struct{ to, from *time.Duration }{
		{&t.UDP, &d.UDP}, {&t.DNS, &d.DNS}, {&t.TCPEstablished, &d.TCPEstablished}, {&t.TCPOpening, &d.TCPOpening},
		{&t.TCPClosing, &d.TCPClosing}, {&t.ICMP, &d.ICMP},
	} {
		if *v.to == 0 {
			*v.to = *v.from
		}
	}
	if t.UDPOpening == 0 {
		t.UDPOpening = t.UDP
	}
	if f.PortMin == 0 && f.PortMax == 0 {
		f.PortMin, f.PortMax = 1024, 65535
	}
	return f
}

// timeouts are the ticks of each conntrack.State.
func (f *Profile) timeouts() (t [conntrack.NumStates]uint32) {
	for s, d := range map[conntrack.State]time.Duration{
		conntrack.UDPOpening: f.Timeouts.UDPOpening, conntrack.UDP: f.Timeouts.UDP,
		conntrack.DNS: f.Timeouts.DNS, conntrack.Query: f.Timeouts.ICMP,
		conntrack.Opening: f.Timeouts.TCPOpening, conntrack.Established: f.Timeouts.TCPEstablished,
		conntrack.Closing: f.Timeouts.TCPClosing, conntrack.Reset: f.Timeouts.TCPClosing,
		conntrack.Quarantined: f.Quarantine,
	} {
		t[s] = uint32((d + time.Millisecond - 1) / time.Millisecond)
	}
	return t
}

// quarantined reports whether a class of mappings is put into quarantine: only where anybody could send to them.
func (f *Profile) quarantined(k int) bool {
	return f.Quarantine > 0 && f.Mapping[k] == EndpointIndependent && f.Filtering[k] == FilterEndpointIndependent
}

// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

var (
	ip     = netip.MustParseAddr
	at     = netip.MustParseAddrPort
	prefix = netip.MustParsePrefix
)

// The cast. The hosts with numbers 1.x share pool a, 3.3 has no way out, 4.x use pool b.
var (
	hosts    = []netip.Addr{ip("10.0.1.10"), ip("10.0.1.11"), ip("10.0.1.12"), ip("10.0.2.5"), ip("10.0.2.6"), ip("10.0.3.3"), ip("10.0.4.4")}
	remotes  = []netip.Addr{ip("203.0.113.9"), ip("203.0.113.10"), ip("192.0.2.1")}
	knowing  = prefix("172.16.0.0/12") // who knows inside addresses
	partner  = ip("172.16.0.9")
	poolA    = []netip.Addr{ip("198.51.100.1"), ip("198.51.100.2"), ip("198.51.100.3")}
	poolB    = ip("198.51.100.11")
	privateB = ip("10.0.4.200") // what pool b has instead, where it is private
	statics  = []netip.Addr{ip("198.51.100.20"), ip("198.51.100.21")}
	unlent   = ip("198.51.100.30")
	stranger = ip("198.51.100.77")
)

// Attachments. The last one is not in the policy.
const (
	anywhere nat.AttachmentID = iota
	outside
	subnet // inside, for 10.0.1.0/24 alone
	nowhere
)

// world is what stays as it is during a script.
type world struct {
	cfg              nat.Config
	start            time.Duration
	profile, other   nat.Profile
	addresses        int
	router           bool
	mtuIn, mtuOut    int
	sessions, rate   int
	clamp            uint16
	strict, badRST   bool
	hairpinOff       bool
	forwards         bool
	icmpRate         int
	routers          bool
	restricted       int  // which hosts are: see restrict
	private          bool // pool b is
	claimsEverything bool // the attachment with sources names all addresses
}

// newWorld reads the head of a script. A crowded one has several shards, and is too small for them.
func newWorld(d *dice, crowded bool) world {
	w := world{
		cfg: nat.Config{
			Sessions: pick(d, 512, 128, 24, 10), Shards: pick(d, 1, 1, 1, 4), Seed: 1 + uint64(d.n(250)),
			FragmentBytes: pick(d, 1, 1<<20), FragmentTimeout: pick(d, 0, 0, 2*time.Second), HeldSYNs: pick(d, 64, 3), FlowCounters: d.one(2),
			Events: 1 << 12,
		},
		// Ticks of 32 bits wrap after 2^32 ms (B-37).
		start:     pick(d, 0, time.Hour, (1<<32-5000)*time.Millisecond, (1<<31-60000)*time.Millisecond),
		addresses: 1 + d.n(3),
		router:    d.one(2),
		clamp:     pick[uint16](d, 0, 0, 1000),
		strict:    d.one(3),
		badRST:    d.one(3),
		forwards:  !d.one(4),
		icmpRate:  pick(d, 0, 1000, 5, -1),
		routers:   d.one(2),
	}
	if crowded {
		w.cfg.Shards, w.cfg.Sessions = pick(d, 2, 4), pick(d, 512, 64, 16)
		w.cfg.QuarantinedPorts = pick(d, 0, 1, 12)
	}
	if w.router && d.one(2) {
		w.mtuIn, w.mtuOut = 620, 580
	}
	w.hairpinOff = d.one(8)
	if d.one(6) {
		w.sessions = 4
	}
	if d.one(6) {
		w.rate = 3
	}
	w.claimsEverything = d.one(4)
	w.profile, w.other = newProfile(d, w.cfg.Shards), newProfile(d, w.cfg.Shards)
	if w.cfg.Shards > 1 && !crowded { // what a shard has of a short supply is not for the twin to know
		w.cfg.Sessions = 4 * 512
	}
	w.restricted, w.private = pick(d, 0, 0, 1, 2), d.one(3)
	return w
}

func newProfile(d *dice, shards int) nat.Profile {
	var f nat.Profile
	switch d.n(8) {
	case 0, 1:
		f = nat.GatewayProfile()
	case 2, 3:
		f = nat.RFCProfile()
	case 4, 5:
		f = nat.AWSProfile()
	case 6:
		return nat.Profile{} // stands for the first
	default:
		f = nat.GatewayProfile()
		f.Name = "custom"
		for k := range nat.NumClasses {
			f.Mapping[k] = nat.Mapping(d.n(2))
			f.Filtering[k] = nat.FilterAddressAndPortDependent
			if f.Mapping[k] == nat.EndpointIndependent {
				f.Filtering[k] = nat.Filtering(d.n(3))
			}
		}
		f.HoldSYN, f.InboundRefresh, f.FragmentsUDPOnly = d.one(2), d.one(2), d.one(3)
		f.Quarantine = pick(d, 0, 40*time.Second)
		f.PreserveClass = d.one(2)
		f.Stray = nat.Stray(d.n(3))
	}
	f.Pooling = nat.Pooling(d.n(3))
	f.PreserveParity, f.PreservePort = d.one(3), d.one(3)
	f.NoPort = nat.Refusal(d.n(3))
	if f.Name != "rfc" {
		f.Timeouts.UDPOpening = pick(d, 0, 0, 30*time.Second)
	}
	if d.one(3) {
		f.Stray = nat.StrayPickup
	}
	if d.one(2) {
		f.PortMin, f.PortMax = 2000, 2000+uint16(pick(d, 0, 3, 7, 40))
		if f.PortsPerDestination > 0 {
			f.PortsPerDestination = 2
		}
	} else if d.one(3) {
		// One address has blocks for all who are ever routed to a pool, 257 of a and the 256 of b.
		f.PreserveClass, f.Pooling = false, nat.Paired
		f.PortBlock = max(pick(d, 1, 2, 5, 100), 2*shards)
		f.PortMin, f.PortMax = 1024, pick[uint16](d, 65535, 60001)
	}
	return f
}

// policy is the policy of a world in one of its forms.
func (w *world) policy(d *dice) *nat.Policy {
	p := &nat.Policy{
		Attachments: []nat.Attachment{
			{ID: anywhere, Side: nat.Inside, Router: w.router, MTU: w.mtuIn},
			{ID: outside, Side: nat.Outside, Router: w.router, MTU: w.mtuOut},
			{ID: subnet, Side: nat.Inside, Sources: []netip.Prefix{prefix("10.0.1.0/24")}},
		},
		Inside: []netip.Prefix{prefix("10.0.0.0/16")},
		Routes: []nat.Route{
			{Source: prefix("10.0.0.0/16"), Destination: knowing, Bypass: true},
			{Source: prefix("10.0.1.0/24"), Destination: knowing, Bypass: true},
			{Source: prefix("10.0.1.0/24"), Pool: "a"},
			{Source: prefix("10.0.2.0/24"), Static: true},
			{Source: prefix("10.0.2.6/32"), Static: true, Pool: "a"},
			{Source: prefix("10.0.4.0/24"), Pool: "b"},
		},
		Pools: []nat.Pool{
			{Name: "a", Addresses: poolA[:w.addresses], Profile: w.profile},
			{Name: "b", Addresses: []netip.Addr{poolB}, Profile: w.other},
		},
		Static:              []nat.Static{{Inside: hosts[3], Outside: statics[0]}, {Inside: hosts[4], Outside: statics[1]}},
		Unlent:              []netip.Prefix{netip.PrefixFrom(unlent, 31)},
		Services:            []nat.Service{{Protocol: packet.TCP, Endpoint: netip.AddrPortFrom(poolA[0], 22)}, {Protocol: packet.UDP, Endpoint: netip.AddrPortFrom(poolA[0], 2001)}},
		HairpinOff:          w.hairpinOff,
		MSSClamp:            w.clamp,
		ICMPErrorsPerSecond: w.icmpRate,
		StrictQuotes:        w.strict,
		DropBadResets:       w.badRST,
		HostSessions:        w.sessions,
		HostRate:            w.rate,
	}
	if w.claimsEverything {
		p.Attachments[2].Sources = []netip.Prefix{prefix("0.0.0.0/0")}
	}
	if w.routers {
		p.InsideRouter, p.OutsideRouter = ip("10.0.0.1"), unlent
		p.Pools[0].Router = ip("10.0.0.2")
	}
	if w.forwards {
		p.Forwards = []nat.Forward{
			{Protocol: packet.TCP, Outside: netip.AddrPortFrom(poolA[0], 2002), Inside: at("10.0.1.10:80")},
			{Protocol: packet.UDP, Outside: netip.AddrPortFrom(poolA[0], 2002), Inside: at("10.0.1.11:5000")},
			{Protocol: packet.TCP, Outside: netip.AddrPortFrom(poolB, 8080), Inside: at("10.0.4.4:80")},
		}
	}
	if w.private {
		p.Pools[1].Private, p.Pools[1].Addresses = true, []netip.Addr{w.b()}
		if w.forwards {
			p.Forwards[2].Outside = netip.AddrPortFrom(w.b(), 8080)
		}
	}
	if w.restricted > 0 {
		w.restrict(p, d)
	}
	if d != nil {
		w.vary(p, d)
		if p.Pools[0].Profile.PortBlock > 0 {
			p.Pools[0].Draining = nil
		}
	}
	return p
}

// b is the address of pool b.
func (w *world) b() netip.Addr {
	if w.private {
		return privateB
	}
	return poolB
}

// vary makes some of the changes that a policy sees in its life.
func (w *world) vary(p *nat.Policy, d *dice) {
	for range 1 + d.n(3) {
		switch d.n(10) {
		case 0: // the last address of the pool is on its way out
			if a := &p.Pools[0]; w.addresses > 1 && len(a.Addresses) == w.addresses {
				a.Addresses, a.Draining = poolA[:w.addresses-1], poolA[w.addresses-1:w.addresses]
			}
		case 1: // or gone
			if a := &p.Pools[0]; w.addresses > 1 && len(a.Addresses) == w.addresses {
				a.Addresses = poolA[:w.addresses-1]
			}
		case 2: // a public address is given back, or moves
			p.Static = p.Static[:1]
		case 3:
			p.Static[0].Inside = hosts[0]
		case 4:
			p.Forwards = nil
		case 5: // a subnet changes its gateway
			p.Routes[2].Pool = "b"
		case 6:
			p.Routes[2].Static = true
		case 7: // or has none
			p.Routes[2].Pool = ""
		case 8:
			p.Pools[0].Profile = w.other
		case 9:
			t := &p.Pools[1].Profile
			if *t != (nat.Profile{}) {
				t.Timeouts.UDP, t.Timeouts.TCPEstablished = 200*time.Second, 8000*time.Second
			}
		}
	}
}

// restrict restricts a 1:1 host, a host behind pool a and one behind pool b, or all but two of the cast: with d by other
// rules, or others.
func (w *world) restrict(p *nat.Policy, d *dice) {
	r := nat.Restriction{
		Name: "few", Hosts: []netip.Addr{hosts[0], hosts[3], hosts[6]},
		In:  []nat.Allow{{Protocol: packet.TCP, PortMin: 80, PortMax: 5001}, {Protocol: packet.ICMP, PortMin: 8 << 8, PortMax: 11<<8 | 3}, {Protocol: packet.UDP, PortMax: 65535, Remotes: []netip.Prefix{prefix("203.0.113.10/32"), prefix("10.0.0.0/16")}}},
		Out: []nat.Allow{{Protocol: packet.TCP, PortMin: 53, PortMax: 443}, {Protocol: packet.UDP, PortMax: 65535}, {Protocol: -1, Remotes: []netip.Prefix{prefix("192.0.2.0/24"), knowing, prefix("198.51.100.0/28")}}},
	}
	if w.restricted == 2 {
		r.Name, r.Hosts = "many", []netip.Addr{hosts[1], hosts[2], hosts[3], hosts[4], hosts[6]}
		p.RestrictionTimeouts = nat.Timeouts{UDPOpening: 20 * time.Second, TCPEstablished: time.Hour}
	}
	if d != nil {
		switch d.n(8) {
		case 0:
			return
		case 1:
			r.Name = "others"
		case 2:
			r.Hosts = r.Hosts[1:]
		case 3:
			r.In, r.Out = r.Out, r.In
		case 4:
			r.In, r.Out = nil, []nat.Allow{{Protocol: -1}}
		case 5:
			p.Restrictions = append(p.Restrictions, nat.Restriction{Name: "more", Hosts: r.Hosts[:1], In: r.In})
			r.Hosts = r.Hosts[1:]
		}
	}
	p.Restrictions = append(p.Restrictions, r)
}

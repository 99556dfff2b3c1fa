// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// pool is the name of the only pool.
const pool = "outside"

// Compile is what the engine is made of: a policy with two attachments, 0 inside and 1 outside, and its sizes. Whoever
// runs the engine sets nat.Config.Shards and Seed.
func (c *Config) Compile() (*nat.Policy, nat.Config) {
	p := &nat.Policy{
		Inside:       c.Inside.Prefixes,
		HairpinOff:   !c.Hairpin,
		MSSClamp:     uint16(c.MSSClamp),
		HostSessions: c.Limits.SessionsPerHost,
		HostRate:     c.Limits.NewPerSecondPerHost,
	}
	way := ""
	if len(c.Outside.Addresses)+len(c.Outside.Draining) > 0 {
		way = pool
		p.Pools = []nat.Pool{{Name: pool, Addresses: addresses(c.Outside.Addresses), Draining: addresses(c.Outside.Draining),
			Profile: c.natProfile()}}
	}
	for _, in := range c.Inside.Prefixes {
		p.Routes = append(p.Routes, nat.Route{Source: in, Static: true, Pool: way})
	}
	for _, s := range c.Static {
		p.Static = append(p.Static, nat.Static(s))
	}
	for _, w := range c.Forwards {
		proto := uint8(packet.TCP)
		if w.Proto == "udp" {
			proto = packet.UDP
		}
		p.Forwards = append(p.Forwards, nat.Forward{Protocol: proto, Outside: w.Outside, Inside: w.Inside})
	}
	return p, nat.Config{Sessions: c.Limits.Sessions, FragmentTimeout: time.Duration(c.Timeouts.Fragment), FlowCounters: c.FlowCounters}
}

func (c *Config) natProfile() nat.Profile {
	p := natProfile(c.Profile)
	p.PortMin, p.PortMax = uint16(c.Outside.Ports.Min), uint16(c.Outside.Ports.Max)
	p.PortBlock = c.Outside.PortBlock
	p.Pooling = nat.Pooling(index(c.Outside.Pooling))
	p.Mapping = [nat.NumClasses]nat.Mapping{
		nat.ClassTCP:  nat.Mapping(index(c.Mapping.TCP)),
		nat.ClassUDP:  nat.Mapping(index(c.Mapping.UDP)),
		nat.ClassICMP: nat.Mapping(index(c.Mapping.ICMP)),
	}
	p.Filtering = [nat.NumClasses]nat.Filtering{
		nat.ClassTCP:  nat.Filtering(index(c.Filtering.TCP)),
		nat.ClassUDP:  nat.Filtering(index(c.Filtering.UDP)),
		nat.ClassICMP: nat.Filtering(index(c.Filtering.ICMP)),
	}
	t := &c.Timeouts
	p.Timeouts = nat.Timeouts{
		UDP: time.Duration(t.UDP), UDPOpening: time.Duration(t.UDPOpening), DNS: time.Duration(t.DNS), ICMP: time.Duration(t.ICMP),
		TCPEstablished: time.Duration(t.TCPEstablished), TCPOpening: time.Duration(t.TCPTransitory),
		TCPClosing: time.Duration(t.TCPClosing),
	}
	return p
}

func addresses(rs []Range) []netip.Addr {
	var all []netip.Addr
	for _, r := range rs {
		all = append(all, r.All()...)
	}
	return all
}

// External are all external addresses: no packet may leave on the outside with another source.
func (c *Config) External() []netip.Addr {
	all := append(addresses(c.Outside.Addresses), addresses(c.Outside.Draining)...)
	for _, s := range c.Static {
		all = append(all, s.Outside)
	}
	return all
}

// ExternalPrefixes are the addresses of External, as few prefixes as they make.
func (c *Config) ExternalPrefixes() []netip.Prefix {
	var all []netip.Prefix
	for _, rs := range [][]Range{c.Outside.Addresses, c.Outside.Draining} {
		for _, r := range rs {
			all = append(all, r.Prefixes()...)
		}
	}
	for _, s := range c.Static {
		all = append(all, netip.PrefixFrom(s.Outside, 32))
	}
	return all
}

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
)

// OutsideAttachment is where packets from the internet enter the engine of each VPC.
const OutsideAttachment nat.AttachmentID = 0

// Policy compiles one VPC into the policy of its engine. (Addresses of VPCs may overlap, so each has its own engine.)
//
// Each network interface of a running instance is an inside attachment, with its private addresses as the only sources.
// One of them has a 1:1 mapping if it has a public address and the subnet has a route to the internet gateway: without
// that route a public address neither sends nor receives. A NAT gateway is a pool with its id as the name; a route to it
// works for destinations that the subnet of the gateway itself routes to the internet gateway, or, of a private one, to a
// transit gateway. A route to a transit gateway leads out, and in, untranslated. Security groups are a restriction of each
// interface, named by its id, unless they allow everything both ways, which costs nothing. Public addresses that nobody
// uses, or that an interface of this VPC has and cannot use, are Unlent: what arrives for them ends as nat.DropUnassigned.
//
// ICMP errors to instances come from the first private address of the NAT gateway that the packet was to pass, as in a
// traceroute through it, and else from the router address, the second of the VPC.
//
// The result shares nothing with the model. Its restrictions share their rules with one another.
func (m *Model) Policy(vpcID string) (*nat.Policy, error) {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return nil, err
	}
	p := &nat.Policy{
		Attachments:  []nat.Attachment{{ID: OutsideAttachment, Side: nat.Outside, Router: true, MTU: m.cfg.OutsideMTU}},
		Inside:       slices.Clone(v.CIDRs),
		InsideRouter: v.CIDRs[0].Addr().Next(),
		Restrictions: m.restrictions(v),
	}
	idle := m.pool.all()
	for g := range m.natGateways.all() {
		if g.VPCID != v.ID {
			continue
		}
		p.Pools = append(p.Pools, g.pool())
	}
	public := map[string]bool{} // subnets with a route to the internet gateway
	for s := range m.subnets.all() {
		if s.VPCID != v.ID {
			continue
		}
		for _, r := range m.routes(s) {
			p.Routes = append(p.Routes, r)
			public[s.ID] = public[s.ID] || r.Static
		}
	}
	elastic := m.elasticIPs()
	for n := range m.interfaces.all() {
		if n.VPCID != v.ID {
			continue
		}
		n, runs := m.describeInterface(n, elastic), m.runs(n)
		at := nat.Attachment{ID: n.Attachment, Side: nat.Inside, Router: true, MTU: m.cfg.InsideMTU}
		for _, a := range n.Addresses {
			at.Sources = append(at.Sources, netip.PrefixFrom(a.PrivateIP, 32))
			switch {
			case !a.PublicIP.IsValid():
			case runs && public[n.SubnetID]:
				p.Static = append(p.Static, nat.Static{Inside: a.PrivateIP, Outside: a.PublicIP})
			default:
				idle = append(idle, a.PublicIP)
			}
		}
		if runs {
			p.Attachments = append(p.Attachments, at)
		}
	}
	for a := range m.addresses.all() {
		if a.AssociationID == "" {
			idle = append(idle, a.PublicIP)
		}
	}
	p.Unlent = aggregate(idle)
	return p, nil
}

// routes compiles the ways out of a subnet. A packet to a NAT gateway is routed twice, by the table of its source and by
// that of the gateway. Both have one answer for all destinations within the longest prefix of either table, so one route
// for each of those prefixes says it all.
func (m *Model) routes(s Subnet) []nat.Route {
	table := m.tableOf(s)
	var destinations []netip.Prefix
	for _, r := range table.Routes {
		destinations = append(destinations, r.Destination)
		if g, ok := m.natGateways.byID[r.Target]; ok {
			for _, second := range m.tableOf(m.subnets.byID[g.SubnetID]).Routes {
				if within(second.Destination, r.Destination) {
					destinations = append(destinations, second.Destination)
				}
			}
		}
	}
	slices.SortFunc(destinations, netip.Prefix.Compare)
	var out []nat.Route
	for _, d := range slices.Compact(destinations) {
		first, _ := table.lookup(d)
		r := nat.Route{Source: s.CIDR, Destination: d}
		switch m.leads(s.VPCID, first) {
		case toInternetGateway:
			r.Static = true
		case toNATGateway:
			gateway := m.natGateways.byID[first.Target]
			second, _ := m.tableOf(m.subnets.byID[gateway.SubnetID]).lookup(d)
			if m.leads(s.VPCID, second) == gateway.sendsTo() {
				r.Pool = gateway.ID
			}
		case toTransitGateway:
			r.Bypass = true
		}
		out = append(out, r)
	}
	return out
}

// sendsTo is the kind of thing that a NAT gateway sends to; the rest it drops.
func (g NATGateway) sendsTo() way {
	if g.ConnectivityType == PrivateNAT {
		return toTransitGateway
	}
	return toInternetGateway
}

// pool is what a NAT gateway translates to. It is a hop with its first private address (NGW-10).
func (g NATGateway) pool() nat.Pool {
	p := nat.Pool{Name: g.ID, Profile: nat.AWSProfile(), Private: g.ConnectivityType == PrivateNAT, Router: g.Addresses[0].PrivateIP}
	for _, a := range g.Addresses {
		ip := a.PublicIP
		if g.ConnectivityType == PrivateNAT {
			ip = a.PrivateIP
		}
		if a.Draining() {
			p.Draining = append(p.Draining, ip)
		} else {
			p.Addresses = append(p.Addresses, ip)
		}
	}
	return p
}

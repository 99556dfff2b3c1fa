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
// Each running instance is an inside attachment, with its private address as the only source. An instance has a 1:1
// mapping if it runs, has a public address, and its subnet has a route to the internet gateway: without that route a
// public address neither sends nor receives. A NAT gateway is a pool with its id as the name; a route to it works for
// destinations that the subnet of the gateway itself routes to the internet gateway. Public addresses that nobody uses,
// or that an instance of this VPC has and cannot use, are Unlent: what arrives for them ends as nat.DropUnassigned.
//
// ICMP errors to instances come from the private address of the VPC's oldest NAT gateway, as in a traceroute through it;
// in a VPC without one, from the router address, the second of the VPC.
//
// The result shares nothing with the model.
func (m *Model) Policy(vpcID string) (*nat.Policy, error) {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return nil, err
	}
	p := &nat.Policy{
		Attachments:  []nat.Attachment{{ID: OutsideAttachment, Side: nat.Outside, Router: true, MTU: m.cfg.OutsideMTU}},
		Inside:       slices.Clone(v.CIDRs),
		InsideRouter: v.CIDRs[0].Addr().Next(),
	}
	var idle []netip.Addr
	for _, a := range m.pool.idle {
		idle = append(idle, a.ip)
	}
	for g := range m.natGateways.all() {
		if g.VPCID != v.ID {
			continue
		}
		if len(p.Pools) == 0 {
			p.InsideRouter = g.Addresses[0].PrivateIP
		}
		pool := nat.Pool{Name: g.ID, Profile: nat.AWSProfile()}
		for _, a := range g.Addresses {
			pool.Addresses = append(pool.Addresses, a.PublicIP)
		}
		p.Pools = append(p.Pools, pool)
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
	for i := range m.instances.all() {
		if i.VPCID != v.ID {
			continue
		}
		if i.State == Running {
			p.Attachments = append(p.Attachments, nat.Attachment{
				ID: i.Attachment, Side: nat.Inside, Router: true, MTU: m.cfg.InsideMTU,
				Sources: []netip.Prefix{netip.PrefixFrom(i.PrivateIP, 32)},
			})
		}
		switch {
		case !i.PublicIP.IsValid():
		case i.State == Running && public[i.SubnetID]:
			p.Static = append(p.Static, nat.Static{Inside: i.PrivateIP, Outside: i.PublicIP})
		default:
			idle = append(idle, i.PublicIP)
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
			if m.leads(s.VPCID, second) == toInternetGateway {
				r.Pool = gateway.ID
			}
		}
		out = append(out, r)
	}
	return out
}

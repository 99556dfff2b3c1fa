// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"iter"
	"net/netip"
	"slices"
)

// VPC is a private network.
type VPC struct {
	ID string
	// CIDRs are its addresses; the first one is the primary. Those of two VPCs may overlap.
	CIDRs []netip.Prefix
	// MainRouteTableID is the route table of all subnets that are not associated with another.
	MainRouteTableID string
}

// Subnet is a part of a VPC with one way out.
type Subnet struct {
	ID, VPCID string
	CIDR      netip.Prefix
	// MapPublicIPOnLaunch makes instances that are launched here ask for a public address whenever they start.
	MapPublicIPOnLaunch bool
}

// CreateVPC makes a VPC with a main route table. The CIDR has 16 to 28 bits and no public address of the region.
func (m *Model) CreateVPC(cidr netip.Prefix) (VPC, error) {
	if err := m.checkCIDR(cidr); err != nil {
		return VPC{}, err
	}
	v := VPC{ID: m.newID("vpc"), CIDRs: []netip.Prefix{cidr.Masked()}, MainRouteTableID: m.newID("rtb")}
	m.vpcs.put(v.ID, v)
	m.tables.put(v.MainRouteTableID, RouteTable{ID: v.MainRouteTableID, VPCID: v.ID, Main: true})
	return v.clone(), nil
}

// AssociateVPCCIDRBlock gives a VPC further addresses, under the same rules. They may not overlap those it has, and no
// route of the VPC may lead into them.
func (m *Model) AssociateVPCCIDRBlock(vpcID string, cidr netip.Prefix) (VPC, error) {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return VPC{}, err
	}
	if err := m.checkCIDR(cidr); err != nil {
		return VPC{}, err
	}
	cidr = cidr.Masked()
	for _, have := range v.CIDRs {
		if have.Overlaps(cidr) {
			return VPC{}, refuse(VPCRange, "%v overlaps %v of the VPC; choose another block", cidr, have)
		}
	}
	for t := range m.tables.all() {
		for _, r := range t.Routes {
			if t.VPCID == v.ID && within(r.Destination, cidr) {
				return VPC{}, refuse(VPCRange, "the route to %v in %s leads into %v; delete it first", r.Destination, t.ID, cidr)
			}
		}
	}
	v.CIDRs = append(slices.Clone(v.CIDRs), cidr)
	m.vpcs.put(v.ID, v)
	return v.clone(), nil
}

// checkCIDR says whether a VPC may have this block.
func (m *Model) checkCIDR(cidr netip.Prefix) error {
	if !cidr.IsValid() || !cidr.Addr().Is4() || cidr.Bits() < 16 || cidr.Bits() > 28 {
		return refuse(VPCRange, "%v is no IPv4 block between /16 and /28", cidr)
	}
	if isReserved(cidr) {
		return refuse(VPCRange, "%v has addresses that no host can have; choose a private block", cidr)
	}
	for _, p := range m.cfg.PublicPool {
		if p.Overlaps(cidr) {
			return refuse(VPCRange, "%v overlaps the public addresses %v; choose a private block", cidr, p)
		}
	}
	return nil
}

// DeleteVPC deletes a VPC that has no subnet, no internet gateway and no route table but its main one.
func (m *Model) DeleteVPC(vpcID string) error {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return err
	}
	for s := range m.subnets.all() {
		if s.VPCID == v.ID {
			return refuse(DependencyViolation, "%s has the subnet %s; delete it first", v.ID, s.ID)
		}
	}
	for t := range m.tables.all() {
		if t.VPCID == v.ID && !t.Main {
			return refuse(DependencyViolation, "%s has the route table %s; delete it first", v.ID, t.ID)
		}
	}
	if g, ok := m.attachedGateway(v.ID); ok {
		return refuse(DependencyViolation, "%s has the internet gateway %s; detach it first", v.ID, g.ID)
	}
	m.tables.del(v.MainRouteTableID)
	m.vpcs.del(v.ID)
	return nil
}

// DescribeVPCs lists all VPCs in the order in which they were made.
func (m *Model) DescribeVPCs() []VPC { return collect(m.vpcs.all(), VPC.clone) }

func (v VPC) clone() VPC {
	v.CIDRs = slices.Clone(v.CIDRs)
	return v
}

// CreateSubnetInput is what a subnet is made of.
type CreateSubnetInput struct {
	VPCID string
	// CIDR lies in one CIDR of the VPC and has at most 28 bits. The first four addresses and the last one are reserved.
	CIDR netip.Prefix
	// MapPublicIPOnLaunch: see Subnet.
	MapPublicIPOnLaunch bool
}

// CreateSubnet makes a subnet. It uses the main route table of the VPC until another one is associated.
func (m *Model) CreateSubnet(in CreateSubnetInput) (Subnet, error) {
	v, err := m.vpcs.find(in.VPCID, VPCNotFound)
	if err != nil {
		return Subnet{}, err
	}
	if !in.CIDR.IsValid() || in.CIDR.Bits() > 28 {
		return Subnet{}, refuse(SubnetRange, "%v is no block of /28 or larger", in.CIDR)
	}
	cidr := in.CIDR.Masked()
	if !slices.ContainsFunc(v.CIDRs, func(c netip.Prefix) bool { return within(cidr, c) }) {
		return Subnet{}, refuse(SubnetRange, "%v is not within the VPC (%v)", cidr, v.CIDRs)
	}
	for s := range m.subnets.all() {
		if s.VPCID == v.ID && s.CIDR.Overlaps(cidr) {
			return Subnet{}, refuse(SubnetConflict, "%v overlaps %v of %s", cidr, s.CIDR, s.ID)
		}
	}
	s := Subnet{ID: m.newID("subnet"), VPCID: v.ID, CIDR: cidr, MapPublicIPOnLaunch: in.MapPublicIPOnLaunch}
	m.subnets.put(s.ID, s)
	return s, nil
}

// ModifySubnetAttribute changes MapPublicIPOnLaunch for instances that are launched from now on.
func (m *Model) ModifySubnetAttribute(subnetID string, mapPublicIPOnLaunch bool) error {
	s, err := m.subnets.find(subnetID, SubnetNotFound)
	if err != nil {
		return err
	}
	s.MapPublicIPOnLaunch = mapPublicIPOnLaunch
	m.subnets.put(s.ID, s)
	return nil
}

// DeleteSubnet deletes a subnet that has no instance (terminated ones do not count) and no NAT gateway. An association
// with a route table goes with it.
func (m *Model) DeleteSubnet(subnetID string) error {
	s, err := m.subnets.find(subnetID, SubnetNotFound)
	if err != nil {
		return err
	}
	for i := range m.instances.all() {
		if i.SubnetID == s.ID && i.State != Terminated {
			return refuse(DependencyViolation, "%s has the instance %s; terminate it first", s.ID, i.ID)
		}
	}
	for g := range m.natGateways.all() {
		if g.SubnetID == s.ID {
			return refuse(DependencyViolation, "%s has the NAT gateway %s; delete it first", s.ID, g.ID)
		}
	}
	if t, i, ok := m.association(func(a RouteTableAssociation) bool { return a.SubnetID == s.ID }); ok {
		m.tables.put(t.ID, t.withoutAssociation(i))
	}
	m.subnets.del(s.ID)
	return nil
}

// DescribeSubnets lists all subnets in the order in which they were made.
func (m *Model) DescribeSubnets() []Subnet { return slices.Collect(m.subnets.all()) }

// reservedFirst is how many addresses at the start of a subnet nobody gets: network, router, resolver, one for the future.
const reservedFirst = 4

// pickPrivate is the address that a new owner in s gets: want, or, if that is not valid, the lowest free one.
func (m *Model) pickPrivate(s Subnet, want netip.Addr) (netip.Addr, error) {
	first := s.CIDR.Addr()
	for range reservedFirst {
		first = first.Next()
	}
	usable := func(ip netip.Addr) bool { // the last address is reserved too
		return s.CIDR.Contains(ip) && !ip.Less(first) && s.CIDR.Contains(ip.Next())
	}
	if want.IsValid() {
		if !usable(want) {
			return want, refuse(InvalidParameterValue, "%v is reserved or not in %v", want, s.CIDR)
		}
		if owner, ok := m.private[privateKey{s.VPCID, want}]; ok {
			return want, refuse(IPAddressInUse, "%v belongs to %s", want, owner)
		}
		return want, nil
	}
	for ip := first; usable(ip); ip = ip.Next() {
		if _, taken := m.private[privateKey{s.VPCID, ip}]; !taken {
			return ip, nil
		}
	}
	return netip.Addr{}, refuse(InsufficientFreeAddresses, "%s (%v) has no free address", s.ID, s.CIDR)
}

// within reports whether all of p is in q.
func within(p, q netip.Prefix) bool { return p.Bits() >= q.Bits() && q.Contains(p.Addr()) }

// collect gathers copies that share nothing with the model.
func collect[T any](seq iter.Seq[T], clone func(T) T) []T {
	var out []T
	for v := range seq {
		out = append(out, clone(v))
	}
	return out
}

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
	// MainRouteTableID is the route table of all subnets that are not associated with another, MainAssociationID the
	// association that makes it so.
	MainRouteTableID, MainAssociationID string
	// DefaultGroupID is the security group of network interfaces that name none.
	DefaultGroupID string
}

// Subnet is a part of a VPC with one way out.
type Subnet struct {
	ID, VPCID string
	CIDR      netip.Prefix
	// MapPublicIPOnLaunch makes instances that are launched here ask for a public address whenever they start.
	MapPublicIPOnLaunch bool
}

// CreateVPC makes a VPC with a main route table and a default security group. The CIDR has 16 to 28 bits and no public
// address of the region.
func (m *Model) CreateVPC(cidr netip.Prefix) (VPC, error) {
	if err := m.checkCIDR(cidr); err != nil {
		return VPC{}, err
	}
	if err := bounded(len(m.vpcs.ids), 1, m.cfg.Quotas.VPCs, VPCLimitExceeded, "VPCs"); err != nil {
		return VPC{}, err
	}
	v := VPC{
		ID: m.newID("vpc"), CIDRs: []netip.Prefix{cidr.Masked()},
		MainRouteTableID: m.newID("rtb"), MainAssociationID: m.newID("rtbassoc"),
	}
	m.tables.put(v.MainRouteTableID, RouteTable{ID: v.MainRouteTableID, VPCID: v.ID})
	v.DefaultGroupID = m.addDefaultGroup(v.ID)
	m.vpcs.put(v.ID, v)
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
	if err := bounded(len(v.CIDRs), 1, m.cfg.Quotas.CIDRs, CIDRLimitExceeded, "blocks"); err != nil {
		return VPC{}, err
	}
	v.CIDRs = append(slices.Clone(v.CIDRs), cidr)
	m.vpcs.put(v.ID, v)
	return v.clone(), nil
}

// DisassociateVPCCIDRBlock takes a block from a VPC: not the primary one, and none with a subnet in it.
func (m *Model) DisassociateVPCCIDRBlock(vpcID string, cidr netip.Prefix) (VPC, error) {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return VPC{}, err
	}
	i := slices.Index(v.CIDRs, cidr.Masked())
	switch {
	case i < 0:
		return VPC{}, refuse(CIDRAssociationNotFound, "%v is no block of %s", cidr, v.ID)
	case i == 0:
		return VPC{}, refuse(OperationNotPermitted, "%v is the primary block of %s, which keeps it", cidr, v.ID)
	}
	for s := range m.subnets.all() {
		if s.VPCID == v.ID && within(s.CIDR, v.CIDRs[i]) {
			return VPC{}, refuse(DependencyViolation, "%v has the subnet %s; delete it first", cidr, s.ID)
		}
	}
	v.CIDRs = slices.Delete(slices.Clone(v.CIDRs), i, i+1)
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

// DeleteVPC deletes a VPC that has no subnet, no internet gateway, no attachment to a transit gateway, no route table but
// its main one and no security group but its default one.
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
		if t.VPCID == v.ID && t.ID != v.MainRouteTableID {
			return refuse(DependencyViolation, "%s has the route table %s; delete it first", v.ID, t.ID)
		}
	}
	if g, ok := m.attachedGateway(v.ID); ok {
		return refuse(DependencyViolation, "%s has the internet gateway %s; detach it first", v.ID, g.ID)
	}
	for a := range m.transitVPCs.all() {
		if a.VPCID == v.ID {
			return refuse(DependencyViolation, "%s has the attachment %s to a transit gateway; delete it first", v.ID, a.ID)
		}
	}
	for g := range m.groups.all() {
		if g.VPCID == v.ID && g.ID != v.DefaultGroupID {
			return refuse(DependencyViolation, "%s has the security group %s; delete it first", v.ID, g.ID)
		}
	}
	m.groups.del(v.DefaultGroupID)
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
	inVPC := count(&m.subnets, func(s Subnet) bool { return s.VPCID == v.ID })
	if err := bounded(inVPC, 1, m.cfg.Quotas.Subnets, SubnetLimitExceeded, "subnets in the VPC"); err != nil {
		return Subnet{}, err
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

// DeleteSubnet deletes a subnet that has no network interface, and so no instance, and no NAT gateway. An association with
// a route table goes with it.
func (m *Model) DeleteSubnet(subnetID string) error {
	s, err := m.subnets.find(subnetID, SubnetNotFound)
	if err != nil {
		return err
	}
	for n := range m.interfaces.all() {
		if n.SubnetID != s.ID {
			continue
		}
		if n.InstanceID != "" {
			return refuse(DependencyViolation, "%s has the instance %s; terminate it first", s.ID, n.InstanceID)
		}
		return refuse(DependencyViolation, "%s has the network interface %s; delete it first", s.ID, n.ID)
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

// pickPrivates are the addresses that a new owner in s gets: each of wanted, the lowest free one for one that is not
// valid, and count more of those.
func (m *Model) pickPrivates(s Subnet, wanted []netip.Addr, count int) ([]netip.Addr, error) {
	if count < 0 || count > m.cfg.Quotas.AddressesPerInterface {
		return nil, refuse(PrivateIPAddressLimitExceeded, "%d more addresses; use 0 to %d", count, m.cfg.Quotas.AddressesPerInterface)
	}
	picked := make([]netip.Addr, len(wanted), len(wanted)+count)
	for i, ip := range wanted { // before any is chosen
		if !ip.IsValid() {
			continue
		}
		if !s.usable(ip) {
			return nil, refuse(InvalidParameterValue, "%v is reserved or not in %v", ip, s.CIDR)
		}
		if owner, ok := m.private[privateKey{s.VPCID, ip}]; ok {
			return nil, refuse(IPAddressInUse, "%v belongs to %s", ip, owner)
		}
		if slices.Contains(picked, ip) {
			return nil, refuse(InvalidParameterValue, "%v is named twice", ip)
		}
		picked[i] = ip
	}
	next := s.CIDR.Addr()
	for i := range len(wanted) + count {
		if i < len(wanted) && wanted[i].IsValid() {
			continue
		}
		for ; !s.usable(next) || m.private[privateKey{s.VPCID, next}] != "" || slices.Contains(picked, next); next = next.Next() {
			if !s.CIDR.Contains(next) {
				return nil, refuse(InsufficientFreeAddresses, "%s (%v) has no free address", s.ID, s.CIDR)
			}
		}
		if i < len(wanted) {
			picked[i] = next
		} else {
			picked = append(picked, next)
		}
	}
	return picked, nil
}

// usable reports whether an owner in s can have ip: the first addresses and the last one are reserved.
func (s Subnet) usable(ip netip.Addr) bool {
	first := s.CIDR.Addr()
	for range reservedFirst {
		first = first.Next()
	}
	return s.CIDR.Contains(ip) && !ip.Less(first) && s.CIDR.Contains(ip.Next())
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

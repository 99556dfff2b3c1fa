// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
)

// InternetGateway connects a VPC with the internet: it translates 1:1 between the private address of an instance and
// its public one.
type InternetGateway struct {
	ID string
	// VPCID is the VPC that it is attached to, "" for none.
	VPCID string
}

// CreateInternetGateway makes an internet gateway that is attached to nothing.
func (m *Model) CreateInternetGateway() InternetGateway {
	g := InternetGateway{ID: m.newID("igw")}
	m.igws.put(g.ID, g)
	return g
}

// AttachInternetGateway attaches a gateway to a VPC. Each has at most one of the other.
func (m *Model) AttachInternetGateway(gatewayID, vpcID string) error {
	g, err := m.igws.find(gatewayID, InternetGatewayNotFound)
	if err != nil {
		return err
	}
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return err
	}
	if g.VPCID != "" {
		return refuse(AlreadyAssociated, "%s is attached to %s; detach it first", g.ID, g.VPCID)
	}
	if other, ok := m.attachedGateway(v.ID); ok {
		return refuse(InvalidParameterValue, "%s already has the internet gateway %s", v.ID, other.ID)
	}
	g.VPCID = v.ID
	m.igws.put(g.ID, g)
	return nil
}

// DetachInternetGateway detaches a gateway from the VPC, which may not have a public address in use: lent, or an Elastic
// IP on an instance or NAT gateway. Routes to it stay, as black holes.
func (m *Model) DetachInternetGateway(gatewayID, vpcID string) error {
	g, err := m.igws.find(gatewayID, InternetGatewayNotFound)
	if err != nil {
		return err
	}
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return err
	}
	if g.VPCID != v.ID {
		return refuse(GatewayNotAttached, "%s is not attached to %s", g.ID, v.ID)
	}
	for i := range m.instances.all() {
		if i.VPCID == v.ID && i.PublicIP.IsValid() {
			return refuse(DependencyViolation, "%s still maps the public address %v to %s; stop the instance or disassociate the address",
				v.ID, i.PublicIP, i.ID)
		}
	}
	for n := range m.natGateways.all() {
		if n.VPCID == v.ID {
			return refuse(DependencyViolation, "%s still maps the public address %v to %s; delete the NAT gateway",
				v.ID, n.Addresses[0].PublicIP, n.ID)
		}
	}
	g.VPCID = ""
	m.igws.put(g.ID, g)
	return nil
}

// DeleteInternetGateway deletes a gateway that is not attached.
func (m *Model) DeleteInternetGateway(gatewayID string) error {
	g, err := m.igws.find(gatewayID, InternetGatewayNotFound)
	if err != nil {
		return err
	}
	if g.VPCID != "" {
		return refuse(DependencyViolation, "%s is attached to %s; detach it first", g.ID, g.VPCID)
	}
	m.igws.del(g.ID)
	return nil
}

// DescribeInternetGateways lists all internet gateways in the order in which they were made.
func (m *Model) DescribeInternetGateways() []InternetGateway { return slices.Collect(m.igws.all()) }

func (m *Model) attachedGateway(vpcID string) (InternetGateway, bool) {
	for g := range m.igws.all() {
		if g.VPCID == vpcID {
			return g, true
		}
	}
	return InternetGateway{}, false
}

// NATGateway lets many instances out through few public addresses, and nobody in. It is a public one: what it sends
// goes by the route table of its own subnet, to the internet gateway.
type NATGateway struct {
	ID, VPCID, SubnetID string
	// Addresses are what it translates to. The first one is the primary, which it keeps for life.
	Addresses []NATGatewayAddress
}

// NATGatewayAddress is an Elastic IP of a NAT gateway.
type NATGatewayAddress struct {
	AllocationID, AssociationID string
	PublicIP                    netip.Addr
	// PrivateIP is the address in its subnet that goes with it.
	PrivateIP netip.Addr
}

// CreateNATGatewayInput is what a NAT gateway is made of.
type CreateNATGatewayInput struct {
	// SubnetID is where it stands: a subnet with a route to the internet gateway, or nothing will get through.
	SubnetID string
	// AllocationID is its Elastic IP, which may not be in use.
	AllocationID string
	// PrivateIP is its address in the subnet; the lowest free one if not valid.
	PrivateIP netip.Addr
}

// CreateNATGateway makes a public NAT gateway. It serves the subnets whose route tables name it.
func (m *Model) CreateNATGateway(in CreateNATGatewayInput) (NATGateway, error) {
	s, err := m.subnets.find(in.SubnetID, SubnetNotFound)
	if err != nil {
		return NATGateway{}, err
	}
	a, err := m.addresses.find(in.AllocationID, AllocationNotFound)
	if err != nil {
		return NATGateway{}, err
	}
	if a.AssociationID != "" {
		return NATGateway{}, refuse(AlreadyAssociated, "%v is associated with %s; disassociate it first", a.PublicIP, a.owner())
	}
	if _, ok := m.attachedGateway(s.VPCID); !ok {
		return NATGateway{}, refuse(GatewayNotAttached, "%s has no internet gateway; attach one first", s.VPCID)
	}
	ip, err := m.pickPrivate(s, in.PrivateIP)
	if err != nil {
		return NATGateway{}, err
	}
	g := NATGateway{ID: m.newID("nat"), VPCID: s.VPCID, SubnetID: s.ID}
	a.AssociationID, a.NATGatewayID, a.PrivateIP = m.newID("eipassoc"), g.ID, ip
	g.Addresses = []NATGatewayAddress{{a.ID, a.AssociationID, a.PublicIP, ip}}
	m.private[privateKey{g.VPCID, ip}] = g.ID
	m.addresses.put(a.ID, a)
	m.natGateways.put(g.ID, g)
	return g.clone(), nil
}

// DeleteNATGateway deletes a NAT gateway; its connections end. Its Elastic IP stays allocated, and routes to it stay as
// black holes.
func (m *Model) DeleteNATGateway(natGatewayID string) error {
	g, err := m.natGateways.find(natGatewayID, NATGatewayNotFound)
	if err != nil {
		return err
	}
	for _, ga := range g.Addresses {
		delete(m.private, privateKey{g.VPCID, ga.PrivateIP})
		m.addresses.put(ga.AllocationID, m.addresses.byID[ga.AllocationID].free())
	}
	m.natGateways.del(g.ID)
	return nil
}

// DescribeNATGateways lists all NAT gateways in the order in which they were made.
func (m *Model) DescribeNATGateways() []NATGateway {
	return collect(m.natGateways.all(), NATGateway.clone)
}

func (g NATGateway) clone() NATGateway {
	g.Addresses = slices.Clone(g.Addresses)
	return g
}

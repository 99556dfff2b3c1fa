// SPDX-License-Identifier: Apache-2.0

package vpc

import "slices"

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
// IP on a network interface or NAT gateway. Routes to it stay, as black holes.
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
	for n := range m.interfaces.all() {
		if n.VPCID == v.ID && n.lent().IsValid() {
			return refuse(DependencyViolation, "%s still maps the public address %v to %s; stop the instance", v.ID, n.lent(), n.InstanceID)
		}
	}
	for a := range m.addresses.all() {
		switch {
		case a.NATGatewayID != "" && m.natGateways.byID[a.NATGatewayID].VPCID == v.ID:
			return refuse(DependencyViolation, "%s still maps the public address %v to %s; delete the NAT gateway", v.ID, a.PublicIP, a.NATGatewayID)
		case a.NetworkInterfaceID != "" && m.interfaces.byID[a.NetworkInterfaceID].VPCID == v.ID:
			return refuse(DependencyViolation, "%s still maps the public address %v to %s; disassociate it", v.ID, a.PublicIP, a.NetworkInterfaceID)
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

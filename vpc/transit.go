// SPDX-License-Identifier: Apache-2.0

package vpc

import "slices"

// TransitGateway joins networks that know each other's private addresses. What is behind one is no part of the model: a
// route to it leads out of the VPC untranslated, and what comes back that way comes in untranslated. Its packets, too,
// pass OutsideAttachment: whoever owns that keeps those of the internet and those of the transit gateway apart.
type TransitGateway struct{ ID string }

// TransitGatewayVPCAttachment attaches a VPC to a transit gateway, so that its routes may lead there.
type TransitGatewayVPCAttachment struct{ ID, TransitGatewayID, VPCID string }

// CreateTransitGateway makes a transit gateway that no VPC is attached to.
func (m *Model) CreateTransitGateway() TransitGateway {
	g := TransitGateway{ID: m.newID("tgw")}
	m.transits.put(g.ID, g)
	return g
}

// DeleteTransitGateway deletes a transit gateway that no VPC is attached to.
func (m *Model) DeleteTransitGateway(transitGatewayID string) error {
	g, err := m.transits.find(transitGatewayID, TransitGatewayNotFound)
	if err != nil {
		return err
	}
	for a := range m.transitVPCs.all() {
		if a.TransitGatewayID == g.ID {
			return refuse(IncorrectState, "%s has the attachment %s; delete it first", g.ID, a.ID)
		}
	}
	m.transits.del(g.ID)
	return nil
}

// CreateTransitGatewayVPCAttachment attaches a VPC to a transit gateway, once.
func (m *Model) CreateTransitGatewayVPCAttachment(transitGatewayID, vpcID string) (TransitGatewayVPCAttachment, error) {
	none := TransitGatewayVPCAttachment{}
	g, err := m.transits.find(transitGatewayID, TransitGatewayNotFound)
	if err != nil {
		return none, err
	}
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return none, err
	}
	if m.isAttached(v.ID, g.ID) {
		return none, refuse(TransitAttachmentDuplicate, "%s is attached to %s already", v.ID, g.ID)
	}
	a := TransitGatewayVPCAttachment{m.newID("tgw-attach"), g.ID, v.ID}
	m.transitVPCs.put(a.ID, a)
	return a, nil
}

// DeleteTransitGatewayVPCAttachment takes a VPC from a transit gateway. Routes to it stay, as black holes.
func (m *Model) DeleteTransitGatewayVPCAttachment(attachmentID string) error {
	a, err := m.transitVPCs.find(attachmentID, TransitAttachmentNotFound)
	if err != nil {
		return err
	}
	m.transitVPCs.del(a.ID)
	return nil
}

// DescribeTransitGateways lists all transit gateways in the order in which they were made.
func (m *Model) DescribeTransitGateways() []TransitGateway { return slices.Collect(m.transits.all()) }

// DescribeTransitGatewayVPCAttachments lists all attachments in the order in which they were made.
func (m *Model) DescribeTransitGatewayVPCAttachments() []TransitGatewayVPCAttachment {
	return slices.Collect(m.transitVPCs.all())
}

// isAttached reports whether a VPC is attached to a transit gateway.
func (m *Model) isAttached(vpcID, transitGatewayID string) bool {
	for a := range m.transitVPCs.all() {
		if a.VPCID == vpcID && a.TransitGatewayID == transitGatewayID {
			return true
		}
	}
	return false
}

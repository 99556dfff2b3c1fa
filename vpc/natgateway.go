// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"time"
)

// NATGateway lets many instances out through few addresses, and nobody in. What it sends goes by the route table of its
// own subnet: a public one sends to the internet gateway, as its Elastic IPs; a private one to transit gateways, as its
// private addresses.
type NATGateway struct {
	ID, VPCID, SubnetID string
	ConnectivityType    ConnectivityType
	// Addresses are what it translates to. The first one is the primary, which it keeps for life.
	Addresses []NATGatewayAddress
}

// ConnectivityType is where a NAT gateway leads.
type ConnectivityType string

// The kinds of NAT gateways.
const (
	PublicNAT  ConnectivityType = "public"
	PrivateNAT ConnectivityType = "private"
)

// NATGatewayAddress is an address of a NAT gateway.
type NATGatewayAddress struct {
	// AllocationID, AssociationID and PublicIP are those of the Elastic IP; a private gateway has none.
	AllocationID, AssociationID string
	PublicIP                    netip.Addr
	// PrivateIP is the address in its subnet that goes with it.
	PrivateIP netip.Addr
	// DrainsUntil is set while the address is being taken away: until then its connections go on, and new ones use
	// others.
	DrainsUntil time.Time
}

// Draining reports whether the address gets no new connections.
func (a NATGatewayAddress) Draining() bool { return !a.DrainsUntil.IsZero() }

// How long the connections of an address that is taken away may go on.
const (
	defaultDrainDuration = 350 * time.Second
	maxDrainDuration     = 4000 * time.Second
)

// CreateNATGatewayInput is what a NAT gateway is made of.
type CreateNATGatewayInput struct {
	// SubnetID is where it stands: with a route to the internet gateway, or for a private one to a transit gateway, or
	// nothing will get through.
	SubnetID string
	// ConnectivityType is PublicNAT if empty.
	ConnectivityType ConnectivityType
	// AllocationID is the Elastic IP of a public one, which may not be in use; SecondaryAllocationIDs are further ones.
	AllocationID           string
	SecondaryAllocationIDs []string
	// PrivateIP is its primary address in the subnet; the lowest free one if not valid.
	PrivateIP netip.Addr
	// SecondaryPrivateIPs are further addresses in the subnet. For a public one they go with the secondary Elastic IPs,
	// in that order, and those without get the lowest free ones.
	SecondaryPrivateIPs []netip.Addr
}

// CreateNATGateway makes a NAT gateway. It serves the subnets whose route tables name it.
func (m *Model) CreateNATGateway(in CreateNATGatewayInput) (NATGateway, error) {
	s, err := m.subnets.find(in.SubnetID, SubnetNotFound)
	if err != nil {
		return NATGateway{}, err
	}
	inVPC := count(&m.natGateways, func(g NATGateway) bool { return g.VPCID == s.VPCID })
	if err := bounded(inVPC, 1, m.cfg.Quotas.NATGateways, NATGatewayLimitExceeded, "NAT gateways in the VPC"); err != nil {
		return NATGateway{}, err
	}
	g := NATGateway{VPCID: s.VPCID, SubnetID: s.ID, ConnectivityType: in.ConnectivityType}
	var allocations []string
	switch in.ConnectivityType {
	case "", PublicNAT:
		g.ConnectivityType = PublicNAT
		allocations = append([]string{in.AllocationID}, in.SecondaryAllocationIDs...)
	case PrivateNAT:
		if in.AllocationID != "" || len(in.SecondaryAllocationIDs) > 0 {
			return NATGateway{}, refuse(InvalidParameterCombination, "a private NAT gateway has no Elastic IP")
		}
	default:
		return NATGateway{}, refuse(InvalidParameterValue, "a NAT gateway is %q or %q, not %q", PublicNAT, PrivateNAT, in.ConnectivityType)
	}
	more, err := m.planNATAddresses(g, allocations, append([]netip.Addr{in.PrivateIP}, in.SecondaryPrivateIPs...))
	if err != nil {
		return NATGateway{}, err
	}
	g.ID = m.newID("nat")
	return m.addNATAddresses(g, more).clone(), nil
}

// AssociateNATGatewayAddress gives a public NAT gateway further Elastic IPs, which may not be in use. Those of privateIPs
// are the addresses in the subnet that go with them, in that order; the others get the lowest free ones.
func (m *Model) AssociateNATGatewayAddress(natGatewayID string, allocationIDs []string, privateIPs []netip.Addr) (NATGateway, error) {
	if len(allocationIDs) == 0 {
		return NATGateway{}, refuse(MissingParameter, "no Elastic IP is named")
	}
	return m.moreNATAddresses(natGatewayID, PublicNAT, allocationIDs, privateIPs)
}

// AssignPrivateNATGatewayAddress gives a private NAT gateway further addresses of its subnet: for each that is not valid
// the lowest free one.
func (m *Model) AssignPrivateNATGatewayAddress(natGatewayID string, privateIPs []netip.Addr) (NATGateway, error) {
	if len(privateIPs) == 0 {
		return NATGateway{}, refuse(MissingParameter, "no address is named")
	}
	return m.moreNATAddresses(natGatewayID, PrivateNAT, nil, privateIPs)
}

func (m *Model) moreNATAddresses(natGatewayID string, kind ConnectivityType, allocationIDs []string, privateIPs []netip.Addr) (NATGateway, error) {
	g, err := m.changeableNATGateway(natGatewayID, kind)
	if err != nil {
		return NATGateway{}, err
	}
	more, err := m.planNATAddresses(g, allocationIDs, privateIPs)
	if err != nil {
		return NATGateway{}, err
	}
	return m.addNATAddresses(g, more).clone(), nil
}

// changeableNATGateway is the gateway, which must be of that kind and not be changing.
func (m *Model) changeableNATGateway(id string, kind ConnectivityType) (NATGateway, error) {
	g, err := m.natGateways.find(id, NATGatewayNotFound)
	if err != nil {
		return g, err
	}
	if g.ConnectivityType != kind {
		return g, refuse(InvalidParameterValue, "%s is a %s NAT gateway", g.ID, g.ConnectivityType)
	}
	for _, a := range g.Addresses {
		if a.Draining() {
			return g, refuse(IncorrectState, "%s still drains %v, until %v; wait for that", g.ID, a.PrivateIP, a.DrainsUntil)
		}
	}
	return g, nil
}

// planNATAddresses are the addresses that g may get more of: one for each Elastic IP of a public gateway, one for each
// private address of a private one. It changes nothing.
func (m *Model) planNATAddresses(g NATGateway, allocationIDs []string, privateIPs []netip.Addr) ([]NATGatewayAddress, error) {
	n := len(privateIPs)
	if g.ConnectivityType == PublicNAT {
		n = len(allocationIDs)
		if len(privateIPs) > n {
			return nil, refuse(InvalidParameterValue, "%d private addresses for %d Elastic IPs; name no more than one each", len(privateIPs), n)
		}
	}
	if err := bounded(len(g.Addresses), n, maxNATAddresses, PrivateIPAddressLimitExceeded, "addresses of the NAT gateway"); err != nil {
		return nil, err
	}
	more := make([]NATGatewayAddress, n)
	for i, id := range allocationIDs {
		a, err := m.addresses.find(id, AllocationNotFound)
		switch {
		case err != nil:
			return nil, err
		case a.AssociationID != "":
			return nil, refuse(AlreadyAssociated, "%v is associated with %s; disassociate it first", a.PublicIP, a.owner())
		case slices.Contains(allocationIDs[:i], id):
			return nil, refuse(InvalidParameterValue, "%s is named twice", id)
		}
		more[i].AllocationID, more[i].PublicIP = a.ID, a.PublicIP
	}
	if g.ConnectivityType == PublicNAT {
		if err := bounded(len(g.Addresses), n, m.cfg.Quotas.NATAddresses, AddressLimitExceeded, "Elastic IPs on the NAT gateway"); err != nil {
			return nil, err
		}
		if _, ok := m.attachedGateway(g.VPCID); !ok {
			return nil, refuse(GatewayNotAttached, "%s has no internet gateway; attach one first", g.VPCID)
		}
	}
	ips, err := m.pickPrivates(m.subnets.byID[g.SubnetID], privateIPs, n-len(privateIPs))
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		more[i].PrivateIP = ip
	}
	return more, nil
}

// addNATAddresses books planned addresses for a gateway and puts it in the store.
func (m *Model) addNATAddresses(g NATGateway, more []NATGatewayAddress) NATGateway {
	g = g.clone()
	for _, ga := range more {
		m.private[privateKey{g.VPCID, ga.PrivateIP}] = g.ID
		if ga.AllocationID != "" {
			a := m.addresses.byID[ga.AllocationID]
			a.AssociationID, a.NATGatewayID, a.PrivateIP = m.newID("eipassoc"), g.ID, ga.PrivateIP
			m.addresses.put(a.ID, a)
			ga.AssociationID = a.AssociationID
		}
		g.Addresses = append(g.Addresses, ga)
	}
	m.natGateways.put(g.ID, g)
	return g
}

// DisassociateNATGatewayAddress takes secondary Elastic IPs from a public NAT gateway, by their associations. They get no
// new connections from now on; those they have may go on for maxDrain, 1 s to 4,000 s, 0 means 350 s. Then Advance ends
// them, and the Elastic IPs are free. Until then the addresses of the gateway cannot be changed again, but it can be
// deleted.
func (m *Model) DisassociateNATGatewayAddress(now time.Time, natGatewayID string, associationIDs []string, maxDrain time.Duration) (NATGateway, error) {
	if len(associationIDs) == 0 {
		return NATGateway{}, refuse(MissingParameter, "no association is named")
	}
	var places []int
	g, err := m.changeableNATGateway(natGatewayID, PublicNAT)
	if err != nil {
		return NATGateway{}, err
	}
	for _, id := range associationIDs {
		i := slices.IndexFunc(g.Addresses, func(a NATGatewayAddress) bool { return a.AssociationID == id })
		if i < 0 {
			return NATGateway{}, refuse(AssociationNotFound, "%s has no association %q", g.ID, id)
		}
		places = append(places, i)
	}
	return m.drain(now, g, places, maxDrain)
}

// UnassignPrivateNATGatewayAddress takes secondary addresses from a private NAT gateway, as DisassociateNATGatewayAddress
// does from a public one.
func (m *Model) UnassignPrivateNATGatewayAddress(now time.Time, natGatewayID string, privateIPs []netip.Addr, maxDrain time.Duration) (NATGateway, error) {
	if len(privateIPs) == 0 {
		return NATGateway{}, refuse(MissingParameter, "no address is named")
	}
	var places []int
	g, err := m.changeableNATGateway(natGatewayID, PrivateNAT)
	if err != nil {
		return NATGateway{}, err
	}
	for _, ip := range privateIPs {
		i := slices.IndexFunc(g.Addresses, func(a NATGatewayAddress) bool { return a.PrivateIP == ip })
		if i < 0 {
			return NATGateway{}, refuse(InvalidParameterValue, "%v is no address of %s", ip, g.ID)
		}
		places = append(places, i)
	}
	return m.drain(now, g, places, maxDrain)
}

// drain begins to take addresses from a gateway.
func (m *Model) drain(now time.Time, g NATGateway, places []int, maxDrain time.Duration) (NATGateway, error) {
	if maxDrain == 0 {
		maxDrain = defaultDrainDuration
	}
	if maxDrain < time.Second || maxDrain > maxDrainDuration {
		return NATGateway{}, refuse(InvalidParameterValue, "a drain of %v; use %v to %v, or 0 for %v", maxDrain, time.Second, maxDrainDuration, defaultDrainDuration)
	}
	if slices.Contains(places, 0) {
		return NATGateway{}, refuse(OperationNotPermitted, "%v is the primary address of %s, which keeps it until it is deleted", g.Addresses[0].PrivateIP, g.ID)
	}
	g = g.clone()
	for _, i := range places {
		g.Addresses[i].DrainsUntil = now.Add(maxDrain)
	}
	m.natGateways.put(g.ID, g)
	return g.clone(), nil
}

// Advance ends the drains that are over by now, and reports whether there was one: then policies have changed. The next
// one ends at next, which is zero if none is under way; the owner of the model calls again then.
func (m *Model) Advance(now time.Time) (next time.Time, changed bool) {
	for g := range m.natGateways.all() {
		var stay []NATGatewayAddress
		for _, a := range g.Addresses {
			switch {
			case a.Draining() && !a.DrainsUntil.After(now):
				m.forgetNATAddress(g, a)
				changed = true
				continue
			case a.Draining() && (next.IsZero() || a.DrainsUntil.Before(next)):
				next = a.DrainsUntil
			}
			stay = append(stay, a)
		}
		if len(stay) < len(g.Addresses) {
			g.Addresses = stay
			m.natGateways.put(g.ID, g)
		}
	}
	return next, changed
}

// forgetNATAddress takes an address of a gateway out of the books; its Elastic IP is free then.
func (m *Model) forgetNATAddress(g NATGateway, a NATGatewayAddress) {
	delete(m.private, privateKey{g.VPCID, a.PrivateIP})
	if a.AllocationID != "" {
		m.addresses.put(a.AllocationID, m.addresses.byID[a.AllocationID].free())
	}
}

// DeleteNATGateway deletes a NAT gateway; its connections end. Its Elastic IPs stay allocated, and routes to it stay as
// black holes.
func (m *Model) DeleteNATGateway(natGatewayID string) error {
	g, err := m.natGateways.find(natGatewayID, NATGatewayNotFound)
	if err != nil {
		return err
	}
	for _, a := range g.Addresses {
		m.forgetNATAddress(g, a)
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

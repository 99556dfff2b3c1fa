// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"time"
)

// Address is an Elastic IP: a public address that belongs to the account until it is released.
type Address struct {
	// ID is the allocation id.
	ID       string
	PublicIP netip.Addr
	// AssociationID is set while the address is in use: by the instance InstanceID or the NAT gateway NATGatewayID, at
	// its address PrivateIP.
	AssociationID            string
	InstanceID, NATGatewayID string
	PrivateIP                netip.Addr
}

// AllocateAddress makes a public address of the pool an Elastic IP. Which one cannot be chosen.
func (m *Model) AllocateAddress(now time.Time) (Address, error) {
	if n := len(m.addresses.ids); n >= m.cfg.AddressQuota {
		return Address{}, refuse(AddressLimitExceeded, "%d Elastic IPs are allocated, which is the quota; release one first", n)
	}
	n, ok := m.pool.next(now)
	if !ok {
		return Address{}, refuse(InsufficientAddressCapacity, "no public address is free; wait up to %v for returned ones, or enlarge the pool", m.cfg.CoolDown)
	}
	a := Address{ID: m.newID("eipalloc"), PublicIP: m.pool.take(n)}
	m.addresses.put(a.ID, a)
	return a, nil
}

// ReleaseAddress gives an Elastic IP that is not associated back to the pool.
func (m *Model) ReleaseAddress(now time.Time, allocationID string) error {
	a, err := m.addresses.find(allocationID, AllocationNotFound)
	if err != nil {
		return err
	}
	if a.AssociationID != "" {
		return refuse(IPAddressInUse, "%v is associated with %s; disassociate it first", a.PublicIP, a.owner())
	}
	m.addresses.del(a.ID)
	m.pool.giveBack(a.PublicIP, now)
	return nil
}

// AssociateAddressInput says what goes where.
type AssociateAddressInput struct {
	AllocationID, InstanceID string
	// NoReassociation is AllowReassociation=false of EC2: an address that is on another instance stays there, and the
	// call fails.
	NoReassociation bool
}

// AssociateAddress maps an Elastic IP to an instance, running or stopped. It moves from where it was; an Elastic IP that
// the instance had is free then, but stays allocated, and a lent address goes back to the pool. The instance that lost
// the address has one lent to it where DisassociateAddress would. Doing it again changes nothing.
func (m *Model) AssociateAddress(now time.Time, in AssociateAddressInput) (Address, error) {
	a, err := m.addresses.find(in.AllocationID, AllocationNotFound)
	if err != nil {
		return Address{}, err
	}
	i, err := m.liveInstance(in.InstanceID)
	if err != nil {
		return Address{}, err
	}
	switch _, attached := m.attachedGateway(i.VPCID); {
	case a.InstanceID == i.ID:
		return a, nil
	case !attached:
		return Address{}, refuse(GatewayNotAttached, "%s has no internet gateway; attach one first", i.VPCID)
	case a.NATGatewayID != "":
		return Address{}, refuse(AuthFailure, "%v is the primary address of %s, which keeps it until it is deleted", a.PublicIP, a.NATGatewayID)
	case a.InstanceID != "" && in.NoReassociation:
		return Address{}, refuse(AlreadyAssociated, "%v is associated with %s, and reassociation is not allowed", a.PublicIP, a.InstanceID)
	}
	if i.AllocationID != "" {
		m.addresses.put(i.AllocationID, m.addresses.byID[i.AllocationID].free())
	}
	if a.InstanceID != "" {
		m.unmap(now, a.InstanceID)
	}
	i = m.withdraw(now, i)
	i.PublicIP, i.AllocationID = a.PublicIP, a.ID
	a.AssociationID, a.InstanceID, a.PrivateIP = m.newID("eipassoc"), i.ID, i.PrivateIP
	m.instances.put(i.ID, i)
	m.addresses.put(a.ID, a)
	return a, nil
}

// DisassociateAddress takes an Elastic IP from its instance; it stays allocated. An instance that is running and was
// launched with a lent address gets one again, if the pool has one.
func (m *Model) DisassociateAddress(now time.Time, associationID string) error {
	for a := range m.addresses.all() {
		if a.AssociationID != associationID || associationID == "" {
			continue
		}
		if a.NATGatewayID != "" {
			return refuse(AuthFailure, "%v is the primary address of %s, which keeps it until it is deleted", a.PublicIP, a.NATGatewayID)
		}
		m.unmap(now, a.InstanceID)
		m.addresses.put(a.ID, a.free())
		return nil
	}
	return refuse(AssociationNotFound, "the ID %q does not exist", associationID)
}

// Address looks an Elastic IP up by its allocation id.
func (m *Model) Address(allocationID string) (Address, error) {
	return m.addresses.find(allocationID, AllocationNotFound)
}

// DescribeAddresses lists all Elastic IPs in the order in which they were allocated.
func (m *Model) DescribeAddresses() []Address { return slices.Collect(m.addresses.all()) }

// unmap takes the Elastic IP from an instance, which may get a lent address instead.
func (m *Model) unmap(now time.Time, instanceID string) {
	i := m.instances.byID[instanceID]
	i.PublicIP, i.AllocationID = netip.Addr{}, ""
	m.instances.put(i.ID, m.lend(now, i))
}

// owner is what the address is associated with.
func (a Address) owner() string { return a.InstanceID + a.NATGatewayID }

// free is the address without an association.
func (a Address) free() Address { return Address{ID: a.ID, PublicIP: a.PublicIP} }

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"time"
)

// Address is an Elastic IP: a public address that belongs to the account until it is released.
type Address struct {
	// ID is the allocation id.
	ID       string
	PublicIP netip.Addr
	// AssociationID is set while the address is in use: by the network interface NetworkInterfaceID or the NAT gateway
	// NATGatewayID, at its address PrivateIP.
	AssociationID                    string
	NetworkInterfaceID, NATGatewayID string
	PrivateIP                        netip.Addr
	// InstanceID is the instance that the network interface is attached to. In the store it is not set.
	InstanceID string
}

// AllocateAddress makes a public address of the pool an Elastic IP. Which one cannot be chosen.
func (m *Model) AllocateAddress(now time.Time) (Address, error) {
	if n := len(m.addresses.ids); n >= m.cfg.AddressQuota {
		return Address{}, refuse(AddressLimitExceeded, "%d Elastic IPs are allocated, which is the quota; release one first", n)
	}
	n, ok := m.pool.next(now)
	if !ok {
		return Address{}, m.noPublicAddress()
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
	AllocationID string
	// InstanceID names an instance with one network interface, or NetworkInterfaceID an interface: one of both.
	InstanceID, NetworkInterfaceID string
	// PrivateIP is the address of the interface that it is mapped to; the primary one if not valid.
	PrivateIP netip.Addr
	// NoReassociation is AllowReassociation=false of EC2: an address that is in use elsewhere stays there, and the call
	// fails.
	NoReassociation bool
}

// AssociateAddress maps an Elastic IP to a private address of a network interface, whatever its instance does. It moves
// from where it was; an Elastic IP that the private address had is free then, but stays allocated, and a lent address
// goes back to the pool. The instance that lost the address has one lent to it where DisassociateAddress would. Doing it
// again changes nothing.
func (m *Model) AssociateAddress(now time.Time, in AssociateAddressInput) (Address, error) {
	a, err := m.addresses.find(in.AllocationID, AllocationNotFound)
	if err != nil {
		return Address{}, err
	}
	n, err := m.interfaceFor(in)
	if err != nil {
		return Address{}, err
	}
	ip := n.Addresses[0].PrivateIP
	if in.PrivateIP.IsValid() {
		ip = in.PrivateIP
	}
	switch _, attached := m.attachedGateway(n.VPCID); {
	case n.place(ip) < 0:
		return Address{}, refuse(InvalidParameterValue, "%v is no address of %s", ip, n.ID)
	case a.NetworkInterfaceID == n.ID && a.PrivateIP == ip:
		return m.describeAddress(a), nil
	case !attached:
		return Address{}, refuse(GatewayNotAttached, "%s has no internet gateway; attach one first", n.VPCID)
	case a.NATGatewayID != "":
		return Address{}, a.managed()
	case a.NetworkInterfaceID != "" && in.NoReassociation:
		return Address{}, refuse(AlreadyAssociated, "%v is associated with %s, and reassociation is not allowed", a.PublicIP, a.owner())
	}
	if have, ok := m.elasticIPs()[interfaceIP{n.ID, ip}]; ok {
		m.addresses.put(have.ID, have.free())
	}
	if n.place(ip) == 0 {
		m.withdraw(now, n.ID)
	}
	was := a
	a.AssociationID, a.NetworkInterfaceID, a.PrivateIP = m.newID("eipassoc"), n.ID, ip
	m.addresses.put(a.ID, a)
	m.lendInstead(now, was)
	return m.describeAddress(a), nil
}

// interfaceFor is the network interface that in names.
func (m *Model) interfaceFor(in AssociateAddressInput) (NetworkInterface, error) {
	none := NetworkInterface{}
	if in.NetworkInterfaceID != "" {
		if in.InstanceID != "" {
			return none, refuse(InvalidParameterCombination, "name an instance or a network interface, not both")
		}
		return m.interfaces.find(in.NetworkInterfaceID, InterfaceNotFound)
	}
	i, err := m.liveInstance(in.InstanceID)
	if err != nil {
		return none, err
	}
	of := m.interfacesOf(i.ID)
	if len(of) > 1 {
		return none, refuse(InvalidInstanceID, "%s has %d network interfaces; name one of them instead", i.ID, len(of))
	}
	return of[0], nil
}

// DisassociateAddress takes an Elastic IP from where it is; it stays allocated. An instance that lost that of its primary
// address, is running and was launched with a lent address gets one again, if it has no other network interface and no
// other Elastic IP, and the pool has one.
func (m *Model) DisassociateAddress(now time.Time, associationID string) error {
	for a := range m.addresses.all() {
		if a.AssociationID != associationID || associationID == "" {
			continue
		}
		if a.NATGatewayID != "" {
			return a.managed()
		}
		m.addresses.put(a.ID, a.free())
		m.lendInstead(now, a)
		return nil
	}
	return refuse(AssociationNotFound, "the ID %q does not exist", associationID)
}

// lendInstead lends an address to the instance that has lost an Elastic IP, which was as it says, where that is due.
func (m *Model) lendInstead(now time.Time, was Address) {
	n, ok := m.interfaces.byID[was.NetworkInterfaceID]
	if !ok {
		return
	}
	if i := m.instances.byID[n.InstanceID]; i.NetworkInterfaceID == n.ID && n.place(was.PrivateIP) == 0 {
		m.lend(now, i)
	}
}

// Address looks an Elastic IP up by its allocation id.
func (m *Model) Address(allocationID string) (Address, error) {
	a, err := m.addresses.find(allocationID, AllocationNotFound)
	return m.describeAddress(a), err
}

// describeAddress fills in the instance.
func (m *Model) describeAddress(a Address) Address {
	a.InstanceID = m.interfaces.byID[a.NetworkInterfaceID].InstanceID
	return a
}

// DescribeAddresses lists all Elastic IPs in the order in which they were allocated.
func (m *Model) DescribeAddresses() []Address { return collect(m.addresses.all(), m.describeAddress) }

// owner is what the address is associated with.
func (a Address) owner() string { return a.NetworkInterfaceID + a.NATGatewayID }

// managed refuses a change of an address that a NAT gateway has.
func (a Address) managed() error {
	return refuse(AuthFailure, "%v belongs to %s; only that gateway's own calls and its deletion change it", a.PublicIP, a.NATGatewayID)
}

// free is the address without an association.
func (a Address) free() Address { return Address{ID: a.ID, PublicIP: a.PublicIP} }

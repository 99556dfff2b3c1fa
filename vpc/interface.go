// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// NetworkInterface is where an instance meets its subnet. The primary one of an instance is made and deleted with it;
// others are attached and detached, and keep their addresses, Elastic IPs included, on the way.
type NetworkInterface struct {
	ID, VPCID, SubnetID string
	// Addresses are its private addresses. The first one is the primary, its own for life.
	Addresses []InterfaceAddress
	// GroupIDs are its security groups, one at least.
	GroupIDs []string
	// InstanceID is the instance that it is attached to, "" for none; AttachmentID names the attachment, DeviceIndex is
	// its place, which is 0 for the primary interface.
	InstanceID, AttachmentID string
	DeviceIndex              int
	// Attachment is where its packets enter the engine, its own for life.
	Attachment nat.AttachmentID
}

// InterfaceAddress is a private address of a network interface.
type InterfaceAddress struct {
	PrivateIP netip.Addr
	// PublicIP is the public address that the internet gateway maps to it: an Elastic IP if AllocationID is set, else one
	// that is lent, or none.
	PublicIP netip.Addr
	// AllocationID and AssociationID are those of the Elastic IP. In the store they are not set, nor is PublicIP for
	// one: what an Elastic IP is associated with stands in its Address alone.
	AllocationID, AssociationID string
}

// CreateNetworkInterfaceInput is what a network interface is made of.
type CreateNetworkInterfaceInput struct {
	SubnetID string
	// PrivateIPs are its addresses in the subnet, the first of them the primary; with none it gets the lowest free one.
	PrivateIPs []netip.Addr
	// SecondaryCount is how many more addresses it gets, the lowest free ones.
	SecondaryCount int
	// GroupIDs are its security groups; with none it has the default group of the VPC.
	GroupIDs []string
}

// CreateNetworkInterface makes a network interface that is attached to nothing.
func (m *Model) CreateNetworkInterface(in CreateNetworkInterfaceInput) (NetworkInterface, error) {
	n, err := m.planInterface(in)
	if err != nil {
		return NetworkInterface{}, err
	}
	return m.addInterface(n).clone(), nil
}

// planInterface is the interface that in asks for, but for its id. It changes nothing.
func (m *Model) planInterface(in CreateNetworkInterfaceInput) (NetworkInterface, error) {
	none := NetworkInterface{}
	s, err := m.subnets.find(in.SubnetID, SubnetNotFound)
	if err != nil {
		return none, err
	}
	groups, err := m.checkGroups(s.VPCID, in.GroupIDs)
	if err != nil {
		return none, err
	}
	if err := bounded(len(m.interfaces.ids), 1, m.cfg.Quotas.Interfaces, InterfaceLimitExceeded, "network interfaces"); err != nil {
		return none, err
	}
	wanted := in.PrivateIPs
	if len(wanted) == 0 {
		wanted = []netip.Addr{{}}
	}
	ips, err := m.pickPrivates(s, wanted, in.SecondaryCount)
	if err != nil {
		return none, err
	}
	if err := bounded(0, len(ips), m.cfg.Quotas.AddressesPerInterface, PrivateIPAddressLimitExceeded, "addresses"); err != nil {
		return none, err
	}
	attachment, err := m.pickAttachment()
	if err != nil {
		return none, err
	}
	return NetworkInterface{VPCID: s.VPCID, SubnetID: s.ID, GroupIDs: groups, Attachment: attachment}.withAddresses(ips), nil
}

// addInterface gives a planned interface its id and books what it has.
func (m *Model) addInterface(n NetworkInterface) NetworkInterface {
	n.ID = m.newID("eni")
	for _, a := range n.Addresses {
		m.private[privateKey{n.VPCID, a.PrivateIP}] = n.ID
	}
	m.attachments[n.Attachment], m.lastAttachment = n.ID, n.Attachment
	m.interfaces.put(n.ID, n)
	return n
}

// DeleteNetworkInterface deletes an interface that is not attached. Its Elastic IPs stay allocated.
func (m *Model) DeleteNetworkInterface(interfaceID string) error {
	n, err := m.interfaces.find(interfaceID, InterfaceNotFound)
	if err != nil {
		return err
	}
	if n.InstanceID != "" {
		return refuse(InterfaceInUse, "%s is attached to %s; detach it first", n.ID, n.InstanceID)
	}
	m.removeInterface(n)
	return nil
}

// removeInterface deletes an interface with all that is booked for it.
func (m *Model) removeInterface(n NetworkInterface) {
	for _, a := range n.Addresses {
		m.forgetPrivate(n, a.PrivateIP)
	}
	delete(m.attachments, n.Attachment)
	m.interfaces.del(n.ID)
}

// forgetPrivate takes a private address out of the books; an Elastic IP that is mapped to it is free then.
func (m *Model) forgetPrivate(n NetworkInterface, ip netip.Addr) {
	delete(m.private, privateKey{n.VPCID, ip})
	if a, ok := m.elasticIPs()[interfaceIP{n.ID, ip}]; ok {
		m.addresses.put(a.ID, a.free())
	}
}

// AttachNetworkInterfaceInput says what goes where.
type AttachNetworkInterfaceInput struct {
	NetworkInterfaceID, InstanceID string
	// DeviceIndex is a free place of the instance, from 1 on.
	DeviceIndex int
}

// AttachNetworkInterface attaches an interface to an instance of its VPC, running or stopped.
func (m *Model) AttachNetworkInterface(in AttachNetworkInterfaceInput) (NetworkInterface, error) {
	none := NetworkInterface{}
	n, err := m.interfaces.find(in.NetworkInterfaceID, InterfaceNotFound)
	if err != nil {
		return none, err
	}
	i, err := m.liveInstance(in.InstanceID)
	if err != nil {
		return none, err
	}
	has := m.interfacesOf(i.ID)
	switch {
	case n.InstanceID != "":
		return none, refuse(InterfaceInUse, "%s is attached to %s; detach it first", n.ID, n.InstanceID)
	case n.VPCID != i.VPCID:
		return none, refuse(InvalidParameterCombination, "%s and %s belong to different VPCs", n.ID, i.ID)
	case in.DeviceIndex < 0 || slices.ContainsFunc(has, func(h NetworkInterface) bool { return h.DeviceIndex == in.DeviceIndex }):
		return none, refuse(InvalidParameterValue, "device index %d of %s is not free; choose another from 1 on", in.DeviceIndex, i.ID)
	}
	if err := bounded(len(has), 1, m.cfg.Quotas.InterfacesPerInstance, AttachmentLimitExceeded, "network interfaces of the instance"); err != nil {
		return none, err
	}
	n.InstanceID, n.DeviceIndex, n.AttachmentID = i.ID, in.DeviceIndex, m.newID("eni-attach")
	m.interfaces.put(n.ID, n)
	return m.describeInterface(n, m.elasticIPs()), nil
}

// DetachNetworkInterface takes an interface from its instance; it keeps all its addresses. The primary one cannot be
// detached.
func (m *Model) DetachNetworkInterface(attachmentID string) error {
	for n := range m.interfaces.all() {
		if n.AttachmentID != attachmentID || attachmentID == "" {
			continue
		}
		if n.DeviceIndex == 0 {
			return refuse(OperationNotPermitted, "%s is the primary network interface of %s, which keeps it until it is terminated", n.ID, n.InstanceID)
		}
		m.interfaces.put(n.ID, n.detached())
		return nil
	}
	return refuse(AttachmentNotFound, "the ID %q does not exist", attachmentID)
}

// AssignPrivateIPAddresses gives an interface secondary addresses: those of ips, and count more, the lowest free ones.
func (m *Model) AssignPrivateIPAddresses(interfaceID string, ips []netip.Addr, count int) (NetworkInterface, error) {
	none := NetworkInterface{}
	n, err := m.interfaces.find(interfaceID, InterfaceNotFound)
	if err != nil {
		return none, err
	}
	if len(ips) == 0 && count == 0 {
		return none, refuse(MissingParameter, "no address is named, and no number of them")
	}
	ips, err = m.pickPrivates(m.subnets.byID[n.SubnetID], ips, count)
	if err != nil {
		return none, err
	}
	if err := bounded(len(n.Addresses), len(ips), m.cfg.Quotas.AddressesPerInterface, PrivateIPAddressLimitExceeded, "addresses"); err != nil {
		return none, err
	}
	for _, ip := range ips {
		m.private[privateKey{n.VPCID, ip}] = n.ID
	}
	n = n.withAddresses(ips)
	m.interfaces.put(n.ID, n)
	return m.describeInterface(n, m.elasticIPs()), nil
}

// UnassignPrivateIPAddresses takes secondary addresses from an interface. Elastic IPs on them are free then.
func (m *Model) UnassignPrivateIPAddresses(interfaceID string, ips []netip.Addr) error {
	n, err := m.interfaces.find(interfaceID, InterfaceNotFound)
	if err != nil {
		return err
	}
	if len(ips) == 0 {
		return refuse(MissingParameter, "no address is named")
	}
	for _, ip := range ips {
		switch i := n.place(ip); {
		case i < 0:
			return refuse(InvalidParameterValue, "%v is no address of %s", ip, n.ID)
		case i == 0:
			return refuse(InvalidParameterValue, "%v is the primary address of %s, which keeps it", ip, n.ID)
		}
	}
	for _, ip := range ips {
		m.forgetPrivate(n, ip)
	}
	n.Addresses = slices.DeleteFunc(slices.Clone(n.Addresses), func(a InterfaceAddress) bool { return slices.Contains(ips, a.PrivateIP) })
	m.interfaces.put(n.ID, n)
	return nil
}

// ModifyNetworkInterfaceAttribute puts an interface in these security groups, and no others.
func (m *Model) ModifyNetworkInterfaceAttribute(interfaceID string, groupIDs []string) error {
	n, err := m.interfaces.find(interfaceID, InterfaceNotFound)
	if err != nil {
		return err
	}
	if len(groupIDs) == 0 {
		return refuse(MissingParameter, "no group is named, and an interface has one at least")
	}
	groups, err := m.checkGroups(n.VPCID, groupIDs)
	if err != nil {
		return err
	}
	n.GroupIDs = groups
	m.interfaces.put(n.ID, n)
	return nil
}

// NetworkInterface looks one up.
func (m *Model) NetworkInterface(interfaceID string) (NetworkInterface, error) {
	n, err := m.interfaces.find(interfaceID, InterfaceNotFound)
	if err != nil {
		return n, err
	}
	return m.describeInterface(n, m.elasticIPs()), nil
}

// DescribeNetworkInterfaces lists all network interfaces in the order in which they were made. (NAT gateways have none
// of their own here.)
func (m *Model) DescribeNetworkInterfaces() []NetworkInterface {
	elastic := m.elasticIPs()
	return collect(m.interfaces.all(), func(n NetworkInterface) NetworkInterface { return m.describeInterface(n, elastic) })
}

// interfaceIP is a private address of a network interface.
type interfaceIP struct {
	interfaceID string
	ip          netip.Addr
}

// elasticIPs are the Elastic IPs on network interfaces, by where they are.
func (m *Model) elasticIPs() map[interfaceIP]Address {
	on := map[interfaceIP]Address{}
	for a := range m.addresses.all() {
		if a.NetworkInterfaceID != "" {
			on[interfaceIP{a.NetworkInterfaceID, a.PrivateIP}] = a
		}
	}
	return on
}

// describeInterface is a copy of n that names its Elastic IPs.
func (m *Model) describeInterface(n NetworkInterface, elastic map[interfaceIP]Address) NetworkInterface {
	n = n.clone()
	for i, a := range n.Addresses {
		if e, ok := elastic[interfaceIP{n.ID, a.PrivateIP}]; ok {
			n.Addresses[i] = InterfaceAddress{a.PrivateIP, e.PublicIP, e.ID, e.AssociationID}
		}
	}
	return n
}

// interfacesOf are the interfaces of an instance, the primary one first.
func (m *Model) interfacesOf(instanceID string) (of []NetworkInterface) {
	for n := range m.interfaces.all() {
		if n.InstanceID == instanceID {
			of = append(of, n)
		}
	}
	slices.SortFunc(of, func(a, b NetworkInterface) int { return a.DeviceIndex - b.DeviceIndex })
	return of
}

// lent is the lent address of an interface, if it has one: at its primary private address.
func (n NetworkInterface) lent() netip.Addr { return n.Addresses[0].PublicIP }

// place is that of ip among the addresses, or -1.
func (n NetworkInterface) place(ip netip.Addr) int {
	return slices.IndexFunc(n.Addresses, func(a InterfaceAddress) bool { return a.PrivateIP == ip })
}

func (n NetworkInterface) clone() NetworkInterface {
	n.Addresses, n.GroupIDs = slices.Clone(n.Addresses), slices.Clone(n.GroupIDs)
	return n
}

// The methods below make changed copies: stored values are never written through.

func (n NetworkInterface) withAddresses(ips []netip.Addr) NetworkInterface {
	n.Addresses = slices.Clone(n.Addresses)
	for _, ip := range ips {
		n.Addresses = append(n.Addresses, InterfaceAddress{PrivateIP: ip})
	}
	return n
}

func (n NetworkInterface) withLent(public netip.Addr) NetworkInterface {
	n.Addresses = slices.Clone(n.Addresses)
	n.Addresses[0].PublicIP = public
	return n
}

func (n NetworkInterface) detached() NetworkInterface {
	n.InstanceID, n.AttachmentID, n.DeviceIndex = "", "", 0
	return n
}

// lend gives an instance a public address if it is to have one and there is one.
func (m *Model) lend(now time.Time, i Instance) {
	if at, ok := m.pool.next(now); ok && m.wantsAddress(i) {
		n := m.interfaces.byID[i.NetworkInterfaceID]
		m.interfaces.put(n.ID, n.withLent(m.pool.take(at)))
	}
}

// withdraw takes the lent address from an interface, if it has one, back to the pool.
func (m *Model) withdraw(now time.Time, interfaceID string) {
	n := m.interfaces.byID[interfaceID]
	if ip := n.lent(); ip.IsValid() {
		m.pool.giveBack(ip, now)
		m.interfaces.put(n.ID, n.withLent(netip.Addr{}))
	}
}

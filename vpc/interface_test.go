// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
)

func (w *world) newInterface(s Subnet, secondary int) NetworkInterface {
	w.t.Helper()
	return must(w.CreateNetworkInterface(CreateNetworkInterfaceInput{SubnetID: s.ID, SecondaryCount: secondary, GroupIDs: []string{w.open.ID}}))(w.t)
}

func (w *world) attach(n NetworkInterface, i Instance, place int) NetworkInterface {
	w.t.Helper()
	return must(w.AttachNetworkInterface(AttachNetworkInterfaceInput{n.ID, i.ID, place}))(w.t)
}

func (w *world) networkInterface(id string) NetworkInterface {
	w.t.Helper()
	return must(w.NetworkInterface(id))(w.t)
}

// secondary gives the primary interface of an instance another address.
func (w *world) secondary(i Instance) netip.Addr {
	w.t.Helper()
	n := must(w.AssignPrivateIPAddresses(i.NetworkInterfaceID, nil, 1))(w.t)
	return n.Addresses[len(n.Addresses)-1].PrivateIP
}

// associateAt maps an Elastic IP to an address of an interface.
func (w *world) associateAt(a Address, interfaceID string, ip netip.Addr) Address {
	w.t.Helper()
	return must(w.AssociateAddress(w.now, AssociateAddressInput{AllocationID: a.ID, NetworkInterfaceID: interfaceID, PrivateIP: ip}))(w.t)
}

func TestNetworkInterfaceLives(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	primary := w.networkInterface(i.NetworkInterfaceID)
	equal(t, "primary: of", primary.InstanceID, i.ID)
	sameAs(t, "primary: addresses", primary.Addresses, []InterfaceAddress{{PrivateIP: i.PrivateIP, PublicIP: i.PublicIP}})
	w.refused(OperationNotPermitted, func() error { return w.DetachNetworkInterface(primary.AttachmentID) })
	w.refused(InterfaceInUse, func() error { return w.DeleteNetworkInterface(primary.ID) })

	n := w.newInterface(w.private, 1)
	equal(t, "of", n.InstanceID, "")
	equal(t, "addresses", len(n.Addresses), 2)
	w.refused(DependencyViolation, func() error { return w.DeleteSubnet(w.private.ID) })
	n = w.attach(n, i, 1)
	equal(t, "of", n.InstanceID, i.ID)
	a := w.associateAt(w.allocate(), n.ID, n.Addresses[1].PrivateIP)
	equal(t, "instance of the Elastic IP", a.InstanceID, i.ID)
	equal(t, "in the description", w.networkInterface(n.ID).Addresses[1].AllocationID, a.ID)

	// It goes to another instance with all it has, and outlives both.
	w.ok(w.DetachNetworkInterface(n.AttachmentID))
	equal(t, "instance of the Elastic IP", w.address(a).InstanceID, "")
	other := w.run(w.private)
	again := w.attach(n, other, 3)
	equal(t, "engine's number", again.Attachment, n.Attachment)
	equal(t, "instance of the Elastic IP", w.address(a).InstanceID, other.ID)
	must(w.TerminateInstance(w.now, other.ID))(t)
	equal(t, "of", w.networkInterface(n.ID).InstanceID, "")
	w.refused(InterfaceNotFound, func() error { return second(w.NetworkInterface(other.NetworkInterfaceID)) })
	equal(t, "association", w.address(a).AssociationID, a.AssociationID)
	w.ok(w.DeleteNetworkInterface(n.ID))
	equal(t, "its Elastic IP", w.address(a), a.free())
	equal(t, "its address is free", w.run(w.private).PrivateIP, n.Addresses[0].PrivateIP)
}

func TestNetworkInterfaceRefused(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i, n := w.run(w.public), w.newInterface(w.public, 0)
	extra := w.attach(w.newInterface(w.public, 0), i, 1)
	gone := w.run(w.private)
	must(w.TerminateInstance(w.now, gone.ID))(t)
	other := must(w.CreateVPC(prefix("10.0.0.0/16")))(t)
	elsewhere := w.run(must(w.CreateSubnet(CreateSubnetInput{VPCID: other.ID, CIDR: prefix("10.0.1.0/24")}))(t))
	group := must(w.CreateSecurityGroup(other.ID, "other", "another VPC's"))(t)
	a := w.allocate()

	create := func(change func(*CreateNetworkInterfaceInput)) func() error {
		in := CreateNetworkInterfaceInput{SubnetID: w.public.ID}
		change(&in)
		return func() error { return second(w.CreateNetworkInterface(in)) }
	}
	attach := func(interfaceID, instanceID string, place int) func() error {
		return func() error {
			return second(w.AttachNetworkInterface(AttachNetworkInterfaceInput{interfaceID, instanceID, place}))
		}
	}
	assign := func(n int, ips ...netip.Addr) func() error {
		return func() error { return second(w.AssignPrivateIPAddresses(i.NetworkInterfaceID, ips, n)) }
	}
	unassign := func(ips ...netip.Addr) func() error {
		return func() error { return w.UnassignPrivateIPAddresses(i.NetworkInterfaceID, ips) }
	}
	groups := func(ids ...string) func() error {
		return func() error { return w.ModifyNetworkInterfaceAttribute(n.ID, ids) }
	}
	associate := func(in AssociateAddressInput) func() error {
		in.AllocationID = a.ID
		return func() error { return second(w.AssociateAddress(w.now, in)) }
	}
	for _, c := range []struct {
		name string
		want Code
		call func() error
	}{
		{"create in no subnet", SubnetNotFound, create(func(in *CreateNetworkInterfaceInput) { in.SubnetID = "" })},
		{"create in no group", GroupNotFound, create(func(in *CreateNetworkInterfaceInput) { in.GroupIDs = []string{"sg-0"} })},
		{"create in a group elsewhere", InvalidParameter, create(func(in *CreateNetworkInterfaceInput) { in.GroupIDs = []string{group.ID} })},
		{"create with an address in use", IPAddressInUse, create(func(in *CreateNetworkInterfaceInput) { in.PrivateIPs = []netip.Addr{i.PrivateIP} })},
		{"create with an address twice", InvalidParameterValue, create(func(in *CreateNetworkInterfaceInput) {
			in.PrivateIPs = []netip.Addr{addr("10.0.1.77"), addr("10.0.1.77")}
		})},
		{"create with too many addresses", PrivateIPAddressLimitExceeded, create(func(in *CreateNetworkInterfaceInput) { in.SecondaryCount = 30 })},
		{"create with less than none", PrivateIPAddressLimitExceeded, create(func(in *CreateNetworkInterfaceInput) { in.SecondaryCount = -1 })},
		{"delete nothing", InterfaceNotFound, func() error { return w.DeleteNetworkInterface("eni-0") }},
		{"look up nothing", InterfaceNotFound, func() error { return second(w.NetworkInterface("")) }},
		{"attach nothing", InterfaceNotFound, attach("eni-0", i.ID, 2)},
		{"attach to nothing", InstanceNotFound, attach(n.ID, "i-0", 2)},
		{"attach to a terminated instance", IncorrectInstanceState, attach(n.ID, gone.ID, 2)},
		{"attach twice", InterfaceInUse, attach(extra.ID, i.ID, 2)},
		{"attach to another VPC's instance", InvalidParameterCombination, attach(n.ID, elsewhere.ID, 1)},
		{"attach at a place in use", InvalidParameterValue, attach(n.ID, i.ID, 1)},
		{"attach at the primary's place", InvalidParameterValue, attach(n.ID, i.ID, 0)},
		{"attach below", InvalidParameterValue, attach(n.ID, i.ID, -1)},
		{"detach nothing", AttachmentNotFound, func() error { return w.DetachNetworkInterface("") }},
		{"assign to nothing", InterfaceNotFound, func() error { return second(w.AssignPrivateIPAddresses("", nil, 1)) }},
		{"assign nothing", MissingParameter, assign(0)},
		{"assign too many", PrivateIPAddressLimitExceeded, assign(30)},
		{"assign one in use", IPAddressInUse, assign(0, n.Addresses[0].PrivateIP)},
		{"assign one elsewhere", InvalidParameterValue, assign(0, addr("10.0.2.9"))},
		{"unassign from nothing", InterfaceNotFound, func() error { return w.UnassignPrivateIPAddresses("", nil) }},
		{"unassign nothing", MissingParameter, unassign()},
		{"unassign the primary", InvalidParameterValue, unassign(i.PrivateIP)},
		{"unassign another's", InvalidParameterValue, unassign(n.Addresses[0].PrivateIP)},
		{"groups of nothing", InterfaceNotFound, func() error { return w.ModifyNetworkInterfaceAttribute("", nil) }},
		{"no groups", MissingParameter, groups()},
		{"no such group", GroupNotFound, groups("sg-0")},
		{"another VPC's group", InvalidParameter, groups(group.ID)},
		{"associate with an instance of two interfaces", InvalidInstanceID, associate(AssociateAddressInput{InstanceID: i.ID})},
		{"associate with an instance and an interface", InvalidParameterCombination, associate(AssociateAddressInput{InstanceID: i.ID, NetworkInterfaceID: n.ID})},
		{"associate with no interface", InterfaceNotFound, associate(AssociateAddressInput{NetworkInterfaceID: "eni-0"})},
		{"associate with another's address", InvalidParameterValue, associate(AssociateAddressInput{NetworkInterfaceID: n.ID, PrivateIP: i.PrivateIP})},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.t = t
			sub.refused(c.want, c.call)
		})
	}
}

func TestQuotas(t *testing.T) {
	m := must(New(Config{
		PublicPool: []netip.Prefix{prefix("198.51.100.0/28")},
		Quotas: Quotas{
			VPCs: 1, CIDRs: 1, Subnets: 1, RouteTables: 2, NATGateways: 1, Routes: 1, NATAddresses: 1, Interfaces: 3,
			InterfacesPerInstance: 1, AddressesPerInterface: 1, Groups: 3, GroupsPerInterface: 1, RulesPerGroup: 1,
		},
	}))(t)
	w := &world{Model: m, t: t, now: t0}
	v := must(m.CreateVPC(prefix("10.0.0.0/16")))(t)
	igw := m.CreateInternetGateway()
	w.ok(m.AttachInternetGateway(igw.ID, v.ID))
	s := must(m.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.1.0/24")}))(t)
	table := must(m.CreateRouteTable(v.ID))(t)
	w.ok(m.CreateRoute(table.ID, everything, igw.ID))
	i := w.run(s)
	one, two := must(m.CreateSecurityGroup(v.ID, "one", "1"))(t), must(m.CreateSecurityGroup(v.ID, "two", "2"))(t)
	n := must(m.CreateNetworkInterface(CreateNetworkInterfaceInput{SubnetID: s.ID}))(t)
	w.natGateway(s, w.allocate())
	for _, c := range []struct {
		want Code
		call func() error
	}{
		{VPCLimitExceeded, func() error { return second(m.CreateVPC(prefix("10.1.0.0/16"))) }},
		{CIDRLimitExceeded, func() error { return second(m.AssociateVPCCIDRBlock(v.ID, prefix("10.1.0.0/16"))) }},
		{SubnetLimitExceeded, func() error {
			return second(m.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.2.0/24")}))
		}},
		{RouteTableLimitExceeded, func() error { return second(m.CreateRouteTable(v.ID)) }},
		{RouteLimitExceeded, func() error { return m.CreateRoute(table.ID, prefix("8.0.0.0/8"), igw.ID) }},
		{NATGatewayLimitExceeded, func() error {
			return second(m.CreateNATGateway(CreateNATGatewayInput{SubnetID: s.ID, ConnectivityType: PrivateNAT}))
		}},
		{AttachmentLimitExceeded, func() error {
			return second(m.AttachNetworkInterface(AttachNetworkInterfaceInput{n.ID, i.ID, 1}))
		}},
		{PrivateIPAddressLimitExceeded, func() error { return second(m.AssignPrivateIPAddresses(n.ID, nil, 1)) }},
		{SecurityGroupLimitExceeded, func() error { return second(m.CreateSecurityGroup(v.ID, "three", "3")) }},
		{GroupsPerInterfaceExceeded, func() error { return m.ModifyNetworkInterfaceAttribute(n.ID, []string{one.ID, two.ID}) }},
		{RulesPerGroupExceeded, func() error {
			return second(m.AuthorizeSecurityGroupEgress(one.ID, []SecurityGroupRule{{Protocol: 47, CIDR: everything}}))
		}},
	} {
		w.refused(c.want, c.call)
	}
	w.run(s)
	w.refused(InterfaceLimitExceeded, func() error { return second(m.RunInstance(w.now, RunInstanceInput{SubnetID: s.ID})) })
	w.ok(m.Check())
}

// AUTO-3, the other half: one interface, and no Elastic IP on a secondary address.
func TestAUTO3_OnlyWithOneInterfaceAndNoOtherElasticIP(t *testing.T) {
	w := newWorld(t, "198.51.100.0/27")
	for _, c := range []struct {
		name    string
		prepare func(Instance)
		want    bool
	}{
		{"one interface", func(Instance) {}, true},
		{"a second address", func(i Instance) { w.secondary(i) }, true},
		{"a second interface", func(i Instance) { w.attach(w.newInterface(w.private, 0), i, 1) }, false},
		{"a second Elastic IP", func(i Instance) { w.associateAt(w.allocate(), i.NetworkInterfaceID, w.secondary(i)) }, false},
	} {
		i := w.run(w.public)
		a := w.associate(w.allocate(), i)
		c.prepare(i)
		w.ok(w.DisassociateAddress(w.now, a.AssociationID))
		equal(t, c.name+": disassociated", w.instance(i).PublicIP.IsValid(), c.want)
		must(w.StopInstance(w.now, i.ID))(t)
		equal(t, c.name+": started", must(w.StartInstance(w.now, i.ID))(t).PublicIP.IsValid(), c.want)
		w.ok(w.ReleaseAddress(w.now, a.ID))
	}
}

// What is lent stays where something else comes or goes beside it.
func TestAUTO3_OtherAddressesDoNotTouchTheLentOne(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	n := w.attach(w.newInterface(w.public, 0), i, 1)
	a := w.associateAt(w.allocate(), i.NetworkInterfaceID, w.secondary(i))
	equal(t, "with all that", w.instance(i).PublicIP, i.PublicIP)
	w.ok(w.DisassociateAddress(w.now, a.AssociationID))
	w.ok(w.DetachNetworkInterface(n.AttachmentID))
	equal(t, "without", w.instance(i).PublicIP, i.PublicIP)
}

func TestEIP5_ReassociationWithinAnInterface(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	a, ip := w.associate(w.allocate(), i), w.secondary(i)
	w.refused(AlreadyAssociated, func() error {
		return second(w.AssociateAddress(w.now, AssociateAddressInput{
			AllocationID: a.ID, NetworkInterfaceID: i.NetworkInterfaceID, PrivateIP: ip, NoReassociation: true,
		}))
	})
	a = w.associateAt(a, i.NetworkInterfaceID, ip)
	equal(t, "the primary address", w.instance(i).PublicIP, netip.Addr{}) // AUTO-3: the secondary one has an Elastic IP
	equal(t, "the other", w.networkInterface(i.NetworkInterfaceID).Addresses[1].PublicIP, a.PublicIP)
	w.ok(w.DisassociateAddress(w.now, a.AssociationID))
	equal(t, "the primary address, which has lost nothing", w.instance(i).PublicIP, netip.Addr{})
	a = w.associateAt(a, i.NetworkInterfaceID, ip)
	w.ok(w.UnassignPrivateIPAddresses(i.NetworkInterfaceID, []netip.Addr{ip}))
	equal(t, "after the address went", w.address(a), a.free())
}

func TestEIP6_DisplacesAtTheSameAddressOnly(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	ip := w.secondary(i)
	one, two, three := w.associate(w.allocate(), i), w.associateAt(w.allocate(), i.NetworkInterfaceID, ip), w.allocate()
	equal(t, "again", w.associateAt(two, i.NetworkInterfaceID, ip), two)
	w.associateAt(three, i.NetworkInterfaceID, ip)
	equal(t, "at the other address", w.address(one), one)
	equal(t, "displaced", w.address(two), two.free())
}

// Each address of each interface of a running instance is a 1:1 mapping of its own.
func TestIGW1_SecondaryAddressesAndInterfaces(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	ip := e.secondary(i)
	n := e.attach(e.newInterface(e.public, 0), i, 1)
	one := e.associateAt(e.allocate(), i.NetworkInterfaceID, ip)
	two := e.associateAt(e.allocate(), n.ID, n.Addresses[0].PrivateIP)
	e.apply()
	e.isPublic("the primary address", i, i.PublicIP)
	at := i
	at.PrivateIP = ip
	e.isPublic("a secondary address", at, one.PublicIP)
	at.PrivateIP, at.Attachment = n.Addresses[0].PrivateIP, n.Attachment
	e.isPublic("a second interface", at, two.PublicIP)
	e.stops("the wrong interface", i.Attachment, tcp(at.PrivateIP, 5000, r1, 80), nat.DropSpoof)

	e.ok(e.DetachNetworkInterface(n.AttachmentID))
	e.now = e.now.Add(time.Second)
	e.apply()
	e.isDead("detached", two.PublicIP)
	e.stops("detached", n.Attachment, tcp(at.PrivateIP, 5000, r1, 80), nat.DropAttachment)
	e.isPublic("the rest", i, i.PublicIP)
}

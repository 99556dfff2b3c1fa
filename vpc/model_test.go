// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
)

func TestNewNamesAllFaults(t *testing.T) {
	_, err := New(Config{
		PublicPool:   []netip.Prefix{prefix("198.51.100.0/24"), prefix("198.51.100.7/25"), prefix("2001:db8::/120"), prefix("127.0.0.0/30"), prefix("8.0.0.0/15")},
		AddressQuota: -1, CoolDown: -1, InsideMTU: 67, OutsideMTU: -1,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"overlap", "host bits", "no IPv4", "no host", "131460 addresses", "AddressQuota", "CoolDown", "MTU is 67", "MTU is -1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestErrorsMatchTheirCode(t *testing.T) {
	m := must(New(Config{}))(t)
	_, err := m.Instance("i-1")
	if !errors.Is(err, InstanceNotFound) || errors.Is(err, VPCNotFound) {
		t.Errorf("%v matches the wrong code", err)
	}
	equal(t, "text", err.Error(), `InvalidInstanceID.NotFound: the ID "i-1" does not exist`)
}

func TestIDs(t *testing.T) {
	build := func(seed uint64) *Model {
		m := must(New(Config{Seed: seed}))(t)
		v := must(m.CreateVPC(prefix("10.0.0.0/16")))(t)
		must(m.CreateRouteTable(v.ID))(t)
		m.CreateInternetGateway()
		return m
	}
	one, again, other := build(7), build(7), build(8)
	equal(t, "equal seeds and calls", one.snapshot(), again.snapshot())
	if one.vpcs.ids[0] == other.vpcs.ids[0] {
		t.Error("another seed makes the same ids")
	}
	seen := map[string]bool{}
	for range 1000 {
		id := one.newID("i")
		if !regexp.MustCompile(`^i-[0-9a-f]{17}$`).MatchString(id) || seen[id] {
			t.Fatalf("%q is of another form, or a second time", id)
		}
		seen[id] = true
	}
}

// Each call that can be refused, each reason, and the code for it. None leaves a trace.
func TestRefused(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	running, spare := w.run(w.public), w.run(w.private)
	stopped := w.run(w.private)
	must(w.StopInstance(w.now, stopped.ID))(t)
	gone := w.run(w.private)
	must(w.TerminateInstance(w.now, gone.ID))(t)
	onInstance, onGateway, idle := w.associate(w.allocate(), spare), w.allocate(), w.allocate()
	gateway := w.natGateway(w.public, onGateway)
	onGateway = w.address(onGateway)

	other := must(w.CreateVPC(prefix("10.0.0.0/16")))(t) // overlaps the first
	otherSubnet := must(w.CreateSubnet(CreateSubnetInput{VPCID: other.ID, CIDR: prefix("10.0.1.0/28")}))(t)
	otherTable := must(w.CreateRouteTable(other.ID))(t)
	otherInstance := w.run(otherSubnet)
	otherIGW := w.CreateInternetGateway()
	association := w.tables.byID[w.outward.ID].Associations[0]
	w.ok(w.CreateRoute(w.outward.ID, prefix("10.1.2.0/24"), w.igw.ID))

	subnet := func(vpcID, cidr string) func() error {
		return func() error {
			return second(w.CreateSubnet(CreateSubnetInput{VPCID: vpcID, CIDR: prefix(cidr)}))
		}
	}
	run := func(subnetID string, ip netip.Addr) func() error {
		return func() error {
			return second(w.RunInstance(w.now, RunInstanceInput{SubnetID: subnetID, PrivateIP: ip}))
		}
	}
	associate := func(in AssociateAddressInput) func() error {
		return func() error { return second(w.AssociateAddress(w.now, in)) }
	}
	newNAT := func(in CreateNATGatewayInput) func() error {
		return func() error { return second(w.CreateNATGateway(in)) }
	}
	for _, c := range []struct {
		name string
		want Code
		call func() error
	}{
		{"VPC too large", VPCRange, func() error { return second(w.CreateVPC(prefix("10.0.0.0/15"))) }},
		{"VPC too small", VPCRange, func() error { return second(w.CreateVPC(prefix("10.0.0.0/29"))) }},
		{"VPC of IPv6", VPCRange, func() error { return second(w.CreateVPC(prefix("2001:db8::/28"))) }},
		{"VPC without CIDR", VPCRange, func() error { return second(w.CreateVPC(netip.Prefix{})) }},
		{"VPC of loopback", VPCRange, func() error { return second(w.CreateVPC(prefix("127.0.0.0/16"))) }},
		{"VPC of public addresses", VPCRange, func() error { return second(w.CreateVPC(prefix("198.51.0.0/16"))) }},
		{"block for no VPC", VPCNotFound, func() error { return second(w.AssociateVPCCIDRBlock("vpc-0", prefix("10.9.0.0/16"))) }},
		{"block too large", VPCRange, func() error { return second(w.AssociateVPCCIDRBlock(w.vpc.ID, prefix("10.8.0.0/13"))) }},
		{"block that is there", VPCRange, func() error { return second(w.AssociateVPCCIDRBlock(w.vpc.ID, prefix("10.0.9.0/24"))) }},
		{"block with a route into it", VPCRange, func() error { return second(w.AssociateVPCCIDRBlock(w.vpc.ID, prefix("10.1.0.0/16"))) }},
		{"delete no VPC", VPCNotFound, func() error { return w.DeleteVPC("vpc-0") }},
		{"delete VPC with subnets", DependencyViolation, func() error { return w.DeleteVPC(w.vpc.ID) }},

		{"subnet in no VPC", VPCNotFound, subnet("vpc-0", "10.0.3.0/24")},
		{"subnet too small", SubnetRange, subnet(w.vpc.ID, "10.0.3.0/29")},
		{"subnet larger than VPC", SubnetRange, subnet(w.vpc.ID, "10.0.0.0/15")},
		{"subnet elsewhere", SubnetRange, subnet(w.vpc.ID, "10.1.3.0/24")},
		{"subnet overlaps", SubnetConflict, subnet(w.vpc.ID, "10.0.0.0/23")},
		{"attribute of no subnet", SubnetNotFound, func() error { return w.ModifySubnetAttribute("subnet-0", true) }},
		{"delete no subnet", SubnetNotFound, func() error { return w.DeleteSubnet("subnet-0") }},
		{"delete subnet with instances", DependencyViolation, func() error { return w.DeleteSubnet(w.private.ID) }},

		{"table in no VPC", VPCNotFound, func() error { return second(w.CreateRouteTable("vpc-0")) }},
		{"delete no table", RouteTableNotFound, func() error { return w.DeleteRouteTable("rtb-0") }},
		{"delete main table", DependencyViolation, func() error { return w.DeleteRouteTable(w.vpc.MainRouteTableID) }},
		{"delete table in use", DependencyViolation, func() error { return w.DeleteRouteTable(w.outward.ID) }},
		{"associate no table", RouteTableNotFound, func() error { return second(w.AssociateRouteTable("rtb-0", w.public.ID)) }},
		{"associate no subnet", SubnetNotFound, func() error { return second(w.AssociateRouteTable(w.outward.ID, "subnet-0")) }},
		{"associate across VPCs", InvalidParameterValue, func() error { return second(w.AssociateRouteTable(w.outward.ID, otherSubnet.ID)) }},
		{"associate twice", AlreadyAssociated, func() error { return second(w.AssociateRouteTable(w.vpc.MainRouteTableID, w.public.ID)) }},
		{"replace no association", AssociationNotFound, func() error { return second(w.ReplaceRouteTableAssociation("", w.outward.ID)) }},
		{"replace by no table", RouteTableNotFound, func() error { return second(w.ReplaceRouteTableAssociation(association.ID, "rtb-0")) }},
		{"replace across VPCs", InvalidParameterValue, func() error { return second(w.ReplaceRouteTableAssociation(association.ID, otherTable.ID)) }},
		{"disassociate nothing", AssociationNotFound, func() error { return w.DisassociateRouteTable("rtbassoc-0") }},

		{"route in no table", RouteTableNotFound, func() error { return w.CreateRoute("rtb-0", everything, w.igw.ID) }},
		{"route of IPv6", InvalidParameterValue, func() error { return w.CreateRoute(w.outward.ID, prefix("::/0"), w.igw.ID) }},
		{"route into the VPC", InvalidParameterValue, func() error { return w.CreateRoute(w.outward.ID, prefix("10.0.3.0/24"), w.igw.ID) }},
		{"route that is there", RouteAlreadyExists, func() error { return w.CreateRoute(w.outward.ID, everything, gateway.ID) }},
		{"route to something else", GatewayNotFound, func() error { return w.CreateRoute(w.outward.ID, prefix("8.0.0.0/8"), running.ID) }},
		{"route to no igw", InternetGatewayNotFound, func() error { return w.CreateRoute(w.outward.ID, prefix("8.0.0.0/8"), "igw-0") }},
		{"route to no nat", NATGatewayNotFound, func() error { return w.CreateRoute(w.outward.ID, prefix("8.0.0.0/8"), "nat-0") }},
		{"route to a detached igw", InvalidParameterValue, func() error { return w.CreateRoute(w.outward.ID, prefix("8.0.0.0/8"), otherIGW.ID) }},
		{"route to a nat elsewhere", InvalidParameterValue, func() error { return w.CreateRoute(otherTable.ID, everything, gateway.ID) }},
		{"replace no route", RouteNotFound, func() error { return w.ReplaceRoute(w.outward.ID, prefix("8.0.0.0/8"), w.igw.ID) }},
		{"replace by nothing", GatewayNotFound, func() error { return w.ReplaceRoute(w.outward.ID, everything, "") }},
		{"delete no route", RouteNotFound, func() error { return w.DeleteRoute(w.outward.ID, prefix("8.0.0.0/8")) }},
		{"delete route of no table", RouteTableNotFound, func() error { return w.DeleteRoute("rtb-0", everything) }},

		{"attach no igw", InternetGatewayNotFound, func() error { return w.AttachInternetGateway("igw-0", other.ID) }},
		{"attach to no VPC", VPCNotFound, func() error { return w.AttachInternetGateway(otherIGW.ID, "vpc-0") }},
		{"attach twice", AlreadyAssociated, func() error { return w.AttachInternetGateway(w.igw.ID, other.ID) }},
		{"attach a second", InvalidParameterValue, func() error { return w.AttachInternetGateway(otherIGW.ID, w.vpc.ID) }},
		{"detach no igw", InternetGatewayNotFound, func() error { return w.DetachInternetGateway("igw-0", w.vpc.ID) }},
		{"detach from no VPC", VPCNotFound, func() error { return w.DetachInternetGateway(w.igw.ID, "vpc-0") }},
		{"detach from elsewhere", GatewayNotAttached, func() error { return w.DetachInternetGateway(w.igw.ID, other.ID) }},
		{"detach with addresses", DependencyViolation, func() error { return w.DetachInternetGateway(w.igw.ID, w.vpc.ID) }},
		{"delete no igw", InternetGatewayNotFound, func() error { return w.DeleteInternetGateway("igw-0") }},
		{"delete attached igw", DependencyViolation, func() error { return w.DeleteInternetGateway(w.igw.ID) }},

		{"run in no subnet", SubnetNotFound, run("subnet-0", netip.Addr{})},
		{"run with the router's address", InvalidParameterValue, run(w.private.ID, addr("10.0.2.1"))},
		{"run with the broadcast address", InvalidParameterValue, run(w.private.ID, addr("10.0.2.255"))},
		{"run with an address elsewhere", InvalidParameterValue, run(w.private.ID, addr("10.0.3.9"))},
		{"run with a mapped address", InvalidParameterValue, run(w.private.ID, addr("::ffff:10.0.2.9"))},
		{"run with an address in use", IPAddressInUse, run(w.private.ID, stopped.PrivateIP)},
		{"run with the gateway's address", IPAddressInUse, run(w.public.ID, gateway.Addresses[0].PrivateIP)},
		{"start nothing", InstanceNotFound, func() error { return second(w.StartInstance(w.now, "i-0")) }},
		{"start terminated", IncorrectInstanceState, func() error { return second(w.StartInstance(w.now, gone.ID)) }},
		{"stop nothing", InstanceNotFound, func() error { return second(w.StopInstance(w.now, "i-0")) }},
		{"stop terminated", IncorrectInstanceState, func() error { return second(w.StopInstance(w.now, gone.ID)) }},
		{"reboot nothing", InstanceNotFound, func() error { return second(w.RebootInstance("i-0")) }},
		{"reboot stopped", IncorrectInstanceState, func() error { return second(w.RebootInstance(stopped.ID)) }},
		{"reboot terminated", IncorrectInstanceState, func() error { return second(w.RebootInstance(gone.ID)) }},
		{"terminate nothing", InstanceNotFound, func() error { return second(w.TerminateInstance(w.now, "i-0")) }},

		{"look up no address", AllocationNotFound, func() error { return second(w.Address("eipalloc-0")) }},
		{"release nothing", AllocationNotFound, func() error { return w.ReleaseAddress(w.now, "eipalloc-0") }},
		{"release from an instance", IPAddressInUse, func() error { return w.ReleaseAddress(w.now, onInstance.ID) }},
		{"release from a nat", IPAddressInUse, func() error { return w.ReleaseAddress(w.now, onGateway.ID) }},
		{"associate nothing", AllocationNotFound, associate(AssociateAddressInput{InstanceID: running.ID})},
		{"associate to nothing", InstanceNotFound, associate(AssociateAddressInput{AllocationID: idle.ID})},
		{"associate to terminated", IncorrectInstanceState, associate(AssociateAddressInput{AllocationID: idle.ID, InstanceID: gone.ID})},
		{"associate without an igw", GatewayNotAttached, associate(AssociateAddressInput{AllocationID: idle.ID, InstanceID: otherInstance.ID})},
		{"associate a nat's", AuthFailure, associate(AssociateAddressInput{AllocationID: onGateway.ID, InstanceID: running.ID})},
		{"associate one that must stay", AlreadyAssociated, associate(AssociateAddressInput{AllocationID: onInstance.ID, InstanceID: running.ID, NoReassociation: true})},
		{"disassociate nothing", AssociationNotFound, func() error { return w.DisassociateAddress(w.now, "") }},
		{"disassociate a nat's", AuthFailure, func() error { return w.DisassociateAddress(w.now, onGateway.AssociationID) }},

		{"nat in no subnet", SubnetNotFound, newNAT(CreateNATGatewayInput{AllocationID: idle.ID})},
		{"nat without an address", AllocationNotFound, newNAT(CreateNATGatewayInput{SubnetID: w.public.ID})},
		{"nat with a used address", AlreadyAssociated, newNAT(CreateNATGatewayInput{SubnetID: w.public.ID, AllocationID: onInstance.ID})},
		{"nat without an igw", GatewayNotAttached, newNAT(CreateNATGatewayInput{SubnetID: otherSubnet.ID, AllocationID: idle.ID})},
		{"nat at a used address", IPAddressInUse, newNAT(CreateNATGatewayInput{SubnetID: w.public.ID, AllocationID: idle.ID, PrivateIP: running.PrivateIP})},
		{"delete no nat", NATGatewayNotFound, func() error { return w.DeleteNATGateway("nat-0") }},
		{"policy of no VPC", VPCNotFound, func() error { return second(w.Policy("vpc-0")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.t = t
			sub.refused(c.want, c.call)
		})
	}
}

// What a caller does to a result reaches neither the model nor a later result.
func TestResultsAreCopies(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	g := w.natGateway(w.public, w.allocate())
	before := w.snapshot()
	clear(w.DescribeVPCs()[0].CIDRs)
	clear(w.vpc.CIDRs)
	for _, r := range w.DescribeRouteTables() {
		clear(r.Routes)
		clear(r.Associations)
	}
	clear(w.DescribeNATGateways()[0].Addresses)
	clear(g.Addresses)
	clear(w.DescribeSubnets())
	clear(w.DescribeInternetGateways())
	p := must(w.Policy(w.vpc.ID))(t)
	clear(p.Inside)
	clear(p.Unlent)
	clear(p.Pools[0].Addresses)
	equal(t, "model", w.snapshot(), before)
}

// What is in a store is replaced, not written to: whoever took it out before still has what it was.
func TestStoredValuesDoNotChange(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	w.ok(w.CreateRoute(w.outward.ID, prefix("8.0.0.0/8"), w.igw.ID))
	vpcs, tables := maps.Clone(w.vpcs.byID), maps.Clone(w.tables.byID)
	before := fmt.Sprint(vpcs, tables)
	w.ok(w.ReplaceRoute(w.outward.ID, everything, w.natGateway(w.public, w.allocate()).ID))
	w.ok(w.DeleteRoute(w.outward.ID, everything))
	w.ok(w.DisassociateRouteTable(w.tables.byID[w.outward.ID].Associations[0].ID))
	must(w.AssociateVPCCIDRBlock(w.vpc.ID, prefix("10.1.0.0/16")))(t)
	equal(t, "values taken out before", fmt.Sprint(vpcs, tables), before)
}

func TestDescribeIsInOrderOfCreation(t *testing.T) {
	w := newWorld(t, "198.51.100.0/27")
	var want []string
	for range 20 {
		want = append(want, w.run(w.public).ID)
	}
	must(w.TerminateInstance(w.now, want[3]))(t)
	w.now = w.now.Add(time.Hour)
	want = append(append(want[:3:3], want[4:]...), w.run(w.private).ID)
	var got []string
	for _, i := range w.DescribeInstances() {
		got = append(got, i.ID)
	}
	equal(t, "instances", strings.Join(got, " "), strings.Join(want, " "))
}

func TestTerminatedInstancesStayForAnHour(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.private)
	gone := must(w.TerminateInstance(w.now, i.ID))(t)
	equal(t, "state", gone.State, Terminated)
	equal(t, "terminated again", must(w.TerminateInstance(w.now.Add(time.Minute), i.ID))(t), gone)
	w.now = w.now.Add(time.Hour - 1)
	equal(t, "its address is free", w.run(w.private).PrivateIP, i.PrivateIP)
	equal(t, "lookup", w.instance(i), gone)
	w.now = w.now.Add(1)
	w.run(w.private)
	w.refused(InstanceNotFound, func() error { return second(w.Instance(i.ID)) })
}

func TestPrivateAddressesRunOut(t *testing.T) {
	w := newWorld(t)
	small := must(w.CreateSubnet(CreateSubnetInput{VPCID: w.vpc.ID, CIDR: prefix("10.0.3.16/28")}))(t)
	equal(t, "the first", w.run(small).PrivateIP, addr("10.0.3.20"))
	var last Instance
	for range 10 { // 16 addresses, 5 of them reserved
		last = w.run(small)
	}
	equal(t, "the last", last.PrivateIP, addr("10.0.3.30"))
	w.refused(InsufficientFreeAddresses, func() error { return second(w.RunInstance(w.now, RunInstanceInput{SubnetID: small.ID})) })
}

func TestAttachmentsAreNotUsedAgainSoon(t *testing.T) {
	w := newWorld(t)
	first := w.run(w.private)
	must(w.TerminateInstance(w.now, first.ID))(t)
	next := w.run(w.private)
	if next.Attachment == first.Attachment || next.Attachment == OutsideAttachment {
		t.Errorf("attachment %d after %d", next.Attachment, first.Attachment)
	}
	w.lastAttachment = 1<<16 - 1 // the numbers wrap around, past those in use
	equal(t, "after the wrap", w.run(w.private).Attachment, first.Attachment)
	w.lastAttachment = first.Attachment
	equal(t, "the next free one", w.run(w.private).Attachment, next.Attachment+1)

	full := *w.Model
	full.attachments = map[nat.AttachmentID]string{}
	for id := range 1 << 16 {
		full.attachments[nat.AttachmentID(id)] = "i-0"
	}
	_, err := full.RunInstance(w.now, RunInstanceInput{SubnetID: w.private.ID})
	if !errors.Is(err, InterfaceLimitExceeded) {
		t.Errorf("with no number left: %v", err)
	}
}

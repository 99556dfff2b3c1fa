// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"slices"
	"testing"

	"github.com/tidegate/tidegate/nat"
)

func TestIGW6_DetachNeedsNoMappedAddress(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	detach := func() error { return w.DetachInternetGateway(w.igw.ID, w.vpc.ID) }

	lent := w.run(w.public)
	w.refused(DependencyViolation, detach)
	a := w.associate(w.allocate(), lent)
	must(w.StopInstance(w.now, lent.ID))(t)
	w.refused(DependencyViolation, detach) // the Elastic IP is still mapped
	w.ok(w.DisassociateAddress(w.now, a.AssociationID))
	g := w.natGateway(w.public, a)
	w.refused(DependencyViolation, detach)
	w.ok(w.DeleteNATGateway(g.ID))
	w.ok(detach())

	must(w.StartInstance(w.now, lent.ID))(t) // lent an address, which leads nowhere
	p := w.compiled()
	sameAs(t, "static", p.Static, []nat.Static(nil))
	sameAs(t, "routes", p.Routes, []nat.Route{{Source: w.public.CIDR, Destination: everything}})
	equal(t, "route state", w.DescribeRouteTables()[1].Routes[1].State, RouteBlackhole)
	w.refused(GatewayNotAttached, detach)
	must(w.StopInstance(w.now, lent.ID))(t)

	w.ok(w.AttachInternetGateway(w.igw.ID, w.vpc.ID))
	equal(t, "route state", w.DescribeRouteTables()[1].Routes[1].State, RouteActive)
	w.ok(detach())
	w.ok(w.DeleteInternetGateway(w.igw.ID))
	equal(t, "gateways", len(w.DescribeInternetGateways()), 0)
}

func TestNGW5_PrimaryAddressStays(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	a := w.allocate()
	g := w.natGateway(w.public, a)
	a = w.address(a)
	equal(t, "on", a.NATGatewayID, g.ID)
	equal(t, "primary", g.Addresses[0], NATGatewayAddress{AllocationID: a.ID, AssociationID: a.AssociationID, PublicIP: a.PublicIP, PrivateIP: a.PrivateIP})
	equal(t, "at", a.PrivateIP, i.PrivateIP.Next())

	w.refused(AuthFailure, func() error { return w.DisassociateAddress(w.now, a.AssociationID) })
	w.refused(AuthFailure, func() error {
		return second(w.AssociateAddress(w.now, AssociateAddressInput{AllocationID: a.ID, InstanceID: i.ID}))
	})
	w.refused(IPAddressInUse, func() error { return w.ReleaseAddress(w.now, a.ID) })
	must(w.TerminateInstance(w.now, i.ID))(t)
	w.refused(DependencyViolation, func() error { return w.DeleteSubnet(w.public.ID) })
}

func TestNATGatewayDeleted(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	a := w.allocate()
	g := w.natGateway(w.public, a)
	w.ok(w.DeleteNATGateway(g.ID))
	equal(t, "its Elastic IP", w.address(a), a)
	equal(t, "gateways", len(w.DescribeNATGateways()), 0)
	again := must(w.CreateNATGateway(CreateNATGatewayInput{SubnetID: w.public.ID, AllocationID: a.ID, PrivateIP: g.Addresses[0].PrivateIP}))(t)
	if again.ID == g.ID {
		t.Error("an id was used twice")
	}
	w.refused(NATGatewayNotFound, func() error { return w.DeleteNATGateway(g.ID) })
}

// Everything can be taken down again, in the order that EC2 asks for.
func TestTearDown(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	g := w.natGateway(w.public, w.allocate())
	v := must(w.AssociateVPCCIDRBlock(w.vpc.ID, prefix("10.5.0.0/16")))(t)
	equal(t, "blocks", len(v.CIDRs), 2)
	far := must(w.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.5.1.0/24")}))(t)
	equal(t, "local routes", w.DescribeRouteTables()[0].Routes[1], Route{prefix("10.5.0.0/16"), Local, RouteActive})

	w.ok(w.DeleteNATGateway(g.ID))
	must(w.TerminateInstance(w.now, i.ID))(t)
	for _, s := range []Subnet{w.public, w.private, far} {
		w.refused(DependencyViolation, func() error { return w.DeleteVPC(v.ID) })
		w.ok(w.DeleteSubnet(s.ID))
	}
	w.refused(DependencyViolation, func() error { return w.DeleteVPC(v.ID) })
	w.ok(w.DetachInternetGateway(w.igw.ID, v.ID))
	w.refused(DependencyViolation, func() error { return w.DeleteVPC(v.ID) })
	w.refused(DependencyViolation, func() error { return w.DeleteVPC(v.ID) })
	w.ok(w.DeleteSecurityGroup(w.open.ID))
	w.refused(DependencyViolation, func() error { return w.DeleteVPC(v.ID) })
	w.ok(w.DeleteRouteTable(w.outward.ID)) // its association went with the subnet
	w.ok(w.DeleteVPC(v.ID))
	equal(t, "VPCs", len(w.DescribeVPCs()), 0)
	equal(t, "route tables", len(w.DescribeRouteTables()), 0)
	equal(t, "subnets", len(w.DescribeSubnets()), 0)
	equal(t, "security groups", len(w.DescribeSecurityGroups()), 0)
	equal(t, "network interfaces", len(w.DescribeNetworkInterfaces()), 0)
	equal(t, "Elastic IPs", len(w.DescribeAddresses()), 1)
	equal(t, "terminated", slices.Collect(w.instances.all())[0].State, Terminated)
}

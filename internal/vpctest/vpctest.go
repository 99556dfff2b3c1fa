// SPDX-License-Identifier: Apache-2.0

// Package vpctest makes random calls of a vpc.Model, and prints all that one says, so that models can be compared.
package vpctest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/tidegate/tidegate/vpc"
)

// everything is the destination of a default route.
var everything = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// Call makes one call that r chooses, most often a possible one, and returns its name and answer. Equal models, times and
// states of r have equal results.
func Call(m *vpc.Model, now time.Time, r *rand.Rand) (string, error) {
	c := caller{m: m, now: now, r: r}
	calls := []func() (string, any, error){
		c.createVPC, c.createSubnet, c.createSubnet, c.createRouteTable, c.associateRouteTable, c.route, c.route, c.internetGateway,
		c.internetGateway, c.run, c.run, c.run, c.start, c.stop, c.terminate, c.allocate, c.allocate, c.release, c.associate,
		c.associate, c.associate, c.disassociate, c.createNATGateway, c.deleteNATGateway, c.deleteSomething, c.modify,
		c.networkInterface, c.networkInterface, c.natAddress, c.natAddress, c.transit, c.group,
	}
	name, value, err := calls[r.IntN(len(calls))]()
	if err != nil {
		return name, err
	}
	return fmt.Sprintf("%s: %+v", name, value), nil
}

// Print is all that the model says: its objects, and the policy of each VPC.
func Print(m *vpc.Model) string {
	var s strings.Builder
	for _, v := range []any{
		m.DescribeVPCs(), m.DescribeSubnets(), m.DescribeRouteTables(), m.DescribeInternetGateways(), m.DescribeInstances(),
		m.DescribeNetworkInterfaces(), m.DescribeAddresses(), m.DescribeNATGateways(), m.DescribeTransitGateways(),
		m.DescribeTransitGatewayVPCAttachments(), m.DescribeSecurityGroups(),
	} {
		fmt.Fprintf(&s, "%+v\n", v)
	}
	for _, v := range m.DescribeVPCs() {
		p, err := m.Policy(v.ID)
		b, _ := json.Marshal(p) // a policy is a plain value
		fmt.Fprintf(&s, "%s: %s %v\n", v.ID, b, err)
	}
	return s.String()
}

// Future is what a clone of the model answers to some calls: ids and addresses that come next show in it.
func Future(m *vpc.Model, now time.Time, seed uint64) string {
	var s strings.Builder
	m, r := m.Clone(), rand.New(rand.NewPCG(seed, 0))
	for range 12 {
		now = now.Add(time.Second)
		answer, err := Call(m, now, r)
		fmt.Fprintln(&s, answer, err)
	}
	return s.String()
}

type caller struct {
	m   *vpc.Model
	now time.Time
	r   *rand.Rand
}

// pick is one of all, or now and then something that does not exist.
func pick[T any](c *caller, all []T, id func(T) string) string {
	if len(all) == 0 || c.r.IntN(20) == 0 {
		return "none-0"
	}
	return id(all[c.r.IntN(len(all))])
}

func (c *caller) vpc() string {
	return pick(c, c.m.DescribeVPCs(), func(v vpc.VPC) string { return v.ID })
}

func (c *caller) subnet() string {
	return pick(c, c.m.DescribeSubnets(), func(s vpc.Subnet) string { return s.ID })
}

func (c *caller) table() string {
	return pick(c, c.m.DescribeRouteTables(), func(t vpc.RouteTable) string { return t.ID })
}

func (c *caller) igw() string {
	return pick(c, c.m.DescribeInternetGateways(), func(g vpc.InternetGateway) string { return g.ID })
}

func (c *caller) natGateway() string {
	return pick(c, c.m.DescribeNATGateways(), func(g vpc.NATGateway) string { return g.ID })
}

func (c *caller) instance() string {
	return pick(c, c.m.DescribeInstances(), func(i vpc.Instance) string { return i.ID })
}

func (c *caller) allocation() string {
	return pick(c, c.m.DescribeAddresses(), func(a vpc.Address) string { return a.ID })
}

func (c *caller) createVPC() (string, any, error) {
	if len(c.m.DescribeVPCs()) > 3 {
		return c.allocate()
	}
	v, err := c.m.CreateVPC(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(c.r.IntN(2)), 0, 0}), 16))
	return "CreateVPC", v, err
}

func (c *caller) createSubnet() (string, any, error) {
	cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(c.r.IntN(2)), byte(c.r.IntN(4)), 0}), 28)
	s, err := c.m.CreateSubnet(vpc.CreateSubnetInput{VPCID: c.vpc(), CIDR: cidr, MapPublicIPOnLaunch: c.r.IntN(2) == 0})
	return "CreateSubnet", s, err
}

func (c *caller) createRouteTable() (string, any, error) {
	t, err := c.m.CreateRouteTable(c.vpc())
	return "CreateRouteTable", t, err
}

func (c *caller) associateRouteTable() (string, any, error) {
	if c.r.IntN(4) == 0 {
		for _, t := range c.m.DescribeRouteTables() {
			if len(t.Associations) > 0 {
				a, err := c.m.ReplaceRouteTableAssociation(t.Associations[0].ID, c.table())
				return "ReplaceRouteTableAssociation", a, err
			}
		}
	}
	a, err := c.m.AssociateRouteTable(c.table(), c.subnet())
	return "AssociateRouteTable", a, err
}

func (c *caller) route() (string, any, error) {
	target := c.igw()
	if c.r.IntN(3) == 0 {
		target = c.natGateway()
	}
	switch c.r.IntN(4) {
	case 0:
		return "ReplaceRoute", nil, c.m.ReplaceRoute(c.table(), everything, target)
	case 1:
		return "DeleteRoute", nil, c.m.DeleteRoute(c.table(), everything)
	default:
		return "CreateRoute", nil, c.m.CreateRoute(c.table(), everything, target)
	}
}

func (c *caller) internetGateway() (string, any, error) {
	switch c.r.IntN(6) {
	case 0:
		return "CreateInternetGateway", c.m.CreateInternetGateway(), nil
	case 1:
		return "DetachInternetGateway", nil, c.m.DetachInternetGateway(c.igw(), c.vpc())
	default:
		return "AttachInternetGateway", nil, c.m.AttachInternetGateway(c.igw(), c.vpc())
	}
}

func (c *caller) run() (string, any, error) {
	i, err := c.m.RunInstance(c.now, vpc.RunInstanceInput{SubnetID: c.subnet()})
	return "RunInstance", i, err
}

func (c *caller) start() (string, any, error) {
	i, err := c.m.StartInstance(c.now, c.instance())
	return "StartInstance", i, err
}

func (c *caller) stop() (string, any, error) {
	i, err := c.m.StopInstance(c.now, c.instance())
	return "StopInstance", i, err
}

func (c *caller) terminate() (string, any, error) {
	i, err := c.m.TerminateInstance(c.now, c.instance())
	return "TerminateInstance", i, err
}

func (c *caller) allocate() (string, any, error) {
	a, err := c.m.AllocateAddress(c.now)
	return "AllocateAddress", a, err
}

func (c *caller) release() (string, any, error) {
	return "ReleaseAddress", nil, c.m.ReleaseAddress(c.now, c.allocation())
}

func (c *caller) associate() (string, any, error) {
	a, err := c.m.AssociateAddress(c.now, vpc.AssociateAddressInput{
		AllocationID: c.allocation(), InstanceID: c.instance(), NoReassociation: c.r.IntN(4) == 0,
	})
	return "AssociateAddress", a, err
}

func (c *caller) disassociate() (string, any, error) {
	id := pick(c, c.m.DescribeAddresses(), func(a vpc.Address) string { return a.AssociationID })
	return "DisassociateAddress", nil, c.m.DisassociateAddress(c.now, id)
}

func (c *caller) createNATGateway() (string, any, error) {
	g, err := c.m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: c.subnet(), AllocationID: c.allocation()})
	return "CreateNATGateway", g, err
}

func (c *caller) deleteNATGateway() (string, any, error) {
	return "DeleteNATGateway", nil, c.m.DeleteNATGateway(c.natGateway())
}

// deleteSomething is refused most of the time: nearly everything is needed by something.
func (c *caller) deleteSomething() (string, any, error) {
	switch c.r.IntN(4) {
	case 0:
		return "DeleteVPC", nil, c.m.DeleteVPC(c.vpc())
	case 1:
		return "DeleteSubnet", nil, c.m.DeleteSubnet(c.subnet())
	case 2:
		return "DeleteRouteTable", nil, c.m.DeleteRouteTable(c.table())
	default:
		return "DeleteInternetGateway", nil, c.m.DeleteInternetGateway(c.igw())
	}
}

func (c *caller) networkInterface() (string, any, error) {
	all := c.m.DescribeNetworkInterfaces()
	id := pick(c, all, func(n vpc.NetworkInterface) string { return n.ID })
	switch c.r.IntN(5) {
	case 0:
		n, err := c.m.CreateNetworkInterface(vpc.CreateNetworkInterfaceInput{SubnetID: c.subnet(), SecondaryCount: c.r.IntN(2)})
		return "CreateNetworkInterface", n, err
	case 1:
		n, err := c.m.AttachNetworkInterface(vpc.AttachNetworkInterfaceInput{NetworkInterfaceID: id, InstanceID: c.instance(), DeviceIndex: 1})
		return "AttachNetworkInterface", n, err
	case 2:
		attachment := pick(c, all, func(n vpc.NetworkInterface) string { return n.AttachmentID })
		return "DetachNetworkInterface", nil, c.m.DetachNetworkInterface(attachment)
	case 3:
		n, err := c.m.AssignPrivateIPAddresses(id, nil, 1)
		return "AssignPrivateIPAddresses", n, err
	default:
		return "DeleteNetworkInterface", nil, c.m.DeleteNetworkInterface(id)
	}
}

// natAddress gives a NAT gateway an address more, or takes one away.
func (c *caller) natAddress() (string, any, error) {
	for _, g := range c.m.DescribeNATGateways() {
		if n := len(g.Addresses); n > 1 && c.r.IntN(2) == 0 {
			g, err := c.m.DisassociateNATGatewayAddress(c.now, g.ID, []string{g.Addresses[n-1].AssociationID}, time.Minute)
			return "DisassociateNATGatewayAddress", g, err
		}
	}
	g, err := c.m.AssociateNATGatewayAddress(c.natGateway(), []string{c.allocation()}, nil)
	return "AssociateNATGatewayAddress", g, err
}

func (c *caller) transit() (string, any, error) {
	id := pick(c, c.m.DescribeTransitGateways(), func(g vpc.TransitGateway) string { return g.ID })
	if c.r.IntN(2) == 0 {
		return "CreateTransitGateway", c.m.CreateTransitGateway(), nil
	}
	a, err := c.m.CreateTransitGatewayVPCAttachment(id, c.vpc())
	return "CreateTransitGatewayVPCAttachment", a, err
}

func (c *caller) group() (string, any, error) {
	if c.r.IntN(2) == 0 {
		g, err := c.m.CreateSecurityGroup(c.vpc(), string(rune('a'+c.r.IntN(4))), "of a test")
		return "CreateSecurityGroup", g, err
	}
	id := pick(c, c.m.DescribeSecurityGroups(), func(g vpc.SecurityGroup) string { return g.ID })
	g, err := c.m.AuthorizeSecurityGroupIngress(id, []vpc.SecurityGroupRule{{Protocol: vpc.AllProtocols, CIDR: everything}})
	return "AuthorizeSecurityGroupIngress", g, err
}

func (c *caller) modify() (string, any, error) {
	if c.r.IntN(2) == 0 {
		v, err := c.m.AssociateVPCCIDRBlock(c.vpc(), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(2 + c.r.IntN(3)), 0, 0}), 16))
		return "AssociateVPCCIDRBlock", v, err
	}
	return "ModifySubnetAttribute", nil, c.m.ModifySubnetAttribute(c.subnet(), c.r.IntN(2) == 0)
}

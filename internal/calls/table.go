// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/vpc"
)

// The parameters that several calls share.
type (
	none  struct{}
	vpcIn struct {
		VpcId string `required:"" help:"The VPC."`
	}
	subnetIn struct {
		SubnetId string `required:"" help:"The subnet."`
	}
	routeTableIn struct {
		RouteTableId string `required:"" help:"The route table."`
	}
	natGatewayIn struct {
		NatGatewayId string `required:"" help:"The NAT gateway."`
	}
	associationIn struct {
		AssociationId string `required:"" help:"The association."`
	}
	instancesIn struct {
		InstanceIds []string `required:"" help:"The instances: all of them, or none if one is refused."`
	}
	igwIn struct {
		InternetGatewayId string `required:"" help:"The internet gateway."`
	}
	igwAndVPCIn struct {
		InternetGatewayId string `required:"" help:"The internet gateway."`
		VpcId             string `required:"" help:"The VPC."`
	}
	vpcAndCIDRIn struct {
		VpcId     string       `required:"" help:"The VPC."`
		CidrBlock netip.Prefix `required:"" help:"The block, such as 10.1.0.0/16."`
	}
	routeIn struct {
		RouteTableId         string       `required:"" help:"The route table."`
		DestinationCidrBlock netip.Prefix `required:"" help:"The destination, such as 0.0.0.0/0."`
		GatewayId            string       `help:"The internet gateway it leads to."`
		NatGatewayId         string       `help:"The NAT gateway it leads to."`
		TransitGatewayId     string       `help:"The transit gateway it leads to."`
	}
)

// target is where a route leads.
func (in *routeIn) target() (string, error) {
	var target string
	for _, id := range []string{in.GatewayId, in.NatGatewayId, in.TransitGatewayId} {
		if id != "" && target != "" {
			return "", refuse(vpc.InvalidParameterCombination, "a route leads to %s or to %s", target, id)
		}
		target += id
	}
	if target == "" {
		return "", refuse(vpc.MissingParameter, "the request must have one of the parameters GatewayId, NatGatewayId and TransitGatewayId")
	}
	return target, nil
}

// Table is all calls.
var Table = slices.Concat(basicCalls, interfaceCalls, groupCalls, metricCalls)

var basicCalls = []Call{
	change("AllocateAddress", "Allocate an Elastic IP from the pool.", func(m *vpc.Model, now time.Time, _ *none) (any, error) {
		a, err := m.AllocateAddress(now)
		return struct {
			PublicIp             netip.Addr
			AllocationId, Domain string
		}{a.PublicIP, a.ID, "vpc"}, err
	}),
	change("ReleaseAddress", "Give an Elastic IP back.", func(m *vpc.Model, now time.Time, in *struct {
		AllocationId string `required:"" help:"The Elastic IP."`
	}) (any, error) {
		return nil, m.ReleaseAddress(now, in.AllocationId)
	}),
	change("AssociateAddress", "Map an Elastic IP to an instance or network interface.", func(m *vpc.Model, now time.Time, in *struct {
		AllocationId       string     `required:"" help:"The Elastic IP."`
		InstanceId         string     `help:"The instance, if it has one network interface."`
		NetworkInterfaceId string     `help:"The network interface."`
		PrivateIpAddress   netip.Addr `help:"The address of the interface that it is mapped to; the primary one if this is not said."`
		AllowReassociation *bool      `negatable:"" help:"Whether an address that is in use elsewhere may move; it may if this is not said."`
	}) (any, error) {
		a, err := m.AssociateAddress(now, vpc.AssociateAddressInput{
			AllocationID: in.AllocationId, InstanceID: in.InstanceId, NetworkInterfaceID: in.NetworkInterfaceId, PrivateIP: in.PrivateIpAddress,
			NoReassociation: in.AllowReassociation != nil && !*in.AllowReassociation,
		})
		return struct{ AssociationId string }{a.AssociationID}, err
	}),
	change("DisassociateAddress", "Take an Elastic IP from its instance.", func(m *vpc.Model, now time.Time, in *associationIn) (any, error) {
		return nil, m.DisassociateAddress(now, in.AssociationId)
	}),
	read("DescribeAddresses", "List Elastic IPs.", func(m *vpc.Model, in *struct {
		AllocationIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeAddresses(), in.AllocationIds, func(a vpc.Address) string { return a.ID }, vpc.AllocationNotFound, shapeAddress)
		return struct{ Addresses []addressShape }{all}, err
	}),

	change("CreateVpc", "Make a VPC, with a main route table.", func(m *vpc.Model, _ time.Time, in *struct {
		CidrBlock netip.Prefix `required:"" help:"Its addresses, such as 10.0.0.0/16."`
	}) (any, error) {
		v, err := m.CreateVPC(in.CidrBlock)
		if err != nil {
			return nil, err
		}
		return struct{ Vpc vpcShape }{shapeVPC(v)}, nil
	}),
	change("AssociateVpcCidrBlock", "Give a VPC further addresses.", func(m *vpc.Model, _ time.Time, in *vpcAndCIDRIn) (any, error) {
		v, err := m.AssociateVPCCIDRBlock(in.VpcId, in.CidrBlock)
		return struct {
			VpcId                string
			CidrBlockAssociation cidrShape
		}{v.ID, cidrShape{in.CidrBlock.Masked(), stateShape{associated}}}, err
	}),
	change("DisassociateVpcCidrBlock", "Take a block, not the primary one, from a VPC.", func(m *vpc.Model, _ time.Time, in *vpcAndCIDRIn) (any, error) {
		_, err := m.DisassociateVPCCIDRBlock(in.VpcId, in.CidrBlock)
		return nil, err
	}),
	change("DeleteVpc", "Delete an empty VPC.", func(m *vpc.Model, _ time.Time, in *vpcIn) (any, error) {
		return nil, m.DeleteVPC(in.VpcId)
	}),
	read("DescribeVpcs", "List VPCs.", func(m *vpc.Model, in *struct {
		VpcIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeVPCs(), in.VpcIds, func(v vpc.VPC) string { return v.ID }, vpc.VPCNotFound, shapeVPC)
		return struct{ Vpcs []vpcShape }{all}, err
	}),

	change("CreateSubnet", "Make a subnet.", func(m *vpc.Model, _ time.Time, in *struct {
		VpcId     string       `required:"" help:"The VPC."`
		CidrBlock netip.Prefix `required:"" help:"Its addresses, within those of the VPC."`
	}) (any, error) {
		s, err := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: in.VpcId, CIDR: in.CidrBlock})
		return struct{ Subnet subnetShape }{shapeSubnet(s)}, err
	}),
	change("ModifySubnetAttribute", "Say whether instances launched here are lent a public address.", func(m *vpc.Model, _ time.Time, in *struct {
		SubnetId            string `required:"" help:"The subnet."`
		MapPublicIpOnLaunch *bool  `required:"" negatable:"" help:"Whether instances that are launched from now on are lent a public address."`
	}) (any, error) {
		return nil, m.ModifySubnetAttribute(in.SubnetId, *in.MapPublicIpOnLaunch)
	}),
	change("DeleteSubnet", "Delete an empty subnet.", func(m *vpc.Model, _ time.Time, in *subnetIn) (any, error) {
		return nil, m.DeleteSubnet(in.SubnetId)
	}),
	read("DescribeSubnets", "List subnets.", func(m *vpc.Model, in *struct {
		SubnetIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeSubnets(), in.SubnetIds, func(s vpc.Subnet) string { return s.ID }, vpc.SubnetNotFound, shapeSubnet)
		return struct{ Subnets []subnetShape }{all}, err
	}),

	change("CreateRouteTable", "Make a route table.", func(m *vpc.Model, _ time.Time, in *vpcIn) (any, error) {
		t, err := m.CreateRouteTable(in.VpcId)
		return struct{ RouteTable routeTableShape }{shapeRouteTable(t)}, err
	}),
	change("DeleteRouteTable", "Delete a route table that no subnet uses.", func(m *vpc.Model, _ time.Time, in *routeTableIn) (any, error) {
		return nil, m.DeleteRouteTable(in.RouteTableId)
	}),
	change("CreateRoute", "Add a route to a gateway.", func(m *vpc.Model, _ time.Time, in *routeIn) (any, error) {
		target, err := in.target()
		if err != nil {
			return nil, err
		}
		return struct{ Return bool }{true}, m.CreateRoute(in.RouteTableId, in.DestinationCidrBlock, target)
	}),
	change("ReplaceRoute", "Give a route another target.", func(m *vpc.Model, _ time.Time, in *routeIn) (any, error) {
		target, err := in.target()
		if err != nil {
			return nil, err
		}
		return nil, m.ReplaceRoute(in.RouteTableId, in.DestinationCidrBlock, target)
	}),
	change("DeleteRoute", "Remove a route.", func(m *vpc.Model, _ time.Time, in *struct {
		RouteTableId         string       `required:"" help:"The route table."`
		DestinationCidrBlock netip.Prefix `required:"" help:"The destination of the route."`
	}) (any, error) {
		return nil, m.DeleteRoute(in.RouteTableId, in.DestinationCidrBlock)
	}),
	change("AssociateRouteTable", "Make a subnet use a route table.", func(m *vpc.Model, _ time.Time, in *struct {
		RouteTableId string `required:"" help:"The route table."`
		SubnetId     string `required:"" help:"The subnet."`
	}) (any, error) {
		a, err := m.AssociateRouteTable(in.RouteTableId, in.SubnetId)
		return struct {
			AssociationId    string
			AssociationState stateShape
		}{a.ID, stateShape{associated}}, err
	}),
	change("ReplaceRouteTableAssociation", "Move the subnet of an association to another route table.", func(m *vpc.Model, _ time.Time, in *struct {
		AssociationId string `required:"" help:"The association."`
		RouteTableId  string `required:"" help:"The route table."`
	}) (any, error) {
		a, err := m.ReplaceRouteTableAssociation(in.AssociationId, in.RouteTableId)
		return struct {
			NewAssociationId string
			AssociationState stateShape
		}{a.ID, stateShape{associated}}, err
	}),
	change("DisassociateRouteTable", "Make a subnet use the main route table again.", func(m *vpc.Model, _ time.Time, in *associationIn) (any, error) {
		return nil, m.DisassociateRouteTable(in.AssociationId)
	}),
	read("DescribeRouteTables", "List route tables.", func(m *vpc.Model, in *struct {
		RouteTableIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeRouteTables(), in.RouteTableIds, func(t vpc.RouteTable) string { return t.ID }, vpc.RouteTableNotFound, shapeRouteTable)
		return struct{ RouteTables []routeTableShape }{all}, err
	}),

	change("CreateInternetGateway", "Make an internet gateway.", func(m *vpc.Model, _ time.Time, _ *none) (any, error) {
		return struct{ InternetGateway internetGatewayShape }{shapeInternetGateway(m.CreateInternetGateway())}, nil
	}),
	change("AttachInternetGateway", "Attach an internet gateway to a VPC.", func(m *vpc.Model, _ time.Time, in *igwAndVPCIn) (any, error) {
		return nil, m.AttachInternetGateway(in.InternetGatewayId, in.VpcId)
	}),
	change("DetachInternetGateway", "Detach an internet gateway from its VPC.", func(m *vpc.Model, _ time.Time, in *igwAndVPCIn) (any, error) {
		return nil, m.DetachInternetGateway(in.InternetGatewayId, in.VpcId)
	}),
	change("DeleteInternetGateway", "Delete an internet gateway that is attached to nothing.", func(m *vpc.Model, _ time.Time, in *igwIn) (any, error) {
		return nil, m.DeleteInternetGateway(in.InternetGatewayId)
	}),
	read("DescribeInternetGateways", "List internet gateways.", func(m *vpc.Model, in *struct {
		InternetGatewayIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeInternetGateways(), in.InternetGatewayIds, func(g vpc.InternetGateway) string { return g.ID },
			vpc.InternetGatewayNotFound, shapeInternetGateway)
		return struct{ InternetGateways []internetGatewayShape }{all}, err
	}),

	change("CreateNatGateway", "Make a NAT gateway.", func(m *vpc.Model, _ time.Time, in *struct {
		SubnetId                    string       `required:"" help:"Where it stands: a subnet with a route to the internet gateway, or for a private one to a transit gateway."`
		ConnectivityType            string       `help:"public or private; public if this is not said."`
		AllocationId                string       `help:"The Elastic IP of a public one."`
		SecondaryAllocationIds      []string     `help:"Its further Elastic IPs."`
		PrivateIpAddress            netip.Addr   `help:"Its address in the subnet; the lowest free one if this is not said."`
		SecondaryPrivateIpAddresses []netip.Addr `help:"Its further addresses in the subnet."`
	}) (any, error) {
		g, err := m.CreateNATGateway(vpc.CreateNATGatewayInput{
			SubnetID: in.SubnetId, ConnectivityType: vpc.ConnectivityType(in.ConnectivityType), AllocationID: in.AllocationId,
			SecondaryAllocationIDs: in.SecondaryAllocationIds, PrivateIP: in.PrivateIpAddress, SecondaryPrivateIPs: in.SecondaryPrivateIpAddresses,
		})
		return struct{ NatGateway natGatewayShape }{shapeNATGateway(g)}, err
	}),
	change("DeleteNatGateway", "Delete a NAT gateway; its connections end.", func(m *vpc.Model, _ time.Time, in *natGatewayIn) (any, error) {
		return struct{ NatGatewayId string }{in.NatGatewayId}, m.DeleteNATGateway(in.NatGatewayId)
	}),
	read("DescribeNatGateways", "List NAT gateways.", func(m *vpc.Model, in *struct {
		NatGatewayIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeNATGateways(), in.NatGatewayIds, func(g vpc.NATGateway) string { return g.ID }, vpc.NATGatewayNotFound, shapeNATGateway)
		return struct{ NatGateways []natGatewayShape }{all}, err
	}),

	change("RunInstances", "Launch instances.", func(m *vpc.Model, now time.Time, in *struct {
		SubnetId         string     `required:"" help:"The subnet."`
		PrivateIpAddress netip.Addr `help:"The address of a single one; the lowest free one if this is not said."`
		SecurityGroupIds []string   `help:"Their security groups; the default one of the VPC if this is not said."`
		Count            int        `help:"How many: all of them, or none if one is refused; 1 if this is not said."`
	}) (any, error) {
		n := max(in.Count, 1)
		if n > 1 && in.PrivateIpAddress.IsValid() || in.Count < 0 {
			return nil, refuse(vpc.InvalidParameterValue, "Count is %d; it is 1 or more, and 1 with a PrivateIpAddress", in.Count)
		}
		var r reservationShape
		for range n {
			i, err := m.RunInstance(now, vpc.RunInstanceInput{SubnetID: in.SubnetId, PrivateIP: in.PrivateIpAddress, GroupIDs: in.SecurityGroupIds})
			if err != nil {
				return nil, err
			}
			r.Instances = append(r.Instances, shapeInstance(i))
		}
		return r, nil
	}),
	change("StartInstances", "Start stopped instances.", func(m *vpc.Model, now time.Time, in *instancesIn) (any, error) {
		all, err := changeStates(m, in, func(id string) (vpc.Instance, error) { return m.StartInstance(now, id) })
		return struct{ StartingInstances []stateChangeShape }{all}, err
	}),
	change("StopInstances", "Stop instances; lent addresses go back.", func(m *vpc.Model, now time.Time, in *instancesIn) (any, error) {
		all, err := changeStates(m, in, func(id string) (vpc.Instance, error) { return m.StopInstance(now, id) })
		return struct{ StoppingInstances []stateChangeShape }{all}, err
	}),
	change("RebootInstances", "Reboot running instances, which changes nothing for the edge.", func(m *vpc.Model, _ time.Time, in *instancesIn) (any, error) {
		_, err := changeStates(m, in, m.RebootInstance)
		return nil, err
	}),
	change("TerminateInstances", "End instances for good.", func(m *vpc.Model, now time.Time, in *instancesIn) (any, error) {
		all, err := changeStates(m, in, func(id string) (vpc.Instance, error) { return m.TerminateInstance(now, id) })
		return struct{ TerminatingInstances []stateChangeShape }{all}, err
	}),
	read("DescribeInstances", "List instances; terminated ones for an hour.", func(m *vpc.Model, in *struct {
		InstanceIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeInstances(), in.InstanceIds, func(i vpc.Instance) string { return i.ID }, vpc.InstanceNotFound,
			func(i vpc.Instance) reservationShape { return reservationShape{[]instanceShape{shapeInstance(i)}} })
		return struct{ Reservations []reservationShape }{all}, err
	}),
}

// changeStates makes a call of each instance, and says what became of it.
func changeStates(m *vpc.Model, in *instancesIn, call func(id string) (vpc.Instance, error)) ([]stateChangeShape, error) {
	var out []stateChangeShape
	for _, id := range in.InstanceIds {
		before, err := m.Instance(id)
		if err != nil {
			return nil, err
		}
		after, err := call(id)
		if err != nil {
			return nil, err
		}
		out = append(out, stateChangeShape{id, shapeState(after.State), shapeState(before.State)})
	}
	return out, nil
}

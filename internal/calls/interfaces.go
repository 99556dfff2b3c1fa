// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/vpc"
)

type (
	interfaceIn struct {
		NetworkInterfaceId string `required:"" help:"The network interface."`
	}
	attachmentIn struct {
		AttachmentId string `required:"" help:"The attachment."`
	}
	transitIn struct {
		TransitGatewayId string `required:"" help:"The transit gateway."`
	}
	transitVPCIn struct {
		TransitGatewayAttachmentId string `required:"" help:"The attachment."`
	}
)

// interfaceCalls are about network interfaces, and the further addresses of those and of NAT gateways; and about transit
// gateways.
var interfaceCalls = []Call{
	change("CreateNetworkInterface", "Make a network interface.", func(m *vpc.Model, _ time.Time, in *struct {
		SubnetId                       string       `required:"" help:"The subnet."`
		PrivateIpAddresses             []netip.Addr `help:"Its addresses, the first of them the primary; the lowest free one if this is not said."`
		SecondaryPrivateIpAddressCount int          `help:"How many more addresses it gets."`
		Groups                         []string     `help:"Its security groups; the default one of the VPC if this is not said."`
	}) (any, error) {
		n, err := m.CreateNetworkInterface(vpc.CreateNetworkInterfaceInput{
			SubnetID: in.SubnetId, PrivateIPs: in.PrivateIpAddresses, SecondaryCount: in.SecondaryPrivateIpAddressCount, GroupIDs: in.Groups,
		})
		if err != nil {
			return nil, err
		}
		return struct{ NetworkInterface interfaceShape }{shapeInterface(n)}, nil
	}),
	change("DeleteNetworkInterface", "Delete a network interface that is not attached.", func(m *vpc.Model, _ time.Time, in *interfaceIn) (any, error) {
		return nil, m.DeleteNetworkInterface(in.NetworkInterfaceId)
	}),
	change("AttachNetworkInterface", "Attach a network interface to an instance.", func(m *vpc.Model, _ time.Time, in *struct {
		NetworkInterfaceId string `required:"" help:"The network interface."`
		InstanceId         string `required:"" help:"The instance."`
		DeviceIndex        int    `required:"" help:"Its place there, from 1 on."`
	}) (any, error) {
		n, err := m.AttachNetworkInterface(vpc.AttachNetworkInterfaceInput{
			NetworkInterfaceID: in.NetworkInterfaceId, InstanceID: in.InstanceId, DeviceIndex: in.DeviceIndex,
		})
		return struct{ AttachmentId string }{n.AttachmentID}, err
	}),
	change("DetachNetworkInterface", "Take a network interface from its instance.", func(m *vpc.Model, _ time.Time, in *attachmentIn) (any, error) {
		return nil, m.DetachNetworkInterface(in.AttachmentId)
	}),
	change("AssignPrivateIpAddresses", "Give a network interface secondary addresses.", func(m *vpc.Model, _ time.Time, in *struct {
		NetworkInterfaceId             string       `required:"" help:"The network interface."`
		PrivateIpAddresses             []netip.Addr `help:"These addresses."`
		SecondaryPrivateIpAddressCount int          `help:"So many of the lowest free ones."`
	}) (any, error) {
		_, err := m.AssignPrivateIPAddresses(in.NetworkInterfaceId, in.PrivateIpAddresses, in.SecondaryPrivateIpAddressCount)
		return nil, err
	}),
	change("UnassignPrivateIpAddresses", "Take secondary addresses from a network interface.", func(m *vpc.Model, _ time.Time, in *struct {
		NetworkInterfaceId string       `required:"" help:"The network interface."`
		PrivateIpAddresses []netip.Addr `required:"" help:"The addresses."`
	}) (any, error) {
		return nil, m.UnassignPrivateIPAddresses(in.NetworkInterfaceId, in.PrivateIpAddresses)
	}),
	change("ModifyNetworkInterfaceAttribute", "Put a network interface in other security groups.", func(m *vpc.Model, _ time.Time, in *struct {
		NetworkInterfaceId string   `required:"" help:"The network interface."`
		Groups             []string `required:"" help:"All its security groups."`
	}) (any, error) {
		return nil, m.ModifyNetworkInterfaceAttribute(in.NetworkInterfaceId, in.Groups)
	}),
	read("DescribeNetworkInterfaces", "List network interfaces.", func(m *vpc.Model, in *struct {
		NetworkInterfaceIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeNetworkInterfaces(), in.NetworkInterfaceIds, func(n vpc.NetworkInterface) string { return n.ID },
			vpc.InterfaceNotFound, shapeInterface)
		return struct{ NetworkInterfaces []interfaceShape }{all}, err
	}),

	change("AssociateNatGatewayAddress", "Give a public NAT gateway further Elastic IPs.", func(m *vpc.Model, _ time.Time, in *struct {
		NatGatewayId       string       `required:"" help:"The NAT gateway."`
		AllocationIds      []string     `required:"" help:"The Elastic IPs."`
		PrivateIpAddresses []netip.Addr `help:"The addresses in the subnet that go with them."`
	}) (any, error) {
		g, err := m.AssociateNATGatewayAddress(in.NatGatewayId, in.AllocationIds, in.PrivateIpAddresses)
		return natAddressesOf(g), err
	}),
	change("DisassociateNatGatewayAddress", "Take secondary Elastic IPs from a public NAT gateway.", func(m *vpc.Model, now time.Time, in *struct {
		NatGatewayId            string   `required:"" help:"The NAT gateway."`
		AssociationIds          []string `required:"" help:"The associations."`
		MaxDrainDurationSeconds int      `help:"How long connections may go on; 350 if this is not said."`
	}) (any, error) {
		g, err := m.DisassociateNATGatewayAddress(now, in.NatGatewayId, in.AssociationIds, time.Duration(in.MaxDrainDurationSeconds)*time.Second)
		return natAddressesOf(g), err
	}),
	change("AssignPrivateNatGatewayAddress", "Give a private NAT gateway further addresses.", func(m *vpc.Model, _ time.Time, in *struct {
		NatGatewayId          string       `required:"" help:"The NAT gateway."`
		PrivateIpAddresses    []netip.Addr `help:"These addresses."`
		PrivateIpAddressCount int          `help:"So many of the lowest free ones."`
	}) (any, error) {
		if n := in.PrivateIpAddressCount; n < 0 || n > 8 {
			return nil, refuse(vpc.InvalidParameterValue, "PrivateIpAddressCount is %d; a NAT gateway has 8 addresses at most", n)
		}
		g, err := m.AssignPrivateNATGatewayAddress(in.NatGatewayId, append(in.PrivateIpAddresses, make([]netip.Addr, in.PrivateIpAddressCount)...))
		return natAddressesOf(g), err
	}),
	change("UnassignPrivateNatGatewayAddress", "Take secondary addresses from a private NAT gateway.", func(m *vpc.Model, now time.Time, in *struct {
		NatGatewayId            string       `required:"" help:"The NAT gateway."`
		PrivateIpAddresses      []netip.Addr `required:"" help:"The addresses."`
		MaxDrainDurationSeconds int          `help:"How long connections may go on; 350 if this is not said."`
	}) (any, error) {
		g, err := m.UnassignPrivateNATGatewayAddress(now, in.NatGatewayId, in.PrivateIpAddresses, time.Duration(in.MaxDrainDurationSeconds)*time.Second)
		return natAddressesOf(g), err
	}),

	change("CreateTransitGateway", "Make a transit gateway.", func(m *vpc.Model, _ time.Time, _ *none) (any, error) {
		return struct{ TransitGateway transitShape }{shapeTransit(m.CreateTransitGateway())}, nil
	}),
	change("DeleteTransitGateway", "Delete a transit gateway that no VPC is attached to.", func(m *vpc.Model, _ time.Time, in *transitIn) (any, error) {
		return nil, m.DeleteTransitGateway(in.TransitGatewayId)
	}),
	read("DescribeTransitGateways", "List transit gateways.", func(m *vpc.Model, in *struct {
		TransitGatewayIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeTransitGateways(), in.TransitGatewayIds, func(g vpc.TransitGateway) string { return g.ID },
			vpc.TransitGatewayNotFound, shapeTransit)
		return struct{ TransitGateways []transitShape }{all}, err
	}),
	change("CreateTransitGatewayVpcAttachment", "Attach a VPC to a transit gateway.", func(m *vpc.Model, _ time.Time, in *struct {
		TransitGatewayId string `required:"" help:"The transit gateway."`
		VpcId            string `required:"" help:"The VPC."`
	}) (any, error) {
		a, err := m.CreateTransitGatewayVPCAttachment(in.TransitGatewayId, in.VpcId)
		return struct{ TransitGatewayVpcAttachment transitVPCShape }{shapeTransitVPC(a)}, err
	}),
	change("DeleteTransitGatewayVpcAttachment", "Take a VPC from a transit gateway.", func(m *vpc.Model, _ time.Time, in *transitVPCIn) (any, error) {
		return nil, m.DeleteTransitGatewayVPCAttachment(in.TransitGatewayAttachmentId)
	}),
	read("DescribeTransitGatewayVpcAttachments", "List the VPCs that are attached to transit gateways.", func(m *vpc.Model, in *struct {
		TransitGatewayAttachmentIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeTransitGatewayVPCAttachments(), in.TransitGatewayAttachmentIds,
			func(a vpc.TransitGatewayVPCAttachment) string { return a.ID }, vpc.TransitAttachmentNotFound, shapeTransitVPC)
		return struct{ TransitGatewayVpcAttachments []transitVPCShape }{all}, err
	}),
}

type interfaceShape struct {
	NetworkInterfaceId, VpcId, SubnetId, Status string
	PrivateIpAddress                            netip.Addr
	PrivateIpAddresses                          []interfaceAddressShape
	Groups                                      []groupNameShape
	Attachment                                  *interfaceAttachmentShape `json:",omitempty"`
}

type groupNameShape struct{ GroupId string }

type interfaceAddressShape struct {
	PrivateIpAddress netip.Addr
	Primary          bool
	Association      *interfaceAssociationShape `json:",omitempty"`
}

type interfaceAssociationShape struct {
	PublicIp      netip.Addr
	AllocationId  string `json:",omitempty"`
	AssociationId string `json:",omitempty"`
}

type interfaceAttachmentShape struct {
	AttachmentId, InstanceId string
	DeviceIndex              int
	Status                   string
}

func shapeInterface(n vpc.NetworkInterface) interfaceShape {
	s := interfaceShape{NetworkInterfaceId: n.ID, VpcId: n.VPCID, SubnetId: n.SubnetID, Status: available, PrivateIpAddress: n.Addresses[0].PrivateIP}
	for i, a := range n.Addresses {
		shape := interfaceAddressShape{PrivateIpAddress: a.PrivateIP, Primary: i == 0}
		if a.PublicIP.IsValid() {
			shape.Association = &interfaceAssociationShape{a.PublicIP, a.AllocationID, a.AssociationID}
		}
		s.PrivateIpAddresses = append(s.PrivateIpAddresses, shape)
	}
	for _, g := range n.GroupIDs {
		s.Groups = append(s.Groups, groupNameShape{g})
	}
	if n.InstanceID != "" {
		s.Status, s.Attachment = "in-use", &interfaceAttachmentShape{n.AttachmentID, n.InstanceID, n.DeviceIndex, "attached"}
	}
	return s
}

type natAddressesShape struct {
	NatGatewayId        string
	NatGatewayAddresses []natGatewayAddressShape
}

func natAddressesOf(g vpc.NATGateway) natAddressesShape {
	return natAddressesShape{g.ID, shapeNATGateway(g).NatGatewayAddresses}
}

type transitShape struct{ TransitGatewayId, State string }

func shapeTransit(g vpc.TransitGateway) transitShape { return transitShape{g.ID, available} }

type transitVPCShape struct{ TransitGatewayAttachmentId, TransitGatewayId, VpcId, State string }

func shapeTransitVPC(a vpc.TransitGatewayVPCAttachment) transitVPCShape {
	return transitVPCShape{a.ID, a.TransitGatewayID, a.VPCID, available}
}

// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tidegate/tidegate/vpc"
)

// What follows are the shapes of answers: those keys of the EC2 API that mean something here.

type addressShape struct {
	PublicIp           netip.Addr
	AllocationId       string
	AssociationId      string `json:",omitempty"`
	Domain             string
	InstanceId         string     `json:",omitempty"`
	NetworkInterfaceId string     `json:",omitempty"`
	PrivateIpAddress   netip.Addr `json:",omitzero"`
}

func shapeAddress(a vpc.Address) addressShape {
	return addressShape{a.PublicIP, a.ID, a.AssociationID, "vpc", a.InstanceID, a.NetworkInterfaceID, a.PrivateIP}
}

type stateShape struct{ State string }

type cidrShape struct {
	CidrBlock      netip.Prefix
	CidrBlockState stateShape
}

type vpcShape struct {
	VpcId                   string
	State                   string
	CidrBlock               netip.Prefix
	CidrBlockAssociationSet []cidrShape
	IsDefault               bool
}

func shapeVPC(v vpc.VPC) vpcShape {
	s := vpcShape{VpcId: v.ID, State: available, CidrBlock: v.CIDRs[0]}
	for _, c := range v.CIDRs {
		s.CidrBlockAssociationSet = append(s.CidrBlockAssociationSet, cidrShape{c, stateShape{associated}})
	}
	return s
}

const available, associated = "available", "associated"

type subnetShape struct {
	SubnetId, VpcId, State string
	CidrBlock              netip.Prefix
	MapPublicIpOnLaunch    bool
}

func shapeSubnet(s vpc.Subnet) subnetShape {
	return subnetShape{s.ID, s.VPCID, available, s.CIDR, s.MapPublicIPOnLaunch}
}

type routeTableShape struct {
	RouteTableId, VpcId string
	Associations        []associationShape
	Routes              []routeShape
}

type associationShape struct {
	Main                    bool
	RouteTableAssociationId string
	RouteTableId            string
	SubnetId                string `json:",omitempty"`
	AssociationState        stateShape
}

type routeShape struct {
	DestinationCidrBlock netip.Prefix
	GatewayId            string `json:",omitempty"`
	NatGatewayId         string `json:",omitempty"`
	TransitGatewayId     string `json:",omitempty"`
	Origin, State        string
}

func shapeRouteTable(t vpc.RouteTable) routeTableShape {
	s := routeTableShape{RouteTableId: t.ID, VpcId: t.VPCID, Associations: []associationShape{}}
	for _, a := range t.Associations {
		s.Associations = append(s.Associations, associationShape{
			Main: a.Main, RouteTableAssociationId: a.ID, RouteTableId: t.ID, SubnetId: a.SubnetID, AssociationState: stateShape{associated},
		})
	}
	for _, r := range t.Routes {
		route := routeShape{DestinationCidrBlock: r.Destination, Origin: "CreateRoute", State: string(r.State)}
		switch {
		case r.Target == vpc.Local:
			route.GatewayId, route.Origin = r.Target, "CreateRouteTable"
		case strings.HasPrefix(r.Target, "nat-"):
			route.NatGatewayId = r.Target
		case strings.HasPrefix(r.Target, "tgw-"):
			route.TransitGatewayId = r.Target
		default:
			route.GatewayId = r.Target
		}
		s.Routes = append(s.Routes, route)
	}
	return s
}

type internetGatewayShape struct {
	InternetGatewayId string
	Attachments       []attachmentShape
}

type attachmentShape struct{ State, VpcId string }

func shapeInternetGateway(g vpc.InternetGateway) internetGatewayShape {
	s := internetGatewayShape{InternetGatewayId: g.ID, Attachments: []attachmentShape{}}
	if g.VPCID != "" {
		s.Attachments = append(s.Attachments, attachmentShape{available, g.VPCID})
	}
	return s
}

type natGatewayShape struct {
	NatGatewayId, VpcId, SubnetId, State, ConnectivityType string
	NatGatewayAddresses                                    []natGatewayAddressShape
}

type natGatewayAddressShape struct {
	AllocationId  string     `json:",omitempty"`
	AssociationId string     `json:",omitempty"`
	PublicIp      netip.Addr `json:",omitzero"`
	PrivateIp     netip.Addr
	IsPrimary     bool
	Status        string
	// DrainsUntil is when connections through an address that is being taken away end. (EC2 does not say.)
	DrainsUntil time.Time `json:",omitzero"`
}

func shapeNATGateway(g vpc.NATGateway) natGatewayShape {
	s := natGatewayShape{NatGatewayId: g.ID, VpcId: g.VPCID, SubnetId: g.SubnetID, State: available, ConnectivityType: string(g.ConnectivityType)}
	for i, a := range g.Addresses {
		status := "succeeded"
		switch {
		case a.Draining() && g.ConnectivityType == vpc.PublicNAT:
			status = "disassociating"
		case a.Draining():
			status = "unassigning"
		}
		s.NatGatewayAddresses = append(s.NatGatewayAddresses, natGatewayAddressShape{
			a.AllocationID, a.AssociationID, a.PublicIP, a.PrivateIP, i == 0, status, a.DrainsUntil,
		})
	}
	return s
}

type instanceStateShape struct {
	Code int
	Name string
}

// shapeState is the state with the number that EC2 has for it.
func shapeState(s vpc.InstanceState) instanceStateShape {
	return instanceStateShape{map[vpc.InstanceState]int{vpc.Running: 16, vpc.Terminated: 48, vpc.Stopped: 80}[s], string(s)}
}

type instanceShape struct {
	InstanceId       string
	State            instanceStateShape
	PrivateIpAddress netip.Addr `json:",omitzero"`
	PublicIpAddress  netip.Addr `json:",omitzero"`
	SubnetId, VpcId  string
	// StateTransitionTime is since when it is in that state. (EC2 has it as text in StateTransitionReason.)
	StateTransitionTime time.Time
}

func shapeInstance(i vpc.Instance) instanceShape {
	return instanceShape{i.ID, shapeState(i.State), i.PrivateIP, i.PublicIP, i.SubnetID, i.VPCID, i.Since}
}

type reservationShape struct{ Instances []instanceShape }

type stateChangeShape struct {
	InstanceId                  string
	CurrentState, PreviousState instanceStateShape
}

// SPDX-License-Identifier: Apache-2.0

package story

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// Network is the VPC of the story: a model, and the ids of what it has in it. It is for one goroutine.
type Network struct {
	model        *vpc.Model
	vpc          string
	publicSubnet string
	privateTable string
	instances    map[string]string // host name to id
	elastic      map[string]string // host name to association id, while there is one
	allocations  map[string]string // host name to allocation id
}

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// NewNetwork builds the VPC as the story finds it: two subnets, both routed to the internet gateway, two hosts in each,
// and public addresses lent in one of them only.
func NewNetwork() (*Network, error) {
	m, err := vpc.New(vpc.Config{PublicPool: []netip.Prefix{publicPool}, InsideMTU: linkMTU, OutsideMTU: linkMTU})
	if err != nil {
		return nil, err
	}
	v, err := m.CreateVPC(vpcPrefix)
	if err != nil {
		return nil, err
	}
	n := &Network{model: m, vpc: v.ID, instances: map[string]string{}, elastic: map[string]string{}, allocations: map[string]string{}}
	igw := m.CreateInternetGateway()
	if err := m.AttachInternetGateway(igw.ID, v.ID); err != nil {
		return nil, err
	}
	if err := m.CreateRoute(v.MainRouteTableID, everywhere, igw.ID); err != nil {
		return nil, err
	}
	subnets := map[netip.Prefix]string{}
	for _, cidr := range []netip.Prefix{publicSubnet, privateSubnet} {
		s, err := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: cidr, MapPublicIPOnLaunch: cidr == publicSubnet})
		if err != nil {
			return nil, err
		}
		subnets[cidr] = s.ID
	}
	n.publicSubnet = subnets[publicSubnet]
	// The private subnet has a table of its own, which is what a NAT gateway changes later.
	t, err := m.CreateRouteTable(v.ID)
	if err != nil {
		return nil, err
	}
	n.privateTable = t.ID
	if _, err := m.AssociateRouteTable(t.ID, subnets[privateSubnet]); err != nil {
		return nil, err
	}
	if err := m.CreateRoute(t.ID, everywhere, igw.ID); err != nil {
		return nil, err
	}
	// What the edge lets in is the story's subject: the hosts themselves refuse nobody.
	open, err := m.CreateSecurityGroup(v.ID, "open", "whoever can reach a host")
	if err != nil {
		return nil, err
	}
	if _, err := m.AuthorizeSecurityGroupIngress(open.ID, []vpc.SecurityGroupRule{{Protocol: vpc.AllProtocols, CIDR: everywhere}}); err != nil {
		return nil, err
	}
	for _, h := range insideHosts {
		i, err := m.RunInstance(time.Now(), vpc.RunInstanceInput{SubnetID: subnets[h.subnet], PrivateIP: h.addr, GroupIDs: []string{open.ID}})
		if err != nil {
			return nil, err
		}
		n.instances[h.name] = i.ID
	}
	return n, nil
}

// Policy is the present state of the model for the engine.
func (n *Network) Policy() (*nat.Policy, error) { return n.model.Policy(n.vpc) }

// Attachment is where the packets of an inside host enter the engine.
func (n *Network) Attachment(host string) nat.AttachmentID { return n.instance(host).Attachment }

func (n *Network) instance(host string) vpc.Instance {
	i, err := n.model.Instance(n.instances[host])
	if err != nil {
		panic(fmt.Sprintf("story: %s: %v", host, err)) // the story makes its instances once and keeps them
	}
	return i
}

// public is the public address of a host, or one that is not valid.
func (n *Network) public(host string) netip.Addr { return n.instance(host).PublicIP }

// associate gives a host an Elastic IP, which is allocated the first time.
func (n *Network) associate(host string) (netip.Addr, error) {
	id, ok := n.allocations[host]
	if !ok {
		a, err := n.model.AllocateAddress(time.Now())
		if err != nil {
			return netip.Addr{}, err
		}
		id = a.ID
		n.allocations[host] = id
	}
	a, err := n.model.AssociateAddress(time.Now(), vpc.AssociateAddressInput{AllocationID: id, InstanceID: n.instances[host]})
	if err != nil {
		return netip.Addr{}, err
	}
	n.elastic[host] = a.AssociationID
	return a.PublicIP, nil
}

// disassociate takes a host's Elastic IP from it.
func (n *Network) disassociate(host string) error {
	return n.model.DisassociateAddress(time.Now(), n.elastic[host])
}

// natGateway puts a NAT gateway in the public subnet, and routes the private one to it.
func (n *Network) natGateway() (vpc.NATGatewayAddress, error) {
	a, err := n.model.AllocateAddress(time.Now())
	if err != nil {
		return vpc.NATGatewayAddress{}, err
	}
	g, err := n.model.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: n.publicSubnet, AllocationID: a.ID})
	if err != nil {
		return vpc.NATGatewayAddress{}, err
	}
	return g.Addresses[0], n.model.ReplaceRoute(n.privateTable, everywhere, g.ID)
}

func (n *Network) stop(host string) error {
	_, err := n.model.StopInstance(time.Now(), n.instances[host])
	return err
}

func (n *Network) start(host string) error {
	_, err := n.model.StartInstance(time.Now(), n.instances[host])
	return err
}

// owner says who has a public address: a host, or nobody.
func (n *Network) owner(public netip.Addr) string {
	for _, h := range insideHosts {
		if n.public(h.name) == public {
			return h.name
		}
	}
	return "nobody"
}

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
)

// Check walks the whole model and names every invariant that does not hold. It is for tests, and for whoever loads a
// model from somewhere; calls of the model cannot break one.
func (m *Model) Check() error {
	c := newChecker(m)
	for _, ip := range m.pool.all() {
		c.own(ip, "idle")
	}
	c.instances()
	c.interfaces()
	c.addresses()
	c.natGateways()
	if size := sizeOf(m.cfg.PublicPool); len(c.public) != size {
		c.fault("%d public addresses have an owner, of %d", len(c.public), size)
	}
	c.faults = append(c.faults, same("private address", m.private, c.private), same("attachment", m.attachments, c.attachments))
	c.tables()
	c.groups()
	for a := range m.transitVPCs.all() {
		if m.transits.byID[a.TransitGatewayID].ID == "" || m.vpcs.byID[a.VPCID].ID == "" {
			c.fault("%s attaches what does not exist: %+v", a.ID, a)
		}
	}
	return errors.Join(c.faults...)
}

// checker collects faults, and the books as the objects make them.
type checker struct {
	m           *Model
	faults      []error
	public      map[netip.Addr]string // each address of the pool has exactly one owner
	private     map[privateKey]string
	attachments map[nat.AttachmentID]string
}

func newChecker(m *Model) *checker {
	return &checker{m: m, public: map[netip.Addr]string{}, private: map[privateKey]string{}, attachments: map[nat.AttachmentID]string{}}
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf("vpc: "+format, args...))
}

func (c *checker) own(ip netip.Addr, who string) {
	if other, ok := c.public[ip]; ok {
		c.fault("%v is %s and %s", ip, other, who)
	}
	c.public[ip] = who
}

// book notes that a private address belongs to somebody in a subnet.
func (c *checker) book(subnetID, vpcID string, ip netip.Addr, who string) {
	if s := c.m.subnets.byID[subnetID]; s.VPCID != vpcID || !s.CIDR.Contains(ip) {
		c.fault("%s (%v) is not in its subnet %s", who, ip, subnetID)
	}
	if other, ok := c.private[privateKey{vpcID, ip}]; ok {
		c.fault("%v belongs to %s and %s", ip, other, who)
	}
	c.private[privateKey{vpcID, ip}] = who
}

func (c *checker) instances() {
	for i := range c.m.instances.all() {
		n, ok := c.m.interfaces.byID[i.NetworkInterfaceID]
		switch {
		case i.State == Terminated && i.NetworkInterfaceID != "":
			c.fault("%s is terminated and has a network interface", i.ID)
		case i.State == Terminated:
		case !ok || n.InstanceID != i.ID || n.DeviceIndex != 0 || n.SubnetID != i.SubnetID:
			c.fault("the primary network interface of %s is %q, which says %+v", i.ID, i.NetworkInterfaceID, n)
		}
		if i.PrivateIP.IsValid() || i.PublicIP.IsValid() || i.AllocationID != "" || i.Attachment != 0 {
			c.fault("%s stores what its network interface says", i.ID)
		}
	}
}

func (c *checker) interfaces() {
	type place struct {
		instance string
		index    int
	}
	places := map[place]string{}
	for n := range c.m.interfaces.all() {
		i, attached := c.m.instances.byID[n.InstanceID]
		if attached != (n.AttachmentID != "") || attached != (n.InstanceID != "") || !attached && n.DeviceIndex != 0 {
			c.fault("%s has a contradicting attachment: %+v", n.ID, n)
		}
		if attached {
			at := place{i.ID, n.DeviceIndex}
			if other := places[at]; other != "" || i.State == Terminated || i.VPCID != n.VPCID || n.DeviceIndex == 0 && i.NetworkInterfaceID != n.ID {
				c.fault("%s is at place %d of %s, which is not free for it", n.ID, n.DeviceIndex, i.ID)
			}
			places[at] = n.ID
		}
		for k, a := range n.Addresses {
			c.book(n.SubnetID, n.VPCID, a.PrivateIP, n.ID)
			if a.AllocationID != "" || a.AssociationID != "" || a.PublicIP.IsValid() && k > 0 {
				c.fault("%s stores what an Elastic IP says", n.ID)
			}
		}
		if ip := n.lent(); ip.IsValid() {
			c.own(ip, "lent to "+n.ID)
			if i.State != Running || !i.AutoAssign || n.DeviceIndex != 0 {
				c.fault("%v is lent to %s, whose instance is %s", ip, n.ID, i.State)
			}
		}
		if len(n.GroupIDs) == 0 {
			c.fault("%s has no security group", n.ID)
		}
		for _, id := range n.GroupIDs {
			if c.m.groups.byID[id].VPCID != n.VPCID {
				c.fault("%s is in %s, which is not in its VPC", n.ID, id)
			}
		}
		c.attachments[n.Attachment] = n.ID
	}
}

func (c *checker) addresses() {
	at := map[interfaceIP]string{}
	for a := range c.m.addresses.all() {
		c.own(a.PublicIP, "allocated as "+a.ID)
		if (a.AssociationID != "") != (a.owner() != "") || a.NetworkInterfaceID != "" && a.NATGatewayID != "" || a.InstanceID != "" {
			c.fault("%s has a contradicting association: %+v", a.ID, a)
		}
		if a.NetworkInterfaceID != "" {
			n, place := c.m.interfaces.byID[a.NetworkInterfaceID], interfaceIP{a.NetworkInterfaceID, a.PrivateIP}
			i := n.place(a.PrivateIP)
			if i < 0 || at[place] != "" || i == 0 && n.lent().IsValid() {
				c.fault("%s is on %s at %v, which is not free for it", a.ID, a.NetworkInterfaceID, a.PrivateIP)
			}
			at[place] = a.ID
		}
		if g, ok := c.m.natGateways.byID[a.NATGatewayID]; a.NATGatewayID != "" {
			if !ok || !slices.ContainsFunc(g.Addresses, func(ga NATGatewayAddress) bool { return ga.AllocationID == a.ID }) {
				c.fault("%s is on %s, which does not exist or does not say so", a.ID, a.NATGatewayID)
			}
		}
	}
}

func (c *checker) natGateways() {
	for g := range c.m.natGateways.all() {
		if len(g.Addresses) == 0 || len(g.Addresses) > maxNATAddresses || g.Addresses[0].Draining() {
			c.fault("%s has %d addresses, or drains the first", g.ID, len(g.Addresses))
		}
		for _, ga := range g.Addresses {
			c.book(g.SubnetID, g.VPCID, ga.PrivateIP, g.ID)
			if g.ConnectivityType == PrivateNAT {
				if ga.AllocationID != "" || ga.AssociationID != "" || ga.PublicIP.IsValid() {
					c.fault("%s is private and has %+v", g.ID, ga)
				}
				continue
			}
			a := c.m.addresses.byID[ga.AllocationID]
			if a.NATGatewayID != g.ID || a.PublicIP != ga.PublicIP || a.PrivateIP != ga.PrivateIP || a.AssociationID != ga.AssociationID {
				c.fault("%s has %s, which says %+v", g.ID, ga.AllocationID, a)
			}
		}
	}
}

func (c *checker) tables() {
	for v := range c.m.vpcs.all() {
		if t := c.m.tables.byID[v.MainRouteTableID]; t.VPCID != v.ID || v.MainAssociationID == "" {
			c.fault("%s has the main route table %q, which says %+v", v.ID, v.MainRouteTableID, t)
		}
	}
	seen := map[string]bool{}
	for t := range c.m.tables.all() {
		if _, ok := c.m.vpcs.byID[t.VPCID]; !ok || t.Main {
			c.fault("%s does not fit its VPC %s", t.ID, t.VPCID)
		}
		for _, a := range t.Associations {
			if seen[a.SubnetID] || a.Main || c.m.subnets.byID[a.SubnetID].VPCID != t.VPCID {
				c.fault("%s associates %s, which is not free for it", t.ID, a.SubnetID)
			}
			seen[a.SubnetID] = true
		}
	}
}

func (c *checker) groups() {
	for v := range c.m.vpcs.all() {
		if c.m.groups.byID[v.DefaultGroupID].VPCID != v.ID {
			c.fault("%s has the default group %q, which is not in it", v.ID, v.DefaultGroupID)
		}
	}
	names := map[[2]string]bool{}
	for g := range c.m.groups.all() {
		if _, ok := c.m.vpcs.byID[g.VPCID]; !ok || names[[2]string{g.VPCID, g.Name}] {
			c.fault("%s (%s) does not fit its VPC %s", g.ID, g.Name, g.VPCID)
		}
		names[[2]string{g.VPCID, g.Name}] = true
		for _, r := range slices.Concat(g.Ingress, g.Egress) {
			if r.GroupID != "" && c.m.groups.byID[r.GroupID].VPCID != g.VPCID {
				c.fault("a rule of %s names %s, which is not in its VPC", g.ID, r.GroupID)
			}
		}
	}
}

// same compares a book of the model with the one that its objects make.
func same[K comparable](what string, have, want map[K]string) error {
	for k, v := range have {
		if want[k] != v {
			return fmt.Errorf("vpc: %s %v is booked for %s, and %q has it", what, k, v, want[k])
		}
	}
	if len(have) != len(want) {
		return fmt.Errorf("vpc: %d of kind %s are booked, and %d are in use", len(have), what, len(want))
	}
	return nil
}

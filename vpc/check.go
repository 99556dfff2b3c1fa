// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/tidegate/tidegate/nat"
)

// Check walks the whole model and names every invariant that does not hold. It is for tests, and for whoever loads a
// model from somewhere; calls of the model cannot break one.
func (m *Model) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("vpc: "+format, args...)) }

	public := map[netip.Addr]string{} // each address of the pool has exactly one owner
	own := func(ip netip.Addr, who string) {
		if other, ok := public[ip]; ok {
			fault("%v is %s and %s", ip, other, who)
		}
		public[ip] = who
	}
	for _, a := range m.pool.idle {
		own(a.ip, "idle")
	}
	private := map[privateKey]string{}
	attachments := map[nat.AttachmentID]string{}
	for i := range m.instances.all() {
		switch {
		case i.State == Terminated && (i.PublicIP.IsValid() || i.PrivateIP.IsValid()):
			fault("%s is terminated and has an address", i.ID)
		case i.State == Terminated:
			continue
		case i.AllocationID != "":
			a := m.addresses.byID[i.AllocationID]
			if a.InstanceID != i.ID || a.PublicIP != i.PublicIP || a.PrivateIP != i.PrivateIP {
				fault("%s has %s, which says %+v", i.ID, i.AllocationID, a)
			}
		case i.PublicIP.IsValid():
			own(i.PublicIP, "lent to "+i.ID)
			if i.State != Running || !i.AutoAssign {
				fault("%v is lent to %s, which is %s", i.PublicIP, i.ID, i.State)
			}
		}
		if s := m.subnets.byID[i.SubnetID]; s.VPCID != i.VPCID || !s.CIDR.Contains(i.PrivateIP) {
			fault("%s (%v) is not in its subnet %s", i.ID, i.PrivateIP, i.SubnetID)
		}
		private[privateKey{i.VPCID, i.PrivateIP}] = i.ID
		attachments[i.Attachment] = i.ID
	}
	for a := range m.addresses.all() {
		own(a.PublicIP, "allocated as "+a.ID)
		if (a.AssociationID != "") != (a.owner() != "") || a.InstanceID != "" && a.NATGatewayID != "" {
			fault("%s has a contradicting association: %+v", a.ID, a)
		}
		if a.InstanceID != "" && m.instances.byID[a.InstanceID].AllocationID != a.ID {
			fault("%s is on %s, which does not say so", a.ID, a.InstanceID)
		}
		if _, ok := m.natGateways.byID[a.NATGatewayID]; a.NATGatewayID != "" && !ok {
			fault("%s is on %s, which does not exist", a.ID, a.NATGatewayID)
		}
	}
	for g := range m.natGateways.all() {
		for _, ga := range g.Addresses {
			private[privateKey{g.VPCID, ga.PrivateIP}] = g.ID
			if a := m.addresses.byID[ga.AllocationID]; a.NATGatewayID != g.ID || a.PublicIP != ga.PublicIP {
				fault("%s has %s, which says %+v", g.ID, ga.AllocationID, a)
			}
		}
	}
	size := 0
	for _, p := range m.cfg.PublicPool {
		size += 1 << (32 - p.Bits())
	}
	if len(public) != size {
		fault("%d public addresses have an owner, of %d", len(public), size)
	}
	faults = append(faults, same("private address", m.private, private), same("attachment", m.attachments, attachments))

	seen := map[string]bool{}
	for t := range m.tables.all() {
		if v, ok := m.vpcs.byID[t.VPCID]; !ok || t.Main != (v.MainRouteTableID == t.ID) {
			fault("%s does not fit its VPC %s", t.ID, t.VPCID)
		}
		for _, a := range t.Associations {
			if seen[a.SubnetID] || m.subnets.byID[a.SubnetID].VPCID != t.VPCID {
				fault("%s associates %s, which is not free for it", t.ID, a.SubnetID)
			}
			seen[a.SubnetID] = true
		}
	}
	return errors.Join(faults...)
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

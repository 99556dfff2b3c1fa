// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"strings"
	"testing"
)

// Check finds each kind of fault that is planted in a sound model.
func TestCheckFindsFaults(t *testing.T) {
	for _, c := range []struct {
		name, want string
		plant      func(w *world, lent, elastic Instance, a Address, g NATGateway)
	}{
		{"idle and lent", "is idle and lent to", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			w.pool.giveBack(lent.PublicIP, w.now)
		}},
		{"lost", "public addresses have an owner", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.pool.take(0)
		}},
		{"lent to a stopped instance", "whose instance is stopped", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			i := w.instances.byID[lent.ID]
			i.State = Stopped
			w.instances.put(i.ID, i)
		}},
		{"terminated with an interface", "is terminated and has a network interface", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			i := w.instances.byID[lent.ID]
			i.State = Terminated
			w.instances.put(i.ID, i)
		}},
		{"instance that stores an address", "stores what its network interface says", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			w.instances.put(lent.ID, lent)
		}},
		{"primary interface of another", "the primary network interface of", func(w *world, lent, elastic Instance, _ Address, _ NATGateway) {
			i := w.instances.byID[lent.ID]
			i.NetworkInterfaceID = elastic.NetworkInterfaceID
			w.instances.put(i.ID, i)
		}},
		{"interface attached to nothing", "contradicting attachment", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			n := w.interfaces.byID[lent.NetworkInterfaceID]
			n.InstanceID = ""
			w.interfaces.put(n.ID, n)
		}},
		{"two interfaces at one place", "which is not free for it", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			n := w.interfaces.byID[lent.NetworkInterfaceID]
			n.ID = "eni-0"
			w.interfaces.put(n.ID, n)
		}},
		{"interface that stores an Elastic IP", "stores what an Elastic IP says", func(w *world, _, elastic Instance, _ Address, _ NATGateway) {
			w.interfaces.put(elastic.NetworkInterfaceID, must(w.NetworkInterface(elastic.NetworkInterfaceID))(w.t))
		}},
		{"interface without a group", "has no security group", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			n := w.interfaces.byID[lent.NetworkInterfaceID]
			n.GroupIDs = nil
			w.interfaces.put(n.ID, n)
		}},
		{"interface in a group of nowhere", "which is not in its VPC", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			w.groups.del(w.open.ID)
		}},
		{"Elastic IP beside a lent address", "which is not free for it", func(w *world, lent, _ Instance, a Address, _ NATGateway) {
			a = w.addresses.byID[a.ID]
			a.NetworkInterfaceID, a.PrivateIP = lent.NetworkInterfaceID, lent.PrivateIP
			w.addresses.put(a.ID, a)
		}},
		{"Elastic IP of an interface that is gone", "which is not free for it", func(w *world, _, _ Instance, a Address, _ NATGateway) {
			a = w.addresses.byID[a.ID]
			a.NetworkInterfaceID = "eni-0"
			w.addresses.put(a.ID, a)
		}},
		{"association of nothing", "contradicting association", func(w *world, _, _ Instance, a Address, _ NATGateway) {
			a = w.addresses.byID[a.ID]
			a.NetworkInterfaceID = ""
			w.addresses.put(a.ID, a)
		}},
		{"Elastic IP of a gateway that is gone", "which does not exist", func(w *world, _, _ Instance, _ Address, g NATGateway) {
			w.natGateways.del(g.ID)
		}},
		{"gateway whose Elastic IP is free", "which says", func(w *world, _, _ Instance, _ Address, g NATGateway) {
			w.addresses.put(g.Addresses[0].AllocationID, w.addresses.byID[g.Addresses[0].AllocationID].free())
		}},
		{"gateway that drains its primary", "or drains the first", func(w *world, _, _ Instance, _ Address, g NATGateway) {
			g.Addresses[0].DrainsUntil = w.now
			w.natGateways.put(g.ID, g)
		}},
		{"private gateway with an Elastic IP", "is private and has", func(w *world, _, _ Instance, _ Address, g NATGateway) {
			g.ConnectivityType = PrivateNAT
			w.natGateways.put(g.ID, g)
		}},
		{"instance outside its subnet", "is not in its subnet", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			n := w.interfaces.byID[lent.NetworkInterfaceID]
			n.SubnetID = w.private.ID
			w.interfaces.put(n.ID, n)
		}},
		{"private address of two", "belongs to", func(w *world, lent, elastic Instance, _ Address, _ NATGateway) {
			n := w.interfaces.byID[lent.NetworkInterfaceID]
			w.interfaces.put(n.ID, n.withAddresses([]netip.Addr{elastic.PrivateIP}))
		}},
		{"private address not booked", "private address are booked", func(w *world, _, elastic Instance, _ Address, _ NATGateway) {
			delete(w.Model.private, privateKey{w.vpc.ID, elastic.PrivateIP})
		}},
		{"default group of nowhere", "has the default group", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.groups.del(w.vpc.DefaultGroupID)
		}},
		{"two groups of one name", "does not fit its VPC", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			g := w.open
			g.ID = "sg-0"
			w.groups.put(g.ID, g)
		}},
		{"rule about a group that is gone", "a rule of", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			g := w.open
			g.Ingress = append(g.Ingress, SecurityGroupRule{GroupID: "sg-0"})
			w.groups.put(g.ID, g)
		}},
		{"attachment to a transit gateway that is gone", "attaches what does not exist", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.transitVPCs.put("tgw-attach-0", TransitGatewayVPCAttachment{"tgw-attach-0", "tgw-0", w.vpc.ID})
		}},
		{"main table that is gone", "has the main route table", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.tables.del(w.vpc.MainRouteTableID)
		}},
		{"attachment of another", "attachment 1 is booked for eni-0", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.attachments[1] = "eni-0"
		}},
		{"main table of no VPC", "does not fit its VPC", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.vpcs.del(w.vpc.ID)
		}},
		{"subnet in two tables", "which is not free for it", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			main := w.tables.byID[w.vpc.MainRouteTableID]
			w.tables.put(main.ID, main.withAssociation(RouteTableAssociation{ID: "rtbassoc-0", SubnetID: w.public.ID}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newUncheckedWorld(t, "198.51.100.0/28")
			lent, elastic := w.run(w.public), w.run(w.public)
			a := w.associate(w.allocate(), elastic)
			g := w.natGateway(w.public, w.allocate())
			w.ok(w.Check())
			c.plant(w, lent, w.instance(elastic), a, g)
			if err := w.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ... %s ...", err, c.want)
			}
		})
	}
}

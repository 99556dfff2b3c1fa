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
		{"lent to a stopped instance", "which is stopped", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			lent.State = Stopped
			w.instances.put(lent.ID, lent)
		}},
		{"terminated with an address", "is terminated and has an address", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			lent.State = Terminated
			w.instances.put(lent.ID, lent)
		}},
		{"Elastic IP that its instance does not have", "which does not say so", func(w *world, _, elastic Instance, _ Address, _ NATGateway) {
			elastic.PublicIP, elastic.AllocationID = netip.Addr{}, ""
			w.instances.put(elastic.ID, elastic)
		}},
		{"instance whose Elastic IP is elsewhere", "which says", func(w *world, _, _ Instance, a Address, _ NATGateway) {
			w.addresses.put(a.ID, a.free())
		}},
		{"association of nothing", "contradicting association", func(w *world, _, _ Instance, a Address, _ NATGateway) {
			a.InstanceID = ""
			w.addresses.put(a.ID, a)
		}},
		{"Elastic IP of a gateway that is gone", "which does not exist", func(w *world, _, _ Instance, _ Address, g NATGateway) {
			w.natGateways.del(g.ID)
		}},
		{"gateway whose Elastic IP is free", "which says", func(w *world, _, _ Instance, _ Address, g NATGateway) {
			w.addresses.put(g.Addresses[0].AllocationID, w.addresses.byID[g.Addresses[0].AllocationID].free())
		}},
		{"instance outside its subnet", "is not in its subnet", func(w *world, lent, _ Instance, _ Address, _ NATGateway) {
			lent.SubnetID = w.private.ID
			w.instances.put(lent.ID, lent)
		}},
		{"private address not booked", "private address are booked", func(w *world, _, elastic Instance, _ Address, _ NATGateway) {
			delete(w.Model.private, privateKey{w.vpc.ID, elastic.PrivateIP})
		}},
		{"attachment of another", "attachment 1 is booked for i-0", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.attachments[1] = "i-0"
		}},
		{"main table of no VPC", "does not fit its VPC", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			w.vpcs.del(w.vpc.ID)
		}},
		{"subnet in two tables", "which is not free for it", func(w *world, _, _ Instance, _ Address, _ NATGateway) {
			main := w.tables.byID[w.vpc.MainRouteTableID]
			w.tables.put(main.ID, main.withAssociation(RouteTableAssociation{"rtbassoc-0", w.public.ID}))
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

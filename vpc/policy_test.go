// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/nat"
)

var byValue = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var byPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// compiled is the policy of the VPC, which must be one that the engine takes.
func (w *world) compiled() *nat.Policy {
	w.t.Helper()
	p := must(w.Policy(w.vpc.ID))(w.t)
	w.ok(p.Validate())
	return p
}

func sameAs(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, byValue, byPrefix); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestPolicyOfTheWholeStory(t *testing.T) {
	w := newWorld(t, "198.51.100.0/29")
	w.cfg.InsideMTU, w.cfg.OutsideMTU = 9001, 1500
	web, bastion := w.run(w.public), w.run(w.public)
	was, db := w.run(w.private), w.run(w.private)
	must(w.StopInstance(w.now, bastion.ID))(t)
	g := w.natGateway(w.public, w.allocate())
	w.ok(w.CreateRoute(w.vpc.MainRouteTableID, everything, g.ID))
	spare := w.allocate()

	host := func(i Instance) nat.Attachment {
		return nat.Attachment{
			ID: i.Attachment, Side: nat.Inside, Router: true, MTU: 9001,
			Sources: []netip.Prefix{netip.PrefixFrom(i.PrivateIP, 32)},
		}
	}
	sameAs(t, "policy", w.compiled(), &nat.Policy{
		Attachments: []nat.Attachment{
			{ID: OutsideAttachment, Side: nat.Outside, Router: true, MTU: 1500}, host(web), host(was), host(db),
		},
		Inside: []netip.Prefix{prefix("10.0.0.0/16")},
		Routes: []nat.Route{
			{Source: prefix("10.0.1.0/24"), Destination: everything, Static: true},
			{Source: prefix("10.0.2.0/24"), Destination: everything, Pool: g.ID},
		},
		Pools:  []nat.Pool{{Name: g.ID, Addresses: []netip.Addr{g.Addresses[0].PublicIP}, Router: g.Addresses[0].PrivateIP, Profile: nat.AWSProfile()}},
		Static: []nat.Static{{Inside: web.PrivateIP, Outside: web.PublicIP}},
		// All but .0 (web) and .2 (the gateway): .1 rests, .3 is allocated and free, the others are idle.
		Unlent:       []netip.Prefix{prefix("198.51.100.1/32"), prefix("198.51.100.3/32"), prefix("198.51.100.4/30")},
		InsideRouter: addr("10.0.0.1"),
	})
	equal(t, "spare", spare.PublicIP, addr("198.51.100.3"))
}

func TestVPC3_AddressWithoutInternetGatewayRouteIsDead(t *testing.T) {
	w := newWorld(t, "198.51.100.0/32")
	i := w.run(w.private)
	a := w.associate(w.allocate(), i)
	dead := func(what string) {
		t.Helper()
		p := w.compiled()
		sameAs(t, what+": static", p.Static, []nat.Static(nil))
		sameAs(t, what+": unlent", p.Unlent, []netip.Prefix{netip.PrefixFrom(a.PublicIP, 32)})
	}
	dead("no route")
	w.ok(w.CreateRoute(w.vpc.MainRouteTableID, prefix("203.0.113.0/24"), w.igw.ID))
	p := w.compiled()
	sameAs(t, "with one", p.Static, []nat.Static{{Inside: i.PrivateIP, Outside: a.PublicIP}})
	equal(t, "unlent", len(p.Unlent), 0)
	must(w.StopInstance(w.now, i.ID))(t) // EIP-9
	dead("stopped")
	equal(t, "attachments", len(w.compiled().Attachments), 1)
	must(w.StartInstance(w.now, i.ID))(t)
	w.ok(w.DeleteRoute(w.vpc.MainRouteTableID, prefix("203.0.113.0/24")))
	dead("route deleted")
}

func TestVPC4_RoutesDecideBySubnet(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	g := w.natGateway(w.public, w.allocate())
	routesOf := func(s Subnet) (out []nat.Route) {
		for _, r := range w.compiled().Routes {
			if r.Source == s.CIDR {
				out = append(out, r)
			}
		}
		return out
	}
	is := func(what string, want ...nat.Route) {
		t.Helper()
		for i := range want {
			want[i].Source = w.private.CIDR
		}
		sameAs(t, what, routesOf(w.private), want)
	}
	main := w.vpc.MainRouteTableID
	r1 := prefix("203.0.113.0/24")

	sameAs(t, "no route", routesOf(w.private), []nat.Route(nil))
	w.ok(w.CreateRoute(main, everything, g.ID))
	is("default to the NAT gateway", nat.Route{Destination: everything, Pool: g.ID})
	w.ok(w.CreateRoute(main, r1, w.igw.ID))
	is("a longer one to the internet gateway", nat.Route{Destination: everything, Pool: g.ID}, nat.Route{Destination: r1, Static: true})
	w.ok(w.ReplaceRoute(main, everything, w.igw.ID))
	w.ok(w.ReplaceRoute(main, r1, g.ID))
	is("swapped", nat.Route{Destination: everything, Static: true}, nat.Route{Destination: r1, Pool: g.ID})

	// The route of the private subnet counts, then that of the gateway's own.
	w.ok(w.ReplaceRoute(main, everything, g.ID))
	w.ok(w.DeleteRoute(main, r1))
	w.ok(w.DeleteRoute(w.outward.ID, everything))
	is("gateway without a way out", nat.Route{Destination: everything})
	w.ok(w.CreateRoute(w.outward.ID, r1, w.igw.ID))
	is("gateway with a way to some", nat.Route{Destination: everything}, nat.Route{Destination: r1, Pool: g.ID})
	w.ok(w.CreateRoute(w.outward.ID, everything, g.ID))
	is("gateway routed to itself", nat.Route{Destination: everything}, nat.Route{Destination: r1, Pool: g.ID})

	w.ok(w.DeleteNATGateway(g.ID))
	is("gateway deleted", nat.Route{Destination: everything})
	equal(t, "state", w.DescribeRouteTables()[0].Routes[1].State, RouteBlackhole)
}

func TestVPC4_AssociationDecidesTheTable(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	static := func(s Subnet) bool {
		for _, r := range w.compiled().Routes {
			if r.Source == s.CIDR && r.Static {
				return true
			}
		}
		return false
	}
	equal(t, "main table", static(w.private), false)
	a := must(w.AssociateRouteTable(w.outward.ID, w.private.ID))(t)
	equal(t, "again", must(w.AssociateRouteTable(w.outward.ID, w.private.ID))(t), a)
	equal(t, "associated", static(w.private), true)
	a = must(w.ReplaceRouteTableAssociation(a.ID, w.vpc.MainRouteTableID))(t)
	equal(t, "replaced", static(w.private), false)
	a = must(w.ReplaceRouteTableAssociation(a.ID, w.outward.ID))(t)
	a = must(w.ReplaceRouteTableAssociation(a.ID, w.outward.ID))(t) // by itself
	equal(t, "replaced back", static(w.private), true)
	equal(t, "associations of the table", len(w.DescribeRouteTables()[1].Associations), 2)
	w.ok(w.DisassociateRouteTable(a.ID))
	equal(t, "disassociated", static(w.private), false)
	equal(t, "the other subnet", static(w.public), true)
}

// VPCs may overlap: each has its own policy, and a public address is in use in one of them.
func TestPolicyOfOverlappingVPCs(t *testing.T) {
	w := newWorld(t, "198.51.100.0/30")
	one := w.run(w.public)
	gateway := w.natGateway(w.public, w.allocate())

	v := must(w.CreateVPC(w.vpc.CIDRs[0]))(t)
	igw := w.CreateInternetGateway()
	w.ok(w.AttachInternetGateway(igw.ID, v.ID))
	s := must(w.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: w.public.CIDR, MapPublicIPOnLaunch: true}))(t)
	w.ok(w.CreateRoute(v.MainRouteTableID, everything, igw.ID))
	two := w.run(s)
	equal(t, "private addresses", one.PrivateIP, addr("10.0.1.4"))
	equal(t, "private addresses", two.PrivateIP, one.PrivateIP)

	p, q := w.compiled(), must(w.Policy(v.ID))(t)
	w.ok(q.Validate())
	sameAs(t, "static of the first", p.Static, []nat.Static{{Inside: one.PrivateIP, Outside: one.PublicIP}})
	sameAs(t, "static of the second", q.Static, []nat.Static{{Inside: two.PrivateIP, Outside: two.PublicIP}})
	sameAs(t, "pools", []int{len(p.Pools), len(q.Pools)}, []int{1, 0})
	sameAs(t, "unlent of the first", p.Unlent, []netip.Prefix{prefix("198.51.100.3/32")})
	sameAs(t, "unlent of the second", q.Unlent, p.Unlent)
	equal(t, "gateway", gateway.Addresses[0].PublicIP, addr("198.51.100.1"))

	// An internet gateway that moves to another VPC takes no route with it.
	w.ok(w.DeleteNATGateway(gateway.ID))
	must(w.StopInstance(w.now, one.ID))(t)
	must(w.StopInstance(w.now, two.ID))(t)
	w.ok(w.DetachInternetGateway(w.igw.ID, w.vpc.ID))
	w.ok(w.DetachInternetGateway(igw.ID, v.ID))
	w.ok(w.AttachInternetGateway(w.igw.ID, v.ID))
	for _, r := range w.compiled().Routes {
		equal(t, "static route to another VPC's gateway", r.Static, false)
	}
}

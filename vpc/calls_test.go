// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/nat"
)

// caller makes any call with any ids of the right kind, or none, on two models. They begin with two VPCs of the same
// addresses, an instance in each, and two Elastic IPs.
type caller struct {
	one, two *Model
	now      time.Time
	kept     map[[2]string]Record // the state of two
}

func newCaller(t *rapid.T) *caller {
	cfg := Config{Seed: 1, PublicPool: []netip.Prefix{prefix("198.51.100.16/28")}}
	c := &caller{now: t0}
	for _, m := range []**Model{&c.one, &c.two} {
		var err error
		*m, err = New(cfg)
		fatal(t, err)
		for range 2 {
			v, err := (*m).CreateVPC(prefix("10.0.0.0/16"))
			fatal(t, err)
			g := (*m).CreateInternetGateway()
			fatal(t, (*m).AttachInternetGateway(g.ID, v.ID))
			fatal(t, (*m).CreateRoute(v.MainRouteTableID, everything, g.ID))
			s, err := (*m).CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.1.0/24"), MapPublicIPOnLaunch: true})
			fatal(t, err)
			_, err = (*m).RunInstance(t0, RunInstanceInput{SubnetID: s.ID})
			fatal(t, err)
			_, err = (*m).AllocateAddress(t0)
			fatal(t, err)
		}
	}
	c.restart(t)
	return c
}

// id is one of those that exist, or none.
func id(t *rapid.T, label string, ids ...[]string) string {
	all := slices.Concat(ids...)
	if n := rapid.IntRange(0, 4*len(all)).Draw(t, label); n > 0 {
		return all[n%len(all)]
	}
	return ""
}

// cidr is a block among few, so that they meet.
func cidr(t *rapid.T, label string) netip.Prefix {
	ip := rapid.SampledFrom([]string{"10.0.0.0", "10.0.1.0", "10.0.1.128", "10.1.0.0", "198.51.100.0", "203.0.113.0", "0.0.0.0"}).Draw(t, label)
	return netip.PrefixFrom(addr(ip), rapid.SampledFrom([]int{0, 8, 15, 16, 20, 24, 25, 28, 29, 32}).Draw(t, label+" bits"))
}

// some are up to three of those that exist, or of none.
func some(t *rapid.T, label string, ids []string) (out []string) {
	for range rapid.IntRange(0, 3).Draw(t, label+"s") {
		out = append(out, id(t, label, ids))
	}
	return out
}

// host is an address among few, or none; hosts are some.
func host(t *rapid.T) netip.Addr {
	ip := rapid.SampledFrom([]string{"", "10.0.1.4", "10.0.1.5", "10.0.1.6", "10.0.1.7", "10.0.1.200", "10.0.0.1"}).Draw(t, "ip")
	if ip == "" {
		return netip.Addr{}
	}
	return addr(ip)
}

func hosts(t *rapid.T) (out []netip.Addr) {
	for range rapid.IntRange(0, 2).Draw(t, "ips") {
		out = append(out, host(t))
	}
	return out
}

func drain(t *rapid.T) time.Duration {
	return rapid.SampledFrom([]time.Duration{0, -1, time.Second, time.Minute, 4001 * time.Second}).Draw(t, "drain")
}

func someRules(t *rapid.T, groups []string) (out []SecurityGroupRule) {
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		r := SecurityGroupRule{
			Protocol: rapid.SampledFrom([]int{-2, -1, 1, 6, 17, 47}).Draw(t, "protocol"),
			FromPort: rapid.IntRange(-1, 2).Draw(t, "from"), ToPort: rapid.SampledFrom([]int{-1, 2, 65535}).Draw(t, "to"),
		}
		if rapid.Bool().Draw(t, "by group") {
			r.GroupID = id(t, "peer", groups)
		} else {
			r.CIDR = cidr(t, "peer")
		}
		out = append(out, r)
	}
	return out
}

// both makes a call on both models: they give the same answer, and an error leaves no trace and has a code.
func (c *caller) both(t *rapid.T, call func(*Model) error) {
	before := c.one.snapshot()
	err, again := call(c.one), call(c.two)
	if (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
		t.Fatalf("two answers to one call: %v; %v", err, again)
	}
	var e *Error
	if err != nil && (!errors.As(err, &e) || e.Code == "" || e.Message == "") {
		t.Fatalf("%v has no code or message", err)
	}
	after := c.one.snapshot()
	if err != nil && after != before {
		t.Fatalf("%v, but there is a trace:\n%s\n%s", err, before, after)
	}
	if after != c.two.snapshot() {
		t.Fatal("equal calls made different models")
	}
	c.restart(t)
}

// sound holds after every call: the books agree, all policies are such that an engine takes them, and no public
// address is in use in two of them.
func (c *caller) sound(t *rapid.T) {
	fatal(t, c.one.Check())
	used := map[netip.Addr]string{}
	use := func(ip netip.Addr, vpcID string) {
		if other, ok := used[ip]; ok {
			t.Fatalf("%v is in use in %s and %s", ip, other, vpcID)
		}
		used[ip] = vpcID
	}
	attachments := map[nat.AttachmentID]bool{OutsideAttachment: true}
	for _, v := range c.one.DescribeVPCs() {
		p, err := c.one.Policy(v.ID)
		fatal(t, err)
		fatal(t, p.Validate())
		for _, s := range p.Static {
			use(s.Outside, v.ID)
		}
		for _, q := range p.Pools {
			for _, ip := range slices.Concat(q.Addresses, q.Draining) {
				if q.Private { // VPCs may overlap
					continue
				}
				use(ip, v.ID)
			}
		}
		for _, r := range p.Restrictions {
			for _, a := range slices.Concat(r.In, r.Out) {
				if len(r.Hosts) == 0 || len(a.Remotes) == 0 || a.PortMin > a.PortMax {
					t.Fatalf("%+v allows nobody anything, or is about nobody", r)
				}
			}
		}
		for _, a := range p.Attachments[1:] {
			if attachments[a.ID] {
				t.Fatalf("attachment %d is in use twice", a.ID)
			}
			attachments[a.ID] = true
		}
	}
}

// call makes one call.
func (c *caller) call(t *rapid.T) {
	m := c.one
	c.now = c.now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour}).Draw(t, "time"))
	now := c.now
	v, s, table := m.vpcs.ids, m.subnets.ids, m.tables.ids
	igw, ngw, inst, eip := m.igws.ids, m.natGateways.ids, m.instances.ids, m.addresses.ids
	eni, tgw, groups := m.interfaces.ids, m.transits.ids, m.groups.ids
	var routeAssociations, addressAssociations, attachments []string
	for v := range m.vpcs.all() {
		routeAssociations = append(routeAssociations, v.MainAssociationID)
	}
	for n := range m.interfaces.all() {
		attachments = append(attachments, n.AttachmentID)
	}
	for rt := range m.tables.all() {
		for _, a := range rt.Associations {
			routeAssociations = append(routeAssociations, a.ID)
		}
	}
	for a := range m.addresses.all() {
		addressAssociations = append(addressAssociations, a.AssociationID)
	}
	type call = func(*Model) error
	calls := []func() call{
		func() call {
			p := cidr(t, "cidr")
			return func(m *Model) error { return second(m.CreateVPC(p)) }
		},
		func() call {
			id, p := id(t, "vpc", v), cidr(t, "cidr")
			return func(m *Model) error { return second(m.AssociateVPCCIDRBlock(id, p)) }
		},
		func() call {
			id := id(t, "vpc", v)
			return func(m *Model) error { return m.DeleteVPC(id) }
		},
		func() call {
			in := CreateSubnetInput{id(t, "vpc", v), cidr(t, "cidr"), rapid.Bool().Draw(t, "public")}
			return func(m *Model) error { return second(m.CreateSubnet(in)) }
		},
		func() call {
			id, public := id(t, "subnet", s), rapid.Bool().Draw(t, "public")
			return func(m *Model) error { return m.ModifySubnetAttribute(id, public) }
		},
		func() call {
			id := id(t, "subnet", s)
			return func(m *Model) error { return m.DeleteSubnet(id) }
		},
		func() call {
			id := id(t, "vpc", v)
			return func(m *Model) error { return second(m.CreateRouteTable(id)) }
		},
		func() call {
			id := id(t, "table", table)
			return func(m *Model) error { return m.DeleteRouteTable(id) }
		},
		func() call {
			table, subnet := id(t, "table", table), id(t, "subnet", s)
			return func(m *Model) error { return second(m.AssociateRouteTable(table, subnet)) }
		},
		func() call {
			a, table := id(t, "association", routeAssociations), id(t, "table", table)
			return func(m *Model) error { return second(m.ReplaceRouteTableAssociation(a, table)) }
		},
		func() call {
			a := id(t, "association", routeAssociations)
			return func(m *Model) error { return m.DisassociateRouteTable(a) }
		},
		func() call {
			table, p, target := id(t, "table", table), cidr(t, "destination"), id(t, "target", igw, ngw, tgw)
			return func(m *Model) error { return m.CreateRoute(table, p, target) }
		},
		func() call {
			table, p, target := id(t, "table", table), cidr(t, "destination"), id(t, "target", igw, ngw, tgw)
			return func(m *Model) error { return m.ReplaceRoute(table, p, target) }
		},
		func() call {
			table, p := id(t, "table", table), cidr(t, "destination")
			return func(m *Model) error { return m.DeleteRoute(table, p) }
		},
		func() call {
			return func(m *Model) error { m.CreateInternetGateway(); return nil }
		},
		func() call {
			g, v := id(t, "gateway", igw), id(t, "vpc", v)
			return func(m *Model) error { return m.AttachInternetGateway(g, v) }
		},
		func() call {
			g, v := id(t, "gateway", igw), id(t, "vpc", v)
			return func(m *Model) error { return m.DetachInternetGateway(g, v) }
		},
		func() call {
			g := id(t, "gateway", igw)
			return func(m *Model) error { return m.DeleteInternetGateway(g) }
		},
		func() call {
			in := RunInstanceInput{SubnetID: id(t, "subnet", s), PrivateIP: host(t), GroupIDs: some(t, "group", groups)}
			return func(m *Model) error { return second(m.RunInstance(now, in)) }
		},
		func() call {
			i := id(t, "instance", inst)
			return func(m *Model) error { return second(m.StartInstance(now, i)) }
		},
		func() call {
			i := id(t, "instance", inst)
			return func(m *Model) error { return second(m.StopInstance(now, i)) }
		},
		func() call {
			i := id(t, "instance", inst)
			return func(m *Model) error { return second(m.TerminateInstance(now, i)) }
		},
		func() call {
			return func(m *Model) error { return second(m.AllocateAddress(now)) }
		},
		func() call {
			a := id(t, "allocation", eip)
			return func(m *Model) error { return m.ReleaseAddress(now, a) }
		},
		func() call {
			in := AssociateAddressInput{
				AllocationID: id(t, "allocation", eip), PrivateIP: host(t), NoReassociation: rapid.Bool().Draw(t, "stay"),
			}
			if rapid.Bool().Draw(t, "by instance") {
				in.InstanceID = id(t, "instance", inst)
			} else {
				in.NetworkInterfaceID = id(t, "interface", eni)
			}
			return func(m *Model) error { return second(m.AssociateAddress(now, in)) }
		},
		func() call {
			a := id(t, "association", addressAssociations)
			return func(m *Model) error { return m.DisassociateAddress(now, a) }
		},
		func() call {
			in := CreateNATGatewayInput{SubnetID: id(t, "subnet", s), PrivateIP: host(t)}
			if rapid.Bool().Draw(t, "private") {
				in.ConnectivityType = PrivateNAT
			} else {
				in.AllocationID, in.SecondaryAllocationIDs = id(t, "allocation", eip), some(t, "more", eip)
			}
			return func(m *Model) error { return second(m.CreateNATGateway(in)) }
		},
		func() call {
			g := id(t, "gateway", ngw)
			return func(m *Model) error { return m.DeleteNATGateway(g) }
		},
	}
	calls = append(calls,
		func() call {
			id, p := id(t, "vpc", v), cidr(t, "cidr")
			return func(m *Model) error { return second(m.DisassociateVPCCIDRBlock(id, p)) }
		},
		func() call {
			in := CreateNetworkInterfaceInput{
				SubnetID: id(t, "subnet", s), GroupIDs: some(t, "group", groups), SecondaryCount: rapid.IntRange(0, 2).Draw(t, "more"),
			}
			return func(m *Model) error { return second(m.CreateNetworkInterface(in)) }
		},
		func() call {
			in := AttachNetworkInterfaceInput{id(t, "interface", eni), id(t, "instance", inst), rapid.IntRange(-1, 3).Draw(t, "place")}
			return func(m *Model) error { return second(m.AttachNetworkInterface(in)) }
		},
		func() call {
			a := id(t, "attachment", attachments)
			return func(m *Model) error { return m.DetachNetworkInterface(a) }
		},
		func() call {
			n := id(t, "interface", eni)
			return func(m *Model) error { return m.DeleteNetworkInterface(n) }
		},
		func() call {
			n, ips, more := id(t, "interface", eni), hosts(t), rapid.IntRange(0, 2).Draw(t, "more")
			return func(m *Model) error { return second(m.AssignPrivateIPAddresses(n, ips, more)) }
		},
		func() call {
			n, ips := id(t, "interface", eni), hosts(t)
			return func(m *Model) error { return m.UnassignPrivateIPAddresses(n, ips) }
		},
		func() call {
			n, groups := id(t, "interface", eni), some(t, "group", groups)
			return func(m *Model) error { return m.ModifyNetworkInterfaceAttribute(n, groups) }
		},
		func() call {
			g, a, ips := id(t, "gateway", ngw), some(t, "allocation", eip), hosts(t)
			return func(m *Model) error { return second(m.AssociateNATGatewayAddress(g, a, ips)) }
		},
		func() call {
			g, a, d := id(t, "gateway", ngw), some(t, "association", addressAssociations), drain(t)
			return func(m *Model) error { return second(m.DisassociateNATGatewayAddress(now, g, a, d)) }
		},
		func() call {
			g, ips := id(t, "gateway", ngw), hosts(t)
			return func(m *Model) error { return second(m.AssignPrivateNATGatewayAddress(g, ips)) }
		},
		func() call {
			g, ips, d := id(t, "gateway", ngw), hosts(t), drain(t)
			return func(m *Model) error { return second(m.UnassignPrivateNATGatewayAddress(now, g, ips, d)) }
		},
		func() call {
			return func(m *Model) error { m.Advance(now); return nil }
		},
		func() call {
			return func(m *Model) error { m.CreateTransitGateway(); return nil }
		},
		func() call {
			g := id(t, "transit", tgw)
			return func(m *Model) error { return m.DeleteTransitGateway(g) }
		},
		func() call {
			g, v := id(t, "transit", tgw), id(t, "vpc", v)
			return func(m *Model) error { return second(m.CreateTransitGatewayVPCAttachment(g, v)) }
		},
		func() call {
			a := id(t, "attachment", m.transitVPCs.ids)
			return func(m *Model) error { return m.DeleteTransitGatewayVPCAttachment(a) }
		},
		func() call {
			v, name := id(t, "vpc", v), rapid.SampledFrom([]string{"web", "db", "default", ""}).Draw(t, "name")
			return func(m *Model) error { return second(m.CreateSecurityGroup(v, name, "of a test")) }
		},
		func() call {
			g := id(t, "group", groups)
			return func(m *Model) error { return m.DeleteSecurityGroup(g) }
		},
		func() call {
			g, rules, way := id(t, "group", groups), someRules(t, groups), rapid.IntRange(0, 3).Draw(t, "way")
			return func(m *Model) error {
				return second([]func(string, []SecurityGroupRule) (SecurityGroup, error){
					m.AuthorizeSecurityGroupIngress, m.AuthorizeSecurityGroupEgress, m.RevokeSecurityGroupIngress, m.RevokeSecurityGroupEgress,
				}[way](g, rules))
			}
		},
	)
	c.both(t, rapid.SampledFrom(calls).Draw(t, "call")())
}

// anyCalls is the property: calls in any order.
func anyCalls(t *rapid.T) {
	c := newCaller(t)
	for range rapid.IntRange(1, 150).Draw(t, "calls") {
		c.call(t)
		c.sound(t)
	}
}

func TestAnyCalls(t *testing.T) { rapid.Check(t, anyCalls) }

func FuzzAnyCalls(f *testing.F) { f.Fuzz(rapid.MakeFuzz(anyCalls)) }

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

func (w *world) group(name string) SecurityGroup {
	w.t.Helper()
	return must(w.CreateSecurityGroup(w.vpc.ID, name, "of a test"))(w.t)
}

func (w *world) restrictions() []nat.Restriction {
	w.t.Helper()
	return must(w.Policy(w.vpc.ID))(w.t).Restrictions
}

func allow(protocol int, first, last uint16, remotes []netip.Prefix) nat.Allow {
	return nat.Allow{Protocol: protocol, PortMin: first, PortMax: last, Remotes: remotes}
}

// ports is a rule for TCP from a prefix.
func ports(from, to int, peer string) SecurityGroupRule {
	return SecurityGroupRule{Protocol: 6, FromPort: from, ToPort: to, CIDR: prefix(peer)}
}

func TestSecurityGroupDefault(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	run := func() Instance {
		return must(w.RunInstance(w.now, RunInstanceInput{SubnetID: w.private.ID}))(t)
	}
	a, b := run(), run()
	equal(t, "group", w.networkInterface(a.NetworkInterfaceID).GroupIDs[0], w.vpc.DefaultGroupID)
	w.secondary(b)
	w.run(w.public) // in the open group, which costs nothing
	everybody := []nat.Allow{{Protocol: -1, PortMax: 65535, Remotes: []netip.Prefix{everything}}}
	oneAnother := []nat.Allow{{Protocol: -1, PortMax: 65535, Remotes: []netip.Prefix{prefix("10.0.2.4/31"), prefix("10.0.2.6/32")}}}
	sameAs(t, "restrictions", w.restrictions(), []nat.Restriction{
		{Name: a.NetworkInterfaceID, Hosts: []netip.Addr{a.PrivateIP}, In: oneAnother, Out: everybody},
		{Name: b.NetworkInterfaceID, Hosts: []netip.Addr{b.PrivateIP, addr("10.0.2.6")}, In: oneAnother, Out: everybody},
	})
	must(w.StopInstance(w.now, a.ID))(t)
	must(w.TerminateInstance(w.now, b.ID))(t)
	equal(t, "of hosts that do not run", len(w.restrictions()), 0)
}

func TestSecurityGroupRules(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	web, db, nobody := w.group("web"), w.group("db"), w.group("nobody")
	must(w.AuthorizeSecurityGroupIngress(web.ID, []SecurityGroupRule{
		ports(80, 80, "0.0.0.0/0"), ports(443, 443, "0.0.0.0/0"), ports(22, 22, "10.0.9.7/16"),
		{Protocol: 1, FromPort: 8, ToPort: AnyICMP, CIDR: everything}, {Protocol: 1, FromPort: 3, ToPort: 4, CIDR: everything},
		{Protocol: 1, FromPort: AnyICMP, ToPort: AnyICMP, CIDR: prefix("10.0.0.0/16")},
		{Protocol: 50, FromPort: 7, ToPort: 9, CIDR: prefix("192.0.2.1/32")},
	}))(t)
	must(w.AuthorizeSecurityGroupIngress(db.ID, []SecurityGroupRule{
		{Protocol: 6, FromPort: 5432, ToPort: 5433, GroupID: web.ID}, {Protocol: 17, FromPort: 0, ToPort: 65535, GroupID: nobody.ID},
		ports(5432, 5433, "10.0.1.7/32"),
	}))(t)
	must(w.RevokeSecurityGroupEgress(db.ID, []SecurityGroupRule{{Protocol: AllProtocols, CIDR: everything}}))(t)

	a, b := w.run(w.public), w.run(w.private)
	w.ok(w.ModifyNetworkInterfaceAttribute(a.NetworkInterfaceID, []string{web.ID, web.ID}))
	w.ok(w.ModifyNetworkInterfaceAttribute(b.NetworkInterfaceID, []string{db.ID}))
	all := []netip.Prefix{everything}
	sameAs(t, "restrictions", w.restrictions(), []nat.Restriction{
		{
			Name: a.NetworkInterfaceID, Hosts: []netip.Addr{a.PrivateIP},
			In: []nat.Allow{
				allow(6, 80, 80, all), allow(6, 443, 443, all), allow(6, 22, 22, []netip.Prefix{prefix("10.0.0.0/16")}),
				allow(1, 0x800, 0x8ff, all), allow(1, 0x304, 0x304, all), allow(1, 0, 65535, []netip.Prefix{prefix("10.0.0.0/16")}),
				allow(50, 0, 65535, []netip.Prefix{prefix("192.0.2.1/32")}),
			},
			Out: []nat.Allow{allow(-1, 0, 65535, all)},
		},
		{
			Name: b.NetworkInterfaceID, Hosts: []netip.Addr{b.PrivateIP},
			In: []nat.Allow{allow(6, 5432, 5433, []netip.Prefix{prefix("10.0.1.4/32"), prefix("10.0.1.7/32")})},
		},
	})

	// What one group of an interface allows, the others do not take away.
	w.ok(w.ModifyNetworkInterfaceAttribute(b.NetworkInterfaceID, []string{db.ID, w.open.ID}))
	equal(t, "with the open group", len(w.restrictions()), 1)
	g := must(w.RevokeSecurityGroupIngress(web.ID, []SecurityGroupRule{ports(443, 443, "0.0.0.0/0"), {Protocol: 50, CIDR: prefix("192.0.2.1/32")}}))(t)
	equal(t, "rules left", len(g.Ingress), 5)
	equal(t, "allows left", len(w.restrictions()[0].In), 5)
}

// The rules in force, judged by packets: those of the default group, of ICMP types and codes, and of groups as peers.
func TestSecurityGroupsByPackets(t *testing.T) {
	e := newEdge(t)
	closed := func(s Subnet) Instance { return must(e.RunInstance(e.now, RunInstanceInput{SubnetID: s.ID}))(t) }
	a, b, c := closed(e.public), closed(e.private), e.run(e.public)
	e.apply()

	for _, f := range []flow{tcp(r1, 6000, a.PublicIP, 22), udp(r1, 6000, a.PublicIP, 53), echo(r1, a.PublicIP, 9)} {
		e.stops("unasked", OutsideAttachment, f, nat.DropNotAllowed)
		f = f.to(a.PrivateIP).at(c.PrivateIP)
		e.stops("from another group", c.Attachment, f, nat.DropNotAllowed)
		f = f.at(b.PrivateIP)
		e.passes("from a member", b.Attachment, f, nat.Untouched, f)
		e.passes("the answer", a.Attachment, f.reply(), nat.Untouched, f.reply())
	}
	for _, f := range []flow{tcp(a.PrivateIP, 5000, r1, 80), udp(a.PrivateIP, 5000, r1, 53), echo(a.PrivateIP, r1, 9)} {
		e.passes("out", a.Attachment, f, nat.StaticOutbound, f.at(a.PublicIP))
		e.passes("the answer", OutsideAttachment, f.at(a.PublicIP).reply(), nat.StaticInbound, f.reply())
		f = f.to(c.PrivateIP)
		e.passes("to another group", a.Attachment, f, nat.Untouched, f)
		e.passes("the answer", c.Attachment, f.reply(), nat.Untouched, f.reply())
	}

	in := func(change func(string, []SecurityGroupRule) (SecurityGroup, error), rules ...SecurityGroupRule) {
		t.Helper()
		must(change(e.vpc.DefaultGroupID, rules))(t)
		e.apply()
	}
	ping := SecurityGroupRule{Protocol: packet.ICMP, FromPort: 8, ToPort: AnyICMP, CIDR: prefix("203.0.113.9/32")}
	in(e.AuthorizeSecurityGroupIngress, ping)
	e.passes("ping", OutsideAttachment, echo(r1, a.PublicIP, 10), nat.StaticInbound, echo(r1, a.PrivateIP, 10))
	e.stops("ping of another", OutsideAttachment, echo(r2, a.PublicIP, 10), nat.DropNotAllowed)
	e.stops("an answer that nobody asked for", OutsideAttachment, echo(a.PublicIP, r1, 11).reply(), nat.DropNotAllowed)
	in(e.RevokeSecurityGroupIngress, ping)
	e.passes("a ping that goes on", OutsideAttachment, echo(r1, a.PublicIP, 10), nat.StaticInbound, echo(r1, a.PrivateIP, 10))
	e.stops("a new one", OutsideAttachment, echo(r1, a.PublicIP, 12), nat.DropNotAllowed)
	ping.ToPort = 1
	in(e.AuthorizeSecurityGroupIngress, ping)
	e.stops("a ping with a code that is not allowed", OutsideAttachment, echo(r1, a.PublicIP, 12), nat.DropNotAllowed)
	ping.ToPort = 0
	in(e.AuthorizeSecurityGroupIngress, ping)
	e.passes("with one that is", OutsideAttachment, echo(r1, a.PublicIP, 12), nat.StaticInbound, echo(r1, a.PrivateIP, 12))

	// A group without members is nobody, not everybody.
	admins := e.group("admins")
	in(e.AuthorizeSecurityGroupIngress, SecurityGroupRule{Protocol: packet.TCP, FromPort: 22, ToPort: 22, GroupID: admins.ID})
	ssh := tcp(c.PrivateIP, 7000, a.PrivateIP, 22)
	e.stops("no member", c.Attachment, ssh, nat.DropNotAllowed)
	e.stops("from the internet", OutsideAttachment, tcp(r1, 7000, a.PublicIP, 22), nat.DropNotAllowed)
	w := e.world
	w.ok(w.ModifyNetworkInterfaceAttribute(c.NetworkInterfaceID, []string{w.open.ID, admins.ID}))
	e.apply()
	e.passes("a member", c.Attachment, ssh, nat.Untouched, ssh)
	e.stops("from the internet", OutsideAttachment, tcp(r1, 7000, a.PublicIP, 22), nat.DropNotAllowed)
	// By its public address a member is not known.
	e.stops("a member, by way of the internet gateway", c.Attachment, tcp(c.PrivateIP, 7001, a.PublicIP, 22), nat.DropNotAllowed)
}

func TestSecurityGroupRefused(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	g, named := w.group("web"), w.group("named")
	rule := ports(80, 80, "0.0.0.0/0")
	must(w.AuthorizeSecurityGroupIngress(g.ID, []SecurityGroupRule{rule, {Protocol: 6, ToPort: 9, GroupID: named.ID}}))(t)
	i := w.run(w.public)
	member := w.group("member")
	w.ok(w.ModifyNetworkInterfaceAttribute(i.NetworkInterfaceID, []string{member.ID}))
	other := must(w.CreateVPC(prefix("10.0.0.0/16")))(t)

	create := func(v, name, description string) func() error {
		return func() error { return second(w.CreateSecurityGroup(v, name, description)) }
	}
	authorize := func(rules ...SecurityGroupRule) func() error {
		return func() error { return second(w.AuthorizeSecurityGroupIngress(g.ID, rules)) }
	}
	one := func(change func(*SecurityGroupRule)) func() error {
		r := ports(22, 22, "0.0.0.0/0")
		change(&r)
		return authorize(ports(99, 99, "0.0.0.0/0"), r) // of which none is added
	}
	remove := func(id string) func() error { return func() error { return w.DeleteSecurityGroup(id) } }
	for _, c := range []struct {
		name string
		want Code
		call func() error
	}{
		{"create in no VPC", VPCNotFound, create("vpc-0", "a", "b")},
		{"create without a name", MissingParameter, create(w.vpc.ID, "", "b")},
		{"create without a description", MissingParameter, create(w.vpc.ID, "a", "")},
		{"create another default", InvalidParameterValue, create(w.vpc.ID, "default", "b")},
		{"create with the name of an id", InvalidParameterValue, create(w.vpc.ID, "sg-1", "b")},
		{"create twice", GroupDuplicate, create(w.vpc.ID, "web", "b")},
		{"delete nothing", GroupNotFound, remove("sg-0")},
		{"delete the default", CannotDelete, remove(w.vpc.DefaultGroupID)},
		{"delete one in use", DependencyViolation, remove(member.ID)},
		{"delete one that a rule names", DependencyViolation, remove(named.ID)},
		{"authorize for nothing", GroupNotFound, func() error { return second(w.AuthorizeSecurityGroupEgress("sg-0", []SecurityGroupRule{rule})) }},
		{"authorize nothing", MissingParameter, authorize()},
		{"authorize twice", PermissionDuplicate, authorize(rule)},
		{"authorize twice at once", PermissionDuplicate, authorize(ports(1, 1, "0.0.0.0/0"), ports(1, 1, "0.0.0.0/0"))},
		{"a port too high", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.ToPort = 65536 })},
		{"a port below", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.FromPort = -1 })},
		{"ports the wrong way round", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.FromPort = 23 })},
		{"a protocol too high", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.Protocol = 256 })},
		{"a protocol below", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.Protocol = -2 })},
		{"an ICMP code without a type", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.Protocol, r.FromPort = 1, AnyICMP })},
		{"an ICMP type too high", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.Protocol, r.FromPort = 1, 256 })},
		{"nobody", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.CIDR = netip.Prefix{} })},
		{"two peers", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.GroupID = g.ID })},
		{"IPv6", InvalidParameterValue, one(func(r *SecurityGroupRule) { r.CIDR = prefix("::/0") })},
		{"no such group", GroupNotFound, one(func(r *SecurityGroupRule) { r.CIDR, r.GroupID = netip.Prefix{}, "sg-0" })},
		{"another VPC's group", GroupNotFound, one(func(r *SecurityGroupRule) { r.CIDR, r.GroupID = netip.Prefix{}, other.DefaultGroupID })},
		{"revoke what is not there", PermissionNotFound, func() error {
			return second(w.RevokeSecurityGroupIngress(g.ID, []SecurityGroupRule{rule, rule}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.t = t
			sub.refused(c.want, c.call)
		})
	}
	itself := must(w.AuthorizeSecurityGroupEgress(named.ID, []SecurityGroupRule{{Protocol: 6, ToPort: 1, GroupID: named.ID}}))(t)
	must(w.RevokeSecurityGroupIngress(g.ID, []SecurityGroupRule{{Protocol: 6, ToPort: 9, GroupID: named.ID}}))(t)
	w.ok(w.DeleteSecurityGroup(itself.ID)) // only its own rule names it
}

// BenchmarkPolicyOfRestricted compiles a VPC whose instances are in one group, with every other address free, so that the
// group is as many prefixes as it has members; and has an engine take it.
func BenchmarkPolicyOfRestricted(b *testing.B) {
	for _, hosts := range []int{100, 1000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			m, err := New(Config{Seed: 1})
			fatal(b, err)
			v, err := m.CreateVPC(prefix("10.0.0.0/16"))
			fatal(b, err)
			s, err := m.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.0.0/18")})
			fatal(b, err)
			for range 2 * hosts {
				_, err := m.RunInstance(t0, RunInstanceInput{SubnetID: s.ID})
				fatal(b, err)
			}
			for n, i := range m.DescribeInstances() {
				if n%2 == 0 {
					_, err := m.TerminateInstance(t0, i.ID)
					fatal(b, err)
				}
			}
			p, err := m.Policy(v.ID)
			fatal(b, err)
			if len(p.Restrictions) != hosts || len(p.Restrictions[0].In[0].Remotes) != hosts {
				b.Fatalf("%d restrictions", len(p.Restrictions))
			}
			e, err := nat.New(nat.Config{Seed: 1}, p)
			fatal(b, err)
			var compile, apply time.Duration
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				p, err := m.Policy(v.ID)
				fatal(b, err)
				compile += time.Since(start)
				start = time.Now()
				_, err = e.Apply(p, 0)
				fatal(b, err)
				apply += time.Since(start)
			}
			b.ReportMetric(compile.Seconds()*1e3/float64(b.N), "policy-ms")
			b.ReportMetric(apply.Seconds()*1e3/float64(b.N), "apply-ms")
		})
	}
}

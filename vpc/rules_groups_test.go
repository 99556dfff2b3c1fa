// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/nat"
)

func (r *rules) attachIGW(t *rapid.T) {
	g, v := pick(t, "igw", r.igws), pick(t, "vpc", r.vpcs)
	var why reasons
	at, ok := r.igws[g]
	why.add(!ok, InternetGatewayNotFound)
	why.add(r.vpcs[v] == nil, VPCNotFound)
	why.add(at != "", AlreadyAssociated)
	why.add(r.hasGateway(v), InvalidParameterValue)
	if answered(t, r.m.AttachInternetGateway(g, v), why) {
		r.igws[g] = v
	}
}

func (r *rules) detachIGW(t *rapid.T) {
	g, v := pick(t, "igw", r.igws), pick(t, "vpc", r.vpcs)
	var why reasons
	at, ok := r.igws[g]
	why.add(!ok, InternetGatewayNotFound)
	why.add(r.vpcs[v] == nil, VPCNotFound)
	why.add(ok && at != v, GatewayNotAttached)
	for _, i := range r.ifaces {
		why.add(i.lent.IsValid() && r.vpcOf(i) == v, DependencyViolation)
	}
	for _, e := range r.eips {
		why.add(e.iface != "" && r.vpcOf(r.ifaces[e.iface]) == v, DependencyViolation)
		why.add(e.nat != "" && r.subnets[r.nats[e.nat].subnet].vpc == v, DependencyViolation)
	}
	if answered(t, r.m.DetachInternetGateway(g, v), why) {
		r.igws[g] = ""
	}
}

func (r *rules) join(t *rapid.T) {
	g, v := pick(t, "transit", r.tgws), pick(t, "vpc", r.vpcs)
	var why reasons
	why.add(!r.tgws[g], TransitGatewayNotFound)
	why.add(r.vpcs[v] == nil, VPCNotFound)
	for _, j := range r.joined {
		why.add(j == [2]string{g, v}, TransitAttachmentDuplicate)
	}
	a, err := r.m.CreateTransitGatewayVPCAttachment(g, v)
	if answered(t, err, why) {
		r.joined[a.ID] = [2]string{g, v}
	}
}

func (r *rules) leave(t *rapid.T) {
	a := pick(t, "attachment", r.joined)
	var why reasons
	_, ok := r.joined[a]
	why.add(!ok, TransitAttachmentNotFound)
	if answered(t, r.m.DeleteTransitGatewayVPCAttachment(a), why) {
		delete(r.joined, a)
	}
}

func (r *rules) createGroup(t *rapid.T) {
	v := pick(t, "vpc", r.vpcs)
	var why reasons
	why.add(r.vpcs[v] == nil, VPCNotFound)
	g, err := r.m.CreateSecurityGroup(v, fmt.Sprint("group ", r.m.seq), "of a test")
	if answered(t, err, why) {
		r.groups[g.ID] = &ruleGroup{v, [2]map[SecurityGroupRule]bool{{}, {{Protocol: -1, CIDR: everything}: true}}}
	}
}

func (r *rules) deleteGroup(t *rapid.T) {
	id := pick(t, "group", r.groups)
	var why reasons
	why.add(r.groups[id] == nil, GroupNotFound)
	for _, v := range r.vpcs {
		why.add(v.group == id, CannotDelete)
	}
	for _, i := range r.ifaces {
		why.add(slices.Contains(i.groups, id), DependencyViolation)
	}
	for other, g := range r.groups {
		for _, way := range g.ways {
			for rule := range way {
				why.add(rule.GroupID == id && other != id, DependencyViolation)
			}
		}
	}
	if answered(t, r.m.DeleteSecurityGroup(id), why) {
		delete(r.groups, id)
	}
}

// rule draws one of few, and says why a group of the VPC cannot have it.
func (r *rules) rule(t *rapid.T, vpc string) (rule SecurityGroupRule, why reasons) {
	rule = rapid.SampledFrom([]SecurityGroupRule{
		{Protocol: -1}, {Protocol: 6, FromPort: 80, ToPort: 80}, {Protocol: 6, FromPort: 0, ToPort: 65535}, {Protocol: 17, FromPort: 50, ToPort: 60},
		{Protocol: 1, FromPort: 8, ToPort: -1}, {Protocol: 1, FromPort: -1, ToPort: -1}, {Protocol: 50}, {Protocol: 6, FromPort: 2, ToPort: 1},
	}).Draw(t, "rule")
	why.add(rule.FromPort > rule.ToPort && rule.Protocol == 6, InvalidParameterValue)
	if rapid.Bool().Draw(t, "by group") {
		rule.GroupID = pick(t, "peer", r.groups)
		g := r.groups[rule.GroupID]
		why.add(g == nil || g.vpc != vpc, GroupNotFound)
	} else {
		rule.CIDR = prefix(rapid.SampledFrom([]string{"0.0.0.0/0", "10.0.1.0/28", "203.0.113.0/24"}).Draw(t, "peer"))
	}
	return rule, why
}

func (r *rules) authorize(t *rapid.T) {
	id, way := pick(t, "group", r.groups), rapid.IntRange(0, 1).Draw(t, "way")
	g := r.groups[id]
	vpc := ""
	if g != nil {
		vpc = g.vpc
	}
	rule, why := r.rule(t, vpc)
	why.add(g == nil, GroupNotFound)
	if g != nil {
		why.add(g.ways[way][rule], PermissionDuplicate)
		why.add(len(g.ways[way]) >= 3, RulesPerGroupExceeded)
	}
	call := r.m.AuthorizeSecurityGroupIngress
	if way == 1 {
		call = r.m.AuthorizeSecurityGroupEgress
	}
	_, err := call(id, []SecurityGroupRule{rule})
	if answered(t, err, why) {
		g.ways[way][rule] = true
	}
}

func (r *rules) revoke(t *rapid.T) {
	id, way := pick(t, "group", r.groups), rapid.IntRange(0, 1).Draw(t, "way")
	g := r.groups[id]
	vpc := ""
	if g != nil {
		vpc = g.vpc
	}
	rule, why := r.rule(t, vpc)
	why.add(g == nil, GroupNotFound)
	why.add(g != nil && !g.ways[way][rule], PermissionNotFound)
	call := r.m.RevokeSecurityGroupIngress
	if way == 1 {
		call = r.m.RevokeSecurityGroupEgress
	}
	_, err := call(id, []SecurityGroupRule{rule})
	if answered(t, err, why) {
		delete(g.ways[way], rule)
	}
}

func (r *rules) regroup(t *rapid.T) {
	id, i, why := r.iface(t)
	vpc := ""
	if i != nil {
		vpc = r.vpcOf(i)
	}
	groups, also := r.someGroups(t, vpc)
	if i != nil {
		why = append(why, also...)
	}
	why.add(len(groups) == 0, MissingParameter)
	if answered(t, r.m.ModifyNetworkInterfaceAttribute(id, groups), why) {
		i.groups = distinct(groups)
	}
}

// allowed says whether the groups of an interface let a session begin with somebody.
func (r *rules) allowed(i *ruleIface, way int, with netip.Addr, protocol, port int) bool {
	for _, g := range i.groups {
		for rule := range r.groups[g].ways[way] {
			fits := rule.Protocol == -1 || rule.Protocol == protocol
			if rule.Protocol == 6 || rule.Protocol == 17 {
				fits = fits && rule.FromPort <= port && port <= rule.ToPort
			}
			if rule.Protocol == 1 {
				fits = fits && (rule.FromPort == -1 || rule.FromPort == port>>8)
			}
			if !fits {
				continue
			}
			if rule.CIDR.IsValid() && rule.CIDR.Contains(with) {
				return true
			}
			for _, n := range r.ifaces {
				if rule.GroupID != "" && slices.Contains(n.groups, rule.GroupID) && slices.Contains(n.ips, with) {
					return true
				}
			}
		}
	}
	return false
}

// groupMatrix asks for every interface and everybody whether the restrictions of the policy let a session begin.
func (r *rules) groupMatrix(t *rapid.T) {
	for v := range r.vpcs {
		p, err := r.m.Policy(v)
		fatal(t, err)
		restrictions := map[string]nat.Restriction{}
		for _, l := range p.Restrictions {
			restrictions[l.Name] = l
		}
		everybody := []netip.Addr{internet, peer, addr("10.0.1.15"), addr("192.0.2.77")}
		for ip, here := range r.taken(v) {
			if here {
				everybody = append(everybody, ip)
			}
		}
		for id, i := range r.ifaces {
			if r.vpcOf(i) != v || i.host == "" || r.hosts[i.host].state != Running {
				if _, ok := restrictions[id]; ok {
					t.Fatalf("a restriction for %s, which runs nowhere in %s", id, v)
				}
				continue
			}
			l, restricted := restrictions[id]
			if restricted && !slices.Equal(l.Hosts, i.ips) {
				t.Fatalf("%s: hosts %v, want %v", id, l.Hosts, i.ips)
			}
			for _, with := range everybody {
				for _, s := range [][2]int{{6, 80}, {6, 1}, {17, 53}, {17, 1}, {1, 8 << 8}, {1, 3<<8 | 4}, {50, 0}, {47, 0}} {
					for way, allows := range [][]nat.Allow{l.In, l.Out} {
						got := !restricted || slices.ContainsFunc(allows, func(a nat.Allow) bool {
							return (a.Protocol == -1 || a.Protocol == s[0]) && int(a.PortMin) <= s[1] && s[1] <= int(a.PortMax) &&
								slices.ContainsFunc(a.Remotes, func(p netip.Prefix) bool { return p.Contains(with) })
						})
						if want := r.allowed(i, way, with, s[0], s[1]); got != want {
							t.Fatalf("%s, way %d, with %v, %v: allowed %v, want %v", id, way, with, s, got, want)
						}
					}
				}
			}
		}
	}
}

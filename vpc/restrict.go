// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// restrictions compiles the security groups of a VPC: one restriction for each network interface of a running instance,
// named by its id, except for those whose groups allow everything both ways, which cost nothing. A group as a peer is the
// private addresses of its members. Interfaces in the same groups share one list of rules, which may be long.
func (m *Model) restrictions(v VPC) []nat.Restriction {
	members := map[string][]netip.Addr{}
	for n := range m.interfaces.all() {
		for _, g := range n.GroupIDs {
			for _, a := range n.Addresses {
				members[g] = append(members[g], a.PrivateIP)
			}
		}
	}
	peers := map[string][]netip.Prefix{}
	for g, ips := range members {
		peers[g] = aggregate(ips)
	}
	compiled := map[string]*ruleSet{} // by groups
	var out []nat.Restriction
	for n := range m.interfaces.all() {
		if n.VPCID != v.ID || !m.runs(n) {
			continue
		}
		groups := strings.Join(n.GroupIDs, " ")
		if compiled[groups] == nil {
			compiled[groups] = m.rulesOf(n.GroupIDs, peers)
		}
		c := compiled[groups]
		if c.open {
			continue
		}
		r := nat.Restriction{Name: n.ID, In: c.in, Out: c.out}
		for _, a := range n.Addresses {
			r.Hosts = append(r.Hosts, a.PrivateIP)
		}
		out = append(out, r)
	}
	return out
}

// ruleSet is the rules of some security groups taken together, unless they are open, that is, allow everything both
// ways.
type ruleSet struct {
	open    bool
	in, out []nat.Allow
}

func (m *Model) rulesOf(groupIDs []string, peers map[string][]netip.Prefix) *ruleSet {
	var in, out []SecurityGroupRule
	for _, id := range groupIDs {
		in = append(in, m.groups.byID[id].Ingress...)
		out = append(out, m.groups.byID[id].Egress...)
	}
	if slices.ContainsFunc(in, allowsAll) && slices.ContainsFunc(out, allowsAll) {
		return &ruleSet{open: true}
	}
	return &ruleSet{in: allows(in, peers), out: allows(out, peers)}
}

// runs reports whether the interface is that of a running instance.
func (m *Model) runs(n NetworkInterface) bool {
	return n.InstanceID != "" && m.instances.byID[n.InstanceID].State == Running
}

// allowsAll reports whether nothing is left to be allowed.
func allowsAll(r SecurityGroupRule) bool { return r.Protocol == AllProtocols && r.CIDR == anywhere }

// allows compiles rules: one nat.Allow for each protocol and range of ports, with all who may.
func allows(rules []SecurityGroupRule, peers map[string][]netip.Prefix) []nat.Allow {
	var out []nat.Allow
	for _, r := range rules {
		remotes := peers[r.GroupID]
		if r.CIDR.IsValid() {
			remotes = []netip.Prefix{r.CIDR}
		}
		if len(remotes) == 0 { // a group without members: nobody, where a nat.Allow without Remotes is everybody
			continue
		}
		a := nat.Allow{Protocol: r.Protocol}
		a.PortMin, a.PortMax = portRange(r)
		i := slices.IndexFunc(out, func(o nat.Allow) bool {
			return o.Protocol == a.Protocol && o.PortMin == a.PortMin && o.PortMax == a.PortMax
		})
		if i < 0 {
			i = len(out)
			out = append(out, a)
		}
		for _, p := range remotes {
			if !slices.Contains(out[i].Remotes, p) {
				out[i].Remotes = append(out[i].Remotes, p)
			}
		}
	}
	return out
}

// portRange is how a nat.Allow says the ports of a rule, or its ICMP type and code.
func portRange(r SecurityGroupRule) (first, last uint16) {
	switch {
	case r.Protocol == packet.TCP || r.Protocol == packet.UDP:
		return uint16(r.FromPort), uint16(r.ToPort)
	case r.Protocol != packet.ICMP || r.FromPort == AnyICMP:
		return 0, 65535
	case r.ToPort == AnyICMP:
		return uint16(r.FromPort) << 8, uint16(r.FromPort)<<8 | 255
	default:
		code := uint16(r.FromPort)<<8 | uint16(r.ToPort)
		return code, code
	}
}

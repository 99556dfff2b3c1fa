// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/packet"
)

// Restriction is what the security groups of a network interface come to. What starts a session in neither direction is
// refused; answers pass.
type Restriction struct {
	// Name is the id of the interface.
	Name string
	// Hosts are its private addresses.
	Hosts []netip.Addr
	// In is what may come to them, Out what they may send.
	In, Out []Allow
}

// Allow lets a session begin.
type Allow struct {
	// Protocol is the number of an IP protocol, or -1 for all.
	Protocol int
	// PortMin and PortMax bound, for TCP and UDP, the port that is talked to: of the host if in, of the remote if out. For
	// ICMP they bound type<<8|code. For others they have no meaning, and are 0 and 65535.
	PortMin, PortMax uint16
	// Remotes are who may be at the other end. None is nobody.
	Remotes []netip.Prefix
}

// Restrictions compiles the security groups of one VPC: one restriction for each network interface of a running instance,
// in the order in which they were made, except for those whose groups allow everything both ways, which cost nothing. A
// group as a peer is the private addresses of its members.
//
// The result shares nothing with the model.
func (m *Model) Restrictions(vpcID string) ([]Restriction, error) {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return nil, err
	}
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
	var out []Restriction
	for n := range m.interfaces.all() {
		if n.VPCID != v.ID || !m.runs(n) {
			continue
		}
		var in, eg []SecurityGroupRule
		for _, id := range n.GroupIDs {
			in = append(in, m.groups.byID[id].Ingress...)
			eg = append(eg, m.groups.byID[id].Egress...)
		}
		if slices.ContainsFunc(in, allowsAll) && slices.ContainsFunc(eg, allowsAll) {
			continue
		}
		r := Restriction{Name: n.ID, In: allows(in, peers), Out: allows(eg, peers)}
		for _, a := range n.Addresses {
			r.Hosts = append(r.Hosts, a.PrivateIP)
		}
		out = append(out, r)
	}
	return out, nil
}

// runs reports whether the interface is that of a running instance.
func (m *Model) runs(n NetworkInterface) bool {
	return n.InstanceID != "" && m.instances.byID[n.InstanceID].State == Running
}

// allowsAll reports whether nothing is left to be allowed.
func allowsAll(r SecurityGroupRule) bool { return r.Protocol == AllProtocols && r.CIDR == anywhere }

// allows compiles rules: one Allow for each protocol and range of ports, with all who may.
func allows(rules []SecurityGroupRule, peers map[string][]netip.Prefix) []Allow {
	var out []Allow
	for _, r := range rules {
		remotes := peers[r.GroupID]
		if r.CIDR.IsValid() {
			remotes = []netip.Prefix{r.CIDR}
		}
		if len(remotes) == 0 { // a group without members
			continue
		}
		a := Allow{Protocol: r.Protocol}
		a.PortMin, a.PortMax = portRange(r)
		i := slices.IndexFunc(out, func(o Allow) bool {
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

// portRange is how Allow says the ports of a rule, or its ICMP type and code.
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

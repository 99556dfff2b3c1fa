// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tidegate/tidegate/packet"
)

// SecurityGroup says who may talk to the network interfaces that are in it. It allows; what none of the groups of an
// interface allows is refused. Answers to what was allowed pass.
type SecurityGroup struct {
	ID, VPCID, Name, Description string
	// Ingress is what may come in, Egress what may go out.
	Ingress, Egress []SecurityGroupRule
}

// SecurityGroupRule allows packets of a protocol, to or from somebody.
type SecurityGroupRule struct {
	// ID is given by the model; in calls it has no meaning.
	ID string
	// Protocol is the number of an IP protocol, or AllProtocols.
	Protocol int
	// FromPort and ToPort are for TCP and UDP the destination ports, both included, and for ICMP type and code, of which
	// AnyICMP is any. For others they have no meaning, and are AnyICMP in what the model returns.
	FromPort, ToPort int
	// The peer: an IPv4 prefix, or a security group of the VPC, which is the private addresses of its members.
	CIDR    netip.Prefix
	GroupID string
}

const (
	// AllProtocols is any protocol, at any port.
	AllProtocols = -1
	// AnyICMP is any ICMP type or code.
	AnyICMP = -1

	defaultGroupName = "default"
)

var anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// CreateSecurityGroup makes a group that lets everything out and nothing in. The name is the only one in its VPC.
func (m *Model) CreateSecurityGroup(vpcID, name, description string) (SecurityGroup, error) {
	none := SecurityGroup{}
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return none, err
	}
	switch {
	case name == "" || description == "":
		return none, refuse(MissingParameter, "a security group has a name and a description")
	case len(name) > 255 || len(description) > 255 || strings.HasPrefix(name, "sg-") || name == defaultGroupName:
		return none, refuse(InvalidParameterValue, "the name %q: not %q, not beginning with sg-; name and description with at most 255 bytes", name, defaultGroupName)
	}
	for g := range m.groups.all() {
		if g.VPCID == v.ID && g.Name == name {
			return none, refuse(GroupDuplicate, "%s has the name %q in %s", g.ID, name, v.ID)
		}
	}
	if err := bounded(len(m.groups.ids), 1, m.cfg.Quotas.Groups, SecurityGroupLimitExceeded, "security groups"); err != nil {
		return none, err
	}
	g := SecurityGroup{ID: m.newID("sg"), VPCID: v.ID, Name: name, Description: description, Egress: []SecurityGroupRule{m.toAnywhere()}}
	m.groups.put(g.ID, g)
	return g.clone(), nil
}

// addDefaultGroup makes the default group of a new VPC: everything out, and in from one another.
func (m *Model) addDefaultGroup(vpcID string) (id string) {
	g := SecurityGroup{ID: m.newID("sg"), VPCID: vpcID, Name: defaultGroupName, Description: "default VPC security group"}
	g.Egress = []SecurityGroupRule{m.toAnywhere()}
	g.Ingress = []SecurityGroupRule{{ID: m.newID("sgr"), Protocol: AllProtocols, FromPort: AnyICMP, ToPort: AnyICMP, GroupID: g.ID}}
	m.groups.put(g.ID, g)
	return g.ID
}

func (m *Model) toAnywhere() SecurityGroupRule {
	return SecurityGroupRule{ID: m.newID("sgr"), Protocol: AllProtocols, FromPort: AnyICMP, ToPort: AnyICMP, CIDR: anywhere}
}

// DeleteSecurityGroup deletes a group that no network interface is in and that no rule of another group names. The
// default group stays as long as its VPC.
func (m *Model) DeleteSecurityGroup(groupID string) error {
	g, err := m.groups.find(groupID, GroupNotFound)
	if err != nil {
		return err
	}
	if m.vpcs.byID[g.VPCID].DefaultGroupID == g.ID {
		return refuse(CannotDelete, "%s is the default group of %s", g.ID, g.VPCID)
	}
	for n := range m.interfaces.all() {
		if slices.Contains(n.GroupIDs, g.ID) {
			return refuse(DependencyViolation, "%s is in %s; change its groups first", n.ID, g.ID)
		}
	}
	names := func(r SecurityGroupRule) bool { return r.GroupID == g.ID }
	for other := range m.groups.all() {
		if other.ID != g.ID && (slices.ContainsFunc(other.Ingress, names) || slices.ContainsFunc(other.Egress, names)) {
			return refuse(DependencyViolation, "a rule of %s names %s; revoke it first", other.ID, g.ID)
		}
	}
	m.groups.del(g.ID)
	return nil
}

// AuthorizeSecurityGroupIngress adds rules for what comes in: all, or none if one is refused.
func (m *Model) AuthorizeSecurityGroupIngress(groupID string, rules []SecurityGroupRule) (SecurityGroup, error) {
	return m.changeRules(groupID, (*SecurityGroup).ingress, rules, m.authorize)
}

// AuthorizeSecurityGroupEgress adds rules for what goes out.
func (m *Model) AuthorizeSecurityGroupEgress(groupID string, rules []SecurityGroupRule) (SecurityGroup, error) {
	return m.changeRules(groupID, (*SecurityGroup).egress, rules, m.authorize)
}

// RevokeSecurityGroupIngress removes rules for what comes in: all, or none if there is one that the group does not have.
func (m *Model) RevokeSecurityGroupIngress(groupID string, rules []SecurityGroupRule) (SecurityGroup, error) {
	return m.changeRules(groupID, (*SecurityGroup).ingress, rules, m.revoke)
}

// RevokeSecurityGroupEgress removes rules for what goes out.
func (m *Model) RevokeSecurityGroupEgress(groupID string, rules []SecurityGroupRule) (SecurityGroup, error) {
	return m.changeRules(groupID, (*SecurityGroup).egress, rules, m.revoke)
}

func (g *SecurityGroup) ingress() *[]SecurityGroupRule { return &g.Ingress }
func (g *SecurityGroup) egress() *[]SecurityGroupRule  { return &g.Egress }

// changeRules replaces one list of a group by what change makes of it.
func (m *Model) changeRules(groupID string, of func(*SecurityGroup) *[]SecurityGroupRule, rules []SecurityGroupRule,
	change func(have, rules []SecurityGroupRule) ([]SecurityGroupRule, error)) (SecurityGroup, error) {
	none := SecurityGroup{}
	g, err := m.groups.find(groupID, GroupNotFound)
	if err != nil {
		return none, err
	}
	if len(rules) == 0 {
		return none, refuse(MissingParameter, "no rule is named")
	}
	rules = slices.Clone(rules)
	for i := range rules {
		if rules[i], err = m.checkRule(g.VPCID, rules[i]); err != nil {
			return none, err
		}
	}
	list := of(&g)
	if *list, err = change(*list, rules); err != nil {
		return none, err
	}
	m.groups.put(g.ID, g)
	return g.clone(), nil
}

// authorize is a list with more rules, which get ids.
func (m *Model) authorize(have, rules []SecurityGroupRule) ([]SecurityGroupRule, error) {
	list := slices.Clone(have)
	for _, r := range rules {
		if ruleIn(list, r) >= 0 {
			return nil, refuse(PermissionDuplicate, "the rule is there already, or named twice: %v", r)
		}
		list = append(list, r)
	}
	if err := bounded(len(have), len(rules), m.cfg.Quotas.RulesPerGroup, RulesPerGroupExceeded, "rules"); err != nil {
		return nil, err
	}
	for i := len(have); i < len(list); i++ {
		list[i].ID = m.newID("sgr")
	}
	return list, nil
}

// revoke is a list without rules.
func (m *Model) revoke(have, rules []SecurityGroupRule) ([]SecurityGroupRule, error) {
	list := slices.Clone(have)
	for _, r := range rules {
		i := ruleIn(list, r)
		if i < 0 {
			return nil, refuse(PermissionNotFound, "there is no such rule, or it is named twice: %v", r)
		}
		list = slices.Delete(list, i, i+1)
	}
	return list, nil
}

// ruleIn is the place of a rule in a list, whatever its id, or -1.
func ruleIn(list []SecurityGroupRule, r SecurityGroupRule) int {
	return slices.IndexFunc(list, func(have SecurityGroupRule) bool { r.ID = have.ID; return have == r })
}

// checkRule is the rule in the form in which it is kept.
func (m *Model) checkRule(vpcID string, r SecurityGroupRule) (SecurityGroupRule, error) {
	r.ID = ""
	bad := func(format string, args ...any) (SecurityGroupRule, error) {
		return SecurityGroupRule{}, refuse(InvalidParameterValue, format, args...)
	}
	switch r.Protocol {
	case packet.TCP, packet.UDP:
		if r.FromPort < 0 || r.ToPort > 65535 || r.FromPort > r.ToPort {
			return bad("ports %d to %d; use 0 to 65535, the smaller first", r.FromPort, r.ToPort)
		}
	case packet.ICMP:
		if r.FromPort < AnyICMP || r.FromPort > 255 || r.ToPort < AnyICMP || r.ToPort > 255 || r.FromPort == AnyICMP && r.ToPort != AnyICMP {
			return bad("ICMP type %d and code %d; use 0 to 255, or %d for any, and a code only with a type", r.FromPort, r.ToPort, AnyICMP)
		}
	default:
		if r.Protocol < AllProtocols || r.Protocol > 255 {
			return bad("protocol %d; use 0 to 255, or %d for all", r.Protocol, AllProtocols)
		}
		r.FromPort, r.ToPort = AnyICMP, AnyICMP
	}
	switch {
	case r.CIDR.IsValid() == (r.GroupID != ""):
		return bad("a rule names a prefix or a security group, one of both")
	case r.GroupID != "":
		if g, err := m.groups.find(r.GroupID, GroupNotFound); err != nil || g.VPCID != vpcID {
			return SecurityGroupRule{}, refuse(GroupNotFound, "%s has no security group %q", vpcID, r.GroupID)
		}
	case !r.CIDR.Addr().Is4():
		return bad("%v is no IPv4 prefix", r.CIDR)
	}
	if r.CIDR.IsValid() {
		r.CIDR = r.CIDR.Masked()
	}
	return r, nil
}

// checkGroups are the groups of a network interface that is to be in these; with none it is in the default group.
func (m *Model) checkGroups(vpcID string, groupIDs []string) ([]string, error) {
	if len(groupIDs) == 0 {
		return []string{m.vpcs.byID[vpcID].DefaultGroupID}, nil
	}
	var groups []string
	for _, id := range groupIDs {
		g, err := m.groups.find(id, GroupNotFound)
		if err != nil {
			return nil, err
		}
		if g.VPCID != vpcID {
			return nil, refuse(InvalidParameter, "%s is not in %s", g.ID, vpcID)
		}
		if !slices.Contains(groups, id) {
			groups = append(groups, id)
		}
	}
	if err := bounded(0, len(groups), m.cfg.Quotas.GroupsPerInterface, GroupsPerInterfaceExceeded, "security groups"); err != nil {
		return nil, err
	}
	return groups, nil
}

// DescribeSecurityGroups lists all security groups in the order in which they were made.
func (m *Model) DescribeSecurityGroups() []SecurityGroup {
	return collect(m.groups.all(), SecurityGroup.clone)
}

func (g SecurityGroup) clone() SecurityGroup {
	g.Ingress, g.Egress = slices.Clone(g.Ingress), slices.Clone(g.Egress)
	return g
}

// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/vpc"
)

type (
	groupIn struct {
		GroupId string `required:"" help:"The security group."`
	}
	ruleIn struct {
		GroupId     string       `required:"" help:"The security group."`
		Protocol    string       `required:"" help:"tcp, udp, icmp, the number of an IP protocol, or all."`
		Port        string       `help:"For tcp and udp a port or a range, such as 8000-8080; all if this is not said. For icmp a type; any if it is not."`
		Cidr        netip.Prefix `help:"The peers: a prefix."`
		SourceGroup string       `help:"The peers: the members of a security group."`
	}
)

// groupCalls are about security groups.
var groupCalls = []Call{
	change("CreateSecurityGroup", "Make a security group that lets everything out and nothing in.", func(m *vpc.Model, _ time.Time, in *struct {
		VpcId       string `required:"" help:"The VPC."`
		GroupName   string `required:"" help:"Its name."`
		Description string `required:"" help:"What it is for."`
	}) (any, error) {
		g, err := m.CreateSecurityGroup(in.VpcId, in.GroupName, in.Description)
		return struct{ GroupId string }{g.ID}, err
	}),
	change("DeleteSecurityGroup", "Delete a security group that nothing is in.", func(m *vpc.Model, _ time.Time, in *groupIn) (any, error) {
		return struct {
			Return  bool
			GroupId string
		}{true, in.GroupId}, m.DeleteSecurityGroup(in.GroupId)
	}),
	ruleCall("AuthorizeSecurityGroupIngress", "Let something in. Answers pass without a rule.", (*vpc.Model).AuthorizeSecurityGroupIngress),
	ruleCall("AuthorizeSecurityGroupEgress", "Let something out. Answers pass without a rule.", (*vpc.Model).AuthorizeSecurityGroupEgress),
	ruleCall("RevokeSecurityGroupIngress", "Let something in no longer.", (*vpc.Model).RevokeSecurityGroupIngress),
	ruleCall("RevokeSecurityGroupEgress", "Let something out no longer.", (*vpc.Model).RevokeSecurityGroupEgress),
	read("DescribeSecurityGroups", "List security groups.", func(m *vpc.Model, in *struct {
		GroupIds []string `help:"These alone."`
	}) (any, error) {
		all, err := choose(m.DescribeSecurityGroups(), in.GroupIds, func(g vpc.SecurityGroup) string { return g.ID }, vpc.GroupNotFound, shapeGroup)
		return struct{ SecurityGroups []groupShape }{all}, err
	}),
}

// ruleCall makes the entry of a call about one rule of a group.
func ruleCall(name, help string, do func(*vpc.Model, string, []vpc.SecurityGroupRule) (vpc.SecurityGroup, error)) Call {
	return change(name, help, func(m *vpc.Model, _ time.Time, in *ruleIn) (any, error) {
		r, err := in.rule()
		if err != nil {
			return nil, err
		}
		_, err = do(m, in.GroupId, []vpc.SecurityGroupRule{r})
		return struct{ Return bool }{true}, err
	})
}

var protocols = map[string]int{"tcp": packet.TCP, "udp": packet.UDP, "icmp": packet.ICMP, "all": vpc.AllProtocols, "-1": vpc.AllProtocols}

// rule is the rule that in describes.
func (in *ruleIn) rule() (vpc.SecurityGroupRule, error) {
	r := vpc.SecurityGroupRule{CIDR: in.Cidr, GroupID: in.SourceGroup}
	bad := func(name, value string) (vpc.SecurityGroupRule, error) {
		return r, refuse(vpc.InvalidParameterValue, "%s is %q, which it cannot be", name, value)
	}
	var ok bool
	if r.Protocol, ok = protocols[in.Protocol]; !ok {
		n, err := strconv.ParseUint(in.Protocol, 10, 8)
		if err != nil {
			return bad("Protocol", in.Protocol)
		}
		r.Protocol = int(n)
	}
	from, to, ok := strings.Cut(in.Port, "-")
	if !ok {
		to = from
	}
	switch {
	case in.Port == "" && (r.Protocol == packet.TCP || r.Protocol == packet.UDP):
		r.FromPort, r.ToPort = 0, 65535
	case in.Port == "":
		r.FromPort, r.ToPort = vpc.AnyICMP, vpc.AnyICMP
	default:
		var err, err2 error
		r.FromPort, err = strconv.Atoi(from)
		if r.ToPort, err2 = strconv.Atoi(to); err != nil || err2 != nil {
			return bad("Port", in.Port)
		}
		if r.Protocol == packet.ICMP {
			r.ToPort = vpc.AnyICMP
		}
	}
	return r, nil
}

type groupShape struct {
	GroupId, GroupName, Description, VpcId string
	IpPermissions, IpPermissionsEgress     []permissionShape
}

type permissionShape struct {
	IpProtocol       string
	FromPort, ToPort *int             `json:",omitempty"`
	IpRanges         []ipRangeShape   `json:",omitempty"`
	UserIdGroupPairs []groupNameShape `json:",omitempty"`
}

type ipRangeShape struct{ CidrIp netip.Prefix }

func shapeGroup(g vpc.SecurityGroup) groupShape {
	return groupShape{g.ID, g.Name, g.Description, g.VPCID, shapePermissions(g.Ingress), shapePermissions(g.Egress)}
}

func shapePermissions(rules []vpc.SecurityGroupRule) []permissionShape {
	out := []permissionShape{}
	for _, r := range rules {
		p := permissionShape{IpProtocol: strconv.Itoa(r.Protocol)}
		switch r.Protocol {
		case packet.TCP, packet.UDP, packet.ICMP:
			p.IpProtocol = map[int]string{packet.TCP: "tcp", packet.UDP: "udp", packet.ICMP: "icmp"}[r.Protocol]
			p.FromPort, p.ToPort = &r.FromPort, &r.ToPort
		}
		if r.GroupID != "" {
			p.UserIdGroupPairs = []groupNameShape{{r.GroupID}}
		} else {
			p.IpRanges = []ipRangeShape{{r.CIDR}}
		}
		out = append(out, p)
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What marks rules and routes as ours, whichever process made them.
const (
	protocol     = 116 // in /etc/iproute2/rt_protos nobody has it
	insideTable  = 7400
	outsideTable = 7401

	ruleSpoof     = 1000
	ruleAnswers   = 1001
	ruleNeighbors = 1002
	ruleInside    = 1003
	ruleOutside   = 1004
	rulePassed    = 1005
	ruleElse      = 1006
	ruleEnd       = 1007

	guardMetric = 1 << 30 // worse than the metric 0 of the routes to the TUNs
)

// plan is the routing of the package comment.
type plan struct {
	inside, external []netip.Prefix
	insideDev        string   // "" is the guard alone
	outsideDev       string   // as insideDev
	uplinks          []string // interfaces that inside hosts are not behind
}

func (p *plan) rules() []netlink.Rule {
	var rs []netlink.Rule
	for _, to := range p.inside {
		for _, iif := range p.uplinks { // RFC 2827
			rs = append(rs, rule(netlink.Rule{Priority: ruleSpoof, Src: ipNet(to), IifName: iif,
				Type: unix.RTN_BLACKHOLE, SuppressPrefixlen: -1}))
		}
		// A shorter route, the default most of all, would take inside traffic out.
		for _, iif := range []string{"lo", p.insideDev} {
			if iif != "" {
				rs = append(rs, rule(netlink.Rule{Priority: ruleAnswers, Dst: ipNet(to), IifName: iif,
					Table: unix.RT_TABLE_MAIN, SuppressPrefixlen: to.Bits() - 1}))
			}
		}
		for _, from := range p.inside {
			rs = append(rs, rule(netlink.Rule{Priority: ruleNeighbors, Src: ipNet(from), Dst: ipNet(to),
				Table: unix.RT_TABLE_MAIN, SuppressPrefixlen: to.Bits() - 1}))
		}
		rs = append(rs, rule(netlink.Rule{Priority: ruleInside, Src: ipNet(to), Table: insideTable, SuppressPrefixlen: -1}))
	}
	rs = append(rs, rule(netlink.Rule{Priority: ruleOutside, Table: outsideTable, SuppressPrefixlen: -1}))
	if p.insideDev != "" {
		rs = append(rs,
			rule(netlink.Rule{Priority: ruleInside, Src: ipNet(insideDummy), IifName: "lo", Table: insideTable, SuppressPrefixlen: -1}),
			rule(netlink.Rule{Priority: ruleEnd, Type: actionNop, SuppressPrefixlen: -1}),
			rule(netlink.Rule{Priority: rulePassed, IifName: p.outsideDev, Goto: ruleEnd, SuppressPrefixlen: -1}))
	}
	return append(rs, rule(netlink.Rule{Priority: ruleElse, IifName: "lo", Invert: true, Type: unix.RTN_BLACKHOLE, SuppressPrefixlen: -1}))
}

// actionNop is FR_ACT_NOP: such a rule is a place to go to.
const actionNop = 3

// rule fills in what all of ours have.
func rule(r netlink.Rule) netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Protocol = unix.AF_INET, protocol
	n.Priority, n.Table, n.SuppressPrefixlen = r.Priority, r.Table, r.SuppressPrefixlen
	n.Src, n.Dst, n.IifName, n.Type, n.Invert = r.Src, r.Dst, r.IifName, r.Type, r.Invert
	if r.Goto > 0 {
		n.Goto = r.Goto
	}
	return *n
}

var everything = netip.MustParsePrefix("0.0.0.0/0")

// guard is the routes that refuse.
func (p *plan) guard() []netlink.Route {
	rs := []netlink.Route{route(insideTable, everything, unix.RTN_UNREACHABLE, guardMetric)}
	for _, in := range p.inside {
		rs = append(rs,
			route(insideTable, in, unix.RTN_UNREACHABLE, guardMetric),
			// From outside; whoever knocks there hears as little as from the engine.
			route(outsideTable, in, unix.RTN_BLACKHOLE, guardMetric))
	}
	for _, e := range p.external {
		rs = append(rs, route(outsideTable, e, unix.RTN_UNREACHABLE, guardMetric))
	}
	return rs
}

// ways are the routes to the TUNs. Errors that the kernel sends to external addresses have the source self, if it is
// valid.
func (p *plan) ways(insideIndex, outsideIndex int, self netip.Addr) []netlink.Route {
	to := func(table int, dst netip.Prefix, index int) netlink.Route {
		r := route(table, dst, unix.RTN_UNICAST, 0)
		r.LinkIndex, r.Scope = index, netlink.SCOPE_LINK
		if self.IsValid() && index == outsideIndex {
			r.Src = self.AsSlice()
		}
		return r
	}
	rs := []netlink.Route{to(insideTable, everything, insideIndex)}
	for _, dst := range slices.Concat(p.inside, p.external) {
		rs = append(rs, to(outsideTable, dst, outsideIndex))
	}
	return rs
}

func route(table int, dst netip.Prefix, kind, metric int) netlink.Route {
	return netlink.Route{Table: table, Dst: ipNet(dst), Type: kind, Priority: metric, Protocol: protocol, Family: unix.AF_INET}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return everything
	}
	a, _ := netip.AddrFromSlice(n.IP.To4())
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits)
}

// ruleKey is what tells our rules from each other; the list that the kernel returns lacks the rest.
type ruleKey struct {
	priority, table, suppress int
	src, dst                  netip.Prefix
	iif                       string
}

func keyOf(r *netlink.Rule) ruleKey {
	return ruleKey{r.Priority, r.Table, r.SuppressPrefixlen, prefixOf(r.Src), prefixOf(r.Dst), r.IifName}
}

// apply brings the guard and the rules to what p says, whatever was there: first what refuses, then the rules, then
// away with what is left of other times. At no moment is there less than before.
func (p *plan) apply(nl *netlink.Handle) error {
	if err := p.add(nl); err != nil {
		return err
	}
	have, err := ourRules(nl)
	if err != nil {
		return err
	}
	want := map[ruleKey]bool{}
	for _, r := range p.rules() {
		want[keyOf(&r)] = true
	}
	for k, r := range have {
		if !want[k] {
			if err := nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete the old routing rule %d: %w", r.Priority, err)
			}
		}
	}
	return p.deleteStale(nl)
}

// add is the first half of apply: it takes nothing away.
func (p *plan) add(nl *netlink.Handle) error {
	for _, r := range p.guard() {
		if err := nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("add guard route %s: %w", prefixOf(r.Dst), err)
		}
	}
	have, err := ourRules(nl)
	if err != nil {
		return err
	}
	for _, r := range p.rules() {
		if _, ok := have[keyOf(&r)]; ok {
			continue
		}
		if err := nl.RuleAdd(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add routing rule: %w", err)
		}
	}
	return nil
}

// deleteStale deletes our routes of other prefixes.
func (p *plan) deleteStale(nl *netlink.Handle) error {
	type key struct {
		table int
		dst   netip.Prefix
	}
	want := map[key]bool{}
	for _, r := range p.guard() {
		want[key{r.Table, prefixOf(r.Dst)}] = true
	}
	have, err := ourRoutes()
	if err != nil {
		return err
	}
	for _, r := range have {
		if !want[key{r.Table, prefixOf(r.Dst)}] {
			if err := nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("delete the old route %s: %w", prefixOf(r.Dst), err)
			}
		}
	}
	return nil
}

func ourRules(nl *netlink.Handle) (map[ruleKey]netlink.Rule, error) {
	all, err := nl.RuleList(unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	ours := map[ruleKey]netlink.Rule{}
	for _, r := range all {
		if r.Protocol == protocol {
			ours[keyOf(&r)] = r
		}
	}
	return ours, nil
}

// ourRoutes are all routes of our tables, in a stable order.
func ourRoutes() ([]netlink.Route, error) {
	var ours []netlink.Route
	for _, t := range []int{insideTable, outsideTable} {
		rs, err := tableRoutes(t)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		slices.SortStableFunc(rs, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
		ours = append(ours, rs...)
	}
	return ours, nil
}

// tableRoutes are the IPv4 routes of a table, in the network namespace of the thread. The kernel is asked for that table
// alone (Linux 4.20), which netlink.Handle cannot: the main table of a router may have a million.
func tableRoutes(table int) (routes []netlink.Route, err error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE) // to nothing
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	// An older kernel sends all, which are looked through below.
	_ = unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}})
	req.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(uint32(table))))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if errors.Is(err, unix.ENOENT) { // no such table, so no routes in it
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		head := nl.DeserializeRtMsg(m)
		attrs, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, err
		}
		r := netlink.Route{Family: unix.AF_INET, Table: int(head.Table), Type: int(head.Type), Scope: netlink.Scope(head.Scope),
			Protocol: netlink.RouteProtocol(head.Protocol), Tos: int(head.Tos), Dst: ipNet(everything)}
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.RTA_TABLE:
				r.Table = int(nl.NativeEndian().Uint32(a.Value))
			case unix.RTA_DST:
				r.Dst = &net.IPNet{IP: a.Value, Mask: net.CIDRMask(int(head.Dst_len), 32)}
			case unix.RTA_OIF:
				r.LinkIndex = int(nl.NativeEndian().Uint32(a.Value))
			case unix.RTA_PRIORITY:
				r.Priority = int(nl.NativeEndian().Uint32(a.Value))
			case unix.RTA_PREFSRC:
				r.Src = a.Value
			case unix.RTA_GATEWAY:
				r.Gw = a.Value
			}
		}
		if r.Table == table && head.Flags&unix.RTM_F_CLONED == 0 {
			routes = append(routes, r)
		}
	}
	return routes, nil
}

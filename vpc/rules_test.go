// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rules is a second model, naive and independent of the first: plain maps, written from the rules of Amazon VPC. It
// takes from the first only what nobody can foresee: ids, and which idle public address is given away, which it checks.
// Of each call it says every reason to refuse it; the model must name one of them, or succeed if there is none.
type rules struct {
	tb  testing.TB
	m   *Model
	now time.Time

	vpcs    map[string]*ruleVPC
	subnets map[string]*ruleSubnet
	tables  map[string]*ruleTable
	igws    map[string]string    // the VPC that each is attached to
	tgws    map[string]bool      // transit gateways
	joined  map[string][2]string // their attachments: transit gateway, VPC
	hosts   map[string]*ruleHost
	ifaces  map[string]*ruleIface
	eips    map[string]*ruleEIP
	nats    map[string]*ruleNAT
	groups  map[string]*ruleGroup
	idle    map[netip.Addr]time.Time // from when on it may be given away
}

type ruleVPC struct{ mainTable, mainAssociation, group string }

type ruleSubnet struct {
	vpc, table, association string // table: "" is the main one
	cidr                    netip.Prefix
	auto                    bool
}

type ruleTable struct {
	vpc    string
	routes map[netip.Prefix]string
}

type ruleHost struct {
	state   InstanceState
	auto    bool
	primary string
	vpc     string
}

type ruleIface struct {
	subnet, host, attachment string
	index                    int
	ips                      []netip.Addr
	lent                     netip.Addr
	groups                   []string
}

type ruleEIP struct {
	ip                      netip.Addr
	association, iface, nat string
	at                      netip.Addr
}

type ruleNAT struct {
	subnet  string
	private bool
	addrs   []ruleNATAddr
}

type ruleNATAddr struct {
	eip   string
	ip    netip.Addr
	until time.Time
}

type ruleGroup struct {
	vpc  string
	ways [2]map[SecurityGroupRule]bool // in, out
}

const (
	ruleQuota = 6
	ruleRest  = time.Minute
)

// internet, peer and outsiders: hosts that are no part of the model.
var internet, peer = addr("203.0.113.9"), addr("172.16.0.5")

func newRules(t *rapid.T, tb testing.TB) *rules {
	m, err := New(Config{
		Seed: 1, PublicPool: []netip.Prefix{prefix("198.51.100.16/28")}, AddressQuota: ruleQuota, CoolDown: ruleRest,
		Quotas: Quotas{NATAddresses: 2, InterfacesPerInstance: 2, AddressesPerInterface: 3, Interfaces: 10, GroupsPerInterface: 2, RulesPerGroup: 3},
	})
	fatal(t, err)
	r := &rules{
		tb: tb, m: m, now: t0,
		vpcs: map[string]*ruleVPC{}, subnets: map[string]*ruleSubnet{}, tables: map[string]*ruleTable{}, igws: map[string]string{},
		tgws: map[string]bool{}, joined: map[string][2]string{}, hosts: map[string]*ruleHost{}, ifaces: map[string]*ruleIface{},
		eips: map[string]*ruleEIP{}, nats: map[string]*ruleNAT{}, groups: map[string]*ruleGroup{}, idle: map[netip.Addr]time.Time{},
	}
	for ip := addr("198.51.100.16"); ip != addr("198.51.100.32"); ip = ip.Next() {
		r.idle[ip] = t0
	}
	r.tgws[m.CreateTransitGateway().ID] = true
	for range 2 { // of the same addresses
		v, err := m.CreateVPC(prefix("10.0.0.0/16"))
		fatal(t, err)
		r.vpcs[v.ID] = &ruleVPC{v.MainRouteTableID, v.MainAssociationID, v.DefaultGroupID}
		r.tables[v.MainRouteTableID] = &ruleTable{v.ID, map[netip.Prefix]string{}}
		all := SecurityGroupRule{Protocol: -1, CIDR: everything}
		r.groups[v.DefaultGroupID] = &ruleGroup{v.ID, [2]map[SecurityGroupRule]bool{
			{{Protocol: -1, GroupID: v.DefaultGroupID}: true}, {all: true},
		}}
		g := m.CreateInternetGateway().ID
		fatal(t, m.AttachInternetGateway(g, v.ID))
		r.igws[g] = v.ID
		table, err := m.CreateRouteTable(v.ID)
		fatal(t, err)
		fatal(t, m.CreateRoute(table.ID, everything, g))
		r.tables[table.ID] = &ruleTable{v.ID, map[netip.Prefix]string{everything: g}}
		for i, cidr := range []string{"10.0.1.0/28", "10.0.2.0/28"} {
			s, err := m.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix(cidr), MapPublicIPOnLaunch: i == 0})
			fatal(t, err)
			r.subnets[s.ID] = &ruleSubnet{vpc: v.ID, cidr: prefix(cidr), auto: i == 0}
			if i == 0 {
				a, err := m.AssociateRouteTable(table.ID, s.ID)
				fatal(t, err)
				r.subnets[s.ID].table, r.subnets[s.ID].association = table.ID, a.ID
			}
		}
	}
	return r
}

// answered holds an answer of the model against the reasons to refuse, and reports success.
func answered(t *rapid.T, err error, reasons []Code) bool {
	t.Helper()
	switch {
	case err == nil && len(reasons) > 0:
		t.Fatalf("accepted, in spite of %v", reasons)
	case err != nil && !slices.ContainsFunc(reasons, func(c Code) bool { return errors.Is(err, c) }):
		t.Fatalf("refused with %v, want %v", err, reasons)
	}
	return err == nil
}

// reasons collects codes.
type reasons []Code

func (r *reasons) add(when bool, c Code) {
	if when {
		*r = append(*r, c)
	}
}

// pick draws an id that exists, most of the time.
func pick[T any](t *rapid.T, what string, of map[string]T) string {
	ids := slices.Sorted(maps.Keys(of))
	if len(ids) == 0 || rapid.IntRange(0, 19).Draw(t, "none") == 19 {
		return "none"
	}
	return rapid.SampledFrom(ids).Draw(t, what)
}

// pickDestination draws one that matters to internet, peer or public addresses, or one that a VPC cannot have.
func pickDestination(t *rapid.T) netip.Prefix {
	return prefix(rapid.SampledFrom([]string{"0.0.0.0/0", "0.0.0.0/0", "203.0.113.0/24", "172.16.0.0/16", "203.0.113.0/24", "172.16.0.0/16", "198.51.100.16/28", "10.0.3.0/24"}).Draw(t, "destination"))
}

func (r *rules) vpcOf(i *ruleIface) string { return r.subnets[i.subnet].vpc }

// taken are the private addresses in use in a VPC.
func (r *rules) taken(vpc string) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, i := range r.ifaces {
		for _, ip := range i.ips {
			out[ip] = out[ip] || r.vpcOf(i) == vpc
		}
	}
	for _, g := range r.nats {
		for _, a := range g.addrs {
			out[a.ip] = out[a.ip] || r.subnets[g.subnet].vpc == vpc
		}
	}
	return out
}

// free are the addresses that an owner in a subnet can have, the lowest first.
func (r *rules) free(subnet string) (out []netip.Addr) {
	s := r.subnets[subnet]
	taken := r.taken(s.vpc)
	b := s.cidr.Addr().As4()
	for n := byte(4); n < 15; n++ { // of sixteen: the first four and the last are reserved
		if ip := netip.AddrFrom4([4]byte{b[0], b[1], b[2], b[3] + n}); !taken[ip] {
			out = append(out, ip)
		}
	}
	return out
}

// idleNow reports whether a public address can be given away.
func (r *rules) idleNow() bool {
	for _, at := range r.idle {
		if !at.After(r.now) {
			return true
		}
	}
	return false
}

// gave books an address that the model chose.
func (r *rules) gave(t *rapid.T, ip netip.Addr) netip.Addr {
	if at, ok := r.idle[ip]; !ok || at.After(r.now) {
		t.Fatalf("%v was given away, which is not idle, or rests", ip)
	}
	delete(r.idle, ip)
	return ip
}

// eipAt is the Elastic IP at an address of an interface.
func (r *rules) eipAt(iface string, ip netip.Addr) (string, *ruleEIP) {
	for id, e := range r.eips {
		if e.iface == iface && e.at == ip {
			return id, e
		}
	}
	return "", nil
}

func (e *ruleEIP) free() { e.association, e.iface, e.nat, e.at = "", "", "", netip.Addr{} }

func (r *rules) ifacesOf(host string) (out []string) {
	for id, i := range r.ifaces {
		if host != "" && i.host == host {
			out = append(out, id)
		}
	}
	return out
}

// due reports whether AUTO-1 to AUTO-3 want an address to be lent to a host that has none.
func (r *rules) due(host string) bool {
	h := r.hosts[host]
	if h == nil || h.state != Running || !h.auto || r.ifaces[h.primary].lent.IsValid() || len(r.ifacesOf(host)) != 1 {
		return false
	}
	for _, e := range r.eips {
		if e.iface == h.primary {
			return false
		}
	}
	return true
}

// lend books what the model must have lent by now.
func (r *rules) lend(t *rapid.T, host string) {
	if r.due(host) && r.idleNow() {
		i, err := r.m.Instance(host)
		fatal(t, err)
		r.ifaces[r.hosts[host].primary].lent = r.gave(t, i.PublicIP)
	}
}

// withdraw takes back what was lent.
func (r *rules) withdraw(i *ruleIface) {
	if i.lent.IsValid() {
		r.idle[i.lent] = r.now.Add(ruleRest)
		i.lent = netip.Addr{}
	}
}

// lost lends to the host whose primary address has lost its Elastic IP.
func (r *rules) lost(t *rapid.T, was ruleEIP) {
	if i := r.ifaces[was.iface]; i != nil && i.host != "" && r.hosts[i.host].primary == was.iface && i.ips[0] == was.at {
		r.lend(t, i.host)
	}
}

// hasGateway reports whether an internet gateway is attached to the VPC.
func (r *rules) hasGateway(vpc string) bool {
	for _, v := range r.igws {
		if v == vpc {
			return true
		}
	}
	return false
}

// agree compares all that is described.
func (r *rules) agree(t *rapid.T) {
	fatal(t, r.m.Check())
	same := func(what string, ok bool, got any) {
		if !ok {
			t.Fatalf("%s: the model says %+v", what, got)
		}
	}
	for _, n := range r.m.DescribeNetworkInterfaces() {
		i := r.ifaces[n.ID]
		same("interface", i != nil && n.InstanceID == i.host && n.DeviceIndex == i.index && n.AttachmentID == i.attachment &&
			n.SubnetID == i.subnet && slices.Equal(n.GroupIDs, i.groups) && len(n.Addresses) == len(i.ips), n)
		for k, a := range n.Addresses {
			id, e := r.eipAt(n.ID, a.PrivateIP)
			want := InterfaceAddress{PrivateIP: i.ips[k]}
			if e != nil {
				want.PublicIP, want.AllocationID, want.AssociationID = e.ip, id, e.association
			} else if k == 0 {
				want.PublicIP = i.lent
			}
			same("address", a == want, a)
		}
	}
	for _, a := range r.m.DescribeAddresses() {
		e := r.eips[a.ID]
		host := ""
		if e != nil && e.iface != "" {
			host = r.ifaces[e.iface].host
		}
		same("Elastic IP", e != nil && a == Address{a.ID, e.ip, e.association, e.iface, e.nat, e.at, host}, a)
	}
	for _, g := range r.m.DescribeNATGateways() {
		n := r.nats[g.ID]
		same("NAT gateway", n != nil && g.SubnetID == n.subnet && len(g.Addresses) == len(n.addrs) && (g.ConnectivityType == PrivateNAT) == n.private, g)
		for k, a := range g.Addresses {
			same("its address", a.AllocationID == n.addrs[k].eip && a.PrivateIP == n.addrs[k].ip && a.DrainsUntil.Equal(n.addrs[k].until), a)
		}
	}
	for _, i := range r.m.DescribeInstances() {
		if h := r.hosts[i.ID]; i.State != Terminated || h != nil {
			same("instance", h != nil && i.State == h.state && (h.state == Terminated || i.PrivateIP == r.ifaces[h.primary].ips[0]), i)
		}
	}
	for _, n := range [][2]int{
		{len(r.m.interfaces.ids), len(r.ifaces)}, {len(r.m.addresses.ids), len(r.eips)}, {len(r.m.natGateways.ids), len(r.nats)},
		{len(r.m.groups.ids), len(r.groups)}, {len(r.m.pool.all()), len(r.idle)},
	} {
		same("how many", n[0] == n[1], n)
	}
	for _, rt := range r.m.DescribeRouteTables() {
		same("table", len(rt.Routes)-1 == len(r.tables[rt.ID].routes) && rt.Main == (r.vpcs[rt.VPCID].mainTable == rt.ID), rt)
		for _, route := range rt.Routes[1:] {
			same("route", r.tables[rt.ID].routes[route.Destination] == route.Target &&
				(route.State == RouteActive) == (r.leads(rt.VPCID, route.Target) != ""), route)
		}
	}
}

// leads is the kind of a target that a route of the VPC reaches today, or "".
func (r *rules) leads(vpc, target string) string {
	switch {
	case r.igws[target] == vpc:
		return "internet"
	case r.nats[target] != nil:
		return "nat"
	}
	for _, j := range r.joined {
		if j == [2]string{target, vpc} {
			return "transit"
		}
	}
	return ""
}

// route is the target for a destination in the table of a subnet: the longest match that there is.
func (r *rules) route(subnet string, to netip.Addr) string {
	s := r.subnets[subnet]
	table := r.tables[cmp.Or(s.table, r.vpcs[s.vpc].mainTable)]
	for bits := 32; bits >= 0; bits-- {
		if target, ok := table.routes[netip.PrefixFrom(to, bits).Masked()]; ok {
			return target
		}
	}
	return ""
}

func TestTheRulesOfAWS(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRules(rt, t)
		calls := r.calls()
		for n := range rapid.IntRange(100, 200).Draw(rt, "calls") {
			calls[rapid.IntRange(0, len(calls)-1).Draw(rt, "call")](rt)
			r.agree(rt)
			if n%25 == 24 {
				r.matrix(rt)
				r.groupMatrix(rt)
			}
		}
	})
}

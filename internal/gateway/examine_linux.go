// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/control"
)

// machineKinds are the faults that examine finds.
var machineKinds = []string{faultGuard, faultSysctl, faultDevice, faultRoutes, faultARP, faultAddress, faultUplink, faultInside}

// forwardingKnob and errorsKnob are the settings of the kernel that the gateway needs.
const (
	forwardingKnob = "ipv4/ip_forward"
	errorsKnob     = "ipv4/icmp_errors_use_inbound_ifaddr"
)

// examination compares a machine with what it is to be.
type examination struct {
	nl    *netlink.Handle
	s     system // a copy of what is to be
	links map[int]netlink.Link
	addrs []netlink.Addr
	found []control.Fault
}

// examine finds what is wrong on the machine, causes first, and changes nothing. Any goroutine may call it, with an nl of
// its own.
func (s *system) examine(nl *netlink.Handle) ([]control.Fault, error) {
	x := examination{nl: nl}
	s.mu.Lock()
	x.s.plan, x.s.external, x.s.devices, x.s.index, x.s.mtu, x.s.self = s.plan, s.external, s.devices, s.index, s.mtu, s.self
	x.s.closed, x.s.defaults, x.s.footing = s.closed, s.defaults, s.footing
	x.s.footing.networks = map[netip.Prefix]struct{}{}
	for n := range s.footing.networks {
		x.s.footing.networks[n] = struct{}{}
	}
	s.mu.Unlock()
	x.s.nl = nl
	var err error
	if x.links, err = linksOf(nl); err != nil {
		return nil, err
	}
	if x.addrs, err = nl.AddrList(nil, unix.AF_INET); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, look := range []func() error{x.routing, x.answers, x.external, x.surroundings} {
		if err := look(); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(x.found, func(a, b control.Fault) int {
		return slices.Index(faultKinds, a.Kind) - slices.Index(faultKinds, b.Kind)
	})
	return x.found, nil
}

func linksOf(nl *netlink.Handle) (map[int]netlink.Link, error) {
	all, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	links := map[int]netlink.Link{}
	for _, l := range all {
		links[l.Attrs().Index] = l
	}
	return links, nil
}

func (x *examination) wrong(kind, subject, format string, args ...any) {
	x.found = append(x.found, control.Fault{Kind: kind, Subject: subject, Text: fmt.Sprintf(format, args...)})
}

// routing looks at rules, routes, settings and the TUNs.
func (x *examination) routing() error {
	rules, err := ourRules(x.nl)
	if err != nil {
		return err
	}
	routes, err := ourRoutes()
	if err != nil {
		return err
	}
	var lost []int
	for _, r := range x.s.plan.rules() {
		if _, ok := rules[keyOf(&r)]; !ok {
			lost = append(lost, r.Priority)
		}
	}
	slices.Sort(lost)
	switch n := len(lost); n {
	case 0:
	case 1:
		x.wrong(faultGuard, "rules", "routing rule %d is missing", lost[0])
	default:
		x.wrong(faultGuard, "rules", "%d routing rules are missing, of %d to %d", n, lost[0], lost[n-1])
	}
	type key struct {
		table, kind, metric, link int
		dst                       netip.Prefix
	}
	have := map[key]bool{}
	for _, r := range routes {
		have[key{r.Table, r.Type, r.Priority, r.LinkIndex, prefixOf(r.Dst)}] = true
	}
	count := func(wanted []netlink.Route) (missing int) {
		for _, r := range wanted {
			if !have[key{r.Table, r.Type, r.Priority, r.LinkIndex, prefixOf(r.Dst)}] {
				missing++
			}
		}
		return missing
	}
	if guard := x.s.plan.guard(); count(guard) > 0 {
		x.wrong(faultGuard, "routes", "%d of %d routes of the guard are missing", count(guard), len(guard))
	}
	if x.s.closed {
		x.wrong(shutID.kind, shutID.subject, "nothing is forwarded until the guard is whole: %s is off", dotted(forwardingKnob))
	}
	for _, knob := range []string{forwardingKnob, errorsKnob} {
		if v, err := readSysctl(knob); (err != nil || v != "1") && (knob != forwardingKnob || !x.s.closed) {
			x.wrong(faultSysctl, knob, "%s is off", dotted(knob))
		}
	}
	before := len(x.found)
	x.device(0, x.s.devices.Inside, insideDummy)
	x.device(1, x.s.devices.Outside, x.s.outsideAddress())
	if len(x.found) == before { // what is wrong with a TUN takes its routes away
		ways := x.s.plan.ways(x.s.index[0], x.s.index[1], x.s.self)
		if n := count(ways); n > 0 {
			x.wrong(faultRoutes, "", "%d of %d routes to the TUNs are missing", n, len(ways))
		}
	}
	return nil
}

// device looks at a TUN.
func (x *examination) device(side int, name string, addr netip.Prefix) {
	l := x.links[x.s.index[side]]
	if l == nil {
		x.wrong(faultDevice, name, "interface %s was deleted by somebody else", name)
		return
	}
	a, is := l.Attrs(), []string(nil)
	if a.Name != name {
		is = append(is, "was renamed to "+a.Name)
	}
	if a.RawFlags&unix.IFF_UP == 0 {
		is = append(is, "is down")
	}
	if x.s.mtu != 0 && a.MTU != x.s.mtu {
		is = append(is, fmt.Sprintf("has MTU %d instead of %d", a.MTU, x.s.mtu))
	}
	if a.TxQLen != txQueue {
		is = append(is, fmt.Sprintf("has a queue of %d instead of %d", a.TxQLen, txQueue))
	}
	if !slices.ContainsFunc(x.addrs, func(b netlink.Addr) bool { return b.LinkIndex == a.Index && prefixOf(b.IPNet) == addr }) {
		is = append(is, fmt.Sprintf("lacks the address %s", addr.Addr()))
	}
	for _, v := range tunSettings(a.Name) {
		if now, err := readSysctl(v.name); err == nil && now != v.value { // without IPv6 one of them is not there
			is = append(is, fmt.Sprintf("has %s=%s instead of %s", v.name[strings.LastIndexByte(v.name, '/')+1:], now, v.value))
		}
	}
	if len(is) > 0 {
		x.wrong(faultDevice, name, "interface %s %s", name, strings.Join(is, " and "))
	}
}

// answers looks at what is answered for by ARP.
func (x *examination) answers() error {
	found, err := onLink(x.nl, x.s.external)
	if err != nil {
		return err
	}
	silent, err := unansweredOf(x.nl, found)
	if err != nil {
		return err
	}
	byLink := map[string][]netip.Prefix{}
	for _, f := range silent {
		name := f.link.Attrs().Name
		byLink[name] = append(byLink[name], netip.PrefixFrom(f.addr, 32))
	}
	for name, addrs := range byLink {
		x.wrong(faultARP, name, "nobody answers ARP for %s on %s", join(addrs), name)
	}
	return nil
}

// external looks for external addresses that the kernel takes for its own.
func (x *examination) external() error {
	clash, err := x.s.clash(x.s.external)
	if clash != nil {
		x.wrong(faultAddress, "", "%v", clash)
	}
	return err
}

// surroundings looks at what is the machine's own: the ways to the internet and to the inside.
func (x *examination) surroundings() error {
	f := &x.s.footing
	if f.uplink && !slices.ContainsFunc(x.s.defaults, func(index int) bool { return trouble(x.links[index]) == "" }) {
		var why []string
		for _, index := range x.s.defaults {
			if l := x.links[index]; l != nil {
				why = append(why, fmt.Sprintf("interface %s %s", l.Attrs().Name, trouble(l)))
			}
		}
		if len(why) == 0 {
			why = append(why, "the default route is gone")
		}
		x.wrong(faultUplink, "", "there is no way to the internet: %s", strings.Join(why, ", "))
	}
	own, there := false, map[netip.Prefix]bool{}
	for _, a := range x.addrs {
		if slices.Contains(x.s.index[:], a.LinkIndex) {
			continue
		}
		p := prefixOf(a.IPNet)
		inside := x.s.isInside(netip.PrefixFrom(p.Addr(), 32))
		own = own || !inside && x.s.isOutside(&a)
		there[p.Masked()] = true
		l := x.links[a.LinkIndex]
		if why := trouble(l); inside && why != "" && !(why == noCarrier && l != nil && l.Type() == "bridge") { // which is so while it has no hosts
			if l == nil {
				continue
			}
			x.wrong(faultInside, l.Attrs().Name, "interface %s %s, and inside hosts are behind it", l.Attrs().Name, why)
		}
	}
	if f.address && !own {
		x.wrong(faultUplink, "address", "this machine has lost its address outside: path MTU discovery and traceroute through it do not work")
	}
	for n := range f.networks {
		if there[n] {
			continue
		}
		kind, who := faultUplink, "nobody answers for the external addresses in it"
		if x.s.isInside(n) {
			kind, who = faultInside, "its hosts cannot be reached"
		}
		x.wrong(kind, n.String(), "no interface has an address in %s any more: %s", n, who)
	}
	return nil
}

const noCarrier = "has no carrier"

// trouble is why nothing passes through an interface, "" if there is no reason.
func trouble(l netlink.Link) string {
	switch {
	case l == nil:
		return "is gone"
	case l.Attrs().RawFlags&unix.IFF_UP == 0:
		return "is down"
	case l.Attrs().RawFlags&unix.IFF_LOWER_UP == 0:
		return noCarrier
	}
	return ""
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/tun"
)

// system is what the gateway changes on the machine: everything of the network namespace it was made in. Its methods
// are called by one goroutine at a time, except health.
type system struct {
	nl       *netlink.Handle
	mu       sync.Mutex // of plan, which health reads
	plan     plan
	devices  config.Devices
	mtu      int
	self     netip.Addr // source of the errors that the kernel sends to external addresses
	index    [2]int     // of the TUNs, by nat.Side
	tuns     [2]tun.Device
	answered []answered
	restore  []sysctl
}

// setUp prepares the machine, step by step from what refuses to what lets through. On an error it has undone what it
// did, except the guard.
func setUp(c *config.Config, nl *netlink.Handle) (s *system, err error) {
	s = &system{nl: nl, devices: c.Devices, plan: plan{inside: c.Inside.Prefixes, external: c.ExternalPrefixes()}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo())
		}
	}()
	if err := s.checkAddresses(c.External()); err != nil {
		return s, err
	}
	if s.mtu, err = s.chooseMTU(); err != nil {
		return s, err
	}
	if err := s.checkInUse(c); err != nil {
		return s, err
	}
	// What a gateway that was killed answered for, before its routes tell us nothing any more.
	old, err := ourRoutes(nl)
	if err != nil {
		return s, err
	}
	_, external := told(old)
	if _, err := deleteProxies(nl, external); err != nil {
		return s, err
	}
	s.plan.insideDev = s.devices.Inside
	if s.plan.uplinks, err = s.findUplinks(); err != nil {
		return s, err
	}
	if err := s.plan.apply(nl); err != nil {
		return s, err
	}
	for i, name := range []string{s.devices.Inside, s.devices.Outside} {
		if err := s.openTUN(i, name); err != nil {
			return s, err
		}
	}
	if err := s.reroute(); err != nil {
		return s, err
	}
	if err := s.sysctl("ipv4/ip_forward", "1"); err != nil {
		return s, err
	}
	return s, s.answer(c)
}

// checkAddresses refuses external addresses that the kernel would take for its own.
func (s *system) checkAddresses(external []netip.Addr) error {
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		ip := prefixOf(a.IPNet).Addr()
		if slices.Contains(external, ip) {
			link, err := s.nl.LinkByIndex(a.LinkIndex)
			if err != nil {
				return err
			}
			dev := link.Attrs().Name
			return refuse("%s is an address of %s: take it off there (ip addr del %s dev %s), since the gateway answers for "+
				"it, or use another", ip, dev, a.IPNet, dev)
		}
	}
	return nil
}

// chooseMTU is the MTU of the TUNs: as large as that of any other interface, so that only the path matters.
func (s *system) chooseMTU() (int, error) {
	if s.devices.MTU != 0 {
		return s.devices.MTU, nil
	}
	links, err := s.nl.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	mtu := 1500
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0 {
			mtu = max(mtu, a.MTU)
		}
	}
	return min(mtu, 65535), nil
}

// dummy is the address of both TUNs (RFC 7600, section 4.8: the IPv4 dummy address). With none at all, the kernel's
// source check is strict where it was asked to be loose. Its scope keeps it from being a source.
var dummy = netip.MustParsePrefix("192.0.0.8/32")

func (s *system) openTUN(side int, name string) (err error) {
	if s.tuns[side], err = tun.Open(tun.Options{Name: name}); err != nil {
		return err
	}
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	s.index[side] = link.Attrs().Index
	// The kernel would send its own IPv6 greetings through it. Without IPv6 there is no such file.
	err = s.sysctl("ipv6/conf/"+name+"/disable_ipv6", "1")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Loose, which outranks "all": replies may come in at another interface than requests go out by. And the errors that
	// this machine itself sends to external addresses come back, translated, with its own address as their source.
	for _, v := range []sysctl{{"rp_filter", "2"}, {"accept_local", "1"}} {
		if err := s.sysctl("ipv4/conf/"+name+"/"+v.name, v.value); err != nil {
			return err
		}
	}
	if err := s.nl.AddrReplace(link, &netlink.Addr{IPNet: ipNet(dummy), Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("set the address of %s: %w", name, err)
	}
	if err := s.nl.LinkSetMTU(link, s.mtu); err != nil {
		return fmt.Errorf("set MTU %d of %s: %w", s.mtu, name, err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// reroute makes the routes to the TUNs, and makes them again when the machine's addresses or routes have changed: it may
// have other uplinks then, and with an address the kernel deletes all routes that had it as their source.
func (s *system) reroute() error {
	uplinks, err := s.findUplinks()
	if err != nil {
		return err
	}
	if !slices.Equal(uplinks, s.plan.uplinks) {
		s.mu.Lock()
		s.plan.uplinks = uplinks
		s.mu.Unlock()
		if err := s.plan.apply(s.nl); err != nil {
			return err
		}
	}
	if s.self, err = s.ownAddress(); err != nil {
		return err
	}
	for _, r := range s.plan.ways(s.index[0], s.index[1], s.self) {
		if err := s.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route %s: %w", prefixOf(r.Dst), err)
		}
	}
	return nil
}

// mainRoutes calls f with each route of the main table and the interface it leads to.
func (s *system) mainRoutes(f func(dst netip.Prefix, link int)) error {
	routes, err := s.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if len(r.MultiPath) == 0 {
			f(prefixOf(r.Dst), r.LinkIndex)
		}
		for _, hop := range r.MultiPath {
			f(prefixOf(r.Dst), hop.LinkIndex)
		}
	}
	return nil
}

// isInside reports whether p is part of the inside.
func (s *system) isInside(p netip.Prefix) bool {
	return slices.ContainsFunc(s.plan.inside, func(in netip.Prefix) bool { return in.Bits() <= p.Bits() && in.Contains(p.Addr()) })
}

// findUplinks are the interfaces that a default route leads to, without those that inside hosts are behind: the inside
// may be on the same cable.
func (s *system) findUplinks() ([]string, error) {
	up, inside := map[int]bool{}, map[int]bool{}
	err := s.mainRoutes(func(dst netip.Prefix, link int) {
		up[link] = up[link] || dst == everything
		inside[link] = inside[link] || s.isInside(dst)
	})
	if err != nil {
		return nil, err
	}
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if s.isInside(netip.PrefixFrom(prefixOf(a.IPNet).Addr(), 32)) {
			inside[a.LinkIndex] = true
		}
	}
	var names []string
	for index := range up {
		if !up[index] || inside[index] {
			continue
		}
		if l, err := s.nl.LinkByIndex(index); err == nil { // it may have gone meanwhile
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// ownAddress is the machine's address outside: of the interface of its default route, or else any that is not inside.
func (s *system) ownAddress() (netip.Addr, error) {
	up := map[int]bool{}
	err := s.mainRoutes(func(dst netip.Prefix, link int) { up[link] = up[link] || dst == everything })
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
	}
	var best netip.Addr
	for _, a := range addrs {
		ip := prefixOf(a.IPNet).Addr()
		if s.isInside(netip.PrefixFrom(ip, 32)) || a.Scope != unix.RT_SCOPE_UNIVERSE || ip.IsLinkLocalUnicast() {
			continue
		}
		if up[a.LinkIndex] {
			return ip, nil
		}
		if !best.IsValid() {
			best = ip
		}
	}
	return best, nil
}

// undo takes everything back but the guard.
func (s *system) undo() error {
	errs := []error{s.unanswer()}
	for _, d := range s.tuns {
		if d != nil {
			errs = append(errs, d.Close()) // its routes go with it
		}
	}
	if s.plan.insideDev != "" {
		s.plan.insideDev = ""
		errs = append(errs, s.plan.apply(s.nl))
	}
	for _, r := range slices.Backward(s.restore) {
		if err := r.write(); err != nil && !errors.Is(err, os.ErrNotExist) { // that of a TUN is gone with it
			errs = append(errs, err)
		}
	}
	s.restore = nil
	return errors.Join(errs...)
}

// health says what keeps packets from passing, or nil.
func (s *system) health() error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	for _, name := range []string{s.devices.Inside, s.devices.Outside} {
		link, err := nl.LinkByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		if link.Attrs().RawFlags&unix.IFF_UP == 0 {
			return fmt.Errorf("interface %s is down", name)
		}
	}
	s.mu.Lock()
	plan := s.plan
	s.mu.Unlock()
	rules, err := ourRules(nl)
	if err != nil {
		return err
	}
	for _, r := range plan.rules() {
		if _, ok := rules[keyOf(&r)]; !ok {
			return fmt.Errorf("routing rule %d is missing", r.Priority)
		}
	}
	routes, err := ourRoutes(nl)
	if err != nil {
		return err
	}
	ways := 0
	for _, r := range routes {
		if r.Type == unix.RTN_UNICAST {
			ways++
		}
	}
	if want := 1 + len(plan.inside) + len(plan.external); ways < want {
		return fmt.Errorf("%d of %d routes to the TUNs are missing", want-ways, want)
	}
	if v, err := readSysctl("ipv4/ip_forward"); err != nil || v != "1" {
		return errors.New("net.ipv4.ip_forward is off")
	}
	return nil
}

// sysctl is a value under /proc/sys/net, with slashes.
type sysctl struct{ name, value string }

func (v sysctl) write() error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", v.name), []byte(v.value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", dotted(v.name), v.value, err)
	}
	return nil
}

// sysctl sets a value and remembers what it was.
func (s *system) sysctl(name, value string) error {
	was, err := readSysctl(name)
	if err != nil || was == value {
		return err
	}
	if err := (sysctl{name, value}).write(); err != nil {
		return err
	}
	s.restore = append(s.restore, sysctl{name, was})
	return nil
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
	return strings.TrimSpace(string(b)), err
}

// readNumber is readSysctl for a number; what is not there is 0.
func readNumber(name string) int {
	v, err := readSysctl(name)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(v)
	return n
}

// dotted is how sysctl(8) calls it.
func dotted(name string) string { return "net." + strings.ReplaceAll(name, "/", ".") }

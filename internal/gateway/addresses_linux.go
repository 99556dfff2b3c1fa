// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkAddresses refuses external addresses that the kernel would take for its own, or for a broadcast.
func (s *system) checkAddresses(external []netip.Addr) error {
	clash, err := s.clash(external)
	return cmp.Or(clash, err)
}

// clash is what checkAddresses refuses, an ErrRefused or nil, and that it could not look.
func (s *system) clash(external []netip.Addr) (clash, err error) {
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		own := prefixOf(a.IPNet)
		var reserved []netip.Addr
		if own.Bits() < 31 { // RFC 3021
			reserved = []netip.Addr{own.Masked().Addr(), last(own)}
		}
		for _, e := range external {
			if e != own.Addr() && !slices.Contains(reserved, e) {
				continue
			}
			link, err := s.nl.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, err
			}
			dev := link.Attrs().Name
			if e != own.Addr() {
				return refuse("%s is the first or last address of the network %s of %s, where no machine may have it: use another",
					e, own.Masked(), dev), nil
			}
			return refuse("%s is an address of %s: take it off there (ip addr del %s dev %s), since the gateway answers for "+
				"it, or use another", e, dev, a.IPNet, dev), nil
		}
	}
	return nil, nil
}

// last is the last address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(b)
}

// mainRoutes calls f with each route of the main table and the interface it leads to.
func (s *system) mainRoutes(f func(dst netip.Prefix, link int)) error {
	routes, err := s.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	// On a router the table changes all the time. The change is told of, so that is no reason to begin anew.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
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

// outlook is what the machine's own addresses and routes mean for the gateway.
type outlook struct {
	// defaults are the interfaces that a default route leads to, by their numbers, uplinks those of them that inside hosts
	// are not behind, by their names: the inside may be on the same cable.
	defaults []int
	uplinks  []string
	// self is the machine's address outside: of the interface of its default route, or else any that is not inside.
	self netip.Addr
}

func (s *system) outlook() (o outlook, err error) {
	up, inside := map[int]bool{}, map[int]bool{}
	err = s.mainRoutes(func(dst netip.Prefix, link int) {
		up[link] = up[link] || dst == everything
		inside[link] = inside[link] || s.isInside(dst)
	})
	if err != nil {
		return o, err
	}
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return o, fmt.Errorf("list addresses: %w", err)
	}
	best := false
	for _, a := range addrs {
		ip := prefixOf(a.IPNet).Addr()
		switch {
		case s.isInside(netip.PrefixFrom(ip, 32)):
			inside[a.LinkIndex] = true
		case best || !s.isOutside(&a):
		case up[a.LinkIndex]:
			o.self, best = ip, true
		case !o.self.IsValid():
			o.self = ip
		}
	}
	for index := range up {
		if !up[index] {
			continue
		}
		o.defaults = append(o.defaults, index)
		if inside[index] {
			continue
		}
		if l, err := s.nl.LinkByIndex(index); err == nil { // it may have gone meanwhile
			o.uplinks = append(o.uplinks, l.Attrs().Name)
		}
	}
	slices.Sort(o.defaults)
	slices.Sort(o.uplinks)
	return o, nil
}

// isOutside reports whether an address is one that the world knows the machine by.
func (s *system) isOutside(a *netlink.Addr) bool {
	ip := prefixOf(a.IPNet).Addr()
	return !s.isInside(netip.PrefixFrom(ip, 32)) && a.Scope == unix.RT_SCOPE_UNIVERSE && !ip.IsLinkLocalUnicast()
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkAddresses refuses external addresses that the kernel would take for its own, or for a broadcast.
func (s *system) checkAddresses(external []netip.Addr) error {
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
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
				return err
			}
			dev := link.Attrs().Name
			if e != own.Addr() {
				return refuse("%s is the first or last address of the network %s of %s, where no machine may have it: use another",
					e, own.Masked(), dev)
			}
			return refuse("%s is an address of %s: take it off there (ip addr del %s dev %s), since the gateway answers for "+
				"it, or use another", e, dev, a.IPNet, dev)
		}
	}
	return nil
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

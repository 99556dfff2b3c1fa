// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/recordfile"
)

// Teardown removes the guard and whatever else a gateway left in this network namespace, and writes to w what it did
// and what becomes possible by it. It needs no configuration: what is ours is marked.
func Teardown(w io.Writer) error {
	if ok, err := cap.GetProc().GetFlag(cap.Effective, cap.NET_ADMIN); err != nil || !ok {
		return ErrPrivilege
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	if running, err := keepsRunning(nl); err != nil || running {
		return cmp.Or(err, ErrRunning)
	}
	rules, err := ourRules(nl)
	if err != nil {
		return err
	}
	routes, err := ourRoutes()
	if err != nil {
		return err
	}
	if len(rules) == 0 && len(routes) == 0 {
		fmt.Fprintln(w, "There is nothing of a gateway here.")
		return nil
	}
	inside, external := told(routes)
	proxies, err := deleteProxies(nl, external)
	if err != nil {
		return err
	}
	if err := deleteTUNs(nl, rules); err != nil { // after the guard is there, and before it goes
		return err
	}
	for _, r := range rules {
		if err := nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete routing rule %d: %w", r.Priority, err)
		}
	}
	for _, r := range routes {
		if err := nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route %s: %w", prefixOf(r.Dst), err)
		}
	}
	fmt.Fprintf(w, "Removed %d rules, %d routes and %d ARP entries: the guard is gone.\n", len(rules), len(routes), proxies)
	gone, err := removeStates(config.SocketDir)
	for _, path := range gone {
		fmt.Fprintf(w, "Removed %s with the sessions of the last run.\n", path)
	}
	if err != nil {
		return err
	}
	if v, err := readSysctl("ipv4/ip_forward"); err == nil && v == "1" {
		fmt.Fprintf(w, "net.ipv4.ip_forward is on. From now on this machine\n"+
			"- sends what comes from %s on, untranslated, with its private source, wherever its routes lead;\n"+
			"- lets hosts outside send to %s directly, if they route that here;\n"+
			"- does not know what to do with packets for %s, and may send them back.\n"+
			"sysctl -w net.ipv4.ip_forward=0 stops all of that.\n", join(inside), join(inside), join(external))
		return nil
	}
	fmt.Fprintf(w, "net.ipv4.ip_forward is off: nothing passes. Whoever switches it on lets %s out untranslated.\n", join(inside))
	return nil
}

// removeStates removes the state files in dir that gateways of this network namespace left; what a process owns, or is no
// state, stays. A file elsewhere is not known here.
func removeStates(dir string) (gone []string, err error) {
	here, err := namespace()
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.state"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		f, err := recordfile.Open(path)
		if f == nil {
			continue
		}
		if err == nil && noteOf(f).Namespace == here {
			if err := f.Remove(); err != nil {
				return gone, errors.Join(err, f.Close())
			}
			gone = append(gone, path)
		}
		_ = f.Close() // it was only looked at
	}
	return gone, nil
}

// told reads from our routes whose they are.
func told(routes []netlink.Route) (inside, external []netip.Prefix) {
	for _, r := range routes {
		p := prefixOf(r.Dst)
		switch {
		case r.Table == insideTable && r.Type == unix.RTN_UNREACHABLE && p != everything:
			inside = append(inside, p)
		case r.Table == outsideTable && r.Type == unix.RTN_UNREACHABLE:
			external = append(external, p)
		}
	}
	return inside, external
}

// deleteProxies deletes the ARP entries of a gateway that was killed.
func deleteProxies(nl *netlink.Handle, external []netip.Prefix) (n int, err error) {
	return deleteProxiesBut(nl, external, nil)
}

// deleteProxiesBut is deleteProxies without those that are to stay.
func deleteProxiesBut(nl *netlink.Handle, external []netip.Prefix, stay []answered) (n int, err error) {
	entries, err := nl.NeighProxyList(0, unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("list ARP entries: %w", err)
	}
	for _, e := range entries {
		ip, _ := netip.AddrFromSlice(e.IP.To4())
		if !slices.ContainsFunc(external, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			continue
		}
		if slices.ContainsFunc(stay, func(a answered) bool { return a.addr == ip && a.link.Attrs().Index == e.LinkIndex }) {
			continue
		}
		if err := nl.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
			return n, fmt.Errorf("delete the ARP entry for %s: %w", ip, err)
		}
		n++
	}
	return n, nil
}

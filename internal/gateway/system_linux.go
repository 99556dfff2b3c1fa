// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/nat"
)

// system is what the gateway changes on the machine: everything of the network namespace it was made in. Its methods
// are called by one goroutine at a time, except those of machine.
type system struct {
	nl       *netlink.Handle
	book     *book      // of what is wrong with it
	mu       sync.Mutex // for writing what examine reads: plan, mtu, self, index, external, closed, defaults, footing
	plan     plan
	devices  config.Devices
	mtu      int
	self     netip.Addr   // source of the errors that the kernel sends to external addresses
	index    [2]int       // of the TUNs, by nat.Side
	tuns     [2][]*slot   // by their queues
	external []netip.Addr // plan.external, one by one
	answered []answered
	arp      int // a socket to announce with, which needs a capability to open only; 0 is none
	restore  []sysctl
	// remember leaves restore for the next owner of the state; nil without state.
	remember func([]sysctl) error
	// persist has the TUNs outlive the process; given are descriptors of their queues from another one.
	persist bool
	given   [2][]int
	// reopened is called when there are other queues of a TUN; nil for nobody.
	reopened func()
	// calls are for the goroutine that follows the machine; stopped is closed when it takes no more.
	calls   chan func()
	stopped chan struct{}
	// See monitor_linux.go.
	poke     chan struct{}
	dirty    atomic.Uint32
	closed   bool  // the guard has holes, so nothing is forwarded
	defaults []int // the interfaces that default routes lead to
	footing  footing
}

// prepare looks at the machine, and finds out what cannot be had before anything is changed. On an error there is nothing
// to undo.
func prepare(c *config.Config, nl *netlink.Handle, b *book) (s *system, err error) {
	s = &system{nl: nl, book: b, poke: make(chan struct{}, 1), devices: c.Devices, plan: plan{inside: c.Inside.Prefixes, external: c.ExternalPrefixes()},
		external: c.External(), calls: make(chan func()), stopped: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo())
		}
	}()
	if err := s.checkAddresses(s.external); err != nil {
		return s, err
	}
	if s.mtu, err = s.chooseMTU(); err != nil {
		return s, err
	}
	if s.arp, err = arpSocket(); err != nil {
		return s, err
	}
	return s, s.checkInUse(s.external)
}

// setUp changes the machine, step by step from what refuses to what lets through. What is there of a gateway before it goes
// on without a gap, if it is to be there.
func (s *system) setUp() error {
	o, err := s.outlook()
	if err != nil {
		return err
	}
	s.self, s.plan.uplinks = o.self, o.uplinks
	// What cannot be had is to be found out before there is a guard.
	for i, name := range []string{s.devices.Inside, s.devices.Outside} {
		if err := s.openTUN(i, name); err != nil {
			return err
		}
	}
	if err := s.clearAway(); err != nil {
		return err
	}
	s.plan.insideDev, s.plan.outsideDev = s.devices.Inside, s.devices.Outside
	if err := s.plan.apply(s.nl); err != nil {
		return err
	}
	if err := s.reroute(); err != nil {
		return err
	}
	// An error about a packet from a TUN is to have the address of that TUN, which decides which way it goes.
	if err := s.sysctl(errorsKnob, "1"); err != nil {
		return err
	}
	if err := s.sysctl(forwardingKnob, "1"); err != nil {
		return err
	}
	if err := s.answer(); err != nil {
		return err
	}
	return s.adapt()
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
		own := slices.Contains(s.index[:], a.Index) || a.Name == s.devices.Inside || a.Name == s.devices.Outside // of an earlier run, too
		if a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOOPBACK == 0 && !own {
			mtu = max(mtu, a.MTU)
		}
	}
	return min(mtu, 65535), nil
}

// The TUNs need addresses: the errors that the kernel makes about packets that come from a TUN have its address as their
// source, and without any its source check is strict where it was asked to be loose. Their scope keeps them from being
// sources of anything else.
var (
	// insideDummy is that of the inside TUN (RFC 7600, section 4.8: the IPv4 dummy address). By it the errors about
	// inbound packets find the way back into the TUN, to be translated.
	insideDummy = netip.MustParsePrefix("192.0.0.8/32")
	// outsideDummy (RFC 7335) is that of the outside TUN of a machine without an address outside; otherwise that is
	// system.self, so that inside hosts see in a traceroute what they can make use of.
	outsideDummy = netip.MustParsePrefix("192.0.0.7/32")
)

func (s *system) openTUN(side int, name string) (err error) {
	devs, err := s.attach(side, name)
	if err != nil {
		return err
	}
	if s.tuns[side] == nil {
		for _, d := range devs {
			s.tuns[side] = append(s.tuns[side], newSlot(d, func() { s.notice(ownChange | machineChange) }))
		}
	} else if err := put(s.tuns[side], devs); err != nil {
		return err
	} else if s.reopened != nil {
		s.reopened()
	}
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	s.mu.Lock()
	s.index[side] = link.Attrs().Index
	s.mu.Unlock()
	return s.dress(side, link)
}

// txQueue is the queue of a TUN: a window of TCP fits in, as it comes from several hosts at once.
const txQueue = 5000

// tunSettings are those of the kernel about a TUN.
func tunSettings(name string) []sysctl {
	return []sysctl{
		// The kernel would send its own IPv6 greetings through it. Without IPv6 there is no such file.
		{"ipv6/conf/" + name + "/disable_ipv6", "1"},
		// Loose, which outranks "all": replies may come in at another interface than requests go out by. And the errors that
		// this machine itself sends to external addresses come back, translated, with its own address as their source.
		{"ipv4/conf/" + name + "/rp_filter", "2"},
		{"ipv4/conf/" + name + "/accept_local", "1"},
	}
}

// dress gives a TUN what it has to have, whatever it has.
func (s *system) dress(side int, link netlink.Link) error {
	name := []string{s.devices.Inside, s.devices.Outside}[side]
	for _, v := range tunSettings(name) {
		if err := s.sysctl(v.name, v.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	addr := []netip.Prefix{insideDummy, s.outsideAddress()}[side]
	if err := s.nl.AddrReplace(link, &netlink.Addr{IPNet: ipNet(addr), Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("set the address of %s: %w", name, err)
	}
	has, err := s.nl.AddrList(link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range has { // such as the one that the machine had outside before
		if prefixOf(a.IPNet) == addr {
			continue
		}
		if err := s.nl.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete the address %s of %s: %w", a.IPNet, name, err)
		}
	}
	if err := s.nl.LinkSetTxQLen(link, txQueue); err != nil {
		return fmt.Errorf("set the queue of %s: %w", name, err)
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
	o, err := s.outlook()
	if err != nil {
		return err
	}
	if !slices.Equal(o.uplinks, s.plan.uplinks) {
		s.mu.Lock()
		s.plan.uplinks = o.uplinks
		s.mu.Unlock()
		if err := s.plan.apply(s.nl); err != nil {
			return err
		}
	}
	was := s.outsideAddress()
	s.mu.Lock()
	s.self = o.self
	s.mu.Unlock()
	out := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Index: s.index[1], Name: s.devices.Outside}}
	is := s.outsideAddress()
	if is != was {
		if err := s.nl.AddrReplace(out, &netlink.Addr{IPNet: ipNet(is), Scope: unix.RT_SCOPE_LINK}); err != nil {
			return fmt.Errorf("set the address of %s: %w", s.devices.Outside, err)
		}
	}
	if err := s.addWays(s.plan.ways(s.index[0], s.index[1], s.self)); err != nil {
		return err
	}
	if is != was { // last, since routes with it as their source go with it
		if err := s.nl.AddrDel(out, &netlink.Addr{IPNet: ipNet(was)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete the old address of %s: %w", s.devices.Outside, err)
		}
	}
	return nil
}

func (s *system) addWays(ways []netlink.Route) error {
	for _, r := range ways {
		if err := s.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route %s: %w", prefixOf(r.Dst), err)
		}
	}
	return nil
}

// outsideAddress is the address of the outside TUN.
func (s *system) outsideAddress() netip.Prefix {
	if s.self.IsValid() {
		return netip.PrefixFrom(s.self, 32)
	}
	return outsideDummy
}

// dropped is what the kernel dropped on the way to the reader of a TUN, and of what was written to it.
func (s *system) dropped(side nat.Side) (read, write uint64) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, 0
	}
	defer nl.Close()
	s.mu.Lock()
	index := s.index[side]
	s.mu.Unlock()
	link, err := nl.LinkByIndex(index)
	if err != nil || link.Attrs().Statistics == nil { // deleted
		return 0, 0
	}
	return link.Attrs().Statistics.TxDropped, link.Attrs().Statistics.RxDropped
}

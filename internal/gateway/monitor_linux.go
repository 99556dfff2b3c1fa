// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/control"
)

// The machine is not the gateway's alone: interfaces go and come, and other programs change addresses, routes and rules.
// One goroutine, follow, looks at it whenever the kernel tells of a change, and from time to time in case it does not. A
// look compares what there is with what there is to be (examine), puts right what is the gateway's own by the same code
// that set it up, from what refuses to what lets through, and looks again. The book says what has been found, and holds
// back what somebody undoes again and again.
//
// What is the machine's own the gateway adapts to: other uplinks, another address outside, larger MTUs.

const (
	// checkEvery is how often to look without being told: not all changes are told of (proxy ARP entries, settings).
	checkEvery = 5 * time.Second
	// looksApart is the time between two looks at least, however much is told.
	looksApart = 20 * time.Millisecond
)

// What a change may have touched.
const (
	ownChange     = 1 << iota // our rules and routes
	machineChange             // interfaces, addresses, routes of the main table
)

// footing is what the machine had at some time since the configuration was put in force. What it has no more is missed.
type footing struct {
	uplink   bool                      // a default route by an interface with a carrier
	address  bool                      // an address outside
	networks map[netip.Prefix]struct{} // of its interfaces, with inside or external addresses in them
}

// notice has the machine looked at soon. It does not wait.
func (s *system) notice(what uint32) {
	s.dirty.Or(what)
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// follow keeps the machine right until the end.
func (s *system) follow(ctx context.Context, ended <-chan error) error {
	wake := time.NewTimer(0)
	defer wake.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case f := <-s.calls:
			f()
			s.notice(ownChange | machineChange)
		case <-s.poke:
			wake.Reset(max(0, looksApart-time.Since(last)))
		case <-wake.C:
			s.look()
			last = time.Now()
			wake.Reset(s.book.wake(checkEvery))
		}
	}
}

// look brings machine and book together.
func (s *system) look() {
	unseen := control.Fault{Kind: faultMonitor, Subject: "look"}
	if what := s.dirty.Swap(0); what&machineChange != 0 {
		if err := s.adapt(); errors.Is(err, netlink.ErrDumpInterrupted) {
			s.notice(machineChange)
		} else if err != nil {
			s.dirty.Or(machineChange) // again next time
			unseen.Text = fmt.Sprintf("the gateway cannot adapt to a change of the machine: %v", err)
		}
	}
	found, err := s.examine(s.nl)
	if err == nil {
		s.book.see(found, machineKinds...)
		if s.mend(found) {
			if found, err = s.examine(s.nl); err == nil {
				s.book.see(found, machineKinds...)
				s.book.undone()
			}
		}
	}
	if err == nil {
		err = s.shut(found)
	}
	if errors.Is(err, netlink.ErrDumpInterrupted) { // it changes just now
		s.notice(ownChange | machineChange)
		return
	}
	if err != nil {
		unseen.Text = fmt.Sprintf("the machine cannot be looked at: %v", err)
	}
	if unseen.Text != "" {
		s.book.wrong(unseen)
		return
	}
	s.book.well(idOf(&unseen))
}

// mend puts right what is due, and reports whether there was anything.
func (s *system) mend(found []control.Fault) (any bool) {
	repair := map[string]func(control.Fault) error{
		faultGuard:  func(control.Fault) error { return s.plan.apply(s.nl) },
		faultSysctl: func(f control.Fault) error { return s.sysctl(f.Subject, "1") },
		faultDevice: func(f control.Fault) error { return s.restoreTUN(f.Subject) },
		faultRoutes: func(control.Fault) error { return s.reroute() },
		faultARP:    func(control.Fault) error { return s.answer() },
	}
	for _, f := range found { // causes come first
		id := idOf(&f)
		if do := repair[f.Kind]; do != nil && id != shutID && s.book.due(id) {
			err := do(f)
			s.book.tried(id, err)
			any = true
			if err != nil && f.Kind == faultGuard { // before there is a guard nothing is to be let through
				break
			}
		}
	}
	return any
}

// shut switches forwarding off while the guard has holes that cannot be closed, and on again.
func (s *system) shut(found []control.Fault) error {
	hole := slices.ContainsFunc(found, func(f control.Fault) bool { return f.Kind == faultGuard && idOf(&f) != shutID })
	if hole == s.closed {
		return nil
	}
	value := "1"
	if hole {
		value = "0"
	}
	if err := (sysctl{forwardingKnob, value}).write(); err != nil {
		return err
	}
	s.mu.Lock()
	s.closed = hole
	s.mu.Unlock()
	s.notice(ownChange) // for the book
	return nil
}

// shutID is the fault that follows from holes in the guard.
var shutID = faultID{faultGuard, "forwarding"}

// restoreTUN makes one of the TUNs what it was.
func (s *system) restoreTUN(name string) error {
	side := 0
	if name == s.devices.Outside {
		side = 1
	}
	link, err := s.nl.LinkByIndex(s.index[side])
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		if err := s.openTUN(side, name); err != nil || s.lame() {
			return err
		}
		return s.reroute()
	case err != nil:
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if link.Attrs().Name != name {
		err := s.nl.LinkSetName(link, name)
		if errors.Is(err, unix.EBUSY) { // an older kernel, which wants it down
			err = errors.Join(s.nl.LinkSetDown(link), s.nl.LinkSetName(link, name))
		}
		if err != nil {
			return fmt.Errorf("rename %s to %s: %w", link.Attrs().Name, name, err)
		}
	}
	if err := s.dress(side, link); err != nil || s.lame() { // the other one comes later
		return err
	}
	return s.reroute()
}

// adapt follows what is the machine's own affair.
func (s *system) adapt() error {
	o, err := s.outlook()
	if err != nil {
		return err
	}
	mtu, err := s.chooseMTU()
	if err != nil {
		return err
	}
	if mtu > s.mtu { // with a smaller one nothing is gained
		for side := range s.index {
			if err := s.nl.LinkSetMTU(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Index: s.index[side]}}, mtu); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("set MTU %d of interface %d: %w", mtu, s.index[side], err)
			}
		}
		s.book.log.Info("an interface has a larger MTU, and so have the gateway's", "mtu", mtu)
	}
	s.mu.Lock()
	s.mtu = max(s.mtu, mtu)
	s.defaults = o.defaults
	s.mu.Unlock()
	if !slices.Equal(o.uplinks, s.plan.uplinks) || o.self != s.self {
		if err := s.reroute(); err != nil && !s.lame() {
			return err
		}
	}
	if err := s.answer(); err != nil { // when an interface loses its carrier or its last address the kernel forgets
		return err
	}
	return s.learn(o)
}

// lame reports whether there can be no routes to a TUN; when it is put right the routes are, too.
func (s *system) lame() bool {
	return slices.ContainsFunc(s.index[:], func(index int) bool {
		l, err := s.nl.LinkByIndex(index)
		return err != nil || l.Attrs().RawFlags&unix.IFF_UP == 0
	})
}

// learn notes what the machine has.
func (s *system) learn(o outlook) error {
	addrs, err := s.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	links, err := linksOf(s.nl)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.footing
	f.address = f.address || o.self.IsValid()
	f.uplink = f.uplink || slices.ContainsFunc(o.defaults, func(index int) bool { return trouble(links[index]) == "" })
	for _, a := range addrs {
		if n := prefixOf(a.IPNet).Masked(); !slices.Contains(s.index[:], a.LinkIndex) && s.concerns(n) {
			if f.networks == nil {
				f.networks = map[netip.Prefix]struct{}{}
			}
			f.networks[n] = struct{}{}
		}
	}
	return nil
}

// concerns reports whether inside hosts, or external addresses, are in the network of an interface.
func (s *system) concerns(n netip.Prefix) bool {
	return n.Bits() < 31 && (s.isInside(n) || slices.ContainsFunc(s.external, n.Contains))
}

// forget makes the machine as it is now the measure.
func (s *system) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.footing = footing{}
}

// watch follows what the kernel tells of changes, until ctx is done.
func (s *system) watch(ctx context.Context) error {
	socket, err := s.subscribe()
	if err != nil {
		return fmt.Errorf("follow changes of interfaces: %w", err)
	}
	go func() {
		for socket != nil {
			s.hear(ctx, socket)
			socket = s.again(ctx)
		}
	}()
	return nil
}

func (s *system) subscribe() (*nl.NetlinkSocket, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE)
	if err != nil {
		return nil, err
	}
	if err := socket.SetReceiveBufferSize(1<<20, true); err != nil {
		socket.Close()
		return nil, err
	}
	return socket, nil
}

// again subscribes again after an error; nil is the end.
func (s *system) again(ctx context.Context) *nl.NetlinkSocket {
	unheard := control.Fault{Kind: faultMonitor, Subject: "hear"}
	for tries := 0; ; tries++ {
		if ctx.Err() != nil {
			return nil
		}
		socket, err := s.subscribe()
		if err == nil {
			s.book.well(idOf(&unheard))
			s.notice(ownChange | machineChange)
			return socket
		}
		unheard.Text = fmt.Sprintf("changes of the machine are seen late, since the kernel cannot be asked to tell: %v", err)
		s.book.wrong(unheard)
		select {
		case <-ctx.Done():
		case <-time.After(backoff(firstRetry, tries, longestRetry)):
		}
	}
}

// hear reads what the kernel tells until ctx is done or that fails.
func (s *system) hear(ctx context.Context, socket *nl.NetlinkSocket) {
	stop := context.AfterFunc(ctx, socket.Close)
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	for {
		messages, _, err := socket.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // it has told more than there was room for
			s.book.resynced()
			s.notice(ownChange | machineChange)
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return
		}
		var what uint32
		for _, m := range messages {
			what |= s.touches(m.Header.Type, m.Data)
		}
		if what != 0 {
			s.notice(what)
		}
	}
}

// touches says what a message of the kernel is about; 0 is nothing of interest.
func (s *system) touches(kind uint16, data []byte) uint32 {
	switch kind {
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return ownChange
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR: // with a link its routes go, unsaid
		return ownChange | machineChange
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(data) < unix.SizeofRtMsg {
			return ownChange | machineChange
		}
		attrs, err := nl.ParseRouteAttr(data[unix.SizeofRtMsg:])
		if err != nil {
			return ownChange | machineChange
		}
		table, dst := int(data[4]), netip.PrefixFrom(netip.IPv4Unspecified(), int(data[1]))
		for _, a := range attrs {
			switch {
			case a.Attr.Type == unix.RTA_TABLE && len(a.Value) == 4:
				table = int(nl.NativeEndian().Uint32(a.Value))
			case a.Attr.Type == unix.RTA_DST && len(a.Value) == 4:
				dst = netip.PrefixFrom(netip.AddrFrom4([4]byte(a.Value)), int(data[1]))
			}
		}
		switch {
		case table == insideTable || table == outsideTable:
			return ownChange
		case table == unix.RT_TABLE_MAIN && (dst == everything || s.isInsideNow(dst)):
			return machineChange
		}
	}
	return 0
}

// isInsideNow is isInside for other goroutines.
func (s *system) isInsideNow(p netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isInside(p)
}

// faults are what keeps packets from passing.
func (s *system) faults() []control.Fault {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		defer h.Close()
		for range 10 {
			var found []control.Fault
			if found, err = s.examine(h); err == nil {
				return s.book.complete(found, machineKinds...)
			}
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
	}
	return s.book.complete([]control.Fault{{Kind: faultMonitor, Subject: "look", Text: fmt.Sprintf("the machine cannot be looked at: %v", err)}}, faultMonitor)
}

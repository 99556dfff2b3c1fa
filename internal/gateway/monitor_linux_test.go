// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/lab"
)

// watched is a machine with a gateway on it that is looked at when the test says so. eth0 leads to the internet, where
// 198.51.100.60 is answered for, eth1 to inside hosts.
type watched struct {
	*system
	t     *testing.T
	gw    *lab.Host
	hosts map[string]*lab.Host // net and pc
	c     *config.Config
	now   time.Duration // of the book
	log   *journal
}

// onWatched calls f on the thread of such a machine.
func onWatched(t *testing.T, f func(w *watched)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	hosts := map[string]*lab.Host{}
	for _, name := range []string{"gw", "net", "pc"} {
		h, err := lab.NewHost(name, lab.HostOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		hosts[name] = h
	}
	gw, p := hosts["gw"], netip.MustParsePrefix
	err := errors.Join(
		lab.Connect(gw, lab.Link{Name: "eth0", Addr: p("198.51.100.2/24"), Routes: []netip.Prefix{everything}, Via: netip.MustParseAddr("198.51.100.1")},
			hosts["net"], lab.Link{Name: "eth0", Addr: p("198.51.100.1/24")}),
		lab.Connect(gw, lab.Link{Name: "eth1", Addr: p("10.0.1.1/24")}, hosts["pc"], lab.Link{Name: "eth0", Addr: p("10.0.1.10/24")}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("f.yaml", []byte("inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [198.51.100.60, 203.0.113.1]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	err = gw.Do(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		w := &watched{t: t, gw: gw, hosts: hosts, c: c, now: time.Hour}
		j, log := newJournal()
		w.log = j
		if w.system, err = prepare(c, nl, newBook(log, func() time.Duration { return w.now })); err != nil {
			return err
		}
		if err := w.setUp(); err != nil {
			return errors.Join(err, w.undo())
		}
		w.looks()
		if got := control.Lines(w.faults()); got != "ok" || len(j.lines("")) > 0 {
			t.Errorf("at the start: %s\n%s", got, strings.Join(j.lines(""), "\n"))
		}
		f(w)
		return w.undo()
	})
	if err != nil {
		t.Error(err)
	}
}

// looks is a look that has been told of everything.
func (w *watched) looks() {
	w.notice(ownChange | machineChange)
	w.look()
}

// link is an interface, or one that nothing works with. (The thread of a host outlives no Fatal.)
func (w *watched) link(name string) netlink.Link {
	w.t.Helper()
	l, err := w.nl.LinkByName(name)
	if err != nil {
		w.t.Error(err)
		return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 1 << 30, Name: name}}
	}
	return l
}

// everythingOf is machineText and the TUNs.
func (w *watched) everythingOf() string {
	w.t.Helper()
	text := machineText(w.t, w.system)
	for _, name := range []string{"tg-in", "tg-out"} {
		l := w.link(name)
		addrs, err := w.nl.AddrList(l, unix.AF_INET)
		if err != nil {
			w.t.Error(err)
		}
		text += "\n" + name + " " + l.Attrs().Flags.String()
		for _, a := range addrs {
			text += " " + a.IPNet.String()
		}
		for _, v := range append(tunSettings(name), sysctl{name: forwardingKnob}, sysctl{name: errorsKnob}) {
			now, _ := readSysctl(v.name) // without IPv6 one is not there
			text += " " + now
		}
	}
	// Numbers of interfaces differ when they are made again.
	for i, index := range w.index {
		text = strings.ReplaceAll(text, "Ifindex: "+strconv.Itoa(index)+" ", "Ifindex: TUN"+strconv.Itoa(i)+" ")
	}
	return text
}

// TestFaultsMended: what is the gateway's own, and somebody took away or changed, is seen, told by the health check, put
// right in one look, so that it is all as before, and told of once when it begins and once when it is over.
func TestFaultsMended(t *testing.T) {
	t.Parallel()
	set := func(name, value string) func(*watched) error {
		return func(*watched) error { return sysctl{name, value}.write() }
	}
	for name, tt := range map[string]struct {
		spoil func(w *watched) error
		want  []string // what is told, a line each
	}{
		"a rule":    {func(w *watched) error { return w.deleteRules(ruleInside) }, []string{"2 routing rules are missing, of 1003 to 1003"}},
		"the fence": {func(w *watched) error { return w.deleteRules(ruleElse) }, []string{"routing rule 1006 is missing"}},
		"all rules": {func(w *watched) error { return w.deleteRules(0) }, []string{"10 routing rules are missing, of 1000 to 1007"}},
		"guard and routes": {func(w *watched) error {
			routes, err := ourRoutes()
			for _, r := range routes {
				err = errors.Join(err, w.nl.RouteDel(&r))
			}
			return err
		}, []string{"5 of 5 routes of the guard are missing", "4 of 4 routes to the TUNs are missing"}},
		"another way": {func(w *watched) error { // in place of ours
			r := route(insideTable, everything, unix.RTN_UNICAST, 0)
			r.LinkIndex, r.Gw = w.link("eth0").Attrs().Index, net.IP{198, 51, 100, 1}
			return w.nl.RouteReplace(&r)
		}, []string{"1 of 4 routes to the TUNs are missing"}},
		"forwarding": {set(forwardingKnob, "0"), []string{"net.ipv4.ip_forward is off"}},
		"errors":     {set(errorsKnob, "0"), []string{"net.ipv4.icmp_errors_use_inbound_ifaddr is off"}},
		"inside down": {func(w *watched) error { return w.nl.LinkSetDown(w.link("tg-in")) },
			[]string{"interface tg-in is down"}},
		"outside down": {func(w *watched) error { return w.nl.LinkSetDown(w.link("tg-out")) },
			[]string{"interface tg-out is down"}},
		"inside renamed": {func(w *watched) error { return w.rename("tg-in", "mine") }, []string{"interface tg-in was renamed to mine"}},
		"outside renamed": {func(w *watched) error { return w.rename("tg-out", "mine") },
			[]string{"interface tg-out was renamed to mine"}},
		"inside deleted": {func(w *watched) error { return w.nl.LinkDel(w.link("tg-in")) },
			[]string{"interface tg-in was deleted by somebody else"}},
		"both deleted": {func(w *watched) error {
			return errors.Join(w.nl.LinkDel(w.link("tg-in")), w.nl.LinkDel(w.link("tg-out")))
		}, []string{"interface tg-in was deleted by somebody else", "interface tg-out was deleted by somebody else"}},
		"all at once": {func(w *watched) error {
			return errors.Join(w.nl.LinkDel(w.link("tg-out")), w.deleteRules(0))
		}, []string{"10 routing rules are missing, of 1000 to 1007", "interface tg-out was deleted by somebody else"}},
		"MTU": {func(w *watched) error { return w.nl.LinkSetMTU(w.link("tg-in"), 1280) },
			[]string{"interface tg-in has MTU 1280 instead of 1500"}},
		"queue": {func(w *watched) error { return w.nl.LinkSetTxQLen(w.link("tg-out"), 10) },
			[]string{"interface tg-out has a queue of 10 instead of 5000"}},
		"address of the inside TUN": {func(w *watched) error {
			return w.nl.AddrDel(w.link("tg-in"), &netlink.Addr{IPNet: ipNet(insideDummy)})
		}, []string{"interface tg-in lacks the address 192.0.0.8"}},
		"address of the outside TUN": {func(w *watched) error {
			return w.nl.AddrDel(w.link("tg-out"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("198.51.100.2/32"))})
		}, []string{"interface tg-out lacks the address 198.51.100.2"}},
		"settings of a TUN": {set("ipv4/conf/tg-out/rp_filter", "1"), []string{"interface tg-out has rp_filter=1 instead of 2"}},
		"ARP": {func(w *watched) error {
			_, err := deleteProxies(w.nl, []netip.Prefix{netip.MustParsePrefix("198.51.100.60/32")})
			return err
		}, []string{"nobody answers ARP for 198.51.100.60 on eth0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onWatched(t, func(w *watched) {
				before := w.everythingOf()
				if err := tt.spoil(w); err != nil {
					t.Error(err)
					return
				}
				var seen []string
				for _, f := range w.faults() {
					seen = append(seen, f.Text)
				}
				if !slices.Equal(seen, tt.want) {
					t.Errorf("the health check says %q, want %q", seen, tt.want)
				}
				if name != "ARP" { // of which the kernel does not tell
					w.notice(machineChange)
				}
				w.look()
				if got := control.Lines(w.faults()); got != "ok" {
					t.Errorf("after a look: %s", got)
				}
				if after := w.everythingOf(); after != before {
					t.Errorf("afterwards:\n%s\nbefore:\n%s", after, before)
				}
				w.looks()
				w.now += time.Second
				w.looks()
				all := w.log.lines("")
				if len(all) != 2*len(tt.want) {
					t.Errorf("the log:\n%s", strings.Join(all, "\n"))
				}
				for _, text := range tt.want {
					if len(w.log.lines(`level=WARN msg="`+text)) != 1 || len(w.log.lines(`level=INFO msg="no longer: `+text)) != 1 ||
						len(w.log.lines("by=\"the gateway\"")) != len(tt.want) {
						t.Errorf("of %q the log says:\n%s", text, strings.Join(all, "\n"))
					}
				}
			})
		})
	}
}

// deleteRules deletes our rules of a priority, or all.
func (w *watched) deleteRules(priority int) error {
	rules, err := ourRules(w.nl)
	for k, r := range rules {
		if priority == 0 || k.priority == priority {
			err = errors.Join(err, w.nl.RuleDel(&r))
		}
	}
	return err
}

func (w *watched) rename(from, to string) error {
	l := w.link(from)
	return errors.Join(w.nl.LinkSetDown(l), w.nl.LinkSetName(l, to), w.nl.LinkSetUp(l))
}

// TestFaultsOutlast: what is not the gateway's it cannot put right. It says so once, the health check tells for as long as it is
// so, and when it comes back, whoever brought it, the gateway answers, routes and looks as before.
func TestFaultsOutlast(t *testing.T) {
	t.Parallel()
	eth0 := lab.Link{Name: "eth0", Addr: netip.MustParsePrefix("198.51.100.2/24"), Routes: []netip.Prefix{everything},
		Via: netip.MustParseAddr("198.51.100.1")}
	const (
		noWay     = "there is no way to the internet: "
		noAddress = "this machine has lost its address outside: path MTU discovery and traceroute through it do not work"
		noOutside = "no interface has an address in 198.51.100.0/24 any more: nobody answers for the external addresses in it"
		noInside  = "no interface has an address in 10.0.1.0/24 any more: its hosts cannot be reached"
	)
	byGateway := func(w *watched) error { // the default route
		return w.nl.RouteReplace(&netlink.Route{LinkIndex: w.link("eth0").Attrs().Index, Dst: ipNet(everything), Gw: net.IP{198, 51, 100, 1}})
	}
	addr := func(p string) *netlink.Addr { return &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(p))} }
	for name, tt := range map[string]struct {
		spoil, restore func(w *watched) error
		want           []string
	}{
		"outside down": {
			func(w *watched) error { return w.nl.LinkSetDown(w.link("eth0")) },
			func(w *watched) error { return errors.Join(w.nl.LinkSetUp(w.link("eth0")), byGateway(w)) },
			[]string{noWay + "the default route is gone"}},
		"outside without a cable": {
			func(w *watched) error { return w.far("net", false) },
			func(w *watched) error { return w.far("net", true) },
			[]string{noWay + "interface eth0 has no carrier"}},
		"outside deleted and made again": {
			func(w *watched) error { return w.nl.LinkDel(w.link("eth0")) },
			func(w *watched) error { return w.plug("net", eth0) },
			[]string{noWay + "the default route is gone", noAddress, noOutside}},
		"no default route": {
			func(w *watched) error { return w.nl.RouteDel(&netlink.Route{Dst: ipNet(everything)}) },
			byGateway,
			[]string{noWay + "the default route is gone"}},
		"outside address removed": {
			func(w *watched) error { return w.nl.AddrDel(w.link("eth0"), addr("198.51.100.2/24")) },
			func(w *watched) error {
				return errors.Join(w.nl.AddrAdd(w.link("eth0"), addr("198.51.100.2/24")), byGateway(w))
			},
			[]string{noWay + "the default route is gone", noAddress, noOutside}},
		"inside down": {
			func(w *watched) error { return w.nl.LinkSetDown(w.link("eth1")) },
			func(w *watched) error { return w.nl.LinkSetUp(w.link("eth1")) },
			[]string{"interface eth1 is down, and inside hosts are behind it"}},
		"inside without a cable": {
			func(w *watched) error { return w.far("pc", false) },
			func(w *watched) error { return w.far("pc", true) },
			[]string{"interface eth1 has no carrier, and inside hosts are behind it"}},
		"inside deleted and made again": {
			func(w *watched) error { return w.nl.LinkDel(w.link("eth1")) },
			func(w *watched) error {
				return w.plug("pc", lab.Link{Name: "eth1", Addr: netip.MustParsePrefix("10.0.1.1/24")})
			},
			[]string{noInside}},
		"inside address removed": {
			func(w *watched) error { return w.nl.AddrDel(w.link("eth1"), addr("10.0.1.1/24")) },
			func(w *watched) error { return w.nl.AddrAdd(w.link("eth1"), addr("10.0.1.1/24")) },
			[]string{noInside}},
		"an external address given away": {
			func(w *watched) error { return w.nl.AddrAdd(w.link("eth1"), addr("203.0.113.1/32")) },
			func(w *watched) error { return w.nl.AddrDel(w.link("eth1"), addr("203.0.113.1/32")) },
			[]string{"203.0.113.1 is an address of eth1: take it off there"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onWatched(t, func(w *watched) {
				before := w.everythingOf()
				if err := tt.spoil(w); err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					w.looks()
					w.now += time.Second
				}
				got := w.faults()
				if len(got) != len(tt.want) {
					t.Errorf("the health check says %q", control.Lines(got))
				}
				for i := range min(len(got), len(tt.want)) {
					if !strings.HasPrefix(got[i].Text, tt.want[i]) {
						t.Errorf("the health check says %q, want %q", got[i].Text, tt.want[i])
					}
				}
				if all := w.log.lines(""); len(all) != len(tt.want) || len(w.log.lines("level=WARN")) != len(tt.want) {
					t.Errorf("the log:\n%s", strings.Join(all, "\n"))
				}
				if err := tt.restore(w); err != nil {
					t.Error(err)
				}
				for range 3 {
					w.looks()
					w.now += time.Second
				}
				if got := control.Lines(w.faults()); got != "ok" {
					t.Errorf("afterwards: %s", got)
				}
				if after := w.everythingOf(); after != before {
					t.Errorf("afterwards:\n%s\nbefore:\n%s", after, before)
				}
				if all := w.log.lines("no longer: "); len(all) != len(tt.want) {
					t.Errorf("the log:\n%s", strings.Join(w.log.lines(""), "\n"))
				}
			})
		})
	}
}

// far sets the other end of a cable down or up.
func (w *watched) far(host string, up bool) error {
	h, l := w.hosts[host], lab.Link{Name: "eth0"}
	if !up {
		return h.Down(l)
	}
	return h.Do(func() error {
		ifi, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(ifi)
	})
}

// plug connects the gateway with a host by a new cable.
func (w *watched) plug(host string, l lab.Link) error {
	far := lab.Link{Name: "eth0", Addr: netip.MustParsePrefix("198.51.100.1/24")}
	if host == "pc" {
		far.Addr = netip.MustParsePrefix("10.0.1.10/24")
	}
	return lab.Connect(w.gw, l, w.hosts[host], far)
}

// TestFaultsFought: somebody takes the fence away whenever it is there. The gateway does not fight for ever: it forwards
// nothing, waits longer each time, says so once, and when that is over all is as before.
func TestFaultsFought(t *testing.T) {
	t.Parallel()
	onWatched(t, func(w *watched) {
		before := w.everythingOf()
		tries := 0
		for range 600 { // ten minutes of a look each second
			rules, err := ourRules(w.nl)
			if err != nil {
				t.Error(err)
				return
			}
			for k, r := range rules {
				if k.priority == ruleElse {
					tries++
					if err := w.nl.RuleDel(&r); err != nil {
						t.Error(err)
					}
				}
			}
			w.look()
			w.now += time.Second
		}
		if tries < 10 || tries > 40 {
			t.Errorf("%d tries in ten minutes", tries)
		}
		if v, err := readSysctl(forwardingKnob); err != nil || v != "0" {
			t.Errorf("forwarding meanwhile: %s, %v", v, err)
		}
		if got := control.Lines(w.faults()); got != "routing rule 1006 is missing\nnothing is forwarded until the guard is whole: net.ipv4.ip_forward is off" {
			t.Errorf("the health check says %q", got)
		}
		if all := w.log.lines("this comes again and again"); len(all) != 2 || len(w.log.lines("")) > 20 { // of the rule, and of forwarding
			t.Errorf("the log:\n%s", strings.Join(w.log.lines(""), "\n"))
		}
		for range 3 {
			w.now += longestPause
			w.look()
		}
		if got := control.Lines(w.faults()); got != "ok" {
			t.Errorf("afterwards: %s", got)
		}
		if after := w.everythingOf(); after != before {
			t.Errorf("afterwards:\n%s\nbefore:\n%s", after, before)
		}
		w.now += 2 * faultSettle
		w.look()
	})
}

// TestFaultsOverrun: the kernel has more to tell than fits into the socket. All is looked at anew.
func TestFaultsOverrun(t *testing.T) {
	t.Parallel()
	onWatched(t, func(w *watched) {
		socket, err := w.subscribe()
		if err != nil {
			t.Error(err)
			return
		}
		if err := socket.SetReceiveBufferSize(1, true); err != nil { // the least there is
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 200 { // nobody reads
			if err := errors.Join(w.nl.LinkSetMTU(w.link("eth1"), 1400), w.nl.LinkSetMTU(w.link("eth1"), 1500)); err != nil {
				t.Error(err)
			}
		}
		w.dirty.Store(0)
		done := make(chan struct{})
		go func() { w.hear(ctx, socket); close(done) }()
		eventually(t, "a resync", func() bool { _, _, n := w.book.counts(""); return n > 0 && w.dirty.Load() == ownChange|machineChange })
		cancel()
		<-done
	})
}

// TestFaultsNone: what is the machine's own affair is followed, and is no fault.
func TestFaultsNone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(w *watched) error
		check  func(w *watched) bool
	}{
		"a larger MTU": {func(w *watched) error { return w.nl.LinkSetMTU(w.link("eth0"), 9000) },
			func(w *watched) bool {
				return w.link("tg-in").Attrs().MTU == 9000 && w.link("tg-out").Attrs().MTU == 9000
			}},
		"a smaller MTU": {func(w *watched) error { return w.nl.LinkSetMTU(w.link("eth0"), 1400) },
			func(w *watched) bool { return w.link("tg-in").Attrs().MTU == 1500 }},
		"another address outside": {func(w *watched) error {
			l := w.link("eth0")
			return errors.Join(w.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("198.51.100.2/24"))}),
				w.nl.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{198, 51, 100, 3}, Mask: net.CIDRMask(24, 32)}}),
				w.nl.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(everything), Gw: net.IP{198, 51, 100, 1}}))
		}, func(w *watched) bool { return w.self == netip.MustParseAddr("198.51.100.3") }},
		"outside renamed": {func(w *watched) error {
			return errors.Join(w.rename("eth0", "wan0"), w.nl.RouteReplace(&netlink.Route{LinkIndex: w.link("wan0").Attrs().Index,
				Dst: ipNet(everything), Gw: net.IP{198, 51, 100, 1}}))
		}, func(w *watched) bool { return slices.Equal(w.plan.uplinks, []string{"wan0"}) }},
		"inside renamed": {func(w *watched) error { return w.rename("eth1", "lan0") }, func(*watched) bool { return true }},
		"a network more": {func(w *watched) error {
			return w.nl.AddrAdd(w.link("eth1"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.0.9.0/24"))})
		}, func(w *watched) bool { _, ok := w.footing.networks[netip.MustParsePrefix("10.0.9.0/24")]; return ok }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onWatched(t, func(w *watched) {
				if err := tt.change(w); err != nil {
					t.Error(err)
				}
				w.looks()
				if got := control.Lines(w.faults()); got != "ok" || !tt.check(w) {
					t.Errorf("afterwards: %s; uplinks %v, self %s", got, w.plan.uplinks, w.self)
				}
				if all := w.log.lines("WARN"); len(all) > 0 {
					t.Errorf("the log:\n%s", strings.Join(all, "\n"))
				}
			})
		})
	}
}

// TestFaultsHeard: the kernel tells of each kind of change, and what does not concern the gateway makes no work.
func TestFaultsHeard(t *testing.T) {
	t.Parallel()
	by := func(dst string) func(w *watched) error {
		return func(w *watched) error {
			return w.nl.RouteAdd(&netlink.Route{LinkIndex: w.link("eth1").Attrs().Index, Dst: ipNet(netip.MustParsePrefix(dst)), Gw: net.IP{10, 0, 1, 10}})
		}
	}
	for name, tt := range map[string]struct {
		change func(w *watched) error
		want   uint32
	}{
		"a rule": {func(w *watched) error { return w.deleteRules(ruleElse) }, ownChange},
		"a route of ours": {func(w *watched) error {
			r := w.plan.guard()[0]
			return w.nl.RouteDel(&r)
		}, ownChange},
		"a route inside":    {by("10.0.7.0/24"), machineChange},
		"the default route": {func(w *watched) error { return w.nl.RouteDel(&netlink.Route{Dst: ipNet(everything)}) }, machineChange},
		"an address": {func(w *watched) error {
			return w.nl.AddrAdd(w.link("eth1"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/32"))})
		}, ownChange | machineChange},
		"an interface": {func(w *watched) error { return w.nl.LinkSetMTU(w.link("eth1"), 1400) }, ownChange | machineChange},
		"a route of others, and a rule": {func(w *watched) error {
			return errors.Join(by("192.0.2.0/24")(w), w.deleteRules(ruleElse))
		}, ownChange},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onWatched(t, func(w *watched) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w.dirty.Store(0)
				if err := errors.Join(w.watch(ctx), tt.change(w)); err != nil {
					t.Error(err)
					return
				}
				for end := time.Now().Add(20 * time.Second); w.dirty.Load() == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				if got := w.dirty.Load(); got != tt.want {
					t.Errorf("told of %b, want %b", got, tt.want)
				}
			})
		})
	}
}

// TestFaultsForgotten: after a reload the machine as it is then is the measure.
func TestFaultsForgotten(t *testing.T) {
	t.Parallel()
	onWatched(t, func(w *watched) {
		if err := w.nl.LinkDel(w.link("eth1")); err != nil {
			t.Error(err)
		}
		w.looks()
		if got := w.faults(); len(got) != 1 || got[0].Kind != faultInside {
			t.Errorf("without an interface: %s", control.Lines(got))
		}
		if err := w.changeOrNot(w.c, func() error { return nil }); err != nil {
			t.Error(err)
		}
		w.looks()
		if got := control.Lines(w.faults()); got != "ok" {
			t.Errorf("after a reload: %s", got)
		}
	})
}

// TestFaultsStuck: the guard has a hole that cannot be closed. Nothing is let through before it is: not even by a TUN that is
// missing, too; and the reason is told.
func TestFaultsStuck(t *testing.T) {
	t.Parallel()
	onWatched(t, func(w *watched) {
		right := w.plan.external
		w.plan.external = append(slices.Clone(right), netip.MustParsePrefix("203.0.113.5/24")) // which the kernel takes for no prefix
		if err := w.nl.LinkDel(w.link("tg-in")); err != nil {
			t.Error(err)
		}
		w.looks()
		if _, err := w.nl.LinkByName("tg-in"); !errors.As(err, new(netlink.LinkNotFoundError)) {
			t.Errorf("the TUN: %v", err)
		}
		if v, err := readSysctl(forwardingKnob); err != nil || v != "0" {
			t.Errorf("forwarding: %s, %v", v, err)
		}
		got := control.Lines(w.faults())
		if !strings.HasPrefix(got, "1 of 6 routes of the guard are missing (to put that right fails: add guard route 203.0.113.5/24: invalid argument)\n"+
			"nothing is forwarded until the guard is whole: ") {
			t.Errorf("the health check says %q", got)
		}
		w.plan.external = right
		for range 3 {
			w.now += longestRetry
			w.looks()
		}
		if got := control.Lines(w.faults()); got != "ok" {
			t.Errorf("afterwards: %s", got)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// TestRouting asks the kernel where each kind of packet would go, with a gateway and with its guard alone. A route that
// is longer than the default and shorter than the inside prefix leads outside: a trap.
func TestRouting(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	err := onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return nl.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("10.0.0.0/8"), Gw: netAddr.AsSlice()})
	})
	if err != nil {
		t.Fatal(err)
	}
	const (
		internet    = "198.51.100.1"
		nowhere     = "10.0.99.1" // inside, but no route leads there
		external    = "203.0.113.1"
		beyond      = "192.0.2.77"
		unreachable = "unreachable"
		blackhole   = "blackhole"
	)
	cases := []struct {
		what, src, dst, iif string
		want, guard         string
	}{
		{"inside to internet", "10.0.1.10", internet, "eth1", "tg-in", unreachable},
		{"inside to inside", "10.0.1.10", "10.0.2.10", "eth1", "eth2", "eth2"},
		{"inside to nowhere", "10.0.1.10", nowhere, "eth1", unreachable, unreachable},
		{"inside to external", "10.0.1.10", external, "eth1", "tg-in", unreachable},
		{"inside to the machine", "10.0.1.10", "198.51.100.2", "eth1", "lo", "lo"},
		{"internet to external", internet, external, "eth0", "tg-out", unreachable},
		{"internet to inside", internet, "10.0.2.10", "eth0", "tg-out", blackhole},
		{"internet to nowhere inside", internet, nowhere, "eth0", "tg-out", blackhole},
		{"spoofed, to inside", "10.0.1.99", "10.0.2.10", "eth0", blackhole, blackhole},
		{"unknown source to internet", "172.16.5.5", internet, "eth1", blackhole, blackhole},
		{"foreign source to internet", "192.0.2.9", internet, "eth1", blackhole, blackhole},
		{"external source to internet", external, internet, "eth1", blackhole, blackhole},
		{"unknown source beyond", "172.16.5.5", beyond, "eth2", blackhole, blackhole},
		{"internet to what is not ours", beyond, "203.0.113.200", "eth0", blackhole, blackhole},
		{"spoofed, to internet", "10.0.1.99", internet, "eth0", blackhole, blackhole},
		{"internet to the machine", internet, "198.51.100.2", "eth0", "lo", "lo"},
		{"translated, out", external, internet, "tg-out", "eth0", ""},
		{"translated, out, beyond", external, beyond, "tg-out", "eth0", ""},
		{"errors of the machine about inbound packets", "192.0.0.8", beyond, "", "tg-in", ""},
		{"translated, in", internet, "10.0.1.10", "tg-in", "eth1", ""},
		{"translated, in, to nowhere", internet, nowhere, "tg-in", "tg-out", ""},
		{"hairpin", external, "10.0.1.10", "tg-in", "eth1", ""},
		{"errors of the machine, in", "198.51.100.2", "10.0.1.10", "tg-in", "eth1", ""},
		{"the machine to inside", "", "10.0.1.10", "", "eth1", "eth1"},
		{"the machine to internet", "", internet, "", "eth0", "eth0"},
		{"the machine beyond", "", beyond, "", "eth0", "eth0"},
		{"the machine to external", "", external, "", "tg-out", unreachable},
		{"the machine, from its inside address", "10.0.1.1", internet, "", "tg-in", unreachable},
	}
	check := func(state string, want func(i int) string) {
		for i, c := range cases {
			if want(i) == "" {
				continue
			}
			if got := b.way(c.src, c.dst, c.iif); got != want(i) {
				t.Errorf("%s: %s: %s > %s from %q goes to %s, want %s", state, c.what, c.src, c.dst, c.iif, got, want(i))
			}
		}
	}
	g := b.start(append(slices.Clone(plain), "--state", "none")...)
	check("gateway", func(i int) string { return cases[i].want })
	g.stop(syscall.SIGKILL)
	until(t, "the interfaces are gone", func() bool { // io_uring may hold them a moment longer than the process
		return b.way("", external, "") == unreachable && b.way("10.0.1.1", internet, "") == unreachable
	})
	check("guard", func(i int) string { return cases[i].guard })
	// With state the interfaces stay, and what is led into them ends there.
	g = b.start()
	check("gateway with state", func(i int) string { return cases[i].want })
	g.stop(syscall.SIGKILL)
	check("interfaces that nobody reads", func(i int) string { return cases[i].want })
	g = b.start()
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, g.text())
	}
	check("guard of a gateway that was stopped", func(i int) string { return cases[i].guard })
}

// way is the interface that the gateway's kernel would send a packet to, or why it would not.
func (b *bed) way(src, dst, iif string) (dev string) {
	b.t.Helper()
	err := onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error {
		o := &netlink.RouteGetOptions{Iif: iif}
		if src != "" {
			o.SrcAddr = net.ParseIP(src)
		}
		routes, err := nl.RouteGetWithOptions(net.ParseIP(dst), o)
		switch {
		case errors.Is(err, unix.EHOSTUNREACH):
			dev = "unreachable"
			return nil
		case errors.Is(err, unix.EINVAL):
			dev = "blackhole"
			return nil
		case err != nil:
			return err
		case len(routes) == 0:
			return errors.New("no answer")
		case routes[0].Type == unix.RTN_LOCAL:
			dev = "lo"
			return nil
		}
		l, err := nl.LinkByIndex(routes[0].LinkIndex)
		if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
			dev = "an interface that has gone since"
			return nil
		}
		if err != nil {
			return err
		}
		dev = l.Attrs().Name
		return nil
	})
	if err != nil {
		b.t.Errorf("%s > %s from %q: %v", src, dst, iif, err)
	}
	return dev
}

// TestOneArmed: with the inside on the cable to the internet, its sources are no spoofs.
func TestOneArmed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	err := onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return nl.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("10.0.7.0/24"), Gw: net.IP{198, 51, 100, 7}})
	})
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	if got := b.way("10.0.7.1", "198.51.100.1", "eth0"); got != "tg-in" {
		t.Errorf("inside to internet goes to %s", got)
	}
	// That ends when the route goes.
	err = onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return nl.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("10.0.7.0/24")})
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the uplink to be found", func() bool { return b.way("10.0.7.1", "198.51.100.1", "eth0") == "blackhole" })
	b.healthy()
}

// TestAnnounce: who has talked to the former holder of an address is told that it has moved, at the start and whenever
// the kernel is made to answer for it again.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	addr := net.IP{198, 51, 100, 60}
	b.strange(addr)
	b.start("--inside", "10.0.0.0/16", "--public", addr.String(), "--forward", "tcp:198.51.100.60:80=10.0.1.10:80", "--metrics", metricsAddr)
	b.untilKnown(addr)
	b.healthy()

	b.strange(addr)
	err := onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return nl.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET, Flags: netlink.NTF_PROXY, IP: addr})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gw.Do(func() error { return setMTU("eth0", 1400) }); err != nil { // whatever happens to it
		t.Fatal(err)
	}
	b.untilKnown(addr)
	b.healthy()
}

// strange makes the internet take an address for another machine's.
func (b *bed) strange(addr net.IP) {
	b.t.Helper()
	err := onLink(b.net, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return nl.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr, State: netlink.NUD_STALE,
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// untilKnown waits until the internet takes it for the gateway's.
func (b *bed) untilKnown(addr net.IP) {
	b.t.Helper()
	var mac net.HardwareAddr
	err := onLink(b.gw, "eth0", func(_ *netlink.Handle, l netlink.Link) error {
		mac = l.Attrs().HardwareAddr
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	until(b.t, "the internet to know the new holder of the address", func() (known bool) {
		err := onLink(b.net, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
			all, err := nl.NeighList(l.Attrs().Index, unix.AF_INET)
			for _, n := range all {
				known = known || n.IP.Equal(addr) && n.HardwareAddr.String() == mac.String()
			}
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
		return known
	})
}

// TestUplinkReturns: an uplink that was down, or is another interface of the same name, answers for what it did before.
func TestUplinkReturns(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start("--inside", "10.0.0.0/16", "--public", "198.51.100.60", "--forward", "tcp:198.51.100.60:80=10.0.1.10:80", "--metrics", metricsAddr)
	echoTCP(t, b.pc, "10.0.1.10:80")
	p := netip.MustParsePrefix
	all := []netip.Prefix{p("0.0.0.0/0")}
	for _, tt := range []struct {
		what string
		do   func() error
	}{
		{"down and up", func() error {
			return onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
				return errors.Join(nl.LinkSetDown(l), nl.LinkSetUp(l),
					nl.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("0.0.0.0/0"), Gw: netAddr.AsSlice()}))
			})
		}},
		{"made again", func() error {
			return errors.Join(
				onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkDel(l) }),
				lab.Connect(b.net, lab.Link{Name: "eth0", Addr: p("198.51.100.1/24")},
					b.gw, lab.Link{Name: "eth0", Addr: p("198.51.100.2/24"), Routes: all, Via: netAddr}))
		}},
	} {
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.what, err)
		}
		until(t, "the address to be answered for", func() bool { return b.proxies() == 1 })
		if a := seen(t, b.net, "tcp", "198.51.100.60:80"); a.Addr() != netAddr {
			t.Errorf("%s: the peer sees %s", tt.what, a)
		}
		until(t, "health", func() bool {
			_, status, err := get(t, b.gw, "http://"+metricsAddr+"/healthz")
			return err == nil && status == http.StatusOK
		})
	}
}

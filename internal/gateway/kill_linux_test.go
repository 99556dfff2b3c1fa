// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// sender sends datagrams from pc to the internet, from new sockets and old ones, until it is stopped.
type sender struct {
	sent atomic.Int64 // attempts; the kernel may say that there is no way
	quit chan struct{}
	done chan struct{}
}

func (b *bed) send() *sender {
	b.t.Helper()
	s := &sender{quit: make(chan struct{}), done: make(chan struct{})}
	dial := func() net.Conn {
		c, err := b.pc.Dial(b.t.Context(), "udp", "198.51.100.1:9")
		if err != nil {
			return nil // as unreachable as it is to be while there is no gateway
		}
		return c
	}
	go func() {
		defer close(s.done)
		old := dial()
		for {
			select {
			case <-s.quit:
				if old != nil {
					_ = old.Close()
				}
				return
			default:
			}
			for _, fresh := range []bool{false, true} {
				c := old
				if fresh {
					c = dial()
				}
				s.sent.Add(1)
				if c == nil {
					continue
				}
				_, _ = c.Write([]byte("to the internet"))
				if fresh {
					_ = c.Close()
				}
			}
		}
	}()
	return s
}

// more waits until n more were sent.
func (s *sender) more(t *testing.T, n int64) {
	t.Helper()
	target := s.sent.Load() + n
	until(t, "more datagrams sent", func() bool { return s.sent.Load() >= target })
}

func (s *sender) stop() {
	close(s.quit)
	<-s.done
}

// TestKill: inside hosts send all the time while the gateway is killed in whatever it is doing and started again; not
// one packet leaves untranslated. At the end the guard is torn down, and the same eyes see the leak that it held back.
func TestKill(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	sink, err := b.net.ListenPacket("udp", "198.51.100.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	g := b.start()
	wire := b.watch()
	s := b.send()

	s.more(t, 1000)
	g.stop(syscall.SIGKILL)
	s.more(t, 2000) // with the guard alone
	if out, exit := b.command("doctor"); exit != 0 || !strings.Contains(out, "the guard of an earlier one refuses traffic from 10.0.0.0/16") {
		t.Errorf("doctor: exit %d\n%s", exit, out)
	}
	for i := range 4 { // in the middle of starting, a little later each time
		g := b.launch()
		s.more(t, int64(200*i))
		g.stop(syscall.SIGKILL)
		s.more(t, 200)
	}
	g = b.start()
	if a := seen(t, b.pc, "tcp", "198.51.100.1:7"); a.Addr() != public {
		t.Errorf("after the restart the internet sees %s", a)
	}
	b.healthy()
	if n := b.ourRules(); n != 10 {
		t.Errorf("%d rules after restarts, want 10", n)
	}
	s.more(t, 1000)
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, g.text())
	}
	s.more(t, 1000)
	r := wire().Report
	if r.Leaks > 0 {
		t.Error(r.Err())
	}
	if r.Packets < 1000 {
		t.Errorf("the capture has %d packets", r.Packets)
	}

	out, exit := b.command("teardown")
	if exit != 0 || !strings.Contains(out, "Removed 6 rules") || !strings.Contains(out, "10.0.0.0/16") {
		t.Errorf("teardown: exit %d\n%s", exit, out)
	}
	if out, exit := b.command("teardown"); exit != 0 || out != "There is nothing of a gateway here.\n" {
		t.Errorf("teardown again: exit %d\n%s", exit, out)
	}
	if n := b.ourRules(); n != 0 {
		t.Errorf("%d rules after teardown", n)
	}
	// The positive control.
	if err := b.gw.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	wire = b.watch()
	s.more(t, 100)
	s.stop()
	if r := wire().Report; r.Leaks == 0 {
		t.Errorf("without the guard nothing leaks, so this test proves nothing: %+v", r)
	}
}

func (b *bed) ourRules() (n int) {
	b.t.Helper()
	err := onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error {
		rules, err := nl.RuleList(unix.AF_INET)
		for _, r := range rules {
			if r.Protocol == 116 {
				n++
			}
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// TestSurvives: other addresses at the next start leave nothing of the old ones; what the kernel forgets when the
// machine's own address changes comes back.
func TestSurvives(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	b.start("--inside", "10.0.1.0/24,10.0.2.0/24", "--public", "203.0.113.5-203.0.113.9,198.51.100.60").stop(syscall.SIGKILL)
	if n := b.proxies(); n != 1 {
		t.Errorf("%d addresses are answered for, want 1", n)
	}
	if n := b.ourRules(); n != 17 {
		t.Errorf("%d rules for two prefixes, want 17", n)
	}
	b.start()
	if n := b.ourRules(); n != 10 {
		t.Errorf("%d rules for one prefix, want 10", n)
	}
	if n := b.proxies(); n != 0 {
		t.Errorf("%d addresses are answered for, want none", n)
	}
	routes, err := b.outsideRoutes()
	if err != nil || len(routes) != 4 {
		t.Errorf("routes of the outside table: %v, %v", routes, err)
	}

	old := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{198, 51, 100, 2}, Mask: net.CIDRMask(24, 32)}}
	other := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{198, 51, 100, 3}, Mask: net.CIDRMask(24, 32)}}
	err = onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return errors.Join(nl.AddrDel(l, old), nl.AddrAdd(l, other), nl.AddrAdd(l, old),
			nl.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("0.0.0.0/0"), Gw: netAddr.AsSlice()}))
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "routes with the new address", func() bool {
		routes, err := b.outsideRoutes()
		return err == nil && len(routes) == 4
	})
	until(t, "the outside TUN to have the new address, and no other", func() (done bool) {
		err := onLink(b.gw, "tg-out", func(nl *netlink.Handle, l netlink.Link) error {
			addrs, err := nl.AddrList(l, unix.AF_INET)
			done = len(addrs) == 1 && addrs[0].IPNet.String() == "198.51.100.3/32"
			return err
		})
		return err == nil && done
	})
	if a := seen(t, b.pc, "tcp", "198.51.100.1:7"); a.Addr() != public {
		t.Errorf("after a change of addresses the internet sees %s", a)
	}
	b.healthy()
}

func (b *bed) proxies() (n int) {
	b.t.Helper()
	err := onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		all, err := nl.NeighProxyList(l.Attrs().Index, unix.AF_INET)
		n = len(all)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *bed) outsideRoutes() (routes []netlink.Route, err error) {
	err = onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error {
		routes, err = nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: 7401}, netlink.RT_FILTER_TABLE)
		return err
	})
	return routes, err
}

func ipNet(p string) *net.IPNet {
	q := netip.MustParsePrefix(p)
	return &net.IPNet{IP: q.Addr().AsSlice(), Mask: net.CIDRMask(q.Bits(), 32)}
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// TestRefusals: what a gateway does not start for; one sentence each, the exit code, and nothing of it left.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	onGateway := &netlink.Addr{IPNet: ipNet("203.0.113.77/32")}
	err := onLink(b.gw, "lo", func(nl *netlink.Handle, l netlink.Link) error { return nl.AddrAdd(l, onGateway) })
	if err != nil {
		t.Fatal(err)
	}
	onNet := &netlink.Addr{IPNet: ipNet("198.51.100.77/24")}
	if err := onLink(b.net, "eth0", func(nl *netlink.Handle, l netlink.Link) error { return nl.AddrAdd(l, onNet) }); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		exit int
		want string
		args []string
	}{
		"address of the machine": {2, "203.0.113.77 is an address of lo", []string{"--inside", "10.0.0.0/16", "--public", "203.0.113.77"}},
		"address of a neighbor":  {2, "198.51.100.77 is in use by another machine", []string{"--inside", "10.0.0.0/16", "--public", "198.51.100.77"}},
		"broadcast address": {2, "198.51.100.255 is the first or last address of the network 198.51.100.0/24 of eth0",
			[]string{"--inside", "10.0.0.0/16", "--public", "203.0.113.1", "--static", "10.0.1.10=198.51.100.255"}},
		"network address":   {2, "198.51.100.0 is the first or last address", []string{"--inside", "10.0.0.0/16", "--public", "198.51.100.0"}},
		"bad configuration": {2, "--public: outside.addresses[0]: 10.0.0.1 overlaps", []string{"--inside", "10.0.0.0/16", "--public", "10.0.0.1"}},
		"no file":           {2, "nofile.yaml", []string{"--config", "nofile.yaml"}},
		"no configuration":  {2, "write either --config FILE", nil},
		"metrics address":   {2, "metrics cannot be served", []string{"--inside", "10.0.0.0/16", "--public", "203.0.113.1", "--metrics", "192.0.2.1:1"}},
	} {
		out, exit := b.command(append([]string{"run"}, tt.args...)...)
		if exit != tt.exit || !strings.Contains(out, tt.want) {
			t.Errorf("%s: exit %d\n%s", name, exit, out)
		}
	}
	busy, err := b.gw.OpenTUN(lab.Link{Name: "tg-out"})
	if err != nil {
		t.Fatal(err)
	}
	if out, exit := b.command(append([]string{"run"}, plain...)...); exit != 1 || !strings.Contains(out, "in use by another process") {
		t.Errorf("with an interface in use: exit %d\n%s", exit, out)
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	if n := b.ourRules(); n != 0 {
		t.Errorf("the gateways that did not start left %d rules", n)
	}

	g := b.start()
	if out, exit := b.command("run", "--inside", "10.0.0.0/16", "--public", "203.0.113.1"); exit != 1 || !strings.Contains(out, "stop it first") {
		t.Errorf("a second gateway: exit %d\n%s", exit, out)
	}
	other := filepath.Join(t.TempDir(), "other.yaml")
	text := "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.2]}\ndevices: {inside: in2, outside: out2}\n"
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, exit := b.command("run", "--config", other); exit != 1 || !strings.Contains(out, "stop it first") {
		t.Errorf("a second gateway with interfaces of other names: exit %d\n%s", exit, out)
	}
	if out, exit := b.command("teardown"); exit != 1 || !strings.Contains(out, "stop it first") {
		t.Errorf("teardown of a running gateway: exit %d\n%s", exit, out)
	}
	b.healthy()
	g.stop(syscall.SIGINT)

	cmd := b.gw.Command(t.Context(), binary, append([]string{"run"}, plain...)...)
	var out strings.Builder
	cmd.Stderr = &out
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	if err := b.gw.Run(cmd); code(err) != 3 || !strings.Contains(out.String(), "run as root") {
		t.Errorf("without privilege: %v\n%s", err, out.String())
	}
}

// TestStop: whichever signal asks for it, what outlives the interfaces is as it was, except the guard.
func TestStop(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	names := []string{"ip_forward", "icmp_errors_use_inbound_ifaddr", "neigh/eth0/proxy_delay"}
	values := func() (all []string) {
		for _, n := range names {
			v, err := b.gw.ReadFile("/proc/sys/net/ipv4/" + n)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, strings.TrimSpace(string(v)))
		}
		return all
	}
	before := values()
	// Under nohup as well the gateway is to hear SIGHUP: what is handled here, a child has as by default.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		g := b.start("--inside", "10.0.0.0/16", "--public", "198.51.100.60")
		if got := values(); !slices.Equal(got, []string{"1", "1", "0"}) {
			t.Errorf("while it runs: %s", got)
		}
		if err := g.stop(sig); err != nil {
			t.Errorf("%v: %v\n%s", sig, err, g.text())
		}
		if got := values(); !slices.Equal(got, before) {
			t.Errorf("%v: %s = %s, want %s", sig, names, got, before)
		}
		if n := b.ourRules(); n != 6 || b.proxies() != 0 {
			t.Errorf("%v: %d rules of the guard, want 6, %d addresses answered for, want none", sig, n, b.proxies())
		}
		if !strings.Contains(g.text(), `"msg":"changed until the end","sysctl":"net.ipv4.icmp_errors_use_inbound_ifaddr net.ipv4.ip_forward net.ipv4.neigh.eth0.proxy_delay"`) {
			t.Errorf("what is changed is not said in\n%s", g.text())
		}
	}
}

// TestQueue: the interfaces have room for bursts, and what did not fit is counted.
func TestQueue(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	for _, name := range []string{"tg-in", "tg-out"} {
		err := onLink(b.gw, name, func(_ *netlink.Handle, l netlink.Link) error {
			if n := l.Attrs().TxQLen; n != 5000 {
				t.Errorf("the queue of %s has %d places", name, n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{`nat_device_dropped_total{device="inside",op="read"}`, `nat_device_dropped_total{device="outside",op="write"}`} {
		if v := b.metric(name); v != "0" {
			t.Errorf("%s = %s", name, v)
		}
	}
}

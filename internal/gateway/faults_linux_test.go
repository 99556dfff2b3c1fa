// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/control"
)

// lines are those of the log with a text.
func (g *instance) lines(text string) (n int) {
	for line := range strings.SplitSeq(g.text(), "\n") {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// TestDeleted: somebody deletes the interfaces, sets them down or renames them while inside hosts send. Not one packet leaves
// untranslated, a connection that was open goes on, and the log has two lines for each time.
func TestDeleted(t *testing.T) {
	t.Parallel()
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			t.Parallel()
			testDeleted(t, queues)
		})
	}
}

func testDeleted(t *testing.T, queues int) {
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	sink, err := b.net.ListenPacket("udp", "198.51.100.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	g := b.startQueues(queues, "")
	wire := b.watch()
	s := b.send()
	c := dial(t, b.pc, "198.51.100.1:7")
	before := b.ourRules()
	for i, tt := range []struct {
		device, text string
		times        int // that the log says so in the end
		do           func(nl *netlink.Handle, l netlink.Link) error
	}{
		{"tg-in", "interface tg-in was deleted by somebody else", 1, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkDel(l) }},
		{"tg-out", "interface tg-out was deleted by somebody else", 1, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkDel(l) }},
		{"tg-in", "interface tg-in is down", 1, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetDown(l) }},
		{"tg-out", "interface tg-out ", 2, func(nl *netlink.Handle, l netlink.Link) error { // renamed, and down before that on older kernels
			err := nl.LinkSetName(l, "mine")
			if errors.Is(err, unix.EBUSY) {
				err = errors.Join(nl.LinkSetDown(l), nl.LinkSetName(l, "mine"))
			}
			return err
		}},
	} {
		s.more(t, 500)
		if err := onLink(b.gw, tt.device, tt.do); err != nil {
			t.Fatal(err)
		}
		until(t, "the log to say that it is well: "+tt.text, func() bool { return g.lines(`"no longer: interface`) == i+1 })
		if n := g.lines(`"level":"WARN","msg":"` + tt.text); n != tt.times {
			t.Errorf("%d lines say: %s\n%s", n, tt.text, g.text())
		}
		if !c.echo("still there", 20*time.Second) {
			t.Fatalf("after %q the connection is gone\n%s", tt.text, g.text())
		}
		b.hasQueues(queues, "after "+tt.text)
		b.healthy()
	}
	for side, name := range map[string]string{"inside": "tg-in", "outside": "tg-out"} {
		was := b.queues(queues, side, "read")
		for range 16 {
			if c := dial(t, b.pc, "198.51.100.1:7"); !c.echo("a new one", 20*time.Second) {
				t.Fatal("a new connection fails")
			}
		}
		if n := used(was, b.queues(queues, side, "read")); len(n) < min(queues, 2) {
			t.Errorf("of %s the queues %v are used", name, n)
		}
	}
	s.more(t, 500)
	s.stop()
	r := wire().Report
	if r.Leaks > 0 {
		t.Error(r.Err())
	}
	if r.Packets < 1000 {
		t.Errorf("the capture has %d packets", r.Packets)
	}
	if n := b.ourRules(); n != before {
		t.Errorf("%d rules, %d before", n, before)
	}
	if n := g.lines(`"fault":`); n != 8 {
		t.Errorf("%d lines about faults, want 8:\n%s", n, g.text())
	}
	for metric, want := range map[string]string{`nat_faults_total{fault="device"}`: "4", `nat_fault_repairs_total{fault="device"}`: "4", "nat_healthy": "1"} {
		if got := b.metric(metric); got != want {
			t.Errorf("%s = %s, want %s", metric, got, want)
		}
	}
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// TestFaultTold: what the gateway cannot put right is told wherever one asks, and no longer when it is over.
func TestFaultTold(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	g := b.start()
	b.wants(0, []string{"status"}, "ok\n")
	b.wants(0, []string{"doctor"}, "nothing is in the way")
	onLo := func(do func(nl *netlink.Handle, l netlink.Link) error) {
		t.Helper()
		if err := onLink(b.gw, "lo", do); err != nil {
			t.Fatal(err)
		}
	}
	taken := &netlink.Addr{IPNet: ipNet("203.0.113.1/32")}
	gone := &netlink.Route{Dst: ipNet("0.0.0.0/0")}
	for _, tt := range []struct {
		kind, text   string
		spoil, mend  func(nl *netlink.Handle, l netlink.Link) error
		remembersOne bool // only the process knows that it was otherwise
	}{
		{"address", "203.0.113.1 is an address of lo: take it off there",
			func(nl *netlink.Handle, l netlink.Link) error { return nl.AddrAdd(l, taken) },
			func(nl *netlink.Handle, l netlink.Link) error { return nl.AddrDel(l, taken) }, false},
		{"uplink", "there is no way to the internet: the default route is gone",
			func(nl *netlink.Handle, _ netlink.Link) error { return nl.RouteDel(gone) },
			func(nl *netlink.Handle, _ netlink.Link) error {
				return nl.RouteAdd(&netlink.Route{Dst: ipNet("0.0.0.0/0"), Gw: net.IP{198, 51, 100, 1}})
			}, true},
	} {
		onLo(tt.spoil)
		until(t, "the log to tell of "+tt.kind, func() bool { return g.lines(`"level":"WARN","msg":"`+tt.text) == 1 })
		if body, status, err := get(t, b.gw, "http://"+metricsAddr+"/healthz"); err != nil || status != http.StatusServiceUnavailable || !strings.HasPrefix(body, tt.text) {
			t.Errorf("%s: %d %q, %v", tt.kind, status, body, err)
		}
		b.wants(1, []string{"status"}, tt.kind+", since ", tt.text)
		b.wants(0, []string{"stats"}, "health         "+tt.text)
		b.wants(1, []string{"doctor"}, "problem: the gateway that runs here is not well: "+tt.text)
		if !tt.remembersOne {
			if out, exit := b.command("doctor"); exit != 1 || !strings.Contains(out, "the gateway that runs here is not well: "+tt.text) {
				t.Errorf("doctor that does not know the socket: exit %d\n%s", exit, out)
			}
		}
		var st control.Status
		out := b.wants(1, []string{"status", "-o", "json"})
		if err := json.Unmarshal([]byte(out), &st); err != nil || st.Healthy || len(st.Faults) != 1 || st.Faults[0].Kind != tt.kind ||
			st.Faults[0].Since.IsZero() || st.Started.IsZero() || st.Network == "" {
			t.Errorf("%v\n%s", err, out)
		}
		for metric, want := range map[string]string{"nat_healthy": "0", `nat_fault_active{fault="` + tt.kind + `"}`: "1", `nat_fault_active{fault="guard"}`: "0"} {
			if got := b.metric(metric); got != want {
				t.Errorf("%s: %s = %s, want %s", tt.kind, metric, got, want)
			}
		}
		onLo(tt.mend)
		until(t, "the log to tell that it is over", func() bool { return g.lines(`"msg":"no longer: `+tt.text) == 1 })
		b.healthy()
		b.wants(0, []string{"status"}, "ok\n")
	}
	b.wants(0, []string{"doctor"}, "nothing is in the way")
	if n := g.lines(`"fault":`); n != 4 {
		t.Errorf("%d lines about faults, want 4:\n%s", n, g.text())
	}
}

// TestStopped: the process is stopped for a while (SIGSTOP), as on a machine that is suspended. What came meanwhile waits, the
// connections go on, and there is nothing to say about it.
func TestStopped(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	echoUDP(t, b.net, "198.51.100.1:53")
	g := b.start()
	wire := b.watch()
	c := dial(t, b.pc, "198.51.100.1:7")
	u, err := b.pc.Dial(t.Context(), "udp", "198.51.100.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_ = errors.Join(c.SetDeadline(time.Now().Add(20*time.Second)), u.SetDeadline(time.Now().Add(20*time.Second)))
	const rounds, datagrams = 3, 20
	for range rounds {
		if err := g.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		until(t, "the process to be stopped", func() bool {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
			return err == nil && strings.Contains(string(status), "State:\tT")
		})
		for range datagrams {
			if _, err := u.Write([]byte("waits")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := fmt.Fprintln(c, "waits, too"); err != nil {
			t.Fatal(err)
		}
		if err := g.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for i := range datagrams {
			if _, err := u.Read(make([]byte, 64)); err != nil {
				t.Fatalf("datagram %d of those that waited: %v", i, err)
			}
		}
		if !c.lines.Scan() || c.lines.Text() != "waits, too" {
			t.Fatalf("the connection: %v", c.lines.Err())
		}
	}
	b.healthy()
	r := wire().Report
	if r.Leaks > 0 {
		t.Error(r.Err())
	}
	if out := b.number(`nat_packets_total{dir="out",verdict="outbound"}`); r.Packets < rounds*datagrams || out > 200 {
		t.Errorf("%d packets outside, %d sent out", r.Packets, out)
	}
	if n := g.lines(`"level":"WARN"`) + g.lines(`"level":"ERROR"`); n != 0 {
		t.Errorf("the log:\n%s", g.text())
	}
}

// TestReloadFaults: the configuration is replaced again and again under traffic while somebody takes rules and an interface
// away. What is refused is refused whole; in the end the last one is in force, whole, and nothing has leaked.
func TestReloadFaults(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	sink, err := b.net.ListenPacket("udp", "198.51.100.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	const text = "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1%s]}\n"
	one, two := fmt.Sprintf(text, ""), fmt.Sprintf(text, ", 203.0.113.2, 198.51.100.60")
	file := b.config("", one)
	g := b.start("--config", file, "--metrics", metricsAddr)
	b.config(file, two)
	b.wants(0, []string{"reload"})
	want := b.machine()
	wire := b.watch(netip.MustParsePrefix("198.51.100.60/32"))
	s := b.send()
	c := dial(t, b.pc, "198.51.100.1:7")
	for i := range 6 {
		b.config(file, []string{one, two}[i%2])
		s.more(t, 100)
		err := onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error {
			if i == 3 {
				l, err := nl.LinkByName("tg-out")
				if err != nil {
					return err
				}
				return nl.LinkDel(l)
			}
			rules, err := nl.RuleList(unix.AF_INET)
			for _, r := range rules {
				if r.Protocol == 116 && r.Priority == 1002 && i < 3 { // not the fence, which leaks until it is back
					err = errors.Join(err, nl.RuleDel(&r))
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if out, exit := b.look("reload"); exit > 1 {
			t.Errorf("reload: exit %d\n%s", exit, out)
		}
	}
	until(t, "all to be well", func() bool {
		out, exit := b.look("status")
		return exit == 0 && out == "ok\n"
	})
	b.wants(0, []string{"reload"})
	if got := b.machine(); strings.Count(got, "\n") != strings.Count(want, "\n") {
		t.Errorf("in the end:\n%s\nas it was:\n%s", got, want)
	}
	if c.seen.Addr() == public && !c.echo("still there", 20*time.Second) { // the address that both configurations have
		t.Errorf("the connection is gone\n%s", g.text())
	}
	s.more(t, 100)
	s.stop()
	if r := wire().Report; r.Leaks > 0 || r.Packets < 100 {
		t.Errorf("%v, %d packets", r.Err(), r.Packets)
	}
}

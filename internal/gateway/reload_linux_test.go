// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// look runs a command about the gateway that runs.
func (b *bed) look(args ...string) (out string, exit int) {
	b.t.Helper()
	return b.command(append(args, "--socket", b.socket)...)
}

// wants runs a command and looks for texts in what it prints.
func (b *bed) wants(exit int, args []string, texts ...string) string {
	b.t.Helper()
	out, got := b.look(args...)
	if got != exit {
		b.t.Errorf("gateway %v: exit %d, want %d\n%s", args, got, exit, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			b.t.Errorf("gateway %v: no %q in\n%s", args, text, out)
		}
	}
	return out
}

// conn is a connection to a server of echoTCP.
type conn struct {
	net.Conn
	lines *bufio.Scanner
	seen  netip.AddrPort // as the server sees it
}

func dial(t *testing.T, h *lab.Host, addr string) *conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	raw, err := h.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	c := &conn{Conn: raw, lines: bufio.NewScanner(raw)}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if !c.lines.Scan() {
		t.Fatal(c.lines.Err())
	}
	if c.seen, err = netip.ParseAddrPort(c.lines.Text()); err != nil {
		t.Fatal(err)
	}
	return c
}

// echo reports whether the connection still carries something both ways, within d.
func (c *conn) echo(text string, d time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(d))
	_, err := fmt.Fprintln(c, text)
	return err == nil && c.lines.Scan() && c.lines.Text() == text
}

// config writes a file and returns its name; it replaces the one before at once.
func (b *bed) config(name, text string) string {
	b.t.Helper()
	if name == "" {
		name = filepath.Join(b.t.TempDir(), "gateway.yaml")
	}
	if err := errors.Join(os.WriteFile(name+".new", []byte(text), 0o600), os.Rename(name+".new", name)); err != nil {
		b.t.Fatal(err)
	}
	return name
}

// machine is everything of the gateway's in the kernel: rules, routes, and what it answers ARP for.
func (b *bed) machine() string {
	b.t.Helper()
	var lines []string
	err := onLink(b.gw, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		rules, err := nl.RuleList(unix.AF_INET)
		for _, r := range rules {
			if r.Protocol == 116 {
				lines = append(lines, r.String())
			}
		}
		for _, table := range []int{7400, 7401} {
			routes, rerr := nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			err = errors.Join(err, rerr)
			for _, r := range routes {
				lines = append(lines, r.String())
			}
		}
		proxies, perr := nl.NeighProxyList(l.Attrs().Index, unix.AF_INET)
		for _, p := range proxies {
			lines = append(lines, "answers for "+p.IP.String())
		}
		return errors.Join(err, perr)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestLook: flows, stats and ports of real traffic, by a process that has dropped its capabilities; its socket goes with it.
func TestLook(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.wants(1, []string{"stats"}, "no gateway runs at "+b.socket)
	file := b.config("", "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\nflow_counters: true\n"+
		"forwards: [{proto: tcp, outside: \"203.0.113.1:8080\", inside: \"10.0.2.10:80\"}]\n")
	g := b.start("--config", file)
	echoTCP(t, b.net, "198.51.100.1:7")
	echoUDP(t, b.net, "198.51.100.1:53")
	echoTCP(t, b.srv, "10.0.2.10:80")

	out := dial(t, b.pc, "198.51.100.1:7")
	in := dial(t, b.net, "203.0.113.1:8080")
	query := seen(t, b.pc, "udp", "198.51.100.1:53")
	for what, line := range map[string]string{
		"out": `(?m)^tcp      6 7\d{3} ESTABLISHED src=10\.0\.1\.10 dst=198\.51\.100\.1 sport=\d+ dport=7 packets=\d+ bytes=\d+ src=198\.51\.100\.1 dst=203\.0\.113\.1 sport=7 dport=` +
			fmt.Sprint(out.seen.Port()) + ` packets=\d+ bytes=\d+ \[ASSURED\]$`,
		"in": `(?m)^tcp      6 7\d{3} ESTABLISHED src=198\.51\.100\.1 dst=203\.0\.113\.1 sport=` + fmt.Sprint(in.seen.Port()) +
			` dport=8080 packets=\d+ bytes=\d+ src=10\.0\.2\.10 dst=198\.51\.100\.1 sport=80 dport=` + fmt.Sprint(in.seen.Port()) + ` packets=\d+ bytes=\d+ \[ASSURED\]$`,
		"udp": `(?m)^udp      17 \d+ src=10\.0\.1\.10 dst=198\.51\.100\.1 sport=\d+ dport=53 packets=1 bytes=\d+ src=198\.51\.100\.1 dst=203\.0\.113\.1 sport=53 dport=` +
			fmt.Sprint(query.Port()) + ` packets=1 bytes=\d+ \[ASSURED\]$`,
		"summary": `(?m)^3 flow entries have been shown\.$`,
	} {
		if all := b.wants(0, []string{"flows"}); !regexp.MustCompile(line).MatchString(all) {
			t.Errorf("%s: no %s in\n%s", what, line, all)
		}
	}
	b.wants(0, []string{"flows", "-p", "tcp", "-n", "203.0.113.0/24", "--state", "established"}, "dport=7 ", "\n1 flow entries")
	b.wants(0, []string{"flows", "-g"}, "dport=8080 ", "\n1 flow entries")
	b.wants(0, []string{"flows", "-p", "udp", "-o", "json"}, `"state":"dns"`, `"packets":{"out":1,"in":1}`)
	b.wants(2, []string{"flows", "-p", "gre", "--dport", "x"}, "gateway: dport: ", "gateway: proto: ")
	b.wants(0, []string{"stats"}, "health         ok", "sessions       3 of 1048576", "outbound", "inside         tg-in: ")
	b.wants(0, []string{"stats", "-o", "json"}, `"source": "`+file+`"`)
	b.wants(0, []string{"ports", "--top", "1"}, "203.0.113.1  tcp    1     64511  0.0 %  198.51.100.1:7")

	b.watchFlows()

	if st, err := os.Stat(b.socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st, err)
	}
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	b.start("--config", file).stop(syscall.SIGKILL)
	if _, err := os.Stat(b.socket); err != nil {
		t.Errorf("killed, and yet tidy: %v", err)
	}
	b.start("--config", file)
	b.wants(0, []string{"stats"}, "health         ok")
}

// watchFlows: what is opened while somebody watches he sees, and SIGINT is an end as asked.
func (b *bed) watchFlows() {
	b.t.Helper()
	cmd := b.gw.Command(b.t.Context(), binary, "flows", "--watch", "--dport", "9", "--socket", b.socket)
	cmd.SysProcAttr.Cloneflags = 0 // see launch
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	var summary bytes.Buffer
	cmd.Stderr = &summary
	if err := b.gw.Start(cmd); err != nil {
		b.t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	echoTCP(b.t, b.net, "198.51.100.1:9")
	n := 0
	made := regexp.MustCompile(`^    \[NEW\] tcp      6 240 SYN_SENT src=10\.0\.1\.10 dst=198\.51\.100\.1 sport=\d+ dport=9 \[UNREPLIED\] src=`)
	until(b.t, "the event of a new connection", func() bool {
		dial(b.t, b.pc, "198.51.100.1:9") // one that began before it watched shows its later events alone
		for {
			select {
			case line := <-lines:
				n++
				if made.MatchString(line) {
					return true
				}
			default:
				return false
			}
		}
	})
	_ = cmd.Process.Signal(os.Interrupt) // it may have ended
	for range lines {
		n++
	}
	if err := cmd.Wait(); err != nil || summary.String() != fmt.Sprintf("%d flow events have been shown.\n", n) {
		b.t.Errorf("%v, %d lines, and %q", err, n, summary.String())
	}
}

// TestReloadTraffic: a connection survives a reload that keeps its address and is cut by one that takes it away; what is new can
// be reached at once; a reload that is refused leaves everything as it was.
func TestReloadTraffic(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	leaks := b.watch(netip.MustParsePrefix("198.51.100.60/31"))
	const head = "inside: {prefixes: [10.0.0.0/16]}\noutside:\n  "
	file := b.config("", head+"addresses: [198.51.100.60]\n")
	g := b.start("--config", file, "--metrics", metricsAddr)
	echoTCP(t, b.net, "198.51.100.1:7")
	echoTCP(t, b.srv, "10.0.2.10:80")
	old := netip.MustParseAddr("198.51.100.60")
	c := dial(t, b.pc, "198.51.100.1:7")
	if c.seen.Addr() != old {
		t.Fatalf("seen as %s", c.seen)
	}

	// Refused: faults of the file, keys that need a restart, an address that another machine has, one of this machine.
	before := b.machine()
	for text, want := range map[string][]string{
		head + "address: [198.51.100.61]\nhairpin: maybe\n":                                         {":3: outside.address: unknown key", ":4: hairpin: "},
		head + "addresses: [198.51.100.60]\ndevices: {mtu: 1400}\n":                                 {":4: devices.mtu: cannot change while the gateway runs"},
		head + "addresses: [198.51.100.60, 198.51.100.1]\n":                                         {"198.51.100.1 is in use by another machine"},
		head + "addresses: [198.51.100.60]\nstatic: [{inside: 10.0.2.10, outside: 198.51.100.2}]\n": {"198.51.100.2 is an address of eth0"},
	} {
		b.config(file, text)
		for _, args := range [][]string{{"reload", "--dry-run"}, {"reload"}} {
			b.wants(2, args, want...)
		}
		if after := b.machine(); after != before {
			t.Errorf("after a refused reload:\n%s\nbefore:\n%s", after, before)
		}
	}
	if !c.echo("still here", 20*time.Second) {
		t.Error("a refused reload ended a connection")
	}
	b.healthy()

	// A 1:1 mapping, a forward and an address more: the connection goes on.
	b.config(file, head+"addresses: [198.51.100.60]\nstatic: [{inside: 10.0.2.10, outside: 198.51.100.61}]\n"+
		"forwards: [{proto: tcp, outside: \"198.51.100.60:8080\", inside: \"10.0.2.20:80\"}]\n")
	echoTCP(t, b.srv, "10.0.2.20:80")
	b.wants(0, []string{"reload", "--dry-run"}, file+": changes static, forwards\n", "sessions: 1 to keep, 0 of them on draining addresses, 0 to cut")
	if out, _ := b.look("stats"); strings.Contains(out, "static_") {
		t.Errorf("a dry run did something:\n%s", out)
	}
	b.wants(0, []string{"reload"}, "1 to keep", "sessions: 1 kept, 0 of them on draining addresses, 0 cut\n")
	if !c.echo("kept", 20*time.Second) {
		t.Error("a reload that keeps it ended a connection")
	}
	dial(t, b.net, "198.51.100.61:80")
	dial(t, b.net, "198.51.100.60:8080")
	b.healthy()

	// The address drains, by a signal: the connection goes on, the next one has the other address.
	b.config(file, head+"addresses: [203.0.113.1]\n  draining: [198.51.100.60]\n")
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "the reload", func() bool { return strings.Count(g.text(), `"msg":"reloaded"`) == 2 })
	if !c.echo("drains", 20*time.Second) {
		t.Error("draining ended a connection")
	}
	if next := dial(t, b.pc, "198.51.100.1:7"); next.seen.Addr() != public {
		t.Errorf("a new connection is seen as %s", next.seen)
	}
	b.wants(0, []string{"ports"}, "endpoint-independent, draining")
	b.healthy()

	// And goes: cut, and nobody answers for it any more. One session, of the forward, ended before.
	b.config(file, head+"addresses: [203.0.113.1]\n")
	b.wants(0, []string{"reload", "-o", "json"}, `"cut": 1`)
	if c.echo("gone", 500*time.Millisecond) {
		t.Error("a connection outlived its address")
	}
	if m := b.machine(); strings.Contains(m, "198.51.100.6") {
		t.Errorf("left behind:\n%s", m)
	}
	b.healthy()

	// Another inside: what is no longer of it goes nowhere.
	b.config(file, "inside: {prefixes: [10.0.1.0/24]}\noutside: {addresses: [203.0.113.1]}\n")
	b.wants(0, []string{"reload"}, "changes inside.prefixes")
	if err := refusedDial(t, b.srv, "198.51.100.1:7"); err == nil {
		t.Error("a host that is no longer inside gets out")
	}
	dial(t, b.pc, "198.51.100.1:7")
	b.healthy()
	if r := leaks().Report; r.Leaks > 0 {
		t.Error(r.Err())
	}
}

// refusedDial is a connection that is not to come about.
func refusedDial(t *testing.T, h *lab.Host, addr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", addr)
	if err == nil {
		_ = c.Close()
	}
	return err
}

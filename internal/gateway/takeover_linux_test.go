// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// line is a connection that is held open, whose echo tells whether it lives.
type line struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
	n int
}

func (b *bed) hold() *line {
	b.t.Helper()
	c, err := b.pc.Dial(b.t.Context(), "tcp", "198.51.100.1:7")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	l := &line{t: b.t, c: c, r: bufio.NewReader(c)}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := l.r.ReadString('\n'); err != nil { // its address
		b.t.Fatal(err)
	}
	l.alive("at the start")
	return l
}

// alive has a line sent and echoed.
func (l *line) alive(when string) {
	l.t.Helper()
	l.n++
	want := fmt.Sprintf("line %d\n", l.n)
	_ = l.c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err := io.WriteString(l.c, want)
	got := ""
	if err == nil {
		got, err = l.r.ReadString('\n')
	}
	if err != nil || got != want {
		l.t.Fatalf("%s the connection says %q, %v", when, got, err)
	}
}

// configFile writes a configuration and returns its path.
func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const plainFile = "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\n"

// TestUpgradeRefused: a start that cannot take over changes nothing, and the gateway that runs goes on.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	g := b.start()
	conn := b.hold()
	onGateway := &netlink.Addr{IPNet: ipNet("203.0.113.77/32")}
	err := onLink(b.gw, "lo", func(nl *netlink.Handle, l netlink.Link) error { return nl.AddrAdd(l, onGateway) })
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		exit int
		want string
		args []string
	}{
		"bad configuration": {2, "overlaps", []string{"--inside", "10.0.0.0/16", "--public", "10.0.0.1"}},
		"an address that the machine has": {2, "203.0.113.77 is an address of lo",
			[]string{"--inside", "10.0.0.0/16", "--public", "203.0.113.77"}},
		"not to take over":   {1, "stop it first", append([]string{"--no-takeover"}, plain...)},
		"other interfaces":   {1, "the gateway that runs has the interfaces tg-in and tg-out", []string{"--config", configFile(t, plainFile+"devices: {outside: other}\n")}},
		"other metrics":      {2, "metrics cannot be served", []string{"--inside", "10.0.0.0/16", "--public", "203.0.113.1", "--metrics", "192.0.2.1:1"}},
		"no place for state": {2, "not on a tmpfs", append([]string{"--state", "/proc/gateway.state"}, plain...)},
	} {
		out, exit := b.command(append([]string{"run", "--socket", b.socket}, tt.args...)...)
		if exit != tt.exit || !strings.Contains(out, tt.want) {
			t.Errorf("%s: exit %d\n%s", name, exit, out)
		}
		conn.alive("after a start that was refused for " + name)
	}
	// One that only looked: not those before, of which some have, too.
	c := b.askToTake()
	_ = c.Close()
	conn.alive("after somebody looked")
	until(t, "the log to say so", func() bool {
		return strings.Contains(g.text(), `"another process looked, and did not take over","pid":1,"version":"test"`)
	})
	b.healthy()

	// One that takes over and dies.
	c = b.askToTake()
	if _, err := io.WriteString(c, "take\n"); err != nil {
		t.Fatal(err)
	}
	if s, err := bufio.NewReader(c).ReadString('\n'); err != nil || s != "yours\n" {
		t.Fatalf("%q, %v", s, err)
	}
	_ = c.Close()
	if err := g.wait(); code(err) != 1 || !strings.Contains(lastLine(g.text()), "took over and does not forward (it has gone): the guard refuses traffic until the next start") {
		t.Errorf("the old process ended with %v\n%s", err, g.text())
	}
	g = b.start()
	conn.alive("after the start that came then")
	if !strings.Contains(g.text(), `"msg":"adopted","sessions":1,`) {
		t.Errorf("adopted is not said:\n%s", g.text())
	}
	b.healthy()
}

// askToTake is another process up to the point where it would take over.
func (b *bed) askToTake() net.Conn {
	b.t.Helper()
	c, r, status := b.ask()
	if !strings.Contains(status, " 101 ") {
		b.t.Fatal(status)
	}
	for s := ""; !strings.HasPrefix(s, "{"); { // the offer; its descriptors end here
		var err error
		if s, err = r.ReadString('\n'); err != nil {
			b.t.Fatal(err)
		}
	}
	return c
}

// ask asks to take over, in the words of a process of the first version; the status is a line.
func (b *bed) ask() (c net.Conn, r *bufio.Reader, status string) {
	b.t.Helper()
	c, err := net.Dial("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	ns := ""
	if err := b.gw.Do(func() (err error) { ns, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		b.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"PID": 1, "Version": "test", "Namespace": ns,
		"Devices": map[string]any{"Inside": "tg-in", "Outside": "tg-out"}})
	if err != nil {
		b.t.Fatal(err)
	}
	fmt.Fprintf(c, "POST /v1/handover HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	r = bufio.NewReader(c)
	if status, err = r.ReadString('\n'); err != nil {
		b.t.Fatal(err)
	}
	return c, r, status
}

// TestUpgradeChanges: another configuration is taken over with the connections that it allows: other tables, another place
// for them, more addresses, and in the end no state.
func TestUpgradeChanges(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	metrics := []string{"--metrics", metricsAddr}
	g := b.start(append([]string{"--config", configFile(t, plainFile+"limits: {sessions: 4096}\n")}, metrics...)...)
	conn := b.hold()
	created := b.number("nat_sessions_created_total")
	packets := b.number(`nat_packets_total{dir="out",verdict="outbound"}`)
	state := filepath.Join(t.TempDir(), "elsewhere.state") // on the disk, so of no use
	for _, next := range []string{
		"limits: {sessions: 8192}\nflow_counters: true\n",
		"limits: {sessions: 8192}\nflow_counters: true\nstatic: [{inside: 10.0.2.10, outside: 198.51.100.60}]\n",
		"limits: {sessions: 2048}\nstate: {file: /run/other.state}\n",
		"limits: {sessions: 2048}\nstate: {file: memfd}\n",
		"limits: {sessions: 2048}\nstate: {file: memfd}\nprofile: aws\n",
		"state: {file: none}\n",
	} {
		n := b.start(append([]string{"--config", configFile(t, plainFile+next)}, metrics...)...)
		if err := g.wait(); err != nil {
			t.Errorf("before %q the old process ended with %v\n%s", next, err, g.text())
		}
		conn.alive("after the upgrade to " + next)
		g = n
		if got := b.number("nat_sessions_created_total"); got < created {
			t.Errorf("%q: %d sessions were created, before it were %d", next, got, created)
		}
		if got := b.number(`nat_packets_total{dir="out",verdict="outbound"}`); got <= packets && !strings.Contains(next, "none") {
			t.Errorf("%q: %d packets, before it were %d", next, got, packets)
		}
		if want := 0; strings.Contains(next, "static") {
			want = 1
			if got := b.proxies(); got != want {
				t.Errorf("%q: %d addresses are answered for, want %d", next, got, want)
			}
		} else if got := b.proxies(); got != want {
			t.Errorf("%q: %d addresses are answered for, want %d", next, got, want)
		}
		b.healthy()
	}
	if _, err := b.gw.ReadFile("/run/other.state"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not in use any more: %v", err)
	}
	if out, exit := b.command("run", "--socket", b.socket, "--config", configFile(t, plainFile)); exit != 1 || !strings.Contains(out, "keeps no state") {
		t.Errorf("over a gateway without state: exit %d\n%s", exit, out)
	}
	g.stop(syscall.SIGKILL)
	if out, exit := b.command("run", "--socket", b.socket, "--state", state, "--config", configFile(t, plainFile)); exit != 2 || !strings.Contains(out, "not on a tmpfs") {
		t.Errorf("state on a disk: exit %d\n%s", exit, out)
	}
}

// TestStopAndStart: what each way to stop leaves, and that connections go on after it.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	g := b.start()
	conn := b.hold()
	for _, tt := range []struct {
		sig   syscall.Signal
		rules int
		stays bool
	}{{syscall.SIGTERM, 6, false}, {syscall.SIGUSR2, 10, true}, {syscall.SIGKILL, 10, true}} {
		if err := g.stop(tt.sig); tt.sig != syscall.SIGKILL && err != nil {
			t.Errorf("%v: %v\n%s", tt.sig, err, g.text())
		}
		err := onLink(b.gw, "tg-in", func(*netlink.Handle, netlink.Link) error { return nil })
		if n := b.ourRules(); n != tt.rules || (err == nil) != tt.stays {
			t.Errorf("%v leaves %d rules, want %d; the interface: %v", tt.sig, n, tt.rules, err)
		}
		forward, err := b.gw.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if err != nil || (string(forward) == "1\n") != tt.stays {
			t.Errorf("%v leaves ip_forward %q, %v", tt.sig, forward, err)
		}
		g = b.start()
		conn.alive("after " + tt.sig.String() + " and a start")
	}
	// What the first of them had set is set back by the last.
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if forward, err := b.gw.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(forward) != "0\n" {
		t.Errorf("in the end ip_forward is %q, %v", forward, err)
	}
	out, exit := b.command("teardown")
	if exit != 0 || !strings.Contains(out, "Removed /run/tidegate/tg-in.state") {
		t.Errorf("teardown: exit %d\n%s", exit, out)
	}
}

// TestUnusableState: each choice about a file that is damaged, and a sentence about it.
func TestUnusableState(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	const path = "/run/tidegate/tg-in.state"
	for name, spoil := range map[string]func() error{
		"truncated": func() error { return os.Truncate(path, 100_000) },
		"damaged":   func() error { return os.WriteFile(path, []byte("nonsense"), 0o600) },
		"records": func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, 4096), 8192)
			return errors.Join(err, f.Close())
		},
	} {
		b.start().stop(syscall.SIGKILL)
		if err := b.gw.Do(spoil); err != nil {
			t.Fatal(err)
		}
		refuse := configFile(t, plainFile+"state: {unusable: refuse}\n")
		out, exit := b.command("run", "--socket", b.socket, "--config", refuse)
		if exit != 2 || !strings.Contains(out, "the state in "+path+" cannot be used: ") {
			t.Errorf("%s: exit %d\n%s", name, exit, out)
		}
		g := b.start()
		if !strings.Contains(g.text(), `"level":"WARN","msg":"the state of the last run cannot be used: starting without sessions"`) ||
			strings.Contains(g.text(), `"msg":"adopted"`) {
			t.Errorf("%s:\n%s", name, g.text())
		}
		b.healthy()
		g.stop(syscall.SIGKILL)
	}
}

// TestServiceManager: it is told what there is to tell, keeps the queues and the memory, and gets it all back: what was sent
// while no process was there is answered. If it kept another number of queues than there are to be, the interfaces are made anew.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			t.Parallel()
			testServiceManager(t, queues)
		})
	}
}

func testServiceManager(t *testing.T, queues int) {
	b := newBed(t)
	echoUDP(t, b.net, "198.51.100.1:7")
	at := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	kept, room := map[string]*os.File{}, 1000
	hear := func(until string) {
		t.Helper()
		for {
			_ = manager.SetReadDeadline(time.Now().Add(20 * time.Second))
			buf, oob := make([]byte, 4096), make([]byte, 256)
			n, m, _, _, err := manager.ReadMsgUnix(buf, oob)
			if err != nil {
				t.Fatalf("the service manager waits for %s: %v", until, err)
			}
			text := string(buf[:n])
			if name, ok := strings.CutPrefix(text, "FDSTOREREMOVE=1\nFDNAME="); ok && kept[name] != nil {
				_ = kept[name].Close()
				delete(kept, name)
			}
			if name, ok := strings.CutPrefix(text, "FDSTORE=1\nFDNAME="); ok && len(kept) < room {
				all, err := unix.ParseSocketControlMessage(oob[:m])
				if err != nil {
					t.Fatal(err)
				}
				fds, err := unix.ParseUnixRights(&all[0])
				if err != nil {
					t.Fatal(err)
				}
				f := os.NewFile(uintptr(fds[0]), name)
				kept[name] = f
				t.Cleanup(func() { _ = f.Close() })
			}
			if strings.HasPrefix(text, until) {
				return
			}
		}
	}
	serve := func(queues int) *instance {
		t.Helper()
		var names []string
		var files []*os.File
		for name, f := range kept {
			names, files = append(names, name), append(files, f)
		}
		g := b.launchAs(func(c *exec.Cmd) {
			// As systemd, which knows the process when it starts it.
			c.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, c.Args...)
			c.Path, c.ExtraFiles = "/bin/sh", files
			c.Env = append(os.Environ(), "NOTIFY_SOCKET="+at, "WATCHDOG_USEC=300000", "FDSTORE=3",
				fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
		}, "--state", "memfd", "--metrics", metricsAddr, "--config", configFile(t, withQueues(queues, "")))
		hear("READY=1\nSTATUS=forwarding 10.0.0.0/16 by 203.0.113.1") // it may have more to say before than the socket holds
		g.started()
		return g
	}
	keeps := func(queues int) {
		t.Helper()
		want := []string{"tidegate-inside", "tidegate-outside", "tidegate-state"}
		for i := 1; i < queues; i++ {
			want = append(want, fmt.Sprintf("tidegate-inside-%d", i), fmt.Sprintf("tidegate-outside-%d", i))
		}
		slices.Sort(want)
		if got := slices.Sorted(maps.Keys(kept)); !slices.Equal(got, want) {
			t.Fatalf("kept: %v", got)
		}
	}
	g := serve(queues)
	keeps(queues)
	hear("WATCHDOG=1")
	c, err := b.pc.Dial(t.Context(), "udp", "198.51.100.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := func() string {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	say := func() {
		t.Helper()
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	say()
	face := answer()
	g.stop(syscall.SIGKILL)
	if out, exit := b.command("run", "--socket", b.socket, "--inside", "10.0.0.0/16", "--public", "203.0.113.1"); exit != 1 {
		t.Errorf("somebody else starts while the service manager has the queues: exit %d\n%s", exit, out)
	}
	for range 100 {
		say()
	}
	g = serve(queues)
	for i := range 100 {
		if got := answer(); got != face {
			t.Fatalf("answer %d is for %s, which was %s", i, got, face)
		}
	}
	if !strings.Contains(g.text(), `"msg":"adopted","sessions":1,`) {
		t.Errorf("adopted is not said:\n%s", g.text())
	}
	hear("WATCHDOG=1")
	if err := g.stop(syscall.SIGUSR2); err != nil {
		t.Error(err)
	}
	hear("STOPPING=1")
	say()
	g = serve(queues)
	if got := answer(); got != face {
		t.Errorf("after SIGUSR2 the internet sees %s, which was %s", got, face)
	}
	b.hasQueues(queues, "after all that")
	const anew = `"msg":"the service manager kept another number of queues`
	if n := g.lines(anew); n != 0 {
		t.Errorf("queues that fit are not used:\n%s", g.text())
	}
	for _, tt := range []struct {
		next, room int
		stop       syscall.Signal
	}{
		{5 - queues, 1000, syscall.SIGUSR2}, // the other kind
		{2, 4, syscall.SIGKILL},             // what is kept of it is not all
		{2, 1000, syscall.SIGKILL},
		{3, 1000, syscall.SIGUSR2}, // of the same kind, and the service manager holds the ones that were
		{queues, 1000, syscall.SIGKILL},
	} {
		when := fmt.Sprintf("after %v and a start with %d queues", tt.stop, tt.next)
		g.stop(tt.stop)
		room = tt.room
		g = serve(tt.next)
		b.hasQueues(tt.next, when)
		say()
		if got := answer(); got != face {
			t.Errorf("%s the internet sees %s, which was %s", when, got, face)
		}
		if n := g.lines(anew); n == 0 {
			t.Errorf("%s:\n%s", when, g.text())
		}
		if tt.room >= 1000 {
			keeps(tt.next)
		}
		b.healthy()
	}
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	hear(fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=tidegate-outside%s", map[int]string{1: "", 4: "-3"}[queues]))
	if len(kept) > 0 {
		t.Errorf("in the end it still keeps %v", kept)
	}
}

// TestCountersSurvive: no counter steps back when the process is killed or replaced, but for those that are of the process.
func TestCountersSurvive(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	g := b.start()
	conn := b.hold()
	for range 20 {
		conn.alive("before")
	}
	// As docs/operations.md has it.
	ofProcess := regexp.MustCompile(`^(nat_tcp_(attempts|established|idle_timeouts)_total|nat_device_(sleeps|exhausted|queue_packets)_total|nat_faults_total|nat_fault_repairs_total|nat_monitor_resyncs_total|go_|process_|promhttp_)`)
	counters := func() map[string]float64 {
		t.Helper()
		body, _, err := get(t, b.gw, "http://"+metricsAddr+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]float64{}
		for l := range strings.Lines(body) {
			name, value, _ := strings.Cut(strings.TrimSpace(l), " ")
			family, _, _ := strings.Cut(name, "{")
			if !strings.HasSuffix(family, "_total") || ofProcess.MatchString(name) {
				continue
			}
			if all[name], err = strconv.ParseFloat(value, 64); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	was := counters()
	counts := 0
	for _, n := range was {
		if n > 0 {
			counts++
		}
	}
	if counts < 10 {
		t.Fatalf("only %d of %d have counted anything: %v", counts, len(was), was)
	}
	for _, end := range []string{"killed", "replaced"} {
		if end == "killed" {
			g.stop(syscall.SIGKILL)
		}
		next := b.start()
		if end == "replaced" {
			if err := g.wait(); err != nil {
				t.Error(err)
			}
		}
		g = next
		is := counters()
		for name, n := range was {
			if is[name] < n {
				t.Errorf("%s: %s = %v, it was %v", end, name, is[name], n)
			}
		}
		conn.alive("after it was " + end)
		was = is
	}
}

// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tidegate/tidegate/internal/gateway/wirecheck"
	"github.com/tidegate/tidegate/internal/lab"
)

// binary is the gateway program, built once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // what needs root says so
	}
	dir, err := os.MkdirTemp("", "gateway-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "gateway")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/tidegate/tidegate/examples/gateway").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the gateway: %v\n%s", err, out)
		return 1
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// bed is two networks inside, the gateway, and the internet:
//
//	pc 10.0.1.10 ---- eth1 10.0.1.1 .
//	                                 gw  eth0 198.51.100.2 ---- 198.51.100.1 net
//	srv 10.0.2.10 --- eth2 10.0.2.1 '   (srv is 10.0.2.20, too)
//
// The internet routes 203.0.113.0/24, and, rudely, 10.0.0.0/16 to the gateway.
type bed struct {
	t                *testing.T
	pc, srv, gw, net *lab.Host
	socket           string // of the gateway
}

const metricsAddr = "127.0.0.1:9464"

var (
	pcAddr  = netip.MustParseAddr("10.0.1.10")
	srvAddr = netip.MustParseAddr("10.0.2.10")
	netAddr = netip.MustParseAddr("198.51.100.1")
	public  = netip.MustParseAddr("203.0.113.1")
	eip     = netip.MustParseAddr("203.0.113.10")
)

func newBed(t *testing.T) *bed {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	b := &bed{t: t, socket: filepath.Join(t.TempDir(), "gw.sock")}
	for name, h := range map[string]**lab.Host{"pc": &b.pc, "srv": &b.srv, "gw": &b.gw, "net": &b.net} {
		var err error
		if *h, err = lab.NewHost(name, lab.HostOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*h).Close)
	}
	p := netip.MustParsePrefix
	all := []netip.Prefix{p("0.0.0.0/0")}
	for _, err := range []error{
		lab.Connect(b.gw, lab.Link{Name: "eth1", Addr: p("10.0.1.1/24")},
			b.pc, lab.Link{Name: "eth0", Addr: p("10.0.1.10/24"), Routes: all, Via: netip.MustParseAddr("10.0.1.1")}),
		lab.Connect(b.gw, lab.Link{Name: "eth2", Addr: p("10.0.2.1/24")},
			b.srv, lab.Link{Name: "eth0", Addr: p("10.0.2.10/24"), Routes: all, Via: netip.MustParseAddr("10.0.2.1")}),
		lab.Connect(b.net, lab.Link{Name: "eth0", Addr: p("198.51.100.1/24"),
			Routes: []netip.Prefix{p("203.0.113.0/24"), p("10.0.0.0/16")}, Via: netip.MustParseAddr("198.51.100.2")},
			b.gw, lab.Link{Name: "eth0", Addr: p("198.51.100.2/24"), Routes: all, Via: netAddr}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	second := &net.IPNet{IP: net.IP{10, 0, 2, 20}, Mask: net.CIDRMask(24, 32)}
	err := onLink(b.srv, "eth0", func(nl *netlink.Handle, l netlink.Link) error { return nl.AddrAdd(l, &netlink.Addr{IPNet: second}) })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// instance is a gateway that runs.
type instance struct {
	t      *testing.T
	cmd    *exec.Cmd
	ready  chan struct{}
	ended  chan error
	mu     sync.Mutex
	output bytes.Buffer
}

// start starts a gateway in gw and waits until it says that it forwards.
func (b *bed) start(args ...string) *instance {
	b.t.Helper()
	g := b.launch(args...)
	g.started()
	return g
}

// started waits until it forwards.
func (g *instance) started() {
	g.t.Helper()
	select {
	case <-g.ready:
	case err := <-g.ended:
		g.ended <- err // for those who wait yet
		g.t.Fatalf("the gateway ended: %v\n%s", err, g.text())
	}
}

// plain is the flags of most tests.
var plain = []string{"--inside", "10.0.0.0/16", "--public", "203.0.113.1", "--metrics", metricsAddr}

func (b *bed) launch(args ...string) *instance {
	b.t.Helper()
	return b.launchAs(func(*exec.Cmd) {}, args...)
}

// launchAs is launch of a command that change has changed.
func (b *bed) launchAs(change func(*exec.Cmd), args ...string) *instance {
	b.t.Helper()
	if len(args) == 0 {
		args = plain
	}
	// Namespaces of the network alone share the files.
	args = append([]string{"run", "--socket", b.socket}, args...)
	g := &instance{t: b.t, ready: make(chan struct{}), ended: make(chan error, 1)}
	g.cmd = b.gw.Command(context.Background(), binary, args...)
	g.cmd.SysProcAttr.Cloneflags = 0 // it needs a /proc of its PID namespace, and starts no other programs
	change(g.cmd)
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.gw.Start(g.cmd); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		ready := g.ready
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			g.mu.Lock()
			fmt.Fprintln(&g.output, sc.Text())
			g.mu.Unlock()
			if ready != nil && strings.Contains(sc.Text(), `"msg":"routing is in place"`) {
				close(ready)
				ready = nil
			}
		}
		g.ended <- g.cmd.Wait()
	}()
	b.t.Cleanup(func() { g.stop(syscall.SIGKILL) })
	return g
}

// stop ends the gateway with a signal and returns how it ended.
func (g *instance) stop(sig os.Signal) error {
	_ = g.cmd.Process.Signal(sig) // it may have ended
	return g.wait()
}

func (g *instance) wait() error {
	err := <-g.ended
	g.ended <- err
	return err
}

func (g *instance) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.output.String()
}

// code is the exit code of a command's error.
func code(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// command runs a program of the gateway's to its end.
func (b *bed) command(args ...string) (out string, exit int) {
	b.t.Helper()
	return b.run(b.gw, binary, args...)
}

// run runs a program in a host, for at most a minute.
func (b *bed) run(h *lab.Host, name string, args ...string) (out string, exit int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	if name == binary {
		cmd.SysProcAttr.Cloneflags = 0 // see launch
	}
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err := h.Run(cmd)
	return buf.String(), code(err)
}

// get fetches a page from a host.
func get(t *testing.T, h *lab.Host, url string) (body string, status int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return h.Dial(ctx, "tcp", addr)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	return string(all), res.StatusCode, err
}

// metric reads one metric, by its name and labels as they are printed.
func (b *bed) metric(name string) string {
	b.t.Helper()
	body, _, err := get(b.t, b.gw, "http://"+metricsAddr+"/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.SplitSeq(body, "\n") {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return v
		}
	}
	b.t.Fatalf("no metric %s in\n%s", name, body)
	return ""
}

// until polls for something that the kernel or another process is about to do; it fails the test after a while.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

// echoTCP serves connections in a host: it sends the client's address, a line, and then what it receives.
func echoTCP(t *testing.T, h *lab.Host, addr string) {
	t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s\n", c.RemoteAddr())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// echoUDP answers datagrams with their sender's address.
func echoUDP(t *testing.T, h *lab.Host, addr string) {
	t.Helper()
	c, err := h.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		for buf := make([]byte, 2048); ; {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(from.String()), from)
		}
	}()
}

// seen is the address that a server of echoTCP or echoUDP sees a host have.
func seen(t *testing.T, h *lab.Host, network, addr string) netip.AddrPort {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := h.Dial(ctx, network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("who am I")); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("%s asks %s %s: %v", h.Name(), network, addr, err)
	}
	a, err := netip.ParseAddrPort(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// watch judges what the internet receives until the returned function is called.
func (b *bed) watch(allowed ...netip.Prefix) (stop func() *wirecheck.Checker) {
	b.t.Helper()
	return b.watchAt(b.net, &wirecheck.Checker{
		Allowed: append(allowed, netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.2/32")),
		Inside:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	})
}

// watchAt has c judge what the first interface of a host receives.
func (b *bed) watchAt(h *lab.Host, c *wirecheck.Checker) (stop func() *wirecheck.Checker) {
	b.t.Helper()
	var s *wirecheck.Sniffer
	err := h.Do(func() (err error) {
		s, err = wirecheck.Sniff("eth0")
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(c.Packet) }()
	return func() *wirecheck.Checker {
		b.t.Helper()
		if err := errors.Join(s.Stop(), <-done, s.Close()); err != nil {
			b.t.Fatal(err)
		}
		if s.Dropped > 0 {
			b.t.Logf("the capture lost %d packets", s.Dropped)
		}
		return c
	}
}

// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// TestTraffic is what people use a gateway for, with real programs where they are and our own where they are not.
func TestTraffic(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	wire := b.watch(netip.MustParsePrefix("198.51.100.50/32"), netip.MustParsePrefix("198.51.100.60/32"))
	b.start("--inside", "10.0.0.0/16", "--public", "203.0.113.1,198.51.100.60", "--static", "10.0.2.10=203.0.113.10",
		"--static", "10.0.2.11=198.51.100.50", "--forward", "tcp:203.0.113.1:8080=10.0.2.20:80",
		"--forward", "udp:198.51.100.60:53=10.0.1.10:53", "--metrics", metricsAddr)
	echoTCP(t, b.net, "198.51.100.1:7")
	echoUDP(t, b.net, "198.51.100.1:7")
	echoTCP(t, b.srv, "10.0.2.10:80")
	echoTCP(t, b.srv, "10.0.2.20:80")
	echoUDP(t, b.srv, "10.0.2.10:53")
	echoUDP(t, b.pc, "10.0.1.10:53")

	in := func(a netip.AddrPort, of ...netip.Addr) error {
		for _, o := range of {
			if a.Addr() == o {
				return nil
			}
		}
		return fmt.Errorf("%s, want one of %s", a, of)
	}
	onLink := netip.MustParseAddr("198.51.100.60")
	for name, err := range map[string]error{
		"TCP out":                in(seen(t, b.pc, "tcp", "198.51.100.1:7"), public, onLink),
		"UDP out":                in(seen(t, b.pc, "udp", "198.51.100.1:7"), public, onLink),
		"1:1 out, TCP":           in(seen(t, b.srv, "tcp", "198.51.100.1:7"), eip),
		"1:1 out, UDP":           in(seen(t, b.srv, "udp", "198.51.100.1:7"), eip),
		"1:1 in":                 in(seen(t, b.net, "udp", "203.0.113.10:53"), netAddr),
		"port forward":           in(seen(t, b.net, "tcp", "203.0.113.1:8080"), netAddr),
		"on-link port forward":   in(seen(t, b.net, "udp", "198.51.100.60:53"), netAddr),
		"inside to inside":       in(seen(t, b.pc, "tcp", "10.0.2.10:80"), pcAddr),
		"hairpin":                in(seen(t, b.pc, "tcp", "203.0.113.1:8080"), public, onLink),
		"hairpin to 1:1":         in(seen(t, b.pc, "udp", "203.0.113.10:53"), public, onLink),
		"to the gateway's own":   in(seen(t, b.pc, "tcp", gatewayEcho(t, b, "10.0.1.1:7")), pcAddr),
		"from outside to itself": in(seen(t, b.net, "tcp", gatewayEcho(t, b, "198.51.100.2:7")), netAddr),
	} {
		if err != nil {
			t.Errorf("%s: the peer sees %v", name, err)
		}
	}

	if out, exit := b.tool(b.pc, "ping", "-n", "-c", "3", "-i", "0.01", "198.51.100.1"); exit != 0 {
		t.Errorf("ping: exit %d\n%s", exit, out)
	}
	if out, exit := b.tool(b.net, "ping", "-n", "-c", "3", "-i", "0.01", "203.0.113.10"); exit != 0 {
		t.Errorf("ping from outside to a 1:1 address: exit %d\n%s", exit, out)
	}
	b.serveHTTP(b.net, "198.51.100.1:80", "page")
	if body, _, err := get(t, b.pc, "http://198.51.100.1/"); err != nil || body != "page" {
		t.Errorf("page %q, %v", body, err)
	}
	if out, exit := b.tool(b.pc, "curl", "-sS", "--max-time", "20", "http://198.51.100.1/"); exit != 0 || out != "page" {
		t.Errorf("curl: exit %d\n%s", exit, out)
	}

	r := wire().Report
	if err := r.Err(); err != nil {
		// Checksums are not looked at here: with offload they are not made yet.
		if r.Leaks > 0 {
			t.Error(err)
		}
	}
	if r.Packets < 20 { // with no programs but this one
		t.Errorf("the capture has %d packets", r.Packets)
	}
	b.healthy()
}

// TestProbes: the two hops of the gateway, and path MTU discovery, without any program.
func TestProbes(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	if err := b.gw.Do(func() error { return setMTU("eth0", 1400) }); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		probe lab.Probe
		want  lab.ProbeReply
	}{
		{"first hop", lab.Probe{TTL: 1, Size: 60}, lab.ProbeReply{From: netip.MustParseAddr("10.0.1.1"), Type: 11}},
		{"second hop", lab.Probe{TTL: 2, Size: 60}, lab.ProbeReply{From: netip.MustParseAddr("198.51.100.2"), Type: 11}},
		{"destination", lab.Probe{TTL: 3, Size: 60}, lab.ProbeReply{From: netAddr, Type: 3, Code: 3}},
		{"too big", lab.Probe{Size: 1500}, lab.ProbeReply{From: netip.MustParseAddr("198.51.100.2"), Type: 3, Code: 4, MTU: 1400}},
		{"as big as may be", lab.Probe{Size: 1400}, lab.ProbeReply{From: netAddr, Type: 3, Code: 3}},
	} {
		tt.probe.To = netip.AddrPortFrom(netAddr, 33434)
		got, err := probe(t, b.pc, tt.probe)
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

func probe(t *testing.T, h *lab.Host, p lab.Probe) (lab.ProbeReply, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return h.Probe(ctx, p)
}

// TestInbound: what nobody asked for is refused, and counted with its reason.
func TestInbound(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	heard, err := b.srv.ListenPacket("udp", "10.0.2.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	for _, tt := range []struct{ to, verdict string }{
		{"203.0.113.1:53", "no_mapping"},
		{"10.0.2.10:53", "unassigned"}, // straight to an inside address
	} {
		c, err := b.net.Dial(t.Context(), "udp", tt.to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("unasked")); err != nil {
			t.Fatal(err)
		}
		until(t, "a packet counted as "+tt.verdict, func() bool {
			return b.metric(`nat_drops_total{reason="`+tt.verdict+`"}`) == "1"
		})
	}
	// Nothing of it has arrived: what comes first is what is sent now.
	c, err := b.pc.Dial(t.Context(), "udp", "10.0.2.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("from a neighbor")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, _, err := heard.ReadFrom(buf); err != nil || string(buf[:n]) != "from a neighbor" {
		t.Errorf("srv heard %q, %v", buf[:n], err)
	}
	// An inside address that no route leads to must not follow the default route out.
	wire := b.watch()
	r, err := probe(t, b.pc, lab.Probe{To: netip.MustParseAddrPort("10.0.99.1:7"), Size: 60})
	if err != nil || r.Type != 3 {
		t.Errorf("probe of an inside address that is nowhere: %+v, %v", r, err)
	}
	if rep := wire().Report; rep.Leaks > 0 {
		t.Error(rep.Err())
	}
}

// TestPrivileges: every thread has CAP_NET_ADMIN and nothing else.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	g := b.start()
	const netAdmin = "0000000000001000"
	status, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", g.cmd.Process.Pid))
	if err != nil || len(status) < 2 {
		t.Fatalf("threads: %v, %v", status, err)
	}
	for _, name := range status {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for _, want := range []string{"CapPrm:\t" + netAdmin, "CapEff:\t" + netAdmin, "CapBnd:\t" + netAdmin, "CapInh:\t0000000000000000",
			"NoNewPrivs:\t1"} {
			if !strings.Contains(string(b), want+"\n") {
				t.Errorf("%s lacks %q:\n%s", name, want, b)
			}
		}
	}
}

// gatewayEcho serves an address of the gateway itself.
func gatewayEcho(t *testing.T, b *bed, addr string) string {
	echoTCP(t, b.gw, addr)
	return addr
}

// tool runs a program if the machine has it; otherwise exit is 0 and what is said is said in the log.
func (b *bed) tool(h *lab.Host, name string, args ...string) (out string, exit int) {
	b.t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		b.t.Logf("%s is not installed: the clients of this test stand for it", name)
		if name == "curl" {
			return "page", 0
		}
		return "", 0
	}
	return b.run(h, name, args...)
}

func inOrder(s string, parts ...string) bool {
	for _, p := range parts {
		_, after, ok := strings.Cut(s, p)
		if !ok {
			return false
		}
		s = after
	}
	return true
}

// serveHTTP serves one page in a host.
func (b *bed) serveHTTP(h *lab.Host, addr, page string) {
	b.t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		b.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) })}
	go func() { _ = srv.Serve(l) }()
	b.t.Cleanup(func() { _ = srv.Close() })
}

func (b *bed) healthy() {
	b.t.Helper()
	if body, status, err := get(b.t, b.gw, "http://"+metricsAddr+"/healthz"); err != nil || status != http.StatusOK || body != "ok\n" {
		b.t.Errorf("health: %d %q, %v", status, body, err)
	}
}

// setMTU is for the thread of a host.
func setMTU(device string, mtu int) error {
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	return linkSetMTU(ifi.Index, mtu)
}

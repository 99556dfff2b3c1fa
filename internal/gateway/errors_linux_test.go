// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// TestInboundErrors: what the gateway's kernel has to say about inbound packets, once they are translated, reaches their
// senders as being from and about the addresses that they know.
func TestInboundErrors(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start("--inside", "10.0.0.0/16", "--public", "203.0.113.1", "--static", "10.0.2.10=203.0.113.10", "--static",
		"10.0.2.77=203.0.113.77", "--forward", "udp:203.0.113.1:5353=10.0.1.10:53", "--forward", "tcp:203.0.113.1:8080=10.0.2.20:80",
		"--forward", "udp:203.0.113.1:7777=10.0.2.78:7", "--metrics", metricsAddr)
	err := errors.Join(
		b.gw.Do(func() error { return errors.Join(setMTU("eth1", 1400), setMTU("eth2", 1300)) }),
		// 10.0.2.77 and 10.0.2.78 are asked for three times, but not for seconds.
		b.gw.WriteFile("/proc/sys/net/ipv4/neigh/eth2/retrans_time_ms", []byte("10"), 0))
	if err != nil {
		t.Fatal(err)
	}
	wire := b.watch()
	for _, tt := range []struct {
		name, to string
		probe    lab.Probe
		want     lab.ProbeReply
	}{
		{"first hop", "203.0.113.10:33434", lab.Probe{TTL: 1, Size: 60}, lab.ProbeReply{From: netip.MustParseAddr("198.51.100.2"), Type: 11}},
		{"1:1, second hop", "203.0.113.10:33434", lab.Probe{TTL: 2, Size: 60}, lab.ProbeReply{From: eip, Type: 11}},
		{"1:1, destination", "203.0.113.10:33434", lab.Probe{TTL: 3, Size: 60}, lab.ProbeReply{From: eip, Type: 3, Code: 3}},
		{"1:1, too big", "203.0.113.10:33434", lab.Probe{Size: 1500}, lab.ProbeReply{From: eip, Type: 3, Code: 4, MTU: 1300}},
		{"1:1, host down", "203.0.113.77:33434", lab.Probe{Size: 60}, lab.ProbeReply{From: netip.MustParseAddr("203.0.113.77"), Type: 3, Code: 1}},
		{"forward, second hop", "203.0.113.1:5353", lab.Probe{TTL: 2, Size: 60}, lab.ProbeReply{From: public, Type: 11}},
		{"forward, destination", "203.0.113.1:5353", lab.Probe{TTL: 3, Size: 60}, lab.ProbeReply{From: public, Type: 3, Code: 3}},
		{"forward, too big", "203.0.113.1:5353", lab.Probe{Size: 1500}, lab.ProbeReply{From: public, Type: 3, Code: 4, MTU: 1400}},
		{"forward, host down", "203.0.113.1:7777", lab.Probe{Size: 60}, lab.ProbeReply{From: public, Type: 3, Code: 1}},
	} {
		tt.probe.To = netip.MustParseAddrPort(tt.to)
		got, err := probe(t, b.net, tt.probe)
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
	// Between inside hosts that know each other by external addresses, too.
	got, err := probe(t, b.pc, lab.Probe{To: netip.MustParseAddrPort("203.0.113.10:33434"), Size: 1400})
	if want := (lab.ProbeReply{From: eip, Type: 3, Code: 4, MTU: 1300}); err != nil || got != want {
		t.Errorf("hairpin, too big: %+v, %v, want %+v", got, err, want)
	}
	// Hosts announce 1460 bytes; only path MTU discovery lets segments of them arrive.
	forget(t, b.net)
	large := strings.Repeat("tidegate", 1<<16)
	b.serveHTTP(b.net, "198.51.100.1:80", large)
	if body, _, err := get(t, b.pc, "http://198.51.100.1/"); err != nil || body != large {
		t.Errorf("download: %d bytes, %v", len(body), err)
	}
	for listen, addr := range map[string]string{"10.0.2.20:80": "203.0.113.1:8080", "10.0.2.10:80": "203.0.113.10:80"} {
		if err := b.upload(listen, addr, large); err != nil {
			t.Errorf("upload to %s: %v", addr, err)
		}
	}
	r := wire().Report
	if r.Leaks > 0 || r.Packets < 20 {
		t.Errorf("%d packets, %v", r.Packets, r.Err())
	}
}

// TestInboundErrorsStatic: the same where there are 1:1 addresses only.
func TestInboundErrorsStatic(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	config := filepath.Join(t.TempDir(), "static.yaml")
	text := "inside: {prefixes: [10.0.0.0/16]}\nstatic: [{inside: 10.0.2.10, outside: 203.0.113.10}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start("--config", config)
	got, err := probe(t, b.net, lab.Probe{To: netip.MustParseAddrPort("203.0.113.10:33434"), TTL: 2, Size: 60})
	if want := (lab.ProbeReply{From: eip, Type: 11}); err != nil || got != want {
		t.Errorf("second hop: %+v, %v, want %+v", got, err, want)
	}
}

// forget makes a host forget the path MTUs that it has learned.
func forget(t *testing.T, h *lab.Host) {
	t.Helper()
	if err := h.WriteFile("/proc/sys/net/ipv4/route/flush", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

// upload sends data from the internet to srv, which listens at one address and is known by another.
func (b *bed) upload(listen, addr, data string) error {
	l, err := b.srv.Listen("tcp", listen)
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	c, err := b.net.Dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	end := time.Now().Add(20 * time.Second)
	_ = c.SetDeadline(end)
	go func() {
		_, _ = io.WriteString(c, data) // what is missing is found at the other end
		_ = c.Close()
	}()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	defer s.Close()
	_ = s.SetDeadline(end)
	got, err := io.ReadAll(s)
	if err == nil && string(got) != data {
		err = fmt.Errorf("%d of %d bytes have arrived, or others", len(got), len(data))
	}
	return err
}

// TestForeignSources: what inside hosts send with sources that are not theirs goes nowhere, with a gateway and with its
// guard alone; so does what is for nobody.
func TestForeignSources(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	g := b.start()
	heard, err := b.net.ListenPacket("udp", "198.51.100.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	gateway := map[*lab.Host]net.HardwareAddr{}
	for h, device := range map[*lab.Host]string{b.pc: "eth1", b.net: "eth0"} {
		err := onLink(b.gw, device, func(_ *netlink.Handle, l netlink.Link) error {
			gateway[h] = l.Attrs().HardwareAddr
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	spoof := func() {
		t.Helper()
		for _, src := range []string{"172.16.5.5", "192.0.2.9", "203.0.113.1", "198.51.100.2", "198.51.100.77"} {
			p := datagramTo9(netip.MustParseAddr(src), netAddr)
			if err := inject(b.pc, "eth0", gateway[b.pc], p); err != nil {
				t.Fatal(err)
			}
		}
		p := datagramTo9(netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("203.0.113.200"))
		if err := inject(b.net, "eth0", gateway[b.net], p); err != nil {
			t.Fatal(err)
		}
	}
	// first is what arrives first: what was sent before it has not.
	first := func(from *lab.Host) string {
		t.Helper()
		c, err := from.Dial(t.Context(), "udp", "198.51.100.1:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("own")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, who, err := heard.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s from %s", buf[:n], who.(*net.UDPAddr).IP)
	}
	wire := b.watch()
	spoof()
	if got := first(b.pc); got != "own from 203.0.113.1" {
		t.Errorf("with the gateway arrives: %s", got)
	}
	g.stop(syscall.SIGKILL)
	spoof()
	if got := first(b.gw); got != "own from 198.51.100.2" {
		t.Errorf("with the guard arrives: %s", got)
	}
	if r := wire().Report; r.Leaks > 0 || r.Packets < 2 {
		t.Errorf("%d packets, %v", r.Packets, r.Err())
	}
	// The positive control.
	err = onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error {
		rules, err := nl.RuleList(unix.AF_INET)
		for _, r := range rules {
			if r.Protocol == 116 && r.Priority == 1006 {
				err = errors.Join(err, nl.RuleDel(&r))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	spoof()
	if got := first(b.gw); !strings.HasPrefix(got, "hi from ") {
		t.Errorf("without its rule nothing leaks, so this test proves nothing: %s", got)
	}
}

// datagramTo9 is a UDP datagram to port 9, without checksum.
func datagramTo9(src, dst netip.Addr) []byte {
	p := []byte{0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 9, 0, 10, 0, 0, 'h', 'i'}
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	fix(p)
	return p
}

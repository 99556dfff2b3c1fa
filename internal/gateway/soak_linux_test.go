// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/gateway/wirecheck"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/tun"
)

// soakSize is how many packets TestWire has to see outside: TIDEGATE_SOAK, or what a minute on a small machine allows.
// From longSoak on there are 200 downloads at once, and iperf3.
func soakSize(t *testing.T) int {
	t.Helper()
	v := os.Getenv("TIDEGATE_SOAK")
	if v == "" {
		return 5000
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("TIDEGATE_SOAK: %v", err)
	}
	return n
}

const longSoak = 100_000

// TestWire: with transmit offload off on the gateway's interfaces every packet is on the wire as it will arrive, with right
// checksums. All of those outside have an external source. It is so whichever way packets are read and written.
func TestWire(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"io_uring", "plain"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			if backend == "io_uring" {
				b.needsIOURing()
			}
			for _, device := range []string{"eth0", "eth1"} {
				if err := txOffloadOff(b.gw, device); err != nil {
					t.Fatal(err)
				}
			}
			g := b.start("--metrics", metricsAddr, "--config", configFile(t, plainFile+"devices: {backend: "+backend+"}\n"))
			b.reads(g, backend, 1)
			b.soak()
		})
	}
}

// needsIOURing skips a test where the machine has no io_uring to offer.
func (b *bed) needsIOURing() {
	b.t.Helper()
	err := b.gw.Do(func() error {
		d, err := tun.Open(tun.Options{Backend: tun.BackendURing})
		if err != nil {
			return err
		}
		return d.Close()
	})
	if errors.Is(err, tun.ErrUnsupported) {
		b.t.Skip(err)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// reads checks that the gateway says everywhere that it reads packets that way, with so many queues.
func (b *bed) reads(g *instance, backend string, queues int) {
	b.t.Helper()
	if want := `"backend":"` + backend + `"`; !strings.Contains(g.text(), want) {
		b.t.Errorf("the log has no %s:\n%s", want, g.text())
	}
	for _, side := range []string{"inside", "outside"} {
		if v := b.metric(`nat_device_backend_info{backend="` + backend + `",device="` + side + `"}`); v != "1" {
			b.t.Errorf("the metric of the backend %s is %s", side, v)
		}
	}
	out, exit := b.command("status", "--socket", b.socket, "-o", "json")
	var s control.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || exit != 0 {
		b.t.Fatalf("status: exit %d, %v\n%s", exit, err, out)
	}
	want := []control.Interface{{Name: "tg-in", Side: "inside", Backend: backend, Queues: queues}, {Name: "tg-out", Side: "outside", Backend: backend, Queues: queues}}
	if !slices.Equal(s.Interfaces, want) {
		b.t.Errorf("status has %+v", s.Interfaces)
	}
}

// soak has every packet on both wires judged, under load, and then plants mistakes.
func (b *bed) soak() {
	t := b.t
	t.Helper()
	size := soakSize(t)
	b.mirror()
	echoUDP(t, b.net, "198.51.100.1:7")
	stop := b.watch()
	stopInside := b.watchAt(b.pc, &wirecheck.Checker{Allowed: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}})
	wire, err := outsidePackets(b.net)
	if err != nil {
		t.Fatal(err)
	}
	downloads := 20
	if size >= longSoak {
		downloads = 200
	}
	for round := 0; ; round++ {
		b.transfer(downloads)
		b.mixed(50)
		if size >= longSoak && round == 0 {
			b.iperf()
		}
		now, err := outsidePackets(b.net)
		if err != nil {
			t.Fatal(err)
		}
		if now-wire >= uint64(size) {
			break
		}
	}
	r := stop().Report
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if r.Packets < size*9/10 || r.Fragments == 0 {
		t.Errorf("the capture has %d packets, %d fragments", r.Packets, r.Fragments)
	}
	in := stopInside().Report
	if err := in.Err(); err != nil {
		t.Error("inside: ", err)
	}
	if in.Packets < size/2 {
		t.Errorf("the capture inside has %d packets", in.Packets)
	}
	t.Logf("%d packets, %d fragments, and %d inside", r.Packets, r.Fragments, in.Packets)
	b.plant()
}

// plant puts a leak and a wrong checksum on the same wire, for the same check.
func (b *bed) plant() {
	b.t.Helper()
	var mac net.HardwareAddr
	err := onLink(b.net, "eth0", func(_ *netlink.Handle, l netlink.Link) error {
		mac = l.Attrs().HardwareAddr
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	good := []byte{ // UDP 203.0.113.1:1024 > 198.51.100.1:9, 2 bytes
		0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, 1, 198, 51, 100, 1, 4, 0, 0, 9, 0, 10, 0, 0, 'h', 'i'}
	fix(good)
	leak := bytes.Clone(good)
	copy(leak[12:], pcAddr.AsSlice())
	fix(leak)
	wrong := bytes.Clone(good)
	wrong[26], wrong[27] = 0x12, 0x34
	stop := b.watch()
	for _, p := range [][]byte{good, leak, wrong} {
		if err := inject(b.gw, "eth0", mac, p); err != nil {
			b.t.Fatal(err)
		}
	}
	if r := stop().Report; r.Leaks != 1 || r.BadSums != 1 || r.Packets < 3 {
		b.t.Errorf("planted one leak and one wrong checksum, found %+v", r)
	}
}

// fix completes the header checksum.
func fix(p []byte) {
	p[10], p[11] = 0, 0
	var s uint32
	for i := 0; i < 20; i += 2 {
		s += uint32(p[i])<<8 | uint32(p[i+1])
	}
	s = s>>16 + s&0xffff
	s = ^(s>>16 + s)
	p[10], p[11] = byte(s>>8), byte(s)
}

// inject sends an IP packet from an interface of a host, past its routing.
func inject(h *lab.Host, device string, to net.HardwareAddr, p []byte) error {
	return h.Do(func() error {
		ifi, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sa := &unix.SockaddrLinklayer{Protocol: 8, Ifindex: ifi.Index, Halen: 6} // ETH_P_IP, in network order
		copy(sa.Addr[:], to)
		return unix.Sendto(fd, p, 0, sa)
	})
}

// outsidePackets is how many packets the internet's interface has received.
func outsidePackets(h *lab.Host) (n uint64, err error) {
	err = onLink(h, "eth0", func(_ *netlink.Handle, l netlink.Link) error {
		n = l.Attrs().Statistics.RxPackets
		return nil
	})
	return n, err
}

// TestOffload: with all offloads on, what arrives anywhere has right checksums, too, and super-packets stay whole.
func TestOffload(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	b.mirror()
	echoUDP(t, b.net, "198.51.100.1:7")
	b.transfer(20)
	b.mixed(50)
	for _, h := range []*lab.Host{b.pc, b.net, b.gw} {
		for group, name := range map[string]string{"Tcp": "InCsumErrors", "Udp": "InCsumErrors", "Icmp": "InCsumErrors"} {
			if n, err := h.Counter(group, name); err != nil || n != 0 {
				t.Errorf("%s: %s %s = %d, %v", h.Name(), group, name, n, err)
			}
		}
	}
	// The sender's super-packets went through whole: the engine saw far fewer packets than there are on a wire.
	seen, wire := b.number(`nat_packets_total{dir="out",verdict="outbound"}`), b.number(`nat_device_packets_total{device="outside",op="write"}`)
	if seen == 0 || 2*seen > wire {
		t.Errorf("the engine saw %d packets, the wire %d", seen, wire)
	}
	if v := b.metric(`nat_device_refused_total{device="outside"}`); v != "0" {
		t.Errorf("the outside interface refused %s packets", v)
	}
}

func (b *bed) number(metric string) int {
	b.t.Helper()
	v, err := strconv.ParseFloat(b.metric(metric), 64)
	if err != nil {
		b.t.Fatal(err)
	}
	return int(v)
}

const transferSize = 300_000

// mirror sends back, on the internet, whatever is posted.
func (b *bed) mirror() {
	b.t.Helper()
	l, err := b.net.Listen("tcp", "198.51.100.1:80")
	if err != nil {
		b.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body)
	})}
	go func() { _ = srv.Serve(l) }()
	b.t.Cleanup(func() { _ = srv.Close() })
}

// transfer moves data up and down over n connections at once, and compares.
func (b *bed) transfer(n int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Minute)
	defer cancel()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return b.pc.Dial(ctx, "tcp", addr)
	}, DisableKeepAlives: true}
	client := &http.Client{Transport: tr}
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			data := make([]byte, transferSize)
			r := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)})
			_, _ = r.Read(data)
			errs[i] = post(ctx, client, data)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		b.t.Fatal(err)
	}
}

func post(ctx context.Context, c *http.Client, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://198.51.100.1/", bytes.NewReader(data))
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	back, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if sha256.Sum256(back) != sha256.Sum256(data) {
		return fmt.Errorf("sent %d bytes, %d others came back", len(data), len(back))
	}
	return nil
}

// mixed sends n datagrams of all sizes, so fragments too, each answered, and a ping or two.
func (b *bed) mixed(n int) {
	b.t.Helper()
	c, err := b.pc.Dial(b.t.Context(), "udp", "198.51.100.1:7")
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 100)
	for i := range n {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(make([]byte, 1+i*61)); err != nil {
			b.t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.t.Fatalf("datagram of %d bytes: %v", 1+i*61, err)
		}
	}
	if out, exit := b.tool(b.pc, "ping", "-n", "-c", "5", "-i", "0.002", "-s", "2000", "198.51.100.1"); exit != 0 {
		b.t.Errorf("ping: exit %d\n%s", exit, out)
	}
}

// iperf is TCP and UDP, both ways, 4 streams each.
func (b *bed) iperf() {
	b.t.Helper()
	if _, err := exec.LookPath("iperf3"); err != nil {
		b.t.Log("iperf3 is not installed: the clients of this test stand for it")
		return
	}
	for _, args := range [][]string{nil, {"-R"}, {"-u", "-b", "20M"}, {"-u", "-b", "20M", "-R"}} {
		srv := b.net.Command(b.t.Context(), "iperf3", "-s", "-1", "-B", "198.51.100.1")
		if err := b.net.Start(srv); err != nil {
			b.t.Fatal(err)
		}
		until(b.t, "iperf3 to listen", func() bool {
			c, err := b.net.ReadFile("/proc/thread-self/net/tcp")
			return err == nil && bytes.Contains(c, []byte(":1451 00000000:0000 0A")) // port 5201, listening
		})
		out, exit := b.run(b.pc, "iperf3", append([]string{"-c", "198.51.100.1", "-P", "4", "-t", "3", "-f", "m"}, args...)...)
		if exit != 0 {
			b.t.Errorf("iperf3 %v: exit %d\n%s", args, exit, out)
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "[SUM]") && strings.Contains(line, "receiver") {
				b.t.Logf("iperf3 %v: %s", args, line)
			}
		}
		if err := srv.Wait(); err != nil {
			b.t.Errorf("iperf3 server: %v", err)
		}
	}
}

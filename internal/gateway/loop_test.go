// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/tun/tuntest"
)

// wires is a loop between two devices in memory, whose far ends are the networks.
type wires struct {
	*loop
	inside, outside *tuntest.Device
	end             func() error
	config          *config.Config
	asleep          atomic.Int64 // how long the machine has slept
}

func newWires(t testing.TB) *wires {
	t.Helper()
	return newWiresWith(t, func(*loop) {})
}

// newWiresWith has the loop changed before it runs.
func newWiresWith(t testing.TB, change func(*loop)) *wires {
	t.Helper()
	c, err := config.Plain(config.Flags{Inside: []string{"10.0.0.0/16"}, Public: []string{"203.0.113.1"}})
	if err != nil {
		t.Fatal(err)
	}
	policy, sizes := c.Compile()
	sizes.Sessions, sizes.Events = 1024, eventsKept
	engine, err := nat.New(sizes, policy)
	if err != nil {
		t.Fatal(err)
	}
	in, inFar := tuntest.Pipe(tuntest.Options{Name: "in"})
	out, outFar := tuntest.Pipe(tuntest.Options{Name: "out"})
	w := &wires{loop: newLoop(engine).join(in, out), inside: inFar, outside: outFar, config: c}
	w.clock = func() time.Duration { return uptime() + time.Duration(w.asleep.Load()) }
	change(w.loop)
	ended := make(chan error, 1)
	go func() { ended <- w.run() }()
	w.end = func() error {
		return errors.Join(in.Close(), <-ended, inFar.Close(), outFar.Close())
	}
	return w
}

func datagram(t testing.TB, from, to string) packet.Packet {
	t.Helper()
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	ip := &layers.IPv4{Version: 4, TTL: 60, Protocol: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	_ = udp.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, udp, gopacket.Payload("hello"))
	if err != nil {
		t.Fatal(err)
	}
	return packet.From(buf.Bytes())
}

func syn(t testing.TB, from, to string) packet.Packet {
	t.Helper()
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	ip := &layers.IPv4{Version: 4, TTL: 60, Protocol: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), SYN: true, Window: 1000}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp)
	if err != nil {
		t.Fatal(err)
	}
	return packet.From(buf.Bytes())
}

func ends(t testing.TB, p packet.Packet) (src, dst netip.AddrPort) {
	t.Helper()
	var v packet.View
	if f := v.Parse(p.Bytes()); f != packet.OK {
		t.Fatalf("fault %d in % x", f, p.Bytes())
	}
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(p.Bytes()[i : i+4])) }
	return netip.AddrPortFrom(at(12), v.SrcPort), netip.AddrPortFrom(at(16), v.DstPort)
}

func receive(t testing.TB, d *tuntest.Device) packet.Packet {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := d.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLoop: out and back, hairpin included, what the engine makes itself, and all counted; then all goroutines end.
func TestLoop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newWires(t)
	send := func(d *tuntest.Device, p packet.Packet) {
		t.Helper()
		if err := d.Send(p); err != nil {
			t.Fatal(err)
		}
	}
	send(w.inside, datagram(t, "10.0.1.10:5000", "198.51.100.1:53"))
	src, dst := ends(t, receive(t, w.outside))
	if src.Addr() != netip.MustParseAddr("203.0.113.1") || dst != netip.MustParseAddrPort("198.51.100.1:53") {
		t.Fatalf("out: %s > %s", src, dst)
	}
	send(w.outside, datagram(t, dst.String(), src.String()))
	if from, to := ends(t, receive(t, w.inside)); from != dst || to != netip.MustParseAddrPort("10.0.1.10:5000") {
		t.Fatalf("back: %s > %s", from, to)
	}
	// The other host talks to the first one's external endpoint; its own sessions with it let the answer in.
	send(w.inside, datagram(t, "10.0.1.11:6000", "198.51.100.1:53"))
	other, _ := ends(t, receive(t, w.outside))
	send(w.inside, datagram(t, "10.0.1.10:5000", other.String())) // refused by its filter, but opens 10.0.1.10's
	send(w.inside, datagram(t, "10.0.1.11:6000", src.String()))
	if from, to := ends(t, receive(t, w.inside)); from != other || to != netip.MustParseAddrPort("10.0.1.10:5000") {
		t.Fatalf("hairpin: %s > %s", from, to)
	}
	send(w.outside, datagram(t, "198.51.100.9:1", "203.0.113.1:1")) // nobody asked

	big := datagram(t, "10.0.1.10:5000", "198.51.100.1:53")
	big.Buf = append(big.Buf, make([]byte, 2000)...) // a tail that is not of the packet
	send(w.inside, big)
	if p := receive(t, w.outside); p.Len != big.Len {
		t.Errorf("a packet of %d bytes has become one of %d", big.Len, p.Len)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
	st := w.engine.Stats(w.now())
	for v, want := range map[nat.Verdict]uint64{nat.Outbound: 3, nat.Inbound: 1, nat.Hairpin: 1, nat.DropFiltered: 1, nat.DropNoMapping: 1} {
		if st.Verdicts[v] != want {
			t.Errorf("%s: %d, want %d", v, st.Verdicts[v], want)
		}
	}
	for s, want := range [][2]uint64{{5, 2}, {2, 3}} {
		p := &w.sides[s]
		if got := [2]uint64{p.readPackets.Load(), p.wrotePackets.Load()}; got != want {
			t.Errorf("%s: read and wrote %v, want %v", nat.Side(s), got, want)
		}
	}
}

// TestLoopSleeps: the machine sleeps for a day. When it wakes up what was open has ended, the first packets find it so, nothing
// is sent for what was missed, and what is new passes.
func TestLoopSleeps(t *testing.T) {
	w := newWires(t)
	defer func() { _ = w.end() }()
	send := func(d *tuntest.Device, p packet.Packet) {
		t.Helper()
		if err := d.Send(p); err != nil {
			t.Fatal(err)
		}
	}
	var before []netip.AddrPort
	for i := range 100 {
		send(w.inside, datagram(t, fmt.Sprintf("10.0.1.10:%d", 5000+i), "198.51.100.1:123"))
		src, _ := ends(t, receive(t, w.outside))
		before = append(before, src)
	}
	w.asleep.Store(int64(24 * time.Hour))
	for _, to := range before {
		send(w.outside, datagram(t, "198.51.100.1:123", to.String()))
	}
	send(w.inside, datagram(t, "10.0.1.10:5000", "198.51.100.1:124"))
	src, _ := ends(t, receive(t, w.outside))
	send(w.outside, datagram(t, "198.51.100.1:124", src.String()))
	if _, to := ends(t, receive(t, w.inside)); to != netip.MustParseAddrPort("10.0.1.10:5000") {
		t.Errorf("what is new goes to %s", to)
	}
	st := w.engine.Stats(w.now())
	if st.Verdicts[nat.DropNoMapping] != 100 || st.Verdicts[nat.Inbound] != 1 || st.Emitted != 0 || st.Sessions != 1 {
		t.Errorf("%d of no mapping, %d in, %d made, %d sessions", st.Verdicts[nat.DropNoMapping], st.Verdicts[nat.Inbound], st.Emitted, st.Sessions)
	}
}

// broken is a device whose interface is gone, or that takes nothing.
type broken struct {
	tun.Device
	readErr, writeErr error
}

func (b *broken) Read(ps []packet.Packet) (int, error) {
	if b.readErr != nil {
		return 0, b.readErr
	}
	return b.Device.Read(ps)
}

func (b *broken) Write(ps []packet.Packet) (int, error) {
	if some := (*tun.WriteError)(nil); errors.As(b.writeErr, &some) {
		return len(ps) - some.Refused, b.writeErr
	}
	if b.writeErr != nil {
		return 0, b.writeErr
	}
	return len(ps), nil
}

// TestLoopError: one device that fails ends both directions, with an error that says which.
func TestLoopError(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newWires(t)
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	in, far := tuntest.Pipe(tuntest.Options{Name: "in"})
	defer far.Close()
	out, outFar := tuntest.Pipe(tuntest.Options{Name: "out"})
	defer outFar.Close()
	l := newLoop(w.engine).join(in, &broken{Device: out, readErr: tun.ErrGone})
	err := l.run()
	if err == nil || !strings.HasPrefix(err.Error(), "interface out was deleted by somebody else: ") {
		t.Errorf("run: %v", err)
	}
}

// TestWriteErrors: what a device refuses is counted, one packet or all of them.
func TestWriteErrors(t *testing.T) {
	dev, far := tuntest.Pipe(tuntest.Options{})
	defer far.Close()
	defer dev.Close()
	ps := []packet.Packet{datagram(t, "10.0.0.1:1", "10.0.0.2:2"), datagram(t, "10.0.0.1:1", "10.0.0.2:2")}
	for _, tt := range []struct {
		err  error
		want uint64
	}{
		{nil, 0},
		{&tun.WriteError{Refused: 1, First: tuntest.ErrFull}, 1},
		{tun.ErrDown, 2},
	} {
		l := newLoop(nil).join(dev, &broken{Device: dev, writeErr: tt.err})
		p := &l.sides[nat.Outside]
		l.write(nat.Outside, 0, ps)
		if got := p.refused.Load(); got != tt.want {
			t.Errorf("%v: %d refused, want %d", tt.err, got, tt.want)
		}
	}
}

// fakeMachine has dropped of each device what its numbers say. It takes any configuration, unless it is told not to.
type fakeMachine struct {
	sick, unfit error // of health, of fits
	fails       error // of become, after swap
}

func (m *fakeMachine) fits(*config.Config) error { return m.unfit }

func (m *fakeMachine) become(_ *config.Config, swap func() error) error {
	if err := swap(); err != nil {
		return err
	}
	return m.fails
}

// reloader is one whose configuration is in path, "" for none.
func (w *wires) reloader(m machine, path string) *reloader {
	return newReloader(path, w.config, w.loop, m, slog.New(slog.DiscardHandler), func(c *config.Config) *nat.Policy {
		p, _ := c.Compile()
		return p
	})
}

func (m *fakeMachine) faults() []control.Fault {
	if m.sick == nil {
		return nil
	}
	return []control.Fault{{Kind: faultDevice, Subject: "tg-in", Text: m.sick.Error(), Since: time.Unix(1, 0).UTC()}}
}

func (*fakeMachine) dropped(s nat.Side) (read, write uint64) {
	return uint64(s)*10 + 1, uint64(s)*10 + 2
}

// TestMetrics: well-formed by the rules of Prometheus, complete, and health tells what it is told.
func TestMetrics(t *testing.T) {
	w := newWires(t)
	defer func() { _ = w.end() }()
	if err := w.outside.Send(datagram(t, "198.51.100.9:1", "203.0.113.1:1")); err != nil {
		t.Fatal(err)
	}
	if err := w.outside.Send(datagram(t, "10.0.0.9:1", "203.0.113.1:1")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); w.sides[nat.Outside].readPackets.Load() < 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	reg := prometheus.NewPedanticRegistry()
	m := &fakeMachine{}
	reg.MustRegister(newCollector(w.loop, m, w.reloader(m, "")))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	srv := httptest.NewServer(handler(w.loop, "v1.2.3", m, w.reloader(m, "")))
	defer srv.Close()
	body, _ := fetch(t, srv.URL+"/metrics")
	for _, want := range []string{
		`nat_build_info{version="v1.2.3"} 1`,
		`nat_sessions 0`,
		`nat_sessions_limit 1024`,
		`nat_drops_total{reason="no_mapping"} 1`,
		`nat_drops_total{reason="martian"} 1`,
		`nat_packets_total{dir="in",verdict="no_mapping"} 1`,
		`nat_packets_total{dir="out",verdict="outbound"} 0`,
		`nat_bytes_total{dir="out"} 0`,
		`nat_pool_ports_limit{proto="tcp"} 64512`,
		`nat_pool_ports_used{proto="icmp"} 0`,
		`nat_endpoint_port_saturation_ratio 0`,
		`nat_config_last_reload_successful 1`,
		`nat_sessions_ended_total{reason="cut"} 0`,
		`nat_device_packets_total{device="outside",op="read"} 2`,
		`nat_healthy 1`,
		`nat_fault_active{fault="device"} 0`,
		`nat_faults_total{fault="io"} 0`,
		`nat_fault_repairs_total{fault="guard"} 0`,
		`nat_monitor_resyncs_total 0`,
		`nat_device_dropped_total{device="outside",op="read"} 11`,
		`nat_device_dropped_total{device="inside",op="write"} 2`,
		`go_goroutines `,
		`process_open_fds `,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if err := w.inside.Send(syn(t, "10.0.0.9:1", "198.51.100.9:80")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); w.engine.Stats(w.now()).Created == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	body, _ = fetch(t, srv.URL+"/metrics")
	for _, want := range []string{
		`nat_tcp_attempts_total{pool="outside"} 1`, `nat_tcp_connections{pool="outside"} 0`,
		`nat_tcp_established_total{pool="outside"} 0`, `nat_tcp_idle_timeouts_total{pool="outside"} 0`,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("after a SYN: no %q in\n%s", want, body)
		}
	}
	if body, status := fetch(t, srv.URL+"/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("healthy: %d %q", status, body)
	}
	m.sick = errors.New("interface tg-in is down")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var st control.Status
	if err := json.NewDecoder(res.Body).Decode(&st); err != nil || res.StatusCode != http.StatusServiceUnavailable || st.Healthy ||
		len(st.Faults) != 1 || st.Faults[0] != m.faults()[0] {
		t.Errorf("as JSON: %d, %v, %+v", res.StatusCode, err, st)
	}
	if body, status := fetch(t, srv.URL+"/healthz"); status != http.StatusServiceUnavailable || body != "interface tg-in is down\n" {
		t.Errorf("sick: %d %q", status, body)
	}
}

func fetch(t *testing.T, url string) (body string, status int) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), res.StatusCode
}

// source is a device that has the same packet to read again and again, and takes all.
type source struct {
	tun.Device
	p    packet.Packet
	left int
}

func (d *source) Read(ps []packet.Packet) (int, error) {
	if d.left == 0 {
		return 0, os.ErrClosed
	}
	d.left--
	for i := range ps {
		q := &ps[i]
		q.Off, q.Len, q.Offload = packet.Headroom, copy(q.Buf[packet.Headroom:], d.p.Bytes()), packet.Offload{}
	}
	return len(ps), nil
}

func (d *source) Write(ps []packet.Packet) (int, error) { return len(ps), nil }

// TestLoopAllocates: what the loop allocates, it allocates before the first packet.
func TestLoopAllocates(t *testing.T) {
	w := newWires(t)
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	dev, _ := tuntest.Pipe(tuntest.Options{})
	src := &source{Device: dev, p: datagram(t, "10.0.1.10:5000", "198.51.100.1:53")}
	l := newLoop(w.engine).join(src, &source{Device: dev})
	allocs := func(batches int) float64 {
		return testing.AllocsPerRun(5, func() {
			src.left = batches
			if err := l.pump(nat.Inside, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocs(10), allocs(1000); many > few {
		t.Errorf("%v allocations for 10 batches, %v for 1000", few, many)
	}
	if n := l.sides[nat.Outside].wrotePackets.Load(); n < 1000*64 {
		t.Errorf("%d packets were written", n)
	}
}

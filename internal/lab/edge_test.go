// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/tun/tuntest"
)

var (
	hostA  = netip.MustParseAddrPort("10.0.0.1:1001")
	hostB  = netip.MustParseAddrPort("10.0.0.2:1002")
	remote = netip.MustParseAddrPort("203.0.113.5:53")
	public = netip.MustParseAddr("198.51.100.1")
)

// bench is an edge with two inside hosts and an outside, all in memory.
type bench struct {
	*Edge
	a, b, out *tuntest.Device
	log       Log
}

func policyOf(route nat.Route) *nat.Policy {
	attach := func(id nat.AttachmentID, a netip.AddrPort) nat.Attachment {
		return nat.Attachment{ID: id, Router: true, Sources: []netip.Prefix{netip.PrefixFrom(a.Addr(), 32)}}
	}
	return &nat.Policy{
		Attachments: []nat.Attachment{{ID: 0, Side: nat.Outside, Router: true}, attach(1, hostA), attach(2, hostB)},
		Inside:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		Routes:      []nat.Route{route},
		Pools:       []nat.Pool{{Name: "pool", Addresses: []netip.Addr{public}}},
	}
}

var (
	viaPool = nat.Route{Source: netip.MustParsePrefix("10.0.0.0/24"), Pool: "pool"}
	noWay   = nat.Route{Source: netip.MustParsePrefix("10.0.0.0/24")}
)

func newBench(t *testing.T, fault Fault, taps ...Tap) *bench {
	t.Helper()
	w := &bench{}
	var ports []Port
	for i, far := range []**tuntest.Device{&w.out, &w.a, &w.b} {
		near, f := tuntest.Pipe(tuntest.Options{})
		*far = f
		p := Port{Name: []string{"out", "a", "b"}[i], Device: near, ID: nat.AttachmentID(i)}
		if i == 0 {
			p.Side = nat.Outside
		}
		ports = append(ports, p)
	}
	e, err := NewEdge(EdgeOptions{Policy: policyOf(viaPool), Ports: ports, Taps: append(taps, w.log.Tap), Fault: fault})
	if err != nil {
		t.Fatal(err)
	}
	w.Edge = e
	return w
}

func (w *bench) end(t *testing.T) {
	t.Helper()
	if err := errors.Join(w.Err(), w.Close(), w.a.Close(), w.b.Close(), w.out.Close()); err != nil {
		t.Error(err)
	}
}

// datagram is a UDP packet, whole and right.
func datagram(t *testing.T, src, dst netip.AddrPort, text string) packet.Packet {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	buf := gopacket.NewSerializeBuffer()
	if err := errors.Join(udp.SetNetworkLayerForChecksum(ip), gopacket.SerializeLayers(buf,
		gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, udp, gopacket.Payload(text))); err != nil {
		t.Fatal(err)
	}
	return packet.From(buf.Bytes())
}

// pass sends p at one end and returns what arrives at another.
func pass(t *testing.T, from *tuntest.Device, p packet.Packet, to *tuntest.Device) (src, dst netip.AddrPort) {
	t.Helper()
	if err := from.Send(p); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	got, err := to.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var v packet.View
	if f := v.Parse(got.Bytes()); f != packet.OK {
		t.Fatalf("fault %d", f)
	}
	return netip.AddrPortFrom(addr(v.Src), v.SrcPort), netip.AddrPortFrom(addr(v.Dst), v.DstPort)
}

// Packets go to the port that verdict and destination name: inside, outside, and back.
func TestEdge(t *testing.T) {
	defer goleak.VerifyNone(t)
	w := newBench(t, Fault{})
	defer w.end(t)
	if src, dst := pass(t, w.a, datagram(t, hostA, hostB, "hello"), w.b); src != hostA || dst != hostB {
		t.Errorf("inside to inside: %v to %v", src, dst)
	}
	external, dst := pass(t, w.b, datagram(t, hostB, remote, "hello"), w.out)
	if external.Addr() != public || dst != remote {
		t.Errorf("inside to outside: %v to %v", external, dst)
	}
	if src, dst := pass(t, w.out, datagram(t, remote, external, "hello"), w.b); src != remote || dst != hostB {
		t.Errorf("outside to inside: %v to %v", src, dst)
	}
	sent := w.log.Find(0, func(s *Seen) bool { return s.Sent })
	want := []Seen{
		{Port: "b", Src: hostA, Dst: hostB}, {Port: "out", Outside: true, Src: external, Dst: remote},
		{Port: "b", Src: remote, Dst: hostB},
	}
	if !slices.EqualFunc(sent, want, func(a, b Seen) bool {
		return a.Port == b.Port && a.Outside == b.Outside && a.Src == b.Src && a.Dst == b.Dst && a.Proto == packet.UDP && a.Len == 33
	}) {
		t.Errorf("log: %+v", sent)
	}
	if n := w.log.Mark(); n != 6 {
		t.Errorf("%d packets in the log", n)
	}
}

// A policy is in force when Apply returns; a bad one changes nothing.
func TestEdgeApply(t *testing.T) {
	w := newBench(t, Fault{})
	defer w.end(t)
	pass(t, w.a, datagram(t, hostA, remote, "hello"), w.out)
	if _, err := w.Apply(policyOf(nat.Route{Source: viaPool.Source, Pool: "none"})); err == nil {
		t.Error("a policy with a fault was applied")
	}
	pass(t, w.a, datagram(t, hostA, remote, "hello"), w.out)
	if _, err := w.Apply(policyOf(noWay)); err != nil {
		t.Fatal(err)
	}
	mark := w.log.Mark()
	if err := w.a.Send(datagram(t, hostA, remote, "hello")); err != nil {
		t.Fatal(err)
	}
	pass(t, w.a, datagram(t, hostA, hostB, "hello"), w.b) // comes after it
	if out := w.log.Find(mark, func(s *Seen) bool { return s.Outside }); len(out) != 0 {
		t.Errorf("left: %+v", out)
	}
	if n := w.Stats().Verdicts[nat.DropNoPath]; n != 1 {
		t.Errorf("%d packets had no path", n)
	}
}

// Both hooks of a fault see everything and have the last word.
func TestEdgeFault(t *testing.T) {
	var olds []*nat.Policy
	w := newBench(t, Fault{
		Policy: func(old, _ *nat.Policy) *nat.Policy {
			olds = append(olds, old)
			return policyOf(noWay)
		},
		Packet: func(v nat.Verdict, _ *packet.Packet) nat.Verdict {
			if v == nat.DropNoPath {
				return nat.Bypassed
			}
			return v
		},
	})
	defer w.end(t)
	if src, _ := pass(t, w.a, datagram(t, hostA, remote, "hello"), w.out); src != hostA {
		t.Errorf("left with %v", src)
	}
	if _, err := w.Apply(policyOf(viaPool)); err != nil {
		t.Fatal(err)
	}
	if len(olds) != 2 || olds[0] != nil || olds[1] == nil {
		t.Errorf("old policies: %v", olds)
	}
}

// broken is a device whose interface was deleted.
type broken struct{ tun.Device }

func (broken) Read([]packet.Packet) (int, error) { return 0, tun.ErrGone }

// What ends a port is not lost.
func TestEdgeBroken(t *testing.T) {
	near, far := tuntest.Pipe(tuntest.Options{})
	defer far.Close()
	e, err := NewEdge(EdgeOptions{Policy: policyOf(viaPool), Ports: []Port{{Name: "a", Device: broken{near}, ID: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := e.Err(); !errors.Is(err, tun.ErrGone) {
		t.Errorf("Err: %v", err)
	}
}

// A capture has an interface a port, complete checksums, and marks.
func TestCapture(t *testing.T) {
	dir := t.TempDir()
	c, err := NewCapture(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Mark("step 1: begin")
	w := newBench(t, Fault{}, c.Tap)
	p := datagram(t, hostA, remote, "hello")
	whole := slices.Clone(p.Bytes())
	// The same packet as a kernel hands it over when the interface card is to finish it.
	p.Offload = packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6}
	b := p.Bytes()
	sum := packet.Fold(packet.PseudoIPv4(0x0a000001, 0xcb007105, packet.UDP, len(b)-20))
	b[26], b[27] = byte(sum>>8), byte(sum)
	pass(t, w.a, p, w.out)
	w.end(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	in := readCapture(t, filepath.Join(dir, "inside.pcapng"))
	if len(in) != 2 || in[0].port != MarkerInterface || string(in[0].data[28:]) != "step 1: begin" || in[1].port != "a" || !slices.Equal(in[1].data, whole) {
		t.Errorf("inside: %q", in)
	}
	out := readCapture(t, filepath.Join(dir, "outside.pcapng"))
	if len(out) != 2 || out[0].port != MarkerInterface || out[1].port != "out" {
		t.Fatalf("outside: %q", out)
	}
	d := out[1].data
	if packet.Fold(packet.Sum(d[20:], packet.PseudoIPv4(0xc6336401, 0xcb007105, packet.UDP, len(d)-20))) != 0xffff {
		t.Errorf("wrong checksum: %x", d)
	}
}

type captured struct {
	port string
	data []byte
}

func readCapture(t *testing.T, name string) (all []captured) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			return all
		}
		i, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, captured{i.Name, data})
	}
}

// Ports come and go while packets pass.
func TestEdgeAttachDetach(t *testing.T) {
	defer goleak.VerifyNone(t)
	w := newBench(t, Fault{})
	defer w.end(t)
	if err := w.Detach(2); err != nil {
		t.Fatal(err)
	}
	if err := w.Detach(2); err != nil {
		t.Errorf("once more: %v", err)
	}
	if err := w.a.Send(datagram(t, hostA, hostB, "lost")); err != nil {
		t.Fatal(err)
	}
	pass(t, w.a, datagram(t, hostA, remote, "hello"), w.out) // the other ports go on

	near, far := tuntest.Pipe(tuntest.Options{})
	b := Port{Name: "b again", Device: near, ID: 2}
	for what, p := range map[string]Port{
		"an attachment twice":  {Name: "a again", Device: near, ID: 1},
		"the outside twice":    {Name: "out again", Device: near, ID: 7, Side: nat.Outside},
		"the outside for a":    {Name: "a again", Device: near, ID: 1, Side: nat.Outside},
		"an attachment as out": {Name: "out again", Device: near, ID: 0},
	} {
		if err := w.Attach(p); err == nil {
			t.Errorf("attached %s", what)
		}
	}
	if err := w.Attach(b); err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if src, _ := pass(t, w.a, datagram(t, hostA, hostB, "hello"), far); src != hostA {
		t.Errorf("from %v", src)
	}
	external, _ := pass(t, far, datagram(t, hostB, remote, "hello"), w.out)
	if src, dst := pass(t, w.out, datagram(t, remote, external, "hello"), far); src != remote || dst != hostB {
		t.Errorf("outside to inside: %v to %v", src, dst)
	}
	var users sync.WaitGroup
	users.Go(func() {
		for range 200 {
			_ = far.Send(datagram(t, hostB, hostA, "busy")) // lost while it is away
		}
	})
	for range 20 {
		if err := w.Detach(2); err != nil {
			t.Error(err)
		}
		near, other := tuntest.Pipe(tuntest.Options{})
		defer other.Close()
		if err := w.Attach(Port{Name: "b", Device: near, ID: 2}); err != nil {
			t.Error(err)
		}
	}
	users.Wait()
}

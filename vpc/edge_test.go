// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// edge is a world with its engine. What it says is judged by packets, built and read by gopacket.
type edge struct {
	*world
	engine *nat.Engine
	worker *nat.Worker
}

// Hosts on the internet.
var r1, r2, router = addr("203.0.113.9"), addr("203.0.113.10"), addr("192.0.2.1")

func newEdge(t *testing.T) *edge {
	t.Helper()
	w := newWorld(t, "198.51.100.128/28")
	e := must(nat.New(nat.Config{Seed: 1, Sessions: 4096}, w.compiled()))(t)
	t.Cleanup(func() { w.ok(e.Check(w.now.Sub(t0))) })
	return &edge{w, e, e.Worker()}
}

// apply puts the model as it is now in force.
func (e *edge) apply() nat.Impact {
	e.t.Helper()
	return must(e.engine.Apply(e.compiled(), e.now.Sub(t0)))(e.t)
}

// flow is a packet to be built, or as it was read.
type flow struct {
	proto            layers.IPProtocol
	src, dst         netip.Addr
	srcPort, dstPort uint16 // of ICMP: the identifier, twice
	ttl              uint8
	syn, ack         bool
}

func tcp(src netip.Addr, srcPort uint16, dst netip.Addr, dstPort uint16) flow {
	return flow{proto: layers.IPProtocolTCP, src: src, dst: dst, srcPort: srcPort, dstPort: dstPort, ttl: 64, syn: true}
}

func udp(src netip.Addr, srcPort uint16, dst netip.Addr, dstPort uint16) flow {
	return flow{proto: layers.IPProtocolUDP, src: src, dst: dst, srcPort: srcPort, dstPort: dstPort, ttl: 64}
}

// echo is a request if syn is set, else a reply.
func echo(src, dst netip.Addr, id uint16) flow {
	return flow{proto: layers.IPProtocolICMPv4, src: src, dst: dst, srcPort: id, dstPort: id, ttl: 64, syn: true}
}

// reply is the answer to f: a SYN+ACK, a datagram, an echo reply.
func (f flow) reply() flow {
	f.src, f.dst, f.srcPort, f.dstPort = f.dst, f.src, f.dstPort, f.srcPort
	f.ttl, f.ack = 64, f.proto == layers.IPProtocolTCP
	f.syn = f.ack
	return f
}

var complete = gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}

func (f flow) build(t testing.TB) []byte {
	ip := &layers.IPv4{
		Version: 4, TTL: f.ttl, Protocol: f.proto, Id: 7,
		SrcIP: net.IP(f.src.AsSlice()), DstIP: net.IP(f.dst.AsSlice()),
	}
	stack := []gopacket.SerializableLayer{ip}
	switch f.proto {
	case layers.IPProtocolTCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(f.srcPort), DstPort: layers.TCPPort(f.dstPort), SYN: f.syn, ACK: f.ack, Window: 65535}
		l.Seq = 1000
		if f.ack {
			l.Ack = 1001
		}
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, l)
	case layers.IPProtocolUDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(f.srcPort), DstPort: layers.UDPPort(f.dstPort)}
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, l)
	case layers.IPProtocolICMPv4:
		kind := uint8(layers.ICMPv4TypeEchoReply)
		if f.syn {
			kind = layers.ICMPv4TypeEchoRequest
		}
		stack = append(stack, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: f.srcPort, Seq: 1})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, complete, append(stack, gopacket.Payload("tide"))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// read takes a packet apart again. Its checksums must be what gopacket computes.
func read(t testing.TB, b []byte) flow {
	t.Helper()
	decode := func(l gopacket.DecodingLayer, b []byte) {
		if err := l.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			t.Fatalf("unreadable packet: %v: %x", err, b)
		}
	}
	var ip layers.IPv4
	decode(&ip, b)
	src, _ := netip.AddrFromSlice(ip.SrcIP)
	dst, _ := netip.AddrFromSlice(ip.DstIP)
	f := flow{proto: ip.Protocol, src: src, dst: dst, ttl: ip.TTL}
	stack := []gopacket.SerializableLayer{&ip}
	payload := ip.Payload
	switch ip.Protocol {
	case layers.IPProtocolTCP:
		var l layers.TCP
		decode(&l, ip.Payload)
		f.srcPort, f.dstPort, f.syn, f.ack = uint16(l.SrcPort), uint16(l.DstPort), l.SYN, l.ACK
		_ = l.SetNetworkLayerForChecksum(&ip)
		stack, payload = append(stack, &l), l.Payload
	case layers.IPProtocolUDP:
		var l layers.UDP
		decode(&l, ip.Payload)
		f.srcPort, f.dstPort = uint16(l.SrcPort), uint16(l.DstPort)
		_ = l.SetNetworkLayerForChecksum(&ip)
		stack, payload = append(stack, &l), l.Payload
	case layers.IPProtocolICMPv4:
		var l layers.ICMPv4
		decode(&l, ip.Payload)
		f.srcPort, f.dstPort, f.syn = l.Id, l.Id, l.TypeCode.Type() == layers.ICMPv4TypeEchoRequest
		stack, payload = append(stack, &l), l.Payload
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, complete, append(stack, gopacket.Payload(payload))...); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf.Bytes(), b) {
		t.Fatalf("a length or checksum is wrong:\n%x\nwant\n%x", b, buf.Bytes())
	}
	return f
}

// send passes a packet through the engine, from an instance or from OutsideAttachment, and says what became of it: the
// packet as it leaves, and the verdict, whose counter went up by one.
func (e *edge) send(from nat.AttachmentID, b []byte) ([]byte, nat.Verdict) {
	e.t.Helper()
	now := e.now.Sub(t0)
	before := e.engine.Stats(now)
	p := packet.From(b)
	v := e.worker.Translate(&p, from, now)
	after := e.engine.Stats(now)
	before.Verdicts[v]++
	if before.Verdicts != after.Verdicts {
		e.t.Errorf("%v was not counted as one packet", v)
	}
	return p.Bytes(), v
}

// passes asserts the verdict and the packet that leaves, whose time to live is one less.
func (e *edge) passes(what string, from nat.AttachmentID, in flow, want nat.Verdict, out flow) {
	e.t.Helper()
	b, v := e.send(from, in.build(e.t))
	if v != want {
		e.t.Fatalf("%s: %v (%s), want %v", what, v, v.Text(), want)
	}
	out.ttl = in.ttl - 1
	equal(e.t, what, read(e.t, b), out)
}

// stops asserts that the packet ends in silence, for this reason, without state.
func (e *edge) stops(what string, from nat.AttachmentID, in flow, want nat.Verdict) {
	e.t.Helper()
	sessions := e.sessions()
	_, v := e.send(from, in.build(e.t))
	equal(e.t, what, v, want)
	equal(e.t, what+": sessions", e.sessions(), sessions)
	equal(e.t, what+": answers", len(e.worker.Emitted()), 0)
}

func (e *edge) sessions() int { return e.engine.Stats(e.now.Sub(t0)).Sessions }

// at is the flow with another source, to is it with another destination.
func (f flow) at(ip netip.Addr) flow { f.src = ip; return f }
func (f flow) to(ip netip.Addr) flow { f.dst = ip; return f }

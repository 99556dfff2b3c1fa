// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	gudp "gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/tidegate/tidegate/packet"
)

// gvisorMost is with how many flows gVisor is measured: it has one external address here, and takes its time.
const gvisorMost = 65536

// wire is an interface without a link layer whose far end keeps the last packet.
type wire struct {
	dispatcher stack.NetworkDispatcher
	got        int
	last       [128]byte
}

func (w *wire) WritePackets(ps stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range ps.AsSlice() {
		n := 0
		for _, s := range p.AsSlices() {
			n += copy(w.last[n:], s)
		}
		w.got++
	}
	return ps.Len(), nil
}

func (w *wire) MTU() uint32                             { return 1500 }
func (w *wire) SetMTU(uint32)                           {}
func (w *wire) Attach(d stack.NetworkDispatcher)        { w.dispatcher = d }
func (w *wire) IsAttached() bool                        { return w.dispatcher != nil }
func (w *wire) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (w *wire) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (w *wire) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
func (w *wire) LinkAddress() tcpip.LinkAddress   { return "" }
func (w *wire) MaxHeaderLength() uint16          { return 0 }
func (w *wire) SetLinkAddress(tcpip.LinkAddress) {}
func (w *wire) AddHeader(*stack.PacketBuffer)    {}
func (w *wire) SetOnCloseAction(func())          {}
func (w *wire) Close()                           {}
func (w *wire) Wait()                            {}

// gvisorLoad is gVisor's stack as a router with an SNAT rule, and the packets of its flows. The packets are those of the
// engine's ring; what is in front of them, a PacketBuffer for each, is part of how gVisor is used.
type gvisorLoad struct {
	s     *stack.Stack
	wires [2]*wire // inside and outside
	r     *ring
}

var gvisorExternal = tcpip.AddrFrom4([4]byte{198, 18, 0, 1})

// newGVisorStack is a router between two wires, whose packets to the outside get one external address.
func newGVisorStack(tb testing.TB) (*stack.Stack, [2]*wire) {
	tb.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{gtcp.NewProtocol, gudp.NewProtocol},
	})
	wires := [2]*wire{{}, {}}
	for i, w := range wires {
		if err := s.CreateNICWithOptions(tcpip.NICID(i+1), w, stack.NICOptions{Name: fmt.Sprint("wire", i)}); err != nil {
			tb.Fatal(err)
		}
	}
	a := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: gvisorExternal.WithPrefix()}
	if err := s.AddProtocolAddress(2, a, stack.AddressProperties{}); err != nil {
		tb.Fatal(err)
	}
	inside, err := tcpip.NewSubnet(tcpip.AddrFrom4([4]byte{10}), tcpip.MaskFromBytes([]byte{255, 0, 0, 0}))
	if err != nil {
		tb.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: inside, NIC: 1}, {Destination: header.IPv4EmptySubnet, NIC: 2}})
	if err := s.SetForwardingDefaultAndAllNICs(ipv4.ProtocolNumber, true); err != nil {
		tb.Fatal(err)
	}
	accept := &stack.AcceptTarget{NetworkProtocol: ipv4.ProtocolNumber}
	empty := stack.EmptyFilter4()
	outside := stack.EmptyFilter4()
	outside.OutputInterface, outside.OutputInterfaceMask = "wire1", "\xff\xff\xff\xff\xff\xff"
	snat := &stack.SNATTarget{NetworkProtocol: ipv4.ProtocolNumber, Addr: gvisorExternal, ChangeAddress: true, ChangePort: true}
	s.IPTables().ReplaceTable(stack.NATID, stack.Table{
		Rules: []stack.Rule{
			{Filter: empty, Target: accept}, {Filter: empty, Target: accept}, {Filter: empty, Target: accept},
			{Filter: outside, Target: snat}, {Filter: empty, Target: accept},
			{Filter: empty, Target: &stack.ErrorTarget{NetworkProtocol: ipv4.ProtocolNumber}},
		},
		BuiltinChains: [stack.NumHooks]int{stack.Prerouting: 0, stack.Input: 1, stack.Forward: stack.HookUnset, stack.Output: 2, stack.Postrouting: 3},
		Underflows:    [stack.NumHooks]int{stack.Prerouting: 0, stack.Input: 1, stack.Forward: stack.HookUnset, stack.Output: 2, stack.Postrouting: 4},
	}, false)
	return s, wires
}

func newGVisorLoad(tb testing.TB, n int, proto uint8) *gvisorLoad {
	tb.Helper()
	g := &gvisorLoad{r: newRing(proto)}
	g.s, g.wires = newGVisorStack(tb)
	g.r.keys[0] = outKeys(n, proto)
	answers := make([]key, 0, n)
	var b [64]byte
	send := func(k key, from int, flags uint8, seq, ack uint32) []byte {
		blank(b[:], proto)
		if proto == packet.TCP {
			b[33] = flags
			be.PutUint32(b[24:], seq)
			be.PutUint32(b[28:], ack)
			be.PutUint16(b[34:], 65535)
		}
		k.seal(b[:])
		k.put(b[:], sumAt(proto))
		to := g.wires[1-from]
		before := to.got
		g.inject(from, b[:length])
		if to.got != before+1 {
			tb.Fatalf("gVisor sends %d packets for one", to.got-before)
		}
		return to.last[:]
	}
	for _, k := range g.r.keys[0] {
		out := send(k, 0, packet.SYN, 0xffffffff-20, 0)
		ports := be.Uint32(out[20:])
		back := key{src: be.Uint32(out[16:]), dst: be.Uint32(out[12:]), ports: ports<<16 | ports>>16}
		if back.dst == k.src {
			tb.Fatal("gVisor does not translate")
		}
		send(back, 1, packet.SYN|packet.ACK, 0xffffffff-20, 0)
		if proto == packet.TCP {
			send(k, 0, packet.ACK, 0, 0)
		}
		answers = append(answers, back)
	}
	g.r.setInbound(answers)
	return g
}

// inject is a packet on a wire, whose bytes gVisor takes a copy of, as it does from a device.
func (g *gvisorLoad) inject(from int, b []byte) {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	g.wires[from].dispatcher.DeliverNetworkPacket(ipv4.ProtocolNumber, p)
	p.DecRef()
}

func (g *gvisorLoad) translate(inside bool, i int, _ time.Duration) int {
	from := 1
	if inside {
		from = 0
	}
	before := g.wires[1-from].got
	for j := range batchSize {
		g.inject(from, g.r.buf[i+j][:length])
	}
	return g.wires[1-from].got - before
}

// measure is some rounds, each of fewer passes than the engine's: ns a packet.
func (g *gvisorLoad) measure(b *testing.B) (ns []float64) {
	b.Helper()
	for range 8 {
		each, done := g.r.pass(1, g.translate)
		if done != ringSize {
			b.Fatalf("gVisor: %d of %d packets translated", done, ringSize)
		}
		ns = append(ns, each)
	}
	return ns
}

// newGVisorFlows has gVisor take the first packets of flows, and returns ns a flow.
func newGVisorFlows(b *testing.B, ks []key) float64 {
	b.Helper()
	g := &gvisorLoad{r: newRing(packet.UDP)}
	g.s, g.wires = newGVisorStack(b)
	defer g.close()
	g.r.keys[0] = ks
	g.r.direct("out")
	n := len(ks) / ringSize
	ns, done := g.r.pass(n, g.translate)
	if done != n*ringSize {
		b.Fatalf("gVisor: %d of %d flows made", done, n*ringSize)
	}
	return ns
}

// close ends the stack and its goroutines.
func (g *gvisorLoad) close() { g.s.Destroy() }

// BenchmarkGVisor is gVisor alone, doing what BenchmarkEstablished does, a packet a call.
func BenchmarkGVisor(b *testing.B) {
	for _, p := range protocols {
		for _, flows := range []int{1, gvisorMost} {
			var g *gvisorLoad
			b.Run(fmt.Sprintf("proto=%s/flows=%d/dir=both/batch=1", p.name, flows), func(b *testing.B) {
				if g == nil {
					g = newGVisorLoad(b, flows, p.proto)
				}
				g.r.direct("both")
				b.ReportAllocs()
				b.ResetTimer()
				var ns []float64
				for range max(1, b.N/ringSize) {
					each, done := g.r.pass(1, g.translate)
					if done != ringSize {
						b.Fatalf("%d of %d packets translated", done, ringSize)
					}
					ns = append(ns, each)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(median(ns), "ns/packet")
				b.ReportMetric(1e3/median(ns), "Mpps")
			})
			if g != nil {
				g.close()
			}
		}
	}
}

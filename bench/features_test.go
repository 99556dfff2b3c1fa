// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// The price of each feature alone: an engine with it and one without, in turn. That of restricted hosts is in
// restricted_test.go, that of records in a file in records_test.go.

// features that an engine may have or not.
var features = []struct {
	name string
	set  func(*nat.Config, *nat.Policy)
}{
	{"flow-counters", func(c *nat.Config, _ *nat.Policy) { c.FlowCounters = true }},
	{"host-limits", func(_ *nat.Config, p *nat.Policy) { p.HostSessions, p.HostRate = 1<<16, 1<<16-1 }},
	{"events", func(c *nat.Config, _ *nat.Policy) { c.Events = 1 << 16 }}, // nobody takes them out: they are made, and lost
	{"destination-limits", func(_ *nat.Config, p *nat.Policy) { p.Pools[0].Profile.PortsPerDestination = 55_000 }},
}

// with is an engine's configuration and policy for so many flows, with a feature or, where i is -1, without.
func with(i, flows int) (c nat.Config, p *nat.Policy) {
	profile := nat.AWSProfile()
	profile.PortsPerDestination = 0
	c, p = nat.Config{Sessions: flows}, policy(flows, profile)
	if i >= 0 {
		features[i].set(&c, p)
	}
	return c, p
}

// BenchmarkFeature translates packets of established flows.
func BenchmarkFeature(b *testing.B) {
	const flows = 65536
	for i, f := range features {
		for _, p := range protocols {
			b.Run(fmt.Sprintf("feature=%s/proto=%s/flows=%d/dir=both/batch=64", f.name, p.name, flows), func(b *testing.B) {
				var ls [2]*engineLoad
				for j, which := range []int{-1, i} {
					cfg, pol := with(which, flows)
					ls[j] = newEmptyLoad(b, cfg, pol, newRing(p.proto))
					ls[j].r.keys[0] = outKeys(flows, p.proto)
					ls[j].establish(b, nat.Outbound, nat.Inbound)
					ls[j].r.direct("both")
				}
				var ns [2][]float64
				b.ReportAllocs()
				b.ResetTimer()
				for range max(1, b.N/(passes*ringSize)) {
					for j, l := range ls {
						each, done := l.r.pass(passes, l.translate)
						if done != passes*ringSize {
							b.Fatalf("%d of %d packets translated: %v", done, passes*ringSize, l.vs)
						}
						ns[j] = append(ns[j], each)
					}
				}
				reportPrice(b, ns, "ns/packet")
			})
		}
	}
}

// BenchmarkFeatureNewFlow makes flows.
func BenchmarkFeatureNewFlow(b *testing.B) {
	const flows = 65536
	for i, f := range features {
		b.Run(fmt.Sprintf("feature=%s/proto=udp/flows=%d/batch=64", f.name, flows), func(b *testing.B) {
			r := newRing(packet.UDP)
			r.keys[0] = outKeys(flows, packet.UDP)
			r.direct("out")
			var ns [2][]float64
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				for j, which := range []int{-1, i} {
					b.StopTimer()
					cfg, pol := with(which, flows)
					l := newEmptyLoad(b, cfg, pol, r)
					l.want[0] = nat.Outbound
					r.pos[0] = 0
					b.StartTimer()
					each, done := r.pass(flows/ringSize, l.translate)
					if done != flows {
						b.Fatalf("%d of %d flows made: %v", done, flows, l.vs)
					}
					ns[j] = append(ns[j], each)
				}
			}
			reportPrice(b, ns, "ns/flow")
		})
	}
}

// reportPrice reports what is measured without a feature and with it.
func reportPrice(b *testing.B, ns [2][]float64, unit string) {
	b.Helper()
	without, with := median(ns[0]), median(ns[1])
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(with, unit)
	b.ReportMetric(without, "plain-"+unit)
	b.ReportMetric(with/without, "x-plain")
}

// BenchmarkWindow is what the tracking of windows and states costs alone, of a segment of an established TCP connection whose
// record has been loaded: data one way, acknowledgements the other.
func BenchmarkWindow(b *testing.B) {
	table, err := conntrack.New(conntrack.Config{Sessions: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := range table.Timeouts {
		table.Timeouts[i] = 1 << 20
	}
	const syn, ack = packet.SYN, packet.SYN | packet.ACK
	first := [2]conntrack.Segment{{Seq: 1, Flags: syn, Window: 65535, Scale: 7}, {Seq: 1, Ack: 2, Flags: ack, Window: 65535, Scale: 7}}
	r := conntrack.Record{Proto: packet.TCP}
	r.StartTCP(conntrack.Out, &first[conntrack.Out])
	h := table.Add(&r)
	table.TrackTCP(h, conntrack.In, &first[conntrack.In], 0)
	s := [2]conntrack.Segment{{Seq: 2, Ack: 2, Flags: packet.ACK, Window: 500}, {Seq: 2, Ack: 2, Flags: packet.ACK, Window: 500, Len: 1448}}
	b.Run("proto=tcp/flows=1/dir=both", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			d := conntrack.Dir(i & 1)
			table.TrackTCP(h, d, &s[d], uint32(i>>20))
			if d == conntrack.In {
				s[conntrack.In].Seq += 1448
			} else {
				s[conntrack.Out].Ack = s[conntrack.In].Seq
			}
		}
		if got := table.Rec(h).State; got != conntrack.Established {
			b.Fatal(got)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/packet")
		b.ReportMetric(0, "ns/op")
	})
}

// raws is packets that the engine is given again and again.
type raws struct {
	packets [][]byte
	ps      [batchSize]packet.Packet
	buf     [batchSize][2048]byte
}

// batch fills the buffers with the next packets.
func (r *raws) batch(from int) []packet.Packet {
	for i := range r.ps {
		b := r.packets[(from+i)%len(r.packets)]
		r.ps[i] = packet.Packet{Buf: r.buf[i][:], Off: packet.Headroom, Len: copy(r.buf[i][packet.Headroom:], b)}
	}
	return r.ps[:]
}

// BenchmarkICMPError translates ICMP errors about established flows, that is their quotes, too: from the outside about what
// was translated on its way out, from the inside about what came in. What refilling costs is in it.
func BenchmarkICMPError(b *testing.B) {
	const flows = 65536
	for _, p := range protocols {
		l := (*engineLoad)(nil)
		for _, dir := range []string{"in", "out"} {
			b.Run(fmt.Sprintf("proto=%s/flows=%d/dir=%s/batch=64", p.name, flows, dir), func(b *testing.B) {
				if l == nil {
					l = newEngineLoad(b, flows, p.proto, nat.GatewayProfile())
				}
				var r raws
				from, want := nat.AttachmentID(1), nat.ErrorInbound
				if dir == "out" {
					from, want = 0, nat.ErrorOutbound
				}
				// What arrives on the other side of the engine is what is complained about here: the answers, turned around.
				for _, k := range l.r.keys[from] {
					quoted := key{src: k.dst, dst: k.src, ports: k.ports<<16 | k.ports>>16}
					r.packets = append(r.packets, unreachable(k.src, quoted, p.proto))
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := 0; i < b.N; i += batchSize {
					l.w.Batch(r.batch(i), from, benchNow, l.vs[:])
					for _, v := range l.vs {
						if v != want {
							b.Fatal(v)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64((b.N+batchSize-1)/batchSize*batchSize), "ns/packet")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// unreachable is an ICMP error, port unreachable, from a host to the sender of a quoted packet.
func unreachable(from uint32, quoted key, proto uint8) []byte {
	var q [64]byte
	blank(q[:], proto)
	quoted.seal(q[:])
	quoted.put(q[:], sumAt(proto))
	b := make([]byte, 20+8+28)
	b[0], b[3], b[8], b[9] = 0x45, uint8(len(b)), 64, packet.ICMP
	be.PutUint32(b[12:], from)
	be.PutUint32(b[16:], quoted.src)
	b[20], b[21] = 3, 3
	copy(b[28:], q[:28])
	be.PutUint16(b[10:], packet.Checksum(b[:20]))
	be.PutUint16(b[22:], packet.Checksum(b[20:]))
	return b
}

// BenchmarkFragments translates datagrams in two pieces, which wait for each other: ns a piece, in order.
func BenchmarkFragments(b *testing.B) {
	const flows = 1024
	l := newEngineLoad(b, flows, packet.UDP, nat.GatewayProfile())
	var r raws
	for _, k := range l.r.keys[0] {
		r.packets = append(r.packets, pieces(k)...)
	}
	b.Run(fmt.Sprintf("proto=udp/flows=%d/dir=out/pieces=2/batch=64", flows), func(b *testing.B) {
		b.ReportAllocs()
		b.ResetTimer()
		out, now := 0, benchNow
		for i := 0; i < b.N; i += batchSize {
			now += time.Microsecond
			l.w.Batch(r.batch(i), 0, now, l.vs[:])
			for _, v := range l.vs {
				if v.Forward() {
					out++
				}
			}
			out += len(l.w.Emitted())
		}
		n := (b.N + batchSize - 1) / batchSize * batchSize
		if out != n {
			b.Fatalf("%d of %d pieces came out: %v", out, n, l.vs)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/packet")
		b.ReportMetric(0, "ns/op")
	})
}

// pieces are a datagram of 64 bytes of payload, the first 24 bytes of it with the header, and the rest.
func pieces(k key) (ps [][]byte) {
	whole := make([]byte, 20+8+64)
	whole[0], whole[3], whole[8], whole[9] = 0x45, uint8(len(whole)), 64, packet.UDP
	be.PutUint16(whole[4:], uint16(k.ports>>16))
	be.PutUint32(whole[12:], k.src)
	be.PutUint32(whole[16:], k.dst)
	be.PutUint32(whole[20:], k.ports)
	be.PutUint16(whole[24:], uint16(len(whole)-20))
	const first = 32 // bytes behind the IP header
	for _, part := range [][2]int{{0, first}, {first, len(whole) - 20}} {
		p := append(append([]byte{}, whole[:20]...), whole[20+part[0]:20+part[1]]...)
		be.PutUint16(p[2:], uint16(len(p)))
		field := uint16(part[0] / 8)
		if part[1] < len(whole)-20 {
			field |= 1 << 13 // more
		}
		be.PutUint16(p[6:], field)
		be.PutUint16(p[10:], packet.Checksum(p[:20]))
		ps = append(ps, p)
	}
	return ps
}

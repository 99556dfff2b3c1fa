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
// record has been loaded: data one way, acknowledgements the other. With usual it is the step that a batch tries first,
// without the one that knows everything.
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
	table.TrackTCP(h, conntrack.Out, &s[conntrack.Out], 0)
	for _, usual := range []bool{true, false} {
		b.Run(fmt.Sprintf("proto=tcp/flows=1/dir=both/usual=%t", usual), func(b *testing.B) {
			const round = passes * ringSize
			var ns []float64
			b.ReportAllocs()
			for range max(1, b.N/round) {
				start := time.Now()
				for i := range round {
					d := conntrack.Dir(i & 1)
					if g := &s[d]; !usual {
						table.TrackTCP(h, d, g, 0)
					} else if !table.Rec(h).TrackData(d, g.Seq, g.Ack, uint32(g.Len), g.Window, 0) {
						b.Fatal("not the usual segment")
					}
					if d == conntrack.In {
						s[conntrack.In].Seq += 1448
					} else {
						s[conntrack.Out].Ack = s[conntrack.In].Seq
					}
				}
				ns = append(ns, float64(time.Since(start).Nanoseconds())/round)
			}
			if got := table.Rec(h).State; got != conntrack.Established {
				b.Fatal(got)
			}
			b.ReportMetric(median(ns), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
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

// all is whether the packets of a batch all get one verdict.
func (l *engineLoad) all(ps []packet.Packet, from nat.AttachmentID, now time.Duration, want nat.Verdict) bool {
	l.w.Batch(ps, from, now, l.vs[:])
	for _, v := range l.vs {
		if v != want {
			return false
		}
	}
	return true
}

// errors are ICMP errors about the flows of l: from the outside about what was translated on its way out, from the inside about
// what came in.
func (l *engineLoad) errors(dir string) (r *raws, from nat.AttachmentID, want nat.Verdict) {
	r, from, want = new(raws), 1, nat.ErrorInbound
	if dir == "out" {
		from, want = 0, nat.ErrorOutbound
	}
	// What an answer from outside is to, or one from inside, is what it complains about.
	for _, k := range l.r.keys[from] {
		quoted := key{src: k.dst, dst: k.src, ports: k.ports<<16 | k.ports>>16}
		r.packets = append(r.packets, unreachable(k.src, quoted, l.r.proto))
	}
	return r, from, want
}

// plain are the packets of the flows of l in one direction.
func (l *engineLoad) plain(from nat.AttachmentID) *raws {
	r := new(raws)
	for _, k := range l.r.keys[from] {
		b := make([]byte, 64)
		blank(b, l.r.proto)
		k.put(b, sumAt(l.r.proto))
		r.packets = append(r.packets, b[:length])
	}
	return r
}

// besidePlain has batches of a special kind and of plain packets of the same flows take turns, and reports both. What
// copying each packet into its buffer costs is in both.
func (l *engineLoad) besidePlain(b *testing.B, from nat.AttachmentID, special func(i int, now time.Duration)) {
	b.Helper()
	plain, want := l.plain(from), l.want[from]
	var ns [2][]float64
	now := benchNow
	b.ReportAllocs()
	b.ResetTimer()
	const batches = 64 // in a round
	for i := range max(1, b.N/(batches*batchSize)) {
		for j := range ns {
			start := time.Now()
			for k := i * batches; k < (i+1)*batches; k++ {
				now += time.Microsecond
				if j == 1 {
					special(k*batchSize, now)
				} else if !l.all(plain.batch(k*batchSize), from, now, want) {
					b.Fatal(l.vs)
				}
			}
			ns[j] = append(ns[j], float64(time.Since(start).Nanoseconds())/(batches*batchSize))
		}
	}
	reportPrice(b, ns, "ns/packet")
}

// BenchmarkICMPError translates ICMP errors about established flows, that is their quotes, too, in turn with packets of those
// flows.
func BenchmarkICMPError(b *testing.B) {
	const flows = 65536
	for _, p := range protocols {
		l := (*engineLoad)(nil)
		for _, dir := range []string{"in", "out"} {
			b.Run(fmt.Sprintf("proto=%s/flows=%d/dir=%s/batch=64", p.name, flows, dir), func(b *testing.B) {
				if l == nil {
					l = newEngineLoad(b, flows, p.proto, nat.GatewayProfile())
				}
				r, from, want := l.errors(dir)
				l.besidePlain(b, from, func(i int, now time.Duration) {
					if !l.all(r.batch(i), from, now, want) {
						b.Fatal(l.vs)
					}
				})
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

// fragments are a datagram of each flow of l, in two pieces.
func (l *engineLoad) fragments() *raws {
	r := new(raws)
	for _, k := range l.r.keys[0] {
		r.packets = append(r.packets, pieces(k)...)
	}
	return r
}

// BenchmarkFragments translates datagrams in two pieces, the first of which waits for the second, in turn with whole packets of
// the same flows: ns a piece.
func BenchmarkFragments(b *testing.B) {
	const flows = 1024
	var l *engineLoad
	b.Run(fmt.Sprintf("proto=udp/flows=%d/dir=out/pieces=2/batch=64", flows), func(b *testing.B) {
		if l == nil {
			l = newEngineLoad(b, flows, packet.UDP, nat.GatewayProfile())
		}
		r := l.fragments()
		l.besidePlain(b, 0, func(i int, now time.Duration) {
			l.w.Batch(r.batch(i), 0, now, l.vs[:])
			out := len(l.w.Emitted())
			for _, v := range l.vs {
				if v.Forward() {
					out++
				}
			}
			if out != batchSize {
				b.Fatalf("%d of %d pieces came out: %v", out, batchSize, l.vs)
			}
		})
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

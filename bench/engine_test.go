// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// external is enough addresses for n endpoint-independent mappings to take at most half of the ports.
func external(n int) (as []netip.Addr) {
	a := netip.MustParseAddr("198.18.0.0")
	for range (2*n + 65535 - 1024) / (65536 - 1024) {
		as = append(as, a)
		a = a.Next()
	}
	return as
}

func policy(n int, profile nat.Profile) *nat.Policy {
	profile.Pooling = nat.Arbitrary // hosts of the load have too few flows to fill an address evenly by pairs
	in := netip.MustParsePrefix("10.0.0.0/8")
	return &nat.Policy{
		Attachments: []nat.Attachment{{ID: 0, Side: nat.Inside, Router: true, MTU: 1500}, {ID: 1, Side: nat.Outside, Router: true, MTU: 1500}},
		Inside:      []netip.Prefix{in},
		Pools:       []nat.Pool{{Name: "bench", Addresses: external(n), Profile: profile}},
		Routes:      []nat.Route{{Source: in, Pool: "bench"}},
	}
}

// engineLoad is an engine with a full table, and the packets of its flows.
type engineLoad struct {
	e    *nat.Engine
	w    *nat.Worker
	r    *ring
	ps   [ringSize]packet.Packet
	vs   [batchSize]nat.Verdict
	want [2]nat.Verdict // out and in
}

// newEngineLoad fills an engine with n established flows: TCP by handshakes, UDP by a packet each way.
func newEngineLoad(tb testing.TB, n int, proto uint8, profile nat.Profile) *engineLoad {
	return newEngineLoadIn(tb, nat.Config{Sessions: n}, proto, profile)
}

func newEngineLoadIn(tb testing.TB, cfg nat.Config, proto uint8, profile nat.Profile) *engineLoad {
	tb.Helper()
	l := newEmptyLoad(tb, cfg, policy(cfg.Sessions, profile), newRing(proto))
	l.r.keys[0] = outKeys(cfg.Sessions, proto)
	l.establish(tb, nat.Outbound, nat.Inbound)
	return l
}

// newEmptyLoad is an engine without flows.
func newEmptyLoad(tb testing.TB, cfg nat.Config, p *nat.Policy, r *ring) *engineLoad {
	tb.Helper()
	e, err := nat.New(cfg, p)
	if err != nil {
		tb.Fatal(err)
	}
	l := &engineLoad{e: e, w: e.Worker(), r: r}
	for i := range l.ps {
		l.ps[i] = packet.Packet{Buf: r.buf[i][:], Len: length}
	}
	return l
}

// establish takes a packet each way of all flows through the engine, of TCP a handshake, which pass as out and in say.
func (l *engineLoad) establish(tb testing.TB, out, in nat.Verdict) {
	tb.Helper()
	l.want = [2]nat.Verdict{out, in}
	proto := l.r.proto
	answers := make([]key, 0, len(l.r.keys[0]))
	var b [64]byte
	send := func(k key, from nat.AttachmentID, flags uint8, seq, ack uint32) []byte {
		blank(b[:], proto)
		if proto == packet.TCP {
			b[33] = flags
			be.PutUint32(b[24:], seq)
			be.PutUint32(b[28:], ack)
			be.PutUint16(b[34:], 65535)
		}
		k.seal(b[:])
		k.put(b[:], sumAt(proto))
		p := packet.Packet{Buf: b[:], Len: length}
		if v := l.w.Translate(&p, from, 0); v != l.want[from] {
			tb.Fatalf("%v", v)
		}
		return b[:]
	}
	for _, k := range l.r.keys[0] {
		out := send(k, 0, packet.SYN, 0xffffffff-20, 0) // 20 bytes of payload
		ports := be.Uint32(out[20:])
		back := key{src: be.Uint32(out[16:]), dst: be.Uint32(out[12:]), ports: ports<<16 | ports>>16}
		send(back, 1, packet.SYN|packet.ACK, 0xffffffff-20, 0)
		if proto == packet.TCP {
			send(k, 0, packet.ACK, 0, 0)
		}
		answers = append(answers, back)
	}
	l.r.setInbound(answers)
}

func (l *engineLoad) translate(inside bool, i int, now time.Duration) (done int) {
	from := nat.AttachmentID(1)
	if inside {
		from = 0
	}
	ps := l.ps[i : i+batchSize]
	for j := range ps {
		ps[j].Len = length
	}
	l.w.Batch(ps, from, now, l.vs[:])
	for _, v := range l.vs {
		if v == l.want[from] {
			done++
		}
	}
	return done
}

var protocols = []struct {
	name  string
	proto uint8
}{{"udp", packet.UDP}, {"tcp", packet.TCP}}

// BenchmarkEstablished translates packets of established flows. Rounds alternate with runs of the frozen floor doing the
// same work, and where flows allow it with gVisor's stack: x-floor and x-gvisor are ratios, the one how many times
// the floor's time it takes, the other how many times ours gVisor's. With 10,000,000 flows it needs 3 GB, and the floor as much.
func BenchmarkEstablished(b *testing.B) {
	for _, mode := range modes {
		for _, p := range protocols {
			for _, flows := range []int{1, 65536, 1_000_000, 10_000_000} {
				if flows > 1_000_000 && mode.name != "gateway" {
					continue
				}
				var l *engineLoad
				var g *gvisorLoad
				for _, dir := range []string{"out", "in", "both"} {
					b.Run(fmt.Sprintf("profile=%s/proto=%s/flows=%d/dir=%s/batch=64", mode.name, p.name, flows, dir), func(b *testing.B) {
						large(b, flows, 1_000_000)
						if l == nil {
							l = newEngineLoad(b, flows, p.proto, mode.profile())
						}
						if g == nil && flows <= gvisorMost && mode.name == "gateway" && b.N > 1 {
							g = newGVisorLoad(b, flows, p.proto)
						}
						row := fmt.Sprintf("^BenchmarkFloor$/^dir=%s$/^proto=%s$/^flows=%d$/^batch=64$", dir, p.name, flows)
						l.run(b, dir, floorRow{row, passes * ringSize, floorRounds}, g)
						if flows > 1 {
							b.ReportMetric(float64(l.e.Stats(0).MemoryBytes)/float64(flows), "B/session")
						}
					})
				}
				if g != nil {
					g.close()
				}
			}
		}
	}
}

var modes = []struct {
	name    string
	profile func() nat.Profile
}{{"gateway", nat.GatewayProfile}, {"aws", nat.AWSProfile}}

// passes is how often a round goes through the ring: a millisecond, so that most rounds have the processor to themselves.
const passes = 64

// The floor runs floorRuns times beside one row of the engine, for floorRounds rounds of the engine's size each.
const floorRuns, floorRounds = 4, 25

// floorRow is a row of the floor, and how many rounds of how many packets of it are run at a time.
type floorRow struct {
	pattern         string
	packets, rounds int
}

// run measures b.N packets of the engine, in rounds, with the floor's row in between, and gVisor's if g is not nil.
func (l *engineLoad) run(b *testing.B, dir string, floor floorRow, g *gvisorLoad) {
	l.r.direct(dir)
	if g != nil {
		g.r.direct(dir)
	}
	b.ReportAllocs()
	rounds := max(1, b.N/(passes*ringSize))
	within(b, func() float64 {
		var c comparison
		var gvisor []float64
		b.ResetTimer()
		for i := range rounds {
			if b.N > 1 && len(c.base) < floorRuns && i >= len(c.base)*rounds/floorRuns { // not in the trial run with b.N = 1
				b.StopTimer()
				c.floor(runFloor(b, floor.pattern, "ns/packet", fmt.Sprintf("%dx", floor.packets), floor.rounds))
				if g != nil {
					gvisor = append(gvisor, g.measure(b)...)
				}
				b.StartTimer()
			}
			ns, done := l.r.pass(passes, l.translate)
			if done != passes*ringSize {
				b.Fatalf("%d of %d packets translated: %v", done, passes*ringSize, l.vs)
			}
			c.engine(ns)
		}
		b.StopTimer()
		l.r.valid(b)
		ns, x := c.report(b, "packet")
		b.ReportMetric(1e3/ns, "Mpps")
		if len(gvisor) > 0 {
			b.ReportMetric(median(gvisor), "gvisor-ns/packet")
			b.ReportMetric(median(gvisor)/ns, "x-gvisor")
		}
		return x
	})
}

// comparison is rounds of the floor and, after each of its runs, of the engine, in ns.
type comparison struct{ base, rounds [][]float64 }

func (c *comparison) floor(ns []float64) {
	c.base, c.rounds = append(c.base, ns), append(c.rounds, nil)
}

func (c *comparison) engine(ns float64) {
	if len(c.rounds) == 0 { // there is no floor
		c.rounds = append(c.rounds, nil)
	}
	last := &c.rounds[len(c.rounds)-1]
	*last = append(*last, ns)
}

// report reports the medians of the engine and the floor for each of something, and how many times the one is the other: the
// median of the ratios of each run of the floor and the engine's rounds after it, since on a machine that others use the
// figures of both move together, but not from one second to the next. It returns the engine's median, and what the limits
// judge: the least of those ratios, for what makes the engine slower is in each of them. It is 0 if there is no floor.
func (c *comparison) report(b *testing.B, each string) (ns, x float64) {
	ns = median(slices.Concat(c.rounds...))
	b.ReportMetric(0, "ns/op") // an operation is more than one, or less
	b.ReportMetric(ns, "ns/"+each)
	if len(c.base) == 0 {
		return ns, 0
	}
	var xs []float64
	for i, base := range c.base {
		xs = append(xs, median(c.rounds[i])/median(base))
	}
	b.ReportMetric(median(slices.Concat(c.base...)), "floor-ns/"+each)
	b.ReportMetric(median(xs), "x-floor")
	return ns, slices.Min(xs)
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// mappings are the two ways to share ports, in profiles that differ in nothing else that counts here.
var mappings = []struct {
	name    string
	profile func() nat.Profile
}{{"endpoint-independent", nat.GatewayProfile}, {"address-and-port-dependent", func() nat.Profile {
	p := nat.AWSProfile()
	p.PortsPerDestination = 0
	return p
}}}

// BenchmarkNewFlow fills an empty engine with the first packets of n UDP flows, in batches: the mean over all loads from
// an empty table to a full one. At the end half of the ports are in use, as in the floor, which runs in between. An operation
// is a filling; one more comes first, so that the memory has been touched, as the floor's has.
func BenchmarkNewFlow(b *testing.B) {
	for _, m := range mappings {
		for _, flows := range []int{65536, 1_000_000} {
			b.Run(fmt.Sprintf("mapping=%s/proto=udp/flows=%d/batch=64", m.name, flows), func(b *testing.B) {
				r := newRing(packet.UDP)
				r.keys[0] = outKeys(flows, packet.UDP)
				r.direct("out")
				p := policy(flows, m.profile())
				n := flows / ringSize // the rest of a ring would be flows of before
				fill := func() float64 {
					b.StopTimer()
					l := newEmptyLoad(b, nat.Config{Sessions: flows}, p, r)
					l.want[0] = nat.Outbound
					r.pos[0] = 0
					b.StartTimer()
					ns, done := r.pass(n, l.translate)
					b.StopTimer()
					if done != n*ringSize || l.e.Stats(time.Second).Sessions != done {
						b.Fatalf("%d of %d flows made: %v", done, n*ringSize, l.vs)
					}
					return ns
				}
				fill()
				b.ReportAllocs()
				within(b, func() float64 {
					var c comparison
					b.ResetTimer()
					for i := range b.N {
						b.StopTimer()
						if b.N > 1 && i < floorRuns {
							c.floor(runFloor(b, fmt.Sprintf("^BenchmarkInsertFloor$/^flows=%d$/^batch=64$", flows), "ns/flow", "1x", 5))
						}
						c.engine(fill())
					}
					ns, x := c.report(b, "flow")
					b.ReportMetric(1e3/ns, "Mflows/s")
					if b.N > 1 && flows <= gvisorMost {
						g := newGVisorFlows(b, r.keys[0])
						b.ReportMetric(g, "gvisor-ns/flow")
						b.ReportMetric(g/ns, "x-gvisor")
					}
					return x
				})
			})
		}
	}
}

// BenchmarkNewFlowAtLoad makes flows when most of the ports that they may have are in use: every flow is to one destination,
// so that both mappings compete for the same ports. x-quarter is the ratio to what it costs with a quarter of them in use,
// in the same engine.
func BenchmarkNewFlowAtLoad(b *testing.B) {
	const addresses, step = 16, 16 * ringSize // a level is 0.4 % of the ports
	all := addresses * (65536 - 1024)
	for _, m := range mappings {
		b.Run(fmt.Sprintf("mapping=%s/proto=udp/ports=%d/batch=64", m.name, all), func(b *testing.B) {
			p := policy(1, m.profile())
			p.Pools[0].Addresses = external(all / 2)[:addresses]
			r := newRing(packet.UDP)
			r.keys[0] = outKeys(all, packet.UDP)
			var blankPacket [64]byte
			blank(blankPacket[:], packet.UDP)
			for i := range r.keys[0] {
				k := &r.keys[0][i]
				k.dst = 93 << 24
				k.seal(blankPacket[:])
			}
			r.direct("out")
			levels := []int{25, 50, 75, 90, 99}
			ns := make([][]float64, len(levels))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				l := newEmptyLoad(b, nat.Config{Sessions: all}, p, r)
				l.want[0] = nat.Outbound
				r.pos[0] = 0
				made := 0
				b.StartTimer()
				fill := func(rings int) float64 {
					each, done := r.pass(rings, l.translate)
					if made += rings * ringSize; done != rings*ringSize || l.e.Stats(time.Second).Sessions != made {
						b.Fatalf("%d of %d flows made, %d in all: %v", done, rings*ringSize, made, l.vs)
					}
					return each
				}
				for i, percent := range levels {
					fill((all*percent/100 - step - made) / ringSize) // up to just below the level
					for range step / ringSize {
						ns[i] = append(ns[i], fill(1))
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			quarter := median(ns[0])
			for i, percent := range levels {
				b.ReportMetric(median(ns[i]), fmt.Sprintf("ns/flow-%d%%", percent))
				if i > 0 {
					b.ReportMetric(median(ns[i])/quarter, fmt.Sprintf("x-quarter-%d%%", percent))
				}
			}
		})
	}
}

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

// BenchmarkNewFlow fills an empty engine with the first packets of n UDP flows, in batches: the mean over all loads from
// an empty table to a full one. At the end half of the ports are in use, as in the floor, which runs in between.
func BenchmarkNewFlow(b *testing.B) {
	for _, mode := range []string{"endpoint-independent", "address-and-port-dependent"} {
		for _, flows := range []int{65536, 1_000_000} {
			b.Run(fmt.Sprintf("mapping=%s/flows=%d/batch=64", mode, flows), func(b *testing.B) {
				profile := nat.GatewayProfile()
				if mode != "endpoint-independent" {
					profile = nat.AWSProfile()
					profile.PortsPerDestination = 0
				}
				r := newRing(packet.UDP)
				r.keys[0] = outKeys(flows, packet.UDP)
				r.direct("out")
				b.ReportAllocs()
				var engine, base []float64
				for i := range b.N {
					b.StopTimer()
					l := newEmptyLoad(b, nat.Config{Sessions: flows}, policy(flows, profile), r)
					l.want[0] = nat.Outbound
					n := flows / ringSize // the rest of a ring would be flows of before
					b.StartTimer()
					ns, done := r.pass(n, l.translate)
					b.StopTimer()
					if done != n*ringSize || l.e.Stats(time.Second).Sessions != done {
						b.Fatalf("%d of %d flows made: %v", done, n*ringSize, l.vs)
					}
					engine = append(engine, ns)
					if i < floorRuns {
						base = append(base, runFloor(b, fmt.Sprintf("^BenchmarkInsertFloor$/^flows=%d$/^batch=64$", flows), "ns/flow"))
					}
					r.pos[0] = 0
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(median(engine), "ns/flow")
				b.ReportMetric(median(base), "floor-ns/flow")
				b.ReportMetric(median(engine)/median(base), "x-floor")
			})
		}
	}
}

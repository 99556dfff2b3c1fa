// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// BenchmarkCollection is a collection of the Go heap while an engine with so many sessions is there. The load, whose keys are
// no pointers, is there as well.
func BenchmarkCollection(b *testing.B) {
	for _, sessions := range []int{0, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("sessions=%d/proto=udp", sessions), func(b *testing.B) {
			if sessions > 1_000_000 && testing.Short() {
				b.Skip("10,000,000 flows are for runs that are not short")
			}
			var l *engineLoad
			if sessions > 0 {
				l = newEngineLoad(b, sessions, packet.UDP, nat.GatewayProfile())
			}
			var took, paused []float64
			var before, after runtime.MemStats
			runtime.GC()
			b.ResetTimer()
			for range b.N {
				runtime.ReadMemStats(&before)
				start := time.Now()
				runtime.GC()
				took = append(took, float64(time.Since(start).Nanoseconds()))
				runtime.ReadMemStats(&after)
				paused = append(paused, float64(after.PauseTotalNs-before.PauseTotalNs))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(took), "ns/collection")
			b.ReportMetric(median(paused), "paused-ns/collection")
			if l != nil {
				b.ReportMetric(float64(l.e.Stats(0).MemoryBytes)/float64(sessions), "B/session")
			}
			runtime.KeepAlive(l)
		})
	}
}

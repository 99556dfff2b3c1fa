// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// BenchmarkCollection is a collection of the Go heap while an engine, or gVisor's stack, with so many sessions is there.
// The load, whose keys are no pointers, is there as well.
func BenchmarkCollection(b *testing.B) {
	var none, engine, gvisor any
	for _, c := range []struct {
		of       string
		sessions int
		keep     *any
	}{{"nothing", 0, &none}, {"engine", 1_000_000, &engine}, {"engine", 10_000_000, &engine}, {"gvisor", gvisorMost, &gvisor}} {
		b.Run(fmt.Sprintf("of=%s/sessions=%d/proto=udp", c.of, c.sessions), func(b *testing.B) {
			large(b, c.sessions, 1_000_000)
			switch {
			case *c.keep != nil && b.N > 1: // the trial run has made it
			case c.of == "engine":
				*c.keep = newEngineLoad(b, c.sessions, packet.UDP, nat.GatewayProfile())
			case c.of == "gvisor":
				*c.keep = newGVisorLoad(b, c.sessions, packet.UDP)
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
			runtime.KeepAlive(*c.keep)
		})
		if g, ok := gvisor.(*gvisorLoad); ok {
			g.close()
		}
	}
}

// large leaves out of a short run what has more flows than that is to have.
func large(b *testing.B, flows, short int) {
	b.Helper()
	if flows > short && testing.Short() {
		b.Skipf("%d flows are for runs that are not short", flows)
	}
}

// anonymous is how much memory of its own this process has, in bytes, when all that is garbage has been given back.
func anonymous(tb testing.TB) int {
	tb.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	m := regexp.MustCompile(`RssAnon:\s*(\d+) kB`).FindSubmatch(bytes.TrimSpace(status))
	if m == nil {
		tb.Fatalf("no RssAnon: %s", status)
	}
	kB, err := strconv.Atoi(string(m[1]))
	if err != nil {
		tb.Fatal(err)
	}
	return kB << 10
}

// BenchmarkMemory is what a full engine takes: as it says (B/session), and by how much the process has grown (resident),
// less than that where a part has not been touched. Each profile's sessions are as its hosts make them: each has
// a server of its own, the most that the bound of aws on ports by destination can take.
func BenchmarkMemory(b *testing.B) {
	for _, mode := range modes {
		for _, n := range []int{65536, 1_000_000, 10_000_000} {
			b.Run(fmt.Sprintf("profile=%s/proto=udp/sessions=%d", mode.name, n), func(b *testing.B) {
				large(b, n, 65536)
				p := policy(n, mode.profile())
				var said, grown []float64
				for range b.N {
					before := anonymous(b)
					l := newEmptyLoad(b, nat.Config{Sessions: n}, p, newRing(packet.UDP))
					l.want[0] = nat.Outbound
					var buf [64]byte
					blank(buf[:], packet.UDP)
					for i := range n {
						k := outKey(i)
						k.seal(buf[:])
						k.put(buf[:], sumAt(packet.UDP))
						q := packet.Packet{Buf: buf[:], Len: length}
						if v := l.w.Translate(&q, 0, 0); v != nat.Outbound {
							b.Fatal(v)
						}
					}
					s := l.e.Stats(0)
					if s.Sessions != n {
						b.Fatalf("%d sessions", s.Sessions)
					}
					said = append(said, float64(s.MemoryBytes))
					grown = append(grown, float64(anonymous(b)-before))
					runtime.KeepAlive(l)
				}
				b.ReportMetric(median(said)/1e6, "MB")
				b.ReportMetric(median(said)/float64(n), "B/session")
				b.ReportMetric(median(grown)/float64(n), "resident-B/session")
			})
		}
	}
}

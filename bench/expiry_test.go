// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// threadTime is how long this thread has run: other than the clock it does not go on while somebody else has the processor.
func threadTime(tb testing.TB) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkExpiry has a million sessions end within one second of the engine's time, while a million packets of other flows
// go through in that second, in batches of 64 with a Tick after each. It reports how long a batch and its Tick take between
// them, and in the second before, in which nothing ends: x-quiet is the ratio of the 99.9th percentiles. All times are of
// the thread. step-ns is the longest Tick of the second: of each the best of all rounds, which do the same in the same order,
// since what the machine adds to one of them is not there in the next.
func BenchmarkExpiry(b *testing.B) {
	const ending, live, batches = 1_000_000, 65536, 1_000_000 / batchSize
	b.Run(fmt.Sprintf("ending=%d/flows=%d/proto=tcp/dir=both/batch=64", ending, live), func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var quiet, busy, ticks []float64
		steps := slices.Repeat([]float64{math.Inf(1)}, batches)
		left := 0
		r := newRing(packet.TCP)
		r.keys[0] = outKeys(live, packet.TCP)
		profile := nat.GatewayProfile()
		b.ResetTimer()
		for range b.N {
			b.StopTimer()
			l := newEmptyLoad(b, nat.Config{Sessions: ending + live, Seed: 1}, policy(ending+live, profile), r)
			l.establish(b, nat.Outbound, nat.Inbound)
			l.makeEnding(b, ending)
			l.r.direct("both")
			second := func(from time.Duration) (took, ticked []float64) {
				took, ticked = make([]float64, 0, batches), make([]float64, 0, batches)
				for i := range batches {
					at := i * batchSize % ringSize
					if at == 0 {
						l.r.refill()
					}
					now := from + time.Duration(i)*time.Second/batches
					start := threadTime(b)
					done := l.translate(l.r.inside[at], at, now)
					between := threadTime(b)
					l.w.Tick(now)
					end := threadTime(b)
					ticked = append(ticked, float64(end-between))
					took = append(took, float64(end-start))
					if done != batchSize {
						b.Fatalf("%d of %d packets translated: %v", done, batchSize, l.vs)
					}
				}
				return took, ticked
			}
			b.StartTimer()
			took, _ := second(profile.Timeouts.UDP - 2*time.Second)
			quiet = append(quiet, took...)
			if n := l.e.Stats(profile.Timeouts.UDP - time.Second).Sessions; n != ending+live {
				b.Fatalf("%d sessions before any ends", n)
			}
			took, ticked := second(profile.Timeouts.UDP)
			b.StopTimer()
			busy, ticks = append(busy, took...), append(ticks, ticked...)
			for i, t := range ticked {
				steps[i] = min(steps[i], t)
			}
			left = l.e.Stats(profile.Timeouts.UDP+time.Second).Sessions - live
		}
		slices.Sort(quiet)
		slices.Sort(busy)
		slices.Sort(ticks)
		b.ReportMetric(0, "ns/op")
		for _, p := range []float64{50, 99.9} {
			b.ReportMetric(at(quiet, p), fmt.Sprintf("quiet-p%v-ns/batch", p))
			b.ReportMetric(at(busy, p), fmt.Sprintf("p%v-ns/batch", p))
		}
		b.ReportMetric(at(busy, 99.9)/at(quiet, 99.9), "x-quiet")
		b.ReportMetric(at(ticks, 50), "tick-p50-ns")
		b.ReportMetric(at(ticks, 99.9), "tick-p99.9-ns")
		b.ReportMetric(slices.Max(steps), "step-ns")
		b.ReportMetric(float64(left), "left") // records of the dead that no Tick has come to yet
	})
}

// at is a percentile of what is sorted.
func at(sorted []float64, p float64) float64 {
	return sorted[min(int(p/100*float64(len(sorted))), len(sorted)-1)]
}

// makeEnding makes UDP sessions whose last packets are evenly spread over the first second.
func (l *engineLoad) makeEnding(b *testing.B, n int) {
	b.Helper()
	var buf [64]byte
	blank(buf[:], packet.UDP)
	for i := range n {
		k := key{src: 10<<24 + 1<<23 + uint32(i>>6), dst: 93 << 24, ports: uint32(1024+i%60000)<<16 | 443}
		buf[26], buf[27] = 0, 0
		k.seal(buf[:])
		k.put(buf[:], sumAt(packet.UDP))
		p := packet.Packet{Buf: buf[:], Len: length}
		if v := l.w.Translate(&p, 0, time.Duration(i)*time.Second/time.Duration(n)); v != nat.Outbound {
			b.Fatal(v)
		}
	}
}

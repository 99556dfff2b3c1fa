// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// BenchmarkWorkers has one and two workers translate with one engine of two shards, in turn. Each worker has flows of its
// own; with steering=shard those of a worker are in one shard, so that no two workers want the same lock, as devices with
// queues do it, with none any worker meets all. x-one is how many times as much two do as one: it needs two processors
// with nothing else to do.
func BenchmarkWorkers(b *testing.B) {
	const shards, flows = 2, 65536
	for _, steering := range []string{"shard", "none"} {
		var ls []*engineLoad
		b.Run(fmt.Sprintf("proto=tcp/flows=%d/dir=both/batch=64/steering=%s", flows, steering), func(b *testing.B) {
			if runtime.NumCPU() < shards {
				b.Skip("two workers need two processors")
			}
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(shards)) // whatever -cpu says
			if ls == nil {
				ls = workerLoads(b, shards, flows, steering == "shard")
			}
			round := func(workers int) float64 { // packets a second
				var wg sync.WaitGroup
				start := time.Now()
				done := make([]int, workers)
				for i := range workers {
					wg.Go(func() { _, done[i] = ls[i].r.pass(passes, ls[i].translate) })
				}
				wg.Wait()
				took := time.Since(start)
				for _, n := range done {
					if n != passes*ringSize {
						b.Fatalf("%d of %d packets translated", n, passes*ringSize)
					}
				}
				return float64(workers*passes*ringSize) / took.Seconds()
			}
			b.ReportAllocs()
			b.ResetTimer()
			var rates [2][]float64
			for range max(1, b.N/(passes*ringSize)) {
				for i := range rates {
					rates[i] = append(rates[i], round(i+1))
				}
			}
			one, two := median(rates[0]), median(rates[1])
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(one/1e6, "Mpps-1")
			b.ReportMetric(two/1e6, "Mpps-2")
			b.ReportMetric(two/one, "x-one")
		})
	}
}

// workerLoads are loads of one engine, with a worker each.
func workerLoads(b *testing.B, n, flows int, steer bool) (ls []*engineLoad) {
	b.Helper()
	// Chance has one shard have more than its part of the flows.
	all := newEmptyLoad(b, nat.Config{Sessions: 2 * flows, Shards: n}, policy(flows, nat.GatewayProfile()), newRing(packet.TCP))
	all.r.keys[0] = outKeys(flows, packet.TCP)
	all.establish(b, nat.Outbound, nat.Inbound)
	for range n {
		l := &engineLoad{e: all.e, w: all.e.Worker(), r: newRing(packet.TCP), want: all.want}
		for i := range l.ps {
			l.ps[i] = packet.Packet{Buf: l.r.buf[i][:], Len: length}
		}
		l.r.direct("both")
		ls = append(ls, l)
	}
	// An outbound flow is known by its answer, whose port names the shard: a session has another for each inside endpoint.
	shard := map[[2]uint32]int{}
	for s := range all.e.Sessions(benchNow) {
		in := s.Inside.Addr().As4()
		shard[[2]uint32{be.Uint32(in[:]), uint32(s.Inside.Port())}] = int(s.External.Port()>>1) % n
	}
	for i, k := range all.r.keys[0] {
		to := i % n
		if steer {
			to = shard[[2]uint32{k.src, k.ports >> 16}]
		}
		ls[to].r.keys[0] = append(ls[to].r.keys[0], k)
	}
	for i, k := range all.r.keys[1] {
		to := i % n
		if steer {
			to = int(k.ports&0xffff>>1) % n
		}
		ls[to].r.keys[1] = append(ls[to].r.keys[1], k)
	}
	return ls
}

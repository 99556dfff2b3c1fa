// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/nat"
)

// mapped is a shared mapping of a file in memory, as a gateway has for its records.
func mapped(tb testing.TB, size int) []byte {
	tb.Helper()
	fd, err := unix.MemfdCreate("records", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		tb.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal(err)
	}
	_ = unix.Close(fd)
	tb.Cleanup(func() {
		if err := unix.Munmap(mem); err != nil {
			tb.Error(err)
		}
	})
	return mem
}

var kinds = []struct {
	mode    string
	profile func() nat.Profile
	proto   uint8
}{{"gateway", nat.GatewayProfile, udp}, {"aws", nat.AWSProfile, tcp}}

const tcp, udp = 6, 17

// BenchmarkAdopt is how long nobody translates while an engine takes over what another has left in a file mapping.
func BenchmarkAdopt(b *testing.B) {
	for _, k := range kinds {
		for _, n := range []int{65536, 1_000_000} {
			for _, to := range []string{"place", "copy"} {
				b.Run(fmt.Sprintf("profile=%s/proto=%d/sessions=%d/to=%s", k.mode, k.proto, n, to), func(b *testing.B) {
					large(b, n, 65536)
					cfg := nat.Config{Sessions: n}
					cfg.Records = mapped(b, cfg.RecordsSize())
					newEngineLoadIn(b, cfg, k.proto, k.profile())
					p := policy(n, k.profile())
					old := cfg.Records
					var took []float64
					for b.Loop() {
						cfg := cfg
						if to == "copy" {
							b.StopTimer()
							cfg.Records = mapped(b, cfg.RecordsSize())
							b.StartTimer()
						}
						start := time.Now()
						_, got, err := nat.Adopt(cfg, old, p, 0)
						took = append(took, time.Since(start).Seconds()*1e3)
						if err != nil || got.Sessions != n {
							b.Fatalf("%+v: %v", got, err)
						}
					}
					b.ReportMetric(median(took), "ms")
					b.ReportMetric(median(took)*1e6/float64(n), "ns/session")
				})
			}
		}
	}
}

// BenchmarkRecords translates packets of established flows with records in a file mapping and on the heap, in turn.
func BenchmarkRecords(b *testing.B) {
	for _, k := range kinds {
		b.Run(fmt.Sprintf("profile=%s/proto=%d/flows=1000000/dir=both/batch=64", k.mode, k.proto), func(b *testing.B) {
			cfg := nat.Config{Sessions: 1_000_000}
			heap := newEngineLoadIn(b, cfg, k.proto, k.profile())
			cfg.Records = mapped(b, cfg.RecordsSize())
			file := newEngineLoadIn(b, cfg, k.proto, k.profile())
			const passes = 64
			var ns [2][]float64
			b.ResetTimer()
			for i := range max(2, b.N/(passes*ringSize)) {
				for j, l := range []*engineLoad{heap, file} {
					l.r.direct("both")
					each, done := l.r.pass(passes, l.translate)
					if done != passes*ringSize {
						b.Fatalf("%d of %d packets translated in pass %d", done, passes*ringSize, i)
					}
					ns[j] = append(ns[j], each)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(slices.Clone(ns[1])), "ns/packet")
			b.ReportMetric(median(ns[0]), "heap-ns/packet")
			b.ReportMetric(median(ns[1])/median(ns[0]), "x-heap")
		})
	}
}

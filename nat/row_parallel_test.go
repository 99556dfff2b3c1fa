// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Rows about workers that run side by side. They mean most under the race detector.

func TestB46_OneMappingForOneFlow(t *testing.T) {
	const workers, rounds = 8, 100_000
	for _, f := range []nat.Profile{custom(), custom(overlapping)} {
		g := newGate(t, nat.Config{Sessions: 1 << 17, Shards: 4}, policy(f, twoAddresses))
		got := make([][]end, workers)
		var wg sync.WaitGroup
		for i := range workers {
			got[i] = make([]end, rounds)
			wg.Go(func() {
				s := g.sender(0)
				for n := range rounds / 2 { // all workers send the first packets of the same flows
					if v := s.send(at(addr10(n%100), uint16(1024+n/100)), at(R1, 80)); v != nat.Outbound {
						t.Errorf("%v", v)
						return
					}
					got[i][n] = s.src()
				}
			})
		}
		wg.Wait()
		for i := range workers {
			if !slices.Equal(got[i], got[0]) {
				t.Error("two workers got different external endpoints for one flow")
			}
		}
		g.now = 0
		if s := g.stats(); s.Created != rounds/2 || s.Sessions != rounds/2 {
			t.Errorf("%d sessions were made for %d flows", s.Created, rounds/2)
		}
		g.check()
	}
}

// TestB38_ExpiryAndRefreshSideBySide has hosts that send at the very moments when their sessions end, while another
// worker sweeps: what is sent to an external endpoint reaches the host that has it, or nobody.
func TestB38_ExpiryAndRefreshSideBySide(t *testing.T) {
	const hosts, rounds = 4, 40_000
	f := custom(func(f *nat.Profile) { f.Timeouts.UDP, f.Quarantine = time.Second, 0 })
	f.PortMin, f.PortMax = 2000, 2031 // few: ports are given out again at once
	g := newGate(t, nat.Config{Sessions: 64, Shards: 4}, policy(f))
	var now atomic.Int64
	var wg sync.WaitGroup
	var sweeping atomic.Bool
	sweeping.Store(true)
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		for w := g.e.Worker(); sweeping.Load(); {
			w.Tick(time.Duration(now.Load()))
		}
	}()
	var wrong, delivered atomic.Int64
	for h := range hosts {
		wg.Go(func() {
			in := at(addr10(h), uint16(5000+h))
			out, back := g.sender(0), g.sender(1)
			for i := range rounds {
				// A second, or a tick less or more: all hosts move the one clock.
				step := time.Second/hosts + time.Duration(i%3-1)*time.Millisecond
				out.now = time.Duration(now.Add(int64(step)))
				if out.send(in, at(R1, 80)) != nat.Outbound {
					continue // its shard has no port free at the moment
				}
				ext := out.src()
				back.now = out.now
				if back.send(at(R1, 80), ext) == nat.Inbound {
					delivered.Add(1)
					if dstOf(back.p.Bytes()) != in && time.Duration(now.Load())-out.now < time.Second {
						wrong.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	sweeping.Store(false)
	<-swept
	if wrong.Load() > 0 || delivered.Load() == 0 {
		t.Errorf("%d of %d reached another host", wrong.Load(), delivered.Load())
	}
	g.now = time.Duration(now.Load())
	g.check()
	if s := g.stats(); s.Expired == 0 {
		t.Error("nothing has ended")
	}
}

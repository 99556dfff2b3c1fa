// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// TestNextTimer: whoever owns the clock can let each timer fire at its own time.
func TestNextTimer(t *testing.T) {
	f := custom(func(f *nat.Profile) { f.PreservePort = true })
	g := newGate(t, nat.Config{}, policy(f))
	next := func(want time.Duration, set bool) {
		t.Helper()
		if at, ok := g.e.NextTimer(); ok != set || at != want {
			t.Fatalf("next timer %v, %v; want %v, %v", at, ok, want, set)
		}
	}
	next(0, false)
	g.opens(packet.UDP, at(B, 9000), at(R2, 53)) // that it ends is no timer
	next(0, false)

	for i, when := range []time.Duration{sec(1) + 400*time.Microsecond, sec(2), sec(2), sec(4)} {
		g.at(when)
		g.want(g.in(tcp(at(far(i), 6000), at(PA, 5000), syn, 1, 0, "")), nat.HeldSYN)
	}
	next(sec(7), true) // whole milliseconds, never before a Tick would fire it
	g.opens(packet.TCP, at(A, 5000), at(far(0), 6000))
	next(sec(8), true) // the first one is asked for after all: it will emit nothing

	var fired []time.Duration
	for at, ok := g.e.NextTimer(); ok; at, ok = g.e.NextTimer() {
		g.at(at - time.Millisecond)
		if n := len(g.tick()); n != 0 {
			t.Fatalf("%d packets before %v", n, at)
		}
		g.at(at)
		for range g.tick() {
			fired = append(fired, at)
		}
	}
	if len(fired) != 3 || fired[0] != sec(8) || fired[1] != sec(8) || fired[2] != sec(10) {
		t.Errorf("fired at %v", fired)
	}
	next(0, false)
}

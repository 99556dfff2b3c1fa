// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// newTimers is a Table of DNS and UDP sessions whose time-outs the test sets as it likes.
func newTimers(t testing.TB, n int) *Table {
	table, err := New(Config{Sessions: n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = make([]uint32, NumStates)
	return table
}

// addTimer adds the i-th session, with a deadline.
func addTimer(table *Table, i int, now, timeout uint32) Handle {
	table.Timeouts[UDP] = timeout
	return table.Add(&Record{In: uint32(i), Ext: 1, Rem: uint32(i), Proto: udp, State: UDP, LastSeen: now})
}

// TestWheelFiresAtItsTick waits for single deadlines at all distances, from all kinds of places in time: never a tick
// early, never one late. (B-37)
func TestWheelFiresAtItsTick(t *testing.T) {
	starts := []uint32{0, 1, 255, 256, 0xffff, 0x10000, 0xffffff, 0x7fffff00, 0x7fffffff, 0x80000000, 0xfffffeff, 0xffffffff}
	for _, start := range starts {
		for bit := range 30 {
			for _, timeout := range []uint32{1<<bit - 1, 1 << bit, 1<<bit + 1} {
				if timeout == 0 {
					continue
				}
				table := newTimers(t, 1)
				addTimer(table, 1, start, timeout)
				table.Advance(start+timeout-1, 100)
				if err := table.Check(start + timeout - 1); err != nil || table.Used() != 1 {
					t.Fatalf("from %#x, %d ticks: gone a tick too early, or %v", start, timeout, err)
				}
				if tick, ok := table.Due(); !ok || tick != start+timeout {
					t.Fatalf("from %#x, %d ticks: due at %#x, %t", start, timeout, tick, ok)
				}
				if table.Advance(start+timeout, 100); table.Used() != 0 {
					t.Fatalf("from %#x, %d ticks: still there", start, timeout)
				}
				if _, ok := table.Due(); ok {
					t.Fatal("an empty Table has something to do")
				}
			}
		}
	}
}

// TestWheelIsLazy refreshes sessions without telling the wheel, and moves time by what Due says or by chance.
func TestWheelIsLazy(t *testing.T) {
	const n = 200
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		now := uint32(seed) * 0x10000000
		table := newTimers(t, n)
		table.Timeouts[UDP] = 1000
		for i := range n {
			addTimer(table, i, now, 1000)
		}
		for table.Used() > 0 {
			for h := Handle(1); h <= n; h++ {
				if rec := table.Rec(h); rec.State != Free && r.IntN(3) > 0 && table.Alive(rec, now) {
					rec.LastSeen = now
				}
			}
			if tick, _ := table.Due(); r.IntN(2) == 0 && int32(tick-now) > 0 {
				now = tick
			} else {
				now += r.Uint32N(900)
			}
			alive := 0
			for h := Handle(1); h <= n; h++ {
				if rec := table.Rec(h); rec.State != Free && table.Alive(rec, now) {
					alive++
				}
			}
			for !table.Advance(now, 1+r.IntN(5)) {
				if err := table.Check(now); err != nil {
					t.Fatal(err)
				}
			}
			if table.Used() != alive {
				t.Fatalf("%d records used with %d alive", table.Used(), alive)
			}
		}
	}
}

// TestWheelHalfDone is an Advance that runs out of budget while it takes a slot of a high level apart. What is left in
// there may be due long before what was moved on already.
func TestWheelHalfDone(t *testing.T) {
	for _, level := range []int{8, 16, 24} {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			table := newTimers(t, 2)
			unit := uint32(1) << level
			soon := addTimer(table, 1, 0, unit+1)
			table.Timeouts[DNS] = unit + unit*3/4
			late := table.Add(&Record{In: 2, Ext: 1, Rem: 2, Proto: udp, State: DNS})
			if late == None || soon == None {
				t.Fatal("no room")
			}
			if table.Advance(unit, 1) {
				t.Fatal("two records are looked at for the price of one")
			}
			if tick, ok := table.Due(); !ok || tick != unit {
				t.Errorf("due at %#x, %t", tick, ok)
			}
			if !table.Advance(unit+1, 10) || table.Used() != 1 {
				t.Errorf("%d records are left at %#x", table.Used(), unit+1)
			}
			if err := table.Check(unit + 1); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAdvanceIsBounded reclaims many sessions of one tick in small steps, none of which does more than it may.
func TestAdvanceIsBounded(t *testing.T) {
	const n = 1000
	table := newTimers(t, n)
	for i := range n {
		addTimer(table, i, 0, 100)
	}
	if !table.Advance(99, 0) {
		t.Error("there is nothing to do yet")
	}
	table.Advance(100, 0)
	for want := n; want > 0; want -= 7 {
		if table.Used() != want {
			t.Fatalf("%d records are left, not %d", table.Used(), want)
		}
		if done := table.Advance(100, 7); done != (want <= 7) {
			t.Fatalf("with %d records left: done %t", want, done)
		}
		if want < 7 {
			break
		}
	}
	if table.Used() != 0 || table.Stats().Expired != n {
		t.Errorf("%d records are left, %+v", table.Used(), table.Stats())
	}
}

// TestClockAnomalies: a clock that steps back or stands still ends nobody and makes nobody immortal. (B-37)
func TestClockAnomalies(t *testing.T) {
	const hour = 3_600_000
	for _, start := range []uint32{0, 1000, 1<<31 - hour/2, 1<<31 + hour/2, 1<<32 - hour/2} {
		t.Run(fmt.Sprintf("%#x", start), func(t *testing.T) {
			table := newTimers(t, 1)
			h := addTimer(table, 1, start, hour)
			r := table.Rec(h)
			for _, now := range []uint32{start - hour, start - 1, start, start + hour - 1} {
				if !table.Alive(r, now) || !table.Advance(now, 10) || table.Used() != 1 {
					t.Fatalf("gone at %+d", int32(now-start))
				}
			}
			for _, later := range []uint32{hour, hour + 1, 1 << 30, 1<<31 - 1, 1 << 31, 3 << 30, 1<<32 - 2*slack} {
				if table.Alive(r, start+later) {
					t.Fatalf("alive after %d", later)
				}
			}
			// The whole table is dead after a very long time, and made free in one go.
			if now := start + 3<<30; !table.Advance(now, 0) || table.Used() != 0 {
				t.Fatal("not reclaimed after a month")
			}
			if err := table.Check(start + 3<<30); err != nil {
				t.Error(err)
			}
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"strings"
	"testing"
)

// TestZeroValues: what New makes of a zero Config is an error in words, and a Table whose owner has set nothing keeps nothing.
func TestZeroValues(t *testing.T) {
	if _, err := New(Config{}, nil); err == nil || !strings.Contains(err.Error(), "0 sessions: must be 1 to") {
		t.Error(err)
	}
	table, err := New(Config{Sessions: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h := table.Add(&Record{State: UDP, LastSeen: 5})
		if h == None || table.Live(h, 5) != None || table.Used() != 0 {
			t.Errorf("%d is alive without a time-out", h)
		}
	}
	table.Timeouts[UDP] = 100
	h := table.Add(&Record{State: UDP, LastSeen: 5})
	if table.Epoch++; table.Live(h, 6) != None {
		t.Error("alive under a policy that nobody asked")
	}
	var none Table
	if none.Add(&Record{State: UDP}) != None || !none.Advance(1, 1) {
		t.Error("a Table without records took one")
	}
}

// TestEnded: each way to end is told once, with the tick of death.
func TestEnded(t *testing.T) {
	table, err := New(Config{Sessions: 4, Counts: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts[UDP] = 100
	type end struct {
		port uint16
		why  Reason
		at   uint32
	}
	var got []end
	table.Ended = func(h Handle, r *Record, why Reason, at uint32) {
		if table.Rec(h) != r || table.Count(h).Packets[Out] != uint32(r.InPort) {
			t.Errorf("record or counter of %d is gone", h)
		}
		got = append(got, end{r.InPort, why, at})
	}
	add := func(port uint16, now uint32) Handle {
		h := table.Add(&Record{State: UDP, InPort: port, LastSeen: now})
		table.Count(h).Packets[Out] = uint32(port)
		return h
	}
	a := add(1, 10)
	add(2, 20)
	table.Answered(a)
	table.Recycle(30)
	table.Live(a, 5000)
	c := add(3, 5000)
	table.Epoch++
	table.Live(c, 5001)
	add(4, 5002)
	table.Advance(9000, 10)
	want := []end{{2, GaveWay, 30}, {1, TimedOut, 110}, {3, Disagreed, 5001}, {4, TimedOut, 5102}}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%v, want %v", got[i], want[i])
		}
	}
}

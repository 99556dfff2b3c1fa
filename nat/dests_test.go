// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestDestCountsAgainstMap keeps the table full, with few destinations and with one a session, against a map.
func TestDestCountsAgainstMap(t *testing.T) {
	for _, sessions := range []int{1, 100, 3000, 1 << 17} {
		for _, dests := range []int{1, 7, 1 << 30} {
			t.Run(fmt.Sprintf("sessions=%d/destinations=%d", sessions, dests), func(t *testing.T) {
				const limit = 2000
				r := rand.New(rand.NewPCG(uint64(sessions), uint64(dests)))
				d := destCounts{sessions: sessions, key: [2]uint64{r.Uint64(), r.Uint64()}}
				if d.look(1, 1, limit) != counted {
					t.Fatal("an empty table is full")
				}
				d.drop(1, 1)
				want := map[uint64]int{}
				var live []uint64
				for range min(3*sessions+1000, 200_000) {
					if len(live) == sessions || len(live) > 0 && r.IntN(8) == 0 {
						i := r.IntN(len(live))
						k := live[i]
						d.drop(k, k>>7)
						if want[k]--; want[k] == 0 {
							delete(want, k)
						}
						live[i] = live[len(live)-1]
						live = live[:len(live)-1]
					}
					k := uint64(r.IntN(dests))
					full := want[k] >= limit
					if got := d.look(k, k>>7, limit) != counted; got != full {
						t.Fatalf("look: full %t, want %t, at %d", got, full, want[k])
					}
					if got := d.add(k, k>>7, limit) != counted; got != full {
						t.Fatalf("add: full %t, want %t, at %d", got, full, want[k])
					}
					if !full {
						want[k]++
						live = append(live, k)
					}
				}
				used := 0
				for pos, s := range d.slots {
					if s == 0 {
						continue
					}
					used++
					if at, _ := d.find(s &^ maxDestCount); at != pos {
						t.Fatalf("slot %d cannot be found", pos)
					}
				}
				if used != len(want) {
					t.Errorf("%d slots used, want %d", used, len(want))
				}
				for k, n := range want {
					if _, got := d.find(d.hash(k, k>>7)); int(got) != n {
						t.Fatalf("%d sessions, want %d", got, n)
					}
				}
			})
		}
	}
}

// TestDestCountsSaturate: a count that is full refuses, and does not run into its neighbour.
func TestDestCountsSaturate(t *testing.T) {
	d := destCounts{sessions: 1 << 16}
	for i := range maxDestCount + 2 {
		if got, want := d.add(1, 2, 0) == counted, i < maxDestCount; got != want {
			t.Fatalf("the %dth: %t", i+1, got)
		}
	}
	for range maxDestCount {
		d.drop(1, 2)
	}
	if _, n := d.find(d.hash(1, 2)); n != 0 || d.slots[d.home(d.hash(1, 2))] != 0 {
		t.Errorf("%d are left", n)
	}
}

// TestDestCountsMemory: 9 bytes a session where there are many.
func TestDestCountsMemory(t *testing.T) {
	if got := 8 * destSlots(1_000_000); got > 9_001_000 {
		t.Errorf("%d bytes for 1,000,000 sessions", got)
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestIDs: shards take IP identifications of one counter in any order and number, and one may stop for long; none is given
// out again before half of them have been, and a shard that is alone takes each in turn.
func TestIDs(t *testing.T) {
	all := netip.MustParsePrefix("10.0.0.0/8")
	p := &Policy{
		Inside: []netip.Prefix{all}, Routes: []Route{{Source: all, Pool: "pool"}},
		Pools: []Pool{{Name: "pool", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Profile: GatewayProfile()}},
	}
	for _, shards := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) {
			e, err := New(Config{Sessions: 64 * shards, Shards: shards, Seed: 7}, p)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(7, uint64(shards)))
			i := e.idOf(1, 2, 17)
			counter := &e.kept.ids[i]
			given := map[uint16]uint32{} // where the counter was
			count := 0
			last := uint16(0)
			for step := range 300_000 {
				sh := &e.shards[r.IntN(len(e.shards))]
				if sh.number == 0 && shards > 1 && step%1024 != 0 { // it is seldom there
					continue
				}
				n := 1
				if r.IntN(64) == 0 {
					n += r.IntN(45)
				}
				id, ok := sh.ownID(i, n)
				if ok && shards > 1 {
					t.Fatal("a shard takes for its own what others may have")
				}
				if !ok {
					want := sh.peekID(e, i, n)
					if id = sh.claimID(e, i, n); id != want {
						t.Fatalf("explained to get %d, and got %d", want, id)
					}
				}
				if shards == 1 && step > 0 && n == 1 && id != last && id%idBlock != 0 {
					t.Fatalf("%d after %d", id, last-1)
				}
				last = id + uint16(n)
				for k := range n {
					at, was := given[id+uint16(k)]
					if was && counter.Load()-at < 1<<15 {
						t.Fatalf("%d is given out again after %d", id+uint16(k), counter.Load()-at)
					}
					given[id+uint16(k)] = counter.Load()
					count++
				}
			}
			if count < 1<<17 && shards == 1 || len(given) < 1<<15 {
				t.Errorf("%d given out, %d different ones: nothing was tried", count, len(given))
			}
		})
	}
}

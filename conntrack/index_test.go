// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// all is the handles that a search for tag meets.
func (x index) all(tag uint32) (hs []Handle) {
	pos, h := x.scan(tag, x.home(tag))
	for h != None {
		hs = append(hs, h)
		pos, h = x.scan(tag, pos+1)
	}
	return hs
}

// TestIndexAgainstMap keeps an index at full load, with tags that are spread, that are few, and that crowd around the
// end of the slots.
func TestIndexAgainstMap(t *testing.T) {
	tags := map[string]func(*rand.Rand) uint32{
		"spread": func(r *rand.Rand) uint32 { return r.Uint32() },
		"equal":  func(*rand.Rand) uint32 { return 0xfffffff0 },
		"few":    func(r *rand.Rand) uint32 { return r.Uint32N(4) << 30 },
		"end":    func(r *rand.Rand) uint32 { return 0xf8000000 + r.Uint32N(1<<27) },
		"zero":   func(*rand.Rand) uint32 { return 0 },
	}
	for name, tagOf := range tags {
		for _, n := range []int{1, 2, 7, 64} {
			t.Run(fmt.Sprintf("tags=%s/n=%d", name, n), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(n), 7))
				x := make(index, slotsFor(n))
				want := map[uint32][]Handle{} // by tag, in the order of search
				tag := map[Handle]uint32{}
				next := Handle(1)
				for range 4000 {
					var some Handle
					for some = range tag {
						break
					}
					op := r.IntN(8)
					switch {
					case len(tag) == n && op < 6 || len(tag) > 0 && op == 0:
						x.remove(tag[some], some)
						w := want[tag[some]]
						i := slices.Index(w, some)
						want[tag[some]] = slices.Delete(w, i, i+1)
						delete(tag, some)
					case op == 1 && len(tag) > 0:
						g := next
						next++
						x.replace(tag[some], some, g)
						w := want[tag[some]]
						w[slices.Index(w, some)] = g
						tag[g] = tag[some]
						delete(tag, some)
					case op == 2 && len(tag) > 0: // what is not there stays so
						x.remove(tag[some], next)
						x.replace(tag[some], next, next)
					case len(tag) < n:
						v := tagOf(r)
						if op == 7 {
							x.insertFirst(v, next)
							want[v] = slices.Insert(want[v], 0, next)
						} else {
							x.insert(v, next)
							want[v] = append(want[v], next)
						}
						tag[next] = v
						next++
					}
					used := 0
					for _, s := range x {
						if s != 0 {
							used++
						}
					}
					if used != len(tag) {
						t.Fatalf("%d slots used, not %d", used, len(tag))
					}
					for v, hs := range want {
						if got := x.all(v); !slices.Equal(got, hs) {
							t.Fatalf("tag %#x finds %v, not %v", v, got, hs)
						}
					}
					for h, v := range tag {
						if pos, ok := x.find(v, h); !ok || Handle(x[pos]) != h {
							t.Fatalf("handle %d is not found", h)
						}
					}
					if _, ok := x.find(tagOf(r), next); ok {
						t.Fatal("found what is not there")
					}
				}
			})
		}
	}
}

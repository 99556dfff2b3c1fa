// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// all is the handles that a search for tag meets.
func (x index) all(tag uint32) (hs []Handle) {
	for pos, h := x.first(tag); h != None; pos, h = x.next(tag, pos+1) {
		hs = append(hs, h)
	}
	return hs
}

// used is how many entries x has, and how often a bucket was passed.
func (x index) used() (entries, passed int) {
	for n := range x {
		entries += bucketSize - bits.OnesCount64(x[n].match(0))
		passed += int(x[n].passed())
	}
	return entries, passed
}

// TestIndexAgainstMap keeps an index at full load, with tags that are spread, that are few, and that crowd around the
// end of the buckets.
func TestIndexAgainstMap(t *testing.T) {
	tags := map[string]func(*rand.Rand) uint32{
		"spread": func(r *rand.Rand) uint32 { return r.Uint32() },
		"equal":  func(*rand.Rand) uint32 { return 0xfffffff0 },
		"few":    func(r *rand.Rand) uint32 { return r.Uint32N(4) << 30 },
		"end":    func(r *rand.Rand) uint32 { return 0xf8000000 + r.Uint32N(1<<27) },
		"zero":   func(*rand.Rand) uint32 { return 0 },
		// Those of 0 and 1 are kept as the same.
		"low byte": func(r *rand.Rand) uint32 { return r.Uint32N(4)<<30 | r.Uint32N(3)<<8 | r.Uint32N(3) },
	}
	for name, tagOf := range tags {
		for _, n := range []int{1, 2, 8, 9, 64, 500} {
			t.Run(fmt.Sprintf("tags=%s/n=%d", name, n), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(n), 7))
				x := make(index, bucketsFor(n))
				want := map[uint32][]Handle{} // by tag
				tag := map[Handle]uint32{}
				next := Handle(1)
				if r.IntN(2) == 0 {
					next = MaxSessions - 3999 // up to the largest there is
				}
				for step := range 4000 {
					var some Handle
					for some = range tag {
						break
					}
					op := r.IntN(8)
					first := None
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
							// Others may be found as well whose tags are kept as the same.
							same := func() []Handle {
								return slices.DeleteFunc(x.all(v), func(h Handle) bool { return h != next && tag[h] != v })
							}
							before := same()
							x.insertFirst(v, next)
							if after := same(); after[0] != next || !slices.Equal(after[1:], before) {
								t.Fatalf("%d is put first, before %v: %v", next, before, after)
							}
							first = next
						} else {
							x.insert(v, next)
						}
						want[v] = append(want[v], next)
						tag[next] = v
						next++
					}
					if n > 64 && step%64 != 0 && first == None {
						continue
					}
					entries, passed := x.used()
					if entries != len(tag) {
						t.Fatalf("%d places used, not %d", entries, len(tag))
					}
					if entries == 0 && passed != 0 {
						t.Fatalf("nobody is there, and %d passed", passed)
					}
					for v, hs := range want {
						got := x.all(v)
						for _, h := range hs {
							if i := slices.Index(got, h); i < 0 || slices.Contains(got[i+1:], h) {
								t.Fatalf("tag %#x finds %v, and not %d once", v, got, h)
							}
						}
					}
					for h, v := range tag {
						pos, ok := x.find(v, h)
						if !ok || x[pos/64].refs[slot(int(pos%64))] != x.away(uint32(h)|refBits(v), x.home(v), pos/64) {
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

// TestIndexLookup: a lookup of several tags is that of each.
func TestIndexLookup(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	x := make(index, bucketsFor(1000))
	var tags []uint32
	for h := Handle(1); h <= 1000; h++ {
		tag := r.Uint32()
		if h%8 == 0 { // of a neighbour's bucket, with the same bits or others
			tag = tags[r.IntN(len(tags))] ^ r.Uint32N(2)<<10 ^ r.Uint32N(2)<<9
		}
		x.insert(tag, h)
		tags = append(tags, tag, r.Uint32())
	}
	hs := make([]Handle, len(tags))
	x.lookup(tags, hs)
	found := 0
	for i, tag := range tags {
		if _, want := x.first(tag); hs[i] != want {
			t.Errorf("tag %#x: %d, not %d", tag, hs[i], want)
		}
		if hs[i] != None {
			found++
		}
	}
	if found < 1000 || found > 1100 {
		t.Errorf("%d of 1000 found", found)
	}
}

// TestIndexLines: at the load that there may be, few searches look at a second line.
func TestIndexLines(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const n = 1 << 16
	x := make(index, bucketsFor(n))
	tags := make([]uint32, n)
	for i := range tags {
		tags[i] = r.Uint32()
		x.insert(tags[i], Handle(i+1))
	}
	for range 4 * n { // and it does not get worse
		i := r.IntN(n)
		x.remove(tags[i], Handle(i+1))
		tags[i] = r.Uint32()
		x.insert(tags[i], Handle(i+1))
	}
	away, wrong := 0, 0
	for i, tag := range tags {
		pos, _ := x.find(tag, Handle(i+1))
		if pos/64 != x.home(tag) {
			away++
		}
		if _, h := x.first(tag); h != Handle(i+1) {
			wrong++
		}
	}
	t.Logf("of %d entries %d are not at home, %d not the first to be found", n, away, wrong)
	if away > n/40 || wrong > n/100 {
		t.Errorf("of %d entries %d are not at home, %d not the first to be found", n, away, wrong)
	}
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestFreeSet: the lowest comes first, in sets of one to four levels.
func TestFreeSet(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{2, 3, 64, 65, 128, 4096, 4097, 64*64*64 + 1} {
		words := freeWords(n)
		f, rest := carveFree(bytesOf(make([]uint64, words+1)), n)
		if len(rest) != 8 || len(f[len(f)-1]) != 1 {
			t.Fatalf("%d records: %d bytes are left of %d words, %d words on top", n, len(rest), words, len(f[len(f)-1]))
		}
		in := map[Handle]bool{}
		for range 20_000 {
			h := Handle(1 + r.IntN(n-1))
			if r.IntN(4) == 0 {
				h = Handle(n - 1)
			}
			if r.IntN(2) == 0 && !in[h] {
				f.put(h)
				in[h] = true
				continue
			}
			if r.IntN(3) == 0 || len(in) > 100 {
				want := None
				for g := range in {
					if want == None || g < want {
						want = g
					}
				}
				if at := f.lowest(); want != None && at != uint32(want)/64 {
					t.Fatalf("%d records: the lowest is in word %d, want %d", n, at, want/64)
				}
				if got := f.take(); got != want {
					t.Fatalf("%d records: got %d, want %d", n, got, want)
				}
				delete(in, want)
			}
		}
		left := make([]Handle, 0, len(in))
		for h := f.take(); h != None; h = f.take() {
			left = append(left, h)
		}
		if len(left) != len(in) || !slices.IsSorted(left) || len(f) > 1 && f.lowest() != uint32(len(f[0])) {
			t.Errorf("%d records: %d are left, want %d", n, len(left), len(in))
		}
		for _, level := range f {
			for i, w := range level {
				if w != 0 {
					t.Fatalf("%d records: word %d is %#x at the end", n, i, w)
				}
			}
		}
	}
}

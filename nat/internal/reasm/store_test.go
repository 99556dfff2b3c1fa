// SPDX-License-Identifier: Apache-2.0

package reasm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
)

var hashKey = [2]uint64{0x9e3779b97f4a7c15, 0xd1b54a32d192ed03}

// a frag is one piece as it is given to Add.
type frag struct {
	pkt      []byte
	hdr, off int
	more     bool
}

// cut makes the piece [off, end) of a datagram. Its header is hdr bytes that differ from piece to piece.
func cut(datagram []byte, hdr, off, end int, more bool) frag {
	pkt := bytes.Repeat([]byte{byte(off>>3) ^ 0xa5}, hdr)
	return frag{append(pkt, datagram[off:end]...), hdr, off, more}
}

// split cuts a datagram into pieces of step bytes.
func split(datagram []byte, step int) []frag {
	var fs []frag
	for off := 0; off < len(datagram); off += step {
		end := min(off+step, len(datagram))
		fs = append(fs, cut(datagram, 20, off, end, end < len(datagram)))
	}
	return fs
}

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func keyOf(src uint32, id uint16) Key {
	return Key{Src: src, Dst: 0xc6336401, ID: id, Attachment: 1, Proto: 17}
}

func (s *Store) add(k Key, now uint32, f frag) (Result, Set) {
	return s.Add(k, now, f.pkt, f.hdr, f.off, f.more)
}

// addForeseen is add, and looks whether Peek foresaw it.
func (s *Store) addForeseen(k Key, now uint32, f frag) (Result, Set) {
	peeked, set, i := s.Peek(k, now, f.pkt, f.hdr, f.off, f.more)
	got, done := s.Add(k, now, f.pkt, f.hdr, f.off, f.more)
	if peeked != got || set != done && set != 0 {
		panic(fmt.Sprintf("Peek: %v of set %d, and Add: %v of set %d", peeked, set, got, done))
	}
	if got == Complete {
		b := make([]byte, s.Size(done, i))
		if s.Copy(done, i, b); !bytes.Equal(b, f.pkt) {
			panic(fmt.Sprintf("Peek: the piece is not number %d", i))
		}
	}
	return got, done
}

func want(t *testing.T, s *Store, k Key, now uint32, f frag, r Result) Set {
	t.Helper()
	got, set := s.add(k, now, f)
	if got != r || (set != 0) != (r == Complete) {
		t.Fatalf("piece at %d, %d bytes, more %v, at %d: result %d, set %d; want %d", f.off, len(f.pkt)-f.hdr, f.more, now, got, set, r)
	}
	check(t, s)
	return set
}

func check(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
}

func wantHeld(t *testing.T, s *Store, sets, pieces, bytes int) {
	t.Helper()
	if s.Sets() != sets || s.Pieces() != pieces || s.Bytes() != bytes {
		t.Fatalf("%d sets, %d pieces, %d bytes; want %d, %d, %d", s.Sets(), s.Pieces(), s.Bytes(), sets, pieces, bytes)
	}
}

// wantSet compares a complete set with the pieces that were added, in order of offset.
func wantSet(t *testing.T, s *Store, set Set, fs []frag) {
	t.Helper()
	if s.Len(set) != len(fs) {
		t.Fatalf("%d pieces, want %d", s.Len(set), len(fs))
	}
	total := 0
	buf := make([]byte, 65535)
	for i, f := range fs {
		size := s.Size(set, i)
		if n := s.Copy(set, i, buf); n != size || !bytes.Equal(buf[:n], f.pkt) {
			t.Fatalf("piece %d differs: %d bytes of %d, want %d", i, n, size, len(f.pkt))
		}
		total += len(f.pkt) - f.hdr
	}
	if s.Total(set) != total {
		t.Fatalf("total %d, want %d", s.Total(set), total)
	}
}

// F-3, B-24: every order, the last piece first too.
func TestAllOrdersOfFour(t *testing.T) {
	s := newStore(64, hashKey)
	fs := split(noise(3*1480+100), 1480)
	k, orders := keyOf(1, 7), 0
	var permute func(left, order []int)
	permute = func(left, order []int) {
		if len(left) == 0 {
			orders++
			for i, n := range order {
				r := Held
				if i == len(order)-1 {
					r = Complete
				}
				if set := want(t, s, k, 0, fs[n], r); set != 0 {
					wantSet(t, s, set, fs)
					s.Free(set)
				}
			}
			wantHeld(t, s, 0, 0, 0)
			return
		}
		for i := range left {
			rest := append(append([]int{}, left[:i]...), left[i+1:]...)
			permute(rest, append(append([]int{}, order...), left[i]))
		}
	}
	permute([]int{0, 1, 2, 3}, nil)
	if orders != 24 {
		t.Fatalf("%d orders", orders)
	}
}

// F-3, F-6: random cuts in random orders, with every piece but the one that completes the set sent twice.
func TestRandomOrders(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 3))
	s := New(1, hashKey)
	for round := range 80 {
		pieces := 2 + rng.IntN(59)
		var fs []frag
		data := noise(65535)
		for off, i := 0, 0; i < pieces; i++ {
			n := 8 * (1 + rng.IntN(130))
			if i == pieces-1 {
				n -= rng.IntN(8)
			}
			fs = append(fs, cut(data, 20+4*rng.IntN(11), off, off+n, i < pieces-1))
			off += n
		}
		k := keyOf(1, uint16(round))
		order := rng.Perm(pieces)
		for i, n := range order[:pieces-1] {
			want(t, s, k, 0, fs[n], Held)
			copyOf := fs[n]
			copyOf.pkt = append([]byte{1, 2, 3, 4}, copyOf.pkt...) // A copy may have another header.
			copyOf.hdr += 4
			want(t, s, k, 0, copyOf, Duplicate)
			want(t, s, k, 0, fs[order[rng.IntN(i+1)]], Duplicate)
		}
		set := want(t, s, k, 0, fs[order[pieces-1]], Complete)
		wantSet(t, s, set, fs)
		s.Free(set)
		wantHeld(t, s, 0, 0, 0)
	}
}

// F-7: sets differ in each part of the key.
func TestKeysNeverMix(t *testing.T) {
	base := keyOf(1, 7)
	keys := []Key{base, base, base, base, base, base}
	keys[1].Src++
	keys[2].Dst++
	keys[3].ID++
	keys[4].Attachment++
	keys[5].Proto = 6
	s := newStore(64, hashKey)
	var sets [][]frag
	for i, k := range keys {
		sets = append(sets, split(noise(600-i), 200))
		want(t, s, k, 0, sets[i][1], Held)
	}
	for i, k := range keys {
		want(t, s, k, 0, sets[i][2], Held)
	}
	for i, k := range keys {
		set := want(t, s, k, 0, sets[i][0], Complete)
		wantSet(t, s, set, sets[i])
		s.Free(set)
	}
	wantHeld(t, s, 0, 0, 0)
}

// F-6, B-26, RFC 5722: overlap kinds. The last piece of each row is the one that spoils.
func TestOverlap(t *testing.T) {
	data, other := noise(1024), make([]byte, 1024)
	mid := cut(data, 20, 256, 512, true)
	for _, c := range []struct {
		name string
		fs   []frag
	}{
		{"head", []frag{mid, cut(data, 20, 200, 264, true)}},
		{"tail", []frag{mid, cut(data, 20, 504, 600, true)}},
		{"inside", []frag{mid, cut(data, 20, 264, 272, true)}},
		{"around", []frag{mid, cut(data, 20, 0, 1024, true)}},
		{"same start, shorter", []frag{mid, cut(data, 20, 256, 504, true)}},
		{"same start, longer", []frag{mid, cut(data, 20, 256, 520, true)}},
		{"same end", []frag{mid, cut(data, 20, 264, 512, true)}},
		{"same end, equal bytes", []frag{cut(other, 20, 256, 512, true), cut(other, 20, 264, 512, true)}},
		{"same start, equal bytes", []frag{cut(other, 20, 256, 512, true), cut(other, 20, 256, 504, true)}},
		{"same place, other bytes", []frag{mid, cut(other, 20, 256, 512, true)}},
		{"same place, last byte differs", []frag{mid, func() frag {
			f := cut(data, 20, 256, 512, true)
			f.pkt[len(f.pkt)-1] ^= 1
			return f
		}()}},
		{"same bytes, but the last", []frag{mid, cut(data, 20, 256, 512, false)}},
		{"same bytes, but not the last", []frag{cut(data, 20, 256, 512, false), mid}},
		{"over two", []frag{mid, cut(data, 20, 520, 600, true), cut(data, 20, 504, 528, true)}},
		{"over a gap's edges", []frag{cut(data, 20, 0, 64, true), mid, cut(data, 20, 56, 264, true)}},
		{"second end behind", []frag{cut(data, 20, 512, 600, false), cut(data, 20, 600, 700, false)}},
		{"second end before", []frag{cut(data, 20, 512, 600, false), cut(data, 20, 400, 500, false)}},
		{"end before other data", []frag{mid, cut(data, 20, 0, 64, false)}},
		{"end right before other data", []frag{mid, cut(data, 20, 0, 256, false)}},
		{"data behind the end", []frag{cut(data, 20, 8, 64, false), mid}},
		{"data right behind the end", []frag{cut(data, 20, 8, 256, false), mid}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(64, hashKey)
			k := keyOf(1, 7)
			for i, f := range c.fs {
				if i < len(c.fs)-1 {
					want(t, s, k, uint32(i), f, Held)
					continue
				}
				want(t, s, k, uint32(i), f, Overlap)
			}
			wantHeld(t, s, 1, 0, 0)
			for _, f := range append(c.fs, cut(data, 20, 1000, 1008, true)) {
				want(t, s, k, DefaultTimeout-1, f, Overlap)
			}
			whole := split(data, 512)
			want(t, s, k, DefaultTimeout, whole[0], Held)
			s.Free(want(t, s, k, DefaultTimeout, whole[1], Complete))
			wantHeld(t, s, 0, 0, 0)
		})
	}
}

// Pieces that touch do not overlap.
func TestNeighbours(t *testing.T) {
	s := newStore(64, hashKey)
	data := noise(257)
	fs := []frag{cut(data, 20, 0, 8, true), cut(data, 20, 8, 16, true), cut(data, 20, 16, 256, true), cut(data, 20, 256, 257, false)}
	for _, i := range []int{1, 3, 0} {
		want(t, s, keyOf(1, 7), 0, fs[i], Held)
	}
	set := want(t, s, keyOf(1, 7), 0, fs[2], Complete)
	wantSet(t, s, set, fs)
}

// A complete set is the caller's: its key is free at once, and neither time nor others touch it.
func TestCompleteSet(t *testing.T) {
	s := newStore(128, hashKey)
	k := keyOf(1, 7)
	fs, gs := split(noise(3000), 1480), split(noise(2999), 1480)
	add := func(now uint32, fs []frag) Set {
		want(t, s, k, now, fs[0], Held)
		want(t, s, k, now, fs[1], Held)
		return want(t, s, k, now, fs[2], Complete)
	}
	first := add(0, fs)
	if _, ok := s.Next(); ok {
		t.Fatal("nothing waits, but Next says so")
	}
	second := add(0, gs)
	s.Advance(10 * DefaultTimeout)
	want(t, s, k, 10*DefaultTimeout, fs[0], Held)
	wantSet(t, s, first, fs)
	wantSet(t, s, second, gs)
	s.Free(Set(s.find(k))) // Not complete: left alone.
	wantHeld(t, s, 3, 7, 17*blockSize)
	s.Free(first)
	wantSet(t, s, second, gs)
	s.Free(second)
	s.Free(second)
	check(t, s)
	wantHeld(t, s, 1, 1, 3*blockSize)
}

// The largest datagram in the most pieces with the longest of headers fits the smallest Store, and so does one of each
// of three other sources at the same time.
func TestLargestDatagram(t *testing.T) {
	s := New(1, hashKey)
	data := noise(65535)
	var fs []frag
	for i := range MaxPieces {
		// Pieces that just need another block, as far as the datagram goes.
		fs = append(fs, cut(data, 60, i*8*(508/8), min((i+1)*8*(508/8), 65535), true))
	}
	last := &fs[MaxPieces-1]
	*last = cut(data, 60, last.off, 65535, false)
	for id := range uint16(2) {
		for src := range uint32(4) {
			for i, f := range fs {
				r := Held
				if i == MaxPieces-1 {
					r = Complete
				}
				if got, set := s.add(keyOf(src, id), 0, f); got != r {
					t.Fatalf("source %d, piece %d: %d", src, i, got)
				} else if got == Complete {
					wantSet(t, s, set, fs)
					defer s.Free(set)
				}
			}
		}
		check(t, s)
		for h := range s.sets {
			s.Free(Set(h))
		}
		wantHeld(t, s, 0, 0, 0)
	}
}

// A packet of any size is kept to the last byte, also around the borders of blocks.
func TestSizes(t *testing.T) {
	s := New(1, hashKey)
	data := noise(65535)
	for _, n := range []int{1, 7, 8, 9, 491, 492, 493, 1003, 1004, 1005, 1480, 9000, 65512, 65535 - 20} {
		f := cut(data, 20, 0, n, false)
		set := want(t, s, keyOf(1, 1), 0, f, Complete)
		wantSet(t, s, set, []frag{f})
		if got := s.Bytes(); got != (n+20+blockSize-1)/blockSize*blockSize {
			t.Errorf("%d bytes of payload take %d", n, got)
		}
		s.Free(set)
	}
}

// What a block is said to cost is what it costs, so that New keeps within its bytes.
func TestMemory(t *testing.T) {
	sizeOf := func(v any) int { return int(reflect.TypeOf(v).Size()) }
	for _, n := range []int{1, 1 << 20, 4 << 20, 4<<20 + 333} {
		s := New(n, hashKey)
		used := len(s.data) + len(s.blocks)*sizeOf(block{}) + len(s.sets)*sizeOf(set{}) +
			len(s.sources)*sizeOf(source{}) + 4*(len(s.byKey)+len(s.bySource))
		limit := max(n, 600<<10)
		if used > limit || used < limit*97/100 {
			t.Errorf("New(%d) takes %d bytes", n, used)
		}
		check(t, s)
	}
}

func TestNoAllocations(t *testing.T) {
	s := New(1, hashKey)
	fs := split(noise(4000), 1480)
	bad := cut(noise(4000), 20, 8, 1600, true)
	buf := make([]byte, 65535)
	now, id := uint32(0), uint16(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += 200
		id++
		s.add(keyOf(1, id), now, fs[2])
		s.add(keyOf(1, id), now, fs[0])
		s.add(keyOf(1, id), now, fs[0])
		s.add(keyOf(2, id), now, fs[0])
		s.add(keyOf(2, id), now, bad)
		_, set := s.add(keyOf(1, id), now, fs[1])
		for i := range s.Len(set) {
			s.Copy(set, i, buf)
		}
		s.Free(set)
		s.Advance(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	check(t, s)
	if s.Sets() != 75 {
		t.Errorf("%d sets, want the spoiled of 15 s", s.Sets())
	}
}

// SPDX-License-Identifier: Apache-2.0

package reasm

import (
	"math"
	"testing"
)

// B-24: MaxPieces pieces are kept, and one more spoils the set. Neither is off by one.
func TestPiecesOfADatagram(t *testing.T) {
	data := noise(8 * (MaxPieces + 2))
	fs := split(data, 8)
	k := keyOf(1, 7)
	t.Run("kept", func(t *testing.T) {
		s := New(1, hashKey)
		fs := split(data[:8*MaxPieces], 8)
		for _, f := range fs[1:] {
			want(t, s, k, 0, f, Held)
		}
		set := want(t, s, k, 0, fs[0], Complete)
		wantSet(t, s, set, fs)
	})
	t.Run("spoiled", func(t *testing.T) {
		s := New(1, hashKey)
		for _, f := range fs[1 : MaxPieces+1] {
			want(t, s, k, 0, f, Held)
		}
		wantHeld(t, s, 1, MaxPieces, MaxPieces*blockSize)
		want(t, s, k, 1, fs[1], Duplicate)
		want(t, s, k, 1, fs[0], Limit)
		wantHeld(t, s, 1, 0, 0)
		for _, f := range fs {
			want(t, s, k, DefaultTimeout-1, f, Limit)
		}
		want(t, s, k, DefaultTimeout, fs[0], Held)
	})
	t.Run("contradiction first", func(t *testing.T) {
		s := New(1, hashKey)
		for _, f := range fs[1 : MaxPieces+1] {
			want(t, s, k, 0, f, Held)
		}
		want(t, s, k, 0, cut(data, 20, 0, 16, true), Overlap)
	})
}

// F-4: a set is dropped exactly at its time, whoever asks, and wherever the clock wraps around.
func TestExpiry(t *testing.T) {
	fs := split(noise(3000), 1480)
	k := keyOf(1, 7)
	for _, born := range []uint32{0, 1, 1 << 31, math.MaxUint32 - DefaultTimeout, math.MaxUint32 - 14_000, math.MaxUint32} {
		s := newStore(64, hashKey)
		due := born + DefaultTimeout
		want(t, s, k, born, fs[2], Held)
		want(t, s, keyOf(1, 8), born+1, fs[1], Held)
		// Later pieces do not lengthen it.
		want(t, s, k, born+9_000, fs[1], Held)
		if tick, ok := s.Next(); !ok || tick != due {
			t.Fatalf("born at %d: next at %d, %v", born, tick, ok)
		}
		s.Advance(due - 1)
		wantHeld(t, s, 2, 3, 7*blockSize)
		s.Advance(due)
		check(t, s)
		wantHeld(t, s, 1, 1, 3*blockSize)
		if tick, ok := s.Next(); !ok || tick != due+1 {
			t.Fatalf("born at %d: next at %d, %v", born, tick, ok)
		}
		s.Advance(due + 1)
		wantHeld(t, s, 0, 0, 0)
		if _, ok := s.Next(); ok {
			t.Fatal("nothing waits, but Next says so")
		}

		// A late piece starts a new set, without Advance too; one in time completes the old one.
		want(t, s, k, due+2, fs[2], Held)
		want(t, s, k, due+2, fs[1], Held)
		want(t, s, k, due+2+DefaultTimeout, fs[0], Held)
		wantHeld(t, s, 1, 1, 3*blockSize)
		want(t, s, k, due+1+2*DefaultTimeout, fs[1], Held)
		s.Free(want(t, s, k, due+1+2*DefaultTimeout, fs[2], Complete))
		wantHeld(t, s, 0, 0, 0)
	}
}

func TestTimeoutMayChange(t *testing.T) {
	s := newStore(64, hashKey)
	fs := split(noise(3000), 1480)
	s.Timeout = 2000
	want(t, s, keyOf(1, 1), 100, fs[0], Held)
	s.Advance(2099)
	wantHeld(t, s, 1, 1, 3*blockSize)
	s.Timeout = 1000
	if tick, _ := s.Next(); tick != 1100 {
		t.Fatalf("next at %d", tick)
	}
	s.Advance(2099)
	wantHeld(t, s, 0, 0, 0)
}

// Time that goes back while sets wait stands still; an empty Store takes any time.
func TestClockGoesBack(t *testing.T) {
	s := newStore(64, hashKey)
	fs := split(noise(3000), 1480)
	want(t, s, keyOf(1, 1), 5000, fs[0], Held)
	want(t, s, keyOf(1, 2), 4000, fs[0], Held)
	s.Advance(4999 + DefaultTimeout)
	wantHeld(t, s, 2, 2, 6*blockSize)
	s.Advance(5000 + DefaultTimeout)
	wantHeld(t, s, 0, 0, 0)
	want(t, s, keyOf(1, 1), 7, fs[0], Held)
	if tick, _ := s.Next(); tick != 7+DefaultTimeout {
		t.Fatalf("next at %d", tick)
	}
}

// F-5, B-43: a million incomplete sets of one source take a quarter at most, and another source's datagrams pass.
func TestFloodOfOneSource(t *testing.T) {
	s := New(1<<20, hashKey)
	quarter := (len(s.blocks) - 1) / 4 * blockSize
	flood := cut(noise(1480), 20, 0, 1480, true)
	fs := split(noise(8000), 1480)
	refused, peak, passed := 0, 0, 0
	for i := range 1_000_000 {
		now := uint32(i / 20) // 50 s in all
		k := keyOf(1, uint16(i))
		k.Dst += uint32(i >> 16)
		switch r, _ := s.add(k, now, flood); r {
		case Limit:
			refused++
		case Held:
		default:
			t.Fatalf("set %d: result %d", i, r)
		}
		peak = max(peak, s.Bytes())
		if i%10_000 == 0 {
			for j, f := range fs {
				r, set := s.add(keyOf(2, uint16(i/10_000)), now, f)
				if (r == Complete) != (j == len(fs)-1) || r > Complete {
					t.Fatalf("the other source's piece %d: result %d", j, r)
				}
				if r == Complete {
					s.Free(set)
					passed++
				}
			}
			check(t, s)
		}
	}
	t.Logf("%d refused, %d bytes at most of %d allowed, %d datagrams of another passed", refused, peak, quarter, passed)
	if peak > quarter || refused < 990_000 || passed != 100 {
		t.Errorf("%d refused, %d bytes of %d, %d passed", refused, peak, quarter, passed)
	}
	s.Advance(50_000 + DefaultTimeout)
	wantHeld(t, s, 0, 0, 0)
}

// A quarter exactly is allowed; a block more is not, and changes nothing. The same address elsewhere is another source.
func TestShareOfBlocks(t *testing.T) {
	s := newStore(64, hashKey)
	data := noise(8192)
	elsewhere := keyOf(1, 3)
	elsewhere.Attachment++
	want(t, s, keyOf(1, 1), 0, cut(data, 20, 0, 14*blockSize-24, true), Held)
	want(t, s, keyOf(1, 2), 0, cut(data, 20, 0, 3*blockSize-24, true), Limit)
	wantHeld(t, s, 1, 1, 14*blockSize)
	want(t, s, keyOf(1, 2), 0, cut(data, 20, 0, 2*blockSize-24, true), Held)
	want(t, s, keyOf(1, 2), 0, cut(data, 20, 2000, 2008, false), Limit)
	want(t, s, keyOf(1, 3), 0, cut(data, 20, 0, 8, true), Limit)
	want(t, s, elsewhere, 0, cut(data, 20, 0, 8, true), Held)
	wantHeld(t, s, 3, 3, 17*blockSize)
	s.Advance(DefaultTimeout)
	want(t, s, keyOf(1, 3), DefaultTimeout, cut(data, 20, 0, 8, true), Held)
}

// A set that misses a piece for want of room can still be completed when there is room again.
func TestRefusedPieceChangesNothing(t *testing.T) {
	s := newStore(64, hashKey)
	fs := split(noise(4096), 1024) // 3 blocks a piece, 16 allowed
	want(t, s, keyOf(1, 1), 0, fs[0], Held)
	want(t, s, keyOf(1, 2), 1, fs[0], Held)
	want(t, s, keyOf(1, 2), 1, fs[1], Held)
	want(t, s, keyOf(1, 2), 1, fs[2], Held)
	want(t, s, keyOf(1, 3), 1, fs[0], Held)
	want(t, s, keyOf(1, 2), 2, fs[3], Limit)
	set := want(t, s, keyOf(1, 2), DefaultTimeout, fs[3], Complete)
	wantSet(t, s, set, fs)
}

// With the blocks gone nobody gets any, whatever is left of their shares; nobody's set is thrown out for another's.
func TestNoRoom(t *testing.T) {
	s := newStore(64, hashKey)
	data := noise(8192)
	for src := range uint32(5) {
		want(t, s, keyOf(src, 1), 0, cut(data, 20, 0, 12*blockSize-24, true), Held)
	}
	want(t, s, keyOf(6, 1), 1, cut(data, 20, 0, 5*blockSize-24, true), Limit)
	want(t, s, keyOf(6, 1), 1, cut(data, 20, 0, 4*blockSize-24, true), Held)
	want(t, s, keyOf(7, 1), 2, cut(data, 20, 0, 8, true), Limit)
	want(t, s, keyOf(0, 1), 2, cut(data, 20, 8000, 8008, false), Limit)
	wantHeld(t, s, 6, 6, 64*blockSize)
	want(t, s, keyOf(7, 1), DefaultTimeout, cut(data, 20, 0, 8, true), Held)
	wantHeld(t, s, 2, 2, 5*blockSize)
}

// Spoiled sets hold no block, but they are counted: a source has a quarter of the sets, and all are as many as there are.
func TestSpoiledSetsAreBounded(t *testing.T) {
	s := newStore(64, hashKey) // 32 sets, 8 a source
	data := noise(64)
	spoil := func(src uint32, id uint16, first Result) {
		t.Helper()
		want(t, s, keyOf(src, id), 0, cut(data, 20, 0, 16, true), first)
		if first == Held {
			want(t, s, keyOf(src, id), 0, cut(data, 20, 8, 16, true), Overlap)
		}
	}
	for src := range uint32(4) {
		for id := range uint16(8) {
			spoil(src, id, Held)
		}
		spoil(src, 8, Limit)
		wantHeld(t, s, 8*int(src+1), 0, 0)
	}
	spoil(4, 1, Limit)
	want(t, s, keyOf(3, 7), 0, cut(data, 20, 32, 64, true), Overlap)
	s.Advance(DefaultTimeout)
	wantHeld(t, s, 0, 0, 0)
	check(t, s)
}

// One address of many attachments (overlapping private networks) is as many sources, also where their hashes collide.
func TestAttachmentsAreSources(t *testing.T) {
	s := newStore(64, hashKey)
	f := cut(noise(64), 20, 0, 64, true)
	for a := range uint16(32) { // as many as there are buckets
		k := keyOf(1, 1)
		k.Attachment = a
		want(t, s, k, uint32(a), f, Held)
	}
	wantHeld(t, s, 32, 32, 32*blockSize)
	for a := range uint32(32) {
		s.Advance(a + DefaultTimeout)
		check(t, s)
	}
	wantHeld(t, s, 0, 0, 0)
}

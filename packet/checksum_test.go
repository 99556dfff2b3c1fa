// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// slowSum is RFC 1071 word by word, and slowChecksum the sum complemented: what all the arithmetic is held to.
func slowSum(b []byte) uint16 {
	sum := 0
	for i := range b {
		w := int(b[i])
		if i%2 == 0 {
			w <<= 8
		}
		sum += w
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func slowChecksum(b []byte) uint16 { return ^slowSum(b) }

func random() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// TestRFC1624 is K-1: the vector of RFC 1624, section 4, where the older arithmetic gives 0xffff.
func TestRFC1624(t *testing.T) {
	if got := Delta16(0x5555, 0x3285).Apply(0xdd2f); got != 0 {
		t.Errorf("got %#04x, want 0x0000", got)
	}
}

// TestUDPZero is U-6: 10.0.0.5:5000 -> 203.0.113.9:53, payload fd1f, becomes 198.51.100.7:40000.
func TestUDPZero(t *testing.T) {
	// Go 1.26's compiler for arm64 folds the way back to a wrong constant, so the address is no constant.
	from := []uint32{0x0a000005}
	d := Delta32(from[len(from)-1], 0xc6336407).Plus(Delta16(5000, 40000))
	if got := d.ApplyUDP(0xa8ee); got != 0xffff {
		t.Errorf("got %#04x, want 0xffff", got)
	}
	if got := d.Apply(0xa8ee); got != 0 {
		t.Errorf("TCP would get %#04x, want 0x0000", got)
	}
	if got := d.ApplyUDP(0); got != 0 { // U-5
		t.Errorf("a checksum of 0 became %#04x", got)
	}
	if got := d.Reverse().ApplyUDP(0xffff); got != 0xa8ee {
		t.Errorf("back: got %#04x, want 0xa8ee", got)
	}
}

// TestRFC1071 is the example of RFC 1071, section 3.
func TestRFC1071(t *testing.T) {
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}
	if got := Fold(Sum(b, 0)); got != 0xddf2 {
		t.Errorf("got %#04x, want 0xddf2", got)
	}
}

// TestHeaderVector is a header that is often shown, with its checksum.
func TestHeaderVector(t *testing.T) {
	b, err := hex.DecodeString("45000073000040004011b861c0a80001c0a800c7")
	if err != nil {
		t.Fatal(err)
	}
	if got := Checksum(b); got != 0 {
		t.Errorf("a right header gives %#04x", got)
	}
	b[10], b[11] = 0, 0
	if got := Checksum(b); got != 0xb861 {
		t.Errorf("got %#04x, want 0xb861", got)
	}
}

func TestSum(t *testing.T) {
	r := random()
	b := make([]byte, 65535)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for range 20_000 {
		n := r.IntN(100)
		if r.IntN(50) == 0 {
			n = r.IntN(len(b))
		}
		s := b[r.IntN(len(b)-n):][:n]
		if got, want := Fold(Sum(s, 0)), slowSum(s); got != want {
			t.Fatalf("the sum of %x is %#04x, want %#04x", s, got, want)
		}
		even := r.IntN(n+1) &^ 1
		if got, want := Fold(Sum(s[even:], Sum(s[:even], 0))), slowSum(s); got != want {
			t.Fatalf("the sum of %x in two steps is %#04x, want %#04x", s, got, want)
		}
	}
	for i := range b {
		b[i] = 0xff
	}
	if got, want := Fold(Sum(b, 0xffffffff)), slowSum(b); got != want {
		t.Errorf("the largest sum is %#04x, want %#04x", got, want)
	}
}

func TestPseudoIPv4(t *testing.T) {
	r := random()
	for range 10_000 {
		src, dst, proto, n := r.Uint32(), r.Uint32(), uint8(r.Uint32()), r.IntN(65536)
		h := be.AppendUint32(be.AppendUint32(nil, src), dst)
		h = be.AppendUint16(append(h, 0, proto), uint16(n))
		if got, want := Fold(PseudoIPv4(src, dst, proto, n)), slowSum(h); got != want {
			t.Fatalf("%x: %#04x, want %#04x", h, got, want)
		}
	}
}

// word is a random 16-bit word; the ends of the range are where carries are lost.
func word(r *rand.Rand) uint16 {
	switch r.IntN(4) {
	case 0:
		return []uint16{0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff}[r.IntN(6)]
	default:
		return uint16(r.Uint32())
	}
}

// TestIncremental is K-2 and B-3: up to twelve changed words, a million times, against computing it all anew. A Delta
// is never zero, and its reverse undoes it.
func TestIncremental(t *testing.T) {
	r := random()
	var b [32]byte // 16 words, of which the last is never changed: a sum of nothing but zeroes is no packet
	for range 1_000_000 {
		for i := 0; i < len(b); i += 2 {
			be.PutUint16(b[i:], word(r))
		}
		b[31] |= 1
		before, partial := slowChecksum(b[:]), slowSum(b[:])
		d := NoDelta
		for range r.IntN(13) {
			at := r.IntN(15)
			if at%2 == 0 && at < 14 && r.IntN(2) == 0 {
				from, to := be.Uint32(b[at*2:]), uint32(word(r))<<16|uint32(word(r))
				be.PutUint32(b[at*2:], to)
				d = d.Plus(Delta32(from, to))
				continue
			}
			from, to := be.Uint16(b[at*2:]), word(r)
			be.PutUint16(b[at*2:], to)
			d = d.Plus(Delta16(from, to))
		}
		after := slowChecksum(b[:])
		if d == 0 || d.Reverse() == 0 {
			t.Fatal("a Delta of 0")
		}
		if got := d.Apply(before); got != after {
			t.Fatalf("%#04x and %#04x gives %#04x, want %#04x", before, uint16(d), got, after)
		}
		if got := d.Reverse().Apply(after); got != before {
			t.Fatalf("back from %#04x by %#04x gives %#04x, want %#04x", after, uint16(d), got, before)
		}
		if got, want := d.ApplyPartial(partial), ^after; got != want {
			t.Fatalf("partial: %#04x, want %#04x", got, want)
		}
		checkUDP(t, d, before, after)
	}
}

func checkUDP(t *testing.T, d Delta, before, after uint16) {
	if before == 0 {
		before = 0xffff // as a sender writes it
	}
	if after == 0 {
		after = 0xffff
	}
	if got := d.ApplyUDP(before); got != after {
		t.Fatalf("UDP: %#04x and %#04x gives %#04x, want %#04x", before, uint16(d), got, after)
	}
}

// TestErrorStays is K-2: a wrong checksum stays wrong by the same amount.
func TestErrorStays(t *testing.T) {
	r := random()
	for range 100_000 {
		from, to, sum, wrong := word(r), word(r), word(r), word(r)
		d := Delta16(from, to)
		// One's-complement difference of the two inputs and of the two outputs.
		in, out := Delta16(sum, wrong), Delta16(d.Apply(sum), d.Apply(wrong))
		if in != out {
			t.Fatalf("%#04x -> %#04x: %#04x and %#04x differ by %#04x before, %#04x after", from, to, sum, wrong, uint16(in), uint16(out))
		}
	}
}

func TestNoDelta(t *testing.T) {
	for w := range 0x10000 {
		w := uint16(w)
		if d := Delta16(w, w); d != NoDelta {
			t.Fatalf("no change of %#04x is %#04x", w, uint16(d))
		}
		if d := Delta16(w, 0x1234).Plus(Delta16(0x1234, w)); d != NoDelta {
			t.Fatalf("%#04x there and back is %#04x", w, uint16(d))
		}
		if got := NoDelta.Apply(w); got != w && (w != 0xffff || got != 0) {
			t.Fatalf("NoDelta makes %#04x of %#04x", got, w)
		}
		if got := NoDelta.ApplyUDP(w); got != w {
			t.Fatalf("NoDelta makes %#04x of the UDP checksum %#04x", got, w)
		}
		if d := Delta(w); w != 0 && (d.Reverse() == 0 || d.Plus(d.Reverse()) != NoDelta) {
			t.Fatalf("the reverse of %#04x is %#04x", w, uint16(d.Reverse()))
		}
	}
	if NoDelta.Reverse() != NoDelta {
		t.Error("the reverse of no change is a change")
	}
}

// TestDeltas: many changes at once are what they are one after the other, for sums that are complete, and those of UDP.
func TestDeltas(t *testing.T) {
	r := random()
	for range 200_000 {
		all, one := NoDeltas, Delta(NoDelta)
		for range r.IntN(12) {
			from, to := word(r), word(r)
			switch d := Delta16(from, to); r.IntN(4) {
			case 3:
				x, y := uint32(from)<<16|uint32(word(r)), uint32(to)<<16|uint32(word(r))
				all, one = all.Long(x, y), one.Plus(Delta32(x, y))
			case 0:
				all, one = all.Word(from, to), one.Plus(d)
			case 1:
				all, one = all.Plus(d), one.Plus(d)
			default:
				all, one = all.Minus(d), one.Plus(d.Reverse())
			}
		}
		sum := word(r)
		if got, want := all.Apply(sum), one.Apply(sum); got != want {
			t.Fatalf("%#x of %#x is %#x, want %#x", all, sum, got, want)
		}
		want := one.Apply(sum)
		switch {
		case sum == 0:
			want = 0
		case want == 0:
			want = 0xffff
		}
		if got := all.ApplyUDP(sum); got != want {
			t.Fatalf("UDP: %#x of %#x is %#x, want %#x", all, sum, got, want)
		}
		if got, want := all.Delta().ApplyPartial(sum), one.ApplyPartial(sum); got != want {
			t.Fatalf("partial: %#x of %#x is %#x, want %#x", all, sum, got, want)
		}
	}
	// As many as there may be.
	for all, one, i := NoDeltas, Delta(NoDelta), 0; i < 1<<15-1; i++ {
		if all, one = all.Plus(0xffff), one.Plus(0xffff); all.Apply(0x1234) != 0x1234 {
			t.Fatalf("%d times no change are one: %#x", i, all)
		}
	}
}

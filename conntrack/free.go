// SPDX-License-Identifier: Apache-2.0

package conntrack

import "math/bits"

// A freeSet is the records that nobody uses: a bit for each, and above that a bit for each word that is not zero, and so
// on up to a single word. The lowest is taken first: so the records that are in use stay close together, whatever comes and
// goes, and which come next is known without a look at them. (A stack would hand them out in the order in which
// sessions ended, which is a cache miss and a page for each.)
type freeSet [][]uint64

// freeWords is how many words a freeSet of n records takes.
func freeWords(n int) (words int) {
	for n > 1 {
		n = (n + 63) / 64
		words += n
	}
	return words
}

// carveFree makes an empty freeSet of n records, more than one, in zeroed memory at the front of mem.
func carveFree(mem []byte, n int) (f freeSet, rest []byte) {
	for n > 1 {
		n = (n + 63) / 64
		var level []uint64
		level, mem = carve[uint64](mem, n)
		f = append(f, level)
	}
	return f, mem
}

// put adds h.
func (f freeSet) put(h Handle) {
	i := uint32(h)
	for _, level := range f {
		was := level[i/64]
		level[i/64] |= 1 << (i % 64)
		if was != 0 {
			return
		}
		i /= 64
	}
}

// take removes the lowest; None if there is none.
func (f freeSet) take() Handle {
	i := uint32(0)
	for l := len(f) - 1; l >= 0; l-- {
		w := f[l][i]
		if w == 0 {
			return None
		}
		i = i*64 + uint32(bits.TrailingZeros64(w))
	}
	h := Handle(i)
	for _, level := range f {
		level[i/64] &^= 1 << (i % 64)
		if level[i/64] != 0 {
			break
		}
		i /= 64
	}
	return h
}

// lowest is the word that the next one to be taken is in; if there is none, the number of words.
func (f freeSet) lowest() uint32 {
	i := uint32(0)
	for l := len(f) - 1; l > 0; l-- {
		if f[l][i] == 0 {
			return uint32(len(f[0]))
		}
		i = i*64 + uint32(bits.TrailingZeros64(f[l][i]))
	}
	return i
}

// TouchFree loads the n records that Add will use next, or most of them.
func (t *Table) TouchFree(n int) (touched uint64) {
	at := t.free.lowest()
	for i := at; i < uint32(len(t.free[0])) && i < at+64; i++ {
		for w := t.free[0][i]; w != 0; w &= w - 1 {
			if n--; n < 0 {
				return touched
			}
			h := i*64 + uint32(bits.TrailingZeros64(w))
			touched += uint64(t.recs[h].State) + uint64(t.wheel.links[h].next)
		}
	}
	return touched
}

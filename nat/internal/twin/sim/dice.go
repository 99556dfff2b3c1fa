// SPDX-License-Identifier: Apache-2.0

package sim

import "math/rand/v2"

// dice makes choices of the bytes of an operation, and, when those are used up, of numbers that follow from them: so
// that an operation does the same wherever in a script it stands, and a fuzzer can change one choice at a time.
type dice struct {
	bytes []byte
	rng   *rand.Rand
	draw  func(k int) int // makes all choices, if there is one
}

func newDice(b []byte) *dice {
	var seed uint64
	for _, c := range b {
		seed = seed*0x100000001b3 ^ uint64(c)
	}
	return &dice{bytes: b, rng: rand.New(rand.NewPCG(seed, 1))}
}

// n is a number below k.
func (d *dice) n(k int) int {
	if d.draw != nil {
		return d.draw(k)
	}
	if len(d.bytes) > 0 && k <= 256 {
		c := d.bytes[0]
		d.bytes = d.bytes[1:]
		return int(c) % k
	}
	return d.rng.IntN(k)
}

// one is true once in k times.
func (d *dice) one(k int) bool { return d.n(k) == k-1 }

// shuffle puts n things in another order.
func (d *dice) shuffle(n int, swap func(i, j int)) {
	if d.draw == nil {
		d.rng.Shuffle(n, swap)
		return
	}
	for i := n - 1; i > 0; i-- {
		swap(i, d.draw(i+1))
	}
}

func pick[T any](d *dice, of ...T) T { return of[d.n(len(of))] }

// SPDX-License-Identifier: Apache-2.0

package nat

import "math/rand/v2"

// numbers are random words, one for each flow that wants a port, of which the next can be seen before they are taken:
// so a batch can ask for what its new flows will touch.
type numbers struct {
	rng  rand.ChaCha8
	ring [2 * maxBatch]uint64
	at   uint32 // how many were taken
}

func newNumbers(seed [32]byte) (n numbers) {
	n.rng = *rand.NewChaCha8(seed)
	for i := range n.ring {
		n.ring[i] = n.rng.Uint64()
	}
	return n
}

// ahead is the word after the next k, which are less than maxBatch.
func (n *numbers) ahead(k uint32) uint64 { return n.ring[(n.at+k)%uint32(len(n.ring))] }

// take is the next word.
func (n *numbers) take() uint64 {
	v := n.ahead(0)
	if n.at++; n.at%maxBatch == 0 { // the half behind is used up
		behind := (n.at - maxBatch) % uint32(len(n.ring))
		for i := range n.ring[behind:][:maxBatch] {
			n.ring[behind+uint32(i)] = n.rng.Uint64()
		}
	}
	return v
}

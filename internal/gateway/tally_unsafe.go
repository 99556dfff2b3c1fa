// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"hash/fnv"
	"sync/atomic"
	"unsafe"

	"github.com/tidegate/tidegate/nat"
)

// tallyPage is what is at the beginning of the counters of a state file.
type tallyPage struct {
	layout atomic.Uint64
	sides  [2]tally
}

// It has to fit into what a state file has for counters.
var _ [4096 - unsafe.Sizeof(tallyPage{})]byte

// tallies are the counters in b, which is of a mapping: aligned to a page, no memory of the garbage collector, and there as
// long as the process is. Those of another layout are not known by their place, and begin at 0.
func tallies(b []byte) *[2]tally {
	p := (*tallyPage)(unsafe.Pointer(&b[:unsafe.Sizeof(tallyPage{})][0]))
	if is := tallyLayout(); p.layout.Load() != is {
		clear(b)
		p.layout.Store(is)
	}
	return &p.sides
}

// tallyLayout is a digest of what stands where.
func tallyLayout() uint64 {
	h := fnv.New64a()
	for v := range nat.Verdict(nat.NumVerdicts) {
		_, _ = h.Write([]byte(v.String()))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64() ^ uint64(unsafe.Sizeof(tallyPage{}))
}

// copyTally copies counters from one place to another.
func copyTally(to, from *[2]tally) {
	const size = unsafe.Sizeof(*to) // words alone, that nobody counts in meanwhile
	copy((*[size]byte)(unsafe.Pointer(to))[:], (*[size]byte)(unsafe.Pointer(from))[:])
}

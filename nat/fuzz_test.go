// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"testing"

	"github.com/tidegate/tidegate/nat/internal/twin/sim"
)

// FuzzSequence plays scripts of packets, times and policies that the fuzzer writes: no crash, no leak, no invalid output
// from valid input, nothing that the twin would not do.
func FuzzSequence(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(sim.Script(seed, 40))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), sim.HeadSize+400*sim.OpSize)] // longer ones find nothing more
		if _, err := sim.Play(script); err != nil {
			t.Error(err)
		}
	})
}

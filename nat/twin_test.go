// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/twin/sim"
)

// TestTwin drives the engine and its slow twin with random scripts: after each packet they must agree. The number of
// steps is that of TIDEGATE_TWIN_STEPS, and the first seed that of TIDEGATE_TWIN_SEED. A run of the usual length must
// have reached every verdict.
func TestTwin(t *testing.T) {
	t.Parallel()
	const perScript, usual = 400, 48000
	steps, seed := number("TIDEGATE_TWIN_STEPS", usual), number("TIDEGATE_TWIN_SEED", 1)
	var all [nat.NumVerdicts]uint64
	for i := range uint64(steps / perScript) {
		counts, err := sim.Play(sim.Script(uint64(seed)+i, perScript))
		if err != nil {
			t.Fatalf("seed %d: %v", uint64(seed)+i, err)
		}
		for v, n := range counts {
			all[v] += n
		}
	}
	if missing := sim.Missing(all); steps >= usual && len(missing) > 0 {
		t.Errorf("never reached: %v", missing)
	}
	for v, n := range all {
		t.Logf("%-22v %d", nat.Verdict(v), n)
	}
}

func number(env string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(env)); err == nil {
		return n
	}
	return otherwise
}

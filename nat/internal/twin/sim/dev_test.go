// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"os"
	"strconv"
	"testing"

	"github.com/tidegate/tidegate/nat"
)

// TestTwin drives the engine and its slow twin with random scripts: after each packet they must agree. The number of
// steps is that of TIDEGATE_TWIN_STEPS, and the first seed that of TIDEGATE_TWIN_SEED. Every verdict must have been
// reached.
func TestTwin(t *testing.T) {
	t.Parallel()
	const perScript = 400
	steps, seed := number("TIDEGATE_TWIN_STEPS", 60000), number("TIDEGATE_TWIN_SEED", 1)
	var all [nat.NumVerdicts]uint64
	for i := range uint64(steps / perScript) {
		counts, err := Play(Script(uint64(seed)+i, perScript))
		if err != nil {
			t.Fatalf("seed %d: %v", uint64(seed)+i, err)
		}
		for v, n := range counts {
			all[v] += n
		}
	}
	if missing := Missing(all); len(missing) > 0 {
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

// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/tidegate/tidegate/nat"
)

// Script is a random script of n operations.
func Script(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, HeadSize+n*OpSize)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Play runs a script. A failing one is shrunk: the error then tells what the least of it does, step by step.
func Play(script []byte) (counts [nat.NumVerdicts]uint64, err error) { return play(script, nil) }

func play(script []byte, fault tamper) (counts [nat.NumVerdicts]uint64, err error) {
	counts, _, err = run(script, false, fault)
	if err == nil {
		return counts, nil
	}
	least := shrink(script, fault)
	_, trace, again := run(least, true, fault)
	return counts, fmt.Errorf("%w\nIn short (%d operations, script %x):\n%s\n%w", err, (len(least)-HeadSize)/OpSize, least, strings.Join(trace, "\n"), again)
}

// shrink leaves out operations as long as the script fails.
func shrink(script []byte, fault tamper) []byte {
	for before := 0; len(script) != before && len(script) > HeadSize; {
		before = len(script)
		for size := (len(script) - HeadSize) / OpSize; size > 0; size /= 2 {
			for at := HeadSize; at < len(script); {
				end := min(at+size*OpSize, len(script))
				shorter := append(append([]byte(nil), script[:at]...), script[end:]...)
				if _, _, err := run(shorter, false, fault); err != nil {
					script = shorter
				} else {
					at = end
				}
			}
		}
	}
	return script
}

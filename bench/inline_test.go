// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"os/exec"
	"regexp"
	"testing"
)

// TestInlining: what the path of an established packet calls again and again is inlined there.
func TestInlining(t *testing.T) {
	must := map[string][]string{
		"packet": {"Delta16", "Delta32", "Delta.Plus", "Delta.Reverse", "Delta.Apply", "Delta.ApplyUDP", "Delta.ApplyPartial",
			"(*Packet).Bytes", "(*Packet).WireLen", "(*Packet).Segments"},
		"conntrack": {"index.home", "index.scan", "(*Table).OutTag", "(*Table).InTag", "(*Table).TouchOut", "(*Table).TouchIn",
			"(*Table).ScanOut", "(*Table).ScanIn", "(*Table).TouchCount", "(*Table).Rec", "(*Table).Count", "(*Table).Timeout",
			"(*Record).OwnsOut", "(*Record).OwnsIn", "(*Record).Has"},
		"nat": {"(*Worker).count", "(*Engine).nextID", "(*Engine).shardOf", "outPorts"},
	}
	for pkg, names := range must {
		// The compiler's notes come out of the build cache, too.
		out, err := exec.Command("go", "build", "-gcflags=-m", "github.com/tidegate/tidegate/"+pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		can := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m): can inline (\S+)$`).FindAllSubmatch(out, -1) {
			can[string(m[1])] = true
		}
		for _, name := range names {
			if !can[name] {
				t.Errorf("%s: %s cannot be inlined any more", pkg, name)
			}
		}
	}
}

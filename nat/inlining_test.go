// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"os/exec"
	"regexp"
	"testing"
)

// TestInlining: what a batch does for each packet is not a call, where it was written to be none.
func TestInlining(t *testing.T) {
	out, err := exec.Command("go", "build", "-gcflags=-m", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inlined := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\S*\b(?:batch|expect)\.go:\d+:\d+: inlining call to (\S+)$`).FindAllSubmatch(out, -1) {
		inlined[string(m[1])] = true
	}
	for _, f := range []string{
		"packet.(*Packet).Bytes", "packet.(*Packet).WireLen", "packet.(*Packet).Segments", "packet.Deltas.Plus", "packet.Deltas.Minus",
		"packet.Deltas.Word", "packet.Deltas.Apply", "packet.Deltas.ApplyUDP", "conntrack.(*Table).OutTag", "conntrack.(*Table).InTag",
		"conntrack.(*Table).Rec", "conntrack.(*Table).Count", "conntrack.(*Table).Timeout",
		"conntrack.(*Record).OwnsOut", "conntrack.(*Record).OwnsIn", "conntrack.(*Record).Has", "(*Worker).current", "(*Worker).count",
		"(*shard).ownID", "(*Engine).idOf", "ipOf", "tcpOf", "shortOf", "plain", "(*Engine).shardOf", "(*Engine).shardOfPort", "(*owners).surelyRemote", "outPorts",
		"packet.Deltas.Long", "conntrack.(*Table).MappingTag", "conntrack.(*Table).HolderTag",
	} {
		if !inlined[f] {
			t.Errorf("%s is called", f)
		}
	}
}

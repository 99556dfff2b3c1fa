// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TestPlantedFaults: what an engine might do wrong is found, and told in a few steps.
func TestPlantedFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault tamper
		want  string
	}{
		{"nothing", nil, ""},
		{"leak", func(p *packet.Packet, v nat.Verdict) {
			if v == nat.Outbound {
				copy(p.Bytes()[12:], hosts[0].AsSlice())
				craft.SetTTL(p.Bytes(), p.Bytes()[8])
			}
		}, "not of pool"},
		{"wrong sum", func(p *packet.Packet, v nat.Verdict) {
			if v == nat.Inbound && p.Bytes()[9] == packet.UDP {
				p.Bytes()[int(p.Bytes()[0]&15)*4+7] ^= 1
			}
		}, "inbound: differs from byte"},
		{"one byte of payload", func(p *packet.Packet, v nat.Verdict) {
			if v == nat.StaticInbound {
				p.Bytes()[p.Len-1] ^= 0x80
			}
		}, "static_inbound: differs from byte"},
	} {
		_, err := play(Script(3, 300), c.fault)
		if c.fault == nil {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: not found", c.name)
			continue
		}
		first, rest, _ := strings.Cut(err.Error(), "In short")
		if !strings.Contains(first, c.want) || strings.Count(rest, "\n") > 20 {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestScript: scripts are plain bytes, and each of them means something and does the same every time.
func TestScript(t *testing.T) {
	script := Script(9, 200)
	one, trace, err := run(script, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	two, again, err := run(script, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if one != two || strings.Join(trace, "\n") != strings.Join(again, "\n") {
		t.Error("the same script did two things")
	}
	for n := range 150 {
		if _, err := Play(script[:n]); err != nil {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

func TestMissing(t *testing.T) {
	var counts [nat.NumVerdicts]uint64
	for v := range counts {
		counts[v] = 1
	}
	counts[nat.Hairpin], counts[nat.Unset], counts[nat.DropLeak] = 0, 0, 0
	if got := Missing(counts); len(got) != 1 || got[0] != nat.Hairpin.String() {
		t.Errorf("missing %v", got)
	}
}

// TestExplainChangesNothing: with and without explanations a script has the same results, to the byte and the port.
func TestExplainChangesNothing(t *testing.T) {
	for seed := range uint64(6) {
		script := Script(100+seed, 300)
		_, with, err := runExplained(script, true, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		_, without, err := runExplained(script, true, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range with {
			if with[i] != without[i] {
				t.Fatalf("seed %d, with explanations:\n%s\nwithout:\n%s", seed, with[i], without[i])
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.of); got != c.want {
			t.Errorf("median of %v is %v", c.of, got)
		}
	}
	of := []float64{3, 1, 2}
	if median(of); of[0] != 3 {
		t.Error("median sorts what is the caller's")
	}
}

// TestPercentile: nearest rank, by the examples that are usual for it.
func TestPercentile(t *testing.T) {
	five := []int{15, 20, 35, 40, 50}
	for p, want := range map[float64]int{0: 15, 5: 15, 30: 20, 40: 20, 50: 35, 99: 50, 100: 50} {
		if got := percentile(five, p); got != want {
			t.Errorf("%v%% of %v is %d, want %d", p, five, got, want)
		}
	}
	if percentile([]int{}, 50) != 0 {
		t.Error("a percentile of nothing")
	}
}

// someResults are two rounds of nft and tidegate, small enough to reckon by hand.
func someResults() *results {
	r := &results{Format: 1, Started: time.Unix(0, 0), Ended: time.Unix(60, 0), Options: options{Rounds: 2, Window: time.Second, Warmup: time.Second / 4},
		Machine: machine{Kernel: "6.1", Go: "go1.26", Processor: "a processor", CPUs: 2, MemoryKiB: 2048, Load: "0.10"},
		Peers:   []outcome{{base, "v1", "the kernel's"}, {"tidegate", "v2", "ours"}},
		Missing: []absence{{"pasta", "not found", "apt-get install passt"}}}
	add := func(peer string, round int, s sample) {
		s.Peer, s.Round = peer, round
		r.Samples = append(r.Samples, s)
	}
	for round := 1; round <= 2; round++ {
		add(base, round, sample{Row: "tcp1-up", Value: 10 * float64(round), Seconds: 1})
		add("tidegate", round, sample{Row: "tcp1-up", Value: 6 * float64(round), Seconds: 1})
		add(base, round, sample{Row: "udp-small", Value: 100, Seconds: 1, Packets: 100_000, Offered: 150_000, BusySeconds: 1})
		add("tidegate", round, sample{Row: "udp-small", Value: 80, Seconds: 1, Packets: 80_000, Offered: 160_000, BusySeconds: 1.6, ForwarderSeconds: 0.4})
		add(base, round, sample{Row: "tcp-crr", Value: 9000, Seconds: 4, Connections: 36000, Wrapped: true})
	}
	add("tidegate", 1, sample{Row: "tcp-crr", Value: 8000, Seconds: 4, Connections: 32000, Wrapped: true, Failed: 3})
	add("tidegate", 2, sample{Row: "tcp-crr", Error: "a wire was cut"})
	return r
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := writeTable(&b, someResults()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a processor, 2 processors, 2 MiB; Linux 6.1; go1.26; load before the run 0.10.\n",
		"| nft | v1 | the kernel's |\n", "| pasta | missing: not found | apt-get install passt |\n",
		"| TCP 1 up | 1.00 | 0.60 |\n", "| UDP small | 1.00 | 0.80 |\n",
		"| TCP CRR | 1.00 | 0.89 |\n", // of the round that went well
		"| whole machine, µs a packet, UDP small | 1.00 | 2.00 |\n",
		"| TCP 1 up, Gb/s | 15.0 (10.0-20.0) | 9.00 (6.00-12.0) |\n",
		"| forwarder, µs a packet, UDP small | 0.00 (0.00-0.00) | 5.00 (5.00-5.00) |\n",
		"- tidegate, round 2, tcp-crr: a wire was cut\n",
		"- tidegate: UDP small offered 160 kpps; TCP CRR past the ephemeral range in 1 of 1, 3 failed\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "RTT") {
		t.Error("a row that nobody measured")
	}
}

// TestJSON: what is written can be read again, and the samples are raw.
func TestJSON(t *testing.T) {
	b, err := json.Marshal(someResults())
	if err != nil {
		t.Fatal(err)
	}
	var again results
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	var one, two strings.Builder
	if err := writeTable(&one, someResults()); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(&two, &again); err != nil {
		t.Fatal(err)
	}
	if one.String() != two.String() {
		t.Errorf("%s\n\n%s", one.String(), two.String())
	}
	for _, want := range []string{`"format":1`, `"kernel":"6.1"`, `"load_before":"0.10"`, `"window_ns":1000000000`, `"row":"udp-small"`, `"offered":160000`,
		`"forwarder_seconds":0.4`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
}

// TestRows: every row has a name of its own and belongs to a column.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.name] || r.unit == "" || r.title == "" {
			t.Errorf("%+v", r)
		}
		seen[r.name] = true
	}
	for _, c := range columns() {
		if !seen[c.row] {
			t.Errorf("column %s is of no row", c.title)
		}
	}
}

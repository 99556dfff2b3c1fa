// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"flag"
	"math"
	"regexp"
	"testing"
)

// limits makes a benchmark fail whose engine is slower, in floors, than slack times its goal, or than what it is known to miss
// that by. It is for CI, and for long enough runs: what is run once is not measured.
var limits = flag.Bool("limits", false, "fail where a row of the engine exceeds 1.5 times its goal in floors, or what it is known to cost")

// slack is how far above its goal, or above what it is known to cost, a row may be before it fails.
const slack = 1.5

// goals are what the rows of the engine are to cost at most, in floors. The first pattern that fits a name counts; every
// row with an x-floor needs one. A row that misses its goal so far that slack is not enough says what it costs today, so
// that it does not become worse unseen; whoever makes it faster lowers that, or takes it away.
var goals = []struct {
	row         *regexp.Regexp
	most, costs float64
}{
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=1/`), 2.0, 0},
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=65536/`), 1.5, 0},
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=10*/`), 1.4, 1.6},
	{regexp.MustCompile(`^BenchmarkNewFlow/mapping=endpoint-independent/.*/flows=65536/`), 2.0, 7.5},
	{regexp.MustCompile(`^BenchmarkNewFlow/mapping=endpoint-independent/`), 2.0, 4.0},
	{regexp.MustCompile(`^BenchmarkNewFlow/.*/flows=65536/`), 2.0, 6.3},
	{regexp.MustCompile(`^BenchmarkNewFlow/`), 2.0, 2.7},
	{regexp.MustCompile(`^BenchmarkStatic/`), 1.3, 1.6},
}

// goal is what a row is to cost at most, in floors, and what fails.
func goal(name string) (most, limit float64, ok bool) {
	for _, g := range goals {
		if g.row.MatchString(name) {
			return g.most, slack * max(g.most, g.costs), true
		}
	}
	return 0, 0, false
}

// tries is how often a row is measured that exceeds its limit: what the engine costs shows each time, what a neighbour of the
// machine costs does not.
const tries = 8

// within has a row measured, on one processor, and again if it exceeds its limit; measure returns how many floors it costs, 0 if it was not
// compared.
func within(b *testing.B, measure func() float64) {
	b.Helper()
	most, limit, ok := goal(b.Name())
	if !ok {
		b.Fatalf("%s: no goal", b.Name())
	}
	defer pin(b)()
	for i := 1; ; i++ {
		x := measure()
		if !*limits || b.N == 1 {
			return
		}
		if x == 0 {
			b.Fatalf("%s was not compared with the floor", b.Name())
		}
		if x <= limit {
			return
		}
		b.Logf("%.2f floors; the goal is %.1f, and more than %.2f fails", x, most, limit)
		if i == tries {
			b.Errorf("%s exceeds %.2f floors, %d times in a row", b.Name(), limit, tries)
			return
		}
	}
}

// TestGoals: the table has a goal for the rows that there are.
func TestGoals(t *testing.T) {
	for name, want := range map[string][2]float64{
		"BenchmarkEstablished/profile=aws/proto=tcp/flows=1/dir=in/batch=64":                   {2.0, 3.0},
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=65536/dir=both/batch=64":         {1.5, 2.25},
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=1000000/dir=both/batch=64":       {1.4, 2.4},
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=10000000/dir=both/batch=64":      {1.4, 2.4},
		"BenchmarkNewFlow/mapping=endpoint-independent/proto=udp/flows=65536/batch=64":         {2.0, 11.25},
		"BenchmarkNewFlow/mapping=address-and-port-dependent/proto=udp/flows=1000000/batch=64": {2.0, 4.05},
		"BenchmarkStatic/entries=100000/proto=tcp/dir=out/batch=64":                            {1.3, 2.4},
	} {
		most, limit, ok := goal(name)
		if !ok || most != want[0] || math.Abs(limit-want[1]) > 1e-9 {
			t.Errorf("%s: %v, %v, %v", name, most, limit, ok)
		}
	}
	if _, _, ok := goal("BenchmarkOther/flows=1/"); ok {
		t.Error("a goal for a row that is in no table")
	}
}

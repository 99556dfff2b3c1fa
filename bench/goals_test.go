// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"flag"
	"regexp"
	"testing"
)

// limits makes a benchmark fail whose engine is slower, in floors, than slack times its goal. It is for CI, and for long enough
// runs: what is run once is not measured.
var limits = flag.Bool("limits", false, "fail where a row of the engine exceeds 1.5 times its goal in floors")

// slack is how far above its goal a row may be before it fails.
const slack = 1.5

// goals are what the rows of the engine are to cost at most, in floors. The first pattern that fits a name counts; every
// row with an x-floor needs one.
var goals = []struct {
	row  *regexp.Regexp
	most float64
}{
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=1/`), 2.0},
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=65536/`), 1.5},
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=10*/`), 1.4},
	{regexp.MustCompile(`^BenchmarkNewFlow/`), 2.0},
	{regexp.MustCompile(`^BenchmarkStatic/`), 1.3},
}

// goal is what a row is to cost at most, in floors.
func goal(name string) (most float64, ok bool) {
	for _, g := range goals {
		if g.row.MatchString(name) {
			return g.most, true
		}
	}
	return 0, false
}

// tries is how often a row is measured that exceeds its limit: what the engine costs shows each time, what a neighbour of the
// machine costs does not.
const tries = 5

// within has a row measured, and again if it exceeds its limit; measure returns how many floors it costs, 0 if it was not
// compared.
func within(b *testing.B, measure func() float64) {
	b.Helper()
	most, ok := goal(b.Name())
	if !ok {
		b.Fatalf("%s: no goal", b.Name())
	}
	for i := 1; ; i++ {
		x := measure()
		if !*limits || b.N == 1 {
			return
		}
		if x == 0 {
			b.Fatalf("%s was not compared with the floor", b.Name())
		}
		if x <= slack*most {
			return
		}
		b.Logf("%.2f floors; the goal is %.1f, and %.2f fails", x, most, slack*most)
		if i == tries {
			b.Errorf("%s exceeds %v times its goal, %d times in a row", b.Name(), slack, tries)
			return
		}
	}
}

// TestGoals: the table has a goal for the rows that there are.
func TestGoals(t *testing.T) {
	for name, want := range map[string]float64{
		"BenchmarkEstablished/profile=aws/proto=tcp/flows=1/dir=in/batch=64":              2.0,
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=65536/dir=both/batch=64":    1.5,
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=1000000/dir=both/batch=64":  1.4,
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=10000000/dir=both/batch=64": 1.4,
		"BenchmarkNewFlow/mapping=endpoint-independent/proto=udp/flows=65536/batch=64":    2.0,
		"BenchmarkStatic/entries=100000/proto=tcp/dir=out/batch=64":                       1.3,
	} {
		if most, ok := goal(name); !ok || most != want {
			t.Errorf("%s: %v, %v", name, most, ok)
		}
	}
	if _, ok := goal("BenchmarkOther/flows=1/"); ok {
		t.Error("a goal for a row that is in no table")
	}
}

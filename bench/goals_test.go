// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"flag"
	"regexp"
	"testing"
)

// limits makes a benchmark fail whose engine is slower, measured in floors, than the table allows. It is for CI:
//
//	go test ./bench -run '^$' -bench . -benchtime 200000x -short -limits
var limits = flag.Bool("limits", false, "fail where an engine row exceeds its limit")

// slack is how far above its goal a row may be before it fails: a machine that is shared is noisy.
const slack = 1.5

// goals are what the rows of the engine are to cost at most, in floors. A row that is not there yet has a limit of its own
// beside it, which is for finding what makes it slower: it goes down with what makes it faster, and never up; once it is below
// slack times the goal it goes away. The first pattern that fits a name counts, and every row with an x-floor needs one.
var goals = []struct {
	row         *regexp.Regexp
	goal, limit float64
}{
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=1/`), 2.0, 0},
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=65536/`), 1.5, 0},
	{regexp.MustCompile(`^BenchmarkEstablished/.*/flows=10*/`), 1.4, 0},
	{regexp.MustCompile(`^BenchmarkNewFlow/`), 2.0, 0},
	{regexp.MustCompile(`^BenchmarkStatic/`), 1.3, 0},
}

// allowed is what a row may cost, in floors.
func allowed(name string) (most float64, ok bool) {
	for _, g := range goals {
		if g.row.MatchString(name) {
			return max(slack*g.goal, g.limit), true
		}
	}
	return 0, false
}

// tries is how often a row is measured that exceeds its limit: what the engine costs shows each time, what a neighbour of the
// machine does not.
const tries = 3

// within has a row measured, again if it exceeds what it may cost; measure returns the ratio to the floor, 0 for none.
func within(b *testing.B, measure func() float64) {
	b.Helper()
	most, ok := allowed(b.Name())
	if !ok {
		b.Fatalf("%s: no goal", b.Name())
	}
	for i := 1; ; i++ {
		x := measure()
		if !*limits || x <= most {
			return
		}
		b.Logf("%.2f floors, %.2f allowed", x, most)
		if i == tries {
			b.Errorf("%s exceeds its limit of %.2f floors, %d times", b.Name(), most, tries)
			return
		}
	}
}

// TestGoals: the table has a goal for the rows that there are, and no limit that does nothing.
func TestGoals(t *testing.T) {
	for name, want := range map[string]float64{
		"BenchmarkEstablished/profile=aws/proto=tcp/flows=1/dir=in/batch=64":              2.0,
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=65536/dir=both/batch=64":    1.5,
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=1000000/dir=both/batch=64":  1.4,
		"BenchmarkEstablished/profile=gateway/proto=udp/flows=10000000/dir=both/batch=64": 1.4,
		"BenchmarkNewFlow/mapping=endpoint-independent/flows=65536/batch=64":              2.0,
		"BenchmarkStatic/entries=100000/proto=tcp/dir=out/batch=64":                       1.3,
	} {
		most, ok := allowed(name)
		if !ok || most < slack*want {
			t.Errorf("%s: %v, %v", name, most, ok)
		}
	}
	if _, ok := allowed("BenchmarkOther/flows=1/"); ok {
		t.Error("a goal for a row that is in no table")
	}
	for _, g := range goals {
		if g.limit != 0 && g.limit <= slack*g.goal {
			t.Errorf("%s: a limit of %v is no more than the goal allows", g.row, g.limit)
		}
	}
}

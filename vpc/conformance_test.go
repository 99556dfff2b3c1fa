// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rowsOfTheEdge is how many rows each series of the page has that concern this package.
var rowsOfTheEdge = []struct {
	series string
	rows   int
}{{"VPC", 4}, {"IGW", 6}, {"EIP", 10}, {"AUTO", 3}, {"NGW", 13}}

var (
	rowTest = regexp.MustCompile(`^Test(VPC|IGW|EIP|AUTO|NGW)(\d+)_\w+$`)
	rowLine = regexp.MustCompile("(?m)^\\| ((?:VPC|IGW|EIP|AUTO|NGW)-\\d+) \\| [^|]+ \\| ([^|]+) \\| ([^|]*) ?\\|$")
	kept    = regexp.MustCompile(`^(kept(;.+)?|(kept in part|not kept): .+)$`)
)

// TestConformance holds docs/conformance.md against the tests of this package: each row is there once, with a status and
// the tests that are named by it, all of them; only what is not kept has none.
func TestConformance(t *testing.T) {
	page, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testsByRow(t)
	for _, fault := range pageFaults(string(page), tests) {
		t.Error(fault)
	}
	for name, spoiled := range map[string]string{
		"row gone":     regexp.MustCompile(`(?m)^\| EIP-2 .*\n`).ReplaceAllString(string(page), ""),
		"row twice":    regexp.MustCompile(`(?m)^\| EIP-2 .*\n`).ReplaceAllString(string(page), "$0$0"),
		"test missing": strings.Replace(string(page), "`TestEIP2_ConcurrentMovesAreLinear`", "", 1),
		"no status":    regexp.MustCompile(`(?m)^(\| EIP-2 \| [^|]+ \|) kept`).ReplaceAllString(string(page), "$1 fine"),
	} {
		if len(pageFaults(spoiled, tests)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

// testsByRow are the tests of this package that are named by a row, as the page has them.
func testsByRow(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	rows := map[string][]string{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if m := rowTest.FindStringSubmatch(f.Name.Name); m != nil {
					rows[m[1]+"-"+m[2]] = append(rows[m[1]+"-"+m[2]], "`"+f.Name.Name+"`")
				}
			}
		}
	}
	for _, tests := range rows {
		slices.Sort(tests)
	}
	return rows
}

func pageFaults(page string, tests map[string][]string) (faults []string) {
	lines := map[string][]string{}
	for _, m := range rowLine.FindAllStringSubmatch(page, -1) {
		if lines[m[1]] != nil {
			faults = append(faults, m[1]+": is there twice")
		}
		lines[m[1]] = m[2:]
	}
	for _, s := range rowsOfTheEdge {
		for n := range s.rows {
			row := fmt.Sprintf("%s-%d", s.series, n+1)
			line := lines[row]
			if line == nil {
				faults = append(faults, row+": is not on the page")
				continue
			}
			have := strings.FieldsFunc(line[1], func(r rune) bool { return r == ',' || r == ' ' })
			slices.Sort(have)
			switch {
			case !kept.MatchString(line[0]):
				faults = append(faults, fmt.Sprintf("%s: status %q is none, or lacks its reason", row, line[0]))
			case !slices.Equal(have, tests[row]):
				faults = append(faults, fmt.Sprintf("%s: tests %v, want %v", row, have, tests[row]))
			case len(have) == 0 && !strings.HasPrefix(line[0], "not kept"):
				faults = append(faults, row+": has no test")
			}
		}
	}
	return faults
}

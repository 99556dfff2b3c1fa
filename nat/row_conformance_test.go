// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// TestConformance holds docs/conformance.md against the tests: every row of its list is in its tables, with a status and
// with tests that exist, and every test that is named by a row is in the row's line.
func TestConformance(t *testing.T) {
	page, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range conformanceFaults(t, string(page), rowTests(t)) {
		t.Error(fault)
	}
}

// TestConformanceFindsFaults plants what TestConformance is to find.
func TestConformanceFindsFaults(t *testing.T) {
	page, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := rowTests(t)
	line := regexp.MustCompile(`(?m)^\| T-2 .*\n`)
	for name, spoiled := range map[string]string{
		"row gone":        line.ReplaceAllString(string(page), ""),
		"row twice":       line.ReplaceAllString(string(page), "$0$0"),
		"no test":         strings.Replace(string(page), "`TestT2_SimultaneousOpen`", "", 1),
		"unknown test":    strings.Replace(string(page), "`TestT2_SimultaneousOpen`", "`TestT2_Other`", 1),
		"other row's":     strings.Replace(string(page), "`TestT2_SimultaneousOpen`", "`TestT4_HeldSYNIsForgotten`", 1),
		"no status":       strings.Replace(string(page), "(RFC 5382 REQ-2a) | kept |", "(RFC 5382 REQ-2a) | fine |", 1),
		"without reason":  strings.Replace(string(page), "(RFC 5382 REQ-2a) | kept |", "(RFC 5382 REQ-2a) | not kept |", 1),
		"no test needed":  strings.Replace(string(page), "does not apply: IPv4 only | |", "does not apply: IPv4 only | `TestT2_SimultaneousOpen` |", 1),
		"list is missing": regexp.MustCompile(`(?m)^> .*\n`).ReplaceAllString(string(page), ""),
	} {
		if spoiled == string(page) {
			t.Errorf("%s: the page is as before", name)
		} else if len(conformanceFaults(t, spoiled, tests)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
	if len(conformanceFaults(t, string(page), append(slices.Clone(tests), "TestT2_Another"))) == 0 {
		t.Error("a test that is not on the page: not found")
	}
}

// TestConformanceRates recomputes what the page says that profiles sustain.
func TestConformanceRates(t *testing.T) {
	page, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []nat.Profile{nat.GatewayProfile(), nat.RFCProfile(), nat.AWSProfile()} {
		line := regexp.MustCompile("(?m)^\\| `" + f.Name + "` \\|.*").FindString(string(page))
		ports := int(f.PortMax) - int(f.PortMin) + 1
		if f.PortsPerDestination > 0 {
			ports = f.PortsPerDestination
		}
		for _, held := range []time.Duration{f.Timeouts.TCPClosing, f.Timeouts.DNS, f.Timeouts.UDP} {
			for _, waits := range []time.Duration{0, f.Quarantine} {
				s := int((held + waits) / time.Second)
				if want := fmt.Sprintf("%s / %d s = %s", thousands(ports), s, thousands(ports/s)); !strings.Contains(line, want) {
					t.Errorf("%s: not there: %s", f.Name, want)
				}
			}
		}
		if byDestination := f.Mapping[nat.ClassTCP] == nat.AddressAndPortDependent; strings.Contains(strings.Split(line, "|")[2], "each destination") != byDestination {
			t.Errorf("%s: ports by destination: %t", f.Name, byDestination)
		}
	}
}

func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// rowTests are the names of the tests in row_*_test.go that are named by a row.
func rowTests(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("row_*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, f := range files {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && testName.MatchString(f.Name.Name) {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

var (
	// The series of the edge are package vpc's.
	testName  = regexp.MustCompile(`^Test(SG|[A-Z])(\d+)_\w+$`)
	tableLine = regexp.MustCompile(`(?m)^\| ((?:SG|[A-Z])-\d+) \| ([^|]+) \| ([^|]+) \| ([^|]*) ?\|$`)
	status    = regexp.MustCompile(`^(kept(;.+)?|(kept by option|kept in part|not kept|does not apply): .+)$`)
	rowRange  = regexp.MustCompile(`\b(SG|[A-Z])-(\d+)(?: to (SG|[A-Z])-(\d+))?`)
)

// conformanceFaults compares a page with the tests that there are.
func conformanceFaults(t *testing.T, page string, tests []string) (faults []string) {
	t.Helper()
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	rows, named := map[string]bool{}, map[string]bool{}
	for _, m := range tableLine.FindAllStringSubmatch(page, -1) {
		row := m[1]
		if rows[row] {
			add("%s: is there twice", row)
		}
		rows[row] = true
		if !status.MatchString(m[3]) {
			add("%s: status %q is none, or lacks its reason", row, m[3])
		}
		if outside := strings.HasPrefix(m[3], "does not apply"); outside || strings.TrimSpace(m[4]) == "" {
			if outside != (strings.TrimSpace(m[4]) == "") {
				add("%s: has no test, or needs none", row)
			}
			continue
		}
		for _, name := range strings.Split(m[4], ",") {
			name = strings.Trim(name, " `")
			named[name] = true
			if !slices.Contains(tests, name) {
				add("%s: there is no test %q", row, name)
			} else if rowOf(name) != row {
				add("%s: %s is a test of another row", row, name)
			}
		}
	}
	for _, name := range tests {
		if !named[name] {
			add("%s: is not on the page", name)
		}
	}
	want := listed(page)
	if len(want) < 100 {
		add("the list has %d rows", len(want))
	}
	for _, row := range want {
		if !rows[row] {
			add("%s: is in the list, but in no table", row)
		}
	}
	return faults
}

// rowOf is the row that a test is named by.
func rowOf(test string) string {
	m := testName.FindStringSubmatch(test)
	return m[1] + "-" + m[2]
}

// listed are the rows of the page's list, which is its quotation.
func listed(page string) (rows []string) {
	for _, line := range strings.Split(page, "\n") {
		if !strings.HasPrefix(line, "> ") {
			continue
		}
		for _, m := range rowRange.FindAllStringSubmatch(line, -1) {
			first, _ := strconv.Atoi(m[2])
			last := first
			if m[4] != "" {
				last, _ = strconv.Atoi(m[4])
			}
			for n := first; n <= last; n++ {
				rows = append(rows, fmt.Sprintf("%s-%d", m[1], n))
			}
		}
	}
	return rows
}

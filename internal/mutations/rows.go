// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// required are the rows that must have a patch: those without which there is no NAT, or no security group. More may have one.
const required = "K-1 to K-6, M-1 to M-15, M-17, U-1 to U-8, T-1 to T-15, I-1 to I-16, H-1 to H-4, F-1 to F-10, C-5, SG-1 to SG-15"

// row is a row of the page that is asked for: its tests, and its patch, "" if there is none.
type row struct {
	name  string
	tests []string
	patch string
}

var (
	tableLine = regexp.MustCompile(`(?m)^\| ([A-Z]+-\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$`)
	rowRange  = regexp.MustCompile(`([A-Z]+)-(\d+)(?: to [A-Z]+-(\d+))?`)
)

// readTree is what there is to do in a tree: all that is required or has a patch, or the named ones.
func readTree(root, required string, names []string) ([]row, error) {
	page, err := os.ReadFile(filepath.Join(root, "docs/conformance.md"))
	if err != nil {
		return nil, err
	}
	patches, err := filepath.Glob(filepath.Join(root, "testdata/mutations/*.patch"))
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	for _, p := range patches {
		have[strings.TrimSuffix(filepath.Base(p), ".patch")] = p
	}
	if len(names) == 0 {
		names = expand(required)
		for _, p := range patches {
			if name := strings.TrimSuffix(filepath.Base(p), ".patch"); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	tests := map[string][]string{}
	for _, m := range tableLine.FindAllStringSubmatch(string(page), -1) {
		for t := range strings.SplitSeq(m[2], ",") {
			tests[m[1]] = append(tests[m[1]], strings.Trim(t, " `"))
		}
	}
	var rows []row
	for _, name := range names {
		if len(tests[name]) == 0 {
			return nil, fmt.Errorf("docs/conformance.md has no row %s with tests", name)
		}
		rows = append(rows, row{name, tests[name], have[name]})
	}
	return rows, nil
}

// expand writes "M-1 to M-3, T-2" out.
func expand(list string) (names []string) {
	for _, m := range rowRange.FindAllStringSubmatch(list, -1) {
		first, _ := strconv.Atoi(m[2])
		last := first
		if m[3] != "" {
			last, _ = strconv.Atoi(m[3])
		}
		for n := first; n <= last; n++ {
			names = append(names, fmt.Sprintf("%s-%d", m[1], n))
		}
	}
	return names
}

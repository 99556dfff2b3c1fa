// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTree: every row that must have a patch has tests and a patch that applies.
func TestTree(t *testing.T) {
	t.Parallel()
	needGit(t)
	rows, err := readTree("../..", required, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < 91 {
		t.Errorf("%d rows", len(rows))
	}
	for _, r := range rows {
		if r.patch == "" {
			t.Errorf("%s has no patch", r.name)
		} else if _, err := plant(t.Context(), "../..", r.patch, t.TempDir()); err != nil {
			t.Errorf("%s: %v", r.patch, err)
		}
	}
}

// toy is a tree with a row for each thing that may happen.
var toy = map[string]string{
	"go.mod": "module toy\n\ngo 1.26\n",
	"docs/conformance.md": "| M-1 | adds | kept | `TestM1_Adds` |\n| M-2 | says nothing | kept | `TestM2_Nothing` |\n" +
		"| M-3 | is gone | kept | `TestM3_Gone` |\n| M-4 | adds | kept | `TestM1_Adds`, `TestM2_Nothing` |\n" +
		"| M-5 | adds | kept | `TestM1_Adds` |\n| M-6 | adds | kept | `TestM1_Adds` |\n| M-7 | adds | kept | `TestM1_Adds` |\n",
	"nat/nat.go":      "package nat\n\nfunc Add(a, b int) int {\n\treturn a + b\n}\n",
	"nat/row_test.go": "package nat\n\nimport \"testing\"\n\nfunc TestM1_Adds(t *testing.T) {\n\tif Add(1, 2) != 3 {\n\t\tt.Error(\"no sum\")\n\t}\n}\n\nfunc TestM2_Nothing(t *testing.T) {}\n",
	// Not of a row: left out, or it would not build.
	"nat/other_test.go": "package nat\n\nvar _ = noSuchThing\n",

	"testdata/mutations/M-1.patch": patch("return a - b"),
	"testdata/mutations/M-2.patch": patch("return a - b"),
	"testdata/mutations/M-3.patch": patch("return a - b"),
	"testdata/mutations/M-4.patch": patch("panic(a)"),
	"testdata/mutations/M-5.patch": patch("return c"),
	"testdata/mutations/M-6.patch": strings.Replace(patch("return a"), "return a + b", "return b + a", 1),
}

func patch(line string) string {
	return "A mistake.\n\n--- a/nat/nat.go\n+++ b/nat/nat.go\n@@ -9,3 +9,3 @@\n func Add(a, b int) int {\n-\treturn a + b\n+\t" + line + "\n }\n"
}

func TestFates(t *testing.T) {
	t.Parallel()
	needGit(t)
	root := t.TempDir()
	for name, text := range toy {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := readTree(root, "M-1 to M-4, M-7", nil)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	results := runAll(t.Context(), root, rows, 2, func() bool { return true }, func(result) { told++ })
	want := map[string]fate{"M-1": found, "M-2": survived, "M-3": untested, "M-4": found, "M-5": unbuilt, "M-6": unapplied, "M-7": missing}
	if len(results) != len(want) || told != len(want) {
		t.Errorf("%d results, %d told, want %d", len(results), told, len(want))
	}
	for _, r := range results {
		if r.fate != want[r.name] {
			t.Errorf("%s: %s (%s), want %s", r.name, r.fate, r.note, want[r.name])
		}
	}
	if r := results[0]; r.note != "no sum" {
		t.Errorf("the test said %q", r.note)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := runAll(ctx, root, rows[:1], 1, func() bool { return true }, func(result) {}); r[0].fate == found {
		t.Error("found without a run")
	}
	n := 0
	if r := runAll(t.Context(), root, rows[5:], 1, func() bool { n++; return n < 2 }, func(result) {}); len(r) != 1 {
		t.Errorf("%d results, want one", len(r))
	}
}

func TestReadTree(t *testing.T) {
	t.Parallel()
	rows, err := readTree("../..", required, []string{"U-6"})
	if err != nil || len(rows) != 1 || !slices.Equal(rows[0].tests, []string{"TestU6_ComputedZeroIsAllOnes"}) {
		t.Errorf("%+v, %v", rows, err)
	}
	if _, err := readTree("../..", required, []string{"Q-1"}); err == nil {
		t.Error("there is no row Q-1")
	}
	if got := strings.Join(expand("M-1 to M-3, T-10, SG-9 to SG-10"), " "); got != "M-1 M-2 M-3 T-10 SG-9 SG-10" {
		t.Error(got)
	}
}

// needGit: patches are applied by git, which a machine that was given an archive of the sources may not have.
func needGit(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git, which applies the patches, is not installed")
	}
}

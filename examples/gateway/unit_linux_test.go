// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestUnit: systemd finds no fault with the shipped unit, and its exposure is what the documentation says, or less.
func TestUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	b, err := os.ReadFile("systemd/tidegate.service")
	if err != nil {
		t.Fatal(err)
	}
	// A program that is there, in the place of ours.
	unit := filepath.Join(t.TempDir(), "tidegate.service")
	text := strings.ReplaceAll(string(b), "/usr/local/sbin/gateway", "/bin/true")
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	verify := func() string {
		t.Helper()
		out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	if out := verify(); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", unit).CombinedOutput()
	m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) `).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	if v, err := strconv.ParseFloat(string(m[1]), 64); err != nil || v > 2.6 {
		t.Errorf("the exposure is %s, and documented as 2.6", m[1])
	}
	// That it would find one.
	if err := os.WriteFile(unit, []byte(text+"Frobnicate=yes\n[Service]\nFrobnicate=yes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := verify(); !strings.Contains(out, "Frobnicate") {
		t.Errorf("a key that there is not: %s", out)
	}
}

// TestUnitAllowsIOURing: the filter of system calls leaves io_uring to the gateway, and is one.
func TestUnitAllowsIOURing(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	b, err := os.ReadFile("systemd/tidegate.service")
	if err != nil {
		t.Fatal(err)
	}
	var members func(names ...string) []string
	members = func(names ...string) (calls []string) {
		for _, n := range names {
			if !strings.HasPrefix(n, "@") {
				calls = append(calls, n)
				continue
			}
			out, err := exec.Command(analyze, "syscall-filter", n).Output()
			if err != nil {
				t.Fatalf("%s: %v", n, err)
			}
			for line := range strings.Lines(string(out)) {
				if line = strings.TrimSpace(line); line != "" && line != n && line[0] != '#' {
					calls = append(calls, members(line)...)
				}
			}
		}
		return calls
	}
	allowed := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		list, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !ok {
			continue
		}
		list, not := strings.CutPrefix(list, "~")
		for _, call := range members(strings.Fields(list)...) {
			allowed[call] = !not
		}
	}
	for _, call := range slices.Concat(members("@aio"), []string{"capset"}) {
		if !allowed[call] {
			t.Errorf("%s is not allowed", call)
		}
	}
	if !allowed["io_uring_enter"] || allowed["setuid"] || allowed["mount"] {
		t.Errorf("the filter is not what it says: io_uring_enter %t, setuid %t, mount %t", allowed["io_uring_enter"], allowed["setuid"], allowed["mount"])
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// The story without privileges, twice at the same time: asked for, and as what remains.
func TestNetstack(t *testing.T) {
	t.Parallel()
	asked, fallback := startOrdinary(t, "--mode", "netstack"), startOrdinary(t)
	r := asked()
	r.good(t)
	if r.report.Mode != modeNetstack || r.stderr != "" {
		t.Errorf("mode %q, %q", r.report.Mode, r.stderr)
	}
	r = fallback()
	r.good(t)
	if r.report.Mode != modeNetstack {
		t.Errorf("without privileges, the mode is %q", r.report.Mode)
	}
	if !strings.Contains(r.stderr, "gVisor netstacks") || !strings.Contains(r.stderr, errLacking.Error()) || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("it falls back with %q", r.stderr)
	}
	for name, by := range r.report.Tools {
		if by != "Go" {
			t.Errorf("%s is done by %s", name, by)
		}
	}
}

// Each fault is noticed as with real kernels.
func TestNetstackFaults(t *testing.T) { testFaults(t, "--mode", modeNetstack) }

// What needs privileges says so.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--mode", "kernel"}, {"--keep"}} {
		if r := startOrdinary(t, args...)(); r.code != exitPrivilege || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("vpc %s: exit %d, %q", strings.Join(args, " "), r.code, r.stderr)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	got, err := parseStat("cpu  100 5 60 700 30 7 8 9 50 4\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5\n")
	want := machineTime{Busy: 1800 * time.Millisecond, Idle: 7300 * time.Millisecond, Stolen: 90 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "cpu  1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 4 x 6 7 8\n", "cpu 1 2 3 -4 5 6 7 8\n"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

func TestParseProcess(t *testing.T) {
	got, err := parseProcess("4242 (a) (b c) S 17 4242 4242 0 -1 4194560 1 0 0 0 250 31 9 9 20 0 7 0 100 1 1 1\n")
	want := processTime{PID: 4242, Parent: 17, Ran: 2810 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 sh S 1", "1 (sh) S 1 2 3", ")1 (sh S 0 1 1 0 -1 1 1 0 0 0 250 31", "x (sh) S 0 1 1 0 -1 1 1 0 0 0 250 31 1"} {
		if got, err := parseProcess(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

// TestFamily: a forwarder is all that it has started, and nobody else.
func TestFamily(t *testing.T) {
	all := []processTime{{1, 0, 1}, {10, 1, 2}, {12, 11, 4}, {11, 10, 8}, {20, 1, 16}, {21, 20, 32}, {30, 99, 64}}
	for root, want := range map[int]time.Duration{10: 14, 11: 12, 20: 48, 30: 64, 99: 64, 98: 0} {
		if got := family(all, root); got != want {
			t.Errorf("family of %d ran %d, want %d", root, got, want)
		}
	}
}

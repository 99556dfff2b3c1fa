// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the agent that it starts, as the program itself is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestVisit measures the kernel, with and without NAT, for a moment: every kind of load arrives, both ways, and the figures
// agree with each other.
func TestVisit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for i := range peers[:2] {
		t.Run(peers[i].name, func(t *testing.T) {
			r, err := visit(t, &peers[i], 100*time.Millisecond)
			// On a busy machine nobody may have had his turn within such a window.
			for window := 400 * time.Millisecond; err == nil && window < 7*time.Second && slices.ContainsFunc(r.Samples, starved); window *= 4 {
				r, err = visit(t, &peers[i], window)
			}
			for _, absent := range []error{unix.EPERM, unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT} {
				if errors.Is(err, absent) {
					t.Skip("namespaces, or nf_tables in them, are not to be had here: ", err)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			consistent(t, r)
		})
	}
}

func visit(t *testing.T, p *peer, window time.Duration) (*results, error) {
	r := &run{ctx: t.Context(), results: &results{Peers: []outcome{{Name: p.name}},
		Options: options{Rounds: 1, Warmup: 20 * time.Millisecond, Window: window, Quick: true}}, progress: io.Discard, rows: rows}
	err := r.rounds(&workshop{ctx: t.Context()}, []peer{*p})
	return r.results, err
}

func starved(s sample) bool { return s.Error == errNothing.Error() }

func consistent(t *testing.T, r *results) {
	t.Helper()
	if len(r.Samples) != len(rows) {
		t.Fatalf("%d samples, want %d", len(r.Samples), len(rows))
	}
	for _, s := range r.Samples {
		if s.Error != "" || s.Value <= 0 {
			t.Errorf("%s, %s: %v, %q", s.Peer, s.Row, s.Value, s.Error)
		}
		switch {
		case s.Pings > 0 && (s.Value > s.P90 || s.P90 > s.P99):
			t.Errorf("%s, %s: percentiles %v, %v, %v", s.Peer, s.Row, s.Value, s.P90, s.P99)
		case s.Row == "udp-gso" && s.Packets < 2*s.Reads:
			t.Errorf("%s, %s: %v segments in %v messages, though nothing splits them here", s.Peer, s.Row, s.Packets, s.Reads)
		case s.Row == "tcp-crr" && (s.Connections == 0 || s.Failed > 0):
			t.Errorf("%s, %s: %d connections, %d failed", s.Peer, s.Row, s.Connections, s.Failed)
		}
	}
	var b strings.Builder
	if err := writeTable(&b, r); err != nil || strings.Contains(b.String(), "NaN") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// TestUnable: a peer that cannot be measured is missing, and the others are visited.
func TestUnable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	unable := peer{name: "unable", get: "elsewhere", start: func(*workshop, *bed) error { return errors.New("it will not") }}
	r := &run{ctx: t.Context(), results: &results{Peers: []outcome{{Name: "unable"}, {Name: "kernel"}},
		Options: options{Rounds: 2, Window: 50 * time.Millisecond}}, progress: io.Discard, rows: rows[:1]}
	if err := r.rounds(&workshop{ctx: t.Context()}, []peer{unable, peers[0]}); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("namespaces are not to be had here: ", err)
		}
		t.Fatal(err)
	}
	if m := r.results.Missing; len(m) != 1 || m[0] != (absence{"unable", "it will not", "elsewhere"}) || len(r.results.Peers) != 1 || len(r.results.Samples) != 2 {
		t.Errorf("%+v", r.results)
	}
}

// TestStop: a run that is told to stop does so, and leaves no programs.
func TestStop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var b *bed
	stopping := peer{name: "stopping", cable: true, forward: true, start: func(_ *workshop, made *bed) error {
		b = made
		cmd := made.forwarderCommand("sleep", "1000")
		defer cancel()
		return made.start(cmd)
	}}
	r := &run{ctx: ctx, results: &results{Options: options{Rounds: 1, Window: time.Hour}}, progress: io.Discard, rows: rows}
	if err := r.rounds(&workshop{ctx: ctx}, []peer{stopping}); err == nil {
		t.Fatal("it did not stop")
	}
	if len(b.programs) != 3 {
		t.Fatalf("%d programs, want both agents and the forwarder", len(b.programs))
	}
	for _, cmd := range b.programs {
		if cmd.ProcessState == nil {
			t.Errorf("%s runs", cmd.Path)
		}
	}
}

// TestUsage: what cannot be done is refused before anything is, with the code for it.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--rounds", "0"}, {"--window", "1ms"}, {"--only", "nobody"}, {"--no-such-flag"}, {"extra"}} {
		var out, errOut bytes.Buffer
		if code := execute(args, &out, &errOut); code != exitUsage || out.Len() > 0 || !strings.HasPrefix(errOut.String(), "sidebyside: ") {
			t.Errorf("%v: %d, %q, %q", args, code, out.String(), errOut.String())
		}
	}
	var out bytes.Buffer
	if code := execute([]string{"--help"}, &out, &out); code != 0 || !strings.Contains(out.String(), "slirp4netns") {
		t.Errorf("help: %d, %s", code, out.String())
	}
}

// TestChosen: names choose peers, rows or both, and the base is always there; some peers have to be named.
func TestChosen(t *testing.T) {
	usual := len(peers) - 1 // but for tidegate-queues
	for only, want := range map[string][2]int{"": {usual, len(rows)}, "tidegate": {2, len(rows)}, base: {1, len(rows)},
		"tidegate-queues": {2, len(rows)}, "tcp-crr": {usual, 1}, "pasta,udp-small,udp-gso": {2, 2}} {
		c := &cli{}
		if only != "" {
			c.Only = strings.Split(only, ",")
		}
		ps, rs := c.chosen()
		if got := [2]int{len(ps), len(rs)}; got != want {
			t.Errorf("%q: %v peers and rows, want %v", only, got, want)
		}
	}
}

// TestMissing: a program that is not there is said to be, with its name.
func TestMissing(t *testing.T) {
	if v, err := program(t.Context(), "none", "no-such-program-at-all"); err == nil || !strings.Contains(err.Error(), "no-such-program-at-all") {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := exec.LookPath("true"); err == nil {
		if _, err := program(t.Context(), "none", "true"); err != nil {
			t.Error(err)
		}
	}
	ours := []string{"kernel", "tidegate", "tidegate-spin", "tidegate-queues", "water"} // all of it is in this tree, or in the kernel
	for _, p := range peers {
		if p.get == "" && !slices.Contains(ours, p.name) {
			t.Errorf("%s: nobody says how to get it", p.name)
		}
	}
}

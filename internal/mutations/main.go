// SPDX-License-Identifier: Apache-2.0

// Mutations proves the tests of the conformance rows: each patch in testdata/mutations plants the kind of mistake that its
// row forbids, and a test that docs/conformance.md names for that row has to find it.
//
//	go run ./internal/mutations                          all rows
//	go run ./internal/mutations U-6 T-10                 some
//	go run ./internal/mutations -first 30 -within 5m     from the 30th on and around, as many as there is time for
//
// The tree stays as it is: the compiler reads the patched files through an overlay. Exit code 0 says that every mistake
// was found, 1 names those that were not, the patches that no longer apply and the rows without one; 2 is bad usage.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	first := flag.Int("first", 0, "the row to begin with, counted from 0 and around; the rows before it come last")
	within := flag.Duration("within", 0, "begin no row after this time; 0 is no bound")
	jobs := flag.Int("j", 2, "how many at once")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./internal/mutations [-first N] [-within TIME] [-j N] [ROW...]   (in the root of the tree)")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *first < 0 || *within < 0 || *jobs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rows, err := readTree(".", required, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutations:", err)
		os.Exit(2)
	}
	n := *first % len(rows)
	rows = slices.Concat(rows[n:], rows[:n])
	start := time.Now()
	more := func() bool { return ctx.Err() == nil && (*within == 0 || time.Since(start) < *within) }
	results := runAll(ctx, ".", rows, *jobs, more, func(r result) { fmt.Printf("%-5s %-16s %5.1f s  %s\n", r.name, r.fate, r.took.Seconds(), r.note) })
	var bad []string
	for _, r := range results {
		if r.fate != found {
			bad = append(bad, fmt.Sprintf("%s (%s)", r.name, r.fate))
		}
	}
	fmt.Printf("%d of %d mistakes found, %d s\n", len(results)-len(bad), len(results), int(time.Since(start).Seconds()))
	if left := rows[len(results):]; len(left) > 0 {
		fmt.Printf("no time for %d more: %s to %s\n", len(left), left[0].name, left[len(left)-1].name)
	}
	if len(bad) > 0 || ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "mutations: not found:", strings.Join(bad, ", "))
		os.Exit(1)
	}
}

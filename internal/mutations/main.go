// SPDX-License-Identifier: Apache-2.0

// Mutations proves the tests of the conformance rows: each patch in testdata/mutations plants the kind of mistake that its
// row forbids, and a test that docs/conformance.md names for that row has to find it.
//
//	go run ./internal/mutations               all rows
//	go run ./internal/mutations U-6 T-10      some
//	go run ./internal/mutations -part 2/3     the second of three parts
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
	"strings"
	"time"
)

func main() {
	part := flag.String("part", "1/1", "K/N: rows K, K+N, K+2N ... only")
	jobs := flag.Int("j", 2, "how many at once")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./internal/mutations [-part K/N] [-j N] [ROW...]   (in the root of the tree)")
		flag.PrintDefaults()
	}
	flag.Parse()
	var k, n int
	if _, err := fmt.Sscanf(*part, "%d/%d", &k, &n); err != nil || k < 1 || k > n || *jobs < 1 {
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
	var mine []row
	for i := k - 1; i < len(rows); i += n {
		mine = append(mine, rows[i])
	}
	start := time.Now()
	results := runAll(ctx, ".", mine, *jobs, func(r result) { fmt.Printf("%-5s %-16s %5.1f s  %s\n", r.name, r.fate, r.took.Seconds(), r.note) })
	var bad []string
	for _, r := range results {
		if r.fate != found {
			bad = append(bad, fmt.Sprintf("%s (%s)", r.name, r.fate))
		}
	}
	fmt.Printf("%d of %d mistakes found, %d s\n", len(results)-len(bad), len(results), int(time.Since(start).Seconds()))
	if len(bad) > 0 {
		fmt.Fprintln(os.Stderr, "mutations: not found:", strings.Join(bad, ", "))
		os.Exit(1)
	}
}

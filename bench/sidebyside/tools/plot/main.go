// SPDX-License-Identifier: Apache-2.0

// Command plot draws what the measurements leave, as SVG and PNG:
//
//	plot gateway results.json OUT    # of bench/sidebyside: throughput and latency beside the other ways
//	plot engine bench.txt OUT        # of go test ./bench -bench .: ns/packet against flows
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("plot gateway|engine FILE OUT")
	}
	b, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "gateway":
		return gateway(b, args[2])
	case "engine":
		return engine(string(b), args[2])
	}
	return fmt.Errorf("nothing to plot is called %q", args[0])
}

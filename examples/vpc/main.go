// SPDX-License-Identifier: Apache-2.0

// Command vpc tells the story of a VPC edge on this machine, with real kernels and real programs, and judges it: four
// hosts in a private network, an internet with a package mirror, a client and a scanner, and Tidegate between them.
//
// It prints for each of eight steps what was expected and what was seen. It needs Linux, root and /dev/net/tun; all it
// makes lives in network namespaces of its own, and goes when it ends, however it ends.
//
// Exit codes: 0 all as expected; 1 something differed, or failed; 2 bad usage; 3 missing privilege or device.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/story"
	"github.com/tidegate/tidegate/tun"
)

const (
	exitOK = iota
	exitFailed
	exitUsage
	exitPrivilege
)

type options struct {
	JSON  bool   `help:"Print the report as JSON instead of text." name:"json"`
	Pcap  string `help:"Write inside.pcapng and outside.pcapng to this directory." placeholder:"DIR"`
	Keep  bool   `help:"When the story is over, keep the lab up until interrupted, and print how to enter each host."`
	Fault string `help:"Plant a fault, which the story must report; \"list\" names them." placeholder:"NAME"`
	Go    bool   `help:"Use no program of this machine (apt-get, curl, ssh, ...), but Go clients and servers." name:"go"`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	code := -1
	parser, err := kong.New(&o, kong.Name("vpc"), kong.Writers(stdout, stderr), kong.Exit(func(c int) { code = c }),
		kong.Description("Tells the story of a VPC edge on this machine, with real kernels and programs, and judges it. Exit codes: "+
			"0 all as expected; 1 something differed or failed; 2 bad usage; 3 missing privilege or device."))
	if err != nil {
		fmt.Fprintln(stderr, "vpc:", err)
		return exitFailed
	}
	_, err = parser.Parse(args)
	if code >= 0 { // --help
		return code
	}
	if err != nil {
		fmt.Fprintf(stderr, "vpc: %v; see --help\n", err)
		return exitUsage
	}
	if o.Fault == "list" {
		for _, name := range story.FaultNames() {
			fmt.Fprintf(stdout, "%-11s %s\n", name, story.Faults[name].Text)
		}
		return exitOK
	}
	if _, ok := story.Faults[o.Fault]; !ok && o.Fault != "" {
		fmt.Fprintf(stderr, "vpc: no fault %q; choose one of: %s\n", o.Fault, strings.Join(story.FaultNames(), ", "))
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := tell(ctx, &o, stdout, stderr)
	switch {
	case errors.Is(err, errLacking):
		fmt.Fprintln(stderr, "vpc:", err)
		return exitPrivilege
	case err != nil:
		fmt.Fprintln(stderr, "vpc:", err)
		return exitFailed
	case !report.OK:
		return exitFailed
	}
	return exitOK
}

var errLacking = errors.New("this needs Linux, root and /dev/net/tun")

// lacking says whether err comes from what the process may not do, or the machine does not have.
func lacking(err error) bool {
	for _, e := range []error{os.ErrPermission, tun.ErrNoDevice, tun.ErrPermission, errors.ErrUnsupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// tell makes the world, tells the story in it and prints the report.
func tell(ctx context.Context, o *options, stdout, stderr io.Writer) (report *story.Report, err error) {
	text := stdout
	if o.JSON {
		text = io.Discard
	}
	var fault lab.Fault
	if o.Fault != "" {
		fault = story.Faults[o.Fault].Plant()
	}
	network, err := story.NewNetwork()
	if err != nil {
		return nil, err
	}
	var taps []lab.Tap
	so := story.Options{Progress: func(s story.Step) { s.WriteText(text) }}
	if o.Pcap != "" {
		capture, err := lab.NewCapture(o.Pcap)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, capture.Close()) }()
		taps = append(taps, capture.Tap)
		so.Mark = capture.Mark
	}
	world, err := story.NewKernelWorld(network, fault, taps...)
	if lacking(err) {
		err = fmt.Errorf("%w: %w", errLacking, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	tools := story.FindTools(o.Go)
	tools.WriteText(text)
	s, err := story.New(ctx, network, world, tools)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	report = s.Run(ctx, so)
	report.Fault = o.Fault
	report.WriteText(text)
	if o.JSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(report); err != nil {
			return nil, err
		}
	}
	if o.Keep && ctx.Err() == nil {
		fmt.Fprintln(stderr, "\nThe lab stays up until interrupted (Ctrl-C). To enter a host:")
		for _, line := range world.Enter() {
			fmt.Fprintln(stderr, " ", line)
		}
		<-ctx.Done()
	}
	return report, nil
}

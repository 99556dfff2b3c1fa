// SPDX-License-Identifier: Apache-2.0

// Command vpc tells the story of a VPC edge on this machine and judges it: four hosts in a private network, an internet
// with a package mirror, a client and a scanner, and Tidegate between them. It prints for each of eight steps what was
// expected and what was seen.
//
// The story has two forms. In the one, --mode kernel, the hosts are network namespaces with real kernels and real
// programs; it needs Linux, root and /dev/net/tun, and all it makes goes when it ends, however it ends. In the other,
// --mode netstack, the hosts are gVisor's network stack in this process and what would be programs is Go; it needs
// nothing and runs on any system. Steps and judgement are the same. Without --mode it is the first where that can be
// had, else the second, which it says.
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

// The forms of the story.
const (
	modeAuto     = "auto"
	modeKernel   = "kernel"
	modeNetstack = "netstack"
)

type options struct {
	Mode  string `help:"What the hosts are: kernel (network namespaces and the programs of this machine; needs Linux, root and /dev/net/tun), netstack (gVisor's stack in this process, and Go; needs nothing), or auto, which is kernel where that is possible." enum:"auto,kernel,netstack" default:"auto"`
	JSON  bool   `help:"Print the report as JSON instead of text." name:"json"`
	Pcap  string `help:"Write inside.pcapng and outside.pcapng to this directory." placeholder:"DIR"`
	Keep  bool   `help:"When the story is over, keep the lab up until interrupted, and print how to enter each host. Not with --mode netstack."`
	Fault string `help:"Plant a fault, which the story must report; \"list\" names them." placeholder:"NAME"`
	Go    bool   `help:"Use no program of this machine (apt-get, curl, ssh, ...), but Go clients and servers." name:"go"`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	code := -1
	parser, err := kong.New(&o, kong.Name("vpc"), kong.Writers(stdout, stderr), kong.Exit(func(c int) { code = c }),
		kong.Description("Tells the story of a VPC edge on this machine and judges it. Exit codes: "+
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
	if o.Keep && o.Mode == modeNetstack {
		fmt.Fprintln(stderr, "vpc: --keep is for entering the hosts, and those of --mode netstack cannot be entered: leave out one of the two")
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

var errLacking = errors.New("real kernels need Linux, root and /dev/net/tun")

// lacking says whether err comes from what the process may not do, or the machine does not have.
func lacking(err error) bool {
	for _, e := range []error{os.ErrPermission, tun.ErrNoDevice, tun.ErrPermission, errors.ErrUnsupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// makeWorld makes a world of the form that was asked for, and says which it is.
func makeWorld(o *options, n *story.Network, stderr io.Writer, taps ...lab.Tap) (w story.World, mode string, err error) {
	var fault lab.Fault
	if o.Fault != "" {
		fault = story.Faults[o.Fault].Plant()
	}
	if o.Mode != modeNetstack {
		w, err = story.NewKernelWorld(n, fault, taps...)
		switch {
		case !lacking(err):
			return w, modeKernel, err
		case o.Mode == modeKernel:
			return nil, "", fmt.Errorf("%w (--mode netstack does not): %w", errLacking, err)
		case o.Keep:
			return nil, "", fmt.Errorf("no hosts to keep: %w: %w", errLacking, err)
		}
		fmt.Fprintf(stderr, "vpc: the hosts are gVisor netstacks in this process (--mode netstack), because %v: %v\n", errLacking, err)
	}
	w, err = story.NewNetstackWorld(n, fault, taps...)
	return w, modeNetstack, err
}

// tell makes the world, tells the story in it and prints the report.
func tell(ctx context.Context, o *options, stdout, stderr io.Writer) (report *story.Report, err error) {
	text := stdout
	if o.JSON {
		text = io.Discard
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
	world, mode, err := makeWorld(o, network, stderr, taps...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	tools := story.FindTools(o.Go || mode == modeNetstack)
	if mode == modeNetstack {
		fmt.Fprintln(text, "Hosts: gVisor netstacks in this process, which run no programs. Clients and servers: Go.")
	} else {
		tools.WriteText(text)
	}
	s, err := story.New(ctx, network, world, tools)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	report = s.Run(ctx, so)
	report.Mode, report.Fault = mode, o.Fault
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

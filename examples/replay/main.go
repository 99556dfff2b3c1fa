// SPDX-License-Identifier: Apache-2.0

// Command replay takes a capture through the NAT and writes what comes out as another capture: with the gateway's own
// configuration, on the clock of the capture, without a device or privilege, and with the same bytes every time and
// everywhere. It answers what a change of configuration would have done to yesterday's traffic, and what became of one
// packet and why.
//
// The packets of a pcapng file arrive on the side that their interface is named after, inside or outside; those of a
// classic pcap, which has no names, on the side given with --side. A capture of both sides of a router comes from
//
//	dumpcap -i eth1 --ifname inside -i eth0 --ifname outside -w in.pcapng
//
// and one of the inside alone from tcpdump -i eth1 -w in.pcap. (What was captured outside is what came back to the
// router's own ports. Replayed under other ports it is mostly dropped as unasked for, and rightly so: take outside
// packets from where they are not about a NAT's ports, such as forwards and 1:1 mappings, or from a capture that replay
// made with the same seed.)
//
// # A worked example
//
// testdata has a capture of a query and its answer over UDP, a connection to a port forward, a stray SYN, a packet whose time
// to live is over, and an ARP request:
//
//	$ replay --config testdata/replay.yaml --seed 1 --drain 10s testdata/in.pcapng out.pcapng
//	8 packets in 2.5s: 4 from inside, 4 from outside
//	     5 sent on
//	         2 outbound: translated, inside to outside
//	         3 inbound: translated, outside to inside
//	     1 held, or sent on in pieces
//	         1 held_syn: an inbound SYN kept for six seconds in case the inside asks for it
//	     1 dropped
//	         1 ttl: the time to live ended here
//	     1 not for the engine
//	         1 not_ipv4: not an IPv4 packet
//	7 packets written: 4 inside, 3 outside; 2 of them made by the engine, 1 by a timer
//
// The SYN that nobody asked for was answered six seconds later by a timer, which --drain let fire: after the last packet
// the clock stops otherwise. And why was packet 6 not let in?
//
//	$ replay --config testdata/replay.yaml --seed 1 --explain 6 testdata/in.pcapng
//	packet    tcp 198.51.100.7:41000 > 203.0.113.1:22, SYN, 40 bytes, TTL 63, DF
//	from      outside, attachment 1
//	policy    Pools[0]: "outside": endpoint-independent mapping, endpoint-independent filtering
//	session   none
//	verdict   held_syn: an inbound SYN kept for six seconds in case the inside asks for it
//
// # What it does, exactly
//
// Time is that of the packets, from the first one on, and never steps back: a packet with an earlier stamp is taken at the
// latest time there was. Timers fire between packets at their own times. What leaves is written to the interface of its
// side, stamped with the time of the packet or timer that caused it, as bare IPv4 packets (link type 228). The engine is
// the router on both sides, so the TTL falls by one; there is no MTU. It has one shard, and all chance in it comes from
// --seed; the seed 0 is a number like any other here.
//
// Link types are raw IP, IPv4 and Ethernet; VLAN tags are skipped. Packets that are no IPv4, that the snap length has cut
// within the IP packet, or of other interfaces are not given to the engine, and counted.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/nat"
)

const description = `Take a capture through the NAT, on its own clock, and write what comes out: same input and seed, same bytes.

Examples:
  replay --config gateway.yaml --seed 1 in.pcapng out.pcapng
  replay --config gateway.yaml --side inside lan.pcap out.pcapng
  replay --config gateway.yaml --verdicts - in.pcapng out.pcapng | jq 'select(.verdict == "no_mapping")'
  replay --config gateway.yaml --explain 17 in.pcapng

Exit codes: 0 as asked (also if packets were dropped), 1 failed while running, 2 bad usage, configuration or input.`

const (
	exitOK     = 0
	exitFailed = 1
	exitInput  = 2
)

type cli struct {
	Config   string           `short:"c" required:"" placeholder:"FILE" help:"Configuration, as of the gateway. What it says of devices is not used."`
	Seed     uint64           `placeholder:"N" default:"0" help:"Where all chance comes from: ports, IP identifications, hashes."`
	Side     string           `enum:"inside,outside," default:"" placeholder:"SIDE" help:"For a classic pcap: the side of its packets, inside or outside."`
	Verdicts string           `placeholder:"FILE" help:"Write a line of JSON for each packet of IN; - is standard output, and sends the summary to standard error."`
	Drain    time.Duration    `placeholder:"D" help:"Let the clock go on for so long after the last packet, such as 10s, for timers to fire."`
	Explain  int              `placeholder:"N" help:"Explain what becomes of packet N, counted from 1. Without OUT nothing else is done."`
	JSON     bool             `name:"json" help:"Explain in JSON."`
	Version  kong.VersionFlag `help:"Print the version."`

	In  string `arg:"" name:"IN" help:"Capture to read: pcapng with interfaces named inside and outside, or pcap."`
	Out string `arg:"" name:"OUT" optional:"" help:"Capture to write: pcapng."`
}

// inputError is a usage, a configuration or an input that cannot be followed.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

func badInput(format string, args ...any) error { return inputError{fmt.Errorf(format, args...)} }

// seedOfZero is what the seed 0 is for the engine, where 0 stands for a random one.
const seedOfZero = 0x7469646567617465

// engine is the configured engine, which is a router here.
func (o *cli) engine() (*nat.Engine, error) {
	c, err := config.Load(o.Config)
	if err != nil {
		return nil, inputError{err}
	}
	p, cfg := c.Compile()
	p.Attachments = []nat.Attachment{{ID: nat.FromInside, Side: nat.Inside, Router: true}, {ID: nat.FromOutside, Side: nat.Outside, Router: true}}
	if cfg.Shards, cfg.Seed = 1, o.Seed; cfg.Seed == 0 {
		cfg.Seed = seedOfZero
	}
	e, err := nat.New(cfg, p)
	if err != nil {
		return nil, inputError{err}
	}
	return e, nil
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program; it returns the exit code.
func run(args []string, out, errOut io.Writer) int {
	exit := -1 // set by --help and --version
	var o cli
	p, err := kong.New(&o, kong.Name("replay"), kong.Description(description), kong.Writers(out, errOut),
		kong.Exit(func(code int) { exit = code }), kong.Vars{"version": "tidegate replay " + version()},
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 120}))
	if err != nil {
		fmt.Fprintln(errOut, err)
		return exitFailed
	}
	_, err = p.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(errOut, "replay: %v (see replay --help)\n", err)
		return exitInput
	}
	err = o.run(out, errOut)
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(errOut, "replay: %s\n", line)
	}
	if errors.As(err, new(inputError)) {
		return exitInput
	}
	return exitFailed
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}

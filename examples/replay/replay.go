// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/tidegate/tidegate/internal/pcapng"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// replay is a run.
type replay struct {
	o      *cli
	engine *nat.Engine
	worker *nat.Worker
	in     *pcapng.Reader
	out    *pcapng.Writer // nil: nothing is written
	lines  *lines         // nil: no verdicts are
	report io.Writer      // of explanation and summary

	start, clock int64         // of the first packet, and now: nanoseconds since 1970
	next         time.Duration // when the engine wants a Tick, from start on
	sum          summary
}

// run opens everything, runs, and closes it; what went wrong is the error.
func (o *cli) run(stdout, stderr io.Writer) (err error) {
	if o.Out == "" && o.Explain == 0 {
		return badInput("nothing to do: name a file OUT to write, or --explain N")
	}
	if o.Explain < 0 || o.Drain < 0 {
		return badInput("--explain and --drain cannot be negative")
	}
	r := &replay{o: o, report: stdout}
	if r.engine, err = o.engine(); err != nil {
		return err
	}
	r.worker = r.engine.Worker()
	file, err := os.Open(o.In)
	if err != nil {
		return inputError{err}
	}
	defer file.Close()
	if r.in, err = pcapng.NewReader(file); err != nil {
		return badInput("%s: %w", o.In, err)
	}
	switch {
	case r.in.Classic() && o.Side == "":
		return badInput("%s is a classic pcap, which has no names of interfaces: add --side inside or --side outside", o.In)
	case !r.in.Classic() && o.Side != "":
		return badInput("%s is pcapng, whose interfaces name their sides: leave out --side", o.In)
	}
	if o.Verdicts == "-" {
		r.lines, r.report = newLines(stdout), stderr
	} else if o.Verdicts != "" {
		f, err := create(o.Verdicts, file)
		if err != nil {
			return err
		}
		r.lines = newLines(f)
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	if o.Out != "" {
		f, err := create(o.Out, file)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		r.out = pcapng.NewWriter(f)
	}
	err = r.run()
	if r.out != nil {
		err = errors.Join(err, r.out.Flush())
	}
	if r.lines != nil {
		err = errors.Join(err, r.lines.flush())
	}
	if r.out != nil || r.lines != nil {
		r.sum.write(r.report)
	}
	return err
}

// create makes a file, but not over the one that is read.
func create(name string, in *os.File) (*os.File, error) {
	if a, err := os.Stat(name); err == nil {
		if b, err := in.Stat(); err == nil && os.SameFile(a, b) {
			return nil, badInput("%s is the capture to read: name another file to write", name)
		}
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, inputError{err}
	}
	return f, nil
}

// errExplained ends a run that was for an explanation alone.
var errExplained = errors.New("explained")

func (r *replay) run() error {
	if r.out != nil {
		for _, side := range []nat.Side{nat.Inside, nat.Outside} { // their numbers in OUT are those of the sides
			if _, err := r.out.Interface(side.String(), ""); err != nil {
				return err
			}
		}
	}
	var p pcapng.Packet
	for {
		err := r.in.Next(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badInput("%s: %w", r.o.In, err)
		}
		if err := r.packet(&p); err != nil {
			if errors.Is(err, errExplained) {
				return nil
			}
			return err
		}
	}
	if r.o.Explain > r.sum.packets {
		return badInput("%s has %d packets, so there is no packet %d to explain", r.o.In, r.sum.packets, r.o.Explain)
	}
	if n := r.sum.skips[otherInterface]; n > 0 && n == r.sum.packets {
		return badInput("%s has no packet from an interface named inside or outside: its interfaces are named %q", r.o.In, r.sum.others)
	}
	if r.sum.packets == 0 {
		return nil
	}
	return r.advance(r.clock + int64(min(r.o.Drain, time.Duration(1<<63-1-r.clock))))
}

// side is where the packets of an interface come from.
func (r *replay) side(in *pcapng.Interface) (nat.Side, bool) {
	name := in.Name
	if r.in.Classic() {
		name = r.o.Side
	}
	return nat.Side(max(0, slices.Index(sideNames, name))), slices.Contains(sideNames, name)
}

var sideNames = []string{nat.Inside.String(), nat.Outside.String()}

// packet takes one packet through.
func (r *replay) packet(p *pcapng.Packet) error {
	if r.sum.packets == 0 {
		r.start, r.clock = p.Time, p.Time
	}
	r.sum.packets++
	if err := r.advance(max(r.clock, p.Time)); err != nil {
		return err
	}
	r.sum.took = time.Duration(r.clock - r.start)
	side, ok := r.side(p.Interface)
	if !ok {
		r.sum.other(p.Interface.Name)
		return r.skip(p, "", skipped(otherInterface, "interface %q", p.Interface.Name))
	}
	if !knownLink(p.Interface.Link) {
		return badInput("%s: %w", r.o.In, &pcapng.Error{Packet: p.Number, Offset: p.Offset, Text: fmt.Sprintf(
			"interface %q has link type %d: want raw IP (101), IPv4 (228) or Ethernet (1)", p.Interface.Name, p.Interface.Link)})
	}
	r.sum.arrived[side]++
	b, why := ipv4(p)
	if why != nil {
		return r.skip(p, side.String(), why)
	}
	return r.translate(p, side, b)
}

// translate gives a packet to the engine, and writes what comes of it.
func (r *replay) translate(p *pcapng.Packet, side nat.Side, b []byte) error {
	q := packet.Packet{Buf: b, Len: len(b)}
	from, now := nat.AttachmentID(side), time.Duration(r.clock-r.start)
	if p.Number == r.o.Explain {
		if err := r.explain(r.engine.Explain(&q, from, now)); err != nil {
			return err
		}
	}
	var before nat.Header
	if r.lines != nil {
		before = nat.ReadHeader(b)
	}
	v := r.worker.Translate(&q, from, now)
	r.sum.verdicts[v]++
	if v.Forward() {
		if err := r.write(v.Side(), r.clock, q.Bytes()); err != nil {
			return err
		}
	}
	if r.lines != nil {
		l := line{Packet: p.Number, Side: side.String(), Verdict: v.String(), Reason: v.Text(), Flow: before.Flow(), Emitted: len(r.worker.Emitted())}
		if v.Forward() {
			after := nat.ReadHeader(q.Bytes())
			l.To, l.Became, l.Mapping = v.Side().String(), after.Flow(), mapping(v, &before, &after)
		}
		if err := r.lines.write(&l, r.clock, r.clock > p.Time); err != nil {
			return err
		}
	}
	return r.emit(r.clock)
}

// skip notes a packet that the engine does not get.
func (r *replay) skip(p *pcapng.Packet, side string, why *skip) error {
	r.sum.skips[why.reason]++
	if r.lines != nil {
		l := line{Packet: p.Number, Side: side, Verdict: reasonTexts[why.reason].name, Reason: why.String()}
		if err := r.lines.write(&l, r.clock, r.clock > p.Time); err != nil {
			return err
		}
	}
	if p.Number == r.o.Explain {
		return r.explain(fmt.Sprintf("packet %d was not for the engine: %v", p.Number, why))
	}
	return nil
}

// explain prints what there is to say about the packet that the question was about.
func (r *replay) explain(x any) error {
	if r.o.JSON {
		b, err := json.MarshalIndent(x, "", "  ")
		if err != nil {
			return err
		}
		x = string(b)
	}
	if _, err := fmt.Fprintln(r.report, x); err != nil {
		return err
	}
	if r.out == nil && r.lines == nil {
		return errExplained
	}
	return nil
}

// advance moves the clock on. Timers fire at their times.
func (r *replay) advance(to int64) error {
	now := time.Duration(to - r.start)
	for at, ok := r.engine.NextTimer(); ok && at <= now; at, ok = r.engine.NextTimer() {
		r.worker.Tick(at)
		r.sum.timers += len(r.worker.Emitted())
		if err := r.emit(r.start + int64(at)); err != nil {
			return err
		}
	}
	for r.next <= now { // gives back what has ended by then, in steps
		r.next = r.worker.Tick(now)
	}
	r.clock = to
	return nil
}

// emit writes what the engine has just made.
func (r *replay) emit(at int64) error {
	for _, e := range r.worker.Emitted() {
		r.sum.emitted++
		if err := r.write(e.Side, at, e.Packet.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) write(side nat.Side, at int64, b []byte) error {
	r.sum.written[side]++
	if r.out == nil {
		return nil
	}
	return r.out.Packet(int(side), at, b)
}

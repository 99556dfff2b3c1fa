// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// run is a run of all rounds.
type run struct {
	ctx      context.Context
	results  *results
	progress io.Writer
	rows     []row
	ports    int // how many ephemeral ports "in" has
}

// describeMachine is for the results.
func describeMachine() (m machine, err error) {
	m = machine{Kernel: release(), Go: runtime.Version(), CPUs: runtime.NumCPU(), Processor: runtime.GOARCH}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	for line := range strings.SplitSeq(string(cpu), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			m.Processor = strings.TrimSpace(v)
			break
		}
	}
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	if f := strings.Fields(string(mem)); len(f) > 1 {
		m.MemoryKiB, err = strconv.Atoi(f[1])
		if err != nil {
			return m, err
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, err
	}
	m.Load, _, _ = strings.Cut(string(load), " ")
	return m, nil
}

// rounds visits the peers in turn. One that cannot be measured at all is missing from then on, and that is an error
// only when nobody is left.
func (r *run) rounds(w *workshop, visited []peer) error {
	r.results.Started = time.Now()
	done := 0
	for round := range r.results.Options.Rounds {
		for i := 0; i < len(visited); {
			p := visited[i]
			left := ""
			if done > 0 {
				each := time.Since(r.results.Started) / time.Duration(done)
				left = fmt.Sprintf(", %s to go", (each * time.Duration((r.results.Options.Rounds-round)*len(visited)-i)).Round(time.Second))
			}
			fmt.Fprintf(r.progress, "round %d of %d, %s%s\n", round+1, r.results.Options.Rounds, p.name, left)
			err := r.visit(w, &p, round+1)
			if r.ctx.Err() != nil {
				return r.ctx.Err()
			}
			if err != nil {
				fmt.Fprintf(r.progress, "  missing: %v\n", err)
				r.results.Missing = append(r.results.Missing, absence{p.name, firstLine(err), p.get})
				r.results.Peers = slices.DeleteFunc(r.results.Peers, func(o outcome) bool { return o.Name == p.name })
				if visited = slices.Delete(slices.Clone(visited), i, i+1); len(visited) == 0 {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				continue
			}
			done++
			i++
		}
	}
	r.results.Ended = time.Now()
	return nil
}

// visit measures one peer in namespaces of its own. A row that fails is a sample with an error; the next is tried.
func (r *run) visit(w *workshop, p *peer, round int) error {
	b, err := newBed(r.ctx, p.cable, p.forward)
	if err != nil {
		return err
	}
	defer b.close()
	if err := p.start(w, b); err != nil {
		return err
	}
	if err := b.reachable(); err != nil {
		return err
	}
	if r.ports, err = ephemeral(b); err != nil {
		return err
	}
	for _, row := range r.rows {
		s, err := r.measure(b, &row)
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		s.Round, s.Peer, s.Row, s.Unit = round, p.name, row.name, row.unit
		if err != nil {
			s.Error = err.Error()
			fmt.Fprintf(r.progress, "  %-10s %v\n", row.name, err)
		} else {
			fmt.Fprintf(r.progress, "  %-10s %8s %s\n", row.name, figure(s.Value), row.unit)
		}
		r.results.Samples = append(r.results.Samples, s)
	}
	return nil
}

// errNothing is what a row ends with whose load did not arrive within its window.
var errNothing = errors.New("nothing arrived")

// moment is all counters at one time.
type moment struct {
	client, server counts
	machine        machineTime
	forwarder      time.Duration
}

func (r *run) now(b *bed) (m moment, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, err
	}
	if m.machine, err = parseStat(string(stat)); err != nil {
		return m, err
	}
	if b.forwarder != 0 {
		all, err := processes()
		if err != nil {
			return m, err
		}
		m.forwarder = family(all, b.forwarder)
	}
	for _, a := range []struct {
		from *remote
		to   *counts
	}{{b.client, &m.client}, {b.server, &m.server}} {
		c, err := a.from.ask(request{Op: "count"})
		if err != nil {
			return m, err
		}
		*a.to = c.counts
	}
	return m, nil
}

// processes reads those that are there; one that goes meanwhile is left out.
func processes() (all []processTime, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		p, err := parseProcess(string(b))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// measure measures a row: its load runs, and after the warm-up all counters are read at both ends of the window.
func (r *run) measure(b *bed, row *row) (s sample, err error) {
	if row.load.Kind != "" {
		q := row.load
		q.Op, q.Server = "start", serverAddr.String()
		defer func() {
			if e := r.quiet(b); err == nil {
				err = e
			}
		}()
		if _, err := b.client.ask(q); err != nil {
			return s, err
		}
	}
	if err := r.wait(r.results.Options.Warmup); err != nil {
		return s, err
	}
	from, err := r.now(b)
	if err != nil {
		return s, err
	}
	var pings reply
	if row.rtt {
		pings, err = b.client.ask(request{Op: "rtt", Server: serverAddr.String(), For: r.results.Options.Window, Gap: row.gap})
	} else {
		err = r.wait(r.results.Options.Window)
	}
	if err != nil {
		return s, err
	}
	until, err := r.now(b)
	if err != nil {
		return s, err
	}
	// Short connections go on past the range of ports, unless in a quick run, and at most so long.
	if row.load.Kind == kindCRR && !r.results.Options.Quick {
		for range 10 {
			if until.client.Done-from.client.Done > uint64(r.ports) {
				break
			}
			if err := r.wait(r.results.Options.Window); err != nil {
				return s, err
			}
			if until, err = r.now(b); err != nil {
				return s, err
			}
		}
	}
	return r.sample(row, from, until, pings)
}

// quiet ends the load and waits until what was under way has arrived, so that the next row does not count it.
func (r *run) quiet(b *bed) error {
	if _, err := b.client.ask(request{Op: "stop"}); err != nil {
		return err
	}
	for before := ^uint64(0); ; {
		c, err := b.server.ask(request{Op: "count"})
		if err != nil || c.Bytes == before {
			return err
		}
		before = c.Bytes
		if err := r.wait(50 * time.Millisecond); err != nil {
			return err
		}
	}
}

// sample makes the figures.
func (r *run) sample(row *row, from, until moment, pings reply) (s sample, err error) {
	taker := [2]counts{from.server, until.server} // whoever receives counts, on his own clock
	if row.load.Down || row.load.Kind == kindCRR {
		taker = [2]counts{from.client, until.client}
	}
	s.Seconds = time.Duration(taker[1].At - taker[0].At).Seconds()
	bytes := float64(taker[1].Bytes - taker[0].Bytes)
	s.BusySeconds = (until.machine.Busy - from.machine.Busy).Seconds()
	s.StolenSeconds = (until.machine.Stolen - from.machine.Stolen).Seconds()
	s.ForwarderSeconds = (until.forwarder - from.forwarder).Seconds()
	switch row.load.Kind {
	case kindTCP:
		s.Value = bytes * 8 / s.Seconds / 1e9
	case kindUDP, kindGSO:
		s.Packets = bytes / float64(row.size)
		s.Offered = float64(until.client.Sent-from.client.Sent) / float64(row.size)
		s.Reads = float64(until.server.Reads - from.server.Reads)
		s.Value = s.Packets / s.Seconds / 1e3
	case kindCRR:
		s.Connections, s.Failed = int(until.client.Done-from.client.Done), int(until.client.Failed-from.client.Failed)
		s.Wrapped = s.Connections > r.ports
		s.Value = float64(s.Connections) / s.Seconds
	}
	if row.rtt {
		slices.Sort(pings.RTT)
		s.Pings, s.Lost = len(pings.RTT), pings.Lost
		if s.Pings == 0 {
			return s, errNoAnswer
		}
		µs := func(p float64) float64 { return float64(percentile(pings.RTT, p)) / 1e3 }
		s.Value, s.P90, s.P99 = µs(50), µs(90), µs(99)
	} else if s.Value == 0 {
		return s, errNothing
	}
	return s, nil
}

// wait lets the load run.
func (r *run) wait(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// ephemeral is how many ports the client's kernel gives to connections.
func ephemeral(b *bed) (int, error) {
	text, err := b.in.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, err
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return 0, fmt.Errorf("ip_local_port_range: %q: %w", text, err)
	}
	return high - low + 1, nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// base is the peer whose median is 1.00.
const base = "nft"

// column is one figure of a peer, taken from its samples.
type column struct {
	title, unit string
	small       bool
	row         string
	value       func(*sample) (float64, bool)
}

func value(s *sample) (float64, bool) { return s.Value, true }

// perPacket is processor time in µs a datagram.
func perPacket(seconds func(*sample) float64) func(*sample) (float64, bool) {
	return func(s *sample) (float64, bool) { return seconds(s) / s.Packets * 1e6, s.Packets > 0 }
}

func busy(s *sample) float64      { return s.BusySeconds }
func forwarder(s *sample) float64 { return s.ForwarderSeconds }

// columns are all figures of the table.
func columns() (cs []column) {
	for _, r := range rows {
		c := column{title: r.title, unit: r.unit, small: r.small, row: r.name, value: value}
		if !r.rtt {
			cs = append(cs, c)
			continue
		}
		for _, p := range []struct {
			name  string
			value func(*sample) (float64, bool)
		}{
			{"p50", value},
			{"p90", func(s *sample) (float64, bool) { return s.P90, s.Pings > 0 }},
			{"p99", func(s *sample) (float64, bool) { return s.P99, s.Pings > 0 }},
		} {
			c.title, c.value = r.title+" "+p.name, p.value
			cs = append(cs, c)
		}
	}
	return append(cs,
		column{title: fmt.Sprintf("whole machine, µs a packet, at %d kpps", pacedRate/1000), unit: "µs", small: true, row: "rtt-load", value: perPacket(busy)},
		column{title: fmt.Sprintf("forwarder, µs a packet, at %d kpps", pacedRate/1000), unit: "µs", small: true, row: "rtt-load", value: perPacket(forwarder)},
		column{title: "whole machine, µs a packet, UDP small", unit: "µs", small: true, row: "udp-small", value: perPacket(busy)},
		column{title: "forwarder, µs a packet, UDP small", unit: "µs", small: true, row: "udp-small", value: perPacket(forwarder)})
}

// of are a column's values for one peer, in the order of the rounds.
func (c *column) of(r *results, peer string) (vs []float64) {
	for i := range r.Samples {
		s := &r.Samples[i]
		if s.Peer == peer && s.Row == c.row && s.Error == "" {
			if v, ok := c.value(s); ok {
				vs = append(vs, v)
			}
		}
	}
	return vs
}

// writeTable writes the results as Markdown: the peers side by side, and then each figure with its spread.
func writeTable(w io.Writer, r *results) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d processors, %d MiB; Linux %s; %s; load before the run %s.\n", r.Machine.Processor, r.Machine.CPUs,
		r.Machine.MemoryKiB>>10, r.Machine.Kernel, r.Machine.Go, r.Machine.Load)
	fmt.Fprintf(&b, "%s to %s; %d rounds, peers in turn; windows of %s after %s.\n\n", r.Started.UTC().Format(time.DateTime),
		r.Ended.UTC().Format(time.TimeOnly), r.Options.Rounds, r.Options.Window, r.Options.Warmup)

	b.WriteString("| peer | version | what it does |\n|---|---|---|\n")
	for _, p := range r.Peers {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", p.Name, p.Version, p.What)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "| %s | missing: %s | %s |\n", m.Name, m.Why, m.Get)
	}

	cs := slices.DeleteFunc(columns(), func(c column) bool {
		return !slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Row == c.row })
	})
	fmt.Fprintf(&b, "\nMedians as a ratio to that of %s; of latencies and processor time less is better.\n\n| |", base)
	for _, p := range r.Peers {
		fmt.Fprintf(&b, " %s |", p.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.Peers)) + "\n")
	for _, c := range cs {
		if c.unit == "µs" && strings.HasPrefix(c.title, "forwarder") {
			continue // the kernel's is no process
		}
		fmt.Fprintf(&b, "| %s |", c.title)
		one := median(c.of(r, base))
		for _, p := range r.Peers {
			vs := c.of(r, p.Name)
			if len(vs) == 0 || one == 0 {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(&b, " %.2f |", median(vs)/one)
		}
		b.WriteByte('\n')
	}

	b.WriteString("\nMedian (lowest-highest) of the rounds.\n\n| |")
	for _, p := range r.Peers {
		fmt.Fprintf(&b, " %s |", p.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.Peers)) + "\n")
	for _, c := range cs {
		name := c.title
		if !strings.Contains(name, c.unit+" a packet") {
			name += ", " + c.unit
		}
		fmt.Fprintf(&b, "| %s |", name)
		for _, p := range r.Peers {
			vs := c.of(r, p.Name)
			if len(vs) == 0 {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(&b, " %s (%s-%s) |", figure(median(vs)), figure(slices.Min(vs)), figure(slices.Max(vs)))
		}
		b.WriteByte('\n')
	}
	writeNotes(&b, r)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeNotes writes what the tables do not show: failures, and how the datagrams arrived.
func writeNotes(b *strings.Builder, r *results) {
	b.WriteByte('\n')
	for _, p := range r.Peers {
		var whole, sent, arrived []float64
		wrapped, crr, failed, lost, pings := 0, 0, 0, 0, 0
		for i := range r.Samples {
			s := &r.Samples[i]
			if s.Peer != p.Name {
				continue
			}
			if s.Error != "" {
				fmt.Fprintf(b, "- %s, round %d, %s: %s\n", s.Peer, s.Round, s.Row, s.Error)
				continue
			}
			pings, lost = pings+s.Pings, lost+s.Lost
			switch {
			case s.Row == "udp-gso" && s.Reads > 0:
				whole = append(whole, s.Packets/s.Reads)
			case s.Row == "udp-small":
				sent, arrived = append(sent, s.Offered/s.Seconds/1e3), append(arrived, s.Value)
			case s.Row == "tcp-crr":
				crr++
				failed += s.Failed
				if s.Wrapped {
					wrapped++
				}
			}
		}
		var parts []string
		if len(whole) > 0 {
			parts = append(parts, fmt.Sprintf("super-packets arrive in pieces of %s segments", figure(median(whole))))
		}
		if len(sent) > 0 {
			parts = append(parts, fmt.Sprintf("UDP small offered %s kpps", figure(median(sent))))
		}
		if crr > 0 {
			parts = append(parts, fmt.Sprintf("TCP CRR past the ephemeral range in %d of %d, %d failed", wrapped, crr, failed))
		}
		if lost > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d pings lost", lost, pings+lost))
		}
		if len(parts) > 0 {
			fmt.Fprintf(b, "- %s: %s\n", p.Name, strings.Join(parts, "; "))
		}
	}
}

// figure has three digits that count.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

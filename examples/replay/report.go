// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// line is what is written about a packet of the input.
type line struct {
	// Packet counts from 1.
	Packet int `json:"packet"`
	// Time is when it was taken, which is later than its own stamp if Late.
	Time string `json:"time"`
	Late bool   `json:"late,omitempty"`
	Side string `json:"side,omitempty"`
	// Verdict is that of the engine, or why the engine did not get it; Reason its sentence.
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	// Flow is what came, Became what left, To which side.
	Flow   string `json:"flow,omitempty"`
	To     string `json:"to,omitempty"`
	Became string `json:"became,omitempty"`
	// Mapping is the inside endpoint and its external one.
	Mapping string `json:"mapping,omitempty"`
	// Emitted is how many packets the engine sent beside it: errors, RSTs, pieces.
	Emitted int `json:"emitted"`
}

// lines writes lines.
type lines struct {
	w   *bufio.Writer
	enc *json.Encoder
}

func newLines(w io.Writer) *lines {
	b := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false) // flows have a ">"
	return &lines{b, enc}
}

func (l *lines) write(v *line, at int64, late bool) error {
	v.Time, v.Late = time.Unix(0, at).UTC().Format(time.RFC3339Nano), late
	return l.enc.Encode(v)
}

func (l *lines) flush() error { return l.w.Flush() }

// mapping is the pair of endpoints that made after of before.
func mapping(v nat.Verdict, before, after *nat.Header) string {
	pair := func(in, ext *nat.Header, end func(*nat.Header) string) string {
		if in.Identifier != ext.Identifier {
			return fmt.Sprintf("%s id %d = %s id %d", end(in), in.Identifier, end(ext), ext.Identifier)
		}
		return end(in) + " = " + end(ext)
	}
	source := func(h *nat.Header) string { return h.Source }
	destination := func(h *nat.Header) string { return h.Destination }
	switch v {
	case nat.Outbound, nat.StaticOutbound, nat.Hairpin:
		return pair(before, after, source)
	case nat.Inbound, nat.StaticInbound:
		return pair(after, before, destination)
	case nat.ErrorOutbound:
		return pair(before.Quote, after.Quote, destination)
	case nat.ErrorInbound:
		return pair(after.Quote, before.Quote, source)
	}
	return ""
}

// summary counts.
type summary struct {
	packets         int
	arrived         [2]int // by side
	verdicts        [nat.NumVerdicts]int
	skips           [numReasons]int
	others          []string // names of interfaces that are of no side
	written         [2]int
	emitted, timers int
	took            time.Duration // of the capture
}

// other notes the name of an interface, one of the first few.
func (s *summary) other(name string) {
	if len(s.others) < 8 && !slices.Contains(s.others, name) {
		s.others = append(s.others, name)
	}
}

// write prints the summary.
func (s *summary) write(w io.Writer) {
	fmt.Fprintf(w, "%s in %v: %d from inside, %d from outside\n", packets(s.packets), s.took.Round(time.Microsecond), s.arrived[nat.Inside], s.arrived[nat.Outside])
	s.group(w, "sent on", nat.Verdict.Forward)
	s.group(w, "held, or sent on in pieces", func(v nat.Verdict) bool { return !v.Forward() && !v.Dropped() })
	s.group(w, "dropped", nat.Verdict.Dropped)
	n := 0
	for _, k := range s.skips {
		n += k
	}
	if n > 0 {
		fmt.Fprintf(w, "%6d not for the engine\n", n)
		for why, n := range s.skips {
			if n > 0 {
				fmt.Fprintf(w, "%10d %s: %s\n", n, reasonTexts[why].name, reasonTexts[why].text)
			}
		}
	}
	made := ""
	if s.emitted > 0 {
		made = fmt.Sprintf("; %d of them made by the engine, %d by a timer", s.emitted, s.timers)
	}
	fmt.Fprintf(w, "%s written: %d inside, %d outside%s\n", packets(s.written[0]+s.written[1]), s.written[nat.Inside], s.written[nat.Outside], made)
}

func packets(n int) string {
	if n == 1 {
		return "1 packet"
	}
	return fmt.Sprintf("%d packets", n)
}

// group prints the verdicts of one kind.
func (s *summary) group(w io.Writer, name string, is func(nat.Verdict) bool) {
	n := 0
	for v, k := range s.verdicts {
		if is(nat.Verdict(v)) {
			n += k
		}
	}
	if n == 0 {
		return
	}
	fmt.Fprintf(w, "%6d %s\n", n, name)
	for v, k := range s.verdicts {
		if v := nat.Verdict(v); k > 0 && is(v) {
			fmt.Fprintf(w, "%10d %v: %s\n", k, v, v.Text())
		}
	}
}

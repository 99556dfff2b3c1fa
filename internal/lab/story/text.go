// SPDX-License-Identifier: Apache-2.0

package story

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteText writes a step for people: what was expected, and what was seen.
func (s *Step) WriteText(w io.Writer) {
	fmt.Fprintf(w, "\nStep %d: %s  (%v)\n", s.Number, s.Title, s.Duration.Round(time.Millisecond))
	for _, c := range s.Checks {
		state := "ok  "
		if !c.OK {
			state = "DIFF"
		}
		if c.OK && c.Expected == c.Seen {
			fmt.Fprintf(w, "  %s  %s: expected and seen: %s\n", state, c.What, c.Seen)
			continue
		}
		fmt.Fprintf(w, "  %s  %s: expected: %s; seen: %s\n", state, c.What, c.Expected, c.Seen)
	}
}

// WriteText writes the summary for people.
func (r *Report) WriteText(w io.Writer) {
	checks := 0
	for _, s := range r.Steps {
		checks += len(s.Checks)
	}
	fmt.Fprintf(w, "\nSummary: %d steps, %d checks.\n", len(r.Steps), checks)
	for _, s := range r.Steps {
		state := "as expected"
		if !s.OK {
			state = "DIFFERS"
		}
		fmt.Fprintf(w, "  step %d  %-11s  %s\n", s.Number, state, s.Title)
	}
	if r.Fault != "" {
		fmt.Fprintf(w, "The fault %q was planted: %s.\n", r.Fault, Faults[r.Fault].Text)
	}
	if r.OK {
		fmt.Fprintln(w, "Everything was as expected.")
		return
	}
	if len(r.Steps) < len(steps) {
		fmt.Fprintf(w, "The story was interrupted: it has %d steps.\n", len(steps))
	}
	if len(r.Differing()) == 0 {
		return
	}
	var n []string
	for _, d := range r.Differing() {
		n = append(n, fmt.Sprint(d))
	}
	fmt.Fprintf(w, "Not as expected: step %s.\n", strings.Join(n, ", "))
}

// WriteText writes in one line what does the work.
func (t Tools) WriteText(w io.Writer) {
	var installed, missing []string
	for _, p := range programs {
		if t[p] == "" || t[p] == inGo {
			missing = append(missing, p)
		} else {
			installed = append(installed, p)
		}
	}
	fmt.Fprintf(w, "Programs of this machine: %s. Done in Go instead: %s.\n", orNone(installed), orNone(missing))
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

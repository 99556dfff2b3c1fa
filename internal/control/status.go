// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Status is whether packets can pass.
type Status struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Network is the network namespace that it runs in, such as net:[4026531840]; "" where there are none.
	Network string `json:"network"`
	// Healthy: there are no Faults.
	Healthy bool    `json:"healthy"`
	Faults  []Fault `json:"faults"`
	// Interfaces are how packets are read and written at this moment: inside, then outside.
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// Interface is one of the two devices of the gateway.
type Interface struct {
	Name string `json:"name"`
	Side string `json:"side"`
	// Backend is "io_uring" or "plain", as in the configuration. Reason is why it is not io_uring, where that leaves it open.
	Backend string `json:"backend"`
	Reason  string `json:"reason,omitempty"`
	// Queues is how many it has, each with a worker.
	Queues int `json:"queues"`
}

// Fault is one thing that is wrong.
type Fault struct {
	// Kind is the label in metrics; see the package comment. Subject is what it is about, such as an interface; with the
	// kind it names the fault.
	Kind    string `json:"kind"`
	Subject string `json:"subject,omitempty"`
	// Text is a sentence about it.
	Text string `json:"text"`
	// Since is when it was noticed.
	Since time.Time `json:"since"`
	// Error is why the gateway could not put it right when it last tried.
	Error string `json:"error,omitempty"`
}

// Lines is the faults for people, one each, or "ok".
func Lines(faults []Fault) string {
	if len(faults) == 0 {
		return "ok"
	}
	var lines []string
	for _, f := range faults {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// String is the text, and why it is not put right.
func (f Fault) String() string {
	if f.Error == "" {
		return f.Text
	}
	return f.Text + " (to put that right fails: " + f.Error + ")"
}

// Print writes s for people.
func (s *Status) Print(w io.Writer) error {
	if s.Healthy {
		_, err := fmt.Fprintln(w, "ok")
		return err
	}
	for _, f := range s.Faults {
		since := f.Since.Local().Format("2006-01-02 15:04:05 MST")
		if _, err := fmt.Fprintf(w, "%s, since %s: %s\n", f.Kind, since, f); err != nil {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"strings"
	"time"
)

// String is the explanation for people: some lines, with what each is about in front.
func (x Explanation) String() string {
	var b strings.Builder
	last := ""
	line := func(label, format string, args ...any) {
		if label == last {
			label = ""
		} else {
			last = label
		}
		fmt.Fprintf(&b, "%-9s %s\n", label, fmt.Sprintf(format, args...))
	}
	side := x.Side
	if side == "" {
		side = "nowhere"
	}
	line("packet", "%s", x.Packet.String())
	line("from", "%s, attachment %d", side, x.Attachment)
	for _, p := range x.Policy {
		line("policy", "%s: %s", p.Line, p.Text)
	}
	for i := range x.Sessions {
		line("session", "%s", x.Sessions[i].text())
	}
	if len(x.Sessions) == 0 {
		line("session", "none")
	}
	switch c := x.Port; {
	case c == nil:
	case c.Kept:
		line("port", "%d is kept, since it is free on %v", c.Port, c.Address)
	case c.Min == c.Max:
		line("port", "%d is the only one on %v", c.Port, c.Address)
	default:
		line("port", "%d is the next of %d-%d on %v, taken at random: another flow may get it first", c.Port, c.Min, c.Max, c.Address)
	}
	for _, c := range x.Changes {
		line("change", "%s %s -> %s", c.Field, c.Before, c.After)
	}
	for _, e := range x.Emits {
		line("emits", "to the %s: %s", e.To, e.Packet.String())
	}
	if x.Suppressed {
		line("emits", "no ICMP error: there were too many in this second")
	}
	to := ""
	if x.To != "" {
		to = "; to the " + x.To
	}
	line("verdict", "%v: %s%s", x.Verdict, x.Reason, to)
	return strings.TrimSuffix(b.String(), "\n")
}

func (s *SessionUse) text() string {
	ends := fmt.Sprintf("%s %v = %v, with %v", s.Protocol, s.Inside, s.External, s.Remote)
	state := s.State
	if s.Becomes != "" {
		state += ", which becomes " + s.Becomes
	}
	left := time.Duration(s.Left * float64(time.Second)).Round(time.Millisecond)
	how := "started from inside"
	if s.Inbound {
		how = "started from outside"
	}
	if !s.Replied {
		how += ", not answered"
	}
	switch s.Use {
	case UseNew:
		return fmt.Sprintf("new: %s, %s, for %v", ends, state, left)
	case UseMapping:
		return fmt.Sprintf("the mapping %v = %v of %s, which talks to %v", s.Inside, s.External, s.Protocol, s.Remote)
	case UseQuoted:
		return fmt.Sprintf("of the quoted packet: %s, %s", ends, state)
	}
	return fmt.Sprintf("%s, %s, %s, %v left", ends, state, how, left)
}

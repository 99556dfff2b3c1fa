// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// Event is something that happened to a session.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is session_created, session_established, session_ended, refused (a packet that would have made one), or lost.
	Kind string `json:"kind"`
	// Reason is why a session ended: expired, recycled or cut; or why a packet was refused: the name of a verdict.
	Reason string `json:"reason,omitempty"`
	// Lost is how many events are missing at about this place, since the client did not take them, or the gateway had more
	// than it keeps.
	Lost uint64 `json:"lost,omitempty"`
	// Flow is the session at that time; not there if Kind is lost. The external endpoint of a refused one may be empty.
	Flow *Flow `json:"flow,omitempty"`
}

var kinds = map[string]string{"session_created": "[NEW]", "session_established": "[UPDATE]", "session_ended": "[DESTROY]",
	"refused": "[REFUSED]", "lost": "[LOST]"}

// AppendText appends the line that conntrack -E would print, and the reason of an end. conntrack has no [REFUSED] and
// no [LOST].
func (e *Event) AppendText(b []byte) []byte {
	b = fmt.Appendf(b, "%9s ", kinds[e.Kind])
	f := e.Flow
	switch {
	case f == nil:
		return fmt.Appendf(b, "%d events", e.Lost)
	case e.Kind == "refused":
		original, _ := f.tuples()
		b = f.appendTuple(fmt.Appendf(b, "%-8s %d ", f.Protocol, numbers[f.Protocol]), original, f.Inside, 8)
	case e.Kind == "session_ended":
		b = f.appendTuples(fmt.Appendf(b, "%-8s %d ", f.Protocol, numbers[f.Protocol]))
	default:
		return f.AppendText(b)
	}
	return append(append(b, " reason="...), e.Reason...)
}

// Events calls f with what becomes of the sessions that the parameters choose, until ctx is done or f fails; see
// ParseFilter.
func (c *Client) Events(ctx context.Context, filter url.Values, f func(*Event) error) error {
	return each(ctx, c, "/v1/events", filter, f)
}

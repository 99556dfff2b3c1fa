// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// event takes note of something that happened to a session at a time.
func (t *Twin) event(at int64, kind nat.EventKind, s *session) *nat.Event {
	t.events = append(t.events, nat.Event{
		At: time.Duration(at) * time.Millisecond, Kind: kind, Protocol: s.proto, Inside: s.in, External: s.ext, Remote: s.rem,
		State: s.state(), Inbound: s.tcp.inbound, Replied: s.replied,
	})
	return &t.events[len(t.events)-1]
}

// refused takes note of a session that was not made (L-3).
func (t *Twin) refused(why nat.Verdict, s *session) nat.Verdict {
	e := t.event(t.now, nat.Refused, s)
	e.Verdict, e.State = why, ""
	return why
}

// ended takes note of the end of a session.
func (t *Twin) ended(at int64, why nat.EndReason, s *session) {
	e := t.event(at, nat.SessionEnded, s)
	e.Reason = why
	if t.cfg.FlowCounters {
		e.Packets, e.Bytes = s.packets, s.bytes
	}
}

// CompareEvents reports the first event that only one of the two knows of, or that they tell differently. got is all that
// the engine ever told. Of what happened to different endpoints in the same millisecond the order is free; so is, for the
// engine, when it notices an end.
func (t *Twin) CompareEvents(got []nat.Event) error {
	order := func(a, b nat.Event) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Protocol, b.Protocol), a.Inside.Compare(b.Inside), a.Remote.Compare(b.Remote),
			a.External.Compare(b.External))
	}
	want := slices.Clone(t.events)
	got = slices.Clone(got)
	slices.SortStableFunc(want, order)
	slices.SortStableFunc(got, order)
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("event %d is %v %+v,\nwant %v %+v", i, got[i].Kind, got[i], want[i].Kind, want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("the engine told of %d events, want %d", len(got), len(want))
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/conntrack"
)

// EventKind is what an Event is about.
type EventKind uint8

const (
	// SessionCreated: a session was made. It is followed by one SessionEnded of the same endpoints.
	SessionCreated EventKind = iota + 1
	// SessionEstablished: the other side has answered, of TCP the handshake is done. A TCP session whose ports a new
	// connection took over says so again, and one that was picked up in the middle (StrayPickup) never does.
	SessionEstablished
	// SessionEnded: nothing passes through the session any more; Reason says why.
	SessionEnded
	// Refused: a packet that would have made a session was dropped, for the Verdict of the event: DropNoPort,
	// DropTableFull, DropHostLimit or DropHostRate.
	Refused
)

var eventNames = [...]string{SessionCreated: "session_created", SessionEstablished: "session_established", SessionEnded: "session_ended", Refused: "refused"}

// String is the stable name, as in logs.
func (k EventKind) String() string {
	if k == 0 || int(k) >= len(eventNames) {
		return "invalid"
	}
	return eventNames[k]
}

// EndReason is why a session ended; 0 in other events.
type EndReason uint8

const (
	// EndExpired: nothing refreshed it within its time-out. Event.State says which: "closing" and "reset" are connections
	// that their ends closed.
	EndExpired EndReason = EndReason(conntrack.TimedOut)
	// EndRecycled: the table was full, and it had never seen an answer.
	EndRecycled EndReason = EndReason(conntrack.GaveWay)
	// EndCut: a change of policy ended it.
	EndCut EndReason = EndReason(conntrack.Disagreed)
)

var endNames = [...]string{EndExpired: "expired", EndRecycled: "recycled", EndCut: "cut"}

// String is the stable name, as in logs; "" if there was no end.
func (r EndReason) String() string {
	if int(r) >= len(endNames) {
		return "invalid"
	}
	return endNames[r]
}

// Event is something that happened to a session, for logs and alarms.
type Event struct {
	// At is when it happened, on the clock of the calls, in whole milliseconds. The end of a session is at the moment of
	// its death, however much later a lookup or Tick found it dead.
	At   time.Duration
	Kind EventKind
	// Reason is that of SessionEnded, Verdict that of Refused.
	Reason  EndReason
	Verdict Verdict
	// Protocol and the endpoints are those of the session, as in Session. External is not valid in a Refused for which there
	// was no endpoint.
	Protocol                 uint8
	Inside, External, Remote netip.AddrPort
	// State is the name of the protocol state at that time, that of an ended session its last one; "" in Refused. Inbound
	// says that it was started from outside, Replied that the other side had answered.
	State            string
	Inbound, Replied bool
	// Packets and Bytes are what went through an ended session by Direction, if Config.FlowCounters is set.
	Packets [2]uint64
	Bytes   [2]uint64
}

// event is an Event in the ring, without pointers, so that the garbage collector has nothing to look at.
type event struct {
	ms                       uint64
	in, ext, rem             uint32
	inPort, extPort, remPort uint16
	kind                     EventKind
	reason                   EndReason
	verdict                  Verdict
	proto                    uint8
	state                    conntrack.State
	bits                     conntrack.Bits
	count                    conntrack.Count
}

// ring keeps the events of a shard until somebody reads them. It has one writer, whoever holds the shard's lock, and one
// reader, whoever holds Engine.eventsMu; neither waits for the other. What finds it full is lost, so that those inside
// stay where they are.
type ring struct {
	slots         []event // a power of two, or none
	written, read atomic.Uint64
	lost          *atomic.Uint64
}

// maxEvents is the largest Config.Events.
const maxEvents = 1 << 24

// ringSize is how many events each of so many shards keeps, to keep n in all.
func ringSize(n, shards int) int {
	if n == 0 {
		return 0
	}
	size := 2
	for size*shards < n {
		size *= 2
	}
	return size
}

// put adds an event. Refusals fill half of the ring at most: a flood of them is not to hide who had which port.
func (q *ring) put(v *event) {
	n, room := q.written.Load(), uint64(len(q.slots))
	if v.kind == Refused {
		room /= 2
	}
	if n-q.read.Load() >= room {
		q.lost.Add(1)
		return
	}
	q.slots[n&uint64(len(q.slots)-1)] = *v
	q.written.Store(n + 1)
}

// note puts an event of a session into the ring.
func (sh *shard) note(kind EventKind, r *conntrack.Record, v event) {
	v.kind = kind
	v.in, v.ext, v.rem = r.In, r.Ext, r.Rem
	v.inPort, v.extPort, v.remPort = r.InPort, r.ExtPort, r.RemPort
	v.proto, v.state, v.bits = r.Proto, r.State, r.Bits
	sh.events.put(&v)
}

// noteNow is note for what happens at the time of the shard.
func (sh *shard) noteNow(kind EventKind, r *conntrack.Record) {
	if len(sh.events.slots) > 0 {
		sh.note(kind, r, event{ms: sh.ms})
	}
}

// noteEnd is for conntrack's Table.Ended.
func (sh *shard) noteEnd(h conntrack.Handle, r *conntrack.Record, why conntrack.Reason, at uint32) {
	if len(sh.events.slots) == 0 {
		return
	}
	v := event{ms: sh.ms + uint64(int32(at-uint32(sh.ms))), reason: EndReason(why)}
	if c := sh.t.Count(h); c != nil {
		v.count = *c
	}
	sh.note(SessionEnded, r, v)
}

// noteRefused is for a packet that would have made the session r. It returns why.
func (sh *shard) noteRefused(why Verdict, r conntrack.Record) Verdict {
	if len(sh.events.slots) > 0 {
		r.State = conntrack.Free
		sh.note(Refused, &r, event{ms: sh.ms, verdict: why})
	}
	return why
}

// Events takes the oldest events out of the engine and into buf, and returns how many. There are none without
// Config.Events. It may run beside traffic, which never waits for it; two calls at once take turns.
//
// The events of one call are ordered by At. An end may come late, since it is told when it is noticed (with the next packet
// of those endpoints or, at the latest, by Tick): then its At is before that of events which an earlier call returned.
// The events of one session are always in order. An event that finds its shard's ring full is lost and counted
// (Stats.EventsLost); those that wait stay. Refusals fill no more than half of it.
func (e *Engine) Events(buf []Event) int {
	e.eventsMu.Lock()
	defer e.eventsMu.Unlock()
	var ends [maxShards]uint64 // what is written meanwhile is for the next call
	for i := range e.shards {
		ends[i] = e.shards[i].events.written.Load()
	}
	n := 0
	for ; n < len(buf); n++ {
		var from *ring
		var next *event
		for i := range e.shards {
			q := &e.shards[i].events
			if at := q.read.Load(); at < ends[i] {
				if v := &q.slots[at&uint64(len(q.slots)-1)]; next == nil || v.ms < next.ms {
					from, next = q, v
				}
			}
		}
		if next == nil {
			break
		}
		buf[n] = next.public()
		from.read.Add(1)
	}
	slices.SortStableFunc(buf[:n], func(a, b Event) int { return int(a.At - b.At) })
	return n
}

func (v *event) public() Event {
	e := Event{
		At: time.Duration(v.ms) * time.Millisecond, Kind: v.kind, Reason: v.reason, Verdict: v.verdict, Protocol: v.proto,
		Inside:  netip.AddrPortFrom(from4(v.in), v.inPort),
		Remote:  netip.AddrPortFrom(from4(v.rem), v.remPort),
		Inbound: v.bits&conntrack.Inbound != 0, Replied: v.bits&conntrack.Replied != 0,
		Packets: [2]uint64{uint64(v.count.Packets[Out]), uint64(v.count.Packets[In])},
		Bytes:   v.count.Bytes,
	}
	if v.ext != 0 {
		e.External = netip.AddrPortFrom(from4(v.ext), v.extPort)
	}
	if v.state != conntrack.Free {
		e.State = v.state.String()
	}
	return e
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

const (
	// eventsKept is how many events the engine keeps: what half a million sessions a second make between two looks.
	eventsKept = 1 << 16
	// eventsEvery is how often they are looked at while somebody watches.
	eventsEvery = 50 * time.Millisecond
	// watcherRoom is how many events wait for one watcher, at about 200 bytes each.
	watcherRoom = 4096
)

// hub takes events out of the engine and gives them to those who watch. It runs while somebody does: without a reader the
// engine's ring is full, and an event costs the engine nothing but a look at it.
type hub struct {
	l      *loop
	policy func() *nat.Policy

	// mu is of what follows.
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	ended    chan struct{} // closed when the goroutine ends; nil: there is none
	lost     uint64        // as the engine counted when last asked
}

// watcher is one who watches.
type watcher struct {
	filter control.Filter
	events chan control.Event
	lost   atomic.Uint64 // since it was last told
}

// watch adds a watcher, unless there are too many.
func (h *hub) watch(f control.Filter) (*watcher, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) >= control.MaxWatchers {
		return nil, false
	}
	w := &watcher{filter: f, events: make(chan control.Event, watcherRoom)}
	if h.watchers == nil {
		h.watchers = map[*watcher]struct{}{}
	}
	h.watchers[w] = struct{}{}
	if h.ended == nil {
		buf := make([]nat.Event, 1024)
		for h.l.engine.Events(buf) > 0 { // from the time when nobody watched
		}
		h.lost = h.l.engine.Stats(h.l.now()).EventsLost
		h.ended = make(chan struct{})
		go h.run(buf, h.ended)
	}
	return w, true
}

func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// wait returns when nobody watches and the goroutine has ended.
func (h *hub) wait() {
	h.mu.Lock()
	ended := h.ended
	h.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// run is the goroutine: it ends with the last watcher.
func (h *hub) run(buf []nat.Event, ended chan struct{}) {
	defer close(ended)
	t := time.NewTicker(eventsEvery)
	defer t.Stop()
	const second = int(time.Second / eventsEvery)
	for i := 1; h.pass(buf, i%second == 0); i++ {
		<-t.C
	}
}

// pass hands on what there is, and reports whether anybody watches yet. With count it asks for losses, too, which takes all
// locks of the engine, one after the other.
func (h *hub) pass(buf []nat.Event, count bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) == 0 {
		h.ended = nil
		return false
	}
	policy, zero := h.policy(), time.Now().Add(-h.l.now()) // by what clocks are set to now
	for range 2 * eventsKept / len(buf) {                  // and not for as long as there are new ones
		n := h.l.engine.Events(buf)
		if n == 0 {
			break
		}
		for i := range buf[:n] {
			e := h.event(&buf[i], policy, zero)
			for w := range h.watchers {
				w.offer(e)
			}
		}
	}
	if !count {
		return true
	}
	lost := h.l.engine.Stats(h.l.now()).EventsLost
	for w := range h.watchers {
		w.lost.Add(lost - h.lost)
	}
	h.lost = lost
	return true
}

// offer gives w an event that it wants, if it has room.
func (w *watcher) offer(e control.Event) {
	if !w.filter.Match(e.Flow) {
		return
	}
	select {
	case w.events <- e:
	default:
		w.lost.Add(1)
	}
}

// event is an event of the engine as it is sent; zero is when the engine's clock began.
func (h *hub) event(v *nat.Event, p *nat.Policy, zero time.Time) control.Event {
	s := nat.Session{
		Protocol: v.Protocol, Inside: v.Inside, External: v.External, Remote: v.Remote, State: v.State, Inbound: v.Inbound,
		Replied: v.Replied, Packets: v.Packets, Bytes: v.Bytes,
	}
	ended := v.Kind == nat.SessionEnded
	if !ended && v.Kind != nat.Refused {
		s.Expires = lifetime(p, &s)
	}
	flow := control.FlowOf(&s, 0, ended && h.l.counts)
	e := control.Event{Time: zero.Add(v.At).UTC(), Kind: v.Kind.String(), Flow: &flow}
	switch v.Kind {
	case nat.SessionEnded:
		e.Reason = v.Reason.String()
	case nat.Refused:
		e.Reason = v.Verdict.String()
	}
	return e
}

// lifetime is the time-out of a session in its state.
func lifetime(p *nat.Policy, s *nat.Session) time.Duration {
	i := slices.IndexFunc(p.Pools, func(q nat.Pool) bool { return hasAddr(&q, s.External.Addr()) })
	if i < 0 { // it has changed meanwhile
		return 0
	}
	t := &p.Pools[i].Profile.Timeouts
	switch s.State {
	case "udp":
		if !s.Replied && t.UDPOpening > 0 {
			return t.UDPOpening
		}
		return t.UDP
	case "dns":
		return t.DNS
	case "query":
		return t.ICMP
	case "opening":
		return t.TCPOpening
	case "established":
		return t.TCPEstablished
	default:
		return t.TCPClosing
	}
}

func hasAddr(q *nat.Pool, a netip.Addr) bool {
	return slices.Contains(q.Addresses, a) || slices.Contains(q.Draining, a)
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"iter"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// sessionsAtOnce is how many records Sessions reads under one lock.
const sessionsAtOnce = 256

// Sessions iterates over the sessions that live at the time now. It may run beside traffic: it holds the lock of one
// shard while it reads some records, and none while it yields. What it yields was true when it was read; a session that
// is made or ends meanwhile may be missed, and none is yielded twice unless it ended and began again.
func (e *Engine) Sessions(now time.Duration) iter.Seq[Session] {
	return func(yield func(Session) bool) {
		some := make([]Session, 0, sessionsAtOnce)
		for i := range e.shards {
			sh := &e.shards[i]
			for h := 1; h <= sh.t.Cap(); h += sessionsAtOnce {
				some = e.read(sh, h, now, some[:0])
				for _, s := range some {
					if !yield(s) {
						return
					}
				}
			}
		}
	}
}

// read appends the live ones of the records from first on.
func (e *Engine) read(sh *shard, first int, now time.Duration, to []Session) []Session {
	e.mu.RLock()
	defer e.mu.RUnlock()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	tick := sh.latest(e.latest(now))
	for h := first; h < first+sessionsAtOnce && h <= sh.t.Cap(); h++ {
		r := sh.t.Rec(conntrack.Handle(h))
		if r.State == conntrack.Free || r.State == conntrack.Quarantined || !sh.t.Alive(r, tick) {
			continue
		}
		to = append(to, sessionOf(sh.t, r, sh.t.Count(conntrack.Handle(h)), tick, now))
	}
	return to
}

// sessionOf is what a record says at the time now, which is the tick of its table; c may be nil.
func sessionOf(t *conntrack.Table, r *conntrack.Record, c *conntrack.Count, tick uint32, now time.Duration) Session {
	s := Session{
		Protocol: r.Proto, State: r.State.String(), Inbound: r.Has(conntrack.Inbound),
		Inside:   netip.AddrPortFrom(from4(r.In), r.InPort),
		External: netip.AddrPortFrom(from4(r.Ext), r.ExtPort),
		Remote:   netip.AddrPortFrom(from4(r.Rem), r.RemPort),
		Replied:  r.Has(conntrack.Replied),
		Expires:  now + time.Duration(int32(r.LastSeen+t.Timeout(r)-tick))*time.Millisecond,
	}
	if c != nil {
		s.Packets = [2]uint64{uint64(c.Packets[Out]), uint64(c.Packets[In])}
		s.Bytes = c.Bytes
	}
	return s
}

// ProtocolName is the name of a protocol that has one here: "tcp", "udp", "icmp", or "".
func ProtocolName(proto uint8) string {
	switch proto {
	case packet.TCP:
		return "tcp"
	case packet.UDP:
		return "udp"
	case packet.ICMP:
		return "icmp"
	}
	return ""
}

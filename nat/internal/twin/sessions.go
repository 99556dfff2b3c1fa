// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// advance moves the clock. Time is in whole milliseconds.
func (t *Twin) advance(now time.Duration) {
	t.now = int64(now / time.Millisecond)
	t.expire()
}

// expire ends what has timed out.
func (t *Twin) expire() {
	t.drop(func(s *session) bool { return t.end(s) <= t.now }, t.end, nat.EndExpired)
	t.buried = slices.DeleteFunc(t.buried, func(b tombstone) bool {
		pool := t.policy.pool(b.pool)
		return pool == nil || b.ended+pool.Profile.Quarantine.Milliseconds() <= t.now
	})
	if !slices.ContainsFunc(t.buried, func(b tombstone) bool { return b.vague }) {
		t.loose = 0
	}
	t.sets = slices.DeleteFunc(t.sets, func(f *fragmentSet) bool { return f.born+t.cfg.FragmentTimeout.Milliseconds() <= t.now })
}

// end is when a session times out.
func (t *Twin) end(s *session) int64 { return s.lastSeen + t.policy.timeout(s) }

// drop ends the sessions that gone picks. The port of an endpoint-independent mapping is put into quarantine when the
// last of its sessions has ended, if anybody outside could send to it (RFC 6888 REQ-8, C-5).
func (t *Twin) drop(gone func(*session) bool, ended func(*session) int64, why nat.EndReason) {
	var dead []*session
	t.sessions = slices.DeleteFunc(t.sessions, func(s *session) bool {
		if gone(s) {
			dead = append(dead, s)
			return true
		}
		return false
	})
	slices.SortStableFunc(dead, func(a, b *session) int { return int(ended(a) - ended(b)) })
	for _, s := range dead {
		t.ended(ended(s), why, s)
		if host := s.in.Addr(); t.find(func(o *session) bool { return o.counted && o.in.Addr() == host }) == nil {
			delete(t.made, host) // nothing is kept about hosts without sessions
		}
		pool := t.policy.pool(s.pool)
		if !s.independent || pool == nil || t.mapping(s.proto, s.ext) != nil {
			continue
		}
		if f := pool.Profile; f.Quarantine > 0 && f.Filtering[class(s.proto)] == nat.FilterEndpointIndependent {
			p := port{s.proto, s.ext}
			t.unbury(p)
			t.buried = append(t.buried, tombstone{port: p, pool: s.pool, ended: ended(s)})
		}
	}
}

// unbury ends the quarantine of a port.
func (t *Twin) unbury(p port) {
	t.buried = slices.DeleteFunc(t.buried, func(b tombstone) bool {
		if b.port == p && b.vague && t.loose > 0 {
			t.loose--
		}
		return b.port == p
	})
}

// giveWay ends the quarantine of the port that has waited for longest, for the sake of its record.
func (t *Twin) giveWay() {
	oldest := t.buried[0].ended
	for _, b := range t.buried {
		oldest = min(oldest, b.ended)
	}
	same := 0
	for i := range t.buried {
		if b := &t.buried[i]; b.ended == oldest {
			b.vague = true
			same++
		}
	}
	if t.loose++; t.loose >= same {
		t.buried = slices.DeleteFunc(t.buried, func(b tombstone) bool { return b.ended == oldest })
		t.loose = 0
	}
}

// find is the first session that is one.
func (t *Twin) find(is func(*session) bool) *session {
	if i := slices.IndexFunc(t.sessions, is); i >= 0 {
		return t.sessions[i]
	}
	return nil
}

// outbound and inbound find the session of a packet by its endpoints.
func (t *Twin) outbound(proto uint8, in, rem netip.AddrPort) *session {
	return t.find(func(s *session) bool { return s.proto == proto && s.in == in && s.rem == rem })
}

func (t *Twin) inbound(proto uint8, ext, rem netip.AddrPort) *session {
	return t.find(func(s *session) bool { return s.proto == proto && s.ext == ext && s.rem == rem })
}

// mapping is a session of the endpoint-independent mapping that holds an external endpoint.
func (t *Twin) mapping(proto uint8, ext netip.AddrPort) *session {
	return t.find(func(s *session) bool { return s.independent && s.proto == proto && s.ext == ext })
}

// mappingOf is a session of the mapping of an inside endpoint in a pool. Its address may be draining: an endpoint has one
// mapping (RFC 4787 REQ-1).
func (t *Twin) mappingOf(pool *nat.Pool, proto uint8, in netip.AddrPort) *session {
	return t.find(func(s *session) bool { return s.independent && s.pool == pool.Name && s.proto == proto && s.in == in })
}

// rate is how many ICMP errors may be made in a second.
func (t *Twin) rate() int64 {
	switch n := t.policy.ICMPErrorsPerSecond; {
	case n == 0:
		return 100
	case n < 0:
		return 0
	default:
		return int64(n)
	}
}

// spend counts an ICMP error of our own, if there may be one more in this second (RFC 1812, section 4.3.2.8; B-11).
func (t *Twin) spend() bool {
	if t.told == 0 || t.now-t.since >= 1000 {
		t.told, t.since = 0, t.now
	}
	if t.told >= t.rate() {
		return false
	}
	t.told++
	return true
}

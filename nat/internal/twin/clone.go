// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Clone is a twin that goes its own way from here on. It tells no events and counts no packets.
func (t *Twin) Clone() *Twin {
	c := *t
	c.cfg.FlowCounters, c.events = false, nil
	c.sessions = nil
	for _, s := range t.sessions {
		d := *s
		c.sessions = append(c.sessions, &d)
	}
	c.buried, c.sets, c.held = slices.Clone(t.buried), nil, nil // an engine that is adopted has no fragments and SYNs
	c.made = maps.Clone(t.made)
	c.Unsent(t)
	return &c
}

// Unsent makes t one of whose packets none has left that left after those of before.
func (t *Twin) Unsent(before *Twin) {
	ids := before.ids
	t.ids = map[idKey]map[uint16]bool{}
	for k, v := range ids {
		t.ids[k] = maps.Clone(v)
	}
}

// Partly are the states between t and next, which is one packet later, of an engine that stores what the packet says of a session
// bit by bit: that somebody has answered, and nothing of the answer; all of a TCP segment but the new state of its connection, which
// is as before or one on the way (a segment may end a reset, open the connection and close it). Of the two sessions of a hairpin
// the one may be as in next and the other not.
func (t *Twin) Partly(next *Twin) (all []*Twin) {
	var changed []flowKey
	t.both(next, func(s, n *session) {
		if s.replied != n.replied || s.lastSeen != n.lastSeen || s.tcp != n.tcp {
			changed = append(changed, s.key())
		}
	})
	// with is c with one session as f makes it.
	with := func(c *Twin, key flowKey, f func(s, n *session)) *Twin {
		c = c.Clone()
		c.both(next, func(s, n *session) {
			if s.key() == key {
				f(s, n)
			}
		})
		return c
	}
	bases := []*Twin{t}
	for _, key := range changed {
		half := with(t, key, func(s, n *session) { *s = *n })
		bases, all = append(bases, half), append(all, half)
	}
	for _, base := range bases {
		for _, key := range changed {
			all = append(all, with(base, key, func(s, n *session) { s.replied = n.replied }))
			for i := range 6 {
				all = append(all, with(base, key, func(s, n *session) {
					was := s.tcp
					s.replied, s.tcp = n.replied, n.tcp
					if s.tcp.state = was.state; i%3 > 0 {
						s.tcp.state, s.lastSeen = [3]string{1: opening, 2: established}[i%3], n.lastSeen
					}
					for d := range s.tcp.peers {
						if i >= 3 { // a FIN is seen to last
							s.tcp.peers[d].fin = was.peers[d].fin
						}
					}
				}))
			}
		}
	}
	return all
}

// both calls f for the sessions that next has, too.
func (t *Twin) both(next *Twin, f func(s, n *session)) {
	theirs := map[flowKey]*session{}
	for _, n := range next.sessions {
		theirs[n.key()] = n
	}
	for _, s := range t.sessions {
		if n := theirs[s.key()]; n != nil {
			f(s, n)
		}
	}
}

// AdoptAmid judges, as Adopt and Compare do, an engine that went on with what another left in the middle of what leads from t to
// next: some of the sessions that next has no longer had ended, some of its new ones were there, and all else was as t knows it.
// If next's policy takes a restriction from a host, sessions of all restricted hosts may be lost: those that it had not been
// asked about.
func (t *Twin) AdoptAmid(next *Twin, now time.Duration, p *nat.Policy, got nat.Adoption, sessions iter.Seq[nat.Session]) error {
	t.advance(now)
	left, ending, known := map[flowKey]bool{}, map[flowKey]bool{}, map[flowKey]bool{}
	for g := range sessions {
		left[keyOf(g)] = true
	}
	for _, s := range t.sessions {
		ending[s.key()], known[s.key()] = true, true
	}
	broken := t.policy.takes(next.policy)
	t.both(next, func(s, _ *session) {
		if !broken || s.filter == "" {
			delete(ending, s.key())
		}
	})
	n := len(t.sessions)
	gone := func(s *session) bool { return ending[s.key()] && !left[s.key()] }
	if next.generation != t.generation { // else it gave way, and its port does not wait
		t.drop(gone, func(*session) int64 { return next.now }, nat.EndCut)
	}
	t.sessions = slices.DeleteFunc(t.sessions, gone)
	absent := n - len(t.sessions)
	for _, s := range next.sessions {
		if known[s.key()] {
			continue
		}
		if !left[s.key()] {
			absent++
			continue
		}
		d := *s
		t.sessions = append(t.sessions, &d)
	}
	t.forget()
	want := t.change(now, p)
	// Those that are absent were so before, or the policy has put an end to them now.
	if got.Cut < want.Cut || got.Cut > want.Cut+absent {
		return fmt.Errorf("adopted %+v, want %+v and up to %d more cut", got, want, absent)
	}
	return t.Compare(now, sessions)
}

// takes reports whether a host that p restricts has no restriction, or one of another name, in next.
func (p *policy) takes(next *policy) bool {
	return slices.ContainsFunc(p.Restrictions, func(r nat.Restriction) bool {
		return slices.ContainsFunc(r.Hosts, func(host netip.Addr) bool {
			n := next.restriction(host)
			return n == nil || n.Name != r.Name
		})
	})
}

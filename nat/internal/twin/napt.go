// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// naptOut is the outbound half of NAPT.
func (s *step) naptOut(pool *nat.Pool, egress nat.Side) nat.Verdict {
	if s.h.fragment() {
		if v := s.collect(pool); v != nat.Unset {
			return v
		}
	}
	switch {
	case s.h.isError():
		if s.pieces != nil {
			return nat.DropICMPQuote
		}
		return s.errorOut(pool, egress)
	case !s.h.flow():
		return nat.DropProtocol
	case s.h.isReply(): // nobody was let in to ask
		return nat.DropNoSession
	}
	rem := s.rem(s.h.dst)
	se := s.t.outbound(s.h.proto, s.h.src, rem)
	if se == nil {
		var v nat.Verdict
		if se, v = s.open(pool, rem, egress); v != nat.Unset {
			return v
		}
	} else {
		switch {
		case se.filter != "": // its other end came in 1:1
			return s.t.refused(nat.DropNoPort, &session{proto: s.h.proto, in: s.h.src, rem: rem})
		case s.barred(s.h.src.Addr(), false, s.h.dst.Port(), rem.Addr(), se):
			return nat.DropNotAllowed
		}
		if v := s.fits(egress); v != nat.Unset {
			return v
		}
		if !s.track(se, out) {
			return nat.DropOutOfWindow
		}
	}
	s.setSource(se.ext, true)
	s.clampMSS()
	// RFC 7857, section 10: several hosts share the identifications of one address now (F-7). Atomic datagrams do not
	// need any (RFC 6864).
	s.newID = !s.h.df || s.pieces != nil
	return nat.Outbound
}

// track takes note of a packet of a session. It is false for a RST that the policy wants dropped.
func (s *step) track(se *session, d int) bool {
	answer := se.tcp.inbound == (d == out) && !se.replied
	if answer {
		se.replied = true
	}
	switch {
	case se.proto == packet.TCP:
		was := se.tcp.state
		e := se.tcp.step(d, readSegment(s.b[s.h.hlen:]))
		answer = was == opening && se.tcp.state == established
		if e.stray && s.t.policy.DropBadResets {
			return false
		}
		if e.refresh {
			se.lastSeen = s.t.now
		}
	// RFC 4787 REQ-6: the inside keeps a session; that the outside does is an option (U-2, U-3).
	case d == out || s.t.policy.poolFor(se).Profile.InboundRefresh:
		se.lastSeen = s.t.now
	}
	if answer {
		s.t.event(s.t.now, nat.SessionEstablished, se)
	}
	se.packets[d]++
	se.bytes[d] += uint64(len(s.b))
	return true
}

// starts judges the flags of a segment without a session (T-13, T-14); Unset is a SYN that may start one.
func starts(flags uint8) nat.Verdict {
	is := func(f uint8) bool { return flags&f != 0 }
	switch {
	case flags == 0, is(packet.SYN) && is(packet.FIN|packet.RST), is(packet.FIN) && !is(packet.ACK):
		return nat.DropBadFlags
	case is(packet.SYN) && !is(packet.ACK):
		return nat.Unset
	}
	return nat.DropNoSession
}

// open makes a session for an outbound packet that has none.
func (s *step) open(pool *nat.Pool, rem netip.AddrPort, egress nat.Side) (*session, nat.Verdict) {
	if s.barred(s.h.src.Addr(), false, s.h.dst.Port(), rem.Addr(), nil) {
		return nil, nat.DropNotAllowed
	}
	if s.h.proto == packet.TCP {
		switch v := starts(s.h.flags); {
		case v == nat.DropBadFlags:
			return nil, v
		case v == nat.Unset:
		case s.h.flags&(packet.RST|packet.SYN) != 0 || pool.Profile.Stray == nat.StrayDrop:
			return nil, nat.DropNoSession
		case pool.Profile.Stray == nat.StrayReset:
			s.reset()
			return nil, nat.DropReset
		}
	}
	if v := s.fits(egress); v != nat.Unset {
		return nil, v
	}
	host := s.h.src.Addr()
	se := &session{proto: s.h.proto, in: s.h.src, rem: rem, pool: pool.Name}
	if s.full(host) {
		return nil, s.refuse(pool, se, nat.DropHostLimit)
	}
	if limit := s.t.policy.HostRate; limit > 0 && s.madeNow(host) >= limit {
		return nil, s.refuse(pool, se, nat.DropHostRate)
	}
	if !s.haveRecords(pool, 1) {
		return nil, s.refuse(pool, se, nat.DropTableFull)
	}
	if ext, ok := s.t.policy.forwardOut(pool, se.proto, se.in); ok {
		se.ext, se.forwarded = ext, true
	} else {
		se.independent = independent(pool, se.proto)
		if m := s.t.mappingOf(pool, se.proto, se.in); se.independent && m != nil { // M-1
			se.ext = m.ext
		} else if !s.choose(pool, se) {
			return nil, s.refuse(pool, se, nat.DropNoPort)
		}
	}
	if se.proto == packet.TCP {
		se.tcp.start(out, readSegment(s.b[s.h.hlen:]), false)
	}
	s.add(se)
	return se, nat.Unset
}

// refuse tells the sender, if the profile says so (I-12).
func (s *step) refuse(pool *nat.Pool, se *session, v nat.Verdict) nat.Verdict {
	switch pool.Profile.NoPort {
	case nat.RefuseProhibited: // RFC 5508 REQ-8
		s.answer(packet.Unreachable, 13, 0)
	case nat.RefuseHostUnreachable: // RFC 6888 REQ-11
		s.answer(packet.Unreachable, 1, 0)
	}
	return s.t.refused(v, se)
}

// full: the host has as many sessions as it may have (RFC 6888 REQ-4).
func (s *step) full(host netip.Addr) bool {
	limit := s.t.policy.HostSessions
	n := 0
	for _, se := range s.t.sessions {
		if se.counted && se.in.Addr() == host {
			n++
		}
	}
	return limit > 0 && n >= limit
}

// second is the second that rates are about. It begins anew with the engine's clock, of 32 bits of milliseconds.
func (t *Twin) second() int64 { return int64(uint32(t.now)) / 1000 }

// madeNow is how many sessions the host made in this second.
func (s *step) madeNow(host netip.Addr) int {
	if m := s.t.made[host]; m.second == s.t.second() {
		return m.n
	}
	return 0
}

// haveRecords: there are n, or will be with the end of quarantines or of sessions that nobody answered (B-43).
func (s *step) haveRecords(pool *nat.Pool, n int) bool {
	have := s.t.cfg.Sessions - len(s.t.sessions)
	for _, se := range s.t.sessions {
		if !pool.Profile.NoRecycling && !se.replied {
			have++
		}
	}
	return have >= n
}

// add puts a session into the table. If that is full, the oldest session that never saw an answer gives way; one that
// did never does (M-17).
func (s *step) add(se *session) {
	t, d := s.t, out
	if se.tcp.inbound {
		d = in
	}
	se.lastSeen, se.packets[d], se.bytes[d] = t.now, 1, uint64(len(s.b))
	// Nobody outside uses up the rate of a host.
	se.counted = t.policy.HostSessions > 0 || t.policy.HostRate > 0 && d == out
	if d == out {
		t.made[se.in.Addr()] = burst{t.second(), s.madeNow(se.in.Addr()) + 1}
	}
	t.unbury(port{se.proto, se.ext})
	t.sessions = append(t.sessions, se)
	t.event(t.now, nat.SessionCreated, se)
	if waiting := len(t.buried) - t.loose; len(t.sessions)+waiting > t.cfg.Sessions {
		if waiting > 0 {
			t.giveWay()
		} else {
			oldest := t.find(func(se *session) bool { return !se.replied })
			t.drop(func(se *session) bool { return se == oldest }, func(*session) int64 { return t.now }, nat.EndRecycled)
			t.unbury(port{oldest.proto, oldest.ext}) // a record is what was wanted
		}
	}
	for i := range t.held {
		if h := &t.held[i]; se.proto == packet.TCP && h.src == se.rem && h.dst == se.ext {
			h.discarded = true // T-4
		}
	}
}

// naptIn is the inbound half of NAPT.
func (s *step) naptIn() nat.Verdict {
	pool, _ := s.t.policy.poolOf(s.h.dst.Addr())
	if s.h.fragment() {
		if v := s.collect(pool); v != nat.Unset {
			return v
		}
	}
	switch {
	case s.h.isError():
		if s.pieces != nil {
			return nat.DropICMPQuote
		}
		return s.errorIn()
	case !s.h.flow():
		return nat.DropProtocol
	case s.h.proto == packet.ICMP && !s.h.isReply(): // NGW-2: nobody's ping is answered
		return nat.DropNoMapping
	}
	ext, rem := s.h.dst, s.rem(s.h.src)
	if se := s.t.inbound(s.h.proto, ext, rem); se != nil {
		if s.barred(se.in.Addr(), true, se.in.Port(), rem.Addr(), se) {
			return nat.DropNotAllowed
		}
		if v := s.fitsIn(); v != nat.Unset {
			return v
		}
		if !s.track(se, in) {
			return nat.DropOutOfWindow
		}
		return s.deliver(se.in)
	}
	if to, ok := s.t.policy.forwardIn(s.h.proto, ext); ok {
		return s.accept(pool, to, rem, true)
	}
	m := s.t.mapping(s.h.proto, ext)
	if m == nil {
		return s.unwanted(pool, nat.DropNoMapping) // M-13
	}
	if !s.passes(pool, m, rem) {
		return s.unwanted(pool, nat.DropFiltered)
	}
	if s.h.proto == packet.TCP || s.h.proto == packet.UDP && s.t.policy.restriction(m.in.Addr()) != nil {
		return s.accept(pool, m.in, rem, false)
	}
	if s.barred(m.in.Addr(), true, m.in.Port(), rem.Addr(), nil) {
		return nat.DropNotAllowed
	}
	if v := s.fitsIn(); v != nat.Unset {
		return v
	}
	return s.deliver(m.in)
}

// passes is the filter of a mapping (RFC 4787, section 5; M-12).
func (s *step) passes(pool *nat.Pool, m *session, rem netip.AddrPort) bool {
	switch pool.Profile.Filtering[class(m.proto)] {
	case nat.FilterEndpointIndependent:
		return true
	case nat.FilterAddressDependent:
		return s.t.find(func(o *session) bool {
			return o.independent && o.proto == m.proto && o.ext == m.ext && o.rem.Addr() == rem.Addr()
		}) != nil
	}
	return false // a session would have been found
}

// fitsIn is fits for the inbound half; that of a hairpin was looked at in the outbound half.
func (s *step) fitsIn() nat.Verdict {
	if s.looped() {
		return nat.Unset
	}
	return s.fits(nat.Inside)
}

func (s *step) deliver(to netip.AddrPort) nat.Verdict {
	s.setDestination(to, true)
	s.clampMSS()
	return nat.Inbound
}

// accept makes the session of an inbound packet to a port forward, or of a SYN that a filter lets through.
func (s *step) accept(pool *nat.Pool, to, rem netip.AddrPort, forwarded bool) nat.Verdict {
	if s.barred(to.Addr(), true, to.Port(), rem.Addr(), nil) {
		return nat.DropNotAllowed
	}
	if s.h.proto == packet.TCP {
		if v := starts(s.h.flags); v != nat.Unset {
			return v
		}
	}
	if v := s.fitsIn(); v != nat.Unset {
		return v
	}
	se := &session{proto: s.h.proto, in: to, ext: s.h.dst, rem: rem, pool: pool.Name, forwarded: forwarded, independent: !forwarded}
	se.tcp.inbound = true
	switch {
	case s.t.outbound(s.h.proto, to, rem) != nil:
		return s.t.refused(nat.DropNoPort, se) // these two already talk through another external endpoint
	case s.full(to.Addr()):
		return s.t.refused(nat.DropHostLimit, se)
	case !s.haveRecords(pool, 1):
		return s.t.refused(nat.DropTableFull, se)
	}
	if se.proto == packet.TCP {
		se.tcp.start(in, readSegment(s.b[s.h.hlen:]), true)
	}
	s.add(se)
	return s.deliver(to)
}

// unwanted drops an inbound packet that nothing lets in. A SYN may wait for six seconds, in case the inside is about to
// send its own (RFC 5382 REQ-4; T-3).
func (s *step) unwanted(pool *nat.Pool, why nat.Verdict) nat.Verdict {
	if s.h.proto != packet.TCP || starts(s.h.flags) != nat.Unset || !pool.Profile.HoldSYN {
		return why
	}
	if s.looped() {
		return nat.DropFiltered
	}
	if slices.ContainsFunc(s.t.held, func(h heldSYN) bool { return h.src == s.h.src && h.dst == s.h.dst && !h.discarded }) {
		return nat.HeldSYN
	}
	if len(s.t.held) >= s.t.cfg.HeldSYNs {
		return why
	}
	s.t.held = append(s.t.held, heldSYN{src: s.h.src, dst: s.h.dst, packet: s.in[:min(len(s.in), 128)], due: s.t.now + 6000})
	return nat.HeldSYN
}

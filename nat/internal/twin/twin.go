// SPDX-License-Identifier: Apache-2.0

// Package twin is the slow twin of the NAT engine: what a packet must become, written down in the plainest way, with
// slices that are searched from front to end. It is the executable form of the requirements and shares no code with the
// engine, with conntrack or with the arithmetic of package packet.
//
// The engine is free in some things: which external port a new flow gets, which IP identification a packet. The twin
// does not choose. It is told what the engine did, judges whether that choice was a legal one, adopts it, and then
// knows to the byte what must have come out: so that a run ends at the first packet on which the two disagree.
//
// Comments name the requirement (M-1, T-9, ...) or the clause that a rule comes from.
package twin

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// The directions of a packet, as indexes.
const (
	out = int(nat.Out)
	in  = int(nat.In)
)

// session is a flow through NAPT.
type session struct {
	proto        uint8
	in, ext, rem netip.AddrPort // of an ICMP query: the identifier inside and outside, and 0
	pool         string
	filter       string // the restriction that it remembers flows for, where no pool does; "" if one does
	independent  bool   // its external endpoint is a mapping for all remote endpoints
	forwarded    bool   // its external endpoint is that of a port forward
	replied      bool   // the other side has sent something
	counted      bool   // towards the limits of its host
	bounded      bool   // towards that of its destination
	lastSeen     int64
	paired       int       // the generation of policy in which its address became its host's; 0: it did not
	packets      [2]uint64 // by direction
	bytes        [2]uint64
	tcp          tcp // of other protocols only inbound is of use
}

// dns: one question, one answer, and seldom a second.
func (s *session) dns() bool {
	return s.proto == packet.UDP && s.rem.Port() == 53 && !s.tcp.inbound
}

func (s *session) state() string {
	switch {
	case s.proto == packet.TCP:
		return s.tcp.state
	case s.dns():
		return "dns"
	case s.proto == packet.ICMP:
		return "query"
	case !s.replied:
		return "udp_opening"
	}
	return "udp"
}

// port is an external endpoint of a protocol.
type port struct {
	proto uint8
	ext   netip.AddrPort
}

// tombstone keeps a port in quarantine (RFC 6888 REQ-8).
type tombstone struct {
	port
	pool  string
	ended int64
	// vague: it is one of several that ended at once, and one of them has given way. Which is the engine's affair.
	vague bool
}

// heldSYN waits for the inside to send one of its own (RFC 5382 REQ-4).
type heldSYN struct {
	src, dst netip.AddrPort
	packet   []byte // headers and a little more: so many bytes may it cost
	due      int64
	// discarded: it was asked for (T-4). Its place is free when its time has come.
	discarded bool
}

// Twin is the state of a NAT. It is not safe for concurrent use.
type Twin struct {
	cfg        nat.Config
	policy     *policy
	sessions   []*session // the oldest first
	buried     []tombstone
	loose      int // how many of the vague ones have given way
	sets       []*fragmentSet
	held       []heldSYN
	told       int64 // ICMP errors that were made in the second
	since      int64 // that began then, with the first of them
	now        int64
	generation int                       // of the policy, from 1 on
	made       map[netip.Addr]burst      // new sessions of a host
	ids        map[idKey]map[uint16]bool // IP identifications given out
	events     []nat.Event               // all that happened
}

type burst struct {
	second int64
	n      int
}

type idKey struct {
	src, dst netip.Addr
	proto    uint8
}

// New is the twin of nat.New with the same arguments, which are valid.
func New(cfg nat.Config, p *nat.Policy) *Twin {
	if cfg.Sessions == 0 {
		cfg.Sessions = 65536
	}
	if cfg.Shards == 0 {
		cfg.Shards = 1
	}
	if cfg.FragmentBytes == 0 {
		cfg.FragmentBytes = 4 << 20
	}
	cfg.FragmentBytes = max(cfg.FragmentBytes, fragmentFloor)
	if cfg.FragmentTimeout == 0 {
		cfg.FragmentTimeout = 15 * time.Second // RFC 791, section 3.2 (F-4)
	}
	if cfg.HeldSYNs == 0 {
		cfg.HeldSYNs = 1024
	}
	t := &Twin{cfg: cfg, policy: newPolicy(p), generation: 1, made: map[netip.Addr]burst{}, ids: map[idKey]map[uint16]bool{}}
	return t
}

// Outcome is what the engine did with one packet.
type Outcome struct {
	Verdict nat.Verdict
	// Packet is the packet as it is afterwards.
	Packet packet.Packet
	// Emitted is what the engine let go besides.
	Emitted []nat.Emission
	// Sessions are the engine's after it. They are asked for the external endpoint of a new session where that shows in
	// no packet.
	Sessions iter.Seq[nat.Session]
}

// emission is a packet that the twin expects beside the one at hand.
type emission struct {
	side  nat.Side
	bytes []byte
}

// Step judges what the engine made of a packet that arrived at an attachment. in is the packet before the engine had it.
func (t *Twin) Step(now time.Duration, from nat.AttachmentID, in packet.Packet, got Outcome) error {
	t.advance(now)
	s := &step{t: t, got: got}
	want := s.run(from, in)
	if s.err != nil {
		return fmt.Errorf("engine says %v, twin %v: %w", got.Verdict, want, s.err)
	}
	if want != got.Verdict {
		return fmt.Errorf("verdict %v, want %v", got.Verdict, want)
	}
	if want.Forward() {
		if err := same(got.Packet.Bytes(), s.b); err != nil {
			return fmt.Errorf("%v: %w", want, err)
		}
		if got.Packet.Offload != in.Offload {
			return fmt.Errorf("%v: offload %+v, want %+v", want, got.Packet.Offload, in.Offload)
		}
	}
	return sameEmissions(got.Emitted, s.emitted, 0)
}

// Tick judges what the engine's timers let go.
func (t *Twin) Tick(now time.Duration, got []nat.Emission) error {
	t.advance(now)
	var want []emission
	for len(t.held) > 0 && t.held[0].due <= t.now {
		h := t.held[0]
		t.held = t.held[1:]
		// T-3: nobody asked for it. The error comes from where the SYN went, if that is still ours.
		if !h.discarded && t.policy.lent(h.dst.Addr()) && t.spend() {
			want = append(want, emission{nat.Outside, generate(h.dst.Addr(), h.packet, packet.Unreachable, 3, 0)})
		}
	}
	if err := sameEmissions(got, want, -1); err != nil {
		return fmt.Errorf("tick: %w", err)
	}
	return nil
}

// Apply judges the effect of another policy: sessions that it would not have made end at once, all others go on.
func (t *Twin) Apply(now time.Duration, p *nat.Policy, got nat.Impact) error {
	if want := t.change(now, p); got != want {
		return fmt.Errorf("impact %+v, want %+v", got, want)
	}
	return nil
}

func (t *Twin) change(now time.Duration, p *nat.Policy) nat.Impact {
	t.advance(now)
	rate := t.rate()
	t.policy = newPolicy(p)
	t.generation++
	if t.rate() != rate {
		t.told = 0
	}
	// Time-outs may be others now: what has timed out by the new ones is not cut.
	cut := func(s *session) bool { return !t.policy.agrees(s) }
	dead := func(s *session) bool {
		return t.policy.poolFor(s) != nil && t.end(s) <= t.now
	}
	var want nat.Impact
	for _, s := range t.sessions {
		if cut(s) && !dead(s) {
			want.Cut++
		}
	}
	t.drop(func(s *session) bool { return cut(s) && dead(s) }, t.end, nat.EndExpired)
	t.drop(cut, func(*session) int64 { return t.now }, nat.EndCut)
	t.expire()
	want.Kept = len(t.sessions)
	for _, s := range t.sessions {
		if _, draining := t.policy.poolOf(s.ext.Addr()); draining {
			want.Draining++
		}
	}
	return want
}

// Order puts the sessions that an engine has in its order: which of those last seen at the same time gives way first after
// an Adopt is the engine's affair.
func (t *Twin) Order(by iter.Seq[nat.Session]) {
	place := map[flowKey]int{}
	for g := range by {
		place[keyOf(g)] = len(place)
	}
	slices.SortStableFunc(t.sessions, func(a, b *session) int { return place[a.key()] - place[b.key()] })
}

// Adopt judges an engine that went on, under a policy, with what another left: as after Apply, without what is not kept.
func (t *Twin) Adopt(now time.Duration, p *nat.Policy, got nat.Adoption) error {
	t.forget()
	want := t.change(now, p)
	if got.Sessions != want.Kept || got.Cut != want.Cut {
		return fmt.Errorf("adopted %+v, want %+v", got, want)
	}
	return nil
}

// forget forgets what an Adopt does not keep, the order of sessions as well.
func (t *Twin) forget() {
	t.held, t.sets, t.told = nil, nil, 0
	clear(t.made)
	slices.SortStableFunc(t.sessions, func(a, b *session) int { return int(a.lastSeen - b.lastSeen) })
}

// Compare reports the sessions that only one of the two has, or that they describe differently.
func (t *Twin) Compare(now time.Duration, got iter.Seq[nat.Session]) error {
	t.advance(now)
	left := slices.Clone(t.sessions)
	var errs []error
	for g := range got {
		i := slices.IndexFunc(left, func(s *session) bool {
			return s.proto == g.Protocol && s.in == g.Inside && s.ext == g.External && s.rem == g.Remote
		})
		if i < 0 {
			errs = append(errs, fmt.Errorf("the engine has a session %+v", g))
			continue
		}
		s := left[i]
		left = slices.Delete(left, i, i+1)
		if t.cfg.FlowCounters && (g.Packets != s.packets || g.Bytes != s.bytes) {
			errs = append(errs, fmt.Errorf("session %v -> %v -> %v: the engine counts %d packets, %d bytes; want %d, %d",
				g.Inside, g.External, g.Remote, g.Packets, g.Bytes, s.packets, s.bytes))
		}
		expires := time.Duration(s.lastSeen+t.policy.timeout(s)) * time.Millisecond
		if g.State != s.state() || g.Inbound != s.tcp.inbound || g.Replied != s.replied || g.Expires != expires {
			errs = append(errs, fmt.Errorf("session %v -> %v -> %v: the engine says %s, inbound %v, replied %v, until %v; want %s, %v, %v, %v",
				g.Inside, g.External, g.Remote, g.State, g.Inbound, g.Replied, g.Expires, s.state(), s.tcp.inbound, s.replied, expires))
		}
	}
	for _, s := range left {
		errs = append(errs, fmt.Errorf("the engine lacks the session of protocol %d %v -> %v -> %v (%s)", s.proto, s.in, s.ext, s.rem, s.state()))
	}
	return errors.Join(errs...)
}

// flowKey is what tells sessions apart.
type flowKey struct {
	proto        uint8
	in, ext, rem netip.AddrPort
}

func keyOf(g nat.Session) flowKey { return flowKey{g.Protocol, g.Inside, g.External, g.Remote} }

func (s *session) key() flowKey { return flowKey{s.proto, s.in, s.ext, s.rem} }

// Len is how many sessions there are.
func (t *Twin) Len() int { return len(t.sessions) }

// Gauge compares what the engine says that it holds with what there is.
func (t *Twin) Gauge(now time.Duration, got nat.Stats) error {
	t.advance(now)
	mappings, held := map[port]bool{}, 0
	for _, s := range t.sessions {
		if s.independent {
			mappings[port{s.proto, s.ext}] = true
		}
	}
	for _, h := range t.held {
		if !h.discarded {
			held++
		}
	}
	if got.Sessions != len(t.sessions) || got.Mappings != len(mappings) || got.HeldSYNs != held || got.FragmentSets != len(t.sets) {
		return fmt.Errorf("the engine says %d sessions, %d mappings, %d held SYNs, %d sets of fragments; want %d, %d, %d, %d",
			got.Sessions, got.Mappings, got.HeldSYNs, got.FragmentSets, len(t.sessions), len(mappings), held, len(t.sets))
	}
	return nil
}

func sameEmissions(got []nat.Emission, want []emission, cause int) error {
	for i, g := range got {
		if i >= len(want) {
			return fmt.Errorf("emitted to the %v besides: % x", g.Side, g.Packet.Bytes())
		}
		if err := same(g.Packet.Bytes(), want[i].bytes); err != nil {
			return fmt.Errorf("emission %d: %w", i, err)
		}
		if g.Side != want[i].side || g.Cause != cause || g.Packet.Offload != (packet.Offload{}) {
			return fmt.Errorf("emission %d: to the %v because of %d with %+v, want the %v, %d and nothing", i, g.Side, g.Cause, g.Packet.Offload, want[i].side, cause)
		}
		if g.Packet.Off < packet.Headroom {
			return fmt.Errorf("emission %d: headroom of %d", i, g.Packet.Off)
		}
	}
	if len(got) < len(want) {
		return fmt.Errorf("not emitted to the %v: % x", want[len(got)].side, want[len(got)].bytes)
	}
	return nil
}

func same(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("differs from byte %d on:\n got % x\nwant % x", at, got, want)
}

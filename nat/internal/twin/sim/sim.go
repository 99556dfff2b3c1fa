// SPDX-License-Identifier: Apache-2.0

// Package sim drives an engine and its twin with one script: hosts on both sides that talk, complain and misbehave, a
// clock that jumps, policies that change. After each step the two must agree to the byte, and some things must be true
// that neither of them was asked for.
//
// A script is plain bytes, so that a fuzzer can write one; every script means something. It is a head, which makes the
// world, and operations of OpSize bytes.
package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/nat/internal/twin"
	"github.com/tidegate/tidegate/packet"
)

// HeadSize and OpSize are the lengths of a script's parts.
const (
	HeadSize = 64
	OpSize   = 24
)

// sim is an engine and its twin, and what both have seen.
type sim struct {
	world   world
	engine  *nat.Engine
	worker  *nat.Worker
	twin    *twin.Twin
	now     time.Duration
	counts  [nat.NumVerdicts]uint64
	seen    [2][][]byte // what last came out, by side
	sent    []arrival   // what last went in
	pending []arrival   // fragments under way
	knocked ends        // who last tried to get in
	events  []nat.Event // all that the engine told
	trace   []string
	verbose bool
	tamper  tamper
}

// tamper changes a packet that the engine has translated, for tests of the simulation itself.
type tamper func(p *packet.Packet, v nat.Verdict)

// run plays a script. The error says what went wrong; trace is what led to it, if asked for.
func run(script []byte, verbose bool, fault tamper) (counts [nat.NumVerdicts]uint64, trace []string, err error) {
	head := script[:min(len(script), HeadSize)]
	s := &sim{world: newWorld(newDice(head)), verbose: verbose, tamper: fault}
	s.now = s.world.start
	p := s.world.policy(nil)
	if s.engine, err = nat.New(s.world.cfg, p); err != nil {
		return counts, nil, fmt.Errorf("the script's policy is refused: %w", err)
	}
	s.worker = s.engine.Worker()
	s.twin = twin.New(s.world.cfg, p)
	s.note("world %+v", s.world)
	defer func() {
		if r := recover(); r != nil { // an error like others, so that its script is shrunk
			counts, trace, err = s.counts, s.trace, fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	for ops := script[len(head):]; len(ops) > 0; ops = ops[min(len(ops), OpSize):] {
		d := newDice(ops[:min(len(ops), OpSize)])
		if err = s.op(d); err == nil {
			err = s.check()
		}
		if err != nil {
			return s.counts, s.trace, err
		}
	}
	return s.counts, s.trace, s.end()
}

func (s *sim) note(format string, args ...any) {
	if s.verbose {
		s.trace = append(s.trace, fmt.Sprintf("%v ", s.now)+fmt.Sprintf(format, args...))
	}
}

// tick lets timers fire.
func (s *sim) tick() error {
	for range 50 {
		next := s.worker.Tick(s.now)
		if err := s.emitted(s.worker.Emitted()); err != nil {
			return err
		}
		if err := s.twin.Tick(s.now, s.worker.Emitted()); err != nil {
			return err
		}
		if at, ok := s.engine.NextTimer(); ok && (at <= s.now || at < next) {
			return fmt.Errorf("a timer is due at %v, and tick wants to be called at %v", at, next)
		}
		if next > s.now {
			return nil
		}
	}
	return fmt.Errorf("tick does not come to an end")
}

// packets lets packets arrive, all from one attachment.
func (s *sim) packets(all []arrival, batch bool) error {
	if err := s.tick(); err != nil {
		return err
	}
	var ps []packet.Packet
	for _, a := range all {
		ps = append(ps, a.p.Clone())
	}
	vs := make([]nat.Verdict, len(ps))
	if batch {
		s.worker.Batch(ps, all[0].from, s.now, vs)
		emitted := s.worker.Emitted()
		for i, a := range all {
			if err := s.judge(a, ps[i], vs[i], emissionsOf(emitted, i)); err != nil {
				return fmt.Errorf("packet %d of a batch: %w", i, err)
			}
		}
		return s.compare()
	}
	for i, a := range all {
		vs[i] = s.worker.Translate(&ps[i], a.from, s.now)
		if err := s.judge(a, ps[i], vs[i], s.worker.Emitted()); err != nil {
			return err
		}
	}
	return s.compare()
}

// emissionsOf are those of packet i of a batch, as if it had been alone.
func emissionsOf(all []nat.Emission, i int) (own []nat.Emission) {
	for _, e := range all {
		if e.Cause == i {
			e.Cause = 0
			own = append(own, e)
		}
	}
	return own
}

// judge takes note of what became of a packet, and asks the twin.
func (s *sim) judge(a arrival, out packet.Packet, v nat.Verdict, emitted []nat.Emission) error {
	s.counts[v]++
	if s.tamper != nil {
		s.tamper(&out, v)
	}
	if s.verbose {
		s.note("%d %s %s%v: %v", a.from, craft.Describe(a.p.Bytes()), offload(a.p), v, describeOut(out, v, emitted))
	}
	err := s.twin.Step(s.now, a.from, a.p, twin.Outcome{
		Verdict: v, Packet: out, Emitted: emitted, Sessions: s.engine.Sessions(s.now),
	})
	if err != nil {
		return err
	}
	if v.Forward() {
		if err := s.leaves(out.Bytes(), v.Side(), v == nat.Bypassed); err != nil {
			return err
		}
		if err := verifySame(a.p, out); err != nil {
			return err
		}
		s.remember(v.Side(), out.Bytes())
	}
	if v == nat.Fragmented && craft.Verify(whole(a.p)) == nil {
		if err := craft.Verify(join(emitted)); err != nil {
			return fmt.Errorf("the pieces of a datagram make one that is wrong: %w", err)
		}
	}
	if s.sent = append(s.sent, a); len(s.sent) > 16 {
		s.sent = slices.Clone(s.sent[1:])
	}
	return s.emitted(emitted)
}

func (s *sim) emitted(emitted []nat.Emission) error {
	for _, e := range emitted {
		b := e.Packet.Bytes()
		if err := craft.Verify(b); err != nil && b[9] != packet.ICMP { // a quote is as it came
			return fmt.Errorf("emitted %s: %w", craft.Describe(b), err)
		}
		dst, _ := netip.AddrFromSlice(b[16:20])
		if err := s.leaves(b, e.Side, knowing.Contains(dst)); err != nil {
			return err
		}
		s.remember(e.Side, b)
	}
	return nil
}

// leaves is the first of the laws: no source that is not external is seen outside.
func (s *sim) leaves(b []byte, side nat.Side, bypassed bool) error {
	src, _ := netip.AddrFromSlice(b[12:16])
	ours := slices.Contains(poolA, src) || src == poolB || slices.Contains(statics, src) || src == unlent
	if side == nat.Outside && !bypassed && !ours {
		return fmt.Errorf("leak: %s", craft.Describe(b))
	}
	return nil
}

// verifySame is the second: what had right checksums has them still.
func verifySame(in, out packet.Packet) error {
	if craft.Verify(whole(in)) != nil {
		return nil
	}
	if err := craft.Verify(whole(out)); err != nil {
		return fmt.Errorf("it was right when it came, and now its %w: %s", err, craft.Describe(out.Bytes()))
	}
	return nil
}

// whole is p with its checksum complete.
func whole(p packet.Packet) []byte {
	p = p.Clone()
	b := p.Bytes()
	if o := p.Offload; o.Csum == packet.CsumPartial && int(o.CsumStart+o.CsumOffset)+2 <= len(b) {
		sum := craft.Checksum(b[o.CsumStart:])
		if sum == 0 && b[9] == packet.UDP {
			sum = 0xffff
		}
		be.PutUint16(b[o.CsumStart+o.CsumOffset:], sum)
	}
	return b
}

// join is the datagram of all its pieces.
func join(pieces []nat.Emission) []byte {
	var b []byte
	for i, e := range pieces {
		p := e.Packet.Bytes()
		if i == 0 {
			b = append(b, p...)
			continue
		}
		b = append(b, p[int(p[0]&15)*4:]...)
	}
	be.PutUint16(b[2:], uint16(len(b)))
	be.PutUint16(b[6:], be.Uint16(pieces[len(pieces)-1].Packet.Bytes()[6:])&0x2000|be.Uint16(b[6:])&0x1fff)
	return craft.SetTTL(b, b[8])
}

func (s *sim) remember(side nat.Side, b []byte) {
	s.seen[side] = append(s.seen[side], append([]byte(nil), b...))
	if n := len(s.seen[side]); n > 12 {
		s.seen[side] = slices.Clone(s.seen[side][1:])
	}
}

// compare holds the sessions of both against each other, check all books of the engine, too.
func (s *sim) compare() error { return s.twin.Compare(s.now, s.engine.Sessions(s.now)) }

func (s *sim) check() error {
	if err := s.engine.Check(s.now); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := s.twin.Gauge(s.now, s.engine.Stats(s.now)); err != nil {
		return err
	}
	s.listen()
	return s.compare()
}

// listen takes the engine's events.
func (s *sim) listen() {
	var some [16]nat.Event
	for n := -1; n != 0; {
		n = s.engine.Events(some[:])
		s.events = append(s.events, some[:n]...)
	}
}

// end lets everything time out and looks for what is left.
func (s *sim) end() error {
	st := s.engine.Stats(s.now)
	for v, n := range s.counts {
		if st.Verdicts[v] != n {
			return fmt.Errorf("%v was counted %d times and given %d times", nat.Verdict(v), st.Verdicts[v], n)
		}
	}
	for range 4 {
		s.now += 9 * time.Hour
		if err := s.tick(); err != nil {
			return err
		}
	}
	st = s.engine.Stats(s.now)
	if st.Sessions+st.Mappings+st.Quarantined+st.FragmentBytes+st.FragmentSets+st.HeldSYNs != 0 {
		return fmt.Errorf("leaked: %+v", st)
	}
	if st.Created != st.Expired+st.Recycled+st.Cut {
		return fmt.Errorf("%d sessions were made, and %d + %d + %d ended", st.Created, st.Expired, st.Recycled, st.Cut)
	}
	if err := s.check(); err != nil {
		return err
	}
	if st.EventsLost != 0 {
		return fmt.Errorf("%d events lost", st.EventsLost)
	}
	return s.twin.CompareEvents(s.events)
}

func offload(p packet.Packet) string {
	if p.Offload == (packet.Offload{}) {
		return ""
	}
	return fmt.Sprintf("%+v ", p.Offload)
}

func describeOut(p packet.Packet, v nat.Verdict, emitted []nat.Emission) string {
	s := ""
	if v.Forward() {
		s = craft.Describe(p.Bytes())
	}
	for _, e := range emitted {
		s += fmt.Sprintf("\n    emits to the %v: %s", e.Side, craft.Describe(e.Packet.Bytes()))
	}
	return s
}

// Missing names the verdicts that a run did not reach; DropLeak and Unset cannot be.
func Missing(counts [nat.NumVerdicts]uint64) []string {
	names := map[string]bool{}
	for v, n := range counts {
		if n == 0 && nat.Verdict(v) != nat.Unset && nat.Verdict(v) != nat.DropLeak {
			names[nat.Verdict(v).String()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

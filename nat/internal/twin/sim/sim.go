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
	"runtime/debug"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/nat/internal/invariants"
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
	cfg     nat.Config  // the engine's, with its records
	policy  *nat.Policy // that holds
	engine  *nat.Engine
	worker  *nat.Worker
	twin    *twin.Twin // nil: the engine does what the twin cannot tell, and only the laws hold it
	laws    *invariants.Laws
	now     time.Duration
	counts  [nat.NumVerdicts]uint64
	seen    [2][][]byte // what last came out, by side
	sent    []arrival   // what last went in
	pending []arrival   // fragments under way
	knocked ends        // who last tried to get in
	events  []nat.Event // all that the engine told
	batches bool        // single packets take the way of batches, too
	explain bool        // ask the engine to explain each packet first
	trace   func(string)
	each    func() // called before packets, and after each of a batch when the twin has been asked about it
	under   int    // how many packets the engine is given at once
	tamper  tamper
}

// tamper changes a packet that the engine has translated, for tests of the simulation itself.
type tamper func(p *packet.Packet, v nat.Verdict)

// run plays a script. The error says what went wrong; trace is what led to it, if asked for.
func run(script []byte, verbose bool, fault tamper) (counts [nat.NumVerdicts]uint64, trace []string, err error) {
	return runExplained(script, verbose, fault, len(script) > 0 && script[0]%4 == 0)
}

// runExplained does so with or without asking for an explanation of each packet: run does it for one script in four.
func runExplained(script []byte, verbose bool, fault tamper, explain bool) (counts [nat.NumVerdicts]uint64, trace []string, err error) {
	head := script[:min(len(script), HeadSize)]
	w := newWorld(newDice(head), false)
	s, err := newSim(w)
	if err != nil {
		return counts, nil, err
	}
	s.tamper, s.explain = fault, explain
	if verbose {
		s.trace = func(line string) { trace = append(trace, line) }
	}
	s.note("world %+v", w)
	defer func() {
		if r := recover(); r != nil { // an error like others, so that its script is shrunk
			counts, err = s.counts, fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	for ops := script[len(head):]; len(ops) > 0; ops = ops[min(len(ops), OpSize):] {
		d := newDice(ops[:min(len(ops), OpSize)])
		if err = s.op(kind(d.n(64)), d); err == nil {
			err = s.check()
		}
		if err != nil {
			return s.counts, trace, err
		}
	}
	err = s.end()
	return s.counts, trace, err
}

// newSim is the beginning of a world.
func newSim(w world) (*sim, error) {
	p := w.policy(nil)
	cfg := w.cfg
	cfg.Records = make([]byte, cfg.RecordsSize())
	e, err := nat.New(cfg, p)
	if err != nil {
		return nil, fmt.Errorf("the policy of this world is refused: %w", err)
	}
	return &sim{world: w, cfg: cfg, policy: p, engine: e, worker: e.Worker(), twin: twin.New(w.cfg, p), laws: invariants.New(p), now: w.start}, nil
}

func (s *sim) note(format string, args ...any) {
	if s.trace != nil {
		s.trace(fmt.Sprintf("%v ", s.now) + fmt.Sprintf(format, args...))
	}
}

// tick lets timers fire.
func (s *sim) tick() error {
	for range 50 {
		next := s.worker.Tick(s.now)
		if err := s.laws.Emitted(s.worker.Emitted()); err != nil {
			return err
		}
		for _, e := range s.worker.Emitted() {
			s.remember(e.Side, e.Packet.Bytes())
		}
		if s.twin != nil {
			if err := s.twin.Tick(s.now, s.worker.Emitted()); err != nil {
				return err
			}
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
	if batch || s.batches && len(all) == 1 {
		s.under = len(all)
		s.step()
		s.worker.Batch(ps, all[0].from, s.now, vs)
		emitted := s.worker.Emitted()
		for i, a := range all {
			if err := s.judge(a, ps[i], vs[i], emissionsOf(emitted, i)); err != nil {
				return fmt.Errorf("packet %d of a batch: %w", i, err)
			}
			s.step()
		}
		return s.compare()
	}
	s.under = 1
	for i, a := range all {
		s.step()
		x, err := s.explained(a)
		if err != nil {
			return err
		}
		vs[i] = s.worker.Translate(&ps[i], a.from, s.now)
		if err := s.agrees(x, ps[i], vs[i]); err != nil {
			return fmt.Errorf("%w\n  %d %s\n%v", err, a.from, craft.Describe(a.p.Bytes()), x)
		}
		if err := s.judge(a, ps[i], vs[i], s.worker.Emitted()); err != nil {
			return err
		}
	}
	return s.compare()
}

func (s *sim) step() {
	if s.each != nil {
		s.each()
	}
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
	if s.trace != nil {
		s.note("%d %s %s%v: %v", a.from, craft.Describe(a.p.Bytes()), offload(a.p), v, describeOut(out, v, emitted))
	}
	if s.twin != nil {
		err := s.twin.Step(s.now, a.from, a.p, twin.Outcome{
			Verdict: v, Packet: out, Emitted: emitted, Sessions: s.engine.Sessions(s.now),
		})
		if err != nil {
			return err
		}
	}
	if err := s.laws.Packet(a.from, a.p, out, v, emitted); err != nil {
		return err
	}
	if v.Forward() {
		s.remember(v.Side(), out.Bytes())
	}
	for _, e := range emitted {
		s.remember(e.Side, e.Packet.Bytes())
	}
	if s.sent = append(s.sent, a); len(s.sent) > 16 {
		s.sent = slices.Clone(s.sent[1:])
	}
	return nil
}

func (s *sim) remember(side nat.Side, b []byte) {
	s.seen[side] = append(s.seen[side], append([]byte(nil), b...))
	if n := len(s.seen[side]); n > 12 {
		s.seen[side] = slices.Clone(s.seen[side][1:])
	}
}

// compare holds the sessions of both against each other, check all books of the engine, too.
func (s *sim) compare() error {
	if err := s.laws.Settle(s.engine.Sessions(s.now)); err != nil {
		return err
	}
	if s.twin == nil {
		return s.laws.Owners(s.engine.Sessions(s.now))
	}
	return s.twin.Compare(s.now, s.engine.Sessions(s.now))
}

func (s *sim) check() error {
	if err := s.engine.Check(s.now); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if s.twin != nil {
		if err := s.twin.Gauge(s.now, s.engine.Stats(s.now)); err != nil {
			return err
		}
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
	if s.twin == nil {
		return nil
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

// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package sim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/invariants"
	"github.com/tidegate/tidegate/nat/internal/twin"
)

// shot is what a process would leave that died at a point.
type shot struct {
	where string
	now   time.Duration
	cfg   nat.Config // with a copy of the records
	// states are the twin before it and after each packet that was under way, or after the change of policy; none without a
	// twin. more is how many are to come.
	states []*twin.Twin
	more   int
}

// points are the places between two stores, all of which must have been reached.
var points = []string{
	"field", "add", "added", "answer", "answered", "release", "released", "bury", "strip", "publish", "published",
	"restart", "handshake", "second FIN", "answer of a new connection",
}

// perPoint is how often a point is looked at in one script.
const perPoint = 6

// TestCrashPoints kills an engine between any two stores that change its records, has another one adopt what is left, under the
// policy before, the one that was to be, or a third, and drives that on. What is left must be what a twin knew before the
// packet or after it, or in between what is harmless, and nothing else: see judge. Where the twin cannot tell (worlds in which
// several shards run short of records), the laws alone hold it.
func TestCrashPoints(t *testing.T) {
	reached := map[string]int{}
	judged := map[judge]int{}
	for seed := range uint64(120) {
		script := Script(seed+1000, 60)
		crowded := seed%8 == 7
		w := newWorld(newDice(script[:HeadSize]), crowded)
		w.cfg.Events = 0
		s, err := newSim(w)
		if err != nil {
			t.Fatal(err)
		}
		if crowded {
			s.twin = nil
		}
		left := map[string]int{}
		r := rand.New(rand.NewPCG(seed, 5))
		for i, ops := 0, script[HeadSize:]; len(ops) > 0; i, ops = i+1, ops[OpSize:] {
			policy := s.policy
			var shots []shot
			var before *twin.Twin
			s.each = func() {
				if s.twin == nil {
					return
				}
				before = s.twin.Clone()
				for j := range shots {
					if x := &shots[j]; x.more > 0 {
						x.states, x.more = append(x.states, before), x.more-1
					}
				}
			}
			s.under = 1
			s.each()
			conntrack.CrashPoint = func(where string) {
				// The later ones of a script are worth as much as the first.
				if left[where]++; left[where] <= perPoint/2 || r.IntN(left[where]) < 1 && left[where] < 1<<10 {
					x := shot{where: where, now: s.now, cfg: s.cfg}
					if before != nil {
						x.states, x.more = []*twin.Twin{before}, s.under
					}
					x.cfg.Records = slices.Clone(x.cfg.Records)
					shots = append(shots, x)
				}
			}
			d := newDice(ops[:OpSize])
			err := s.op(kind(d.n(64)), d)
			conntrack.CrashPoint = nil
			s.each()
			if err == nil {
				err = s.check()
			}
			if err != nil {
				t.Fatalf("seed %d, operation %d: %v", seed, i, err)
			}
			for j, x := range shots {
				reached[x.where]++
				p := s.policy
				switch j % 3 { // in the middle of a change the next process may have the one or the other, or be changed, too
				case 1:
					p = policy
				case 2:
					p = s.world.policy(newDice([]byte{byte(seed), byte(i), byte(j)}))
				}
				by, err := s.revive(x, p, seed<<16|uint64(i)<<8|uint64(j))
				if err != nil {
					t.Fatalf("seed %d, operation %d, at %q: %v", seed, i, x.where, err)
				}
				judged[by]++
			}
		}
	}
	for _, where := range points {
		if reached[where] == 0 {
			t.Errorf("never reached: %q", where)
		}
	}
	for where := range maps.Keys(reached) {
		if !slices.Contains(points, where) {
			t.Errorf("not listed: %q", where)
		}
	}
	for _, by := range []judge{asWhole, partly, someOf} {
		if judged[by] == 0 {
			t.Errorf("none was %v", by)
		}
	}
	if judged[lawsAlone]*5 > judged[asWhole] {
		t.Errorf("too many without a twin: %v", judged)
	}
	t.Logf("%v; %v", judged, reached)
}

// judge says as what a shot was known.
type judge int

const (
	// lawsAlone: there is no twin.
	lawsAlone judge = iota
	// asWhole: it is as before a packet, a change, or after it.
	asWhole
	// partly: a session has some of what a packet says of it: that there was an answer, or all but the new state of its
	// connection. That is what a tracker knows that missed a packet; and both ends send again what was under way.
	partly
	// someOf: of several sessions that were to end some have: in a change of policy, or one that gave way to a new one, which
	// is not there yet. The rest ends under the next engine, or goes on if that has another policy. Or one of two that were to
	// be made is there, of a hairpin or of two restricted hosts: the packet has not left, and the next makes the other.
	someOf
)

func (j judge) String() string {
	return [...]string{"by the laws alone", "as before or after", "partly done", "done with some sessions"}[j]
}

// known finds what is left, which e has adopted at the time now under the policy p, among what the twins knew and what is between,
// and skips the first ones that look like it: not all that a connection knows shows. A nil twin is none more.
func (x *shot) known(skip int, now time.Duration, p *nat.Policy, got nat.Adoption, e *nat.Engine) (judge, *twin.Twin, error) {
	var errs []error
	is := func(by judge, t, amid *twin.Twin) *twin.Twin {
		t = t.Clone()
		t.Unsent(x.states[0])
		t.Order(e.Sessions(now))
		var err error
		if amid != nil {
			err = t.AdoptAmid(amid, now, p, got, e.Sessions(now))
		} else {
			err = errors.Join(t.Adopt(now, p, got), t.Compare(now, e.Sessions(now)))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", by, err))
			return nil
		}
		if skip--; skip >= 0 {
			return nil
		}
		return t
	}
	for _, t := range x.states {
		if t = is(asWhole, t, nil); t != nil {
			return asWhole, t, nil
		}
	}
	for i, next := range x.states[1:] {
		t := x.states[i]
		for _, part := range t.Partly(next) {
			if t := is(partly, part, nil); t != nil {
				return partly, t, nil
			}
		}
		if t = is(someOf, t, next); t != nil {
			return someOf, t, nil
		}
	}
	return lawsAlone, nil, errors.Join(errs...)
}

// revive adopts what is left and drives it on, beside the first twin that explains it and all that follows.
func (s *sim) revive(x shot, p *nat.Policy, seed uint64) (by judge, err error) {
	records := x.cfg.Records
	for skip := 0; ; skip++ {
		x.cfg.Records = slices.Clone(records)
		cfg := x.cfg
		r := rand.New(rand.NewPCG(seed, 6))
		if r.IntN(3) == 0 {
			cfg.Records = make([]byte, cfg.RecordsSize())
		}
		now := x.now + time.Duration(r.IntN(3))*time.Second
		e, got, err2 := nat.Adopt(cfg, x.cfg.Records, p, now)
		if err2 != nil {
			return by, err2
		}
		if got.Torn != 0 || got.NoRoom != 0 {
			return by, fmt.Errorf("lost: %+v", got)
		}
		if err := e.Check(now); err != nil {
			return by, err
		}
		f := &sim{
			world: s.world, cfg: cfg, engine: e, worker: e.Worker(), laws: invariants.New(p), now: now, policy: p,
			seen: [2][][]byte{slices.Clone(s.seen[0]), slices.Clone(s.seen[1])}, sent: slices.Clone(s.sent), knocked: s.knocked, batches: r.IntN(2) == 0,
		}
		if x.states == nil {
			return lawsAlone, f.drive(r)
		}
		if by, f.twin, err2 = x.known(skip, now, p, got, e); f.twin == nil {
			if skip == 0 {
				err = fmt.Errorf("this is neither as before nor as after:\n%w", err2)
			}
			return by, err // of the drives beside the twins that looked like it
		}
		err2 = f.drive(r)
		if err2 == nil {
			return by, nil
		}
		err = errors.Join(err, fmt.Errorf("%v: %w", by, err2))
	}
}

// drive goes on for some operations, and then until all has ended.
func (s *sim) drive(r *rand.Rand) error {
	for range 8 {
		var op [OpSize]byte
		for i := range op {
			op[i] = byte(r.Uint32())
		}
		d := newDice(op[:])
		if err := s.op(kind(d.n(64)), d); err != nil {
			return err
		}
		if err := s.check(); err != nil {
			return err
		}
	}
	for range 4 {
		s.now += 9 * time.Hour
		if err := s.tick(); err != nil {
			return err
		}
	}
	st := s.engine.Stats(s.now)
	if st.Sessions+st.Mappings+st.Quarantined != 0 || st.Created != st.Expired+st.Recycled+st.Cut {
		return fmt.Errorf("leaked: %+v", st)
	}
	return s.check()
}

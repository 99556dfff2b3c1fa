// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package sim

import (
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
	// before and after are the twin then, nil without: of the packet under way, of the change of policy.
	before, after *twin.Twin
}

// points are the places between two stores that must have been reached. Those of the second list are in the middle of TCP
// tracking: what is left there is not what the twin had before or after, but what a tracker knows that missed a packet.
var (
	points = []string{
		"field", "add", "added", "answer", "release", "released", "bury", "strip", "publish", "published",
	}
	tracking = []string{"answered", "restart", "handshake", "second FIN", "answer of a new connection"}
)

// perPoint is how often a point is looked at in one script.
const perPoint = 6

// TestCrashPoints kills an engine between any two stores that change its records, has another one adopt what is left, and
// drives that on: against a twin that is as the engine was before the packet, or after it; where it is neither, since one
// packet changes several sessions, the laws alone hold it.
func TestCrashPoints(t *testing.T) {
	reached := map[string]int{}
	var withTwin, neither, without int
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
					if shots[j].after == nil {
						shots[j].after = before
					}
				}
			}
			s.each()
			conntrack.CrashPoint = func(where string) {
				// The later ones of a script are worth as much as the first.
				if left[where]++; left[where] <= perPoint/2 || r.IntN(left[where]) < 1 && left[where] < 1<<10 {
					x := shot{where: where, now: s.now, cfg: s.cfg, before: before}
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
				if j%2 == 1 {
					p = policy // in the middle of a change: the next process may have the one or the other
				}
				judged, err := s.revive(x, p, seed<<16|uint64(i)<<8|uint64(j))
				if err != nil {
					t.Fatalf("seed %d, operation %d, at %q: %v", seed, i, x.where, err)
				}
				switch judged {
				case byTwin:
					withTwin++
				case byNeither:
					neither++
				default:
					without++
				}
			}
		}
	}
	for _, where := range slices.Concat(points, tracking) {
		if reached[where] == 0 {
			t.Errorf("never reached: %q", where)
		}
	}
	for where := range maps.Keys(reached) {
		if !slices.Contains(slices.Concat(points, tracking), where) {
			t.Errorf("not listed: %q", where)
		}
	}
	if withTwin < 20*neither || withTwin < without {
		t.Errorf("%d went on with a twin, for %d there was none", withTwin, neither)
	}
	t.Logf("%d went on with a twin, for %d there was none, %d are not for the twin to know: %v", withTwin, neither, without, reached)
}

// judge is who looked at what became of a shot.
type judge int

const (
	byLaws    judge = iota // the twin cannot know
	byNeither              // it is neither as before nor as after
	byTwin
)

// revive adopts what is left and drives it on.
func (s *sim) revive(x shot, p *nat.Policy, seed uint64) (by judge, err error) {
	cfg := x.cfg
	r := rand.New(rand.NewPCG(seed, 6))
	if r.IntN(3) == 0 {
		cfg.Records = make([]byte, cfg.RecordsSize())
	}
	now := x.now + time.Duration(r.IntN(3))*time.Second
	e, got, err := nat.Adopt(cfg, x.cfg.Records, p, now)
	if err != nil {
		return by, err
	}
	if got.Torn != 0 || got.NoRoom != 0 {
		return by, fmt.Errorf("lost: %+v", got)
	}
	f := &sim{
		world: s.world, cfg: cfg, engine: e, worker: e.Worker(), laws: invariants.New(p), now: now, policy: p,
		seen: [2][][]byte{slices.Clone(s.seen[0]), slices.Clone(s.seen[1])}, sent: slices.Clone(s.sent), knocked: s.knocked, batches: r.IntN(2) == 0,
	}
	if err := e.Check(now); err != nil {
		return by, err
	}
	if !slices.Contains(tracking, x.where) && x.before != nil {
		for _, t := range []*twin.Twin{x.before, x.after} {
			c := t.Clone()
			c.Unsent(x.before)
			if !c.Adoptable(now) {
				by = byLaws
				break
			}
			if by = max(by, byNeither); c.Adopt(now, p, got) == nil && c.Compare(now, e.Sessions(now)) == nil {
				by, f.twin = byTwin, c
				break
			}
		}
	}
	for range 8 {
		var op [OpSize]byte
		for i := range op {
			op[i] = byte(r.Uint32())
		}
		d := newDice(op[:])
		if err := f.op(kind(d.n(64)), d); err != nil {
			return by, err
		}
		if err := f.check(); err != nil {
			return by, err
		}
	}
	for range 4 {
		f.now += 9 * time.Hour
		if err := f.tick(); err != nil {
			return by, err
		}
	}
	st := f.engine.Stats(f.now)
	if st.Sessions+st.Mappings+st.Quarantined != 0 || st.Created != st.Expired+st.Recycled+st.Cut {
		return by, fmt.Errorf("leaked: %+v", st)
	}
	return by, f.check()
}

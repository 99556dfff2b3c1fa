// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"math"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// Adoption is what became of the sessions that an engine left behind.
type Adoption struct {
	// Sessions go on, and Quarantined are ports that still wait.
	Sessions, Quarantined int
	// Expired timed out while nobody looked; Cut are those that the policy would not make.
	Expired, Cut int
	// Torn were half made or half changed, or made no sense.
	Torn int
	// NoRoom did not fit into fewer records, or with another Seed into the shards, of which each owns a part of the ports.
	NoRoom int
	// Shards is how many the engine has.
	Shards int
	// Age is how long the last sign of life of the other engine is past.
	Age time.Duration
}

// Adopt makes an engine of what another one, which has ended or will do nothing more, has left in old. If old and
// cfg.Records are the same memory, it goes on in place. Otherwise the records are copied, into cfg.Records or onto the heap,
// and old is only read: so the new engine may have other Sessions, FlowCounters, and fewer Shards. More than old has it gets
// only when it starts empty, for the ports are dealt to the shards: until then it keeps those, as Adoption.Shards says. With
// cfg.Seed 0 the seed is that of old.
//
// now is on the clock of the other engine's calls, so that time counts that passed between the two. p decides, as in Apply,
// what goes on; pools and restrictions are known again by their names. (Pools past the first 1,023 that a policy had at once
// are known by their place alone, since there is room for so many names: their sessions go on while the order of the policy's
// pools is the same, and are cut otherwise.) Sessions, external ports, time-outs, TCP
// tracking, quarantine, IP identifications and the counters of Stats go on. Held SYNs, waiting fragments, events that nobody
// took and the rates of hosts are lost, and PoolStats begin anew with what the sessions that go on have counted.
//
// What no engine can have left whole, since it died between two stores, is dropped; all else of it is kept. If old as a whole
// cannot be used, the error is one of ErrNotRecords, ErrRecordsVersion, ErrRecordsLayout and ErrRecordsDamaged, and old is
// as it was. An Adopt that was interrupted can be repeated.
func Adopt(cfg Config, old []byte, p *Policy, now time.Duration) (*Engine, Adoption, error) {
	inPlace := sameMemory(old, cfg.Records)
	l, unreadable := readRecords(old)
	if cfg = cfg.withDefaults(); unreadable == nil && len(cfg.sizeFaults()) == 0 {
		cfg.Shards = min(cfg.Shards, l.cfg.Shards)
	}
	cfg, err := cfg.complete(p)
	if err != nil {
		return nil, Adoption{}, err
	}
	if unreadable != nil {
		return nil, Adoption{}, unreadable
	}
	seed := l.head.seed
	if cfg.Seed != 0 {
		seed = seedOf(cfg.Seed)
	}
	clock, ms := l.clock.Load(), uint64(max(now, 0)/time.Millisecond)
	if clock > ms+backwards {
		return nil, Adoption{}, fmt.Errorf("nat: they were in use %v after now, on another clock: %w", time.Duration(clock-ms)*time.Millisecond, ErrRecordsDamaged)
	}
	if inPlace {
		if c, o := cfg.table(), l.cfg.table(); c.Sessions != o.Sessions || cfg.Shards != l.cfg.Shards || cfg.FlowCounters != l.cfg.FlowCounters {
			return nil, Adoption{}, fmt.Errorf("nat: %d sessions in %d shards (flow counters: %t) cannot become %d in %d (%t) where they are; give other memory to copy them to: %w",
				l.cfg.Sessions, l.cfg.Shards, l.cfg.FlowCounters, cfg.Sessions, cfg.Shards, cfg.FlowCounters, ErrRecordsLayout)
		}
		if seed != l.head.seed {
			return nil, Adoption{}, fmt.Errorf("nat: they were made with another Seed and cannot go on where they are; give other memory to copy them to, or Seed 0: %w", ErrRecordsLayout)
		}
	}
	a := &adopter{left: l, tick: uint32(clock)}
	if a.e, err = a.assemble(cfg, seed, inPlace); err != nil {
		return nil, Adoption{}, err
	}
	e := a.e
	a.install(p)
	if !inPlace {
		a.copy()
	}
	a.rebuild()
	e.kept.clock.Store(clock)
	a.end(e.latest(now))
	a.count()
	e.kept.publish(e.generation, e.pol, e.numbers)
	if !inPlace {
		e.kept.finish()
	}
	a.Shards = cfg.Shards
	if ms > clock {
		a.Age = time.Duration(ms-clock) * time.Millisecond
	}
	return e, a.Adoption, nil
}

// backwards is by how many milliseconds a clock may seem to have gone back; see conntrack.
const backwards = 1 << 24

// adopter is an Adopt under way.
type adopter struct {
	*left
	e    *Engine
	tick uint32 // of the other engine's last sign of life
	// bounded: some sessions count for their host or destination.
	bounded bool
	Adoption
}

// assemble makes the engine, with the counters of the old one.
func (a *adopter) assemble(cfg Config, seed [32]byte, inPlace bool) (*Engine, error) {
	k := a.kept
	if !inPlace {
		k = cfg.format(cfg.Records, seed)
		copyCounters(k, a.kept)
	}
	if id := verdictsID(); k.odd.verdicts.Load() != id {
		// Of a version with other verdicts: those counters would be of something else.
		for i := range k.workers {
			for v := range k.workers[i].verdicts {
				k.workers[i].verdicts[v].Store(0)
			}
		}
		k.odd.verdicts.Store(id)
	}
	e, err := cfg.assemble(k, seed, a.policy.generation+1)
	if err != nil {
		return nil, err
	}
	e.adopted = a.policy.epoch
	if !inPlace {
		if seed == a.head.seed {
			for i := range k.ids {
				k.ids[i].Store(a.ids[i].Load())
			}
		} else { // another hash, so there is nothing to go on from
			e.randomIDs()
		}
	}
	return e, nil
}

func (e *Engine) randomIDs() {
	random := &e.shards[0].random
	for i := range e.kept.ids {
		e.kept.ids[i].Store(uint32(random.take()))
	}
}

// copyCounters adds up the counters of the workers of from, since the new ones are others.
func copyCounters(to, from *kept) {
	for i := range from.workers {
		w := &from.workers[i]
		for v := range w.verdicts {
			to.workers[0].verdicts[v].Add(w.verdicts[v].Load())
		}
		to.workers[0].emitted.Add(w.emitted.Load())
		to.workers[0].suppressed.Add(w.suppressed.Load())
	}
	to.odd.unburied.Store(from.odd.unburied.Load())
	to.odd.parityLost.Store(from.odd.parityLost.Load())
	to.odd.quoteChecksums.Store(from.odd.quoteChecksums.Load())
	to.odd.eventsLost.Store(from.odd.eventsLost.Load())
	to.odd.verdicts.Store(from.odd.verdicts.Load())
}

// install puts the policy in place. Its pools get the numbers that they had, and its restrictions hold their hosts as if
// they had done so since the last time that the other engine took one from its host: whether they did is in each session
// (keeps).
func (a *adopter) install(p *Policy) {
	e, old := a.e, &a.policy.pools
	were := map[uint64]int{}
	for n, id := range old {
		if id != 0 && n != filterPool {
			were[id] = n
		}
	}
	for i := range p.Pools {
		if n, ok := were[nameID(p.Pools[i].Name)]; ok {
			e.numbers[p.Pools[i].Name] = n
		}
	}
	e.install(p)
	for i := range e.pol.bounds {
		e.pol.bounds[i].since = a.policy.unbroken
	}
	for n := range e.pol.pools {
		if q := &e.pol.pools[n]; n < keptPools && q.name != "" && old[n] == nameID(q.name) {
			q.since = a.policy.epoch
		}
	}
	// Pools that are gone: their sessions live until the policy says that they do not, and their ports wait as long as those
	// of any pool.
	rows := len(e.pol.pools)
	for n, id := range old {
		if id != 0 {
			rows = max(rows, n+1)
		}
	}
	const states = int(conntrack.NumStates)
	timeouts := make([]uint32, rows*states)
	longest := uint32(0)
	for n := range e.pol.pools {
		longest = max(longest, e.shards[0].t.Timeouts[n*states+int(conntrack.Quarantined)])
	}
	for n := range rows {
		row := timeouts[n*states:][:states]
		if n < len(e.pol.pools) && (n == filterPool || e.pol.pools[n].name != "") {
			copy(row, e.shards[0].t.Timeouts[n*states:])
			continue
		}
		for s := range row {
			row[s] = 1<<30 - 1
		}
		row[conntrack.Quarantined] = longest
	}
	for i := range e.shards {
		e.shards[i].t.Timeouts = timeouts
	}
}

// sensible looks at a record that is not free, of the shard i of an engine: whether such a one may be there.
func (e *Engine) sensible(i int, r *conntrack.Record) bool {
	if int(r.Pool) >= len(e.shards[i].t.Timeouts)/int(conntrack.NumStates) {
		return false
	}
	_, ports := class(r.Proto)
	filter := r.State != conntrack.Quarantined && r.Has(conntrack.Filter)
	switch {
	case filter && (r.Pool != filterPool || r.Ext != r.In || r.ExtPort != r.InPort):
		return false
	case !filter && (r.Pool == filterPool || !ports):
		return false
	case r.State == conntrack.Quarantined:
		return e.shardOfPort(r.ExtPort) == i
	}
	return r.Delta == uint16(packet.Delta32(r.In, r.Ext)) && e.shardOf(r.In, r.InPort, r.Proto) == i && (r.Bits&(conntrack.Forwarded|conntrack.Filter) != 0 || e.shardOfPort(r.ExtPort) == i)
}

// vet is what Rebuild asks about each record of shard i.
func (a *adopter) vet(i int, r *conntrack.Record) bool {
	if int32(r.LastSeen-a.tick) > 0 || !a.e.sensible(i, r) {
		return false
	}
	if int32(r.Epoch-a.policy.epoch) > 0 {
		// Of an Adopt that was interrupted, under a policy that was never in force: this one has to be asked.
		r.Epoch = a.policy.epoch
	}
	if r.State != conntrack.Quarantined {
		a.bounded = a.bounded || r.Bits&(conntrack.Tallied|conntrack.Crowded) != 0
	}
	return true
}

// copy takes the records over into the new memory: where there is less room, answered sessions go first, then others,
// then ports that wait.
func (a *adopter) copy() {
	e := a.e
	var total conntrack.Stats
	for _, t := range a.tables {
		s := t.Stats()
		total.Created += s.Created
		total.Expired += s.Expired
		total.Recycled += s.Recycled
		total.Cut += s.Cut
		total.Displaced += s.Displaced
	}
	for turn := range 3 {
		for _, t := range a.tables {
			for h := conntrack.Handle(1); int(h) <= t.Cap(); h++ {
				r := t.Rec(h)
				class := 1
				switch {
				case r.State == conntrack.Free:
					continue
				case r.State == conntrack.Quarantined:
					class = 2
				case r.Has(conntrack.Replied):
					class = 0
				}
				if class != turn {
					continue
				}
				i := e.shardOf(r.In, r.InPort, r.Proto)
				if r.State == conntrack.Quarantined {
					i = e.shardOfPort(r.ExtPort)
				}
				if r.State < conntrack.Quarantined && r.Bits&(conntrack.Forwarded|conntrack.Filter) == 0 && e.shardOfPort(r.ExtPort) != i ||
					!e.shards[i].t.Deposit(r, t.Count(h)) {
					a.NoRoom++
					if class == 2 {
						total.Displaced++
					} else {
						total.Recycled++
					}
				}
			}
		}
	}
	e.shards[0].t.SetStats(total)
}

func (a *adopter) rebuild() {
	for i := range a.e.shards {
		sh := &a.e.shards[i]
		a.Torn += sh.t.Rebuild(a.tick, func(r *conntrack.Record) bool { return a.vet(i, r) })
		sh.ms = a.clock.Load()
		if !a.bounded {
			continue
		}
		for h := conntrack.Handle(1); int(h) <= sh.t.Cap(); h++ {
			a.e.retally(sh.t.Rec(h))
		}
	}
}

// retally counts a session again for its host and its destination.
func (e *Engine) retally(r *conntrack.Record) {
	if r.State == conntrack.Free || r.State == conntrack.Quarantined {
		return
	}
	if r.Has(conntrack.Tallied) {
		e.hosts.add(uint64(r.In), 0, 0, 0, 0)
	}
	if r.Has(conntrack.Crowded) {
		a, b := destination(r.Ext, r.Rem, r.RemPort, r.Proto)
		e.dests.add(a, b, 0)
	}
}

// end ends what died meanwhile and what the policy does not want, as any table does.
func (a *adopter) end(ms uint64) {
	for i := range a.e.shards {
		sh := &a.e.shards[i]
		was := sh.t.Stats()
		tick := sh.latest(ms)
		sh.t.Advance(tick, math.MaxInt)
		sh.t.Reconsider(1, math.MaxInt, tick)
		s := sh.t.Stats()
		a.Expired += int(s.Expired - was.Expired)
		a.Cut += int(s.Cut - was.Cut)
		a.Sessions += sh.t.Used() - sh.t.Quarantined()
		a.Quarantined += sh.t.Quarantined()
	}
}

// count makes the counters of sessions agree with the sessions that there are. What was lost counts as Cut.
func (a *adopter) count() {
	var ended, created uint64
	for i := range a.e.shards {
		s := a.e.shards[i].t.Stats()
		created += s.Created
		ended += s.Expired + s.Recycled + s.Cut
	}
	t := a.e.shards[0].t
	s := t.Stats()
	if is := ended + uint64(a.Sessions); is > created {
		s.Created += is - created
	} else {
		s.Cut += created - is
	}
	t.SetStats(s)
}

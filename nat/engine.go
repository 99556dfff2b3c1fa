// SPDX-License-Identifier: Apache-2.0

package nat

import (
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat/internal/reasm"
)

// Engine is one NAT, made by New. Its methods are safe for concurrent use; packets go through a Worker, one for each goroutine.
//
// Locks, in the order in which they are taken: applyMu, mu, one shard's mu, then at most one of those of hosts, destinations,
// frags, held and limit.
type Engine struct {
	// mu is held for reading through each batch and for writing while a policy is put in place: a batch sees one
	// policy from its first packet to its last, and when Apply returns no packet of an older one is under way.
	mu  sync.RWMutex
	pol *policy
	// applyMu keeps Apply and Check apart.
	applyMu sync.Mutex

	shards  []shard
	key     [2]uint64
	numbers map[string]int // of pools; a number is given again when its pool is gone
	cfg     Config

	hosts tally
	dests destCounts
	frags fragments
	held  heldSYNs
	limit limiter

	// kept is the front of cfg.Records, where the clock, counters and IP identifications are.
	kept       *kept
	generation uint32 // how many engines had these records before
	adopted    uint32 // the epoch of the last one

	eventsMu sync.Mutex // held by the reader of events; taken with no other lock held
	workers  atomic.Uint32
}

// shard is a part of the tables, and the lock that is taken once for its part of a batch.
type shard struct {
	mu     sync.Mutex
	t      *conntrack.Table
	ms     uint64 // the latest time seen, in milliseconds: it does not step back
	number int
	random numbers
	crowds crowds
	events ring
	books  poolBooks
	ids    [1 << 12]uint32 // the next IP identification of the shard's block of each counter; none at a multiple of idBlock
	alone  int             // 1 if there is no other shard
	_      [64]byte        // no two shards' locks in one cache line
}

// mustBeMade stops the use of an Engine that New did not make, before anything less clear happens.
func (e *Engine) mustBeMade() {
	if len(e.shards) == 0 {
		panic("nat: this Engine was not made by New")
	}
}

const (
	defaultSessions      = 65536
	defaultFragmentBytes = 4 << 20
	defaultHeldSYNs      = 1024
	maxShards            = 64
)

// New makes an engine with a first policy. All faults of both are reported at once.
func New(cfg Config, p *Policy) (*Engine, error) {
	cfg, err := cfg.complete(p)
	if err != nil {
		return nil, err
	}
	seed := seedOf(cfg.Seed)
	k := cfg.format(cfg.Records, seed)
	e, err := cfg.assemble(k, seed, 0)
	if err != nil {
		return nil, err
	}
	for i := range e.shards {
		e.shards[i].t.Rebuild(0, nil) // of nothing
	}
	e.install(p)
	k.publish(0, e.pol, e.numbers)
	k.finish()
	return e, nil
}

func (c Config) withDefaults() Config {
	if c.Sessions == 0 {
		c.Sessions = defaultSessions
	}
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.FragmentBytes == 0 {
		c.FragmentBytes = defaultFragmentBytes
	}
	if c.HeldSYNs == 0 {
		c.HeldSYNs = defaultHeldSYNs
	}
	if c.FragmentTimeout == 0 {
		c.FragmentTimeout = DefaultFragmentTimeout
	}
	return c
}

// sizeFaults is what is wrong with the numbers of sessions and shards.
func (c *Config) sizeFaults() (f faults) {
	if c.Shards < 1 || c.Shards > maxShards || c.Shards&(c.Shards-1) != 0 {
		f.add("nat: %d shards: want a power of two up to %d", c.Shards, maxShards)
	} else if c.Sessions < c.Shards || c.Sessions/c.Shards > conntrack.MaxSessions {
		f.add("nat: %d sessions in %d shards: want 1 to %d in each", c.Sessions, c.Shards, conntrack.MaxSessions)
	}
	return f
}

// complete is c with defaults and memory, or what is wrong with it and p.
func (c Config) complete(p *Policy) (Config, error) {
	c = c.withDefaults()
	f := c.sizeFaults()
	if c.Records != nil && len(f) == 0 {
		if n := c.RecordsSize(); len(c.Records) < n {
			f.add("nat: %d bytes for records: want %d", len(c.Records), n)
		} else if !aligned(c.Records) {
			f.add("nat: the memory for records is not aligned to 8 bytes")
		}
	}
	if c.FragmentTimeout < time.Millisecond || c.FragmentTimeout > time.Hour {
		f.add("nat: fragments that wait for %v: want 1ms to 1h", c.FragmentTimeout)
	}
	if c.Events < 0 || c.Events > maxEvents {
		f.add("nat: %d events: want 0, for none, to %d", c.Events, maxEvents)
	}
	if c.FragmentBytes < 0 || c.HeldSYNs < 0 || c.QuarantinedPorts < 0 {
		f.add("nat: a negative bound")
	}
	if err := c.validate(p); err != nil {
		f = append(f, err)
	}
	if len(f) > 0 {
		return c, errors.Join(f...)
	}
	if c.Records == nil {
		c.Records = heapRecords(c.RecordsSize())
	}
	return c, nil
}

// assemble makes the engine of formatted records, but for its policy; the tables are opened. The random numbers of each
// generation are others.
func (c Config) assemble(k *kept, seed [32]byte, generation uint32) (*Engine, error) {
	e := &Engine{cfg: c, kept: k, generation: generation, numbers: map[string]int{}, shards: make([]shard, c.Shards)}
	root := rand.NewChaCha8(seed)
	for i := range e.key {
		e.key[i] = root.Uint64()
	}
	e.hosts.key = [2]uint64{root.Uint64(), root.Uint64()}
	e.dests.sessions = c.Shards * c.table().Sessions
	e.dests.key = [2]uint64{root.Uint64(), root.Uint64()}
	e.frags.store = reasm.New(c.FragmentBytes, [2]uint64{root.Uint64(), root.Uint64()})
	e.frags.store.Timeout = uint32(c.FragmentTimeout / time.Millisecond)
	e.held.init(c.HeldSYNs)
	ids := [len(k.ids)]uint32{}
	for i := range ids {
		ids[i] = uint32(root.Uint64())
	}
	if generation == 0 {
		for i := range ids {
			k.ids[i].Store(ids[i])
		}
	} else {
		binary.LittleEndian.PutUint32(seed[28:], binary.LittleEndian.Uint32(seed[28:])^generation)
		root = rand.NewChaCha8(seed)
	}
	for i := range e.shards {
		tc := c.table()
		tc.Key = [2]uint64{root.Uint64(), root.Uint64()}
		t, err := conntrack.Open(tc, c.shardRecords(c.Records, i))
		if err != nil {
			return nil, err
		}
		sh := &e.shards[i]
		sh.t, sh.number, sh.crowds, sh.alone = t, i, newCrowds(c.Sessions/c.Shards), 1/len(e.shards)
		sh.events.lost = &k.odd.eventsLost
		var s [32]byte
		for j := range 4 {
			binary.LittleEndian.PutUint64(s[8*j:], root.Uint64())
		}
		sh.random = newNumbers(s)
		t.Agrees = func(r *conntrack.Record) bool { return e.pol.agrees(r) }
		t.Released = func(r *conntrack.Record, last bool) { e.released(sh, r, last) }
		if c.Events > 0 {
			sh.events.slots = make([]event, ringSize(c.Events, c.Shards))
		}
		t.Ended = func(h conntrack.Handle, r *conntrack.Record, why conntrack.Reason, at uint32) {
			e.bookEnd(sh, h, r, why)
			sh.noteEnd(h, r, why, at)
		}
	}
	return e, nil
}

func seedOf(seed uint64) (s [32]byte) {
	if seed == 0 {
		_, _ = crand.Read(s[:]) // never fails (crypto/rand)
		return s
	}
	binary.LittleEndian.PutUint64(s[:], seed)
	return s
}

// Apply puts another policy in place. A policy with faults is refused whole, and the old one goes on. When Apply
// returns, no packet is translated by the old policy any more. Sessions that the new one would not have made end with
// their next packet; Impact counts them at the time now.
func (e *Engine) Apply(p *Policy, now time.Duration) (Impact, error) {
	e.mustBeMade()
	if err := e.cfg.validate(p); err != nil {
		return Impact{}, fmt.Errorf("nat: policy refused, the old one stays: %w", err)
	}
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	e.mu.Lock()
	e.install(p)
	e.kept.publish(e.generation, e.pol, e.numbers)
	for i := range e.shards {
		e.shards[i].crowds.forget()
	}
	e.mu.Unlock()
	ms := e.latest(now)
	// What follows changes nothing for packets: they ask policy.agrees themselves. It counts, and frees records early.
	var impact Impact
	for i := range e.shards {
		sh := &e.shards[i]
		before := -1
		for next := conntrack.Handle(1); next != conntrack.None; {
			e.mu.RLock()
			sh.mu.Lock()
			if before < 0 {
				before = int(sh.t.Stats().Cut)
			}
			first := next
			var kept int
			kept, next = sh.t.Reconsider(first, reconsiderAtOnce, sh.latest(ms))
			impact.Kept += kept
			impact.Draining += sh.draining(e.pol, first, next)
			if next == conntrack.None {
				impact.Cut += int(sh.t.Stats().Cut) - before
			}
			sh.mu.Unlock()
			e.mu.RUnlock()
		}
	}
	return impact, nil
}

// reconsiderAtOnce bounds how long Apply holds a shard's lock: some tens of microseconds.
const reconsiderAtOnce = 512

// install compiles p and makes it the current policy.
func (e *Engine) install(p *Policy) {
	epoch := e.adopted + 1
	if e.pol != nil {
		epoch = e.pol.epoch + 1
	}
	e.numbers = e.renumber(p)
	c := e.compile(p, e.numbers)
	c.epoch = epoch
	c.inherit(e.pol, epoch)
	e.openBooks(c)
	timeouts := e.timeouts(c)
	e.pol = c
	e.limit.setRate(c.icmpRate)
	for i := range e.shards {
		e.shards[i].t.Epoch = epoch
		e.shards[i].t.Timeouts = timeouts
	}
}

func (e *Engine) compile(p *Policy, numbers map[string]int) *policy {
	return p.compile(func(name string) int { return numbers[name] }, e.key[0])
}

// timeouts are those of the pools of c, by number and state.
func (e *Engine) timeouts(c *policy) []uint32 {
	// Sessions of pools that are gone are looked at once more, with the time-outs they had.
	old := e.shards[0].t.Timeouts
	timeouts := make([]uint32, max(len(old), len(c.pools)*int(conntrack.NumStates)))
	copy(timeouts, old)
	for i := range c.pools {
		if d := &c.pools[i]; d.name != "" || i == filterPool {
			t := d.timeouts()
			copy(timeouts[i*int(conntrack.NumStates):], t[:])
		}
	}
	return timeouts
}

// renumber gives each pool of p a number, the one it had if it was there before.
func (e *Engine) renumber(p *Policy) map[string]int {
	numbers, taken := map[string]int{}, map[int]bool{}
	for _, q := range p.Pools {
		if n, ok := e.numbers[q.Name]; ok {
			numbers[q.Name], taken[n] = n, true
		}
	}
	next := filterPool + 1
	for _, q := range p.Pools {
		if _, ok := numbers[q.Name]; ok {
			continue
		}
		for taken[next] {
			next++
		}
		numbers[q.Name], taken[next] = next, true
	}
	return numbers
}

// agrees says whether the policy would make the session as it is.
func (p *policy) agrees(r *conntrack.Record) bool {
	// All sessions of a mapping must say the same of its quarantine, whichever is the last: what the policy says now.
	r.Bits |= conntrack.Reusable
	if k, _ := class(r.Proto); int(r.Pool) < len(p.pools) && p.pools[r.Pool].quarantined(k) {
		r.Bits &^= conntrack.Reusable
	}
	if r.Has(conntrack.Filter) {
		return p.keeps(r)
	}
	o, rem := p.owners.of(r.Ext), p.owners.of(r.Rem)
	if o.kind != external || o.pool != r.Pool || p.owners.of(r.In).kind != inside || rem.kind == inside || rem.private {
		return false
	}
	k, _ := class(r.Proto)
	d := &p.pools[o.pool]
	if r.Has(conntrack.Forwarded) {
		if p.forwardsIn[endpoint{r.Ext, r.ExtPort, r.Proto}] != (endpoint{r.In, r.InPort, r.Proto}) {
			return false
		}
	} else {
		if r.Has(conntrack.Independent) != (d.Mapping[k] == EndpointIndependent) || d.isReserved(k, r.ExtPort) ||
			d.PortBlock > 0 && !d.owns(r.In, r.Ext, r.ExtPort) {
			return false
		}
	}
	way, ok := p.route(r.In, r.Rem)
	if !ok || way.bypass || way.pool != int(r.Pool) || way.static && p.outOf.get(r.In) != 0 {
		// A forward needs no way out of its own, but a 1:1 mapping would take its answers.
		if !r.Has(conntrack.Forwarded|conntrack.Inbound) || ok && (way.bypass || way.static && p.outOf.get(r.In) != 0) {
			return false
		}
	}
	// Its remote address may have become one of ours, or be one no longer.
	r.Bits &^= conntrack.Looped
	if rem.kind != remote {
		r.Bits |= conntrack.Looped
	}
	r.Attachment = anyAttachment // that number may stand for another now, or have other sources
	r.Epoch = p.epoch
	return true
}

// released is told of each session that ends.
func (e *Engine) released(sh *shard, r *conntrack.Record, last bool) {
	if r.Has(conntrack.Tallied) {
		e.hosts.drop(uint64(r.In), 0)
	}
	if r.Has(conntrack.Crowded) {
		e.dests.drop(destination(r.Ext, r.Rem, r.RemPort, r.Proto))
	}
	if last && len(sh.crowds.keys) > 0 && !e.pol.reserves(endpoint{r.Ext, r.ExtPort, r.Proto}) {
		sh.crowds.released(r)
	}
}

// destination is the key of a destination as seen from one external address.
func destination(ext, rem uint32, remPort uint16, proto uint8) (uint64, uint64) {
	return uint64(ext)<<32 | uint64(rem), uint64(remPort)<<8 | uint64(proto)
}

// shardOf is the shard of an inside endpoint.
func (e *Engine) shardOf(in uint32, inPort uint16, proto uint8) int {
	if len(e.shards) == 1 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(in)<<32^e.key[0], uint64(inPort)<<8|uint64(proto)|e.key[1]<<24)
	return int((hi^lo)>>32) & (len(e.shards) - 1)
}

// Stats is a snapshot of the counters. Those of packets under way may or may not be in it.
func (e *Engine) Stats(now time.Duration) Stats {
	e.mustBeMade()
	e.mu.RLock()
	defer e.mu.RUnlock()
	odd := &e.kept.odd
	s := Stats{
		QuoteChecksums: odd.quoteChecksums.Load(), Unburied: odd.unburied.Load(), ParityLost: odd.parityLost.Load(),
		EventsLost: odd.eventsLost.Load(), MemoryBytes: keptBytes + e.hosts.size() + e.dests.size(),
	}
	ms := e.latest(now)
	for i := range e.shards {
		sh := &e.shards[i]
		sh.mu.Lock()
		sh.t.Advance(sh.latest(ms), reclaimAtOnce)
		c := sh.t.Stats()
		s.Created += c.Created
		s.Expired += c.Expired
		s.Recycled += c.Recycled
		s.Cut += c.Cut
		s.Unburied += c.Displaced
		s.Sessions += sh.t.Used() - sh.t.Quarantined()
		s.SessionsMax += sh.t.Cap()
		s.Mappings += sh.t.Mappings()
		s.Quarantined += sh.t.Quarantined()
		s.MemoryBytes += conntrack.Size(conntrack.Config{Sessions: sh.t.Cap(), Counts: e.cfg.FlowCounters})
		sh.mu.Unlock()
		s.MemoryBytes += eventBytes * len(sh.events.slots)
	}
	e.frags.mu.Lock()
	e.frags.store.Advance(uint32(ms))
	s.FragmentBytes, s.FragmentSets = e.frags.store.Bytes(), e.frags.store.Sets()
	e.frags.mu.Unlock()
	s.MemoryBytes += e.cfg.FragmentBytes
	s.HeldSYNs = e.held.len()
	for i := range e.kept.workers {
		c := &e.kept.workers[i]
		for v := range s.Verdicts {
			s.Verdicts[v] += c.verdicts[v].Load()
		}
		s.Emitted += c.emitted.Load()
		s.ICMPSuppressed += c.suppressed.Load()
	}
	return s
}

// leap is how far a clock may go on at once without the wrapping ticks being misread; what goes further goes in steps.
const leap = 1 << 30

// latest is the tick of the shard's time, which ms moves on but never back.
func (sh *shard) latest(ms uint64) uint32 {
	if sh.t.Used() == 0 { // an empty table may stand at any time: the first, too
		sh.ms = max(sh.ms, ms)
	}
	for ms > sh.ms {
		step := min(ms-sh.ms, leap)
		sh.ms += step
		if step == leap {
			sh.t.Advance(uint32(sh.ms), sh.t.Cap())
		}
	}
	return uint32(sh.ms)
}

// latest is the engine's time, which now moves on but never back.
func (e *Engine) latest(now time.Duration) uint64 {
	ms := uint64(max(now, 0) / time.Millisecond)
	for {
		old := e.kept.clock.Load()
		if ms <= old {
			return old
		}
		if e.kept.clock.CompareAndSwap(old, ms) {
			if ms-old >= leap {
				e.frags.mu.Lock()
				for ; old < ms; old += min(ms-old, leap) {
					e.frags.store.Advance(uint32(old))
				}
				e.frags.mu.Unlock()
			}
			return ms
		}
	}
}

// Check walks all tables and reports every invariant that does not hold. It is for tests and for the worried; it stops
// traffic while it runs.
func (e *Engine) Check(now time.Duration) error {
	e.mustBeMade()
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	var f faults
	ms := e.latest(now)
	for i := range e.shards {
		sh := &e.shards[i]
		if err := sh.t.Check(sh.latest(ms)); err != nil {
			f.add("shard %d: %w", i, err)
		}
		for h := 1; h <= sh.t.Cap(); h++ {
			r := sh.t.Rec(conntrack.Handle(h))
			if r.State == conntrack.Free {
				continue
			}
			if r.Has(conntrack.Filter) != (r.State != conntrack.Quarantined && r.Pool == filterPool) || r.Has(conntrack.Filter) && (r.Ext != r.In || r.ExtPort != r.InPort) {
				f.add("shard %d: record %d is a filter session in part", i, h)
			}
			if r.Bits&(conntrack.Forwarded|conntrack.Filter) == 0 && e.shardOfPort(r.ExtPort) != i {
				f.add("shard %d: external port %d is of shard %d", i, r.ExtPort, e.shardOfPort(r.ExtPort))
			}
			if r.State != conntrack.Quarantined && e.shardOf(r.In, r.InPort, r.Proto) != i {
				f.add("shard %d: holds an inside endpoint of shard %d", i, e.shardOf(r.In, r.InPort, r.Proto))
			}
		}
	}
	if err := e.frags.store.Check(); err != nil {
		f.add("fragments: %w", err)
	}
	return errors.Join(f...)
}

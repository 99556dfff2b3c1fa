// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/nat/internal/invariants"
	"github.com/tidegate/tidegate/packet"
)

// The tests in the files row_*_test.go are named by the rows of docs/conformance.md that they prove. Each is a scenario:
// packets, sides and times, run through a gate, which is an engine whose every output is judged. A scenario is run four
// times, one packet at a time and in batches, in one shard and in four, and must end the same.

// trial is how a scenario is run.
type trial struct {
	config nat.Config // without Shards
	policy nat.Policy
	// oneShard is for scenarios about certain ports, or the last port or record: a shard gives out only its own.
	oneShard bool
}

var hashSeed = maphash.MakeSeed()

// run runs the scenario in all ways and compares.
func (tr trial) run(t *testing.T, scenario func(g *gate)) {
	t.Helper()
	var first, firstOfOne []event
	var counted []nat.PoolStats
	for _, mode := range []struct {
		name   string
		batch  bool
		shards int
	}{{"translate, 1 shard", false, 1}, {"batch, 1 shard", true, 1}, {"translate, 4 shards", false, 4}, {"batch, 4 shards", true, 4}} {
		if tr.oneShard && mode.shards > 1 {
			continue
		}
		ok := t.Run(mode.name, func(t *testing.T) {
			tr.config.Shards, tr.config.FlowCounters = mode.shards, true
			g := newGate(t, tr.config, tr.policy)
			g.batch = mode.batch
			scenario(g)
			g.finish()
			if first == nil {
				first = g.log
			}
			g.compare(first, func(e event) any { return e.verdict })
			if s := g.e.PoolStats(g.now); counted == nil {
				counted = s
			} else if !slices.Equal(s, counted) {
				g.Errorf("pools count\n%+v, in another mode\n%+v", s, counted)
			}
			if mode.shards == 1 {
				if firstOfOne == nil {
					firstOfOne = g.log
				}
				g.compare(firstOfOne, func(e event) any { return e })
			}
		})
		if !ok {
			return // the others would say the same
		}
	}
}

// event is what the log keeps of a packet, or of a tick: verdict, and a hash of all output.
type event struct {
	verdict nat.Verdict
	output  uint64
}

// emitted is a packet that the engine made.
type emitted struct {
	side  nat.Side
	b     []byte
	cause int
}

// result is what became of a packet.
type result struct {
	nat.Verdict
	p       packet.Packet
	b       []byte // of p; nil unless it goes on
	emitted []emitted
}

// gate is an engine under test, and its clock.
type gate struct {
	*testing.T
	e     *nat.Engine
	w     *nat.Worker
	batch bool
	now   time.Duration

	pol     nat.Policy
	laws    *invariants.Laws
	ours    map[netip.Addr]bool     // the addresses of pools and 1:1 mappings
	counted [nat.NumVerdicts]uint64 // what Stats should say
	log     []event
	sent    int
	checked int
	every   int // how many packets may pass until all books are looked at: in proportion to what that costs
}

func newGate(t *testing.T, cfg nat.Config, p nat.Policy) *gate {
	t.Helper()
	if cfg.Sessions == 0 {
		cfg.Sessions = 1024
	}
	if cfg.Seed == 0 {
		cfg.Seed = 1
	}
	if cfg.FragmentBytes == 0 {
		cfg.FragmentBytes = 1 << 20
	}
	e, err := nat.New(cfg, &p)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{T: t, e: e, w: e.Worker(), laws: invariants.New(&p), every: max(16, cfg.Sessions/8)}
	g.setPolicy(p)
	return g
}

func (g *gate) setPolicy(p nat.Policy) {
	g.pol = p
	g.laws.Policy(&p)
	g.ours = map[netip.Addr]bool{}
	for _, q := range p.Pools {
		for _, a := range slices.Concat(q.Addresses, q.Draining) {
			g.ours[a] = true
		}
	}
	for _, s := range p.Static {
		g.ours[s.Outside] = true
	}
}

// apply puts another policy in place, which does what Preview said.
func (g *gate) apply(p nat.Policy) nat.Impact {
	g.Helper()
	said, err := g.e.Preview(&p, g.now)
	if err != nil {
		g.Fatal(err)
	}
	g.check() // and it changed nothing
	i, err := g.e.Apply(&p, g.now)
	if err != nil {
		g.Fatal(err)
	}
	if said != i {
		g.Errorf("Preview said %+v, Apply did %+v", said, i)
	}
	g.setPolicy(p)
	return i
}

// at sets the clock.
func (g *gate) at(now time.Duration) { g.now = now }

// sec is a time in seconds.
func sec(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// out and in send a packet from inside and from outside.
func (g *gate) out(b []byte) result { g.Helper(); return g.send(0, packet.From(b))[0] }
func (g *gate) in(b []byte) result  { g.Helper(); return g.send(1, packet.From(b))[0] }

// outAll and inAll send many at once.
func (g *gate) outAll(bs [][]byte) []result { g.Helper(); return g.send(0, packets(bs)...) }
func (g *gate) inAll(bs [][]byte) []result  { g.Helper(); return g.send(1, packets(bs)...) }

func packets(bs [][]byte) []packet.Packet {
	ps := make([]packet.Packet, len(bs))
	for i, b := range bs {
		ps[i] = packet.From(b)
	}
	return ps
}

// send sends packets from an attachment and judges all that comes of them.
func (g *gate) send(from nat.AttachmentID, ps ...packet.Packet) []result {
	g.Helper()
	before := make([]packet.Packet, len(ps))
	results := make([]result, len(ps))
	for i := range ps {
		before[i] = ps[i].Clone()
	}
	if g.batch {
		vs := make([]nat.Verdict, len(ps))
		g.w.Batch(ps, from, g.now, vs)
		for i, v := range vs {
			results[i].Verdict = v
		}
		for _, e := range g.w.Emitted() {
			r := &results[e.Cause]
			r.emitted = append(r.emitted, g.collect(e))
		}
	} else {
		for i := range ps {
			results[i].Verdict = g.w.Translate(&ps[i], from, g.now)
			for _, e := range g.w.Emitted() {
				results[i].emitted = append(results[i].emitted, g.collect(e))
			}
		}
	}
	for i := range ps {
		r := &results[i]
		if r.Forward() {
			r.p, r.b = ps[i], ps[i].Bytes()
		}
		g.judge(from, before[i], r)
	}
	if err := g.laws.Settle(g.e.Sessions(g.now)); err != nil {
		g.Fatal(err)
	}
	g.count(results)
	if g.sent += len(ps); g.sent-g.checked >= g.every {
		g.check()
	}
	return results
}

func (g *gate) collect(e nat.Emission) emitted {
	p := e.Packet.Clone()
	return emitted{e.Side, p.Bytes(), e.Cause}
}

// judge holds what became of a packet against the laws, which are the same for all rows.
func (g *gate) judge(from nat.AttachmentID, in packet.Packet, r *result) {
	g.Helper()
	if err := g.laws.Packet(from, in, r.p, r.Verdict, emissions(r.emitted)); err != nil {
		g.Fatalf("%v: %v, of %s", r.Verdict, err, craft.Describe(in.Bytes()))
	}
	var h maphash.Hash
	h.SetSeed(hashSeed)
	if r.Forward() {
		_, _ = h.Write(r.b)
	}
	for _, e := range r.emitted {
		_, _ = h.Write(e.b)
	}
	g.log = append(g.log, event{r.Verdict, h.Sum64()})
}

func emissions(es []emitted) []nat.Emission {
	all := make([]nat.Emission, len(es))
	for i, e := range es {
		all[i] = nat.Emission{Packet: packet.From(e.b), Side: e.side, Cause: e.cause}
	}
	return all
}

// count checks that each packet was counted once, under its verdict, and nothing else was.
func (g *gate) count(rs []result) {
	dropped := false
	for i := range rs {
		g.counted[rs[i].Verdict]++
		dropped = dropped || rs[i].Dropped()
	}
	if dropped {
		g.compareCounts()
	}
}

func (g *gate) compareCounts() {
	g.Helper()
	if got := g.stats().Verdicts; got != g.counted {
		for v := range got {
			if got[v] != g.counted[v] {
				g.Errorf("counter %v is %d, want %d", nat.Verdict(v), got[v], g.counted[v])
			}
		}
		g.FailNow()
	}
}

func (g *gate) check() {
	g.Helper()
	g.checked = g.sent
	if err := g.e.Check(g.now); err != nil {
		g.Fatalf("after %d packets: %v", g.sent, err)
	}
	if err := g.laws.Owners(g.e.Sessions(g.now)); err != nil {
		g.Fatalf("after %d packets: %v", g.sent, err)
	}
}

func (g *gate) finish() {
	g.Helper()
	g.compareCounts()
	g.check()
}

// compare holds the log against that of another run.
func (g *gate) compare(other []event, what func(event) any) {
	g.Helper()
	if len(g.log) != len(other) {
		g.Fatalf("%d events, %d in another mode", len(g.log), len(other))
	}
	for i := range g.log {
		if a, b := what(g.log[i]), what(other[i]); a != b {
			g.Fatalf("event %d: %v, in another mode %v", i, a, b)
		}
	}
}

// tick fires the timers and returns what they made.
func (g *gate) tick() []emitted {
	g.Helper()
	g.w.Tick(g.now)
	var es []emitted
	var h maphash.Hash
	h.SetSeed(hashSeed)
	for _, e := range g.w.Emitted() {
		es = append(es, g.collect(e))
		_, _ = h.Write(es[len(es)-1].b)
	}
	if err := g.laws.Emitted(g.w.Emitted()); err != nil {
		g.Fatal(err)
	}
	g.log = append(g.log, event{nat.Unset, h.Sum64()})
	return es
}

func (g *gate) stats() nat.Stats { return g.e.Stats(g.now) }

// state is all that a packet without effect must leave alone. A mapping or a waiting port is a port in use.
type state struct {
	created                              uint64
	sessions, mappings, waiting          int
	fragments, fragmentSets, syns, bytes int
	refreshed                            time.Duration // when they end, all sessions together
}

func (g *gate) state() state {
	s := g.stats()
	st := state{s.Created, s.Sessions, s.Mappings, s.Quarantined, s.FragmentBytes, s.FragmentSets, s.HeldSYNs, s.MemoryBytes, 0}
	if s.Sessions < 100 {
		for f := range g.e.Sessions(g.now) {
			st.refreshed += f.Expires
		}
	}
	return st
}

// drops sends a packet that must end with verdict v, without a trace: no state, no answer.
func (g *gate) drops(v nat.Verdict, from nat.AttachmentID, b []byte) {
	g.Helper()
	before := g.state()
	r := g.send(from, packet.From(b))[0]
	if r.Verdict != v {
		g.Fatalf("%v, want %v, for %s", r.Verdict, v, craft.Describe(b))
	}
	if len(r.emitted) != 0 {
		g.Fatalf("%v, and answered with %s", v, craft.Describe(r.emitted[0].b))
	}
	if after := g.state(); after != before {
		g.Fatalf("%v left something behind: %+v, before %+v", v, after, before)
	}
}

// want fails unless r is v, and returns it.
func (g *gate) want(r result, v nat.Verdict) result {
	g.Helper()
	if r.Verdict != v {
		g.Fatalf("%v, want %v", r.Verdict, v)
	}
	return r
}

// sessions are the live ones.
func (g *gate) sessions() []nat.Session { return slices.Collect(g.e.Sessions(g.now)) }

// session is the live session of two ends.
func (g *gate) session(proto uint8, in, rem end) nat.Session {
	g.Helper()
	if proto == packet.ICMP {
		rem = at(rem.Addr(), 0)
	}
	for s := range g.e.Sessions(g.now) {
		if s.Protocol == proto && s.Inside == in && s.Remote == rem {
			return s
		}
	}
	g.Fatalf("no session of %v with %v", in, rem)
	return nat.Session{}
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The model is a Table made of Go maps. It learns from Table.Released alone which records are gone, and complains if
// one should not be; in everything else it has its own opinion, which the Table must share.

const (
	poolWaits  = iota // endpoint-independent UDP, with quarantine
	poolShares        // endpoint-independent UDP, without
	poolOverlaps
	numPools
)

const (
	udp = 17
	tcp = 6
)

// modelTimeouts reach all levels of the wheel.
var modelTimeouts = func() []uint32 {
	t := make([]uint32, numPools*int(NumStates))
	for p := range numPools {
		for s, v := range map[State]uint32{
			UDPOpening: 90, UDP: 300, DNS: 20, Query: 60, Opening: 240_000, Established: 20_000_000, Closing: 60_000, Reset: 1_000,
		} {
			t[p*int(NumStates)+int(s)] = v
		}
	}
	t[poolWaits*int(NumStates)+int(Quarantined)] = 500
	return t
}()

type outKey struct {
	in, rem         uint32
	inPort, remPort uint16
	proto           uint8
}

type extKey struct {
	ext     uint32
	extPort uint16
	proto   uint8
}

type modelSession struct {
	outKey
	extKey
	pool    uint16
	state   State
	seen    int64
	epoch   uint32
	bits    Bits
	born    int // order of creation, for Recycle
	mapping int // order of creation of its mapping
	h       Handle
}

func (s *modelSession) key() outKey { return s.outKey }

type tomb struct {
	pool  uint16
	since int64
	born  int
}

type model struct {
	t        *testing.T
	r        *rand.Rand
	table    *Table
	cfg      Config
	kept     []byte
	now      int64 // which does not wrap around
	epoch    uint32
	sessions map[outKey]*modelSession
	tombs    map[extKey]tomb
	born     int
	stats    Stats
	op       string
	// taking, if not nil, is the session that the Table may remove although it is alive.
	taking *modelSession
	digs   bool // tombstones may go early
}

func newModel(t *testing.T, seed uint64, sessions int, start int64) *model {
	m := &model{t: t, r: rand.New(rand.NewPCG(seed, 1)), now: start, epoch: 1,
		sessions: map[outKey]*modelSession{}, tombs: map[extKey]tomb{}}
	var err error
	m.cfg = Config{Sessions: sessions, Counts: seed%2 == 0, Key: [2]uint64{seed, ^seed}}
	m.kept = bytesOf(make([]uint64, KeptSize(m.cfg)/8))
	if m.table, err = New(m.cfg, m.kept); err != nil {
		t.Fatal(err)
	}
	m.table.Timeouts = modelTimeouts
	m.table.Epoch = m.epoch
	m.table.Agrees = func(r *Record) bool {
		s := m.sessions[outKeyOf(r)]
		if s == nil {
			m.fail("Agrees is asked about a record that there is not: %+v", r)
		}
		if !m.agrees(s) {
			return false
		}
		r.Epoch, s.epoch = m.epoch, m.epoch
		return true
	}
	m.table.Released = m.released
	return m
}

func (m *model) tick() uint32 { return uint32(m.now) }

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s, at tick %d: %s", m.op, m.now, fmt.Sprintf(format, args...))
}

func outKeyOf(r *Record) outKey { return outKey{r.In, r.Rem, r.InPort, r.RemPort, r.Proto} }
func extKeyOf(r *Record) extKey { return extKey{r.Ext, r.ExtPort, r.Proto} }

// agrees is a policy under which some sessions have to go.
func (m *model) agrees(s *modelSession) bool {
	return (uint32(s.inPort)*5+s.rem*3+m.epoch)%7 != 0
}

// drains reports whether no new session should get this external endpoint, at present.
func (m *model) drains(k extKey) bool { return (uint32(k.extPort)+m.epoch/2)%4 == 0 }

func (m *model) timeout(pool uint16, s State) uint32 {
	return m.table.Timeouts[int(pool)*int(NumStates)+int(s)]
}

func (m *model) expired(s *modelSession) bool {
	return m.now-s.seen >= int64(m.timeout(s.pool, s.state))
}

func (m *model) alive(s *modelSession) bool {
	return s != nil && !m.expired(s) && (s.epoch == m.epoch || m.agrees(s))
}

// waits reports whether a port is in quarantine.
func (m *model) waits(k extKey) bool {
	g, ok := m.tombs[k]
	return ok && m.now-g.since < int64(m.timeout(g.pool, Quarantined))
}

func (m *model) released(r *Record, last bool) {
	if r.State == Quarantined {
		k := extKeyOf(r)
		if _, ok := m.tombs[k]; !ok {
			m.fail("no such port waits: %+v", k)
		}
		if m.waits(k) && !m.digs {
			m.fail("port %+v is given up before its time", k)
		}
		if !last {
			m.fail("port %+v is given up, but said to have sessions", k)
		}
		delete(m.tombs, k)
		return
	}
	s := m.sessions[outKeyOf(r)]
	if s == nil || s.extKey != extKeyOf(r) || s.state != r.State {
		m.fail("no such session: %+v", r)
	}
	if m.alive(s) && s != m.taking {
		m.fail("a live session is removed: %+v", s)
	}
	at := m.now
	switch {
	case s == m.taking:
		m.stats.Recycled++
	case m.expired(s):
		m.stats.Expired++
		at = s.seen + int64(m.timeout(s.pool, s.state))
	default:
		m.stats.Cut++
	}
	delete(m.sessions, s.key())
	free := true
	if s.bits&Independent != 0 {
		for _, o := range m.sessions {
			free = free && (o.extKey != s.extKey || o.bits&Independent == 0)
		}
		if free && m.timeout(s.pool, Quarantined) != 0 {
			m.born++
			m.tombs[s.extKey] = tomb{s.pool, at, m.born}
			free = false
		}
	}
	if last != free {
		m.fail("Released(%+v, %t)", s, last)
	}
}

func (m *model) check() {
	m.t.Helper()
	if err := m.table.Check(m.tick()); err != nil {
		m.fail("%v", err)
	}
	ends := map[extKey]bool{}
	for _, s := range m.sessions {
		if s.bits&Independent != 0 {
			ends[s.extKey] = true
		}
		r := m.table.Rec(s.h)
		if outKeyOf(r) != s.outKey || extKeyOf(r) != s.extKey || r.State != s.state || r.LastSeen != uint32(s.seen) ||
			r.Epoch != s.epoch || r.Pool != s.pool || r.Bits&^Head != s.bits {
			m.fail("record %d is %+v, not %+v", s.h, *r, *s)
		}
	}
	if got, want := m.table.Used(), len(m.sessions)+len(m.tombs); got != want {
		m.fail("%d records used, not %d", got, want)
	}
	if got, want := m.table.Quarantined(), len(m.tombs); got != want {
		m.fail("%d ports wait, not %d", got, want)
	}
	if got, want := m.table.Mappings(), len(ends); got != want {
		m.fail("%d mappings, not %d", got, want)
	}
	if got := m.table.Stats(); got != m.stats {
		m.fail("stats %+v, not %+v", got, m.stats)
	}
}

// find is the lookup of an outbound packet.
func (m *model) find(k outKey) *modelSession {
	ports := uint32(k.inPort)<<16 | uint32(k.remPort)
	t := m.table
	h := t.FindOut(t.OutTag(k.in, k.rem, ports, k.proto), k.in, k.rem, ports, k.proto)
	return m.same(t.Live(h, m.tick()), m.sessions[k], "FindOut")
}

// same checks that a lookup found s if it is alive, and else nothing.
func (m *model) same(h Handle, s *modelSession, what string) *modelSession {
	m.t.Helper()
	if !m.alive(s) {
		s = nil
	}
	if (h != None) != (s != nil) || s != nil && s.h != h {
		m.fail("%s found %d, not %+v", what, h, s)
	}
	return s
}

// findIn is the lookup of an inbound packet.
func (m *model) findIn(k extKey, rem uint32, remPort uint16) *modelSession {
	var want *modelSession
	group := false
	for _, s := range m.sessions {
		if s.extKey == k && s.rem == rem {
			group = group || s.bits&Independent != 0
			if s.remPort == remPort {
				want = s
			}
		}
	}
	t := m.table
	h, g := t.FindIn(t.InTag(k.ext, rem, k.extPort, k.proto), k.ext, rem, k.extPort, remPort, k.proto)
	if want == nil && h != None || (g != None) != (group || want != nil) {
		m.fail("FindIn found %d and %d, not %+v, %t", h, g, want, group)
	}
	if g != None && (extKeyOf(t.Rec(g)) != k || t.Rec(g).Rem != rem) {
		m.fail("FindIn found a wrong group: %+v", t.Rec(g))
	}
	return m.same(t.Live(h, m.tick()), want, "FindIn")
}

// mapping is the external endpoint that an inside one has, the newest if there are several.
func (m *model) mapping(k outKey, pool uint16) (extKey, bool) {
	var want *extKey
	newest := 0
	for _, s := range m.sessions {
		if s.in == k.in && s.inPort == k.inPort && s.outKey.proto == k.proto && s.pool == pool && s.bits&Independent != 0 &&
			m.alive(s) && s.mapping > newest {
			want, newest = &s.extKey, s.mapping
		}
	}
	h := m.table.Mapping(k.in, k.inPort, pool, k.proto, m.tick())
	if (h != None) != (want != nil) {
		m.fail("Mapping found %d, not %+v", h, want)
	}
	if h == None {
		return extKey{}, false
	}
	r := m.table.Rec(h)
	if extKeyOf(r) != *want || !m.alive(m.sessions[outKeyOf(r)]) {
		m.fail("Mapping found %+v, not %+v", r, want)
	}
	return *want, true
}

func (m *model) holder(k extKey) bool {
	h := m.table.Holder(k.ext, k.extPort, k.proto, m.tick())
	held := m.waits(k) // also if the lookup has just buried a mapping
	for _, s := range m.sessions {
		held = held || s.extKey == k && s.bits&Independent != 0 && m.alive(s)
	}
	if (h != None) != held {
		m.fail("Holder of %+v is %d, want one: %t", k, h, held)
	}
	if h != None && extKeyOf(m.table.Rec(h)) != k {
		m.fail("Holder of %+v is %+v", k, m.table.Rec(h))
	}
	return held
}

func (m *model) talks(k extKey, rem uint32) {
	want := false
	for _, s := range m.sessions {
		want = want || s.extKey == k && s.rem == rem && s.bits&Independent != 0 && m.alive(s)
	}
	if got := m.table.Talks(k.ext, rem, k.extPort, k.proto, m.tick()); got != want {
		m.fail("Talks(%+v, %d) is %t", k, rem, got)
	}
}

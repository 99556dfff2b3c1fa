// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
)

// What the model does with its Table.

// forward is a port that is always led to one inside endpoint.
var (
	forwardOut = extKey{ext: 100, extPort: 99, proto: udp}
	forwardIn  = outKey{in: 1, inPort: 9, proto: udp}
)

func (m *model) randomOut() (outKey, uint16) {
	pool := uint16(m.r.IntN(numPools))
	k := outKey{in: 1 + m.r.Uint32N(2), rem: 1 + m.r.Uint32N(3), inPort: uint16(1 + m.r.IntN(3)), remPort: uint16(1 + m.r.IntN(3)), proto: udp}
	// An inside endpoint is in one pool, as a route would have it.
	switch pool {
	case poolOverlaps:
		k.proto = tcp
	case poolShares:
		k.in += 10
	}
	return k, pool
}

func (m *model) randomExt(pool uint16) extKey {
	k := extKey{ext: 100 + uint32(pool), extPort: uint16(1 + m.r.IntN(4)), proto: udp}
	if pool == poolOverlaps {
		k.proto = tcp
	}
	return k
}

// send is an outbound packet: it refreshes its session or makes one.
func (m *model) send() {
	k, pool := m.randomOut()
	m.op = fmt.Sprintf("send %+v in pool %d", k, pool)
	if s := m.find(k); s != nil {
		s.seen = max(s.seen, m.now)
		m.table.Rec(s.h).LastSeen = uint32(s.seen)
		if s.bits&Inbound != 0 && s.bits&Replied == 0 {
			m.answered(s)
		}
		return
	}
	s := &modelSession{outKey: k, pool: pool, state: UDPOpening, bits: Independent}
	if pool == poolOverlaps {
		s.state, s.bits = Opening, 0
	} else if k.remPort == 1 {
		s.state = DNS
	}
	var ok bool
	if s.bits&Independent != 0 {
		s.extKey, ok = m.mapping(k, pool)
		ok = ok && !m.drains(s.extKey)
	}
	for port := uint16(1); port <= 4 && !ok; port++ {
		s.extKey = extKey{100 + uint32(pool), port, k.proto}
		if s.bits&Independent != 0 {
			ok = !m.holder(s.extKey)
		} else {
			ok = m.findIn(s.extKey, k.rem, k.remPort) == nil
		}
	}
	if !ok && pool == poolWaits {
		m.disinter()
	}
	if ok {
		m.add(s)
	}
}

// answered is the first packet of the other side.
func (m *model) answered(s *modelSession) {
	s.bits |= Replied
	if s.state == UDPOpening {
		s.state = UDP
	}
	m.table.Answered(s.h)
}

// receive is an inbound packet.
func (m *model) receive() {
	_, pool := m.randomOut()
	k := m.randomExt(pool)
	rem, remPort := 1+m.r.Uint32N(3), uint16(1+m.r.IntN(3))
	if m.r.IntN(4) == 0 {
		k = forwardOut
	}
	m.op = fmt.Sprintf("receive for %+v from %d:%d", k, rem, remPort)
	m.talks(k, rem)
	s := m.findIn(k, rem, remPort)
	switch {
	case s != nil && s.bits&(Replied|Inbound) == 0:
		m.answered(s)
	case s == nil && k == forwardOut:
		out := forwardIn
		out.rem, out.remPort = rem, remPort
		if m.find(out) == nil {
			m.add(&modelSession{outKey: out, extKey: k, pool: poolWaits, state: UDPOpening, bits: Inbound | Forwarded})
		}
	}
	m.holder(k)
}

func (m *model) add(s *modelSession) {
	s.seen, s.epoch = m.now, m.epoch
	if m.table.Used() == m.table.Cap() {
		m.disinter()
	}
	if m.table.Used() == m.table.Cap() {
		m.recycle()
	}
	r := Record{
		In: s.in, Rem: s.rem, Ext: s.ext, InPort: s.inPort, RemPort: s.remPort, ExtPort: s.extPort, Proto: s.outKey.proto,
		State: s.state, LastSeen: uint32(s.seen), Epoch: s.epoch, Pool: s.pool, Bits: s.bits,
	}
	full := m.table.Used() == m.table.Cap()
	if s.h = m.table.Add(&r); (s.h == None) != full {
		m.fail("Add returns %d, full: %t", s.h, full)
	}
	if s.h == None {
		return
	}
	m.born++
	s.born, s.mapping = m.born, m.born
	for _, o := range m.sessions {
		if o.extKey == s.extKey && o.bits&s.bits&Independent != 0 {
			s.mapping = o.mapping
		}
	}
	m.sessions[s.key()] = s
	m.stats.Created++
}

func (m *model) recycle() {
	m.op += "; recycle"
	m.taking = nil
	unanswered := 0
	for _, s := range m.sessions {
		if s.bits&Replied != 0 {
			continue
		}
		if unanswered++; m.taking == nil || s.born < m.taking.born {
			m.taking = s
		}
	}
	if got := m.table.Unanswered(); got != unanswered {
		m.fail("Unanswered is %d, want %d", got, unanswered)
	}
	used := m.table.Used()
	m.digs = true // the port of a mapping that ends with it does not wait
	if got, want := m.table.Recycle(m.tick()), m.taking != nil; got != want || got != (m.table.Used() < used) {
		m.fail("Recycle is %t, with %d records used, then %d", got, used, m.table.Used())
	}
	m.digs = false
	if s := m.taking; s != nil && m.sessions[s.key()] != nil {
		m.fail("Recycle did not take the oldest session, %+v", s)
	}
	m.taking = nil
}

func (m *model) disinter() {
	m.op += "; disinter"
	var oldest extKey
	born := 0
	for k, g := range m.tombs {
		if born == 0 || g.born < born {
			oldest, born = k, g.born
		}
	}
	m.digs = true
	ok := m.table.Disinter()
	m.digs = false
	if _, still := m.tombs[oldest]; ok != (born != 0) || still {
		m.fail("Disinter is %t, but port %+v is the oldest", ok, oldest)
	}
}

// bury ends the quarantine of some port.
func (m *model) bury() {
	m.op = "bury"
	var some Handle
	n := 0
	m.table.Buried(func(h Handle, r *Record) bool {
		if _, ok := m.tombs[extKeyOf(r)]; !ok {
			m.fail("no such port waits: %+v", r)
		}
		n++
		if m.r.IntN(n) == 0 {
			some = h
		}
		return true
	})
	if n != len(m.tombs) {
		m.fail("Buried knows %d ports, not %d", n, len(m.tombs))
	}
	if some != None {
		m.digs = true
		m.table.Bury(some)
		m.digs = false
	}
}

// change gives a TCP session another state, as the tracker would.
func (m *model) change() {
	k, _ := m.randomOut()
	k.proto = tcp
	m.op = fmt.Sprintf("change the state of %+v", k)
	s := m.find(k)
	if s == nil {
		return
	}
	s.state = []State{Opening, Established, Closing, Reset}[m.r.IntN(4)]
	s.seen = m.now
	r := m.table.Rec(s.h)
	r.State, r.LastSeen = s.state, m.tick()
	m.table.Hasten(s.h)
}

func (m *model) wait() {
	m.now += 1 + m.r.Int64N(1<<m.r.IntN(25))
	m.op = "wait"
}

func (m *model) advance() {
	budget := m.r.IntN(4)
	if m.r.IntN(4) == 0 {
		budget = 1000
	}
	m.op = fmt.Sprintf("advance with budget %d", budget)
	before := len(m.sessions) + len(m.tombs)
	there := m.table.Advance(m.tick(), budget)
	if n := before - len(m.sessions) - len(m.tombs); n > budget {
		m.fail("%d records are gone", n)
	}
	if !there && budget == 1000 {
		m.fail("did not get there")
	}
	if there {
		m.nothingLeft()
	}
}

func (m *model) nothingLeft() {
	for _, s := range m.sessions {
		if m.expired(s) {
			m.fail("a dead session is left behind: %+v", s)
		}
	}
	for k := range m.tombs {
		if !m.waits(k) {
			m.fail("a port waits for too long: %+v", k)
		}
	}
}

// reconsider is a change of policy, of time-outs too, that every session is held against at once.
func (m *model) reconsider() {
	m.op = "reconsider"
	m.epoch++
	m.table.Epoch = m.epoch
	m.table.Timeouts = slices.Clone(modelTimeouts)
	for i := range m.table.Timeouts {
		m.table.Timeouts[i] = (m.table.Timeouts[i] + m.epoch%3) / (1 + m.epoch%3)
	}
	kept := 0
	for next := Handle(1); next != None; {
		var n int
		n, next = m.table.Reconsider(next, 1+m.r.IntN(5), m.tick())
		kept += n
	}
	if kept != len(m.sessions) {
		m.fail("%d sessions are kept, not %d", kept, len(m.sessions))
	}
	for _, s := range m.sessions {
		if !m.alive(s) {
			m.fail("a dead session is left behind: %+v", s)
		}
	}
}

// leap is a wait for weeks, of which the Table is told in time.
func (m *model) leap() {
	for range 1 + m.r.IntN(4) {
		m.now += 1<<30 + 1 + m.r.Int64N(2<<30)
		m.op = "leap"
		if !m.table.Advance(m.tick(), 0) {
			m.fail("did not get there")
		}
		m.nothingLeft()
	}
}

// slip does something a little earlier than what was before, as callers do whose clocks were read before they had the
// lock.
func (m *model) slip(do func()) {
	back := m.r.Int64N(10)
	m.now -= back
	do()
	m.now += back
}

func (m *model) step() {
	switch n := m.r.IntN(105); {
	case n >= 104:
		m.rebuild()
	case n >= 103:
		m.leap()
	case n >= 100:
		m.slip([]func(){m.send, m.receive, m.change}[m.r.IntN(3)])
	case n < 35:
		m.send()
	case n < 55:
		m.receive()
	case n < 65:
		m.change()
	case n < 80:
		m.wait()
	case n < 93:
		m.advance()
	case n < 95:
		m.op = "recycle"
		m.recycle()
	case n < 96:
		m.op = "disinter"
		m.disinter()
	case n < 97:
		m.bury()
	case n < 99:
		m.op = "change the policy"
		m.epoch++
		m.table.Epoch = m.epoch
	default:
		m.reconsider()
	}
}

// rebuild has another Table go on with the records, whose links are spoiled first: none of them is to be believed.
func (m *model) rebuild() {
	m.op = "rebuild"
	ends := map[string]extKey{}
	for _, s := range m.sessions {
		if s.bits&Independent != 0 {
			end := fmt.Sprint(s.in, s.inPort, s.pool, s.outKey.proto)
			if k, ok := ends[end]; ok && k != s.extKey {
				return // of two mappings of one endpoint the Table keeps one, and which is its affair
			}
			ends[end] = s.extKey
		}
	}
	// What is in order of its creation is in that of its last packet from now on.
	type place struct {
		seen int64
		h    Handle
		born *int
	}
	order := func(all []place) {
		borns := []int{}
		for _, p := range all {
			borns = append(borns, *p.born)
		}
		slices.Sort(borns)
		slices.SortFunc(all, func(a, b place) int { return cmp.Or(cmp.Compare(a.seen, b.seen), cmp.Compare(a.h, b.h)) })
		for i, p := range all {
			*p.born = borns[i]
		}
	}
	var waiting, buried []place
	for _, s := range m.sessions {
		if !m.table.Rec(s.h).Has(Replied) {
			waiting = append(waiting, place{s.seen, s.h, &s.born})
		}
	}
	order(waiting)
	tombs := map[extKey]*tomb{}
	m.table.Buried(func(h Handle, r *Record) bool {
		g := m.tombs[extKeyOf(r)]
		tombs[extKeyOf(r)] = &g
		buried = append(buried, place{g.since, h, &g.born})
		return true
	})
	order(buried)
	for k, g := range tombs {
		m.tombs[k] = *g
	}
	for h := range m.table.recs {
		r := &m.table.recs[h]
		if r.Bits&Filter == 0 {
			r.Next, r.Prev = m.r.Uint32(), m.r.Uint32()
		}
		if r.State != Quarantined {
			r.Bits ^= Bits(m.r.IntN(2)) * Head
		}
		if r.Bits&Replied == 0 {
			next, prev := r.listLinks()
			*next, *prev = m.r.Uint32(), m.r.Uint32()
		}
	}
	old := m.table
	t, err := Open(m.cfg, m.kept)
	if err != nil {
		m.t.Fatal(err)
	}
	t.Epoch, t.Agrees, t.Timeouts, t.Released = old.Epoch, old.Agrees, old.Timeouts, old.Released
	m.table = t
	if n := t.Rebuild(m.tick(), func(*Record) bool { return true }); n != 0 {
		m.fail("%d records are dropped", n)
	}
}

// clockStarts are shortly before the places where arithmetic of ticks could go wrong.
var clockStarts = []int64{0, 1<<31 - 5_000, 1<<32 - 5_000, 1<<24 - 100, 1<<31 + 7}

func TestModel(t *testing.T) {
	for seed := range uint64(400) {
		m := newModel(t, seed, 1+int(seed%17), clockStarts[seed%uint64(len(clockStarts))])
		for range 400 {
			m.step()
			m.check()
		}
	}
}

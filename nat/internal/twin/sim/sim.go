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

// kind is what an operation does. The numbers are how often, of 64.
type kind int

const (
	passTime     kind = 0
	changePolicy      = passTime + 7
	sendBatch         = changePolicy + 2
	sendPieces        = sendBatch + 3
	flood             = sendPieces + 1
	start             = flood + 11
	answerIn          = start + 12
	answerOut         = answerIn + 10
	goOn              = answerOut + 5
	tryIn             = goOn + 5
	complainIn        = tryIn + 3
	complainOut       = complainIn + 2
	hairpin           = complainOut + 2
	kinds             = 64 // the last: a fragment that was left
)

// Sim is an engine and its twin, and what both have seen.
type Sim struct {
	world   world
	engine  *nat.Engine
	worker  *nat.Worker
	twin    *twin.Twin
	now     time.Duration
	counts  [nat.NumVerdicts]uint64
	seen    [2][][]byte // what last came out, by side
	sent    []arrival   // what last went in
	pending []arrival   // fragments under way
	trace   []string
	verbose bool
}

// Run plays a script. The error says what went wrong; trace is what led to it, if asked for.
func Run(script []byte, verbose bool) (counts [nat.NumVerdicts]uint64, trace []string, err error) {
	head := script[:min(len(script), HeadSize)]
	s := &Sim{world: newWorld(newDice(head)), verbose: verbose}
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
		if err = s.op(d); err != nil {
			return s.counts, s.trace, err
		}
	}
	return s.counts, s.trace, s.end()
}

func (s *Sim) note(format string, args ...any) {
	if s.verbose {
		s.trace = append(s.trace, fmt.Sprintf("%v ", s.now)+fmt.Sprintf(format, args...))
	}
}

// op does one operation.
func (s *Sim) op(d *dice) error {
	switch k := kind(d.n(64)); {
	case k < passTime+6:
		s.now += pick(d, time.Millisecond, 2*time.Millisecond, 20*time.Millisecond, 0, time.Second, 3*time.Second, 20*time.Second)
		if d.one(3) {
			s.now += pick(d, 5999*time.Millisecond, 6*time.Second, 15*time.Second, 19*time.Second, 60*time.Second, 100*time.Second, 241*time.Second,
				300*time.Second, 349*time.Second, time.Hour, 7440*time.Second, 9*time.Hour)
		}
	case k < changePolicy:
		return s.apply(d)
	case k < sendBatch:
		return s.batch(d)
	case k < sendPieces:
		return s.pieces(d)
	case k < flood:
		return s.flood(d)
	default:
		if a, ok := s.arrival(d, k); ok {
			return s.packets([]arrival{a}, false)
		}
	}
	return nil
}

// tick lets timers fire.
func (s *Sim) tick() error {
	for range 50 {
		next := s.worker.Tick(s.now)
		if err := s.emitted(s.worker.Emitted()); err != nil {
			return err
		}
		if err := s.twin.Tick(s.now, s.worker.Emitted()); err != nil {
			return err
		}
		if next > s.now {
			return nil
		}
	}
	return fmt.Errorf("tick does not come to an end")
}

func (s *Sim) apply(d *dice) error {
	if err := s.tick(); err != nil {
		return err
	}
	var v *dice
	if d.one(2) {
		v = d
	}
	p := s.world.policy(v)
	impact, err := s.engine.Apply(p, s.now)
	if err != nil {
		return fmt.Errorf("the script's policy is refused: %w", err)
	}
	s.note("policy %+v: %+v", *p, impact)
	if err := s.twin.Apply(s.now, p, impact); err != nil {
		return err
	}
	return s.check()
}

// batch sends several packets of one attachment at once.
func (s *Sim) batch(d *dice) error {
	var all []arrival
	for range 2 + d.n(8) {
		if a, ok := s.arrival(d, flood+kind(d.n(int(kinds-flood)))); ok && (len(all) == 0 || a.from == all[0].from) {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return s.packets(all, s.world.cfg.Shards == 1)
}

// pieces sends a datagram in fragments, one of which may be missing, come twice, or be of other pieces.
func (s *Sim) pieces(d *dice) error {
	a, ok := s.plainArrival(d, pick(d, start, start, answerIn, answerOut, tryIn, hairpin))
	if !ok || !cuttable(a.p.Bytes()) {
		return nil
	}
	all := cut(d, a)
	d.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	switch d.n(6) {
	case 0:
		all = all[1:]
	case 1:
		all = append(all, all[0])
		d.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	case 2:
		other := cut(d, a)
		all[0] = other[d.n(len(other))]
	}
	for _, a := range all {
		if err := s.packets([]arrival{a}, false); err != nil {
			return err
		}
	}
	return nil
}

// flood sends many packets of one kind: datagrams that may be answered, or pieces of too many.
func (s *Sim) flood(d *dice) error {
	e := s.outbound(d)
	e.src = netip.AddrPortFrom(hosts[d.n(3)], 4000)
	e.dst = netip.AddrPortFrom(remotes[0], e.dst.Port())
	answered, fragments := !d.one(3), d.one(4)
	for i := range 12 + d.n(24) {
		var a arrival
		if fragments {
			b := craft.UDP(craft.IP{Src: e.src.Addr(), Dst: e.dst.Addr(), ID: uint16(i / 9)}, 1, 2, make([]byte, 900))
			a = plain(anywhere, craft.Cut(b, 96, 192, 288, 384, 480, 576, 672, 768, 864)[i%9])
		} else {
			e.src = netip.AddrPortFrom(e.src.Addr(), e.src.Port()+1)
			a = plain(anywhere, craft.UDP(craft.IP{Src: e.src.Addr(), Dst: e.dst.Addr(), DF: true}, e.src.Port(), e.dst.Port(), nil))
		}
		if err := s.packets([]arrival{a}, false); err != nil {
			return err
		}
		if seen := s.seen[nat.Outside]; answered && !fragments && len(seen) > 0 {
			if b, ok := answer(d, seen[len(seen)-1]); ok {
				if err := s.packets([]arrival{plain(outside, b)}, false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// arrival makes the packet of an operation of kind k.
func (s *Sim) arrival(d *dice, k kind) (arrival, bool) {
	a, ok := s.plainArrival(d, k)
	if !ok {
		return a, false
	}
	switch b := a.p.Bytes(); {
	case d.one(16):
		return plain(a.from, spoil(d, b)), true
	case d.one(16):
		if cuttable(b) {
			all := cut(d, a)
			i := d.n(len(all))
			s.pending = append(s.pending, slices.Delete(slices.Clone(all), i, i+1)...)
			s.pending = slices.Clone(s.pending[max(0, len(s.pending)-20):])
			return all[i], true
		}
	case d.one(8):
		if craft.Verify(b) == nil && (b[9] == packet.TCP || b[9] == packet.UDP) && be.Uint16(b[6:])&0x3fff == 0 {
			if d.one(2) {
				a.p = craft.Super(b, pick(d, 100, 536, 1400))
			} else {
				a.p = craft.Partial(b)
			}
		}
	case d.one(8):
		if craft.Verify(b) == nil {
			a.p.Offload.Csum = packet.CsumVerified
		}
	}
	return a, true
}

func (s *Sim) plainArrival(d *dice, k kind) (arrival, bool) {
	in := pick(d, anywhere, anywhere, anywhere, subnet)
	if d.one(60) {
		in = nowhere
	}
	switch {
	case k <= start: // an inside host starts something
		return plain(in, first(d, s.outbound(d))), true
	case k <= answerIn: // somebody outside answers
		if b, ok := s.recent(d, nat.Outside); ok {
			if b, ok = answer(d, b); ok {
				return plain(outside, b), true
			}
		}
	case k <= answerOut: // a host inside answers
		if b, ok := s.recent(d, nat.Inside); ok {
			if b, ok = answer(d, b); ok {
				return plain(in, b), true
			}
		}
	case k <= goOn: // whoever sent something goes on
		if len(s.sent) > 0 {
			a := s.sent[len(s.sent)-1-d.n(len(s.sent))]
			if b, ok := next(d, a.p.Bytes()); ok {
				return plain(a.from, b), true
			}
		}
	case k <= tryIn:
		return plain(outside, first(d, s.inbound(d))), true
	case k <= complainIn:
		if b, ok := s.recent(d, nat.Outside); ok {
			return plain(outside, complain(d, b, remotes)), true
		}
	case k <= complainOut:
		if b, ok := s.recent(d, nat.Inside); ok {
			return plain(in, complain(d, b, hosts)), true
		}
	case k <= hairpin: // a host talks to an external endpoint
		e := s.outbound(d)
		if b, ok := s.recent(d, nat.Outside); ok {
			if o, ok := endsOf(b); ok {
				e.proto, e.dst = o.proto, o.src
			}
		}
		return plain(in, first(d, e)), true
	default: // a fragment arrives
		if n := len(s.pending); n > 0 {
			i := d.n(n)
			a := s.pending[i]
			if !d.one(6) {
				s.pending = slices.Delete(s.pending, i, i+1)
			}
			if d.one(10) {
				a.p = a.p.Clone()
				b := a.p.Bytes()
				b[pick(d, 6, 7, 7, len(b)-1)] ^= byte(1 << d.n(8))
				craft.SetTTL(b, b[8])
			}
			return a, true
		}
	}
	return arrival{}, false
}

func (s *Sim) recent(d *dice, side nat.Side) ([]byte, bool) {
	seen := s.seen[side]
	if len(seen) == 0 {
		return nil, false
	}
	back := d.n(len(seen))
	if d.one(2) {
		back = 0
	}
	return seen[len(seen)-1-back], true
}

// outbound is who an inside host may want to talk to.
func (s *Sim) outbound(d *dice) ends {
	src := netip.AddrPortFrom(hosts[d.n(len(hosts))], pick[uint16](d, 5000, 5001, 5002, 5003, 80, 68, 0))
	if d.one(2) {
		src = netip.AddrPortFrom(hosts[d.n(3)], src.Port())
	}
	to := remotes[d.n(len(remotes))]
	if d.one(6) {
		to = pick(d, hosts[0], hosts[1], partner, poolA[0], poolA[1], poolB, statics[0], statics[1], unlent, src.Addr(), ip("224.0.0.1"))
	}
	if d.one(40) {
		src = netip.AddrPortFrom(pick(d, ip("127.0.0.1"), ip("192.168.1.1"), stranger, poolA[0]), 5000)
	}
	dst := netip.AddrPortFrom(to, pick[uint16](d, 53, 80, 443, 2002, 6000))
	return ends{pick[uint8](d, packet.TCP, packet.TCP, packet.UDP, packet.UDP, packet.ICMP), src, dst}
}

// inbound is what somebody outside may try.
func (s *Sim) inbound(d *dice) ends {
	src := netip.AddrPortFrom(remotes[d.n(len(remotes))], pick[uint16](d, 53, 80, 443, 6000))
	if d.one(12) {
		src = netip.AddrPortFrom(pick(d, partner, poolA[0], hosts[0], ip("127.0.0.1"), unlent), 80)
	}
	to := pick(d, poolA[0], poolA[0], poolA[1], poolB, statics[0], statics[1], unlent, hosts[0], stranger, ip("255.255.255.255"))
	port := uint16(2000 + d.n(9))
	switch d.n(4) {
	case 0:
		port = pick[uint16](d, 2002, 2002, 22, 2001, 8080, 0)
	case 1, 2: // a port that is in use
		var used []netip.AddrPort
		for g := range s.engine.Sessions(s.now) {
			used = append(used, g.External)
		}
		if len(used) > 0 {
			e := used[d.n(len(used))]
			to, port = e.Addr(), e.Port()
		}
	}
	return ends{pick[uint8](d, packet.TCP, packet.TCP, packet.UDP, packet.UDP, packet.ICMP), src, netip.AddrPortFrom(to, port)}
}

// cuttable: large enough, and no SYN: the first piece of one should have all options.
func cuttable(b []byte) bool {
	hlen := int(b[0]&15) * 4
	return len(b) >= hlen+17 && be.Uint16(b[6:])&0x3fff == 0 && !(b[9] == packet.TCP && b[hlen+13]&packet.SYN != 0)
}

// cut is a packet in pieces.
func cut(d *dice, a arrival) (all []arrival) {
	b := a.p.Bytes()
	n := len(b) - int(b[0]&15)*4
	step := max(8, n/pick(d, 2, 2, 3, 4, 7, 140)&^7)
	if b[9] == packet.TCP && !d.one(6) {
		step = max(step, 24)
	}
	var at []int
	for o := step; o < n; o += step {
		at = append(at, o)
	}
	for _, p := range craft.Cut(b, at...) {
		all = append(all, plain(a.from, p))
	}
	return all
}

// packets lets packets arrive, all from one attachment.
func (s *Sim) packets(all []arrival, batch bool) error {
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
		return s.check()
	}
	for i, a := range all {
		vs[i] = s.worker.Translate(&ps[i], a.from, s.now)
		if err := s.judge(a, ps[i], vs[i], s.worker.Emitted()); err != nil {
			return err
		}
	}
	return s.check()
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
func (s *Sim) judge(a arrival, out packet.Packet, v nat.Verdict, emitted []nat.Emission) error {
	s.counts[v]++
	s.note("%d %s %s%v: %v", a.from, craft.Describe(a.p.Bytes()), offload(a.p), v, describeOut(out, v, emitted))
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

func (s *Sim) emitted(emitted []nat.Emission) error {
	for _, e := range emitted {
		b := e.Packet.Bytes()
		if err := craft.Verify(b); err != nil && b[9] != packet.ICMP { // a quote is as it came
			return fmt.Errorf("emitted %s: %w", craft.Describe(b), err)
		}
		dst, _ := netip.AddrFromSlice(b[16:20])
		if err := s.leaves(b, e.Side, dst == partner); err != nil {
			return err
		}
		s.remember(e.Side, b)
	}
	return nil
}

// leaves is the first of the laws: no source that is not external is seen outside.
func (s *Sim) leaves(b []byte, side nat.Side, bypassed bool) error {
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

func (s *Sim) remember(side nat.Side, b []byte) {
	s.seen[side] = append(s.seen[side], append([]byte(nil), b...))
	if n := len(s.seen[side]); n > 12 {
		s.seen[side] = slices.Clone(s.seen[side][1:])
	}
}

// check holds all books of both against each other.
func (s *Sim) check() error {
	if err := s.engine.Check(s.now); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return s.twin.Compare(s.now, s.engine.Sessions(s.now))
}

// end lets everything time out and looks for what is left.
func (s *Sim) end() error {
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
	return s.check()
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

// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// kind is what an operation does. The numbers are how often, of 64.
type kind int

const (
	passTime     kind = 0
	changePolicy      = passTime + 7
	sendBatch         = changePolicy + 5
	sendPieces        = sendBatch + 3
	flood             = sendPieces + 1
	start             = flood + 10
	answerIn          = start + 12
	answerOut         = answerIn + 9
	goOn              = answerOut + 4
	tryIn             = goOn + 5
	complainIn        = tryIn + 3
	complainOut       = complainIn + 2
	hairpin           = complainOut + 1
	kinds             = 64 // the last: a fragment that was left
)

// op does one operation of kind k.
func (s *sim) op(k kind, d *dice) error {
	switch {
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

func (s *sim) apply(d *dice) error {
	if err := s.tick(); err != nil {
		return err
	}
	var v *dice
	if d.one(2) {
		v = d
	}
	p := s.world.policy(v)
	if d.one(3) {
		return s.adopt(d, p)
	}
	impact, err := s.engine.Apply(p, s.now)
	if err != nil {
		return fmt.Errorf("the script's policy is refused: %w", err)
	}
	s.note("policy %+v: %+v", *p, impact)
	s.policy = p
	s.laws.Policy(p)
	if s.twin == nil {
		return nil
	}
	return s.twin.Apply(s.now, p, impact)
}

// adopt has another engine go on where this one is, under the policy p: in its memory or with a copy of it.
func (s *sim) adopt(d *dice, p *nat.Policy) error {
	s.listen()
	cfg, old := s.cfg, s.cfg.Records
	if d.one(2) {
		if s.twin == nil {
			cfg.Shards = pick(d, 1, 2, 4)
			for _, q := range p.Pools {
				if q.Profile.PortBlock > 0 { // which is made for the world's shards
					cfg.Shards = s.world.cfg.Shards
				}
			}
		}
		cfg.Records = make([]byte, cfg.RecordsSize())
	}
	was := slices.Clone(old)
	e, got, err := nat.Adopt(cfg, old, p, s.now)
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	s.note("adopted %+v: %+v", *p, got)
	if got.Torn != 0 || got.NoRoom != 0 {
		return fmt.Errorf("adopted with losses: %+v", got)
	}
	if &cfg.Records[0] != &old[0] && !bytes.Equal(was, old) {
		return fmt.Errorf("what was to be read only was written to")
	}
	cfg.Shards = got.Shards
	s.cfg, s.engine, s.worker, s.policy = cfg, e, e.Worker(), p
	s.laws.Policy(p)
	s.laws.Forget()
	if s.twin == nil {
		return nil
	}
	s.twin.Order(e.Sessions(s.now))
	return s.twin.Adopt(s.now, p, got)
}

// batch sends several packets of one attachment at once.
func (s *sim) batch(d *dice) error {
	var all []arrival
	likely := pick(d, start, answerIn, answerIn, answerOut, goOn)
	for range 2 + d.n(10) {
		k := likely
		if d.one(4) {
			k = flood + kind(d.n(int(kinds-flood)))
		}
		if a, ok := s.arrival(d, k); ok && (len(all) == 0 || a.from == all[0].from) {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return s.packets(all, s.batchable())
}

// batchable: the twin plays packet by packet what the engine plays at once. Several shards may take the packets in another
// order; with few records a session may be gone at the end of its batch.
func (s *sim) batchable() bool {
	return s.twin == nil || s.world.cfg.Shards == 1 && s.world.cfg.Sessions > 100
}

// pieces sends a datagram in fragments, one of which may be missing, come twice, or be of other pieces.
func (s *sim) pieces(d *dice) error {
	a, ok := s.plainArrival(d, pick(d, start, start, answerIn, answerOut, tryIn, hairpin))
	if !ok || !cuttable(a.p.Bytes()) {
		return nil
	}
	all := cut(d, a)
	d.shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	switch d.n(6) {
	case 0:
		all = all[1:]
	case 1:
		all = append(all, all[0])
		d.shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	case 2:
		other := cut(d, a)
		all[0] = other[d.n(len(other))]
	}
	if s.batches && s.batchable() && len(all) > 0 {
		return s.packets(all, true)
	}
	for _, a := range all {
		if err := s.packets([]arrival{a}, false); err != nil {
			return err
		}
	}
	return nil
}

// flood sends many packets of one kind: datagrams that may be answered, or pieces of too many.
func (s *sim) flood(d *dice) error {
	e := s.outbound(d)
	e.src = netip.AddrPortFrom(hosts[d.n(3)], 4000)
	e.dst = netip.AddrPortFrom(remotes[0], e.dst.Port())
	answered, fragments := !d.one(3), d.one(4)
	n := 12 + d.n(24)
	if fragments {
		n *= 8
	}
	for i := range n {
		s.now += time.Millisecond
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
func (s *sim) arrival(d *dice, k kind) (arrival, bool) {
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

func (s *sim) plainArrival(d *dice, k kind) (arrival, bool) {
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
		s.knocked = s.inbound(d)
		return plain(outside, first(d, s.knocked)), true
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

func (s *sim) recent(d *dice, side nat.Side) ([]byte, bool) {
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
func (s *sim) outbound(d *dice) ends {
	src := netip.AddrPortFrom(hosts[d.n(len(hosts))], pick[uint16](d, 5000, 5001, 5002, 5003, 80, 68, 0))
	if d.one(2) {
		src = netip.AddrPortFrom(hosts[d.n(3)], src.Port())
	}
	to := remotes[d.n(len(remotes))]
	if d.one(6) {
		to = pick(d, hosts[0], hosts[1], partner, poolA[0], poolA[1], s.world.b(), statics[0], statics[1], unlent, src.Addr(), ip("224.0.0.1"))
	}
	if k := s.knocked; d.one(12) { // whoever has the port that somebody knocked at calls back
		for g := range s.engine.Sessions(s.now) {
			if g.External == k.dst && g.Protocol == k.proto {
				return ends{k.proto, g.Inside, k.src}
			}
		}
	}
	if d.one(40) {
		src = netip.AddrPortFrom(pick(d, ip("127.0.0.1"), ip("192.168.1.1"), stranger, poolA[0], s.world.b()), 5000)
	}
	dst := netip.AddrPortFrom(to, pick[uint16](d, 53, 80, 443, 2002, 6000))
	return ends{pick[uint8](d, packet.TCP, packet.TCP, packet.UDP, packet.UDP, packet.ICMP), src, dst}
}

// inbound is what somebody outside may try.
func (s *sim) inbound(d *dice) ends {
	src := netip.AddrPortFrom(remotes[d.n(len(remotes))], pick[uint16](d, 53, 80, 443, 6000))
	if d.one(12) {
		src = netip.AddrPortFrom(pick(d, partner, poolA[0], hosts[0], ip("127.0.0.1"), unlent), 80)
	}
	to := pick(d, poolA[0], poolA[0], poolA[1], s.world.b(), statics[0], statics[1], unlent, hosts[0], stranger, ip("255.255.255.255"))
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

// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// wire is the longest packet that this becomes on a wire (K-9).
func (s *step) wire() int {
	longest := len(s.in)
	for _, p := range s.pieces {
		longest = max(longest, len(p))
	}
	if s.offload.GSO != packet.GSONone {
		longest = min(longest, int(s.offload.HdrLen)+int(s.offload.GSOSize))
	}
	return longest
}

// fits compares the packet with the MTU of the side it is going to, before anything is made of it. One that may not be
// cut is answered with the MTU (RFC 4787 REQ-13, RFC 1191; F-1).
func (s *step) fits(egress nat.Side) nat.Verdict {
	mtu := s.t.policy.mtu(egress)
	if mtu == 0 || s.wire() <= mtu {
		return nat.Unset
	}
	if s.h.df || s.offload.GSO != packet.GSONone {
		s.answer(packet.Unreachable, 4, uint32(mtu))
		return nat.DropTooBig
	}
	s.cutTo = mtu
	return nat.Unset
}

// leave finishes a packet that goes on.
func (s *step) leave(v nat.Verdict) nat.Verdict {
	if s.at.Router && s.pieces == nil {
		s.b[8]-- // K-3: one step, for a hairpin too
	}
	side := v.Side()
	if s.pieces != nil {
		s.leaveInPieces(side)
		return nat.Reassembled
	}
	if s.newID {
		s.adoptID(s.b)
	}
	if s.translated {
		resum(s.b, s.old, &s.h, s.offload.Csum)
	} else if s.at.Router {
		resumHeader(s.b, s.old, s.h.hlen)
	}
	if s.cutTo == 0 {
		return v
	}
	if s.offload.Csum == packet.CsumPartial {
		complete(s.b, s.offload)
	}
	for _, p := range cut(s.b, s.cutTo) {
		s.emitted = append(s.emitted, emission{side, p})
	}
	return nat.Fragmented
}

// leaveInPieces lets a complete datagram go as it came, each fragment with its own header (F-3, F-7, F-9).
func (s *step) leaveInPieces(side nat.Side) {
	if s.newID {
		s.adoptID(s.b)
	}
	resum(s.b, s.old, &s.h, s.offload.Csum)
	body := s.b[s.h.hlen:]
	for _, old := range s.pieces {
		h, _ := parse(old)
		p := append([]byte(nil), old...)
		copy(p[12:20], s.b[12:20])
		if s.newID {
			copy(p[4:6], s.b[4:6])
		}
		if s.at.Router && !s.stepped {
			p[8]--
		}
		copy(p[h.hlen:], body[h.off:])
		resumHeader(p, old, h.hlen)
		if s.cutTo > 0 && len(p) > s.cutTo {
			for _, q := range cut(p, s.cutTo) {
				s.emitted = append(s.emitted, emission{side, q})
			}
			continue
		}
		s.emitted = append(s.emitted, emission{side, p})
	}
}

// idLife is how many identifications a pair of hosts must see before one comes again: RFC 6864, section 4.3, asks for a
// lifetime of datagrams, which no test lives to see.
const idLife = 1 << 15

// adoptID takes over the identification that the engine chose, and checks that it is a new one (F-7, B-27).
func (s *step) adoptID(b []byte) {
	got := s.got.Packet.Bytes()
	if !s.got.Verdict.Forward() {
		if len(s.got.Emitted) == 0 {
			return
		}
		got = s.got.Emitted[0].Packet.Bytes()
	}
	if len(got) < 20 {
		return
	}
	copy(b[4:6], got[4:6])
	key := idKey{s.h.src.Addr(), s.h.dst.Addr(), s.h.proto}
	if s.looped() { // it was counted under what it left as
		key.dst = addr(s.in[16:])
	}
	seen := s.t.ids[key]
	if seen == nil || len(seen) >= idLife {
		seen = map[uint16]bool{}
		s.t.ids[key] = seen
	}
	segments := 1
	if o := s.offload; o.GSO != packet.GSONone { // K-9: each segment will have its own
		segments = max(1, (len(s.in)-int(o.HdrLen)+int(o.GSOSize)-1)/int(o.GSOSize))
	}
	first := be.Uint16(b[4:])
	for i := range segments {
		id := first + uint16(i)
		if seen[id] {
			s.fail("IP identification %d of %v was used before", id, key)
		}
		seen[id] = true
	}
}

// cut is a packet in fragments that fit mtu (RFC 791, section 3.2; RFC 4787 REQ-13a; F-2).
func cut(b []byte, mtu int) [][]byte {
	h := header{}
	h.readIP(b)
	body, head := b[h.hlen:], b[:h.hlen]
	var pieces [][]byte
	for off := 0; off < len(body); {
		n := (mtu - len(head)) &^ 7
		last := len(body)-off <= mtu-len(head)
		if last {
			n = len(body) - off
		}
		p := append(append([]byte(nil), head...), body[off:off+n]...)
		p[0] = 0x40 | byte(len(head)/4)
		be.PutUint16(p[2:], uint16(len(p)))
		f := be.Uint16(b[6:])&0x8000 | uint16((h.off+off)/8)
		if !last || h.mf {
			f |= 0x2000
		}
		be.PutUint16(p[6:], f)
		putHeaderSum(p, len(head))
		pieces = append(pieces, p)
		if off == 0 {
			head = append(append([]byte(nil), b[:20]...), copied(b[20:h.hlen])...)
		}
		off += n
	}
	return pieces
}

// copied is the options that are in each fragment: those with the high bit set (RFC 791, section 3.1).
func copied(o []byte) []byte {
	var c []byte
	for len(o) > 0 && o[0] != 0 {
		n := 1
		if o[0] != 1 {
			n = int(o[1])
		}
		if o[0]&0x80 != 0 {
			c = append(c, o[:n]...)
		}
		o = o[n:]
	}
	for len(c)%4 != 0 {
		c = append(c, 0)
	}
	return c
}

func putHeaderSum(b []byte, hlen int) {
	be.PutUint16(b[10:], 0)
	be.PutUint16(b[10:], craft.Checksum(b[:hlen]))
}

// answer makes an ICMP error about the packet for its sender, if there may be one: not about errors, other ICMP messages
// that are no queries, and fragments but the first (RFC 1122, section 3.2.2; I-16), and only so many (B-11).
func (s *step) answer(typ, code uint8, rest uint32) {
	if s.h.off > 0 || s.h.proto == packet.ICMP && !s.h.query() {
		return
	}
	if !s.t.spend() {
		return
	}
	p, src := s.t.policy, addr(s.in[16:])
	if s.at.Side == nat.Inside {
		router := p.InsideRouter
		_, static := p.staticOut(addr(s.in[12:]))
		if r, ok := p.route(addr(s.in[12:]), src); ok && !p.inside(src) && !r.Bypass && r.Pool != "" && !(r.Static && static) {
			if q := p.pool(r.Pool); q.Router.IsValid() { // NGW-10
				router = q.Router
			}
		}
		if router.IsValid() {
			src = router
		}
	}
	if router := p.OutsideRouter; s.at.Side == nat.Outside && router.IsValid() {
		src = router
	}
	s.emitted = append(s.emitted, emission{s.at.Side, generate(src, s.in, typ, code, rest)})
}

// generate is an ICMP error of our own that quotes b, as much as fits 576 bytes (RFC 1812, section 4.3.2.3; I-17).
func generate(src netip.Addr, b []byte, typ, code uint8, rest uint32) []byte {
	quote := b[:min(len(b), 576-28)]
	ip := craft.IP{Src: src, Dst: addr(b[12:]), TOS: b[1] &^ 3, DF: true}
	return craft.Error(ip, typ, code, rest, quote)
}

// reset is the RST for a segment that belongs to nothing (RFC 9293, section 3.10.7.1; NGW-6).
func (s *step) reset() {
	seg := readSegment(s.b[s.h.hlen:])
	r := craft.Segment{Src: s.h.dst.Port(), Dst: s.h.src.Port(), Flags: packet.RST}
	if seg.has(packet.ACK) {
		r.Seq = seg.ack
	} else {
		r.Flags |= packet.ACK
		r.Ack = seg.seq + seg.len
	}
	ip := craft.IP{Src: s.h.dst.Addr(), Dst: s.h.src.Addr(), TOS: s.h.tos &^ 3, DF: true}
	s.emitted = append(s.emitted, emission{nat.Inside, craft.TCP(ip, r, nil)})
}

// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"fmt"
	"net/netip"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// step is one packet on its way through the twin.
type step struct {
	t   *Twin
	got Outcome
	err error // what the engine may not do; the verdict is beside the point then

	at      nat.Attachment
	offload packet.Offload
	in      []byte // as received, without what follows its total length

	// h is what the headers say now, b the datagram as it is now, old as it was: without its checksums for the changes
	// made so far. Of a datagram that came in fragments it is the first one's header and all payload.
	h      header
	b, old []byte
	// pieces are the fragments of a datagram that is complete, in order, as received.
	pieces [][]byte

	translated bool // addresses were changed
	stepped    bool // its TTL is down by one already
	newID      bool // it needs an IP identification of ours
	cutTo      int  // MTU of the egress that it does not fit; 0: it does

	emitted []emission
}

// fail notes the first thing that is wrong with what the engine did.
func (s *step) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// run is the whole way of a packet, in the order in which its faults count.
func (s *step) run(from nat.AttachmentID, in packet.Packet) nat.Verdict {
	at, ok := s.t.policy.attachment(from)
	if !ok {
		return nat.DropAttachment
	}
	h, fault := parse(in.Bytes())
	if fault != nat.Unset {
		return fault
	}
	s.at, s.offload, s.h = at, in.Offload, h
	s.in = append([]byte(nil), in.Bytes()[:h.total]...) // K-6: the tail is trimmed
	s.old = s.in
	s.b = append([]byte(nil), s.in...)

	if v := s.addresses(); v != nat.Unset {
		return v
	}
	if at.Side == nat.Outside && h.off == 0 && s.t.policy.service(h.proto, h.dst) {
		return nat.ToHost // M-15
	}
	if at.Router && h.ttl <= 1 { // I-15, before any state is made (B-29)
		s.answer(packet.TimeExceeded, 0, 0)
		return nat.DropTTL
	}
	v := nat.Unset
	if at.Side == nat.Inside {
		v = s.outward()
	} else {
		v = s.inward()
	}
	if v.Forward() {
		return s.leave(v)
	}
	return v
}

// addresses refuses those that cannot be (K-7; RFC 1812, section 5.3.7; RFC 2827).
func (s *step) addresses() nat.Verdict {
	p, src, dst := s.t.policy, s.h.src.Addr(), s.h.dst.Addr()
	if martian(src) {
		return nat.DropMartian
	}
	if s.at.Side == nat.Inside {
		sources := s.at.Sources
		if len(sources) == 0 {
			sources = p.Inside
		}
		switch {
		case !contains(sources, src) || p.private(src):
			return nat.DropSpoof
		case martian(dst):
			return nat.DropMartian
		case src == dst:
			return nat.DropLand
		}
		return nat.Unset
	}
	switch {
	case p.inside(src) || p.external(src) || martian(dst):
		return nat.DropMartian
	case p.inside(dst):
		// RFC 6888 REQ-6: whoever is talked to by inside addresses may answer to them.
		if r, ok := p.route(dst, src); !ok || !r.Bypass {
			return nat.DropUnassigned
		}
	case !p.lent(dst):
		return nat.DropUnassigned
	}
	return nat.Unset
}

// outward decides about a packet from inside.
func (s *step) outward() nat.Verdict {
	p, src, dst := s.t.policy, s.h.src.Addr(), s.h.dst.Addr()
	if p.private(dst) { // NGW-2
		return nat.DropNoMapping
	}
	if p.inside(dst) { // VPC-1
		if v := s.filter(nat.Inside, src, dst); v != nat.Unset {
			return v
		}
		if v := s.fits(nat.Inside); v != nat.Unset {
			return v
		}
		return nat.Untouched
	}
	r, ok := p.route(src, dst)
	if !ok {
		return s.noPath()
	}
	if r.Bypass {
		if v := s.filter(nat.Outside, src, netip.Addr{}); v != nat.Unset {
			return v
		}
		if v := s.fits(nat.Outside); v != nat.Unset {
			return v
		}
		return nat.Bypassed
	}
	egress := nat.Outside
	if p.external(dst) {
		switch {
		case p.HairpinOff:
			return nat.DropHairpin
		case p.unlent(dst):
			return nat.DropUnassigned
		}
		egress = nat.Inside
	}
	var v nat.Verdict
	if ext, ok := p.staticOut(src); ok && r.Static {
		v = s.staticOut(ext, egress)
	} else if r.Pool == "" && (!s.h.isError() || s.h.fragment()) {
		return s.noPath()
	} else {
		v = s.naptOut(p.pool(r.Pool), egress)
	}
	if v.Forward() && egress == nat.Inside {
		return s.loop(v)
	}
	return v
}

// noPath is for a host without a way out (VPC-2): all it may do is answer those who came in through a port forward.
func (s *step) noPath() nat.Verdict {
	p, egress := s.t.policy, nat.Outside
	if p.external(s.h.dst.Addr()) {
		egress = nat.Inside
	}
	se := s.t.outbound(s.h.proto, s.h.src, s.h.dst)
	if s.h.fragment() || se == nil || !se.forwarded || !se.tcp.inbound || egress == nat.Inside && p.HairpinOff {
		return nat.DropNoPath
	}
	if v := s.naptOut(p.pool(se.pool), egress); !v.Forward() || egress == nat.Outside {
		return v
	} else {
		return s.loop(v)
	}
}

// inward decides about a packet from outside.
func (s *step) inward() nat.Verdict {
	p, dst := s.t.policy, s.h.dst.Addr()
	if p.inside(dst) { // by a bypass, or it would not have come so far
		if v := s.filter(nat.Inside, netip.Addr{}, dst); v != nat.Unset {
			return v
		}
		if v := s.fits(nat.Inside); v != nat.Unset {
			return v
		}
		return nat.Untouched
	}
	if in, ok := p.staticIn(dst); ok {
		return s.staticIn(in)
	}
	return s.naptIn()
}

// loop is the inbound half of a hairpin (RFC 4787 REQ-9, RFC 5382 REQ-8, RFC 5508 REQ-7; H-1 to H-4): the packet has its
// external source by now, and filters apply to it as to one from outside.
func (s *step) loop(v nat.Verdict) nat.Verdict {
	if v != nat.ErrorOutbound && !s.h.fragment() && s.h.src == s.h.dst {
		return nat.DropLand // H-4
	}
	if in, ok := s.t.policy.staticIn(s.h.dst.Addr()); ok {
		v = s.staticIn(in)
	} else {
		v = s.naptIn()
	}
	if v.Forward() && v != nat.ErrorInbound {
		return nat.Hairpin
	}
	return v
}

// looped reports whether this is the inbound half of a hairpin.
func (s *step) looped() bool { return s.at.Side == nat.Inside && s.translated }

// setSource and setDestination rewrite one end. Ports are rewritten only where the packet has them, and only if the
// mapping is not 1:1.
func (s *step) setSource(to netip.AddrPort, ports bool) { s.setEnd(12, &s.h.src, 0, to, ports) }

func (s *step) setDestination(to netip.AddrPort, ports bool) { s.setEnd(16, &s.h.dst, 2, to, ports) }

func (s *step) setEnd(at int, end *netip.AddrPort, portAt int, to netip.AddrPort, ports bool) {
	s.translated = true
	copy(s.b[at:], to.Addr().AsSlice())
	if !ports {
		*end = netip.AddrPortFrom(to.Addr(), end.Port())
		return
	}
	if s.h.proto == packet.ICMP {
		be.PutUint16(s.b[s.h.hlen+4:], to.Port())
		s.h.src = netip.AddrPortFrom(s.h.src.Addr(), to.Port())
		s.h.dst = netip.AddrPortFrom(s.h.dst.Addr(), to.Port())
	} else {
		be.PutUint16(s.b[s.h.hlen+portAt:], to.Port())
	}
	*end = to
}

// clampMSS lowers the MSS option of a SYN (T-16).
func (s *step) clampMSS() {
	limit := s.t.policy.MSSClamp
	if limit == 0 || s.h.proto != packet.TCP || s.h.flags&packet.SYN == 0 {
		return
	}
	body := s.b[s.h.hlen:]
	o := tcpOption(body[20:max(20, min(int(body[12]>>4)*4, len(body)))], 2)
	if len(o) == 4 && be.Uint16(o[2:]) > limit {
		be.PutUint16(o[2:], limit)
	}
}

// rem is an end of the packet as sessions have remote endpoints: an ICMP query has no port there.
func (s *step) rem(end netip.AddrPort) netip.AddrPort {
	if s.h.proto == packet.ICMP {
		return netip.AddrPortFrom(end.Addr(), 0)
	}
	return end
}

// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// quote checks an ICMP error and reads what it quotes (RFC 5508 REQ-3; I-5 to I-7). None of it refreshes or ends a
// session (REQ-6; I-11).
func (s *step) quote() (q header, v nat.Verdict) {
	body := s.b[s.h.hlen:]
	if s.offload.Csum == packet.CsumUnverified && !s.looped() && craft.Checksum(body) != 0 {
		return q, nat.DropICMPChecksum
	}
	q, readable, sound := parseQuote(body[8:])
	switch {
	case !readable || q.isError():
		return q, nat.DropICMPQuote
	case q.src.Addr() != s.h.dst.Addr(): // an error goes to who sent what it quotes
		return q, nat.DropICMPQuote
	case !sound && !s.looped() && s.t.policy.StrictQuotes:
		return q, nat.DropICMPQuoteChecksum
	}
	return q, nat.Unset
}

// setQuote rewrites one end of the quoted packet: at is that of its address.
func (s *step) setQuote(q header, at int, to netip.AddrPort, ports bool) {
	s.translated = true
	b := s.b[s.h.hlen+8:]
	copy(b[at:], to.Addr().AsSlice())
	if !ports {
		return
	}
	switch {
	case q.proto == packet.ICMP:
		be.PutUint16(b[q.hlen+4:], to.Port())
	case at == 12:
		be.PutUint16(b[q.hlen:], to.Port())
	default:
		be.PutUint16(b[q.hlen+2:], to.Port())
	}
}

// quoted is the remote endpoint of a quoted packet, as sessions have it.
func quoted(q header, end netip.AddrPort) netip.AddrPort {
	if q.proto == packet.ICMP {
		return netip.AddrPortFrom(end.Addr(), 0)
	}
	return end
}

// errorIn: the quoted packet is one of ours that was translated on its way out, and its sender sees it as it sent it
// (RFC 5508 REQ-4; I-3, I-4, I-13, I-14).
func (s *step) errorIn() nat.Verdict {
	q, v := s.quote()
	if v != nat.Unset {
		return v
	}
	if q.off > 0 || !q.flow() || q.isReply() {
		return nat.DropICMPNoMapping
	}
	se := s.t.inbound(q.proto, q.src, quoted(q, q.dst))
	if se == nil {
		return nat.DropICMPNoMapping
	}
	if v := s.fitsIn(); v != nat.Unset {
		return v
	}
	s.setQuote(q, 12, se.in, true)
	s.setDestination(se.in, false)
	return nat.ErrorInbound
}

// errorOut: the quoted packet is one that was translated on its way in; whoever inside complains does so as the host it
// was for (RFC 5508 REQ-5; I-10).
func (s *step) errorOut(pool *nat.Pool, egress nat.Side) nat.Verdict {
	q, v := s.quote()
	if v != nat.Unset {
		return v
	}
	if to, ok := s.t.policy.staticOut(q.dst.Addr()); ok { // a router inside, about a packet to a 1:1 host
		if r := s.t.policy.restriction(s.h.src.Addr()); r != nil && !s.reports(r, s.h.src.Addr(), false, s.h.dst.Addr()) {
			return nat.DropNotAllowed
		}
		if v := s.fits(egress); v != nat.Unset {
			return v
		}
		s.setQuote(q, 16, netip.AddrPortFrom(to, 0), false)
		s.setSource(netip.AddrPortFrom(to, 0), false)
		return nat.ErrorOutbound
	}
	if pool == nil {
		return nat.DropNoPath
	}
	if q.off > 0 || !q.flow() || q.proto == packet.ICMP && !q.isReply() {
		return nat.DropICMPNoMapping
	}
	var ext netip.AddrPort
	if se := s.t.outbound(q.proto, q.dst, quoted(q, q.src)); se != nil && se.filter == "" {
		ext = se.ext
	} else if m := s.t.mappingOf(pool, q.proto, q.dst); m != nil { // it may have passed without a session
		ext = m.ext
	} else if at, ok := s.t.policy.forwardOut(nil, q.proto, q.dst); ok {
		ext = at
	} else {
		return nat.DropICMPNoMapping
	}
	if r := s.t.policy.restriction(s.h.src.Addr()); r != nil && !s.reports(r, s.h.src.Addr(), false, s.h.dst.Addr()) {
		return nat.DropNotAllowed
	}
	if v := s.fits(egress); v != nat.Unset {
		return v
	}
	s.setQuote(q, 16, ext, true)
	s.setSource(ext, false)
	s.newID = !s.h.df
	return nat.ErrorOutbound
}

// staticOut and staticIn are 1:1 translation (basic NAT, RFC 3022; IGW-1 to IGW-4): addresses change, no state is kept,
// every protocol passes, and so do fragments, one by one. Only redirects and source quenches have no meaning on the
// other side (RFC 6633; I-17).
func (s *step) staticOut(ext netip.Addr, egress nat.Side) nat.Verdict {
	if v := s.staticICMP(); v != nat.Unset {
		return v
	}
	v := nat.StaticOutbound
	if s.h.isError() && s.h.off == 0 {
		q, fault := s.quote()
		if fault != nat.Unset {
			return fault
		}
		if v := s.filter(egress, s.h.src.Addr(), netip.Addr{}); v != nat.Unset {
			return v
		}
		if v := s.fits(egress); v != nat.Unset {
			return v
		}
		to := ext
		if q.dst.Addr() != s.h.src.Addr() { // the sender is a router; what it quotes was for another host
			if to, _ = s.t.policy.staticOut(q.dst.Addr()); !to.IsValid() {
				return nat.DropICMPNoMapping // B-12: the quote would show an inside address
			}
		}
		s.setQuote(q, 16, netip.AddrPortFrom(to, 0), false)
		v = nat.ErrorOutbound
	} else if v := s.filter(egress, s.h.src.Addr(), netip.Addr{}); v != nat.Unset {
		return v
	} else if v := s.fits(egress); v != nat.Unset {
		return v
	}
	s.setSource(netip.AddrPortFrom(ext, 0), false)
	s.clampMSS()
	return v
}

func (s *step) staticIn(in netip.Addr) nat.Verdict {
	if v := s.staticICMP(); v != nat.Unset {
		return v
	}
	v := nat.StaticInbound
	if s.h.isError() && s.h.off == 0 {
		q, fault := s.quote()
		if fault != nat.Unset {
			return fault
		}
		if v := s.filter(nat.Inside, netip.Addr{}, in); v != nat.Unset {
			return v
		}
		s.setQuote(q, 12, netip.AddrPortFrom(in, 0), false)
		v = nat.ErrorInbound
	} else if v := s.filter(nat.Inside, netip.Addr{}, in); v != nat.Unset {
		return v
	}
	if v := s.fitsIn(); v != nat.Unset {
		return v
	}
	s.setDestination(netip.AddrPortFrom(in, 0), false)
	s.clampMSS()
	return v
}

func (s *step) staticICMP() nat.Verdict {
	switch {
	case s.h.proto != packet.ICMP || s.h.off > 0:
		return nat.Unset
	case s.h.typ == packet.SourceQuench || s.h.typ == packet.Redirect:
		return nat.DropProtocol
	case s.h.isError() && s.h.mf: // B-12: its quote, in pieces, would show an inside address
		return nat.DropICMPQuote
	}
	return nat.Unset
}

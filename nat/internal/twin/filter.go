// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// party is a restricted host at one end of a packet (SG-3).
type party struct {
	r        *nat.Restriction
	host     netip.Addr
	received bool           // it is the receiver
	own, rem netip.AddrPort // as its session has them
	session  *session
	makes    bool
}

func (p *policy) restriction(host netip.Addr) *nat.Restriction {
	i := slices.IndexFunc(p.Restrictions, func(r nat.Restriction) bool { return slices.Contains(r.Hosts, host) })
	if i < 0 {
		return nil
	}
	return &p.Restrictions[i]
}

// allows reports whether a rule of r covers the packet; port is that of the receiving end.
func allows(r *nat.Restriction, received bool, h *header, port uint16, rem netip.Addr) bool {
	rules := r.Out
	if received {
		rules = r.In
	}
	return slices.ContainsFunc(rules, func(a nat.Allow) bool {
		n := port
		if h.proto == packet.ICMP {
			n = uint16(h.typ)<<8 | uint16(h.code)
		}
		if a.Protocol != -1 && a.Protocol != int(h.proto) || len(a.Remotes) > 0 && !contains(a.Remotes, rem) {
			return false
		}
		return a.Protocol == -1 || !numbered(h.proto) || n >= a.PortMin && n <= a.PortMax
	})
}

// numbered protocols have ports, or what stands for them.
func numbered(proto uint8) bool {
	return proto == packet.TCP || proto == packet.UDP || proto == packet.ICMP
}

// belongs reports whether packets like this one can be of a session.
func (h *header) belongs() bool {
	return !numbered(h.proto) || h.flow() && h.off == 0
}

// anew: the packet is the first of another flow, though its session lives (SG-8).
func (s *step) anew(se *session, received bool) bool {
	switch s.h.proto {
	case packet.TCP:
		return s.h.flags&(packet.SYN|packet.ACK) == packet.SYN && se.tcp.state != opening
	case packet.ICMP:
		return !s.h.isReply() && received != se.tcp.inbound
	}
	return false
}

// barred: the rules of a host keep the packet from a pool's session, or if that is nil from starting something.
func (s *step) barred(host netip.Addr, received bool, port uint16, rem netip.Addr, se *session) bool {
	r := s.t.policy.restriction(host)
	return r != nil && (se == nil || s.anew(se, received)) && !allows(r, received, &s.h, port, rem)
}

// filter is for packets that no pool translates: from host out and to host in, if those are restricted.
func (s *step) filter(egress nat.Side, out, in netip.Addr) nat.Verdict {
	var all []*party
	if r := s.t.policy.restriction(out); r != nil {
		all = append(all, &party{r: r, host: out})
	}
	if r := s.t.policy.restriction(in); r != nil {
		all = append(all, &party{r: r, host: in, received: true})
	}
	if len(all) == 0 {
		return nat.Unset
	}
	if s.h.fragment() && numbered(s.h.proto) { // SG-11
		if v := s.gather(); v != nat.Unset {
			return v
		}
		if s.h.isError() {
			return nat.DropICMPQuote
		}
	}
	for _, p := range all {
		if !s.mayPass(p) {
			return nat.DropNotAllowed
		}
	}
	if s.h.isError() {
		return nat.Unset
	}
	if !s.looped() {
		if v := s.fits(egress); v != nat.Unset {
			return v
		}
	}
	return s.remember(all)
}

func (s *step) mayPass(p *party) bool {
	end, other := s.h.src, s.h.dst
	if p.received {
		end, other = other, end
	}
	p.own, p.rem = netip.AddrPortFrom(p.host, end.Port()), s.rem(other)
	if s.h.isError() {
		return s.reports(p.r, p.host, p.received, other.Addr())
	}
	port := s.h.dst.Port()
	if !s.h.belongs() {
		return allows(p.r, p.received, &s.h, port, other.Addr())
	}
	p.session = s.t.outbound(s.h.proto, p.own, p.rem)
	if p.session != nil && !s.anew(p.session, p.received) {
		return true
	}
	if !allows(p.r, p.received, &s.h, port, other.Addr()) {
		return false
	}
	answerable := s.h.flags&packet.RST == 0 && !s.h.isReply()
	p.makes = p.session == nil && answerable
	return true
}

// reports: an ICMP error may pass if a rule covers it, or if it is about what a session of the host has sent the other way
// (SG-10).
func (s *step) reports(r *nat.Restriction, host netip.Addr, received bool, rem netip.Addr) bool {
	if allows(r, received, &s.h, 0, rem) {
		return true
	}
	q, readable, _ := parseQuote(s.b[s.h.hlen+8:])
	if !readable || q.src.Addr() != s.h.dst.Addr() || !q.belongs() {
		return false
	}
	if received {
		return s.t.outbound(q.proto, netip.AddrPortFrom(host, q.src.Port()), quoted(q, q.dst)) != nil
	}
	return q.dst.Addr() == host && s.t.outbound(q.proto, q.dst, quoted(q, q.src)) != nil
}

// remember tracks the packet in the sessions of its ends and makes those that are to be made, all or none.
func (s *step) remember(all []*party) nat.Verdict {
	wanted := 0
	for _, p := range all {
		if !p.makes {
			continue
		}
		wanted++
		se := &session{proto: s.h.proto, in: p.own, ext: p.own, rem: p.rem, filter: p.r.Name}
		se.tcp.inbound = p.received
		limit := s.t.policy.HostRate
		switch {
		case s.full(p.host):
			return s.t.refused(nat.DropHostLimit, se)
		case !p.received && limit > 0 && s.madeNow(p.host) >= limit:
			return s.t.refused(nat.DropHostRate, se)
		case !s.haveRecords(&s.t.policy.tracker, wanted):
			return s.t.refused(nat.DropTableFull, se)
		}
		if se.proto == packet.TCP {
			d := out
			if p.received {
				d = in
			}
			se.tcp.begins(d, readSegment(s.b[s.h.hlen:]), p.received, starts(s.h.flags) != nat.Unset)
		}
		p.session = se
	}
	for _, p := range all {
		d := out
		if p.received {
			d = in
		}
		if !p.makes && p.session != nil && !s.track(p.session, d) {
			return nat.DropOutOfWindow
		}
	}
	for _, p := range all {
		if p.makes {
			s.add(p.session)
		}
	}
	return nat.Unset
}

// keeps: a filter session goes on while its host has the same restriction, and no pool translates its packets (SG-12).
func (p *policy) keeps(s *session) bool {
	if r := p.restriction(s.in.Addr()); r == nil || r.Name != s.filter || p.private(s.rem.Addr()) {
		return false
	}
	r, ok := p.route(s.in.Addr(), s.rem.Addr())
	_, static := p.staticOut(s.in.Addr())
	return p.inside(s.rem.Addr()) || ok && r.Bypass || static && (ok && r.Static || s.tcp.inbound)
}

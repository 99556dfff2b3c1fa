// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// choose judges the external endpoint that the engine gave a new session and adopts it; or that it gave none, and then
// it is false.
func (s *step) choose(pool *nat.Pool, se *session) bool {
	if s.got.Verdict == nat.DropNoPort && !s.madeUnseen(se) {
		if at, ok := s.refusable(pool, se); !ok {
			s.fail("no port was given out, and %v is free", at)
		}
		return false
	}
	ext, ok := s.chosen(se)
	if !ok {
		s.fail("the engine shows no external endpoint for %v to %v", se.in, se.rem)
		return false
	}
	se.ext, se.bounded = ext, pool.Profile.PortsPerDestination > 0
	s.judge(pool, se)
	return true
}

// madeUnseen: a hairpinned packet may be refused on its way in after its session was made on the way out.
func (s *step) madeUnseen(se *session) bool {
	_, ok := s.listed(se)
	return ok
}

// chosen is the external endpoint that the engine gave a session: the source of what came out of it, or what the
// engine's list says.
func (s *step) chosen(se *session) (netip.AddrPort, bool) {
	b := s.got.Packet.Bytes()
	switch s.got.Verdict {
	case nat.Outbound, nat.Hairpin:
	case nat.Fragmented, nat.Reassembled:
		if len(s.got.Emitted) == 0 {
			return netip.AddrPort{}, false
		}
		b = s.got.Emitted[0].Packet.Bytes()
	default:
		return s.listed(se)
	}
	if len(b) < 20 {
		return netip.AddrPort{}, false
	}
	h := header{}
	h.readIP(b)
	if body := b[min(h.hlen, len(b)):]; len(body) >= 8 {
		h.readPorts(body)
	}
	return h.src, true
}

func (s *step) listed(se *session) (netip.AddrPort, bool) {
	if s.got.Sessions == nil {
		return netip.AddrPort{}, false
	}
	for g := range s.got.Sessions {
		if g.Protocol == se.proto && g.Inside == se.in && g.Remote == se.rem {
			return g.External, true
		}
	}
	return netip.AddrPort{}, false
}

// ports is the range that a session's external port is from (M-7, or RFC 7422). ICMP identifiers have no classes.
func (p *policy) ports(pool *nat.Pool, se *session) (lo, hi int) {
	f := &pool.Profile
	switch {
	case f.PortBlock > 0:
		_, lo = p.block(pool, se.in.Addr())
		return lo, lo + f.PortBlock - 1
	case se.proto == packet.ICMP:
		return 0, 65535
	case f.PreserveClass && se.in.Port() < 1024:
		return 512, 1023
	case f.PreserveClass:
		return max(1024, int(f.PortMin)), int(f.PortMax)
	}
	return int(f.PortMin), int(f.PortMax)
}

// addresses are those of a pool that a session may get.
func (p *policy) addresses(pool *nat.Pool, se *session) []netip.Addr {
	if pool.Profile.PortBlock == 0 {
		return pool.Addresses
	}
	ext, _ := p.block(pool, se.in.Addr())
	return []netip.Addr{ext}
}

// block deals the blocks of a pool to the addresses that are routed to it, one after the other, until it is the turn of
// in: it is at an external address from a port on (RFC 7422).
func (p *policy) block(pool *nat.Pool, in netip.Addr) (ext netip.Addr, lo int) {
	n, done := 0, map[netip.Prefix]bool{}
	lo = int(pool.Profile.PortMin)
	for _, r := range p.Routes {
		src := r.Source.Masked()
		if r.Bypass || r.Pool != pool.Name || done[src] {
			continue
		}
		done[src] = true
		for a := src.Addr(); src.Contains(a); a = a.Next() {
			if lo+pool.Profile.PortBlock-1 > int(pool.Profile.PortMax) {
				n, lo = n+1, int(pool.Profile.PortMin)
			}
			if a == in {
				return pool.Addresses[n], lo
			}
			lo += pool.Profile.PortBlock
		}
	}
	return ext, 0
}

// taken reports whether an external endpoint cannot be given to se: somebody else has it (M-3, M-4), or it is reserved.
func (s *step) taken(pool *nat.Pool, se *session, ext netip.AddrPort) bool {
	if s.t.policy.reserved(pool, se.proto, ext.Port()) {
		return true
	}
	return s.t.find(func(o *session) bool {
		return o.proto == se.proto && o.ext == ext && (o.independent && se.independent || o.rem == se.rem)
	}) != nil
}

// quarantined is the place of an external endpoint among those that wait, -1 if it does not.
func (s *step) quarantined(se *session, ext netip.AddrPort) int {
	if !se.independent {
		return -1
	}
	return slices.IndexFunc(s.t.buried, func(b tombstone) bool { return b.port == port{se.proto, ext} })
}

// crowded: so many sessions may one address have to one destination (M-4, NGW-5). Those of port forwards take no port
// from others, and count as little as those of a time without a bound.
func (s *step) crowded(pool *nat.Pool, se *session, ext netip.Addr) bool {
	limit, n := pool.Profile.PortsPerDestination, 0
	for _, o := range s.t.sessions {
		if o.bounded && o.proto == se.proto && o.ext.Addr() == ext && o.rem == se.rem {
			n++
		}
	}
	return limit > 0 && n >= limit
}

// free finds a port that se could have at an address, among those that are like a port. Those in quarantine count only
// with last.
func (s *step) free(pool *nat.Pool, se *session, ext netip.Addr, like func(int) bool, last bool) (netip.AddrPort, bool) {
	if s.crowded(pool, se, ext) {
		return netip.AddrPort{}, false
	}
	lo, hi := s.t.policy.ports(pool, se)
	for p := lo; p <= hi; p++ {
		at := netip.AddrPortFrom(ext, uint16(p))
		if like(p) && !s.taken(pool, se, at) && (last || s.quarantined(se, at) < 0) {
			return at, true
		}
	}
	return netip.AddrPort{}, false
}

func anyPort(int) bool { return true }

// refusable reports whether there is no port for se, or names one.
func (s *step) refusable(pool *nat.Pool, se *session) (netip.AddrPort, bool) {
	var free netip.AddrPort
	full := 0
	addresses := s.t.policy.addresses(pool, se)
	for _, a := range addresses {
		if at, ok := s.free(pool, se, a, anyPort, true); ok {
			free = at
		} else {
			full++
		}
	}
	if s.t.cfg.Shards > 1 {
		return free, true // a shard has a part of the ports, and which part is not for the twin to know
	}
	if pool.Profile.Pooling == nat.Paired {
		// M-6, strict: the host's own address counts. It is known if the host uses it.
		if own, ok := s.t.paired(pool, se); ok {
			free, some := s.free(pool, se, own, anyPort, true)
			return free, !some
		}
		return free, full > 0
	}
	return free, full == len(addresses)
}

// paired is the address that a host uses in a pool already (RFC 4787 REQ-2; M-5).
func (t *Twin) paired(pool *nat.Pool, se *session) (netip.Addr, bool) {
	s := t.find(func(o *session) bool {
		return o.pool == pool.Name && o.in.Addr() == se.in.Addr() && o.paired == t.generation
	})
	if s == nil {
		return netip.Addr{}, false
	}
	return s.ext.Addr(), true
}

// judge holds the choice of se.ext against the rules.
func (s *step) judge(pool *nat.Pool, se *session) {
	f, ext := &pool.Profile, se.ext.Addr()
	lo, hi := s.t.policy.ports(pool, se)
	p := int(se.ext.Port())
	switch {
	case !slices.Contains(s.t.policy.addresses(pool, se), ext):
		s.fail("%v is not of pool %s, or not %v's", se.ext, pool.Name, se.in)
	case p < lo || p > hi:
		s.fail("port %d for %v is not of %d to %d", p, se.in, lo, hi) // M-7
	case s.taken(pool, se, se.ext):
		s.fail("%v is taken", se.ext)
	case s.crowded(pool, se, ext):
		s.fail("%v has its %d sessions to %v", ext, f.PortsPerDestination, se.rem)
	}
	s.judgePairing(pool, se)
	if s.t.cfg.Shards > 1 {
		return // what is left of the ports of a shard is not for the twin to know
	}
	if i := s.quarantined(se, se.ext); i >= 0 && !s.t.buried[i].vague {
		if at, ok := s.free(pool, se, ext, anyPort, false); ok {
			s.fail("%v is in quarantine, and %v is free", se.ext, at) // C-5
		}
	}
	if se.proto == packet.ICMP {
		return // identifiers have neither class nor parity
	}
	if f.PreservePort && se.ext.Port() != se.in.Port() { // M-9
		same := func(p int) bool { return p == int(se.in.Port()) }
		if at, ok := s.free(pool, se, ext, same, false); ok {
			s.fail("%v got %v, though %v is free", se.in, se.ext, at)
		}
	}
	if f.PreserveParity && (se.ext.Port()^se.in.Port())&1 != 0 { // M-8
		like := func(p int) bool { return (p^int(se.in.Port()))&1 == 0 }
		if at, ok := s.free(pool, se, ext, like, false); ok {
			s.fail("%v got %v, though %v is free", se.in, se.ext, at)
		}
	}
}

// judgePairing: a host keeps to one address of a pool (RFC 4787 REQ-2; M-5). Another one is legal where that is full, but
// for ports in quarantine, and the profile allows it (M-6).
func (s *step) judgePairing(pool *nat.Pool, se *session) {
	pooling, ext := pool.Profile.Pooling, se.ext.Addr()
	if pooling == nat.Arbitrary {
		return
	}
	own, known := s.t.paired(pool, se)
	switch {
	case known && own == ext:
		se.paired = s.t.generation
	case known:
		if at, ok := s.free(pool, se, own, anyPort, false); pooling == nat.Paired || ok && s.t.cfg.Shards == 1 {
			s.fail("%v has %v already and got %v, though %v is free", se.in.Addr(), own, se.ext, at)
		}
	case pooling == nat.Paired || !s.someFull(pool, se):
		se.paired = s.t.generation
	}
}

// someFull: an address of the pool has no port for se, so that another may stand for it.
func (s *step) someFull(pool *nat.Pool, se *session) bool {
	return s.t.cfg.Shards > 1 || slices.ContainsFunc(pool.Addresses, func(a netip.Addr) bool {
		_, ok := s.free(pool, se, a, anyPort, false)
		return !ok
	})
}

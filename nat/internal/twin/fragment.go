// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

const (
	// fragmentPieces is how many a datagram may come in.
	fragmentPieces = 128
	// fragmentFloor lets the quarter that a source may have hold the largest datagram in most pieces.
	fragmentFloor = 640 << 10
)

// fragmentSet is the pieces of one datagram that are here.
type fragmentSet struct {
	key    fragmentKey
	born   int64
	pieces []piece     // in order
	spoilt nat.Verdict // what all later pieces get
}

type fragmentKey struct {
	from     nat.AttachmentID
	src, dst netip.Addr
	proto    uint8
	id       uint16
}

type piece struct {
	from, to int
	last     bool
	packet   []byte
}

func (p *piece) body() []byte { return p.packet[len(p.packet)-(p.to-p.from):] }

// collect keeps a fragment until its datagram is complete (F-3 to F-8); Unset then, and s is the datagram.
func (s *step) collect(pool *nat.Pool) nat.Verdict {
	switch {
	case s.h.proto != packet.TCP && s.h.proto != packet.UDP && s.h.proto != packet.ICMP:
		return nat.DropProtocol
	case pool.Profile.FragmentsUDPOnly && s.h.proto != packet.UDP:
		return nat.DropFragmentPolicy
	}
	return s.gather()
}

// gather is collect for whatever needs whole datagrams.
func (s *step) gather() nat.Verdict {
	if s.looped() { // what waits is what the outbound half made of it
		if s.at.Router {
			s.b[8]--
		}
		resum(s.b, s.old, &s.h, s.offload.Csum)
	}
	key := fragmentKey{s.at.ID, s.h.src.Addr(), s.h.dst.Addr(), s.h.proto, s.h.id}
	set := s.t.set(key)
	p := piece{from: s.h.off, to: s.h.off + len(s.b) - s.h.hlen, last: !s.h.mf, packet: s.b}
	if set != nil {
		if set.spoilt != nat.Unset {
			return set.spoilt
		}
		if slices.ContainsFunc(set.pieces, func(q piece) bool {
			return q.from == p.from && q.to == p.to && q.last == p.last && bytes.Equal(q.body(), p.body())
		}) {
			return nat.DropFragmentDuplicate
		}
		if slices.ContainsFunc(set.pieces, func(q piece) bool { return contradict(p, q) || contradict(q, p) }) {
			set.pieces, set.spoilt = nil, nat.DropFragmentOverlap // RFC 5722 (F-6)
			return nat.DropFragmentOverlap
		}
		if len(set.pieces) == fragmentPieces {
			set.pieces, set.spoilt = nil, nat.DropFragmentLimit
			return nat.DropFragmentLimit
		}
	}
	if !s.roomFor(key, p) {
		return nat.DropFragmentLimit
	}
	if set == nil {
		set = &fragmentSet{key: key, born: s.t.now}
		s.t.sets = append(s.t.sets, set)
	}
	set.pieces = append(set.pieces, p)
	slices.SortFunc(set.pieces, func(a, b piece) int { return a.from - b.from })
	if !set.complete() {
		return nat.HeldFragment
	}
	s.t.sets = slices.DeleteFunc(s.t.sets, func(f *fragmentSet) bool { return f == set })
	return s.join(set.pieces)
}

func (t *Twin) set(key fragmentKey) *fragmentSet {
	i := slices.IndexFunc(t.sets, func(f *fragmentSet) bool { return f.key == key })
	if i < 0 {
		return nil
	}
	return t.sets[i]
}

// contradict: two pieces have the same bytes, or one is beyond the end of the datagram.
func contradict(p, q piece) bool {
	return p.from < q.to && q.from < p.to || p.last && q.to > p.to || p.last && q.last
}

func (f *fragmentSet) complete() bool {
	at := 0
	for _, p := range f.pieces {
		if p.from != at {
			return false
		}
		at = p.to
	}
	return f.pieces[len(f.pieces)-1].last
}

// roomFor: memory is bounded, and no source may have more than a quarter of it (RFC 4787 REQ-14a; F-5). What the engine
// spends on its own books is its affair: a KiB for a set and half of one for a piece must do.
func (s *step) roomFor(key fragmentKey, p piece) bool {
	all, own := len(p.packet), len(p.packet)
	allSpent, ownSpent := 2048+len(p.packet), 2048+len(p.packet)
	for _, f := range s.t.sets {
		bytes, spent := 0, 1024
		for _, q := range f.pieces {
			bytes += len(q.packet)
			spent += 512 + len(q.packet)
		}
		all, allSpent = all+bytes, allSpent+spent
		if f.key.src == key.src && f.key.from == key.from {
			own, ownSpent = own+bytes, ownSpent+spent
		}
	}
	total := s.t.cfg.FragmentBytes
	if all > total || own > total/4 {
		return false
	}
	mayRefuse := allSpent > total/2 || ownSpent > total/8
	return !mayRefuse || s.got.Verdict != nat.DropFragmentLimit
}

// join makes the datagram of its pieces the packet at hand.
func (s *step) join(pieces []piece) nat.Verdict {
	first := pieces[0].packet
	h, _ := parse(first)
	b := append([]byte(nil), first[:h.hlen]...)
	for _, p := range pieces {
		b = append(b, p.body()...)
		s.pieces = append(s.pieces, p.packet)
	}
	h.mf = false
	if s.looped() {
		s.stepped, s.cutTo = s.at.Router, 0
		if mtu := s.t.policy.mtu(nat.Inside); mtu > 0 && s.wire() > mtu {
			s.cutTo = mtu
		}
	} else {
		s.in = first // what answers quote
	}
	s.h, s.old, s.b = h, b, append([]byte(nil), b...)
	s.offload = packet.Offload{}
	return s.h.readTransport(s.b[h.hlen:])
}

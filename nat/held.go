// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"sync"

	"github.com/tidegate/tidegate/packet"
)

// holdTime is how long an unsolicited inbound SYN may not be answered, in milliseconds (RFC 5382 REQ-4).
const holdTime = 6000

// heldSYNs are the inbound SYNs that wait. They all wait equally long, so they are a queue, in a ring of fixed size; one
// that was discarded stays in its place until its time comes.
type heldSYNs struct {
	mu    sync.Mutex
	ring  []heldSYN
	first int
	n     int // places in use
	live  int // of those, not discarded
	where map[heldKey]int
}

type heldKey struct {
	ext, rem         uint32
	extPort, remPort uint16
}

type heldSYN struct {
	key  heldKey
	due  uint64 // milliseconds
	tos  uint8
	size uint8
	dead bool
	head [128]byte // what an ICMP error is to quote
}

func (s *heldSYNs) init(n int) {
	s.ring = make([]heldSYN, n)
	s.where = make(map[heldKey]int, n)
}

func (s *heldSYNs) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// hold keeps a SYN. One that is held already keeps its time; with no room the packet is dropped for the reason why.
func (w *Worker) hold(f *flow, why Verdict) Verdict {
	v, s := &f.v, &w.e.held
	key := heldKey{v.Dst, v.Src, v.DstPort, v.SrcPort}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.where[key]; ok {
		return HeldSYN
	}
	if s.n == len(s.ring) {
		return why
	}
	if w.why != nil {
		return HeldSYN
	}
	i := (s.first + s.n) % len(s.ring)
	h := &s.ring[i]
	*h = heldSYN{key: key, due: w.ms + holdTime, tos: v.TOS}
	h.size = uint8(copy(h.head[:], w.first(f).Bytes()))
	s.where[key] = i
	s.n++
	s.live++
	return HeldSYN
}

// discard forgets a SYN that the inside has asked for after all (T-4).
func (s *heldSYNs) discard(key heldKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.where[key]; ok {
		s.ring[i].dead = true
		s.live--
		delete(s.where, key)
	}
}

// next is when the first of them is due.
func (s *heldSYNs) next() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return 0, false
	}
	return s.ring[s.first].due, true
}

// nextLive is when the first of them is due that was not discarded. (Discarded ones keep their places, see heldSYNs.)
func (s *heldSYNs) nextLive() (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.n {
		if h := &s.ring[(s.first+i)%len(s.ring)]; !h.dead {
			return h.due, true
		}
	}
	return 0, false
}

// expireHeld answers the SYNs whose time is over: port unreachable, from the address they were sent to (T-3).
func (w *Worker) expireHeld() {
	s := &w.e.held
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n > 0 {
		h := &s.ring[s.first]
		if w.ms < h.due {
			return
		}
		if !h.dead {
			src := h.key.ext
			if w.pol.owners.of(src).ours() {
				w.icmpMessage(h.head[:h.size], src, h.key.rem, h.tos, Outside, packet.Unreachable, 3, 0)
			}
			delete(s.where, h.key)
			s.live--
		}
		s.first = (s.first + 1) % len(s.ring)
		s.n--
	}
}

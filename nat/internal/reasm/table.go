// SPDX-License-Identifier: Apache-2.0

package reasm

import "math/bits"

// source is what one address of one attachment holds.
type source struct {
	addr       uint32
	chain      uint32 // the next of its bucket, or of the unused
	blocks     uint32
	sets       uint32 // spoiled and complete ones too
	attachment uint16
}

// blockShare and setShare are what one source may hold.
func (s *Store) blockShare() int { return (len(s.blocks) - 1) / 4 }
func (s *Store) setShare() int   { return (len(s.sets) - 1) / 4 }

// bucket hashes two words to one of n buckets: a multiplication of the keyed words, folded (the core of wyhash).
func (s *Store) bucket(a, b uint64, n int) uint32 {
	hi, lo := bits.Mul64(a^s.key[0], b^s.key[1])
	hi, _ = bits.Mul64(hi^lo, uint64(n))
	return uint32(hi)
}

func (s *Store) bucketOf(k *Key) *uint32 {
	n := s.bucket(uint64(k.Src)<<32|uint64(k.Dst), uint64(k.ID)<<24|uint64(k.Attachment)<<8|uint64(k.Proto), len(s.byKey))
	return &s.byKey[n]
}

func (s *Store) bucketOfSource(addr uint32, attachment uint16) *uint32 {
	return &s.bySource[s.bucket(uint64(addr), uint64(attachment), len(s.bySource))]
}

// find is the waiting set of k, 0 if there is none.
func (s *Store) find(k Key) uint32 {
	h := *s.bucketOf(&k)
	for h != 0 && s.sets[h].key != k {
		h = s.sets[h].chain
	}
	return h
}

// findSource is the record of a source, 0 (a record that holds nothing) if it has none.
func (s *Store) findSource(addr uint32, attachment uint16) uint32 {
	i := *s.bucketOfSource(addr, attachment)
	for i != 0 && (s.sources[i].addr != addr || s.sources[i].attachment != attachment) {
		i = s.sources[i].chain
	}
	return i
}

// open makes a set for k, whose source is src, 0 if it has no record. There is an unused set, and so an unused source.
func (s *Store) open(k Key, src uint32) uint32 {
	if src == 0 {
		src = s.freeSource
		r := &s.sources[src]
		s.freeSource = r.chain
		head := s.bucketOfSource(k.Src, k.Attachment)
		*r = source{addr: k.Src, attachment: k.Attachment, chain: *head}
		*head = src
	}
	s.sources[src].sets++
	s.usedSets++

	h := s.freeSet
	d := &s.sets[h]
	s.freeSet = d.chain
	head := s.bucketOf(&k)
	*d = set{key: k, born: s.clock, chain: *head, older: s.newest, source: src, state: open}
	*head = h
	if s.newest == 0 {
		s.oldest = h
	} else {
		s.sets[s.newest].newer = h
	}
	s.newest = h
	return h
}

// spoil takes the pieces of h, and lets it refuse others until its time is over.
func (s *Store) spoil(h uint32, why state) {
	s.empty(h)
	s.sets[h].state = why
}

// unindex makes h be found no more.
func (s *Store) unindex(h uint32) {
	d := &s.sets[h]
	at := s.bucketOf(&d.key)
	for *at != h {
		at = &s.sets[*at].chain
	}
	*at, d.chain = d.chain, 0
}

// unqueue makes h wait no more.
func (s *Store) unqueue(h uint32) {
	d := &s.sets[h]
	if d.older == 0 {
		s.oldest = d.newer
	} else {
		s.sets[d.older].newer = d.newer
	}
	if d.newer == 0 {
		s.newest = d.older
	} else {
		s.sets[d.newer].older = d.older
	}
	d.older, d.newer = 0, 0
}

// release makes h, which is in neither index nor queue, unused, and its source too if that was its last set.
func (s *Store) release(h uint32) {
	s.empty(h)
	d := &s.sets[h]
	r := &s.sources[d.source]
	if r.sets--; r.sets == 0 {
		at := s.bucketOfSource(r.addr, r.attachment)
		for *at != d.source {
			at = &s.sources[*at].chain
		}
		*at = r.chain
		r.chain, s.freeSource = s.freeSource, d.source
	}
	*d = set{chain: s.freeSet}
	s.freeSet = h
	s.usedSets--
}

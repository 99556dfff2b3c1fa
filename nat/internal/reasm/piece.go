// SPDX-License-Identifier: Apache-2.0

package reasm

import "bytes"

// block is the record of 512 bytes of data. All but next are valid in the first block of a piece alone.
type block struct {
	next  uint32 // the next of the piece, or of the unused
	after uint32 // the piece behind this one in the datagram
	off   uint16 // of the payload in the datagram
	size  uint16 // of the payload
	hdr   uint8  // size of the IP header
}

func (b *block) start() int { return int(b.off) }
func (b *block) end() int   { return int(b.off) + int(b.size) }

func blocksFor(bytes int) int { return (bytes + blockSize - 1) / blockSize }

// mem is the bytes of block b.
func (s *Store) mem(b uint32) []byte {
	return s.data[int(b-1)*blockSize:][:blockSize]
}

// keep copies a packet into unused blocks, of which there are enough, and returns the piece.
func (s *Store) keep(pkt []byte, hdr, off int) uint32 {
	p := s.freeBlock // The stack of unused blocks is a chain already: take its front.
	last := p
	for n := copy(s.mem(p), pkt); n < len(pkt); {
		last = s.blocks[last].next
		n += copy(s.mem(last), pkt[n:])
	}
	s.freeBlock, s.blocks[last].next = s.blocks[last].next, 0
	s.usedBlocks += blocksFor(len(pkt))
	b := &s.blocks[p]
	b.off, b.size, b.hdr = uint16(off), uint16(len(pkt)-hdr), uint8(hdr)
	return p
}

// same reports whether the payload of piece p is payload, which has its length.
func (s *Store) same(p uint32, payload []byte) bool {
	mem := s.mem(p)[s.blocks[p].hdr:]
	for len(payload) > len(mem) {
		if !bytes.Equal(mem, payload[:len(mem)]) {
			return false
		}
		payload = payload[len(mem):]
		p = s.blocks[p].next
		mem = s.mem(p)
	}
	return bytes.Equal(mem[:len(payload)], payload)
}

// place finds where a piece at off belongs, in the list from first on: next is the first piece that ends behind off, prev
// the one before it.
func (s *Store) place(first uint32, off int) (prev, next uint32) {
	next = first
	for next != 0 && s.blocks[next].end() <= off {
		prev, next = next, s.blocks[next].after
	}
	return prev, next
}

// piece is piece i of a set, 0 if it has fewer.
func (s *Store) piece(set Set, i int) uint32 {
	p := s.sets[set].first
	for ; i > 0; i-- {
		p = s.blocks[p].after
	}
	return p
}

// empty gives back the blocks of all pieces of set h.
func (s *Store) empty(h uint32) {
	d := &s.sets[h]
	n := 0
	for p := d.first; p != 0; p = s.blocks[p].after {
		last := p
		for n++; s.blocks[last].next != 0; n++ {
			last = s.blocks[last].next
		}
		s.blocks[last].next, s.freeBlock = s.freeBlock, p
	}
	s.usedBlocks -= n
	s.sources[d.source].blocks -= uint32(n)
	s.pieces -= int(d.count)
	d.first, d.count, d.got, d.total = 0, 0, 0, 0
}

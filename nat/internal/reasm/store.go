// SPDX-License-Identifier: Apache-2.0

// Package reasm keeps copies of the pieces of IPv4 datagrams until all pieces of one are there.
//
// # Theory of operation
//
// A NAT finds ports in the first piece of a datagram alone, and pieces come in any order. So it keeps each datagram's
// pieces, its set, until they cover the datagram, and then treats them as one. Nothing is put together here: a complete
// set gives its pieces back one by one, in order of offset, as they came. What can be wrong with a set (overlaps,
// contradicting ends) is therefore known before a single byte of it is let go.
//
// All memory is made by New, in four flat arrays without pointers, linked by index; index 0 is nobody.
//
//	data     blocks of 512 bytes, which hold packets
//	blocks   a record for each block. A packet is a chain of blocks, and the record of its first block describes the
//	         piece: a piece has no record of its own, so blocks are the one thing that pieces can run out of
//	sets     a record for each two blocks: key, first piece, bytes so far, time of the first piece
//	sources  a record for each source address (of an attachment) that has a set: how much of the store it holds
//
// A set is one of
//
//	open      it has at least one piece and lacks at least one byte. It is in the index and in the queue
//	spoiled   it has no piece any more, and refuses those that follow. It is in the index and in the queue
//	complete  it has all. It is in neither, so that a following piece of its key starts a new set; Free ends it
//
// The pieces of a set are a list in order of offset, and never overlap. So a place in the list says all: a last piece
// with another behind it, and any piece behind the last one, contradict what came before.
//
// All sets wait equally long, from their first piece on, so the queue is in order of arrival and its head is the next to
// go. Each call that takes the time first drops all that is due: what a piece is told depends on what came when, not on
// how often somebody swept. That work is paid for by the pieces that made it.
//
// Pieces cost memory before anything is known about their sender. So a source may hold a quarter of the blocks and a
// quarter of the sets; spoiled sets count as well. What is refused for want of room changes nothing, and no set ever
// makes room for another one: a flood fills its quarter and then harms itself.
//
// A Store reads no clock, starts nothing and allocates nothing after New. It is not safe for concurrent use.
package reasm

// MaxPieces is how many pieces a set may have.
const MaxPieces = 128

// DefaultTimeout is the Timeout of a new Store.
const DefaultTimeout = 15_000

// Key is what the pieces of one datagram have in common.
type Key struct {
	Src, Dst uint32
	// ID is the IP identification, Attachment where the piece came from.
	ID, Attachment uint16
	Proto          uint8
}

// Result is what became of a piece.
type Result uint8

const (
	// Held: it was copied, and others are missing.
	Held Result = iota
	// Complete: it was copied, and was the last one missing.
	Complete
	// Duplicate: it is at hand already, the same to the last byte of payload. Nothing changed.
	Duplicate
	// Overlap: it contradicts the pieces at hand, or its datagram was spoiled by one that did. None of them is left.
	Overlap
	// Limit: there is no room for it, in all or of this source (nothing changed), or its datagram has too many pieces
	// (none of them is left).
	Limit
)

// Set names a complete set, from Complete until Free.
type Set uint32

// Store is the pieces of all datagrams that wait.
type Store struct {
	// Timeout is how many milliseconds after its first piece a set is dropped, less than 2^31. It may change at any time.
	Timeout uint32

	data    []byte
	blocks  []block
	sets    []set
	sources []source

	// Heads of bucket chains, by hash.
	byKey, bySource []uint32
	key             [2]uint64

	// Stacks of unused records.
	freeBlock, freeSet, freeSource uint32
	// Queue of the sets that wait.
	oldest, newest uint32
	// clock is the latest time seen while a set was waiting.
	clock uint32

	usedBlocks, usedSets, pieces int
}

type state uint8

const (
	free state = iota
	open
	overlapped // spoiled: Overlap
	overfull   // spoiled: Limit
	complete
)

type set struct {
	key          Key
	born         uint32 // when the first piece came
	chain        uint32 // the next of its bucket, or of the unused
	older, newer uint32 // in the queue
	source       uint32
	first        uint32 // piece
	total        uint16 // bytes of the datagram's payload, 0 before the last piece is there
	got          uint16 // bytes of payload at hand
	count        uint8  // pieces
	state        state
}

// What a block costs: its bytes, its record, and half of a set, a source and a bucket of each.
const (
	blockSize = 512
	blockCost = blockSize + 16 + (48+20+4+4)/2

	// minBlocks lets each source hold the largest of datagrams, in MaxPieces pieces with the longest of headers.
	minBlocks = 4 * ((65535+MaxPieces*60)/blockSize + 1 + MaxPieces)
	// maxBlocks is far from where indexes would run out.
	maxBlocks = 1 << 30
)

// New makes an empty Store in the given number of bytes: they bound all memory that it ever uses. Fewer than it takes
// to hold the largest datagram of four sources (some 600 KiB) are rounded up to that. The key makes hashes unpredictable;
// Stores with equal keys behave alike.
func New(bytes int, key [2]uint64) *Store {
	return newStore(max(minBlocks, min(bytes/blockCost-1, maxBlocks)), key)
}

func newStore(blocks int, key [2]uint64) *Store {
	n := blocks / 2
	s := &Store{
		Timeout:  DefaultTimeout,
		data:     make([]byte, blocks*blockSize),
		blocks:   make([]block, blocks+1),
		sets:     make([]set, n+1),
		sources:  make([]source, n+1),
		byKey:    make([]uint32, n),
		bySource: make([]uint32, n),
		key:      key,
	}
	for i := uint32(blocks); i > 0; i-- {
		s.blocks[i].next, s.freeBlock = s.freeBlock, i
	}
	for i := uint32(n); i > 0; i-- {
		s.sets[i].chain, s.freeSet = s.freeSet, i
		s.sources[i].chain, s.freeSource = s.freeSource, i
	}
	return s
}

// Add takes a copy of a piece. pkt is its whole IP packet, of which hdr bytes are the header; off is where its payload
// belongs in the datagram, in bytes; more says that others belong behind it (MF). now is in milliseconds and wraps
// around; one that is earlier than another while sets wait counts as that other.
//
// The caller has checked that hdr is 20 to 60, that there is payload, a multiple of 8 bytes if more, and that it ends
// within 65,535 bytes.
//
// With Complete, the Set has all pieces and is the caller's until Free.
func (s *Store) Add(k Key, now uint32, pkt []byte, hdr, off int, more bool) (Result, Set) {
	got, at := s.judge(k, now, pkt, hdr, off, more)
	h := at.set
	switch got {
	case Held, Complete:
	default:
		if at.spoils != free {
			s.spoil(h, at.spoils)
		}
		return got, 0
	}
	if h == 0 {
		h = s.open(k, at.source)
	}
	d := &s.sets[h]
	p := s.keep(pkt, hdr, off)
	s.blocks[p].after = at.next
	if at.prev == 0 {
		d.first = p
	} else {
		s.blocks[at.prev].after = p
	}
	s.sources[d.source].blocks += uint32(blocksFor(len(pkt)))
	s.pieces++
	d.count++
	d.got += uint16(len(pkt) - hdr)
	if !more {
		d.total = uint16(off + len(pkt) - hdr)
	}
	if got == Held {
		return Held, 0
	}
	s.unindex(h)
	s.unqueue(h)
	d.state = complete
	return Complete, Set(h)
}

// Peek is what Add would return, without adding anything. With Complete, set is the one that the piece would complete:
// it has all other pieces (0 if there are none), and this one would become its piece number i. Its Total is not known yet.
func (s *Store) Peek(k Key, now uint32, pkt []byte, hdr, off int, more bool) (got Result, set Set, i int) {
	got, at := s.judge(k, now, pkt, hdr, off, more)
	if got != Complete {
		return got, 0, 0
	}
	for p := s.sets[at.set].first; p != at.next; p = s.blocks[p].after {
		i++
	}
	return got, Set(at.set), i
}

// spot is where a piece belongs.
type spot struct {
	set, source uint32 // 0: none yet
	prev, next  uint32 // the pieces around it
	spoils      state  // not free: what the piece makes of the set
}

// judge says what becomes of a piece, having dropped what is due.
func (s *Store) judge(k Key, now uint32, pkt []byte, hdr, off int, more bool) (Result, spot) {
	s.Advance(now)
	end := off + len(pkt) - hdr
	at := spot{set: s.find(k)}
	d := &s.sets[at.set]
	if at.set != 0 {
		switch d.state {
		case overlapped:
			return Overlap, at
		case overfull:
			return Limit, at
		}
		at.prev, at.next = s.place(d.first, off)
		if next := at.next; next != 0 && s.blocks[next].start() < end {
			if s.blocks[next].start() == off && s.blocks[next].end() == end &&
				more == (end != int(d.total)) && s.same(next, pkt[hdr:]) {
				return Duplicate, at
			}
			at.spoils = overlapped // RFC 5722: nothing of a datagram with overlaps is to be trusted.
			return Overlap, at
		}
		if !more && at.next != 0 || d.total != 0 && at.next == 0 {
			at.spoils = overlapped // Two ends, or bytes beyond the end.
			return Overlap, at
		}
		if d.count == MaxPieces {
			at.spoils = overfull
			return Limit, at
		}
	}

	need := blocksFor(len(pkt))
	at.source = s.findSource(k.Src, k.Attachment)
	use := &s.sources[at.source]
	if need > len(s.blocks)-1-s.usedBlocks || int(use.blocks)+need > s.blockShare() {
		return Limit, at
	}
	if at.set == 0 && (s.freeSet == 0 || int(use.sets) >= s.setShare()) {
		return Limit, at
	}
	total := int(d.total)
	if !more {
		total = end
	}
	if int(d.got)+end-off != total {
		return Held, at
	}
	return Complete, at
}

// Len is the number of pieces of a complete set, or of one that Peek named.
func (s *Store) Len(set Set) int { return int(s.sets[set].count) }

// Total is the number of payload bytes of the datagram.
func (s *Store) Total(set Set) int { return int(s.sets[set].total) }

// Size is the length of piece i of a complete set, header and payload. Piece 0 is the first of the datagram.
func (s *Store) Size(set Set, i int) int {
	b := &s.blocks[s.piece(set, i)]
	return int(b.hdr) + int(b.size)
}

// Copy copies piece i of a complete set, or of one that Peek named, header and payload as they came, to dst, which has room for Size bytes, and
// returns how many they are.
func (s *Store) Copy(set Set, i int, dst []byte) int {
	p := s.piece(set, i)
	dst = dst[:s.Size(set, i)]
	n := len(dst)
	for len(dst) > 0 {
		dst = dst[copy(dst, s.mem(p)):]
		p = s.blocks[p].next
	}
	return n
}

// Free ends a complete set. One that is not complete is left alone.
func (s *Store) Free(set Set) {
	if s.sets[set].state == complete {
		s.release(uint32(set))
	}
}

// Advance drops the sets that have waited for Timeout, spoiled ones too. While sets wait it (or Add) is to be called at
// least once in 2^31 milliseconds.
func (s *Store) Advance(now uint32) {
	if s.oldest == 0 || int32(now-s.clock) > 0 {
		s.clock = now
	}
	for h := s.oldest; h != 0 && s.clock-s.sets[h].born >= s.Timeout; h = s.oldest {
		s.unindex(h)
		s.unqueue(h)
		s.release(h)
	}
}

// Next is when Advance next has something to do, if ever.
func (s *Store) Next() (tick uint32, ok bool) {
	if s.oldest == 0 {
		return 0, false
	}
	return s.sets[s.oldest].born + s.Timeout, true
}

// Bytes is the memory that pieces take up, in whole blocks.
func (s *Store) Bytes() int { return s.usedBlocks * blockSize }

// Sets is the number of sets: those that wait, the spoiled, and the complete ones that were not freed yet.
func (s *Store) Sets() int { return s.usedSets }

// Pieces is the number of pieces of all sets.
func (s *Store) Pieces() int { return s.pieces }

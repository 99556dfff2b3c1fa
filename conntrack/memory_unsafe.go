// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync/atomic"
	"unsafe"
)

// A Record is a cache line, for good, and so is a bucket.
const (
	_ = uint(64 - unsafe.Sizeof(Record{}))
	_ = uint(unsafe.Sizeof(Record{}) - 64)
	_ = uint(64 - unsafe.Sizeof(bucket{}))
	_ = uint(unsafe.Sizeof(bucket{}) - 64)
	_ = uint(24 - unsafe.Sizeof(Count{}))
	_ = uint(unsafe.Sizeof(Count{}) - 24)
	_ = uint(64 - unsafe.Sizeof(Stats{}))
	_ = uint(unsafe.Sizeof(Stats{}) - 64)

	// What commit and mark write at once is where they take it to be.
	_ = -(unsafe.Offsetof(Record{}.ExtPort) ^ 16 | unsafe.Offsetof(Record{}.Proto) ^ 18 | unsafe.Offsetof(Record{}.State) ^ 19 | unsafe.Offsetof(Record{}.LastSeen) ^ 20)
	_ = -(unsafe.Offsetof(Record{}.Attachment) ^ 60 | unsafe.Offsetof(Record{}.Bits) ^ 62)
)

// commitment is the eight bytes of a Record that change together where that matters.
type commitment struct {
	extPort  uint16
	proto    uint8
	state    State
	lastSeen uint32
}

// commit sets State and LastSeen in one store, which comes after all stores before it and before all after it, for
// whoever looks at the memory later. A Record of a Table is aligned to 8; a copy on the stack need not be, and nobody else
// looks at that.
func (r *Record) commit(s State, lastSeen uint32) {
	w := commitment{r.ExtPort, r.Proto, s, lastSeen}
	if p := unsafe.Pointer(&r.ExtPort); uintptr(p)%8 == 0 {
		atomic.StoreUint64((*uint64)(p), *(*uint64)(unsafe.Pointer(&w)))
		return
	}
	r.State, r.LastSeen = s, lastSeen
}

// mark sets Bits as commit does State.
func (r *Record) mark(b Bits) {
	w := struct {
		attachment uint16
		bits       Bits
	}{r.Attachment, b}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.Attachment)), *(*uint32)(unsafe.Pointer(&w)))
}

// carve takes n values off the front of mem. It holds for types without pointers whose alignment divides 8 and whose
// size is a multiple of 8, in memory aligned to 8: Stats, Record, Count, bucket, link and uint64.
func carve[T Stats | Record | Count | bucket | link | uint64](mem []byte, n int) ([]T, []byte) {
	size := n * int(unsafe.Sizeof(*new(T)))
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem[:size]))), n), mem[size:]
}

// bytesOf is the memory of s, which has the alignment that carve needs.
func bytesOf(s []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*8)
}

func aligned(mem []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%8 == 0 }

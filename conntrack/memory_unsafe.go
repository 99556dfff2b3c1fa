// SPDX-License-Identifier: Apache-2.0

package conntrack

import "unsafe"

// A Record is a cache line, for good.
const (
	_ = uint(64 - unsafe.Sizeof(Record{}))
	_ = uint(unsafe.Sizeof(Record{}) - 64)
	_ = uint(24 - unsafe.Sizeof(Count{}))
	_ = uint(unsafe.Sizeof(Count{}) - 24)
)

// carve takes n values off the front of mem. It holds for types without pointers whose alignment divides 8 and whose
// size is a multiple of 8, in memory aligned to 8: Record, Count, link and uint64.
func carve[T Record | Count | link | uint64](mem []byte, n int) ([]T, []byte) {
	size := n * int(unsafe.Sizeof(*new(T)))
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem[:size]))), n), mem[size:]
}

// bytesOf is the memory of s, which has the alignment that carve needs.
func bytesOf(s []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*8)
}

func aligned(mem []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%8 == 0 }

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"sync/atomic"
	"unsafe"
)

// kept is the front of an engine's Records: all that outlives it but the sessions, which follow, shard by shard. It has
// no pointers. Numbers are in the byte order of the machine.
type kept struct {
	head keptHead
	// clock is the latest time seen, in milliseconds: when the engine was last alive.
	clock    atomic.Uint64
	_        [56]byte
	odd      oddCounters
	policies [2]keptPolicy
	ids      [1 << 12]atomic.Uint32 // IP identifications, by a hash of addresses and protocol
	workers  [keptWorkers]workerCounters
}

// keptHead does not change once the memory is formatted. sum is over all before it; magic is written last.
type keptHead struct {
	magic           uint64
	version, format uint32 // of what is here, and conntrack.Format
	size            uint64 // of all of it, in bytes
	sessions        uint64 // records of a shard
	shards          uint32
	counts          uint32 // 1: with Config.FlowCounters
	seed            [32]byte
	sum             uint64
	_               [48]byte
}

// keptPolicy is what sessions refer to of a policy. There are two, so that one is whole while the other is written.
type keptPolicy struct {
	serial     uint64 // of the two, the one with the greater counts
	generation uint32 // how many engines went on with these records
	epoch      uint32
	pools      [keptPools]uint64 // nameID of each pool, by number; 0: there is none
	unbroken   uint32            // of the policy
	_          uint32
	sum        uint64
	_          [32]byte
}

// oddCounters are the counters of no worker.
type oddCounters struct {
	unburied, parityLost, quoteChecksums, eventsLost atomic.Uint64
	// verdicts is verdictsID of those who count.
	verdicts atomic.Uint64
	_        [24]byte
}

// workerCounters are added to by one worker, or by few.
type workerCounters struct {
	verdicts            [64]atomic.Uint64
	emitted, suppressed atomic.Uint64
	_                   [48]byte
}

// Each part begins a cache line.
const (
	_ = -(unsafe.Sizeof(kept{}) % 64)
	_ = -(unsafe.Offsetof(kept{}.clock) % 64)
	_ = -(unsafe.Offsetof(kept{}.odd) % 64)
	_ = -(unsafe.Offsetof(kept{}.policies) % 64)
	_ = -(unsafe.Sizeof(keptPolicy{}) % 64)
	_ = -(unsafe.Offsetof(kept{}.ids) % 64)
	_ = -(unsafe.Offsetof(kept{}.workers) % 64)
	_ = -(unsafe.Sizeof(workerCounters{}) % 64)

	keptBytes = int(unsafe.Sizeof(kept{}))
)

// keptIn is the front of mem, which has at least keptBytes and is aligned to 8.
func keptIn(mem []byte) *kept { return (*kept)(unsafe.Pointer(unsafe.SliceData(mem))) }

// heapRecords is memory for records that end with the process.
func heapRecords(n int) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

func aligned(mem []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%8 == 0 }

// summed is the bytes of h before its sum.
func (h *keptHead) summed() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(h)), unsafe.Offsetof(h.sum))
}

// summed is the bytes of p before its sum.
func (p *keptPolicy) summed() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Offsetof(p.sum))
}

// commit writes the magic number, which makes the memory that of an engine, or takes it away.
func (h *keptHead) commit(magic uint64) { atomic.StoreUint64(&h.magic, magic) }

// sameMemory reports whether two slices begin at the same byte.
func sameMemory(a, b []byte) bool {
	return len(a) > 0 && len(b) > 0 && unsafe.SliceData(a) == unsafe.SliceData(b)
}

// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What io_uring(7) looks like to a program: three pieces of memory shared with the kernel (entries to submit, entries
// completed, and, for reads, a ring of empty buffers), and one system call that tells the kernel to look and waits. Each
// ring has one writer and one reader: whoever writes an entry then publishes the tail, and who reads the tail may read the
// entries before it. The tails and heads are read and written with sync/atomic, whose order is stronger than what is asked.
//
// The layouts are those of the kernel's include/uapi/linux/io_uring.h.

const (
	opAsyncCancel   = 14
	opRead          = 22
	opWrite         = 23
	opMsgRing       = 40
	opReadMultishot = 49

	setupCQSize      = 1 << 3
	setupCoopTaskrun = 1 << 8
	setupTaskrunFlag = 1 << 9

	featSingleMmap = 1 << 0

	enterGetEvents = 1 << 0

	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2

	sqeBufferSelect = 1 << 5

	cqeBuffer      = 1 << 0
	cqeMore        = 1 << 1
	cqeBufferShift = 16

	registerProbe    = 8
	registerPbufRing = 22
	pbufRingMmap     = 1
	offSQEs          = 0x10000000
	offPbufRing      = 0x80000000
	opSupported      = 1
	probeOps         = 64
	pbufEntry        = 16 // bytes
)

// inPlace is the offset of a read or write that has none.
const inPlace = ^uint64(0)

type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32

	_  [3]uint32
	sq struct{ head, tail, ringMask, ringEntries, flags, dropped, array, _, _, _ uint32 }
	cq struct{ head, tail, ringMask, ringEntries, overflow, cqes, flags, _, _, _ uint32 }
}

type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	opFlags  uint32
	userData uint64
	bufGroup uint16
	_        [22]byte
}

type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// The kernel would read nonsense if one of these were off by a byte.
const (
	_ = -(unsafe.Sizeof(ringParams{}) ^ 120)
	_ = -(unsafe.Sizeof(sqe{}) ^ 64)
	_ = -(unsafe.Sizeof(cqe{}) ^ 16)
)

// ring is an instance of io_uring. One goroutine at a time uses it.
type ring struct {
	fd                       int
	rings, entries           []byte // mappings
	sqHead, sqTail, sqFlags  *uint32
	cqHead, cqTail           *uint32
	sqMask, cqMask, tail     uint32
	sqes                     []sqe
	cqes                     []cqe
	bufs                     []byte // mapping: the ring of empty buffers
	bufMask, bufTail, bufBID uint16 // bufBID: of the entry 0
}

// newRing makes an instance with room for so many entries, a power of two.
func newRing(entries, completions, flags uint32) (r *ring, err error) {
	p := ringParams{flags: flags | setupCQSize, cqEntries: completions}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r = &ring{fd: int(fd)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if p.features&featSingleMmap == 0 {
		return r, errors.New("io_uring: this kernel is too old")
	}
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	const prot, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.rings, err = unix.Mmap(r.fd, 0, int(size), prot, how); err != nil {
		return r, fmt.Errorf("mapping an io_uring: %w", err)
	}
	r.entries, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), prot, how)
	if err != nil {
		return r, fmt.Errorf("mapping an io_uring: %w", err)
	}
	// The mappings stay until close, which ends the use of r. The kernel says where in them its words are, and aligns them.
	at := func(off uint32) unsafe.Pointer { return unsafe.Pointer(&r.rings[off]) }
	r.sqHead, r.sqTail, r.sqFlags = (*uint32)(at(p.sq.head)), (*uint32)(at(p.sq.tail)), (*uint32)(at(p.sq.flags))
	r.cqHead, r.cqTail = (*uint32)(at(p.cq.head)), (*uint32)(at(p.cq.tail))
	r.sqMask, r.cqMask = p.sqEntries-1, p.cqEntries-1
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.entries[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(at(p.cq.cqes)), p.cqEntries)
	for i := range p.sqEntries {
		*(*uint32)(at(p.sq.array + i*4)) = i // entry i is always submitted by slot i
	}
	return r, nil
}

// close gives everything back. What the kernel still has in hand it drops some time later: see ringDevice.halt.
func (r *ring) close() error {
	var err error
	for _, m := range []*[]byte{&r.bufs, &r.rings, &r.entries} {
		if *m != nil {
			err = errors.Join(err, unix.Munmap(*m))
			*m = nil
		}
	}
	return errors.Join(err, unix.Close(r.fd))
}

func (r *ring) register(op uintptr, arg unsafe.Pointer, n int) error {
	_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), op, uintptr(arg), uintptr(n), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// supports reports whether the kernel has all of the operations.
func (r *ring) supports(ops ...int) (bool, error) {
	var probe struct {
		lastOp, opsLen uint8
		_              [14]byte
		ops            [probeOps]struct {
			op, _ uint8
			flags uint16
			_     uint32
		}
	}
	if err := r.register(registerProbe, unsafe.Pointer(&probe), probeOps); err != nil {
		return false, fmt.Errorf("io_uring_register of a probe: %w", err)
	}
	for _, op := range ops {
		if op >= int(probe.opsLen) || probe.ops[op].flags&opSupported == 0 {
			return false, nil
		}
	}
	return true, nil
}

// registerBuffers makes a ring of n empty buffers, a power of two, which is empty at first.
func (r *ring) registerBuffers(n int) (err error) {
	reg := struct {
		addr        uint64
		entries     uint32
		bgid, flags uint16
		_           [3]uint64
	}{entries: uint32(n), flags: pbufRingMmap}
	if err := r.register(registerPbufRing, unsafe.Pointer(&reg), 1); err != nil {
		return fmt.Errorf("io_uring_register of buffers: %w", err)
	}
	r.bufMask = uint16(n - 1)
	r.bufs, err = unix.Mmap(r.fd, offPbufRing, n*pbufEntry, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("mapping the buffers of an io_uring: %w", err)
	}
	return nil
}

// give puts an empty buffer into the ring of buffers, under the number bid; publish shows it to the kernel. The memory
// of b must stay where it is, which heap memory does, and alive, until the ring is closed.
func (r *ring) give(b []byte, bid uint16) {
	i := r.bufTail & r.bufMask
	e := r.bufs[int(i)*pbufEntry:]
	ne := binary.NativeEndian
	ne.PutUint64(e, uint64(uintptr(unsafe.Pointer(&b[0]))))
	ne.PutUint32(e[8:], uint32(len(b)))
	if i == 0 {
		r.bufBID = bid // together with the tail, in publish
	} else {
		ne.PutUint16(e[12:], bid)
	}
	r.bufTail++
}

// publish shows the kernel the buffers that were given. The tail has 16 bits, for which sync/atomic has nothing: it is
// written in one go with the 16 bits before it, the number of the buffer in entry 0.
func (r *ring) publish() {
	var word [4]byte
	binary.NativeEndian.PutUint16(word[:], r.bufBID)
	binary.NativeEndian.PutUint16(word[2:], r.bufTail)
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.bufs[12])), binary.NativeEndian.Uint32(word[:]))
}

// next is the entry to submit next, cleared, or nil if there is no room.
func (r *ring) next() *sqe {
	if r.tail-atomic.LoadUint32(r.sqHead) > r.sqMask {
		return nil
	}
	e := &r.sqes[r.tail&r.sqMask]
	*e = sqe{}
	r.tail++
	return e
}

// readMultishot fills in e: read from fd into buffers of the ring, one after the other, until something fails.
func (e *sqe) readMultishot(fd int, userData uint64) {
	e.opcode, e.flags, e.fd, e.off, e.userData = opReadMultishot, sqeBufferSelect, int32(fd), inPlace, userData
}

// write fills in e: write b to fd without waiting for room. The caller keeps b alive, and on the heap, until completion.
func (e *sqe) write(fd int, b []byte, userData uint64) {
	e.opcode, e.fd, e.off, e.opFlags, e.userData = opWrite, int32(fd), inPlace, unix.RWF_NOWAIT, userData
	e.addr, e.len = uint64(uintptr(unsafe.Pointer(&b[0]))), uint32(len(b))
}

// message fills in e: put a completion with the data told into another ring, which wakes who waits there.
func (e *sqe) message(other *ring, told, userData uint64) {
	e.opcode, e.fd, e.off, e.userData = opMsgRing, int32(other.fd), told, userData
}

// cancel fills in e: end what was submitted with the data of.
func (e *sqe) cancel(of, userData uint64) {
	e.opcode, e.fd, e.addr, e.userData = opAsyncCancel, -1, of, userData
}

// enter submits what is there, and returns when there are at least so many completions, or fewer if a signal came: the
// kernel tells of that only where it had nothing to submit. With 0 it has the kernel do what it has put off. What could not be
// submitted is taken back.
func (r *ring) enter(completions int) error {
	for {
		atomic.StoreUint32(r.sqTail, r.tail)
		n := r.tail - atomic.LoadUint32(r.sqHead)
		_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), uintptr(completions),
			enterGetEvents, 0, 0)
		switch {
		case errno == 0 && r.tail == atomic.LoadUint32(r.sqHead), errno == unix.EBUSY && r.pending() > 0:
			return nil
		case errno != 0 && errno != unix.EINTR:
			r.tail = atomic.LoadUint32(r.sqHead)
			atomic.StoreUint32(r.sqTail, r.tail)
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
}

// pending is how many completions there are to see.
func (r *ring) pending() uint32 { return atomic.LoadUint32(r.cqTail) - *r.cqHead }

// work reports whether the kernel has put off something until the next enter.
func (r *ring) work() bool { return atomic.LoadUint32(r.sqFlags)&(sqTaskrun|sqCQOverflow) != 0 }

// seen copies the next completion and gives its place back. There must be one.
func (r *ring) seen() cqe {
	head := *r.cqHead // we alone write it
	c := r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c
}

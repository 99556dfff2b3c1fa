// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
)

// ringDevice is one queue of a TUN interface behind io_uring.
//
// Reading. A multishot read is under way all the time: the kernel waits for packets, takes an empty buffer from a ring of
// them for each, and reports it. One call waits for the first of a batch and comes back with all that there are; while
// the loop is busy writing, what arrives is taken along, by the thread that asked for the read, whenever it is in the
// kernel. The buffers are ours, in one slab, and lent to the caller (Lender): they go back into the ring with the next
// read. When all are out the kernel ends the read, and what comes waits in the interface's queue, as it would in any
// case; the next call gives buffers back and asks again.
//
// The kernel takes buffers in the order they were given, so with all of them in its hands a few packets at a time walk
// through the whole slab and find none of it in the cache. Hence it has no more than it needs (share), those used last
// first: twice as many whenever it ran out, half as many when a long row of batches would have done with a quarter.
//
// Writing. A batch is as many entries and one call. None waits for room (RWF_NOWAIT), so each is complete, in order,
// when the call returns; the device has a ring of its own for that, since Write may be called by another thread at the same time.
//
// The rings are not bound to a thread (IORING_SETUP_SINGLE_ISSUER), since a Device is not: any goroutine may call, and it
// may move from thread to thread. But what the kernel does for a read it does in the thread that asked for it. If that does something
// else the packets come later, at the next interrupt at the latest; hence the advice to lock a goroutine that reads for long.
//
// Ending. The kernel writes into the slab as long as a read is under way. So Close, and StopReading, wake who waits, by a
// message from the other ring; then they cancel the read and wait until the kernel has said that it has ended. The
// descriptor is named in each entry and not registered: a ring is taken down in the background, some time after its process
// has died even, and an interface held by it would be busy for the next one.
type ringDevice struct {
	*device
	fd  heldFD
	in  ringIn
	out ringOut
}

// ringIn is what reading needs.
type ringIn struct {
	mu    sync.Mutex // of a Read, which may wait, and of who ends it
	ring  *ring
	slab  []byte
	pin   runtime.Pinner
	empty []uint16 // buffers that the kernel does not have: a stack
	given int      // buffers that it has, or has filled
	share int      // how many it may have
	idle  int      // how many batches in a row were less than a quarter of that
	held  []cqe    // completions that were seen while the read was ended
	armed bool     // a read is under way
	ended bool     // the rings are closed
	err   error    // for the next Read
	own   []packet.Packet
}

// ringOut is what writing needs.
type ringOut struct {
	mu      sync.Mutex
	ring    *ring
	ps      []packet.Packet // of the Write: with this they are on the heap, and stay alive
	index   int             // of the packet that is being queued
	queued  int
	refused *WriteError
	first   int   // the packet that refused.First is about
	last    int   // the packet that was refused last
	lost    error // nothing more can be written
	lostAt  int   // since this packet
	ended   bool
}

// What completions belong to. Those of packets written are their place in the batch, and their length.
const (
	ringRead = 1 + iota
	ringWake
	ringCancel
)

const (
	leastShare = 8
	manyIdle   = 256 // batches, before the share is halved
)

const (
	outEntries = 64
	inEntries  = 4 // a read and what ends it
)

var errNoRoom = errors.New("io_uring takes no more entries")

var errNoMultishot = errors.New("the kernel has no multishot reads, which came with Linux 6.7")

// newRingDevice makes d, which has no way to read and write yet, one with io_uring. On an error nothing has happened to
// fd.
func newRingDevice(fd int, d *device) (*ringDevice, error) {
	r := &ringDevice{device: d}
	if err := r.setUp(batchSize, 2*batchSize); err != nil {
		return nil, errors.Join(err, r.release())
	}
	r.attach(fd)
	return r, nil
}

// attach makes fd what is read and written. The device owns it from then on.
func (d *ringDevice) attach(fd int) {
	d.fd.fd = fd
	d.control = d.fd.control
	d.w.put, d.w.emit, d.w.flush = d.queue, d.emit, d.flush
}

func (d *ringDevice) setUp(buffers, completions int) (err error) {
	in, out := &d.in, &d.out
	if in.ring, err = newRing(inEntries, uint32(completions), setupCoopTaskrun|setupTaskrunFlag); err != nil {
		return hindrance(err)
	}
	ok, err := in.ring.supports(opReadMultishot, opWrite, opMsgRing, opAsyncCancel)
	if err != nil {
		return hindrance(err)
	}
	if !ok {
		return errNoMultishot
	}
	if err := in.ring.registerBuffers(buffers); err != nil {
		return hindrance(err)
	}
	if out.ring, err = newRing(outEntries, 2*outEntries, setupCoopTaskrun); err != nil {
		return hindrance(err)
	}
	in.slab = make([]byte, buffers*bufferSize)
	in.pin.Pin(&in.slab[0])
	in.empty, in.held = make([]uint16, 0, buffers), make([]cqe, 0, completions)
	in.share = min(buffers, 2*leastShare)
	for i := range buffers { // the first on top
		in.empty = append(in.empty, uint16(buffers-1-i))
	}
	return d.try()
}

// hindrance says why there is no io_uring.
func hindrance(err error) error {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("the kernel has no io_uring (%w)", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("io_uring is forbidden here, by kernel.io_uring_disabled or a seccomp filter (%w)", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w (%w)", errNoMultishot, err)
	}
	return err
}

// try reads a byte from a pipe, by all that a read from the interface needs.
func (d *ringDevice) try() error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if _, err := unix.Write(fds[1], []byte{1}); err != nil {
		return err
	}
	in := &d.in
	d.giveBack()
	if err := d.arm(fds[0]); err != nil {
		return hindrance(err)
	}
	if err := in.ring.enter(1); err != nil {
		return hindrance(errors.Join(err, d.halt()))
	}
	c := in.ring.seen()
	if c.res < 0 {
		return hindrance(syscall.Errno(-c.res))
	}
	if c.res != 1 || c.flags&cqeBuffer == 0 {
		return errNoMultishot
	}
	in.took(uint16(c.flags >> cqeBufferShift))
	in.armed = c.flags&cqeMore != 0
	err := d.halt()
	in.held = in.held[:0]
	return err
}

// Stats is that of Observed.
func (d *ringDevice) Stats() Stats { return d.stats(BackendURing) }

// buffer is the i-th of the slab.
func (d *ringDevice) buffer(i uint16) []byte {
	return d.in.slab[int(i)*bufferSize:][:bufferSize:bufferSize]
}

// giveBack gives the kernel its share of the buffers.
func (d *ringDevice) giveBack() {
	in := &d.in
	if in.given >= in.share {
		return
	}
	at := d.room()
	for ; in.given < in.share; in.given++ {
		last := len(in.empty) - 1
		i := in.empty[last]
		in.empty = in.empty[:last]
		in.ring.give(d.buffer(i)[at:], i)
	}
	in.ring.publish()
}

// took says that the kernel has filled buffer i: it is the caller's until the next giveBack.
func (in *ringIn) took(i uint16) {
	in.given--
	in.empty = append(in.empty, i)
}

// exhausted says that the kernel had no buffer, and reports whether there is none either.
func (in *ringIn) exhausted() bool {
	if in.idle = 0; in.share == cap(in.empty) {
		return true
	}
	in.share = min(2*in.share, cap(in.empty))
	return false
}

// batch says that so many packets came at once.
func (in *ringIn) batch(n int) {
	if 4*n >= in.share || in.share <= leastShare {
		in.idle = 0
		return
	}
	if in.idle++; in.idle >= manyIdle {
		in.idle, in.share = 0, max(in.share/2, leastShare)
	}
}

// arm has the kernel read from fd, what is there at once.
func (d *ringDevice) arm(fd int) error {
	e := d.in.ring.next()
	if e == nil {
		return errNoRoom
	}
	e.readMultishot(fd, ringRead)
	if err := d.in.ring.enter(0); err != nil {
		return err
	}
	d.in.armed = true
	return nil
}

// halt ends the read that is under way and returns when the kernel is done with it. What it read until then is held.
func (d *ringDevice) halt() error {
	in := &d.in
	if !in.armed {
		return nil
	}
	e := in.ring.next()
	if e == nil {
		return errNoRoom
	}
	e.cancel(ringRead, ringCancel)
	for in.armed {
		if err := in.ring.enter(1); err != nil {
			return err
		}
		for in.ring.pending() > 0 {
			c := in.ring.seen()
			if c.userData != ringRead {
				continue
			}
			in.armed = c.flags&cqeMore != 0
			if c.flags&cqeBuffer != 0 {
				in.held = append(in.held, c)
			}
		}
	}
	return nil
}

// Lend is that of Lender.
func (d *ringDevice) Lend(ps []packet.Packet) (int, error) {
	if len(ps) == 0 {
		return 0, nil
	}
	in := &d.in
	in.mu.Lock()
	defer in.mu.Unlock()
	ps = ps[:min(len(ps), batchSize)]
	if in.ended {
		return 0, os.ErrClosed
	}
	d.giveBack()
	d.spin.begin()
	for {
		n := d.collect(ps)
		switch {
		case d.closed.Load():
			return 0, os.ErrClosed
		case n > 0:
			in.batch(n)
			d.spin.found()
			return n, nil
		case in.err != nil:
			err := in.err
			in.err = nil
			return 0, err
		case d.ending.Load() && in.armed: // what the kernel takes until the read has ended is still to be returned
			if err := d.halt(); err != nil {
				return 0, d.fault("read", err)
			}
			continue
		case d.ending.Load():
			return 0, os.ErrClosed
		}
		d.giveBack() // of packets that were none
		if in.armed && d.look() {
			continue
		}
		if !in.armed {
			if err := d.arm(d.fd.fd); err != nil {
				return 0, d.fault("read", err)
			}
			continue
		}
		d.sleeps.Add(1)
		if err := in.ring.enter(1); err != nil {
			return 0, d.fault("read", err)
		}
	}
}

// look spins until there may be something, and reports whether there may.
func (d *ringDevice) look() bool {
	in := &d.in
	for d.spin.again() {
		for range 32 { // the clock is dear
			if in.ring.pending() > 0 || d.closed.Load() || d.ending.Load() {
				return true
			}
			if in.ring.work() {
				return in.ring.enter(0) == nil
			}
		}
	}
	return false
}

// collect takes what the kernel has reported, as far as there is room in ps.
func (d *ringDevice) collect(ps []packet.Packet) (n int) {
	in := &d.in
	for n < len(ps) {
		var c cqe
		switch {
		case len(in.held) > 0:
			c = in.held[0]
			in.held = in.held[:copy(in.held, in.held[1:])]
		case in.ring.pending() > 0:
			if c = in.ring.seen(); c.userData != ringRead {
				continue // to wake us
			}
			in.armed = c.flags&cqeMore != 0
		default:
			return n
		}
		if c.flags&cqeBuffer != 0 {
			i := uint16(c.flags >> cqeBufferShift)
			in.took(i)
			ps[n].Buf = d.buffer(i)
			if c.res > 0 && d.received(&ps[n], int(c.res)) == nil {
				n++
			}
		}
		if c.res > 0 {
			continue
		}
		if c.res == 0 { // interfaces have no end
			in.err = d.fault("read", io.ErrUnexpectedEOF)
			continue
		}
		switch err := syscall.Errno(-c.res); err {
		case unix.ENOBUFS:
			if in.exhausted() {
				d.exhausted.Add(1)
			}
		case unix.ECANCELED, unix.EINTR, unix.EAGAIN: // the thread that asked has ended, or the kernel had its reasons
		default:
			in.err = d.fault("read", err)
		}
	}
	return n
}

// Read lends to itself, and copies.
func (d *ringDevice) Read(ps []packet.Packet) (int, error) {
	in := &d.in
	if in.own == nil {
		in.own = make([]packet.Packet, batchSize)
	}
	n, err := d.Lend(in.own[:min(len(ps), batchSize)])
	for i := range n {
		p, q := &ps[i], &in.own[i]
		p.Off, p.Len, p.Offload = q.Off, q.Len, q.Offload
		copy(p.Buf[p.Off:], q.Bytes())
	}
	return n, err
}

func (d *ringDevice) Write(ps []packet.Packet) (int, error) {
	o := &d.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return 0, os.ErrClosed
	}
	o.ps, o.refused, o.lost = ps, nil, nil
	for i := range ps {
		o.index = i
		if err := d.send(&ps[i]); err != nil {
			d.refuse(i, err)
		}
		if o.lost != nil {
			break
		}
	}
	d.flush()
	o.ps = nil
	switch {
	case o.lost != nil:
		n := o.lostAt
		if o.refused != nil {
			n -= min(n, o.refused.Refused)
		}
		return n, o.lost
	case o.refused != nil:
		return len(ps) - o.refused.Refused, o.refused
	}
	return len(ps), nil
}

// refuse counts that the packet i was refused.
func (d *ringDevice) refuse(i int, err error) {
	o := &d.out
	if errors.Is(err, ErrGone) {
		if o.lost == nil {
			o.lost, o.lostAt = err, i
		}
		return
	}
	before := o.refused
	if before != nil && i == o.last { // another piece of it
		return
	}
	o.refused, o.last = refuse(before, err), i
	if before == nil || i < o.first {
		o.first, o.refused.First = i, err
	}
}

// queue puts what is to be written into the ring.
func (d *ringDevice) queue(b []byte) error {
	if len(b) == 0 {
		return errEmpty
	}
	o := &d.out
	e := o.ring.next()
	if e == nil {
		d.flush()
		if e = o.ring.next(); e == nil {
			return errNoRoom
		}
	}
	e.write(d.fd.fd, b, uint64(o.index)<<32|uint64(len(b)))
	o.queued++
	return nil
}

// emit writes a packet that has to be written before the next one is made in the same memory.
func (d *ringDevice) emit(p packet.Packet) error {
	err := d.device.emit(p)
	d.flush()
	return err
}

// flush writes what is queued.
func (d *ringDevice) flush() {
	o := &d.out
	for o.queued > 0 {
		err := o.ring.enter(o.queued)
		for o.ring.pending() > 0 {
			c := o.ring.seen()
			o.queued--
			i := int(c.userData >> 32)
			switch {
			case c.res < 0:
				d.refuse(i, d.fault("write", syscall.Errno(-c.res)))
			case uint32(c.res) != uint32(c.userData): // the driver takes packets whole, or not; half of one is none
				d.refuse(i, d.fault("write", io.ErrShortWrite))
			}
		}
		if err != nil { // the rest was not submitted
			for ; o.queued > 0; o.queued-- {
				d.refuse(o.index, d.fault("write", err))
			}
		}
	}
}

// StopReading is that of Keeper. What the kernel had taken out of the queue by then, Read still returns.
func (d *ringDevice) StopReading() error {
	d.ending.Store(true)
	if err := d.wake(); err != nil {
		return err
	}
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	if d.in.ended {
		return nil
	}
	return d.halt()
}

// Descriptor is that of Keeper.
func (d *ringDevice) Descriptor() (fd int, err error) { return duplicate(d.fd.control) }

// wake ends the waiting of a Read.
func (d *ringDevice) wake() error {
	o := &d.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return os.ErrClosed
	}
	e := o.ring.next()
	if e == nil {
		return errNoRoom
	}
	e.message(d.in.ring, ringWake, 0)
	for o.ring.pending() == 0 {
		if err := o.ring.enter(1); err != nil {
			return err
		}
	}
	if c := o.ring.seen(); c.res < 0 {
		return fmt.Errorf("waking a Read: %w", syscall.Errno(-c.res))
	}
	return nil
}

// Close is that of Device.
func (d *ringDevice) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	err := d.wake()
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	err = errors.Join(err, d.halt(), d.release())
	return errors.Join(err, d.fd.Close(), d.socket.Close())
}

// release gives the rings back. Packets that were lent stay readable: their memory is that of any slice.
func (d *ringDevice) release() error {
	in, out := &d.in, &d.out
	in.ended, out.ended = true, true
	if in.armed { // halt failed, the kernel may write there: it keeps the memory
		abandoned.Store(&in.slab[0], in)
	} else {
		in.pin.Unpin()
	}
	var err error
	for _, r := range []*ring{in.ring, out.ring} {
		if r != nil {
			err = errors.Join(err, r.close())
		}
	}
	return err
}

// abandoned keeps what cannot be had back from the kernel.
var abandoned sync.Map

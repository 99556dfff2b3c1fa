// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
)

// device is one queue of a TUN interface.
//
// The descriptor is non-blocking and belongs to the runtime's poller: a Read that waits is a parked goroutine, which
// Close wakes. Every batch is one visit to the poller, however many packets it moves; the functions that do the visit
// are bound once, and hand their arguments over in r and w, so nothing is allocated for a packet.
type device struct {
	name string
	file *os.File // nil with io_uring, as conn
	conn syscall.RawConn
	// control calls f with the descriptor, which is not closed meanwhile.
	control func(f func(fd int) error) error
	socket  *os.File // in the interface's namespace
	header  bool     // packets have a virtio header in front
	uso     bool     // the kernel cuts UDP super-packets
	closed  atomic.Bool
	ending  atomic.Bool // StopReading was called
	spin    spinner
	why     error // why it is not io_uring, where that was left open

	sleeps, exhausted atomic.Uint64 // see Stats

	r struct {
		visit func(fd uintptr) bool
		ps    []packet.Packet
		n     int
		err   error
	}
	w struct {
		visit   func(fd uintptr) bool
		put     func([]byte) error // instead of a system call, if not nil; flush then does what was put off
		flush   func()
		emit    func(packet.Packet) error
		ps      []packet.Packet
		fd      int
		n       int
		err     error
		scratch []byte // a segment being built
		copied  []byte // a packet without room for the header, behind one
	}
}

// newDevice owns fd, which is attached to an interface and non-blocking.
func newDevice(fd int, o Options) (Device, error) {
	d, err := setUp(fd, o)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if o.Backend != BackendLinux {
		r, err := newRingDevice(fd, d)
		if err == nil {
			return r, nil
		}
		if o.Backend == BackendURing {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnsupported, err), d.socket.Close(), unix.Close(fd))
		}
		d.why = err
	}
	if err := d.poll(fd); err != nil {
		return nil, errors.Join(err, d.file.Close(), d.socket.Close())
	}
	return d, nil
}

// setUp prepares what does not depend on how packets are read and written.
func setUp(fd int, o Options) (*device, error) {
	name, flags, err := identify(fd)
	if err != nil {
		return nil, err
	}
	d := &device{name: name, header: flags&unix.IFF_VNET_HDR != 0, spin: spinner{limit: o.Spin}}
	if d.uso, err = configure(fd, o, d.header); err != nil {
		return nil, err
	}
	if d.socket, err = socketFor(fd); err != nil {
		return nil, err
	}
	d.w.emit = d.emit
	return d, nil
}

// poll leaves fd to the runtime's poller, for reads and writes of a system call a packet.
func (d *device) poll(fd int) (err error) {
	d.file = os.NewFile(uintptr(fd), node)
	d.control = func(f func(fd int) error) error { return controlFile(d.file, f) }
	if err := d.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("the descriptor cannot be polled: %w", err)
	}
	if d.conn, err = d.file.SyscallConn(); err != nil {
		return err
	}
	d.r.visit, d.w.visit = d.readVisit, d.writeVisit
	return nil
}

// Stats is that of Observed.
func (d *device) Stats() Stats { return d.stats(BackendLinux) }

func (d *device) stats(backend string) Stats {
	return Stats{Backend: backend, Why: d.why, Sleeps: d.sleeps.Load(), Exhausted: d.exhausted.Load()}
}

func (d *device) Name() string    { return d.name }
func (d *device) BatchSize() int  { return batchSize }
func (d *device) BufferSize() int { return bufferSize }

func (d *device) MTU() (int, error) {
	mtu, err := mtuOf(d.control, d.socket)
	if err != nil {
		return 0, fmt.Errorf("tun: MTU of interface %q: %w", d.name, err)
	}
	return mtu, nil
}

func (d *device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return errors.Join(d.file.Close(), d.socket.Close())
}

// StopReading is that of Keeper.
func (d *device) StopReading() error {
	d.ending.Store(true)
	return d.file.SetReadDeadline(time.Unix(1, 0)) // long ago
}

// Descriptor is that of Keeper.
func (d *device) Descriptor() (fd int, err error) {
	return duplicate(d.control)
}

func duplicate(control func(func(int) error) error) (fd int, err error) {
	fd = -1
	err = control(func(own int) (err error) {
		fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	return fd, err
}

func (d *device) Read(ps []packet.Packet) (int, error) {
	if len(ps) == 0 {
		return 0, nil
	}
	r := &d.r
	r.ps, r.n, r.err = ps[:min(len(ps), batchSize)], 0, nil
	d.spin.begin()
	err := d.conn.Read(r.visit)
	r.ps = nil
	if r.n > 0 { // an error behind them comes again with the next Read
		return r.n, nil
	}
	if err != nil {
		return 0, d.pollFault("read", err)
	}
	return 0, r.err
}

// pollFault is an error of the poller: we have closed the descriptor or read no more, or it has no interface and cannot be
// waited for.
func (d *device) pollFault(op string, err error) error {
	if d.closed.Load() || d.ending.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		return os.ErrClosed
	}
	return fmt.Errorf("tun: %s interface %q: %w (%w)", op, d.name, ErrGone, err)
}

// readVisit takes what is there, and reports false if that was nothing: the poller then calls again when it may have
// changed.
func (d *device) readVisit(fd uintptr) bool {
	r := &d.r
	for r.n < len(r.ps) {
		p := &r.ps[r.n]
		switch err := d.receive(int(fd), p); {
		case err == nil:
			if r.n++; r.n == 1 {
				d.spin.found()
			}
		case errors.Is(err, unix.EAGAIN):
			if r.n == 0 && d.spin.again() && !d.closed.Load() && !d.ending.Load() {
				continue
			}
			if r.n == 0 {
				d.sleeps.Add(1)
			}
			return r.n > 0
		case errors.Is(err, errSkip):
		default:
			r.err = err
			return true
		}
	}
	return true
}

// errSkip is a packet whose virtio header contradicts it: it is dropped.
var errSkip = errors.New("skipped")

// receive reads one packet into p.
func (d *device) receive(fd int, p *packet.Packet) error {
	at := d.room()
	n, err := unix.Read(fd, p.Buf[at:])
	for err == unix.EINTR {
		n, err = unix.Read(fd, p.Buf[at:])
	}
	if err == unix.EAGAIN {
		return err // for the poller
	}
	if err != nil {
		return d.fault("read", err)
	}
	return d.received(p, n)
}

// room is where in a buffer the kernel puts what it has: the header lands in the headroom.
func (d *device) room() int {
	if d.header {
		return packet.Headroom - headerLen
	}
	return packet.Headroom
}

// received makes p the packet of the n bytes that the kernel has put into its buffer, with the header.
func (d *device) received(p *packet.Packet, n int) error {
	at := d.room()
	p.Off, p.Len, p.Offload = packet.Headroom, n-(packet.Headroom-at), packet.Offload{}
	if p.Len <= 0 {
		return errSkip
	}
	if d.header && decode(p.Buf[at:packet.Headroom], p) != nil {
		return errSkip
	}
	return nil
}

func (d *device) Write(ps []packet.Packet) (int, error) {
	w := &d.w
	w.ps, w.n, w.err = ps, 0, nil
	err := d.conn.Write(w.visit)
	w.ps = nil
	if err != nil {
		return 0, d.pollFault("write", err)
	}
	return w.n, w.err
}

// writeVisit sends the whole batch. It never waits: what the kernel has no room for is refused, as on any wire.
func (d *device) writeVisit(fd uintptr) bool {
	w := &d.w
	w.fd = int(fd)
	var refused *WriteError
	for i := range w.ps {
		err := d.send(&w.ps[i])
		if err == nil {
			w.n++
			continue
		}
		if errors.Is(err, ErrGone) {
			w.err = err
			return true
		}
		refused = refuse(refused, err)
	}
	if refused != nil {
		w.err = refused
	}
	return true
}

// send writes p as it is if the kernel takes that, else as what it becomes on a wire.
func (d *device) send(p *packet.Packet) error {
	o := &p.Offload
	if d.header && (o.GSO != packet.GSOUDP || d.uso) {
		return d.sendHeader(p)
	}
	if o.GSO == packet.GSONone && o.Csum != packet.CsumPartial {
		return d.emit(*p)
	}
	if d.w.scratch == nil {
		d.w.scratch = make([]byte, bufferSize)
	}
	return packet.Segment(p, d.w.scratch, d.w.emit)
}

// emit writes a packet that needs no offload.
func (d *device) emit(p packet.Packet) error {
	if d.header {
		return d.sendHeader(&p)
	}
	return d.write(p.Bytes())
}

func (d *device) sendHeader(p *packet.Packet) error {
	if p.Len <= 0 {
		return errEmpty
	}
	if p.Off >= headerLen {
		b := p.Buf[p.Off-headerLen : p.Off+p.Len]
		encode(b, p)
		return d.write(b)
	}
	if d.w.copied == nil {
		d.w.copied = make([]byte, 0, headerLen+bufferSize)
	}
	b := append(d.w.copied[:headerLen], p.Bytes()...)
	encode(b, p)
	err := d.write(b)
	if d.w.flush != nil {
		d.w.flush() // before copied is used again
	}
	return err
}

func (d *device) write(b []byte) error {
	if d.w.put != nil {
		return d.w.put(b)
	}
	n, err := unix.Write(d.w.fd, b)
	for err == unix.EINTR {
		n, err = unix.Write(d.w.fd, b)
	}
	if err == nil && n != len(b) { // the driver takes packets whole, or not; half of one is none
		err = io.ErrShortWrite
	}
	if err != nil {
		return d.fault("write", err)
	}
	return nil
}

func (d *device) fault(op string, err error) error {
	return fmt.Errorf("tun: %s interface %q: %w", op, d.name, meaning(err))
}

// meaning says what an errno of the driver stands for.
func meaning(err error) error {
	switch {
	case errors.Is(err, unix.EBADFD), errors.Is(err, unix.EFAULT): // a Read that waits when the interface goes: EFAULT
		return fmt.Errorf("%w (%w)", ErrGone, err)
	case errors.Is(err, unix.EIO):
		return fmt.Errorf("%w (%w)", ErrDown, err)
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
)

// onSocket is a ringDevice on one end of a socket that keeps packets apart, and the other end: it can be made to fail in
// ways that an interface seldom does.
func onSocket(t *testing.T, buffers, completions int) (d *ringDevice, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return on(t, fds[0], buffers, completions), fds[1]
}

func on(t *testing.T, fd, buffers, completions int) *ringDevice {
	t.Helper()
	s, err := socket()
	if err != nil {
		t.Fatal(err)
	}
	d := &ringDevice{device: &device{name: "tun0", socket: s}}
	if err := d.setUp(buffers, completions); err != nil {
		_ = d.release()
		t.Skip("no io_uring here: ", err)
	}
	d.attach(fd)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// number sends packets with these numbers in them.
func number(t *testing.T, fd, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := unix.Write(fd, binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			t.Fatal(err)
		}
	}
}

// numbered reads the packets with these numbers, in order.
func numbered(t *testing.T, d *ringDevice, from, to int) {
	t.Helper()
	ps := make([]packet.Packet, batchSize)
	for from < to {
		n, err := d.Lend(ps)
		if err != nil {
			t.Error(err)
			return
		}
		for _, p := range ps[:n] {
			if p.Off != packet.Headroom || p.Len != 4 || binary.BigEndian.Uint32(p.Bytes()) != uint32(from) {
				t.Errorf("packet %d is %x at %d", from, p.Bytes(), p.Off)
			}
			from++
		}
	}
}

// TestRingExhausted: with all buffers full the kernel stops reading, and goes on when it has some back. Nothing is lost.
func TestRingExhausted(t *testing.T) {
	d, far := onSocket(t, 4, 8)
	for round := range 3 {
		number(t, far, round*50, round*50+50)
		numbered(t, d, round*50, round*50+50)
	}
	if d.Stats().Exhausted == 0 {
		t.Error("the buffers were never exhausted: the test is void")
	}
}

// TestRingShare: with few packets at a time few buffers are in use, with many all of them. Nothing is lost on the way, and
// that the kernel ran out of its share is not the same as that there are no buffers.
func TestRingShare(t *testing.T) {
	d, far := onSocket(t, 64, 128)
	ps, next := make([]packet.Packet, batchSize), 0
	used := map[*byte]bool{}
	for i := range 4 * manyIdle {
		number(t, far, next, next+1)
		n, err := d.Lend(ps)
		if n != 1 || err != nil || binary.BigEndian.Uint32(ps[0].Bytes()) != uint32(next) {
			t.Fatalf("packet %d: %d, %v, %x", next, n, err, ps[0].Bytes())
		}
		next++
		if i >= 3*manyIdle {
			used[&ps[0].Buf[0]] = true
		}
	}
	if d.in.share != leastShare || len(used) > leastShare+1 {
		t.Errorf("packets one by one go through %d buffers; the kernel's share is %d", len(used), d.in.share)
	}
	for i := 0; i < 10 && d.in.share < 64; i++ {
		if d.Stats().Exhausted != 0 {
			t.Errorf("with a share of %d all buffers were in use", d.in.share)
		}
		number(t, far, next, next+60)
		numbered(t, d, next, next+60)
		next += 60
	}
	if d.in.share != 64 {
		t.Errorf("with 60 packets at once the share is %d", d.in.share)
	}
	if d.in.given+len(d.in.empty) != 64 {
		t.Errorf("%d buffers and %d are not all", d.in.given, len(d.in.empty))
	}
}

// TestRingOverflow: completions that there is no room for come later.
func TestRingOverflow(t *testing.T) {
	d, far := onSocket(t, 64, inEntries)
	for round := range 3 {
		number(t, far, round*50, round*50+50)
		numbered(t, d, round*50, round*50+50)
	}
}

// TestRingThreads: whichever thread asked for the read, and whether that is still there, another one reads on.
func TestRingThreads(t *testing.T) {
	d, far := onSocket(t, 64, 128)
	for i := range 10 {
		number(t, far, i, i+1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if i%3 != 0 {
				runtime.LockOSThread() // which ends with the goroutine
			}
			numbered(t, d, i, i+1)
		}()
		<-done
	}
}

// TestRingFault: an error of a read comes behind what was read before it, and does not end the device.
func TestRingFault(t *testing.T) {
	d, far := onSocket(t, 64, 128)
	number(t, far, 0, 3)
	if err := unix.Shutdown(far, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	numbered(t, d, 0, 3)
	ps := make([]packet.Packet, 1)
	for range 2 {
		if n, err := d.Lend(ps); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Lend = %d, %v", n, err)
		}
	}
}

// TestRingWrite: what there is no room for is refused at once, packet by packet; what comes after it is tried.
func TestRingWrite(t *testing.T) {
	d, far := onSocket(t, 4, 8)
	ps := make([]packet.Packet, 3*outEntries)
	for i := range ps {
		ps[i] = packet.From([]byte{byte(i)})
	}
	ps[7] = packet.Packet{Buf: make([]byte, 100), Off: 50} // empty
	b := make([]byte, 10)
	n, err := d.Write(ps)
	var refused *WriteError
	if !errors.As(err, &refused) || n+refused.Refused != len(ps) || refused.Refused < 1 {
		t.Fatalf("Write = %d, %v", n, err)
	}
	for i := range n {
		if i >= 7 {
			i++
		}
		if _, err := unix.Read(far, b); err != nil || b[0] != byte(i) {
			t.Fatalf("packet %d is %d, %v", i, b[0], err)
		}
	}
	for err = nil; err == nil; {
		_, err = d.Write(ps[:5])
	}
	if !errors.Is(err, unix.EAGAIN) || errors.Is(err, ErrGone) {
		t.Errorf("without room: %v", err)
	}
	if err := unix.Shutdown(far, unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Write(ps[:5]); n != 0 || !errors.As(err, &refused) || refused.Refused != 5 {
		t.Errorf("without a reader: %d, %v", n, err)
	}
}

// TestRingShortWrite: where the end of a packet is not taken the packet is refused.
func TestRingShortWrite(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Fatal(err)
	}
	d := on(t, fds[1], 4, 8)
	long := packet.Packet{Buf: make([]byte, 2*size), Len: 2 * size}
	n, err := d.Write([]packet.Packet{long})
	var refused *WriteError
	if n != 0 || !errors.As(err, &refused) || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Write = %d, %v", n, err)
	}
}

// TestRingClose: with packets lent, reported and not yet reported Close returns, and so do all calls after it. What
// was lent can still be read.
func TestRingClose(t *testing.T) {
	d, far := onSocket(t, 8, 16)
	number(t, far, 0, 20)
	ps := make([]packet.Packet, 3)
	n, err := d.Lend(ps)
	if n == 0 || err != nil {
		t.Fatal(n, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint32(ps[0].Bytes()); got != 0 {
		t.Errorf("the packet that was lent is number %d now", got)
	}
	if n, err := d.Lend(ps); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Lend after Close = %d, %v", n, err)
	}
	if n, err := d.Write(ps[:1]); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close = %d, %v", n, err)
	}
	if err := d.StopReading(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestRingStopWaiting: a reader that waits, and ends before StopReading comes to end its read, leaves nothing to be taken out of
// the queue in between, when nobody would return it.
func TestRingStopWaiting(t *testing.T) {
	d, far := onSocket(t, 64, 128)
	ended := make(chan error)
	go func() {
		_, err := d.Lend(make([]packet.Packet, 1))
		ended <- err
	}()
	for d.sleeps.Load() == 0 {
		runtime.Gosched()
	}
	// The first half of StopReading.
	d.ending.Store(true)
	if err := d.wake(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	number(t, far, 0, 1)
	if err := d.StopReading(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := unix.Read(d.fd.fd, b); n < 4 || err != nil || binary.BigEndian.Uint32(b) != 0 {
		t.Errorf("in the queue: %d bytes, %v", n, err)
	}
}

// TestRingStop: what the kernel had taken out of the queue when reading was stopped is still read, and nothing later.
func TestRingStop(t *testing.T) {
	d, far := onSocket(t, 64, 128)
	number(t, far, 0, 20)
	ps := make([]packet.Packet, 1)
	if n, err := d.Lend(ps); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := d.StopReading(); err != nil {
		t.Fatal(err)
	}
	next := 1
	for ; ; next++ {
		n, err := d.Lend(ps)
		if errors.Is(err, os.ErrClosed) {
			break
		}
		if n != 1 || err != nil || binary.BigEndian.Uint32(ps[0].Bytes()) != uint32(next) {
			t.Fatalf("packet %d: %d, %v, %x", next, n, err, ps[0].Bytes())
		}
	}
	number(t, far, 20, 21)
	if n, err := d.Lend(ps); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Lend after the end = %d, %v", n, err)
	}
	b := make([]byte, 10)
	for ; next < 21; next++ { // the rest is in the queue
		if _, err := unix.Read(d.fd.fd, b); err != nil || binary.BigEndian.Uint32(b) != uint32(next) {
			t.Fatalf("packet %d of the queue: %x, %v", next, b, err)
		}
	}
}

// TestSpinner: after times in vain it spins less, after one of use as often as it may.
func TestSpinner(t *testing.T) {
	s := spinner{limit: time.Nanosecond}
	waits := func() (spun int) {
		for range 10 * mostSkipped {
			s.begin()
			if !s.end.IsZero() {
				spun++
			}
			for s.again() {
			}
		}
		return spun
	}
	if n := waits(); n < 10 || n > 25 {
		t.Errorf("it spun %d times in vain", n)
	}
	s.limit = time.Hour
	for s.begin(); !s.again(); s.begin() {
	}
	s.found()
	spun := 0
	for range 100 {
		s.begin()
		if s.again() {
			spun++
		}
		s.found()
	}
	if spun != 100 {
		t.Errorf("it spun %d times of 100 although each was of use", spun)
	}
	s = spinner{}
	if s.begin(); s.again() {
		t.Error("the zero value spins")
	}
}

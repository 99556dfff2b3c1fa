// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/tun/tuntest"
)

// journal is a log that can be read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(b)
}

// lines are those with a text.
func (j *journal) lines(with string) (all []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for l := range strings.SplitSeq(j.b.String(), "\n") {
		if l != "" && strings.Contains(l, with) {
			all = append(all, l)
		}
	}
	return all
}

func newJournal() (*journal, *slog.Logger) {
	j := &journal{}
	return j, slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "after" {
			return slog.Attr{}
		}
		return a
	}}))
}

// faultyWires are wires whose devices fail as they are told.
type faultyWires struct {
	*wires
	in, out *tuntest.Faulty
	log     *journal
}

func newFaultyWires(t *testing.T) *faultyWires {
	t.Helper()
	f := &faultyWires{}
	f.wires = newWiresWith(t, func(l *loop) {
		f.in, f.out = &tuntest.Faulty{Device: l.sides[nat.Inside].queues[0].dev}, &tuntest.Faulty{Device: l.sides[nat.Outside].queues[0].dev}
		l.sides[nat.Inside].queues[0].dev, l.sides[nat.Outside].queues[0].dev = f.in, f.out
		j, log := newJournal()
		f.log, l.book = j, newBook(log, l.clock)
	})
	return f
}

// passes sends a packet out and its answer back.
func (f *faultyWires) passes(t *testing.T) {
	t.Helper()
	if err := f.inside.Send(datagram(t, "10.0.1.10:5000", "198.51.100.1:123")); err != nil {
		t.Fatal(err)
	}
	src, dst := ends(t, receive(t, f.outside))
	if err := f.outside.Send(datagram(t, dst.String(), src.String())); err != nil {
		t.Fatal(err)
	}
	if _, to := ends(t, receive(t, f.wires.inside)); to != netip.MustParseAddrPort("10.0.1.10:5000") {
		t.Fatalf("the answer goes to %s", to)
	}
}

// faults are those of the book.
func (f *faultyWires) faults() string { return control.Lines(f.book.complete(nil)) }

// TestLoopReadFaults: a device that cannot be read for a while is read again; it is said once, and once that it is over;
// meanwhile the other direction works, and the health check tells.
func TestLoopReadFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		text string
	}{
		"ENOBUFS":          {syscall.ENOBUFS, "no buffer space available"},
		"EAGAIN":           {syscall.EAGAIN, "resource temporarily unavailable"},
		"EIO":              {syscall.EIO, "input/output error"},
		"down":             {tun.ErrDown, "the interface is down: set it up"},
		"nothing":          {nil, "it has nothing and does not wait"},
		"deadline or such": {os.ErrDeadlineExceeded, "i/o timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			f := newFaultyWires(t)
			f.passes(t)
			var reads atomic.Int64
			f.in.OnRead(func([]packet.Packet) (int, error) { reads.Add(1); return 0, tt.err })
			// It wakes the reader, if that waits already, and comes through now; or else when there are no more errors.
			if err := f.inside.Send(datagram(t, "10.0.1.10:5000", "198.51.100.1:123")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "several tries", func() bool { return reads.Load() > readTries+2 })
			want := "interface in cannot be read: " + tt.text
			if got := f.faults(); got != want {
				t.Errorf("meanwhile: %q, want %q", got, want)
			}
			if err := f.outside.Send(datagram(t, "198.51.100.9:1", "203.0.113.1:1")); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the other direction", func() bool { return f.sides[nat.Outside].readPackets.Load() == 2 })
			f.in.OnRead(nil)
			f.passes(t)
			eventually(t, "the reader to have read", func() bool { return f.faults() == "ok" })
			if n := f.sides[nat.Inside].readErrors.Load(); n != uint64(reads.Load()) {
				t.Errorf("%d of %d failed reads are counted", n, reads.Load())
			}
			all := f.log.lines("")
			if len(all) != 2 || !strings.Contains(all[0], want) || !strings.Contains(all[1], "no longer: "+want) {
				t.Errorf("the log:\n%s", strings.Join(all, "\n"))
			}
			if err := f.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// wire wakes the reader of the inside device with a packet.
func (f *faultyWires) wire(t *testing.T) {
	t.Helper()
	if err := f.inside.Send(datagram(t, "10.0.1.10:5000", "198.51.100.1:123")); err != nil {
		t.Fatal(err)
	}
	receive(t, f.outside)
}

// TestLoopReadHiccup: a read or two that fail are no news.
func TestLoopReadHiccup(t *testing.T) {
	f := newFaultyWires(t)
	defer func() { _ = f.end() }()
	left := readTries - 1
	f.in.OnRead(func(ps []packet.Packet) (int, error) {
		if left == 0 {
			return f.in.Device.Read(ps)
		}
		left--
		return 0, syscall.EAGAIN
	})
	f.wire(t)
	f.passes(t)
	if all := f.log.lines(""); len(all) > 0 || f.sides[nat.Inside].readErrors.Load() != readTries-1 {
		t.Errorf("%d errors, the log:\n%s", f.sides[nat.Inside].readErrors.Load(), strings.Join(all, "\n"))
	}
}

// TestLoopReadShort: what is cut off on the way is dropped as such, packets beside an error are not lost, and what is
// behind them passes.
func TestLoopReadShort(t *testing.T) {
	f := newFaultyWires(t)
	defer func() { _ = f.end() }()
	f.in.OnRead(func(ps []packet.Packet) (int, error) {
		n, err := f.in.Device.Read(ps)
		for i := range ps[:n] {
			if ps[i].Len > 33 { // the long ones lose their end
				ps[i].Len = 25
			}
		}
		if err == nil {
			err = syscall.EIO // behind the packets
		}
		return n, err
	})
	f.wire(t) // by the old function
	short := datagram(t, "10.0.1.10:5000", "198.51.100.1:123")
	long := datagram(t, "10.0.1.10:5000", "198.51.100.1:123")
	long.Buf = append(long.Buf, make([]byte, 8)...)
	long.Len += 8
	for _, p := range []packet.Packet{long, short} {
		if err := f.inside.Send(p); err != nil {
			t.Fatal(err)
		}
	}
	if p := receive(t, f.outside); p.Len != short.Len {
		t.Errorf("%d bytes came through", p.Len)
	}
	if n := f.engine.Stats(f.now()).Verdicts[nat.DropTruncated]; n != 1 {
		t.Errorf("%d dropped as truncated", n)
	}
	if got := f.faults(); got != "ok" {
		t.Error(got)
	}
}

// TestLoopWriteFaults: a device that takes nothing for long is a fault, one that is full for a moment is not; all it refuses
// is counted, and nothing is said of each packet.
func TestLoopWriteFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		write func(ps []packet.Packet) (int, error)
		text  string
	}{
		"ENOBUFS": {func(ps []packet.Packet) (int, error) {
			return 0, &tun.WriteError{Refused: len(ps), First: syscall.ENOBUFS}
		}, "packets were refused, the first: no buffer space available"},
		"EAGAIN": {func(ps []packet.Packet) (int, error) { return 0, syscall.EAGAIN }, "resource temporarily unavailable"},
		"EIO":    {func(ps []packet.Packet) (int, error) { return 0, syscall.EIO }, "input/output error"},
		"short":  {func(ps []packet.Packet) (int, error) { return 0, nil }, "it took none and says nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			dev, far := tuntest.Pipe(tuntest.Options{Name: "out"})
			defer far.Close()
			defer dev.Close()
			faulty := &tuntest.Faulty{Device: dev}
			l := newLoop(nil).join(dev, faulty)
			var now time.Duration
			l.clock = func() time.Duration { return now }
			j, log := newJournal()
			l.book = newBook(log, l.clock)
			p := &l.sides[nat.Outside]
			ps := []packet.Packet{datagram(t, "10.0.0.1:1", "10.0.0.2:2"), datagram(t, "10.0.0.1:1", "10.0.0.2:2")}
			faulty.OnWrite(tt.write)
			for range refusedMany { // at once: a queue that is full
				l.write(nat.Outside, 0, ps)
			}
			if got := control.Lines(l.book.complete(nil)); got != "ok" {
				t.Errorf("for a moment: %s", got)
			}
			now += refusedLong
			for range 1000 {
				l.write(nat.Outside, 0, ps)
			}
			got := control.Lines(l.book.complete(nil))
			if !strings.HasPrefix(got, "interface out takes no packets: ") || !strings.Contains(got, tt.text) {
				t.Errorf("%q, want %q", got, tt.text)
			}
			if n := p.refused.Load(); n != 2*(refusedMany+1000) {
				t.Errorf("%d are counted as refused", n)
			}
			faulty.OnWrite(func(ps []packet.Packet) (int, error) { // half of them
				return 1, &tun.WriteError{Refused: 1, First: syscall.ENOBUFS}
			})
			l.write(nat.Outside, 0, ps)
			if got := control.Lines(l.book.complete(nil)); got != "ok" || p.refused.Load() != 2*(refusedMany+1000)+1 {
				t.Errorf("when it takes some: %s, %d refused", got, p.refused.Load())
			}
			faulty.OnWrite(nil)
			l.write(nat.Outside, 0, ps)
			if all := j.lines(""); len(all) != 2 || len(j.lines("no longer: interface out takes no packets")) != 1 {
				t.Errorf("the log:\n%s", strings.Join(all, "\n"))
			}
		})
	}
}

// TestLoopWriteGone: what is gone, down or closed is told by others.
func TestLoopWriteGone(t *testing.T) {
	for _, err := range []error{tun.ErrGone, tun.ErrDown, os.ErrClosed} {
		dev, far := tuntest.Pipe(tuntest.Options{})
		defer far.Close()
		l := newLoop(nil).join(dev, &broken{Device: dev, writeErr: err})
		var now time.Duration
		l.clock = func() time.Duration { now += refusedLong; return now }
		for range 2 * refusedMany {
			l.write(nat.Outside, 0, []packet.Packet{datagram(t, "10.0.0.1:1", "10.0.0.2:2")})
		}
		if got := control.Lines(l.book.complete(nil)); got != "ok" {
			t.Errorf("%v: %s", err, got)
		}
	}
}

// TestLoopClosedUnder: somebody closes a device under the loop, which ends, both directions, without an error.
func TestLoopClosedUnder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := newFaultyWires(t)
	f.passes(t)
	if err := f.out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.end(); err != nil {
		t.Error(err)
	}
}

// TestSlot: an interface that is deleted and made again, under a loop that reads and writes; and no interface at the end.
func TestSlot(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var lost atomic.Int64
	var places *slot
	first := &tuntest.Faulty{}
	w := newWiresWith(t, func(l *loop) {
		first.Device = l.sides[nat.Outside].queues[0].dev
		places = newSlot(first, func() { lost.Add(1) })
		l.sides[nat.Outside].queues[0].dev = places
	})
	f := &faultyWires{wires: w}
	f.passes(t)
	gone := func([]packet.Packet) (int, error) { return 0, tun.ErrGone }
	first.OnRead(gone)
	first.OnWrite(gone)
	if err := f.outside.Send(datagram(t, "198.51.100.1:123", "203.0.113.1:1")); err != nil { // wakes the reader
		t.Fatal(err)
	}
	if err := f.wires.inside.Send(datagram(t, "10.0.1.10:5000", "198.51.100.1:123")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reader and writer to see that it is gone", func() bool { return lost.Load() >= 2 })
	eventually(t, "what is written meanwhile to be counted", func() bool { return w.sides[nat.Outside].refused.Load() == 1 })
	again, far := tuntest.Pipe(tuntest.Options{Name: "out"})
	defer far.Close()
	if err := places.put(again); err != nil {
		t.Fatal(err)
	}
	was := f.outside
	f.outside = far
	f.passes(t)
	if err := errors.Join(f.end(), was.Close()); err != nil {
		t.Error(err)
	}
	late, lateFar := tuntest.Pipe(tuntest.Options{})
	defer lateFar.Close()
	if err := places.put(late); err != nil {
		t.Error(err)
	}
	if _, err := late.Read(make([]packet.Packet, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a device that came too late: %v", err)
	}
	if err := places.Close(); err != nil {
		t.Error(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/tun/tuntest"
)

// queuedWires are wires with several queues, of which each has far ends of its own.
type queuedWires struct {
	*wires
	far [2][]*tuntest.Device // by nat.Side
	log *journal
}

// newQueuedWires has change make of a queue what the loop is to have in its place.
func newQueuedWires(t *testing.T, n int, change func(side nat.Side, number int, d tun.Device) tun.Device) *queuedWires {
	t.Helper()
	q := &queuedWires{}
	q.wires = newWiresWith(t, func(l *loop) {
		for i := 1; i < n; i++ {
			in, inFar := tuntest.Pipe(tuntest.Options{Name: "in"})
			out, outFar := tuntest.Pipe(tuntest.Options{Name: "out"})
			l.join(in, out)
			q.far[nat.Inside], q.far[nat.Outside] = append(q.far[nat.Inside], inFar), append(q.far[nat.Outside], outFar)
		}
		for s := range l.sides {
			for i, at := range l.sides[s].queues {
				at.dev = change(nat.Side(s), i, at.dev)
			}
		}
		j, log := newJournal()
		q.log, l.book = j, newBook(log, l.clock)
	})
	q.far[nat.Inside] = append([]*tuntest.Device{q.wires.inside}, q.far[nat.Inside]...)
	q.far[nat.Outside] = append([]*tuntest.Device{q.wires.outside}, q.far[nat.Outside]...)
	return q
}

func same(_ nat.Side, _ int, d tun.Device) tun.Device { return d }

// finish ends the loop; it has to end by itself if one device is closed.
func (q *queuedWires) finish(t *testing.T) {
	t.Helper()
	err := q.end()
	for _, far := range q.far {
		for _, d := range far {
			err = errors.Join(err, d.Close())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// passes has a flow of n datagrams go out by a queue and be answered at that, and all come out of queues of the same number, in order.
func (q *queuedWires) passes(t *testing.T, number, n int, from string) {
	t.Helper()
	in, out := q.far[nat.Inside][number], q.far[nat.Outside][number]
	numbered := func(p packet.Packet, i int) packet.Packet { // by a part of the header that nobody touches
		p.Buf[p.Off+1] = byte(i) // the type of service
		sum := binary.BigEndian.Uint16(p.Buf[p.Off+10:])
		binary.BigEndian.PutUint16(p.Buf[p.Off+10:], 0)
		if sum = packet.Checksum(p.Buf[p.Off : p.Off+20]); sum != 0 {
			binary.BigEndian.PutUint16(p.Buf[p.Off+10:], sum)
		}
		return p
	}
	send := func(d *tuntest.Device, from, to string) {
		for i := range n {
			if err := d.Send(numbered(datagram(t, from, to), i)); err != nil {
				t.Error(err)
			}
		}
	}
	var src, dst netip.AddrPort
	arrive := func(d *tuntest.Device) {
		for i := range n {
			p := receive(t, d)
			src, dst = ends(t, p)
			if got := p.Bytes()[1]; got != byte(i) {
				t.Errorf("queue %d: datagram %d comes as number %d", number, got, i)
			}
		}
	}
	send(in, from, "198.51.100.1:123")
	arrive(out)
	send(out, dst.String(), src.String())
	arrive(in)
	if dst != netip.MustParseAddrPort(from) {
		t.Errorf("queue %d: the answers to %s go to %s", number, from, dst)
	}
}

// TestLoopQueues: what is read from a queue is written to queues of its number, in order: packets, hairpins, and what the engine
// makes of them. All are counted for their interface. An answer at another queue arrives, too.
func TestLoopQueues(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const queues, each = 4, 100
	w := newQueuedWires(t, queues, same)
	var flows sync.WaitGroup
	for i := range queues {
		flows.Go(func() { w.passes(t, i, each, fmt.Sprintf("10.0.1.%d:5000", 10+i)) })
	}
	flows.Wait()
	for s := range w.sides {
		p := &w.sides[s]
		if r, o := p.readPackets.Load(), p.wrotePackets.Load(); r != queues*each || o != queues*each {
			t.Errorf("%s: %d read, %d written, want %d each", nat.Side(s), r, o, queues*each)
		}
		for i, q := range p.queues {
			if r, o := q.readPackets.Load(), q.wrotePackets.Load(); r != each || o != each {
				t.Errorf("%s, queue %d: %d read, %d written, want %d each", nat.Side(s), i, r, o, each)
			}
		}
	}
	send := func(s nat.Side, number int, p packet.Packet) {
		t.Helper()
		if err := w.far[s][number].Send(p); err != nil {
			t.Fatal(err)
		}
	}
	send(nat.Inside, 1, datagram(t, "10.0.1.20:5000", "198.51.100.1:53"))
	face, _ := ends(t, receive(t, w.far[nat.Outside][1]))
	send(nat.Outside, 3, datagram(t, "198.51.100.1:53", face.String()))
	if _, to := ends(t, receive(t, w.far[nat.Inside][3])); to != netip.MustParseAddrPort("10.0.1.20:5000") {
		t.Errorf("an answer at another queue goes to %s", to)
	}

	send(nat.Inside, 2, datagram(t, "10.0.1.21:6000", "198.51.100.1:53"))
	other, _ := ends(t, receive(t, w.far[nat.Outside][2]))
	send(nat.Inside, 2, datagram(t, "10.0.1.20:5000", other.String())) // refused by its filter, but opens that of 10.0.1.20
	send(nat.Inside, 2, datagram(t, "10.0.1.21:6000", face.String()))
	if from, to := ends(t, receive(t, w.far[nat.Inside][2])); from != other || to != netip.MustParseAddrPort("10.0.1.20:5000") {
		t.Errorf("hairpin: %s > %s", from, to)
	}

	// A datagram in two pieces, by different queues: it leaves by the queue of the worker that had the last.
	whole := datagram(t, "10.0.1.22:7000", "198.51.100.1:53")
	for i, p := range pieces(whole.Bytes()) {
		send(nat.Inside, 1+2*i, p)
		if i == 0 {
			eventually(t, "the first piece to wait", func() bool { return w.engine.Stats(w.now()).FragmentSets == 1 })
		}
	}
	for i := range 2 {
		if p := receive(t, w.far[nat.Outside][3]); p.Bytes()[6]&0x20 == 0 != (i == 1) {
			t.Errorf("piece %d: % x", i, p.Bytes())
		}
	}
	w.finish(t)
}

// pieces are two fragments of a datagram without options.
func pieces(b []byte) (ps []packet.Packet) {
	const cut = 8
	for i, part := range [][]byte{b[20 : 20+cut], b[20+cut:]} {
		p := append(append([]byte(nil), b[:20]...), part...)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], 77)
		binary.BigEndian.PutUint16(p[6:], []uint16{0x2000, cut / 8}[i])
		binary.BigEndian.PutUint16(p[10:], 0)
		binary.BigEndian.PutUint16(p[10:], packet.Checksum(p[:20]))
		ps = append(ps, packet.From(p))
	}
	return ps
}

// TestLoopQueuesTimers: what comes of a timer goes out by the first queues.
func TestLoopQueuesTimers(t *testing.T) {
	l := newLoop(queuedEngine(t))
	var fars []*tuntest.Device
	for range 2 {
		in, inFar := tuntest.Pipe(tuntest.Options{})
		out, outFar := tuntest.Pipe(tuntest.Options{})
		l.join(in, out)
		fars = append(fars, inFar, outFar)
	}
	// A SYN that nobody asked for waits, and is then refused (RFC 5382, REQ-4).
	ps, vs := []packet.Packet{syn(t, "198.51.100.9:1", "203.0.113.1:2000")}, make([]nat.Verdict, 1)
	l.engine.Worker().Batch(ps, nat.AttachmentID(nat.Outside), l.now(), vs)
	if vs[0] != nat.HeldSYN {
		t.Fatalf("the SYN: %v", vs[0])
	}
	l.clock = func() time.Duration { return uptime() + time.Minute }
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { l.tick(stop); close(done) }()
	p := receive(t, fars[1])
	if b := p.Bytes(); b[9] != packet.ICMP {
		t.Errorf("% x", b)
	}
	close(stop)
	<-done
}

// TestLoopQueuesFaults: queues that cannot be read are one fault of their interface: from the first on until the last is well, or
// has nothing to do. The others go on meanwhile.
func TestLoopQueuesFaults(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var faulty [3]*tuntest.Faulty
	w := newQueuedWires(t, 3, func(s nat.Side, i int, d tun.Device) tun.Device {
		if s != nat.Inside {
			return d
		}
		faulty[i] = &tuntest.Faulty{Device: d}
		return faulty[i]
	})
	faults := func() string { return control.Lines(w.book.complete(nil)) }
	fails := func([]packet.Packet) (int, error) { return 0, syscall.EIO }
	w.passes(t, 0, 1, "10.0.1.10:5000")
	const wrong = "interface in cannot be read: input/output error"
	for i := range 2 {
		faulty[i].OnRead(fails)
		if err := w.far[nat.Inside][i].Send(datagram(t, "192.0.2.1:1", "198.51.100.1:123")); err != nil { // wakes the reader, and goes nowhere
			t.Fatal(err)
		}
	}
	ill := func(n int) func() bool {
		return func() bool {
			a := &w.sides[nat.Inside].unread
			a.mu.Lock()
			defer a.mu.Unlock()
			now := 0
			for i := range a.queues {
				if a.queues[i].ill {
					now++
				}
			}
			return now == n
		}
	}
	eventually(t, "two queues to be ill", ill(2))
	if got := faults(); got != wrong {
		t.Errorf("meanwhile: %q", got)
	}
	w.passes(t, 2, 10, "10.0.1.12:5000")
	if got := faults(); got != wrong {
		t.Errorf("when another queue works: %q", got)
	}
	faulty[0].OnRead(nil)
	w.passes(t, 0, 1, "10.0.1.11:5000")
	eventually(t, "one queue to be well", ill(1))
	if got := faults(); got != wrong {
		t.Errorf("when one of two is well: %q", got)
	}
	faulty[1].OnRead(nil) // it has nothing to read from now on
	eventually(t, "the reader to wait", func() bool {
		a := &w.sides[nat.Inside].unread
		a.mu.Lock()
		was := a.queues[1].n
		a.mu.Unlock()
		time.Sleep(150 * time.Millisecond) // more than it waits between two tries
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.queues[1].n == was
	})
	w.asleep.Add(int64(ailmentOld))
	w.passes(t, 2, 1, "10.0.1.13:5000")
	eventually(t, "all to be well", func() bool { return faults() == "ok" })
	if all := w.log.lines(""); len(all) != 2 || !strings.Contains(all[0], wrong) || !strings.Contains(all[1], "no longer: "+wrong) {
		t.Errorf("the log:\n%s", strings.Join(all, "\n"))
	}
	w.finish(t)
}

// TestLoopQueuesRefuse: the same of queues that take nothing.
func TestLoopQueuesRefuse(t *testing.T) {
	l := newLoop(nil)
	var now time.Duration
	l.clock = func() time.Duration { return now }
	j, log := newJournal()
	l.book = newBook(log, l.clock)
	var faulty [3]*tuntest.Faulty
	for i := range faulty {
		dev, far := tuntest.Pipe(tuntest.Options{Name: "out"})
		defer far.Close()
		defer dev.Close()
		faulty[i] = &tuntest.Faulty{Device: dev}
		l.join(dev, faulty[i])
	}
	ps := []packet.Packet{datagram(t, "10.0.0.1:1", "10.0.0.2:2")}
	write := func(number, times int) {
		for range times {
			l.write(nat.Outside, number, ps)
		}
	}
	check := func(when string, wrong bool) {
		t.Helper()
		want := "ok"
		if wrong {
			want = "interface out takes no packets: input/output error"
		}
		if got := control.Lines(l.book.complete(nil)); got != want {
			t.Errorf("%s: %q", when, got)
		}
	}
	for _, f := range faulty[:2] {
		f.OnWrite(func([]packet.Packet) (int, error) { return 0, syscall.EIO })
	}
	write(0, refusedMany)
	now += refusedLong
	write(1, refusedMany)
	check("one for a moment, the other seldom", false)
	write(0, 1)
	check("the first", true)
	now += refusedLong
	write(1, 1)
	write(2, 10)
	check("two", true)
	faulty[1].OnWrite(nil)
	write(1, 1)
	check("one is well", true)
	now += ailmentOld
	check("nobody writes", true)
	write(2, 1)
	check("the other has nothing to do", false)
	if l.sides[nat.Outside].untaken.some.Load() {
		t.Error("what works has still to be noted")
	}
	if all := j.lines(""); len(all) != 2 {
		t.Errorf("the log:\n%s", strings.Join(all, "\n"))
	}
	if n := l.sides[nat.Outside].refused.Load(); n != 2*(refusedMany+1) {
		t.Errorf("%d are counted as refused", n)
	}
}

// TestLoopQueuesClosed: one queue that is closed, or whose interface is gone for good, ends all workers.
func TestLoopQueuesClosed(t *testing.T) {
	for name, err := range map[string]error{"closed": os.ErrClosed, "gone": tun.ErrGone} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			l := newLoop(queuedEngine(t))
			var fars []*tuntest.Device
			for i := range 3 {
				in, inFar := tuntest.Pipe(tuntest.Options{Name: "in"})
				out, outFar := tuntest.Pipe(tuntest.Options{Name: "out"})
				fars = append(fars, inFar, outFar)
				if i == 2 {
					l.join(in, &broken{Device: out, readErr: err})
				} else {
					l.join(in, out)
				}
			}
			got := l.run()
			if (got != nil) != (err == tun.ErrGone) || got != nil && !strings.HasPrefix(got.Error(), "interface out was deleted") {
				t.Errorf("run: %v", got)
			}
			for q := range l.queues() {
				if _, err := q.dev.Write([]packet.Packet{datagram(t, "10.0.0.1:1", "10.0.0.2:2")}); err == nil && name == "gone" {
					if _, ok := q.dev.(*broken); !ok {
						t.Error("a device is left open")
					}
				}
			}
			for _, far := range fars {
				_ = far.Close()
			}
		})
	}
}

// queuedEngine is one that holds SYNs.
func queuedEngine(t *testing.T) *nat.Engine {
	t.Helper()
	c, err := config.Parse("f.yaml", []byte("inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\n"+
		"profile: rfc\n"))
	if err != nil {
		t.Fatal(err)
	}
	policy, sizes := c.Compile()
	sizes.Sessions, sizes.Shards = 1024, 8
	e, err := nat.New(sizes, policy)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestSlotQueues: an interface of several queues is deleted and made again under a loop: every worker goes on with its own.
func TestSlotQueues(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var slots []*slot
	var firsts []*tuntest.Faulty
	var lost sync.Map
	w := newQueuedWires(t, 3, func(s nat.Side, i int, d tun.Device) tun.Device {
		if s != nat.Outside {
			return d
		}
		firsts = append(firsts, &tuntest.Faulty{Device: d})
		slots = append(slots, newSlot(firsts[i], func() { lost.Store(i, true) }))
		return slots[i]
	})
	for i := range 3 {
		w.passes(t, i, 3, fmt.Sprintf("10.0.1.%d:5000", 10+i))
	}
	for i, f := range firsts {
		f.OnRead(func([]packet.Packet) (int, error) { return 0, tun.ErrGone })
		if err := w.far[nat.Outside][i].Send(datagram(t, "198.51.100.1:123", "203.0.113.1:1")); err != nil { // wakes the reader
			t.Fatal(err)
		}
		eventually(t, "the reader to see that it is gone", func() bool { _, ok := lost.Load(i); return ok })
	}
	var again []tun.Device
	old := w.far[nat.Outside]
	w.far[nat.Outside] = nil
	for range 3 {
		d, far := tuntest.Pipe(tuntest.Options{Name: "out"})
		again = append(again, d)
		w.far[nat.Outside] = append(w.far[nat.Outside], far)
	}
	if err := put(slots, again); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		w.passes(t, i, 3, fmt.Sprintf("10.0.1.%d:5000", 10+i))
	}
	w.finish(t)
	for _, far := range old {
		_ = far.Close()
	}
}

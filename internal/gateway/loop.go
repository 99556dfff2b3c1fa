// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// loop moves packets between two devices and an engine: one goroutine reads each device, a third one keeps the
// engine's timers. Each has a Worker of its own. Nothing is allocated once they run.
type loop struct {
	engine *nat.Engine
	clock  func() time.Duration // uptime, but in tests
	base   time.Duration        // what clock says at the time 0 of the engine
	counts bool                 // the engine counts the packets of each session
	book   *book                // for devices that cannot be read or written
	sides  [2]port              // by nat.Side, which is the attachment, too
	turns  [3]turns             // of the two readers, by nat.Side, and of the timers
}

// port is one of the devices.
type port struct {
	dev tun.Device
	// mu is for writing: all three goroutines do.
	mu sync.Mutex
	// Since when, and how many packets in a row, it has refused, and whether that is in the book: of mu.
	refusing      bool
	stuck         bool
	refusingSince time.Duration
	refusedInARow int
	*tally
}

// tally is the counters of one device. It has no pointers, so that it can be in memory that outlives the process.
type tally struct {
	// Packets and bytes read from the device and written to it, and packets that it refused.
	readPackets, readBytes, wrotePackets, wroteBytes, refused atomic.Uint64
	readErrors                                                atomic.Uint64
	// What became of what was read, a super-packet being one, and the bytes of what was sent on.
	verdicts    [nat.NumVerdicts]atomic.Uint64
	passedBytes atomic.Uint64
}

// turns counts the beginnings and ends of what a goroutine of the loop does in one go: odd is in the middle of it.
type turns struct{ atomic.Uint64 }

func (t *turns) begin() { t.Add(1) }
func (t *turns) end()   { t.Add(1) }

func newLoop(e *nat.Engine, inside, outside tun.Device) *loop {
	l := &loop{engine: e, clock: uptime, base: uptime(), book: newBook(slog.New(slog.DiscardHandler), uptime)}
	l.sides[nat.Inside].dev, l.sides[nat.Outside].dev = inside, outside
	l.count(new([2]tally))
	return l
}

// now is the clock of the engine. It goes on while the process is stopped or the machine suspended, and does not care
// what the time of day is set to.
func (l *loop) now() time.Duration { return l.clock() - l.base }

// run moves packets until the devices are closed, or one of them is gone for good, and returns the first error. It closes
// both. A device that fails otherwise is read again and again.
func (l *loop) run() error {
	stop, timers := make(chan struct{}), make(chan struct{})
	go func() { l.tick(stop); close(timers) }()
	errs := make(chan error, len(l.sides))
	for s := range l.sides {
		go func() { errs <- l.pump(nat.Side(s)) }()
	}
	var first error
	for range l.sides {
		if err := <-errs; first == nil {
			first = err
		}
		l.stop() // one is of no use without the other
	}
	close(stop)
	<-timers
	for s := range l.sides {
		_ = l.sides[s].dev.Close() // there is nothing left to lose
	}
	return first
}

// count has the loop count in t from now on; before it runs.
func (l *loop) count(t *[2]tally) {
	for s := range l.sides {
		l.sides[s].tally = &t[s]
	}
}

// stop ends run, after what was read has been written: what is in the queue of a device stays there.
func (l *loop) stop() {
	for s := range l.sides {
		if k, ok := l.sides[s].dev.(tun.Keeper); ok && k.StopReading() == nil {
			continue
		}
		_ = l.sides[s].dev.Close()
	}
}

// stuck reports whether a goroutine of the loop is still in the middle of what it was when seen was filled, and fills seen.
// One that waits for packets, or for time to pass, is not.
func (l *loop) stuck(seen *[3]uint64) bool {
	is := false
	for i := range l.turns {
		n := l.turns[i].Load()
		is = is || n%2 == 1 && n == seen[i]
		seen[i] = n
	}
	return is
}

// pump takes what one device has to wherever it belongs, until the device is closed.
func (l *loop) pump(from nat.Side) error {
	in := &l.sides[from]
	w := l.engine.Worker()
	read, ps := batches(in.dev)
	batch := len(ps)
	vs := make([]nat.Verdict, batch)
	var out [2][]packet.Packet
	for s := range out {
		out[s] = make([]packet.Packet, 0, 2*batch)
	}
	for failed := 0; ; {
		n, err := read(ps)
		if n <= 0 {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			if errors.Is(err, tun.ErrGone) {
				return fmt.Errorf("interface %s was deleted by somebody else: start the gateway again", in.dev.Name())
			}
			failed++
			l.stumble(in, failed, err)
			continue
		}
		if failed >= readTries {
			l.book.well(faultID{faultIO, in.dev.Name() + " read"})
		}
		failed = 0
		l.turns[from].begin()
		count(&in.readPackets, &in.readBytes, ps[:n])
		w.Batch(ps[:n], nat.AttachmentID(from), l.now(), vs[:n])
		passed := 0
		for i := range n {
			if vs[i].Forward() {
				s := vs[i].Side()
				out[s] = append(out[s], ps[i])
				passed += ps[i].Len
			}
		}
		in.judged(vs[:n], passed)
		l.flush(w, &out)
		l.turns[from].end()
	}
}

// judged counts the verdicts of a batch; most often they are few kinds.
func (p *port) judged(vs []nat.Verdict, passedBytes int) {
	for len(vs) > 0 {
		n := 1
		for n < len(vs) && vs[n] == vs[0] {
			n++
		}
		p.verdicts[vs[0]].Add(uint64(n))
		vs = vs[n:]
	}
	p.passedBytes.Add(uint64(passedBytes))
}

// tickGap is how long at least there is between two Ticks, each of which takes less than that: many sessions that end at once
// take half of a processor, in small steps.
const tickGap = 100 * time.Microsecond

// tick keeps the timers until stop is closed.
func (l *loop) tick(stop <-chan struct{}) {
	w := l.engine.Worker()
	var out [2][]packet.Packet
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		l.turns[2].begin()
		next := w.Tick(l.now())
		l.flush(w, &out)
		l.turns[2].end()
		t.Reset(max(next-l.now(), tickGap))
	}
}

// flush writes what is in out, and after it what the engine made.
func (l *loop) flush(w *nat.Worker, out *[2][]packet.Packet) {
	for _, e := range w.Emitted() {
		out[e.Side] = append(out[e.Side], e.Packet)
	}
	for s := range out {
		if len(out[s]) > 0 {
			l.write(&l.sides[s], out[s])
			out[s] = out[s][:0]
		}
	}
}

// readTries is how often in a row reading may fail before anything is said about it.
const readTries = 3

var (
	errNothing = errors.New("it has nothing and does not wait")
	errUntaken = errors.New("it took none and says nothing")
)

// stumble waits after Read has failed, a little longer each time, up to a tenth of a second, for as long as it does.
func (l *loop) stumble(p *port, failed int, err error) {
	p.readErrors.Add(1)
	if failed == readTries {
		if err == nil {
			err = errNothing
		}
		l.book.wrong(control.Fault{Kind: faultIO, Subject: p.dev.Name() + " read",
			Text: fmt.Sprintf("interface %s cannot be read: %v", p.dev.Name(), err)})
	}
	time.Sleep(backoff(time.Millisecond, failed, 100*time.Millisecond))
}

// A device that has taken none of that many packets in a row, for so long, takes nothing. Less is a full queue.
const (
	refusedMany = 64
	refusedLong = time.Second
)

// write counts what the device refuses. A device that is gone or closed is found by its reader, and one that is down by
// who looks at the machine.
func (l *loop) write(p *port, ps []packet.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	count(&p.wrotePackets, &p.wroteBytes, ps)
	n, err := p.dev.Write(ps)
	if n == len(ps) && err == nil && !p.refusing {
		return
	}
	refused := len(ps) - n
	if some := (*tun.WriteError)(nil); errors.As(err, &some) {
		refused = some.Refused
	}
	p.refused.Add(uint64(refused))
	id := faultID{faultIO, p.dev.Name() + " write"}
	switch {
	case n > 0:
		if p.stuck {
			l.book.well(id)
		}
		p.refusing, p.stuck, p.refusedInARow = false, false, 0
	case errors.Is(err, os.ErrClosed), errors.Is(err, tun.ErrGone), errors.Is(err, tun.ErrDown):
	default:
		now := l.clock()
		if !p.refusing {
			p.refusing, p.refusingSince = true, now
		}
		p.refusedInARow += refused
		if !p.stuck && p.refusedInARow >= refusedMany && now-p.refusingSince >= refusedLong {
			p.stuck = true
			if err == nil {
				err = errUntaken
			}
			l.book.wrong(control.Fault{Kind: id.kind, Subject: id.subject,
				Text: fmt.Sprintf("interface %s takes no packets: %v", p.dev.Name(), err)})
		}
	}
}

// count counts a super-packet as the packets it stands for.
func count(packets, bytes *atomic.Uint64, ps []packet.Packet) {
	var np, nb int
	for i := range ps {
		np += ps[i].Segments()
		nb += ps[i].Len
	}
	packets.Add(uint64(np))
	bytes.Add(uint64(nb))
}

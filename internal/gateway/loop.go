// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// loop moves packets between two interfaces and an engine. Each interface has as many queues as the other. For each number
// there are two workers: one reads that queue of the inside, the other that of the outside, and what either sends it writes
// to the queues of its number. The kernel delivers the packets of a flow to the queue that the last one of it was written
// to, so both directions of a flow meet at the two workers of one number (where they do not, nothing but speed is lost: every
// worker may have any packet). One more goroutine keeps the engine's timers and writes to the first queues. Nothing is
// allocated once they run.
type loop struct {
	engine *nat.Engine
	clock  func() time.Duration // uptime, but in tests
	base   time.Duration        // what clock says at the time 0 of the engine
	counts bool                 // the engine counts the packets of each session
	book   *book                // for devices that cannot be read or written
	sides  [2]port              // by nat.Side, which is the attachment, too
	timers turns
}

// port is one of the interfaces.
type port struct {
	queues []*queue
	*tally
	unread, untaken ailment // queues that cannot be read, and that take nothing
}

// queue is a device, which has a worker that reads it.
type queue struct {
	dev tun.Device
	// mu is for writing: the workers of both sides do, and the timers.
	mu    sync.Mutex
	turns turns // of the worker
	// Packets read and written; super-packets as those they stand for.
	readPackets, wrotePackets atomic.Uint64
}

// tally is the counters of one interface. It has no pointers, so that it can be in memory that outlives the process.
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

// newLoop makes a loop without queues.
func newLoop(e *nat.Engine) *loop {
	l := &loop{engine: e, clock: uptime, base: uptime(), book: newBook(slog.New(slog.DiscardHandler), uptime)}
	for s := range l.sides {
		p := &l.sides[s]
		p.unread.op, p.unread.says, p.unread.many = "read", "cannot be read", readTries
		p.untaken.op, p.untaken.says, p.untaken.many, p.untaken.long = "write", "takes no packets", refusedMany, refusedLong
	}
	l.count(new([2]tally))
	return l
}

// join adds a queue of each interface, before the loop runs.
func (l *loop) join(inside, outside tun.Device) *loop {
	for s, dev := range []tun.Device{nat.Inside: inside, nat.Outside: outside} {
		p := &l.sides[s]
		p.queues = append(p.queues, &queue{dev: dev})
		p.unread.queues, p.untaken.queues = append(p.unread.queues, failures{}), append(p.untaken.queues, failures{})
	}
	return l
}

// name is that of the interface.
func (p *port) name() string { return p.queues[0].dev.Name() }

// stats are those of all queues together: if one of them is not like the first, how and why it is not counts. They are
// not known of every device.
func (p *port) stats() (all tun.Stats, ok bool) {
	for i, q := range p.queues {
		o, ok := q.dev.(tun.Observed)
		if !ok {
			return all, false
		}
		st := o.Stats()
		if i == 0 || st.Backend != tun.BackendURing {
			all.Backend, all.Why = st.Backend, st.Why
		}
		all.Sleeps += st.Sleeps
		all.Exhausted += st.Exhausted
	}
	return all, len(p.queues) > 0
}

// now is the clock of the engine. It goes on while the process is stopped or the machine suspended, and does not care
// what the time of day is set to.
func (l *loop) now() time.Duration { return l.clock() - l.base }

// run moves packets until the devices are closed, or one of them is gone for good, and returns the first error. It closes
// all. A device that fails otherwise is read again and again.
func (l *loop) run() error {
	stop, timers := make(chan struct{}), make(chan struct{})
	go func() { l.tick(stop); close(timers) }()
	errs := make(chan error)
	workers := 0
	for s := range l.sides {
		for i := range l.sides[s].queues {
			workers++
			go func() { errs <- l.pump(nat.Side(s), i) }()
		}
	}
	var first error
	for i := range workers {
		if err := <-errs; first == nil {
			first = err
		}
		if i == 0 {
			l.stop() // one is of no use without the others
		}
	}
	close(stop)
	<-timers
	for q := range l.queues() {
		_ = q.dev.Close() // there is nothing left to lose
	}
	return first
}

// queues are those of both sides.
func (l *loop) queues() iter.Seq[*queue] {
	return func(yield func(*queue) bool) {
		for s := range l.sides {
			for _, q := range l.sides[s].queues {
				if !yield(q) {
					return
				}
			}
		}
	}
}

// count has the loop count in t from now on; before it runs.
func (l *loop) count(t *[2]tally) {
	for s := range l.sides {
		l.sides[s].tally = &t[s]
	}
}

// stop ends run, after what was read has been written: what is in the queue of a device stays there.
func (l *loop) stop() {
	for q := range l.queues() {
		if k, ok := q.dev.(tun.Keeper); ok && k.StopReading() == nil {
			continue
		}
		_ = q.dev.Close()
	}
}

// stuck reports whether a goroutine of the loop is still in the middle of what it was when seen was filled, and fills seen.
// One that waits for packets, or for time to pass, is not.
func (l *loop) stuck(seen map[*turns]uint64) bool {
	is := l.timers.stuck(seen)
	for q := range l.queues() {
		is = q.turns.stuck(seen) || is
	}
	return is
}

func (t *turns) stuck(seen map[*turns]uint64) bool {
	n := t.Load()
	is := n%2 == 1 && n == seen[t]
	seen[t] = n
	return is
}

// pump takes what one queue has to wherever it belongs, until the device is closed.
func (l *loop) pump(from nat.Side, number int) error {
	in := &l.sides[from]
	q := in.queues[number]
	w := l.engine.Worker()
	read, ps := batches(q.dev)
	batch := len(ps)
	vs := make([]nat.Verdict, batch)
	var out [2][]packet.Packet
	for s := range out {
		out[s] = make([]packet.Packet, 0, 2*batch)
	}
	for {
		n, err := read(ps)
		if n <= 0 {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			if errors.Is(err, tun.ErrGone) {
				return fmt.Errorf("interface %s was deleted by somebody else: start the gateway again", q.dev.Name())
			}
			l.stumble(in, number, err)
			continue
		}
		if in.unread.some.Load() {
			in.unread.works(l.book, q.dev.Name(), number, l.clock())
		}
		q.turns.begin()
		np, nb := sizes(ps[:n])
		q.readPackets.Add(np)
		in.readPackets.Add(np)
		in.readBytes.Add(nb)
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
		l.flush(w, number, &out)
		q.turns.end()
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
		l.timers.begin()
		next := w.Tick(l.now())
		l.flush(w, 0, &out)
		l.timers.end()
		t.Reset(max(next-l.now(), tickGap))
	}
}

// flush writes what is in out, and after it what the engine made, to the queues of a number.
func (l *loop) flush(w *nat.Worker, number int, out *[2][]packet.Packet) {
	for _, e := range w.Emitted() {
		out[e.Side] = append(out[e.Side], e.Packet)
	}
	for s := range out {
		if len(out[s]) > 0 {
			l.write(nat.Side(s), number, out[s])
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
func (l *loop) stumble(p *port, number int, err error) {
	p.readErrors.Add(1)
	if err == nil {
		err = errNothing
	}
	failed := p.unread.fails(l.book, p.name(), number, 1, l.clock(), err)
	time.Sleep(backoff(time.Millisecond, failed, 100*time.Millisecond))
}

// A device that has taken none of that many packets in a row, for so long, takes nothing. Less is a full queue.
const (
	refusedMany = 64
	refusedLong = time.Second
)

// write counts what the device refuses. A device that is gone or closed is found by its reader, and one that is down by
// who looks at the machine.
func (l *loop) write(to nat.Side, number int, ps []packet.Packet) {
	p := &l.sides[to]
	q := p.queues[number]
	q.mu.Lock()
	defer q.mu.Unlock()
	np, nb := sizes(ps)
	q.wrotePackets.Add(np)
	p.wrotePackets.Add(np)
	p.wroteBytes.Add(nb)
	n, err := q.dev.Write(ps)
	if n == len(ps) && err == nil && !p.untaken.some.Load() {
		return
	}
	refused := len(ps) - n
	if some := (*tun.WriteError)(nil); errors.As(err, &some) {
		refused = some.Refused
	}
	p.refused.Add(uint64(refused))
	switch {
	case n > 0:
		p.untaken.works(l.book, q.dev.Name(), number, l.clock())
	case errors.Is(err, os.ErrClosed), errors.Is(err, tun.ErrGone), errors.Is(err, tun.ErrDown):
	default:
		if err == nil {
			err = errUntaken
		}
		p.untaken.fails(l.book, q.dev.Name(), number, refused, l.clock(), err)
	}
}

// sizes counts a super-packet as the packets it stands for.
func sizes(ps []packet.Packet) (packets, bytes uint64) {
	for i := range ps {
		packets += uint64(ps[i].Segments())
		bytes += uint64(ps[i].Len)
	}
	return packets, bytes
}

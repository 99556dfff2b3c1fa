// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// Worker is what one goroutine translates packets with: scratch space and counters beside the shared Engine. It is made by
// Engine.Worker, and must not be used by two goroutines at once.
type Worker struct {
	e    *Engine
	pol  *policy // during a call
	tick uint32  // during a call: of the shard that is held, or of the call
	ms   uint64  // time of the call, in milliseconds
	call uint32  // and as a tick
	held *shard  // the shard whose lock is held

	// why is not nil in the worker of Explain, which may change nothing that others see. See rehearsal.
	why *rehearsal

	emitted []Emission
	bufs    [][]byte // scratch, used of them in this call
	used    int
	cause   int

	items   [maxBatch]item
	flows   [maxBatch]newFlow
	tags    [maxBatch]uint32           // of the items
	hs      [maxBatch]conntrack.Handle // what a lookup has found for each
	mixed   bool                       // not all items are for one shard, or for a lookup
	ask     questions
	touched uint64
	pieces  []packet.Packet

	// counters are in the records. Those of a batch are collected first.
	counters *workerCounters
	batch    [NumVerdicts]uint32
	seen     uint64 // which of batch are not zero
}

// maxBatch is how many packets go through the stages of a batch together.
const maxBatch = 64

// The verdicts fit the bits of Worker.seen.
const _ = uint(64 - NumVerdicts)

// Worker makes one more worker.
func (e *Engine) Worker() *Worker {
	e.mustBeMade()
	n := e.workers.Add(1) - 1
	return &Worker{e: e, counters: &e.kept.workers[n%keptWorkers]}
}

// Emitted is what the last call to Translate, Batch or Tick made beside its input. It is valid until the next call.
func (w *Worker) Emitted() []Emission { return w.emitted }

// Translate decides about one packet, which came from an attachment at the time now, and rewrites it in place: with a
// Forward verdict p is to be sent to the Side of the verdict; otherwise it is to be forgotten, and its bytes are
// undefined. The engine keeps nothing of p.
//
// now is the time since some fixed moment, from a clock that runs evenly (not the time of day); a step back counts as
// none. Equal engines, calls and times give equal results.
func (w *Worker) Translate(p *packet.Packet, from AttachmentID, now time.Duration) Verdict {
	w.begin(now)
	v := w.one(p, from, 0)
	w.end()
	return v
}

// Batch is Translate for packets that came from one attachment at one time: vs[i] becomes the verdict of ps[i]. It is
// several times as fast as so many calls, and has the same results. Equal lengths are the caller's duty.
func (w *Worker) Batch(ps []packet.Packet, from AttachmentID, now time.Duration, vs []Verdict) {
	w.begin(now)
	_ = vs[:len(ps)]
	for i := 0; i < len(ps); i += maxBatch {
		n := min(maxBatch, len(ps)-i)
		w.stages(ps[i:i+n], from, vs[i:i+n], i)
	}
	w.end()
}

func (w *Worker) begin(now time.Duration) {
	if w.e == nil {
		panic("nat: this Worker was not made by Engine.Worker")
	}
	w.emitted, w.used = w.emitted[:0], 0
	w.ms = w.e.latest(now)
	w.call = uint32(w.ms)
	w.tick = w.call
	w.e.mu.RLock()
	w.pol = w.e.pol
}

func (w *Worker) end() {
	w.leave()
	w.pol = nil
	w.e.mu.RUnlock()
	for s := w.seen; s != 0; s &= s - 1 {
		v := bits.TrailingZeros64(s)
		w.counters.verdicts[v].Add(uint64(w.batch[v]))
		w.batch[v] = 0
	}
	w.seen = 0
	if n := len(w.emitted); n > 0 {
		w.counters.emitted.Add(uint64(n))
	}
}

// countMany counts n packets with one verdict.
func (w *Worker) countMany(v Verdict, n uint32) {
	if n > 0 {
		w.batch[v] += n
		w.seen |= 1 << v
	}
}

func (w *Worker) count(v Verdict) Verdict {
	w.batch[v]++
	w.seen |= 1 << v
	return v
}

// enter takes the lock of shard number n, and gives back that of another.
func (w *Worker) enter(n int) *shard {
	sh := &w.e.shards[n]
	if w.held == sh {
		return sh
	}
	w.leave()
	sh.mu.Lock()
	w.held = sh
	w.tick = sh.latest(w.ms)
	return sh
}

func (w *Worker) leave() {
	if w.held != nil {
		w.held.mu.Unlock()
		w.held = nil
	}
}

// tickBudget is how many records one Tick looks at, in all shards together: the end of a session is about a microsecond,
// so that is less than 100 µs (BenchmarkExpiry).
const tickBudget = 64

// Tick fires the timers that emit something and gives back the records of sessions that have ended, in a bounded step.
// It returns when it wants to be called again: at the latest at that time, sooner does no harm. Sessions end on time
// whether Tick is called or not.
func (w *Worker) Tick(now time.Duration) (next time.Duration) {
	w.begin(now)
	w.cause = -1
	ahead := uint32(idleTick)
	soon := func(tick uint32, ok bool) {
		if d := tick - w.call; ok && d < ahead {
			ahead = d
		}
	}
	budget := max(1, tickBudget/len(w.e.shards))
	for i := range w.e.shards {
		sh := w.enter(i)
		if !sh.t.Advance(w.tick, budget) {
			ahead = 0
		}
		soon(sh.t.Due())
	}
	w.leave()
	w.e.frags.mu.Lock()
	w.e.frags.store.Advance(w.call)
	soon(w.e.frags.store.Next())
	w.e.frags.mu.Unlock()
	w.expireHeld()
	if due, ok := w.e.held.next(); ok {
		ahead = uint32(min(uint64(ahead), due-min(due, w.ms)))
	}
	w.end()
	return now + time.Duration(ahead)*time.Millisecond
}

// NextTimer is when the next timer is due that emits something, on the clock of the calls; ok is false if none is set.
// A Tick at just that time emits with the right time; a later one emits the same, late. Between two packets, whoever
// owns the clock (a simulation, a replay) asks and ticks until none is due before the second:
//
//	for at, ok := e.NextTimer(); ok && at <= now; at, ok = e.NextTimer() {
//		w.Tick(at) // and send what w.Emitted returns
//	}
//
// Sessions, mappings and fragments that time out emit nothing and are not counted as timers: they end on time by
// themselves.
func (e *Engine) NextTimer() (at time.Duration, ok bool) {
	ms, ok := e.held.nextLive()
	return time.Duration(ms) * time.Millisecond, ok
}

// idleTick is how long Tick may be left alone when there is nothing to do, in ticks.
const idleTick = 1000

// questions are what is looked up together: the tags, whose they are, and what is found.
type questions struct {
	tags [maxBatch]uint32
	at   [maxBatch]uint8
	hs   [maxBatch]conntrack.Handle
}

// item is a packet of a batch between its stages.
type item struct {
	v     packet.View
	other uint32 // the address that a pair is translated to
	pool  uint16 // of one that opens a session
	shard uint8
	state itemState
}

// foreseen is how many of the ports that the allocator may look at are loaded before.
const foreseen = 3

// newFlow is a packet that will make a session, between the steps of expect.
type newFlow struct {
	ext         uint32
	ports       [foreseen]uint16 // that the allocator will look at
	port        uint16
	item        uint8
	independent bool
	foreseen    bool // ext and ports are known
	settled     bool // there is a port for it, or none is looked for
}

type itemState uint8

const (
	slow  itemState = iota // goes through one
	fast                   // a lookup may do
	pair                   // a 1:1 mapping, and nothing else to look at
	opens                  // no session was found, and it goes out through a pool
)

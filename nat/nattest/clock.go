// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"container/heap"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/netstack"
)

// clock runs the events of a network one after the other, on the clock of package time.
//
// What makes a run repeatable in a bubble of testing/synctest: an event that is due at t runs a nanosecond later, when
// everything else that t brought about has come to rest; and after an event that may have woken somebody the clock
// waits for another nanosecond. So an event never races with the goroutines of a test, and events of one moment
// have an order that does not depend on who was scheduled first: by the number of their owner, then in its own order.
type clock struct {
	mu     sync.Mutex
	queue  eventQueue
	wake   chan struct{} // that the first event has changed
	closed chan struct{}
	done   chan struct{}
}

// owner is somebody whose events are in an order of its own.
type owner struct {
	number int
	seq    uint64 // of the last event, guarded by clock.mu
}

type event struct {
	clock *clock
	owner *owner
	at    time.Time
	seq   uint64
	place int // in the queue, or -1
	run   func() (woke bool)
}

func newClock() *clock {
	c := &clock{wake: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{})}
	go c.loop()
	return c
}

// after has f run when d has passed. f says whether it may have woken a goroutine of the test.
func (c *clock) after(o *owner, d time.Duration, f func() (woke bool)) *event {
	e := &event{clock: c, owner: o, place: -1, run: f}
	c.set(e, d)
	return e
}

func (c *clock) set(e *event, d time.Duration) (pending bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pending = e.place >= 0
	if pending {
		heap.Remove(&c.queue, e.place)
	}
	e.owner.seq++
	e.at, e.seq = time.Now().Add(d), e.owner.seq
	heap.Push(&c.queue, e)
	if e.place == 0 {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return pending
}

// Stop and Reset make an event a timer.
func (e *event) Stop() bool {
	e.clock.mu.Lock()
	defer e.clock.mu.Unlock()
	if e.place < 0 {
		return false
	}
	heap.Remove(&e.clock.queue, e.place)
	return true
}

func (e *event) Reset(d time.Duration) bool { return e.clock.set(e, d) }

// timers is what a host takes its timers from.
func (c *clock) timers(o *owner) func(time.Duration, func()) netstack.Timer {
	return func(d time.Duration, f func()) netstack.Timer {
		return c.after(o, d, func() bool { f(); return true })
	}
}

func (c *clock) loop() {
	defer close(c.done)
	for {
		e, wait := c.next()
		if e != nil {
			if e.run() {
				time.Sleep(1)
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-c.wake:
		case <-c.closed:
			return
		}
	}
}

// next is the event to run now; or else how long to wait for it, 0 being for ever.
func (c *clock) next() (*event, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		return nil, 0
	default:
	}
	if len(c.queue) == 0 {
		return nil, 0
	}
	if wait := time.Until(c.queue[0].at) + 1; wait > 0 {
		return nil, wait
	}
	return heap.Pop(&c.queue).(*event), 0
}

// close ends the loop; no event runs after it.
func (c *clock) close() {
	close(c.closed)
	<-c.done
}

type eventQueue []*event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	switch {
	case !a.at.Equal(b.at):
		return a.at.Before(b.at)
	case a.owner.number != b.owner.number:
		return a.owner.number < b.owner.number
	}
	return a.seq < b.seq
}

func (q eventQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *eventQueue) Push(x any) {
	e := x.(*event)
	e.place = len(*q)
	*q = append(*q, e)
}

func (q *eventQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.place = -1
	return e
}

// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/netstack"
)

// clock runs the events of a network one after the other, on the clock of package time.
//
// What makes a run repeatable in a bubble of testing/synctest is that the clock and the goroutines of the test never act
// at the same time. Events run in odd nanoseconds, when all that happened before has come to rest. A goroutine that an
// event wakes (data have come, a deadline has passed) is let go in an even one, and the next one when it has come to
// rest, too; what it sends is an event again. So goroutines go on in even nanoseconds, and sleep to even ones. Events of
// one moment have an order that does not depend on who was scheduled first: by the number of their owner, then in its
// own order. What an event brings about is timed from when it was due: the nanoseconds do not add up.
//
// In real time, events run when they are due, and wake at once.
type clock struct {
	virtual bool
	start   time.Time
	due     time.Time // when the event that runs was due; for the clock's own goroutine

	mu     sync.Mutex
	queue  eventQueue
	woken  []func()      // who is to be let go
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
	run   func()
}

func newClock() *clock {
	c := &clock{
		virtual: inBubble(), start: time.Now(),
		wake: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{}),
	}
	go c.loop()
	return c
}

// inBubble tells the time of a bubble, which starts in 2000, from that of the world.
func inBubble() bool { return time.Now().Year() < 2020 }

// after has f run when d has passed.
func (c *clock) after(o *owner, d time.Duration, f func()) *event {
	return c.at(o, time.Now().Add(d), f)
}

func (c *clock) at(o *owner, at time.Time, f func()) *event {
	e := &event{clock: c, owner: o, place: -1, run: f}
	c.set(e, at)
	return e
}

func (c *clock) set(e *event, at time.Time) (pending bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pending = e.place >= 0
	if pending {
		heap.Remove(&c.queue, e.place)
	}
	e.owner.seq++
	e.at, e.seq = at, e.owner.seq
	heap.Push(&c.queue, e)
	if e.place == 0 {
		c.notify()
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

func (e *event) Reset(d time.Duration) bool { return e.clock.set(e, time.Now().Add(d)) }

// timers is what a host takes its timers from.
func (c *clock) timers(o *owner) func(time.Duration, func()) netstack.Timer {
	return func(d time.Duration, f func()) netstack.Timer {
		return c.after(o, d, f)
	}
}

// release lets a goroutine go on, which f does, when all else has come to rest.
func (c *clock) release(f func()) {
	if !c.virtual {
		f()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = append(c.woken, f)
	c.notify()
}

// notify is for whoever has changed the queue, and holds mu.
func (c *clock) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *clock) loop() {
	defer close(c.done)
	c.settle()
	for {
		e, f, wait := c.next()
		switch {
		case e != nil:
			c.due = e.at
			e.run()
			continue
		case f != nil:
			time.Sleep(1)
			f()
			c.settle()
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
		c.settle()
	}
}

// settle waits for all others, up to the next odd nanosecond.
func (c *clock) settle() {
	if c.virtual {
		time.Sleep(1 + time.Since(c.start)&1)
	}
}

// next is the event to run now; or else whom to let go, or how long to wait for an event, 0 being for ever.
func (c *clock) next() (e *event, release func(), wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		return nil, nil, 0
	default:
	}
	if len(c.queue) > 0 {
		if wait = time.Until(c.queue[0].at); wait <= 0 {
			return heap.Pop(&c.queue).(*event), nil, 0
		}
	}
	if len(c.woken) > 0 {
		release = c.woken[0]
		c.woken = slices.Delete(c.woken, 0, 1)
		return nil, release, 0
	}
	return nil, nil, wait
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

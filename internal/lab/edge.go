// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gaissmai/bart"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// Port is a place where an edge's packets come from and go to.
type Port struct {
	// Name is for people: the host behind an inside port.
	Name string
	// Device carries the packets. The edge closes it.
	Device tun.Device
	// ID is the attachment that policies know it by, its own in an edge, and Side its side. On the inside, what is behind a
	// port is the Sources of its attachment; on the outside there is one port, and everything else is behind that.
	ID   nat.AttachmentID
	Side nat.Side
}

// Tap is shown each packet of an edge: as it was read, and as it was written (sent). It must not keep p, nor change it.
// It is called by one goroutine at a time.
type Tap func(port *Port, sent bool, p *packet.Packet, at time.Time)

// Fault is a defect planted into an edge, to prove that whoever judges the edge would notice. Nil functions do nothing.
type Fault struct {
	// Policy replaces a policy before it is applied; old is the one in force, or nil.
	Policy func(old, new *nat.Policy) *nat.Policy
	// Packet is called for each packet after the engine was, and may change packet and verdict.
	Packet func(v nat.Verdict, p *packet.Packet) nat.Verdict
}

// EdgeOptions are what an Edge is made of.
type EdgeOptions struct {
	// Engine configures the engine. It gets one worker.
	Engine nat.Config
	// Policy is the first one. Attachments of it that no port has are harmless.
	Policy *nat.Policy
	// Ports are those that are there from the start.
	Ports []Port
	// Taps see what goes in and out.
	Taps []Tap
	// Fault is for tests.
	Fault Fault
}

// Edge is the loop around an engine: it reads from all ports, translates, and writes to the port that the verdict and
// the destination name. One goroutine a port reads; a lock makes their turns at the engine one after the other, which is
// all that a lab needs.
type Edge struct {
	taps   []Tap
	fault  Fault
	engine *nat.Engine
	start  time.Time
	closed chan struct{}
	ticks  sync.WaitGroup

	mu       sync.Mutex // all below, and turns at the engine
	ports    []*port    // in the order in which they came
	outside  *port      // or nil
	inside   *bart.Table[*port]
	worker   *nat.Worker
	policy   *nat.Policy
	verdicts []nat.Verdict
	err      error // the first
}

// port is a Port of an edge.
type port struct {
	Port
	out  []packet.Packet // to be written in this turn
	done chan struct{}   // closed when nobody reads it any more
}

// NewEdge starts an edge. It owns the ports' devices from here on, even if it fails.
func NewEdge(o EdgeOptions) (*Edge, error) {
	e := &Edge{taps: o.Taps, fault: o.Fault, start: time.Now(), closed: make(chan struct{})}
	p := e.faulty(o.Policy)
	engine, err := nat.New(o.Engine, p)
	if err != nil {
		for i := range o.Ports {
			err = errors.Join(err, o.Ports[i].Device.Close())
		}
		return nil, err
	}
	e.engine, e.worker = engine, engine.Worker()
	e.adopt(p)
	for i, port := range o.Ports {
		if err := e.Attach(port); err != nil {
			for _, rest := range o.Ports[i:] {
				err = errors.Join(err, rest.Device.Close())
			}
			return nil, errors.Join(err, e.Close())
		}
	}
	e.ticks.Go(e.tick)
	return e, nil
}

// Attach adds a port, whose device is the edge's from here on, unless it fails: an attachment has one port, and the outside
// has one.
func (e *Edge) Attach(p Port) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.find(p.ID) != nil:
		return fmt.Errorf("attach %s: attachment %d has a port, %s", p.Name, p.ID, e.find(p.ID).Name)
	case p.Side == nat.Outside && e.outside != nil:
		return fmt.Errorf("attach %s: the outside has a port, %s", p.Name, e.outside.Name)
	}
	added := &port{Port: p, done: make(chan struct{})}
	e.ports = append(e.ports, added)
	if p.Side == nat.Outside {
		e.outside = added
	}
	e.adopt(e.policy)
	go func() {
		defer close(added.done)
		e.read(added)
	}()
	return nil
}

// Detach removes the port of an attachment and closes its device, if there is one. When it returns no packet of the port is
// under way.
func (e *Edge) Detach(id nat.AttachmentID) error {
	e.mu.Lock()
	p := e.find(id)
	if p == nil {
		e.mu.Unlock()
		return nil
	}
	e.ports = slices.DeleteFunc(e.ports, func(q *port) bool { return q == p })
	if e.outside == p {
		e.outside = nil
	}
	e.adopt(e.policy)
	e.mu.Unlock()
	err := p.Device.Close()
	<-p.done
	return err
}

func (e *Edge) find(id nat.AttachmentID) *port {
	if i := slices.IndexFunc(e.ports, func(p *port) bool { return p.ID == id }); i >= 0 {
		return e.ports[i]
	}
	return nil
}

func (e *Edge) faulty(p *nat.Policy) *nat.Policy {
	if e.fault.Policy != nil {
		return e.fault.Policy(e.policy, p)
	}
	return p
}

// adopt makes p the policy that packets are sent by.
func (e *Edge) adopt(p *nat.Policy) {
	e.policy, e.inside = p, &bart.Table[*port]{}
	for _, a := range p.Attachments {
		port := e.find(a.ID)
		if port == nil || port.Side != a.Side || a.Side == nat.Outside {
			continue
		}
		for _, s := range a.Sources {
			e.inside.Insert(s, port)
		}
	}
}

// Apply puts a policy in force, between two packets. A policy that the engine refuses changes nothing.
func (e *Edge) Apply(p *nat.Policy) (nat.Impact, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p = e.faulty(p)
	impact, err := e.engine.Apply(p, e.now())
	if err == nil {
		e.adopt(p)
	}
	return impact, err
}

// Preview says what Apply would do, and refuses what it would refuse.
func (e *Edge) Preview(p *nat.Policy) (nat.Impact, error) { return e.engine.Preview(p, e.now()) }

// Stats are the engine's counters. What the taps have been shown as read is counted.
func (e *Edge) Stats() nat.Stats {
	e.mu.Lock() // no turn is half done
	defer e.mu.Unlock()
	return e.engine.Stats(e.now())
}

// PoolStats are the engine's counters by pool.
func (e *Edge) PoolStats() []nat.PoolStats { return e.engine.PoolStats(e.now()) }

// Sessions are the engine's live sessions.
func (e *Edge) Sessions() iter.Seq[nat.Session] { return e.engine.Sessions(e.now()) }

// Err is what has gone wrong in the loop or in the engine's tables so far, or nil.
func (e *Edge) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.err, e.engine.Check(e.now()))
}

// Close ends the edge and closes the devices. It may be called once.
func (e *Edge) Close() error {
	close(e.closed)
	e.ticks.Wait()
	e.mu.Lock()
	all := slices.Clone(e.ports)
	e.mu.Unlock()
	var errs []error
	for _, p := range all {
		errs = append(errs, e.Detach(p.ID))
	}
	return errors.Join(errs...)
}

func (e *Edge) now() time.Duration { return time.Since(e.start) }

// read is the loop of one port.
func (e *Edge) read(p *port) {
	dev := p.Device
	ps := make([]packet.Packet, dev.BatchSize())
	for j := range ps {
		ps[j].Buf = make([]byte, dev.BufferSize())
	}
	for {
		n, err := dev.Read(ps)
		if err != nil {
			e.mu.Lock()
			e.fail("read from", p, err)
			e.mu.Unlock()
			return
		}
		e.turn(p, ps[:n])
	}
}

// turn takes one batch of a port through the engine and out.
func (e *Edge) turn(p *port, ps []packet.Packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.find(p.ID) != p { // detached meanwhile
		return
	}
	e.tap(p, false, ps)
	if len(e.verdicts) < len(ps) {
		e.verdicts = make([]nat.Verdict, len(ps))
	}
	vs := e.verdicts[:len(ps)]
	e.worker.Batch(ps, p.ID, e.now(), vs)
	for j := range ps {
		v := vs[j]
		if e.fault.Packet != nil {
			v = e.fault.Packet(v, &ps[j])
		}
		if v.Forward() && v != nat.ToHost {
			e.queue(v.Side(), ps[j])
		}
	}
	e.flush()
}

// tick gives the engine its turn when timers are due.
func (e *Edge) tick() {
	for {
		e.mu.Lock()
		next := e.worker.Tick(e.now())
		e.flush()
		e.mu.Unlock()
		// Not more often than can matter in a lab; not so rarely that new timers come late.
		wait := min(max(next-e.now(), 10*time.Millisecond), time.Second)
		select {
		case <-e.closed:
			return
		case <-time.After(wait):
		}
	}
}

// queue sets p aside for the port it leaves by. A destination that no port has is dropped.
func (e *Edge) queue(side nat.Side, p packet.Packet) {
	to, ok := e.outside, e.outside != nil
	if side == nat.Inside {
		to, ok = e.inside.Lookup(destination(&p))
	}
	if ok {
		to.out = append(to.out, p)
	}
}

// flush writes what is queued, and after it what the engine emitted in this turn.
func (e *Edge) flush() {
	for _, m := range e.worker.Emitted() {
		e.queue(m.Side, m.Packet)
	}
	for _, p := range e.ports {
		if len(p.out) == 0 {
			continue
		}
		e.tap(p, true, p.out)
		_, err := p.Device.Write(p.out)
		var refused *tun.WriteError
		if !errors.As(err, &refused) { // an interface that is down or full loses packets, as a wire does
			e.fail("write to", p, err)
		}
		p.out = p.out[:0]
	}
}

// fail remembers the first error of the loop. That a device was closed is none.
func (e *Edge) fail(what string, p *port, err error) {
	if e.err == nil && err != nil && !errors.Is(err, os.ErrClosed) {
		e.err = fmt.Errorf("%s %s: %w", what, p.Name, err)
	}
}

func (e *Edge) tap(p *port, sent bool, ps []packet.Packet) {
	at := time.Now()
	for _, t := range e.taps {
		for j := range ps {
			t(&p.Port, sent, &ps[j], at)
		}
	}
}

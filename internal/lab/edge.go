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
	// ID is the attachment that policies know it by, Side its side. On the inside, what is behind a port is the Sources
	// of its attachment; on the outside there is one port, and everything else is behind that.
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
	// Ports are all there will be.
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
	ports   []Port
	taps    []Tap
	fault   Fault
	engine  *nat.Engine
	start   time.Time
	outside int // index of the outside port, or -1
	closed  chan struct{}
	wg      sync.WaitGroup

	mu       sync.Mutex       // all below, and turns at the engine
	inside   *bart.Table[int] // destination to index of ports
	worker   *nat.Worker
	policy   *nat.Policy
	verdicts []nat.Verdict
	out      [][]packet.Packet // by port, to be written in this turn
	err      error             // the first
}

// NewEdge starts an edge. It owns the ports' devices from here on, even if it fails.
func NewEdge(o EdgeOptions) (*Edge, error) {
	e := &Edge{ports: o.Ports, taps: o.Taps, fault: o.Fault, start: time.Now(), closed: make(chan struct{}),
		outside: slices.IndexFunc(o.Ports, func(p Port) bool { return p.Side == nat.Outside }),
		out:     make([][]packet.Packet, len(o.Ports))}
	p := e.faulty(o.Policy)
	engine, err := nat.New(o.Engine, p)
	if err != nil {
		return nil, errors.Join(err, e.closeDevices())
	}
	e.engine, e.worker = engine, engine.Worker()
	e.adopt(p)
	for i := range e.ports {
		e.wg.Go(func() { e.read(i) })
	}
	e.wg.Go(e.tick)
	return e, nil
}

func (e *Edge) faulty(p *nat.Policy) *nat.Policy {
	if e.fault.Policy != nil {
		return e.fault.Policy(e.policy, p)
	}
	return p
}

// adopt makes p the policy that packets are sent by.
func (e *Edge) adopt(p *nat.Policy) {
	e.policy, e.inside = p, &bart.Table[int]{}
	for _, a := range p.Attachments {
		i := slices.IndexFunc(e.ports, func(port Port) bool { return port.ID == a.ID && port.Side == a.Side })
		if i < 0 || a.Side == nat.Outside {
			continue
		}
		for _, s := range a.Sources {
			e.inside.Insert(s, i)
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

// Stats are the engine's counters. What the taps have been shown as read is counted.
func (e *Edge) Stats() nat.Stats {
	e.mu.Lock() // no turn is half done
	defer e.mu.Unlock()
	return e.engine.Stats(e.now())
}

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
	err := e.closeDevices()
	e.wg.Wait()
	return err
}

func (e *Edge) closeDevices() error {
	var errs []error
	for i := range e.ports {
		errs = append(errs, e.ports[i].Device.Close())
	}
	return errors.Join(errs...)
}

func (e *Edge) now() time.Duration { return time.Since(e.start) }

// read is the loop of one port.
func (e *Edge) read(i int) {
	dev := e.ports[i].Device
	ps := make([]packet.Packet, dev.BatchSize())
	for j := range ps {
		ps[j].Buf = make([]byte, dev.BufferSize())
	}
	for {
		n, err := dev.Read(ps)
		if err != nil {
			e.mu.Lock()
			e.fail("read from", i, err)
			e.mu.Unlock()
			return
		}
		e.turn(i, ps[:n])
	}
}

// turn takes one batch of port i through the engine and out.
func (e *Edge) turn(i int, ps []packet.Packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tap(i, false, ps)
	if len(e.verdicts) < len(ps) {
		e.verdicts = make([]nat.Verdict, len(ps))
	}
	vs := e.verdicts[:len(ps)]
	e.worker.Batch(ps, e.ports[i].ID, e.now(), vs)
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
	i, ok := e.outside, e.outside >= 0
	if side == nat.Inside {
		i, ok = e.inside.Lookup(destination(&p))
	}
	if ok {
		e.out[i] = append(e.out[i], p)
	}
}

// flush writes what is queued, and after it what the engine emitted in this turn.
func (e *Edge) flush() {
	for _, m := range e.worker.Emitted() {
		e.queue(m.Side, m.Packet)
	}
	for i, ps := range e.out {
		if len(ps) == 0 {
			continue
		}
		e.tap(i, true, ps)
		_, err := e.ports[i].Device.Write(ps)
		var refused *tun.WriteError
		if !errors.As(err, &refused) { // an interface that is down or full loses packets, as a wire does
			e.fail("write to", i, err)
		}
		e.out[i] = ps[:0]
	}
}

// fail remembers the first error of the loop. That a device was closed is none.
func (e *Edge) fail(what string, i int, err error) {
	if e.err == nil && err != nil && !errors.Is(err, os.ErrClosed) {
		e.err = fmt.Errorf("%s %s: %w", what, e.ports[i].Name, err)
	}
}

func (e *Edge) tap(i int, sent bool, ps []packet.Packet) {
	at := time.Now()
	for _, t := range e.taps {
		for j := range ps {
			t(&e.ports[i], sent, &ps[j], at)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Link is the wire between a host or NAT and the network it is on, both ways alike. The zero value is a perfect wire.
type Link struct {
	// Latency is how long a packet takes one way; Jitter is added to it, evenly between 0 and its value, without changing
	// the order of packets.
	Latency, Jitter time.Duration
	// Loss is the part of the packets that vanish, Duplicate the part that arrive twice, Reorder the part that come late:
	// by ReorderDelay, so that others overtake them. All are between 0 and 1.
	Loss, Duplicate, Reorder float64
	// ReorderDelay is how late; 0 means 10 ms.
	ReorderDelay time.Duration
	// Bandwidth is in bits a second; 0 is no limit. Queue is how many bytes may wait for it, 0 meaning 256 KiB: what does
	// not fit is dropped.
	Bandwidth int64
	Queue     int
	// MTU is the largest IP packet, in bytes; 0 means 1,500.
	MTU int
}

// DefaultLink is what a host or NAT has that was not given one: 5 ms each way.
var DefaultLink = Link{Latency: 5 * time.Millisecond}

const (
	defaultMTU     = 1500
	defaultQueue   = 256 << 10
	defaultReorder = 10 * time.Millisecond
)

func (l Link) mtu() int {
	if l.MTU == 0 {
		return defaultMTU
	}
	return l.MTU
}

// validate finds what makes no sense.
func (l Link) validate() error {
	for name, p := range map[string]float64{"Loss": l.Loss, "Duplicate": l.Duplicate, "Reorder": l.Reorder} {
		if !(p >= 0 && p <= 1) {
			return fmt.Errorf("link: %s is %v, which is not between 0 and 1", name, p)
		}
	}
	if l.Latency < 0 || l.Jitter < 0 || l.ReorderDelay < 0 || l.Bandwidth < 0 || l.Queue < 0 {
		return fmt.Errorf("link: a value is negative: %+v", l)
	}
	if m := l.mtu(); m < 68 || m > 65535 {
		return fmt.Errorf("link: an MTU of %d is not between 68 and 65535", m)
	}
	return nil
}

// wire is one direction of a link, at work. It belongs to the goroutine of the clock.
type wire struct {
	clock *clock
	owner *owner
	rand  *rand.Rand
	ready time.Time // when the last packet has left
	last  time.Time // when it arrives
	to    func(b []byte)
}

// send puts a packet on the wire.
func (w *wire) send(l Link, b []byte) {
	if l.Loss > 0 && w.rand.Float64() < l.Loss {
		return
	}
	now := w.clock.due
	leaves := now
	if l.Bandwidth > 0 {
		queue := l.Queue
		if queue == 0 {
			queue = defaultQueue
		}
		leaves = later(now, w.ready)
		if leaves.Sub(now).Seconds()*float64(l.Bandwidth)/8+float64(len(b)) > float64(queue) {
			return
		}
		leaves = leaves.Add(time.Duration(float64(len(b)*8) / float64(l.Bandwidth) * float64(time.Second)))
		w.ready = leaves
	}
	arrives := leaves.Add(l.Latency)
	if l.Jitter > 0 {
		arrives = arrives.Add(time.Duration(w.rand.Int64N(int64(l.Jitter) + 1)))
	}
	if l.Reorder > 0 && w.rand.Float64() < l.Reorder {
		delay := l.ReorderDelay
		if delay == 0 {
			delay = defaultReorder
		}
		w.arrive(arrives.Add(delay), b)
	} else {
		w.last = later(arrives, w.last)
		w.arrive(w.last, b)
	}
	if l.Duplicate > 0 && w.rand.Float64() < l.Duplicate {
		w.last = later(arrives, w.last)
		w.arrive(w.last, append([]byte(nil), b...))
	}
}

func (w *wire) arrive(at time.Time, b []byte) {
	w.clock.at(w.owner, at, func() { w.to(b) })
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

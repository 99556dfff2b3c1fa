// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"math/rand"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// clock is the clock of package time for a stack, whose timers have the stack to themselves when they fire.
type clock struct {
	start time.Time
	host  *Host
	after func(time.Duration, func()) Timer
}

func (c *clock) Now() time.Time { return time.Now() }

func (c *clock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(time.Since(c.start))
}

func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return timer{c.after(d, func() {
		c.host.do(func() {
			if !c.host.closed {
				f()
			}
		})
	})}
}

type timer struct{ t Timer }

func (t timer) Stop() bool            { return t.t.Stop() }
func (t timer) Reset(d time.Duration) { t.t.Reset(d) }

// source is a seeded source of random numbers that goroutines may share.
type source struct {
	mu  sync.Mutex
	src rand.Source64
}

func newSource(seed uint64) *source {
	return &source{src: rand.NewSource(int64(seed)).(rand.Source64)}
}

func (s *source) Int63() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Int63()
}

func (s *source) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.src.Uint64()
}

func (s *source) Seed(seed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.src.Seed(seed)
}

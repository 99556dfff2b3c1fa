// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spinner decides how long a Read looks again and again before it sleeps. Sleeping and being woken costs more than most
// packets do; spinning costs a processor. So it spins for a bounded time after a packet, and no more when that
// was of no use: after each time in vain it leaves out twice as many, up to mostSkipped. An interface without packets
// costs nothing, and one whose packets come too far apart a limit for each mostSkipped of them.
//
// The zero value never spins.
type spinner struct {
	limit   time.Duration
	end     time.Time // zero while it does not spin
	skip    int       // how many times it still leaves out
	backoff int
}

const mostSkipped = 256

// begin is called when something is to be waited for.
func (s *spinner) begin() {
	s.end = time.Time{}
	switch {
	case s.limit <= 0:
	case s.skip > 0:
		s.skip--
	default:
		s.end = time.Now().Add(s.limit)
	}
}

// again reports whether to look once more before sleeping. Others go first: what was written has woken somebody, who would wait
// for this processor until the scheduler took it away.
func (s *spinner) again() bool {
	if s.end.IsZero() {
		return false
	}
	if time.Now().Before(s.end) {
		_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		return true
	}
	s.end = time.Time{}
	s.backoff = min(max(1, 2*s.backoff), mostSkipped)
	s.skip = s.backoff
	return false
}

// found is called when there is something; it tells whether to sleep was spared.
func (s *spinner) found() {
	if !s.end.IsZero() {
		s.backoff = 0
	}
}

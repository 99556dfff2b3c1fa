// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/internal/control"
)

// ailment is one way in which an interface can fail, queue by queue. The book has one line of it for all queues: from when
// the first of them is ill until none is. A queue is ill that has failed many times in a row, for that long. It is well when
// it works again; or when another one works and it has not even failed for ailmentOld, since it may have nothing to do.
type ailment struct {
	op   string // in the subject of the fault
	says string // of the interface
	many int
	long time.Duration
	// some is whether any queue has failed lately: while it is false there is nothing to do for one that works.
	some   atomic.Bool
	mu     sync.Mutex
	queues []failures
	told   bool // the book knows
}

// failures are those of a queue since it last worked.
type failures struct {
	n           int
	first, last time.Duration
	ill         bool
}

// ailmentOld is much longer than a reader waits between two tries.
const ailmentOld = 10 * time.Second

// fails notes that a queue of the interface name has failed n times more, the last with err, and returns how often in a row it has.
func (a *ailment) fails(b *book, name string, queue, n int, now time.Duration, err error) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := &a.queues[queue]
	if f.n == 0 {
		f.first = now
	}
	f.n += n
	f.last = now
	a.some.Store(true)
	if !f.ill && f.n >= a.many && now-f.first >= a.long {
		f.ill, a.told = true, true
		id := a.id(name)
		b.wrong(control.Fault{Kind: id.kind, Subject: id.subject, Text: fmt.Sprintf("interface %s %s: %v", name, a.says, err)})
	}
	return f.n
}

// works notes that a queue does.
func (a *ailment) works(b *book, name string, queue int, now time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queues[queue] = failures{}
	some, ill := false, false
	for i := range a.queues {
		f := &a.queues[i]
		if now-f.last >= ailmentOld {
			*f = failures{}
		}
		some, ill = some || f.n > 0, ill || f.ill
	}
	a.some.Store(some)
	if a.told && !ill {
		a.told = false
		b.well(a.id(name))
	}
}

func (a *ailment) id(name string) faultID { return faultID{faultIO, name + " " + a.op} }

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/control"
)

// The kinds of faults, which are labels of metrics, in the order in which they are put right and told: causes before what
// follows from them.
const (
	faultGuard   = "guard"   // rules, or routes that refuse: what keeps untranslated packets in
	faultSysctl  = "sysctl"  // settings of the kernel
	faultDevice  = "device"  // a TUN: deleted, down, renamed, without its address or MTU
	faultRoutes  = "routes"  // routes to the TUNs
	faultARP     = "arp"     // external addresses that nobody answers for
	faultAddress = "address" // external addresses that somebody has given to an interface
	faultUplink  = "uplink"  // no way to the internet
	faultInside  = "inside"  // no way to a part of the inside
	faultIO      = "io"      // a TUN cannot be read, or takes nothing
	faultMonitor = "monitor" // the machine cannot be looked at
)

var faultKinds = []string{faultGuard, faultSysctl, faultDevice, faultRoutes, faultARP, faultAddress, faultUplink, faultInside,
	faultIO, faultMonitor}

// How patient a book is.
const (
	// A fault may come back that often and is put right, and told, at once. Then somebody undoes what the gateway does, or a
	// cable is loose: each time there is a longer pause before the next try, and nothing is said until it is over.
	faultsAtOnce = 3
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// What has been well for faultCalm starts anew.
	faultCalm = time.Minute
	// What comes and goes is well again after it has been for faultSettle, or two pauses.
	faultSettle = 10 * time.Second
	// After a try that failed there is another, sooner than that.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// book has what is wrong, and says so in the log: once when it begins and once when it is over.
type book struct {
	log   *slog.Logger
	clock func() time.Duration

	mu      sync.Mutex
	entries map[faultID]*entry
	// How often each kind began, and how often the gateway put it right.
	began, repaired map[string]uint64
	resyncs         uint64 // how often the kernel had more to tell than was read
}

// faultID names a fault.
type faultID struct{ kind, subject string }

func idOf(f *control.Fault) faultID { return faultID{f.Kind, f.Subject} }

// entry is a fault that is there, or was lately.
type entry struct {
	fault  control.Fault
	wrong  bool
	since  time.Duration // when it became wrong, or well
	begun  time.Duration // when it became wrong what the log was told last
	told   bool          // the log has heard that it is wrong, and not that it is well
	often  int           // how often it was wrong without calm in between
	ours   bool          // it was the gateway that put it right
	tries  int           // that failed since it became wrong
	next   time.Duration // when to try next
	missed bool          // the log has heard that a try failed
}

func newBook(log *slog.Logger, clock func() time.Duration) *book {
	return &book{log: log, clock: clock, entries: map[faultID]*entry{}, began: map[string]uint64{}, repaired: map[string]uint64{}}
}

// pause is how long to wait before the next try.
func (e *entry) pause() time.Duration {
	if e.often <= faultsAtOnce {
		return 0
	}
	return backoff(firstPause, e.often-faultsAtOnce-1, longestPause)
}

// backoff doubles n times, up to a limit.
func backoff(first time.Duration, n int, limit time.Duration) time.Duration {
	return min(first<<min(n, 30), limit)
}

// see is told all that is wrong of some kinds, and notes what is new and what is over.
func (b *book) see(found []control.Fault, kinds ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	there := map[faultID]bool{}
	for _, f := range found {
		there[idOf(&f)] = true
		b.begin(f)
	}
	for id := range b.entries {
		if !there[id] && slices.Contains(kinds, id.kind) {
			b.over(id)
		}
	}
	b.settle()
}

// wrong notes that something is.
func (b *book) wrong(f control.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin(f)
}

// well notes that something is.
func (b *book) well(id faultID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over(id)
}

func (b *book) begin(f control.Fault) {
	now := b.clock()
	e := b.entries[idOf(&f)]
	if e == nil {
		e = &entry{since: now - faultCalm}
		b.entries[idOf(&f)] = e
	}
	if e.wrong { // it may have become more, or less
		e.fault.Text = f.Text
		return
	}
	if now-e.since >= faultCalm {
		e.often = 0
	}
	e.fault = f
	e.fault.Since = time.Now().UTC()
	e.wrong, e.since, e.ours, e.tries, e.missed = true, now, false, 0, false
	b.again(e, now)
}

// again counts that it is wrong once more, and says so if that is news.
func (b *book) again(e *entry, now time.Duration) {
	b.began[e.fault.Kind]++
	e.often++
	e.next = now + e.pause()
	if e.often == faultsAtOnce+1 {
		b.log.Warn("this comes again and again, so nothing more is said of it until it is over; it is put right less and less often: "+e.fault.Text,
			"fault", e.fault.Kind)
	}
	if e.told {
		return
	}
	e.told, e.begun = true, now
	if e.often != faultsAtOnce+1 {
		b.log.Warn(e.fault.Text, "fault", e.fault.Kind)
	}
}

func (b *book) over(id faultID) {
	e := b.entries[id]
	if e == nil || !e.wrong {
		return
	}
	e.wrong, e.since, e.fault.Error = false, b.clock(), ""
	if e.ours {
		b.repaired[id.kind]++
	}
	b.tell(e)
}

// tell says that something is well again, when that is sure.
func (b *book) tell(e *entry) {
	now := b.clock()
	if !e.told || e.often > faultsAtOnce && now-e.since < max(faultSettle, 2*e.pause()) {
		return
	}
	e.told = false
	by := "itself"
	if e.ours {
		by = "the gateway"
	}
	b.log.Info("no longer: "+e.fault.Text, "fault", e.fault.Kind, "by", by, "after", (e.since - e.begun).Round(time.Millisecond).String())
}

// settle says what has been well for long enough, and forgets it in the end.
func (b *book) settle() {
	for id, e := range b.entries {
		if e.wrong {
			continue
		}
		b.tell(e)
		if b.clock()-e.since >= faultCalm {
			delete(b.entries, id)
		}
	}
}

// due reports whether it is time to put something right.
func (b *book) due(id faultID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	return e != nil && e.wrong && e.next <= b.clock()
}

// tried notes what became of an attempt to put something right. The next look tells whether it holds.
func (b *book) tried(id faultID, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[id]
	if e == nil || !e.wrong {
		return
	}
	if e.ours = err == nil; e.ours {
		e.fault.Error = ""
		return
	}
	e.fault.Error = err.Error()
	e.next = b.clock() + backoff(firstRetry, e.tries, longestRetry)
	e.tries++
	if !e.missed {
		e.missed = true
		b.log.Error("cannot be put right, tried again from time to time: "+e.fault.Text, "fault", e.fault.Kind, "error", err)
	}
}

// undone notes what is wrong although it was put right.
func (b *book) undone() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.wrong && e.ours {
			e.ours = false
			b.again(e, b.clock())
			e.next = max(e.next, b.clock()+firstRetry)
		}
	}
}

// wake is how long there is nothing to try or to say, at most limit.
func (b *book) wake(limit time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock()
	for _, e := range b.entries {
		switch {
		case e.wrong && e.next > now:
			limit = min(limit, e.next-now)
		case !e.wrong && e.told:
			limit = min(limit, max(faultSettle, 2*e.pause()))
		}
	}
	return limit
}

// complete fills into what was found what the book knows about it, and adds what it has of other kinds.
func (b *book) complete(found []control.Fault, kinds ...string) []control.Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range found {
		f := &found[i]
		f.Since = time.Now().UTC()
		if e := b.entries[idOf(f)]; e != nil && e.wrong {
			f.Since, f.Error = e.fault.Since, e.fault.Error
		}
	}
	for id, e := range b.entries {
		if e.wrong && !slices.Contains(kinds, id.kind) {
			found = append(found, e.fault)
		}
	}
	slices.SortStableFunc(found, func(a, c control.Fault) int {
		return slices.Index(faultKinds, a.Kind) - slices.Index(faultKinds, c.Kind)
	})
	return found
}

// resynced counts that the kernel had more to tell than was read.
func (b *book) resynced() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resyncs++
}

// counts are how often a kind began, and was put right, and how often the kernel had more to tell than was read.
func (b *book) counts(kind string) (began, repaired, resyncs uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.began[kind], b.repaired[kind], b.resyncs
}

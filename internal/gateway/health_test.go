// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/control"
)

// ledger is a book on a clock of its own.
type ledger struct {
	*book
	now time.Duration
	log *journal
}

func newLedger() *ledger {
	l := &ledger{now: time.Hour}
	j, log := newJournal()
	l.log, l.book = j, newBook(log, func() time.Duration { return l.now })
	return l
}

var lost = control.Fault{Kind: faultRoutes, Text: "1 of 3 routes to the TUNs are missing"}

// breaks and mends are one look at the machine each.
func (l *ledger) breaks() { l.see([]control.Fault{lost}, faultRoutes) }
func (l *ledger) mends() {
	l.tried(idOf(&lost), nil)
	l.see(nil, faultRoutes)
}

// TestBookTells: once that something is wrong, however often it is seen so, and once that it is over, by whom.
func TestBookTells(t *testing.T) {
	l := newLedger()
	for range 10 {
		l.breaks()
		l.now += time.Second
	}
	if got := l.complete(nil); len(got) != 1 || got[0].Since.IsZero() || time.Since(got[0].Since) > time.Minute {
		t.Errorf("%+v", got)
	}
	l.see([]control.Fault{lost}, faultGuard) // of other kinds it was told nothing
	l.see(nil, faultGuard)
	if len(l.complete(nil)) != 1 {
		t.Error("a look at something else has ended it")
	}
	l.see(nil, faultRoutes)
	l.breaks()
	l.mends()
	want := []string{
		`level=WARN msg="1 of 3 routes to the TUNs are missing" fault=routes`,
		`level=INFO msg="no longer: 1 of 3 routes to the TUNs are missing" fault=routes by=itself`,
		`level=WARN msg="1 of 3 routes to the TUNs are missing" fault=routes`,
		`level=INFO msg="no longer: 1 of 3 routes to the TUNs are missing" fault=routes by="the gateway"`,
	}
	if got := l.log.lines(""); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log:\n%s", strings.Join(got, "\n"))
	}
	if began, repaired, _ := l.counts(faultRoutes); began != 2 || repaired != 1 {
		t.Errorf("began %d times, repaired %d times", began, repaired)
	}
}

// TestBookFight: what somebody undoes at once each time is put right less and less often, for as long as that goes on, and
// said to be well when it has been for a while. An hour of it is a few lines.
func TestBookFight(t *testing.T) {
	l := newLedger()
	tries, last, longest := 0, l.now, time.Duration(0)
	for end := l.now + time.Hour; l.now < end; l.now += 10 * time.Millisecond {
		l.breaks()
		if !l.due(idOf(&lost)) {
			continue
		}
		tries++
		longest = max(longest, l.now-last)
		last = l.now
		l.mends()
	}
	if tries < 100 || tries > 150 || longest < longestPause || longest > longestPause+time.Second {
		t.Errorf("%d tries in an hour, at most %v apart", tries, longest)
	}
	if all := l.log.lines(""); len(all) != 2*faultsAtOnce+1 || len(l.log.lines("this comes again and again")) != 1 {
		t.Errorf("the log:\n%s", strings.Join(all, "\n"))
	}
	l.breaks()
	l.now += longestPause
	l.mends()
	if len(l.complete(nil)) != 0 {
		t.Error("well, but not said to be")
	}
	before := len(l.log.lines(""))
	l.now += l.wake(time.Hour)
	l.see(nil, faultRoutes)
	if all := l.log.lines("")[before:]; len(all) != 1 || !strings.Contains(all[0], "no longer: ") {
		t.Errorf("when it is over: %q", all)
	}
	l.now += faultCalm
	l.see(nil, faultRoutes)
	if len(l.entries) != 0 {
		t.Errorf("%d entries are kept", len(l.entries))
	}
	l.breaks()
	if !l.due(idOf(&lost)) {
		t.Error("what was forgotten is not put right at once")
	}
}

// TestBookUndone: so is what is found wrong in the very look after it was put right.
func TestBookUndone(t *testing.T) {
	l := newLedger()
	tries := 0
	for end := l.now + time.Minute; l.now < end; l.now += 10 * time.Millisecond {
		l.breaks()
		if l.due(idOf(&lost)) {
			tries++
			l.tried(idOf(&lost), nil)
			l.breaks()
			l.undone()
		}
	}
	if tries < 5 || tries > 10 {
		t.Errorf("%d tries in a minute", tries)
	}
	if all := l.log.lines(""); len(all) != 2 {
		t.Errorf("the log:\n%s", strings.Join(all, "\n"))
	}
}

// TestBookFails: what cannot be put right is tried again, with pauses, and the reason is told, once in the log.
func TestBookFails(t *testing.T) {
	l := newLedger()
	tries := 0
	for end := l.now + time.Minute; l.now < end; l.now += 10 * time.Millisecond {
		l.breaks()
		if l.due(idOf(&lost)) {
			tries++
			l.tried(idOf(&lost), errors.New("no such device"))
		}
	}
	if tries < 10 || tries > 15 {
		t.Errorf("%d tries in a minute", tries)
	}
	got := l.complete([]control.Fault{lost}, faultRoutes)
	if len(got) != 1 || got[0].String() != "1 of 3 routes to the TUNs are missing (to put that right fails: no such device)" {
		t.Errorf("%+v", got)
	}
	l.mends()
	if all := l.log.lines(""); len(all) != 3 || !strings.Contains(all[1], "no such device") {
		t.Errorf("the log:\n%s", strings.Join(all, "\n"))
	}
	if got := l.complete([]control.Fault{lost}, faultRoutes); got[0].Error != "" {
		t.Errorf("%+v", got)
	}
}

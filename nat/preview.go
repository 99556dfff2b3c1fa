// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"time"

	"github.com/tidegate/tidegate/conntrack"
)

// Preview says what Apply would do to the sessions that live at the time now, and changes nothing. It may run beside
// traffic, some records at a time, so between it and an Apply sessions come and go.
func (e *Engine) Preview(p *Policy, now time.Duration) (Impact, error) {
	e.mustBeMade()
	if err := e.cfg.validate(p); err != nil {
		return Impact{}, fmt.Errorf("nat: policy refused: %w", err)
	}
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	next := e.compile(p, e.renumber(p))
	next.inherit(e.pol, e.pol.epoch+1)
	timeouts := e.timeouts(next)
	var impact Impact
	for i := range e.shards {
		sh := &e.shards[i]
		for h := 1; h <= sh.t.Cap(); h += reconsiderAtOnce {
			e.preview(sh, h, next, timeouts, now, &impact)
		}
	}
	return impact, nil
}

// preview counts the records from first on.
func (e *Engine) preview(sh *shard, first int, next *policy, timeouts []uint32, now time.Duration, to *Impact) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	tick := sh.latest(e.latest(now))
	// As the table looks at it, with other time-outs.
	then := conntrack.Table{Timeouts: timeouts, Agrees: func(*conntrack.Record) bool { return true }}
	for h := first; h < first+reconsiderAtOnce && h <= sh.t.Cap(); h++ {
		r := sh.t.Rec(conntrack.Handle(h))
		if r.State == conntrack.Free || r.State == conntrack.Quarantined || !sh.t.Alive(r, tick) {
			continue
		}
		c := *r // agrees writes down what it finds
		switch {
		case !then.Alive(&c, tick):
		case !next.agrees(&c):
			to.Cut++
		default:
			to.Kept++
			if next.owners.of(c.Ext).draining {
				to.Draining++
			}
		}
	}
}

// draining counts the sessions on addresses that nothing new gets among the records from first up to next, to the last
// if that is None.
func (sh *shard) draining(p *policy, first, next conntrack.Handle) (n int) {
	if !p.draining {
		return 0
	}
	if next == conntrack.None {
		next = conntrack.Handle(sh.t.Cap() + 1)
	}
	for h := first; h < next; h++ {
		r := sh.t.Rec(h)
		if r.State != conntrack.Free && r.State != conntrack.Quarantined && p.owners.of(r.Ext).draining {
			n++
		}
	}
	return n
}

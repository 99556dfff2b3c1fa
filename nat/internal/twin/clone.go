// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"maps"
	"slices"
)

// Clone is a twin that goes its own way from here on. It tells no events and counts no packets.
func (t *Twin) Clone() *Twin {
	c := *t
	c.cfg.FlowCounters, c.events = false, nil
	c.sessions = nil
	for _, s := range t.sessions {
		d := *s
		c.sessions = append(c.sessions, &d)
	}
	c.buried, c.sets, c.held = slices.Clone(t.buried), nil, nil // an engine that is adopted has no fragments and SYNs
	c.made = maps.Clone(t.made)
	c.Unsent(t)
	return &c
}

// Unsent makes t one of whose packets none has left that left after those of before.
func (t *Twin) Unsent(before *Twin) {
	ids := before.ids
	t.ids = map[idKey]map[uint16]bool{}
	for k, v := range ids {
		t.ids[k] = maps.Clone(v)
	}
}

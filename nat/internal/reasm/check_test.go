// SPDX-License-Identifier: Apache-2.0

package reasm

import (
	"strings"
	"testing"
)

// Check finds what it is there to find: each row breaks one thing in a sound Store.
func TestCheckFindsFaults(t *testing.T) {
	data := noise(4096)
	a, b := keyOf(1, 1), keyOf(2, 2)
	for _, c := range []struct {
		name, want string
		harm       func(s *Store, a, b uint32)
	}{
		{"lost block", "blocks unused", func(s *Store, a, b uint32) { s.freeBlock = s.blocks[s.freeBlock].next }},
		{"shared block", "belongs to somebody", func(s *Store, a, b uint32) { s.freeBlock = s.sets[a].first }},
		{"short chain", "has 1 blocks", func(s *Store, a, b uint32) { s.blocks[s.sets[a].first].next = 0 }},
		{"order", "follows one", func(s *Store, a, b uint32) { s.blocks[s.sets[a].first].off = 4000 }},
		{"bytes", "and says", func(s *Store, a, b uint32) { s.sets[a].got++ }},
		{"end", "and its end at", func(s *Store, a, b uint32) { s.sets[a].total = 77 }},
		{"state", "spoiled with", func(s *Store, a, b uint32) { s.sets[a].state = overfull }},
		{"complete but queued", "queued in state", func(s *Store, a, b uint32) { s.sets[a].state = complete }},
		{"key", "not its own", func(s *Store, a, b uint32) { s.sets[a].key.ID += 5; s.sets[a].key.Dst++ }},
		{"unindexed", "are indexed", func(s *Store, a, b uint32) { s.unindex(b) }},
		{"unqueued", "not queued", func(s *Store, a, b uint32) { s.unqueue(b) }},
		{"links", "queued behind", func(s *Store, a, b uint32) { s.sets[b].older = 0 }},
		{"age", "is older than", func(s *Store, a, b uint32) { s.sets[a].born = s.sets[b].born + 1; s.clock += 9 }},
		{"future", "after", func(s *Store, a, b uint32) { s.clock = s.sets[b].born - 1 }},
		{"lost set", "sets unused", func(s *Store, a, b uint32) { s.freeSet = s.sets[s.freeSet].chain }},
		{"source's blocks", "and says", func(s *Store, a, b uint32) { s.sources[s.sets[a].source].blocks++ }},
		{"source's sets", "and says", func(s *Store, a, b uint32) { s.sources[s.sets[a].source].sets++ }},
		{"other source", "of somebody else", func(s *Store, a, b uint32) { s.sets[a].source = s.sets[b].source }},
		{"lost source", "sources used", func(s *Store, a, b uint32) { s.freeSource = s.sources[s.freeSource].chain }},
		{"counter", "counters say", func(s *Store, a, b uint32) { s.pieces++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(64, hashKey)
			want(t, s, a, 10, cut(data, 20, 0, 1024, true), Held)
			want(t, s, a, 10, cut(data, 20, 1024, 1032, true), Held)
			want(t, s, b, 20, cut(data, 20, 0, 8, true), Held)
			c.harm(s, s.find(a), s.find(b))
			if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

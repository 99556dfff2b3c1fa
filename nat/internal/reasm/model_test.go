// SPDX-License-Identifier: Apache-2.0

package reasm

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sort"
	"testing"
)

// model is the Store in the plainest way: maps, a byte of coverage for each byte of payload, no lists, no indexes.
type model struct {
	blocks  int
	timeout uint32
	waiting map[Key]*modelSet
	done    map[Set]*modelSet
}

type modelSet struct {
	key     Key
	born    uint32
	frags   []frag
	covered map[int]bool
	end     int
	refuses Result // Held: it does not
}

func (m *model) all(f func(*modelSet)) {
	for _, d := range m.waiting {
		f(d)
	}
	for _, d := range m.done {
		f(d)
	}
}

// held counts the blocks and sets of those that of accepts.
func (m *model) held(of func(Key) bool) (blocks, sets, pieces int) {
	m.all(func(d *modelSet) {
		if of(d.key) {
			sets++
			pieces += len(d.frags)
			for _, f := range d.frags {
				blocks += (len(f.pkt) + blockSize - 1) / blockSize
			}
		}
	})
	return
}

func (m *model) advance(now uint32) {
	for k, d := range m.waiting {
		if now-d.born >= m.timeout {
			delete(m.waiting, k)
		}
	}
}

func (m *model) add(k Key, now uint32, f frag) (Result, *modelSet) {
	m.advance(now)
	d := m.waiting[k]
	if d == nil {
		d = &modelSet{key: k, born: now, covered: map[int]bool{}}
	}
	if d.refuses != Held {
		return d.refuses, nil
	}
	payload := f.pkt[f.hdr:]
	end := f.off + len(payload)
	for _, g := range d.frags {
		if g.off == f.off && g.more == f.more && bytes.Equal(g.pkt[g.hdr:], payload) {
			return Duplicate, nil
		}
	}
	bad := !f.more && d.end != 0 || d.end != 0 && end > d.end
	for b := range d.covered {
		if b >= f.off && b < end || !f.more && b >= end {
			bad = true
		}
	}
	if bad || len(d.frags) == MaxPieces {
		d.frags, d.covered, d.end, d.refuses = nil, nil, 0, Limit
		if bad {
			d.refuses = Overlap
		}
		return d.refuses, nil
	}
	need := (len(f.pkt) + blockSize - 1) / blockSize
	allBlocks, allSets, _ := m.held(func(Key) bool { return true })
	blocks, sets, _ := m.held(func(o Key) bool { return o.Src == k.Src && o.Attachment == k.Attachment })
	if allBlocks+need > m.blocks || blocks+need > m.blocks/4 {
		return Limit, nil
	}
	if m.waiting[k] == nil && (allSets == m.blocks/2 || sets >= m.blocks/2/4) {
		return Limit, nil
	}
	m.waiting[k] = d
	d.frags = append(d.frags, f)
	for b := f.off; b < end; b++ {
		d.covered[b] = true
	}
	if !f.more {
		d.end = end
	}
	if d.end == 0 || len(d.covered) != d.end {
		return Held, nil
	}
	delete(m.waiting, k)
	sort.Slice(d.frags, func(i, j int) bool { return d.frags[i].off < d.frags[j].off })
	return Complete, d
}

// twins are a Store and its model, given the same.
type twins struct {
	t       *testing.T
	s       *Store
	m       *model
	now     uint32
	results map[Result]int
}

func newTwins(t *testing.T, blocks int, now uint32) *twins {
	s := newStore(blocks, hashKey)
	return &twins{t, s, &model{blocks, s.Timeout, map[Key]*modelSet{}, map[Set]*modelSet{}}, now, map[Result]int{}}
}

func (w *twins) add(k Key, f frag) {
	w.t.Helper()
	r, set := w.s.addForeseen(k, w.now, f)
	want, d := w.m.add(k, w.now, f)
	if r != want {
		w.t.Fatalf("%+v at %d: off %d, %d bytes, more %v: %d, the model says %d", k, w.now, f.off, len(f.pkt)-f.hdr, f.more, r, want)
	}
	w.results[r]++
	if d != nil {
		if w.m.done[set] != nil {
			w.t.Fatalf("set %d is used twice", set)
		}
		w.m.done[set] = d
	}
}

func (w *twins) advance() {
	w.s.Advance(w.now)
	w.m.advance(w.now)
}

// free ends one complete set, if any, after comparing it.
func (w *twins) free() {
	w.t.Helper()
	for set, d := range w.m.done {
		wantSet(w.t, w.s, set, d.frags)
		w.s.Free(set)
		delete(w.m.done, set)
		return
	}
}

func (w *twins) compare() {
	w.t.Helper()
	check(w.t, w.s)
	blocks, sets, pieces := w.m.held(func(Key) bool { return true })
	wantHeld(w.t, w.s, sets, pieces, blocks*blockSize)
	tick, ok := w.s.Next()
	if ok != (len(w.m.waiting) > 0) {
		w.t.Fatalf("next: %v, %d wait", ok, len(w.m.waiting))
	}
	first := ^uint32(0)
	for _, d := range w.m.waiting {
		first = min(first, d.born+w.m.timeout-w.now)
	}
	if ok && tick-w.now != first {
		w.t.Fatalf("next in %d, the model says %d", tick-w.now, first)
	}
}

// mix is a kind of traffic: pieces of unit times 8 bytes at slots offsets, of so many sources and IDs.
type mix struct {
	sources, ids, slots, unit int
	// rough is one in how many pieces are off the grid, wrongly last or not, or have other bytes.
	rough int
	// step is the longest time between two pieces.
	step int
}

func (w *twins) random(rng *rand.Rand, n int, c mix) {
	data := [2][]byte{noise(65535), noise(65534)}
	odd := func() bool { return rng.IntN(c.rough) == 0 }
	for range n {
		switch p := rng.IntN(100); {
		case p < 93:
			if rng.IntN(30) == 0 {
				w.now += uint32(rng.IntN(c.step)) // Add has to see to it.
			}
			k := keyOf(uint32(rng.IntN(c.sources)), uint16(rng.IntN(c.ids)))
			k.Attachment = uint16(rng.IntN(2))
			off, size, version := rng.IntN(c.slots)*8*c.unit, 8*c.unit, 0
			if odd() {
				size += 8
			}
			if odd() {
				version = 1
			}
			more := off+size < c.slots*8*c.unit
			if odd() {
				more = !more
			}
			if !more {
				size -= rng.IntN(2)
			}
			w.add(k, cut(data[version], 20+4*rng.IntN(3), off, off+size, more))
		case p < 96:
			w.now += uint32(rng.IntN(c.step))
			w.advance()
		default:
			w.free()
		}
		w.compare()
	}
}

func TestAgainstModel(t *testing.T) {
	for _, c := range []struct {
		name    string
		blocks  int
		mix     mix
		results []Result
	}{
		{"small sets", 256, mix{3, 3, 4, 1, 20, 6000}, []Result{Held, Complete, Duplicate, Overlap}},
		{"large pieces", 128, mix{6, 4, 4, 185, 20, 6000}, []Result{Held, Complete, Duplicate, Overlap, Limit}},
		{"many sets", 64, mix{8, 40, 2, 1, 20, 6000}, []Result{Held, Complete, Duplicate, Overlap, Limit}},
		{"many pieces", 1088, mix{1, 1, 200, 1, 600, 200}, []Result{Held, Duplicate, Overlap, Limit}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seen := map[Result]int{}
			for seed := range uint64(4) {
				w := newTwins(t, c.blocks, ^uint32(0)-20_000)
				w.random(rand.New(rand.NewPCG(seed, 4)), 2500, c.mix)
				for len(w.m.done) > 0 {
					w.free()
				}
				w.now += DefaultTimeout
				w.advance()
				w.compare()
				wantHeld(t, w.s, 0, 0, 0)
				for r, n := range w.results {
					seen[r] += n
				}
			}
			t.Log("results:", seen)
			for _, r := range c.results {
				if seen[r] == 0 {
					t.Errorf("no result %d among %v", r, seen)
				}
			}
		})
	}
}

// FuzzStore gives Store and model the operations that the input spells, 6 bytes each.
func FuzzStore(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 8, 1, 0, 0, 0, 1, 8, 0})
	f.Add([]byte{0, 0, 0, 1, 8, 0, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0, 8, 1, 2, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 9, 1, 0, 0, 0, 1, 8, 1, 1, 0x3a, 0x98, 0, 0, 0, 0, 0, 0, 0, 8, 1})
	data := noise(65535)
	f.Fuzz(func(t *testing.T, ops []byte) {
		w := newTwins(t, 64, ^uint32(0)-10_000)
		for len(ops) >= 6 {
			op := ops[:6]
			ops = ops[6:]
			switch op[0] % 4 {
			case 1:
				w.now += uint32(binary.BigEndian.Uint16(op[1:]))
				w.advance()
			case 2:
				w.free()
			default:
				// Which set; where; how long; more, other bytes, longer header.
				off := int(binary.BigEndian.Uint16(op[2:])) % 8000 * 8
				size := int(op[4]) * 8 << (op[5] >> 5 & 3)
				more := op[5]&1 != 0
				if !more {
					size -= int(op[5] >> 1 & 7)
				}
				size = min(size, 65535-off)
				if more {
					size &^= 7
				}
				if size <= 0 {
					continue
				}
				g := cut(data, 20+int(op[1]&8), off, off+size, more)
				if op[1]&4 != 0 {
					g.pkt[len(g.pkt)-1]++
				}
				w.add(keyOf(uint32(op[1]&3), uint16(op[1]>>4&3)), g)
			}
			w.compare()
		}
	})
}

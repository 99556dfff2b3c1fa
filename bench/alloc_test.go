// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// TestAllocations: packets allocate nothing, whatever becomes of them. Each case is a batch, whose verdicts are looked at too.
func TestAllocations(t *testing.T) {
	const flows = 256
	none := func(name string, step func(now time.Duration) (done bool)) {
		t.Helper()
		now := benchNow
		run := func() {
			now += time.Millisecond
			if !step(now) {
				t.Fatalf("%s: another verdict", name)
			}
		}
		run() // buffers for what the engine makes are made once
		if n := testing.AllocsPerRun(50, run); n != 0 {
			t.Errorf("%s: %v allocations in a batch", name, n)
		}
	}

	for _, mode := range modes {
		for _, p := range protocols {
			name := mode.name + " " + p.name
			l := newEngineLoad(t, flows, p.proto, mode.profile())
			l.r.direct("both")
			none(name+" hit", func(now time.Duration) bool {
				l.r.refill()
				return l.translate(true, 0, now)+l.translate(false, batchSize, now) == 2*batchSize
			})
			none(name+" hit, one at a time", func(now time.Duration) bool {
				l.r.refill()
				for i := range 2 * batchSize {
					l.ps[i].Len = length
					if v := l.w.Translate(&l.ps[i], nat.AttachmentID(i/batchSize), now); v != l.want[i/batchSize] {
						return false
					}
				}
				return true
			})
			none(name+" hit, the last step of its TTL", func(now time.Duration) bool {
				l.r.refill()
				l.r.buf[0][8] = 1
				be.PutUint16(l.r.buf[0][10:], packet.Delta16(64<<8, 1<<8).Apply(be.Uint16(l.r.buf[0][10:])))
				return l.translate(true, 0, now) == batchSize-1 && len(l.w.Emitted()) == 1
			})
			for _, dir := range []string{"in", "out"} {
				r, from, want := l.errors(dir)
				none(name+" ICMP error "+dir, func(now time.Duration) bool { return l.all(r.batch(0), from, now, want) })
			}
			if p.proto == packet.UDP {
				r := l.fragments()
				none(name+" fragments", func(now time.Duration) bool {
					l.w.Batch(r.batch(0), 0, now, l.vs[:])
					out := len(l.w.Emitted())
					for _, v := range l.vs {
						if v.Forward() {
							out++
						}
					}
					return out == batchSize
				})
			}
		}
	}

	for _, m := range mappings {
		r := newRing(packet.UDP)
		r.keys[0] = outKeys(64*batchSize, packet.UDP)
		r.direct("out")
		l := newEmptyLoad(t, nat.Config{Sessions: len(r.keys[0])}, policy(len(r.keys[0]), m.profile()), r)
		l.want[0] = nat.Outbound
		none(m.name+" new flow", func(now time.Duration) bool {
			r.pos[0] -= r.pos[0] % batchSize
			at := r.pos[0]
			r.refill()
			r.pos[0] = at + batchSize // one batch of the ring is used
			return l.translate(true, 0, now) == batchSize
		})
		stray := newRing(packet.UDP)
		stray.direct("in")
		keys := outKeys(flows, packet.UDP)
		for i := range keys {
			keys[i].src, keys[i].dst = keys[i].dst, 198<<24+18<<16
		}
		stray.setInbound(keys)
		for i := range l.ps {
			l.ps[i].Buf = stray.buf[i][:]
		}
		l.want[1] = nat.DropNoMapping
		none(m.name+" miss from outside", func(now time.Duration) bool {
			stray.refill()
			return l.translate(false, 0, now) == batchSize
		})
	}

	s := staticLoad(t, flows)
	s.r.direct("both")
	none("1:1", func(now time.Duration) bool {
		s.r.refill()
		return s.translate(true, 0, now)+s.translate(false, batchSize, now) == 2*batchSize
	})
	for _, way := range ways {
		l := newEmptyLoad(t, nat.Config{Sessions: flows}, restricted(flows, 2, way.name), newRing(packet.TCP))
		l.r.keys[0] = outKeys(flows, packet.TCP)
		l.establish(t, way.out, way.in)
		l.r.direct("both")
		none("restricted "+way.name, func(now time.Duration) bool {
			l.r.refill()
			return l.translate(true, 0, now)+l.translate(false, batchSize, now) == 2*batchSize
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// staticLoad is an engine with n 1:1 mappings, and a packet each way of each.
func staticLoad(tb testing.TB, n int) *engineLoad {
	tb.Helper()
	p := policy(1, nat.GatewayProfile())
	p.Pools, p.Routes = nil, []nat.Route{{Source: netip.MustParsePrefix("10.0.0.0/8"), Static: true}}
	r := newRing(packet.TCP)
	var blankPacket [64]byte
	blank(blankPacket[:], packet.TCP)
	answers := make([]key, n)
	r.keys[0] = make([]key, n)
	for i := range uint32(n) {
		in, out := 10<<24+i, 198<<24+18<<16+i
		p.Static = append(p.Static, nat.Static{Inside: addr(in), Outside: addr(out)})
		r.keys[0][i] = key{src: in, dst: 93 << 24, ports: 4096<<16 | 443}
		r.keys[0][i].seal(blankPacket[:])
		answers[i] = key{src: 93 << 24, dst: out, ports: 443<<16 | 4096}
	}
	rand.Shuffle(n, func(i, j int) { ks := r.keys[0]; ks[i], ks[j] = ks[j], ks[i] })
	r.setInbound(answers)
	l := newEmptyLoad(tb, nat.Config{Sessions: 1}, p, r)
	l.want = [2]nat.Verdict{nat.StaticOutbound, nat.StaticInbound}
	return l
}

// BenchmarkStatic translates 1:1, beside the floor of that, which has one direction.
func BenchmarkStatic(b *testing.B) {
	const n = 100_000
	var l *engineLoad
	for _, dir := range []string{"out", "in", "both"} {
		b.Run(fmt.Sprintf("entries=%d/proto=tcp/dir=%s/batch=64", n, dir), func(b *testing.B) {
			if l == nil {
				l = staticLoad(b, n)
			}
			// The floor makes its table anew for each round, so one goes through all entries many times.
			l.run(b, dir, floorRow{"^BenchmarkFloor1to1$/^entries=100000$", 20 * n, 3}, nil)
		})
	}
}

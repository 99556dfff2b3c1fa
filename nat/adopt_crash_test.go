// SPDX-License-Identifier: Apache-2.0

//go:build crashpoints

package nat_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// diesAt is what is left of records when what do does to them is interrupted at a point for the first time.
func diesAt(t *testing.T, records []byte, point string, do func()) (left []byte) {
	t.Helper()
	conntrack.CrashPoint = func(where string) {
		if where == point && left == nil {
			left = slices.Clone(records)
		}
	}
	defer func() { conntrack.CrashPoint = nil }()
	if do(); left == nil {
		t.Fatalf("%q was never reached", point)
	}
	return left
}

// TestCrashAdopt: an Adopt that dies under one policy, in place, has not let anything pass for the next one, which is asked about
// every session.
func TestCrashAdopt(t *testing.T) {
	p := policy(nat.GatewayProfile())
	cfg, _ := adoptee(t, nat.Config{Sessions: 64}, &p)
	records := cfg.Records
	left := diesAt(t, records, "publish", func() {
		if _, _, err := nat.Adopt(cfg, records, &p, time.Second); err != nil {
			t.Fatal(err)
		}
	})
	cfg.Records = left
	other := policy(nat.GatewayProfile(), func(p *nat.Policy) { p.Pools, p.Routes = nil, nil })
	if _, _, got := adopted(t, cfg, &other, time.Second); got.Cut != 3 || got.Sessions != 0 {
		t.Errorf("under a policy without a pool: %+v", got)
	}
}

// TestCrashRestrictions: an Apply that dies before it has asked about the sessions of a restricted host. They go on, unless that
// policy took a restriction from a host: then its flows do not come back, whatever the next policy says.
func TestCrashRestrictions(t *testing.T) {
	restricted := func(name string, more ...func(*nat.Policy)) nat.Policy {
		return policy(nat.Profile{}, append(more, static(C, E1), restrict(name, nil, rules(allow(packet.UDP, 0, R1)), C))...)
	}
	p, clamped, other := restricted("a"), restricted("a", func(p *nat.Policy) { p.MSSClamp = 1000 }), restricted("b")
	none := policy(nat.Profile{}, static(C, E1))
	for _, c := range []struct {
		name string
		then *nat.Policy
		want int
	}{{"something else", &clamped, 1}, {"another restriction", &other, 0}, {"no restriction", &none, 0}} {
		cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
		if v, _ := send(w, 0, udp(at(C, 5000), at(R1, 80), "x"), 0); v != nat.StaticOutbound {
			t.Fatal(v)
		}
		e, _, _ := adopted(t, cfg, &p, 0)
		left := diesAt(t, cfg.Records, "published", func() {
			if _, err := e.Apply(c.then, time.Second); err != nil {
				t.Fatal(err)
			}
		})
		cfg.Records = left
		if _, _, got := adopted(t, cfg, &p, time.Second); got.Sessions != c.want {
			t.Errorf("%s: %+v, want %d sessions", c.name, got, c.want)
		}
	}
}

// TestCrashShards: with any number of shards, a session that is half made, half answered or half ended is not there or is there
// whole, and the others go on.
func TestCrashShards(t *testing.T) {
	p := policy(custom(func(f *nat.Profile) { f.Quarantine = time.Minute }))
	for shards := 1; shards <= 64; shards *= 2 {
		cfg, w := begun(t, nat.Config{Sessions: 128, Shards: shards}, &p)
		const old = 2
		for i := range uint16(old) {
			if v, _ := send(w, 0, udp(at(B, 6000+i), at(R1, 80), "x"), time.Second); v != nat.Outbound {
				t.Fatal(v)
			}
		}
		var left [][]byte
		n := 0
		conntrack.CrashPoint = func(where string) {
			if n++; where != "field" || n%5 == shards%5 { // of the many fields of a record some, and others with each number
				left = append(left, slices.Clone(cfg.Records))
			}
		}
		for _, proto := range allProtocols {
			_, out := send(w, 0, of(proto, at(A, 5000), at(R1, 80)), time.Second)
			send(w, 1, answer(proto, at(R1, 80), srcOf(out)), time.Second)
		}
		made := len(left)
		for w.Tick(time.Hour) == time.Hour { // all but TCP ends
		}
		conntrack.CrashPoint = nil
		if made < 3*6 || len(left) < made+(2+old)*5 {
			t.Fatalf("%d shards: %d points while sessions were made, %d in all", shards, made, len(left))
		}
		most := 0
		for i, records := range left {
			now := time.Second
			if i >= made {
				now = time.Hour
			}
			cfg.Records = records
			e, _, got := adopted(t, cfg, &p, now)
			if got.Torn != 0 || got.Cut != 0 || i < made && (got.Sessions < old || got.Sessions > old+3) || i >= made && got.Sessions > 1 {
				t.Errorf("%d shards, point %d: %+v", shards, i, got)
			}
			for s := range e.Sessions(now) {
				if s.Remote.Addr() != R1 || s.Inside.Addr() != A && s.Inside.Addr() != B {
					t.Errorf("%d shards, point %d: %+v", shards, i, s)
				}
			}
			most = max(most, got.Sessions)
		}
		if most < old+2 {
			t.Errorf("%d shards: %d sessions at most", shards, most)
		}
	}
}

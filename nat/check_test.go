// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TestCheckFindsFaults: Check would be worth nothing if it found nothing.
func TestCheckFindsFaults(t *testing.T) {
	src, dst := netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("203.0.113.9")
	p := Policy{
		Inside: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Routes: []Route{{Source: netip.MustParsePrefix("10.0.0.0/16"), Pool: "pool"}},
		Pools:  []Pool{{Name: "pool", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}},
	}
	for want, spoil := range map[string]func(r *conntrack.Record){
		"":                         func(*conntrack.Record) {},
		"external port":            func(r *conntrack.Record) { r.ExtPort += 2 },
		"holds an inside endpoint": func(r *conntrack.Record) { r.InPort++ },
		"quarantine":               func(r *conntrack.Record) { r.State = conntrack.Quarantined },
		"filter session in part":   func(r *conntrack.Record) { r.Bits |= conntrack.Filter },
	} {
		e, err := New(Config{Sessions: 64, Shards: 2, Seed: 1}, &p)
		if err != nil {
			t.Fatal(err)
		}
		q := packet.From(craft.UDP(craft.IP{Src: src, Dst: dst}, 5000, 80, nil))
		if v := e.Worker().Translate(&q, FromInside, 0); v != Outbound {
			t.Fatal(v)
		}
		for i := range e.shards {
			for h := 1; h <= e.shards[i].t.Cap(); h++ {
				if r := e.shards[i].t.Rec(conntrack.Handle(h)); r.State != conntrack.Free {
					for spoil(r); want == "holds an inside endpoint" && e.shardOf(r.In, r.InPort, r.Proto) == i; r.InPort++ {
					}
				}
			}
		}
		if err := e.Check(0); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

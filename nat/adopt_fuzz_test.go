// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/invariants"
	"github.com/tidegate/tidegate/packet"
)

// spoilable is an engine with sessions and mappings of all kinds, and its policy.
func spoilable(tb testing.TB, shards int) (nat.Config, *nat.Policy) {
	tb.Helper()
	p := policy(custom(func(f *nat.Profile) {
		f.Filtering[nat.ClassUDP], f.Quarantine = nat.FilterEndpointIndependent, time.Minute
	}), forwardTo, static(C, E1), func(p *nat.Policy) {
		p.Restrictions = []nat.Restriction{{Name: "c", Hosts: []netip.Addr{C}, Out: []nat.Allow{{Protocol: -1}}}}
		p.HostSessions = 100
	})
	cfg := nat.Config{Seed: 1, Sessions: 32, Shards: shards, FlowCounters: true, Events: 64, FragmentBytes: 1, HeldSYNs: 4}
	cfg.Records = make([]byte, cfg.RecordsSize())
	e, err := nat.New(cfg, &p)
	if err != nil {
		tb.Fatal(err)
	}
	w := e.Worker()
	for i := range uint16(4) {
		for _, proto := range allProtocols {
			for _, host := range []netip.Addr{A, C} {
				out := packet.From(of(proto, at(host, 5000+i), at(R1, 80+i/2)))
				if v := w.Translate(&out, 0, time.Duration(i)*100*time.Second); v.Side() != nat.Outside {
					tb.Fatal(v)
				}
				if i%2 == 0 {
					in := packet.From(answer(proto, at(R1, 80+i/2), srcOf(out.Bytes())))
					w.Translate(&in, 1, time.Duration(i)*100*time.Second)
				}
			}
		}
		in := packet.From(tcp(at(R1, 9+i), at(PA, 8080), syn, 1, 0, ""))
		if v := w.Translate(&in, 1, time.Duration(i)*100*time.Second); v != nat.Inbound {
			tb.Fatal(v)
		}
	}
	return cfg, &p
}

// spoil changes records as a script says: bytes of sessions and of the rest, and records that are there twice.
func spoil(mem []byte, sessions int, script []byte) {
	area := mem[sessions:]
	records := len(area)/64 - 1
	for ; len(script) >= 4; script = script[4:] {
		a, b, c := int(script[1]), int(script[2]), script[3]
		switch script[0] % 4 {
		case 0:
			area[(a<<8|b)%len(area)] ^= c
		case 1:
			from, to := (1+a%records)*64, (1+b%records)*64
			copy(area[to:to+64], area[from:from+64])
			area[to+int(c)%64]++
		case 2:
			mem[(a<<12|b<<4|int(c>>4))%sessions] ^= 1 << (c & 7)
		default:
			area[(1+a%records)*64+b%64] = c
		}
	}
}

// adoptSpoilt adopts what a script has made of records. Whatever that is, an endpoint has one owner, nobody is sent anything
// that the policy would not send him, and all of it ends.
func adoptSpoilt(tb testing.TB, script []byte, shards int, cut int, inPlace bool) error {
	cfg, p := spoilable(tb, shards)
	// The records of the first shard: a shard of one session is the counters, no record and a record.
	spoil(cfg.Records, nat.Config{Sessions: 1}.RecordsSize()-2*64, script)
	old := cfg.Records[:len(cfg.Records)-min(cut, len(cfg.Records))]
	if inPlace {
		cfg.Records = old
	} else {
		cfg.Records, cfg.Shards = nil, 3-shards
	}
	now := 310 * time.Second
	e, got, err := nat.Adopt(cfg, old, p, now)
	if err != nil {
		for _, known := range []error{nat.ErrNotRecords, nat.ErrRecordsVersion, nat.ErrRecordsLayout, nat.ErrRecordsDamaged} {
			if errors.Is(err, known) {
				return nil
			}
		}
		if inPlace && cut > 0 {
			return nil // New would say the same
		}
		return err
	}
	laws := invariants.New(p)
	w := e.Worker()
	if err := e.Check(now); err != nil {
		return err
	}
	if n := len(slices.Collect(e.Sessions(now))); n != got.Sessions {
		return fmt.Errorf("%d sessions, %+v", n, got)
	}
	for range 2 {
		if err := laws.Owners(e.Sessions(now)); err != nil {
			return err
		}
		for _, s := range slices.Collect(e.Sessions(now)) {
			if !p.Inside[0].Contains(s.Inside.Addr()) {
				return fmt.Errorf("not a host of ours: %+v", s)
			}
			for _, in := range []bool{false, true} {
				from, to := s.Remote, s.External
				att := nat.FromOutside
				if !in {
					from, to, att = s.Inside, s.Remote, nat.FromInside
				}
				if s.Protocol == packet.ICMP && in {
					from = netip.AddrPortFrom(from.Addr(), to.Port())
				} else if s.Protocol != packet.TCP && s.Protocol != packet.UDP && s.Protocol != packet.ICMP {
					continue
				}
				was := packet.From(of(s.Protocol, from, to))
				if s.Protocol == packet.ICMP && in {
					was = packet.From(answer(s.Protocol, from, to))
				}
				out := was.Clone()
				v := w.Translate(&out, att, now)
				if err := laws.Packet(att, was, out, v, w.Emitted()); err != nil {
					return fmt.Errorf("%+v: %w", s, err)
				}
			}
		}
		if err := e.Check(now); err != nil {
			return err
		}
		now += 50 * time.Second
	}
	for range 4 {
		now += 9 * time.Hour
		w.Tick(now)
	}
	if s := e.Stats(now); s.Sessions+s.Mappings+s.Quarantined != 0 {
		return fmt.Errorf("left for ever: %+v", s)
	}
	return e.Check(now)
}

// TestAdoptGarbage spoils records at random: a little, much, and a single bit.
func TestAdoptGarbage(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 7))
	for i := range 1500 {
		script := make([]byte, 4*[]int{1, 5, 200}[i%3])
		for j := range script {
			script[j] = byte(r.Uint32())
		}
		cut := 0
		if i%10 == 9 {
			cut = r.IntN(1 << 16)
		}
		if err := adoptSpoilt(t, script, 1+i/2%2, cut, i%2 == 0); err != nil {
			t.Fatalf("script %d, %x: %v", i, script, err)
		}
	}
}

// FuzzAdopt lets the fuzzer do that.
func FuzzAdopt(f *testing.F) {
	f.Add([]byte{}, false, uint16(0), true)
	f.Add([]byte{1, 1, 2, 0, 1, 3, 4, 12}, true, uint16(0), true)
	f.Add([]byte{3, 1, 19, 1, 3, 2, 19, 9}, true, uint16(0), false)
	f.Add([]byte{2, 0, 0, 0}, false, uint16(100), false)
	f.Fuzz(func(t *testing.T, script []byte, two bool, cut uint16, inPlace bool) {
		shards := 1
		if two {
			shards = 2
		}
		if err := adoptSpoilt(t, script[:min(len(script), 4096)], shards, int(cut), inPlace); err != nil {
			t.Error(err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// adoptee is an engine with a session of each protocol, two of which were answered, and its configuration.
func adoptee(t *testing.T, cfg nat.Config, p *nat.Policy) (nat.Config, *nat.Engine) {
	t.Helper()
	cfg.Records = make([]byte, cfg.RecordsSize())
	e, err := nat.New(cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	w := e.Worker()
	for i, proto := range allProtocols {
		out := packet.From(of(proto, at(A, uint16(5000+i)), at(R1, 80)))
		if v := w.Translate(&out, 0, time.Second); v != nat.Outbound {
			t.Fatal(v)
		}
		if i == 0 {
			continue
		}
		in := packet.From(answer(proto, at(R1, 80), srcOf(out.Bytes())))
		if v := w.Translate(&in, 1, time.Second); v != nat.Inbound {
			t.Fatal(v)
		}
	}
	return cfg, e
}

func sessionsOf(e *nat.Engine, now time.Duration) []nat.Session {
	all := slices.Collect(e.Sessions(now))
	slices.SortFunc(all, func(a, b nat.Session) int { return a.Inside.Compare(b.Inside) })
	return all
}

// TestAdopt: what one engine left goes on in another, in place, in other memory and on the heap, with other numbers of
// shards and records.
func TestAdopt(t *testing.T) {
	p := policy(nat.GatewayProfile())
	for _, c := range []struct {
		name string
		cfg  func(c *nat.Config)
	}{
		{"in place", func(*nat.Config) {}},
		{"onto the heap", func(c *nat.Config) { c.Records = nil }},
		{"other records", func(c *nat.Config) { c.Records, c.Sessions, c.FlowCounters = nil, 5, false }},
		{"one shard", func(c *nat.Config) { c.Records, c.Shards = nil, 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, e := adoptee(t, nat.Config{Sessions: 64, Shards: 2, FlowCounters: true}, &p)
			old := cfg.Records
			before, stats := sessionsOf(e, time.Second), e.Stats(time.Second)
			c.cfg(&cfg)
			e, got, err := nat.Adopt(cfg, old, &p, 11*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if want := (nat.Adoption{Sessions: 3, Age: 10 * time.Second}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			if err := e.Check(11 * time.Second); err != nil {
				t.Error(err)
			}
			after := sessionsOf(e, 11*time.Second)
			if !cfg.FlowCounters {
				for i := range before {
					before[i].Packets, before[i].Bytes = [2]uint64{}, [2]uint64{}
				}
			}
			if !slices.Equal(before, after) {
				t.Errorf("\n%+v, want\n%+v", after, before)
			}
			if s := e.Stats(11 * time.Second); s.Verdicts != stats.Verdicts || s.Created != stats.Created || s.Sessions != stats.Sessions {
				t.Errorf("%+v, want\n%+v", s, stats)
			}
			w := e.Worker()
			for i, proto := range allProtocols {
				out := packet.From(of(proto, at(A, uint16(5000+i)), at(R1, 80)))
				if v := w.Translate(&out, 0, 11*time.Second); v != nat.Outbound || srcOf(out.Bytes()) != before[i].External {
					t.Errorf("%v, from %v", v, srcOf(out.Bytes()))
				}
			}
		})
	}
}

// TestAdoptErrors: what cannot be adopted is said, and stays as it is.
func TestAdoptErrors(t *testing.T) {
	p := policy(nat.GatewayProfile())
	for _, c := range []struct {
		name  string
		spoil func(cfg *nat.Config, old []byte) []byte
		want  error
	}{
		{"nothing", func(_ *nat.Config, old []byte) []byte { return nil }, nat.ErrNotRecords},
		{"something else", func(_ *nat.Config, old []byte) []byte { old[0]++; return old }, nat.ErrNotRecords},
		{"another version", func(_ *nat.Config, old []byte) []byte { old[8]++; return old }, nat.ErrRecordsVersion},
		{"another format", func(_ *nat.Config, old []byte) []byte { old[12]++; return old }, nat.ErrRecordsVersion},
		{"the header", func(_ *nat.Config, old []byte) []byte { old[24]++; return old }, nat.ErrRecordsDamaged},
		{"cut off", func(_ *nat.Config, old []byte) []byte { return old[:len(old)-1] }, nat.ErrRecordsLayout},
		{"not aligned", func(_ *nat.Config, old []byte) []byte { return old[1:] }, nat.ErrRecordsLayout},
		{"other sessions in place", func(cfg *nat.Config, old []byte) []byte { cfg.Sessions--; return old }, nat.ErrRecordsLayout},
		{"other seed in place", func(cfg *nat.Config, old []byte) []byte { cfg.Seed++; return old }, nat.ErrRecordsLayout},
		{"another clock", func(cfg *nat.Config, old []byte) []byte { old[128+7] = 1; return old }, nat.ErrRecordsDamaged},
		{"the policies", func(cfg *nat.Config, old []byte) []byte {
			clear(old[256:][:16<<10])
			return old
		}, nat.ErrRecordsDamaged},
	} {
		cfg, _ := adoptee(t, nat.Config{Sessions: 64, Seed: 5}, &p)
		old := c.spoil(&cfg, cfg.Records)
		was := slices.Clone(old)
		if _, _, err := nat.Adopt(cfg, old, &p, time.Second); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if !slices.Equal(old, was) {
			t.Errorf("%s: written to", c.name)
		}
	}
}

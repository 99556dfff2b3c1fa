// SPDX-License-Identifier: Apache-2.0

package vpc_test

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/internal/vpctest"
	"github.com/tidegate/tidegate/vpc"
)

var stateStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func stateConfig(seed uint64) vpc.Config {
	return vpc.Config{Seed: seed, PublicPool: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}, AddressQuota: 6, CoolDown: time.Minute}
}

// journal is what a store on a disk would have.
type journal map[[2]string]vpc.Record

func (j journal) add(t interface{ Fatal(...any) }, m *vpc.Model) (n int) {
	changes, err := m.Changes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range changes {
		j[[2]string{r.Kind, r.ID}] = r
		if r.Value == nil {
			delete(j, [2]string{r.Kind, r.ID})
		}
	}
	return len(changes)
}

// After any calls, the model that is made of the accumulated changes is the same in all that it says and will say; a
// refused call changes nothing, and a clone can do what it likes.
func TestState_RestoredModelIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		m, err := vpc.New(stateConfig(seed))
		if err != nil {
			t.Fatal(err)
		}
		r, now, kept := rand.New(rand.NewPCG(seed, 1)), stateStart, journal{}
		kept.add(t, m)
		for range rapid.IntRange(1, 150).Draw(t, "calls") {
			now = now.Add(time.Duration(r.IntN(20)) * time.Second)
			clone := m.Clone()
			_, err := vpctest.Call(clone, now, r)
			if err != nil {
				if n := kept.add(t, clone); n > 0 {
					t.Fatalf("a refused call (%v) leaves %d changes", err, n)
				}
				continue
			}
			before := vpctest.Print(m)
			vpctest.Future(clone, now, seed)
			if vpctest.Print(m) != before {
				t.Fatal("a call of a clone changed the original")
			}
			m = clone
			kept.add(t, m)
		}
		again, err := vpc.Restore(stateConfig(0), maps.Values(kept)) // in any order
		if err != nil {
			t.Fatal(err)
		}
		if n := (journal{}).add(t, again); n > 0 {
			t.Fatalf("%d changes right after the restoration", n)
		}
		if got, want := vpctest.Print(again), vpctest.Print(m); got != want {
			t.Fatalf("restored:\n%s\nwas:\n%s", got, want)
		}
		if got, want := vpctest.Future(again, now, seed), vpctest.Future(m, now, seed); got != want {
			t.Fatalf("restored:\n%s\nwould be:\n%s", got, want)
		}
	})
}

// The calls of the tests above are not all refused: each kind succeeds.
func TestState_CallsSucceed(t *testing.T) {
	done := map[string]bool{}
	for seed := range uint64(80) {
		m, err := vpc.New(stateConfig(seed))
		if err != nil {
			t.Fatal(err)
		}
		r, now := rand.New(rand.NewPCG(seed, 2)), stateStart
		for range 300 {
			now = now.Add(10 * time.Second)
			if answer, err := vpctest.Call(m, now, r); err == nil {
				done[strings.Split(answer, ":")[0]] = true
			}
		}
	}
	if names := slices.Sorted(maps.Keys(done)); len(names) != 38 {
		t.Errorf("these succeeded: %v", names)
	}
}

func TestState_RestoreRefuses(t *testing.T) {
	m, err := vpc.New(stateConfig(1))
	if err != nil {
		t.Fatal(err)
	}
	v, err := m.CreateVPC(netip.MustParsePrefix("10.0.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.AllocateAddress(stateStart)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		spoil      func(journal, *vpc.Config)
	}{
		{"no region", "no record of the region", func(j journal, _ *vpc.Config) { delete(j, [2]string{"region", ""}) }},
		{"a region that is no JSON", "the record of the region", func(j journal, _ *vpc.Config) {
			j[[2]string{"region", ""}] = vpc.Record{Kind: "region", Value: []byte("{")}
		}},
		{"fresh addresses that the pool does not have", "fresh addresses", func(j journal, _ *vpc.Config) {
			j[[2]string{"region", ""}] = vpc.Record{Kind: "region", Value: []byte(`{"Fresh":17,"PublicPool":["198.51.100.0/28"]}`)}
		}},
		{"an unknown kind", `kind "transit"`, func(j journal, _ *vpc.Config) { j[[2]string{"transit"}] = vpc.Record{Kind: "transit"} }},
		{"a value that is no JSON", a.ID, func(j journal, _ *vpc.Config) {
			j[[2]string{"address", a.ID}] = vpc.Record{Kind: "address", ID: a.ID, Value: []byte("]")}
		}},
		{"an object twice", "twice", func(j journal, _ *vpc.Config) { j[[2]string{"again"}] = j[[2]string{"vpc", v.ID}] }},
		{"a lost address", "public addresses have an owner", func(j journal, _ *vpc.Config) { delete(j, [2]string{"address", a.ID}) }},
		{"another pool", "can be added to", func(_ journal, c *vpc.Config) {
			c.PublicPool = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}
		}},
		{"a pool that a VPC overlaps", "overlaps the public addresses", func(_ journal, c *vpc.Config) {
			c.PublicPool = append(c.PublicPool, netip.MustParsePrefix("10.0.7.0/28"))
		}},
		{"a bad configuration", "CoolDown", func(_ journal, c *vpc.Config) { c.CoolDown = -1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept, cfg := journal{}, stateConfig(1)
			kept.add(t, m.Clone())
			c.spoil(kept, &cfg)
			if _, err := vpc.Restore(cfg, maps.Values(kept)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ... %s ...", err, c.want)
			}
		})
	}
}

// A pool that was added to: the new addresses are given out behind those that nobody has had.
func TestState_PoolGrows(t *testing.T) {
	cfg := vpc.Config{PublicPool: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/31")}}
	m, err := vpc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.AllocateAddress(stateStart); err != nil {
		t.Fatal(err)
	}
	kept := journal{}
	kept.add(t, m)
	cfg.PublicPool = append(cfg.PublicPool, netip.MustParsePrefix("192.0.2.0/31"))
	if m, err = vpc.Restore(cfg, maps.Values(kept)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"198.51.100.1", "192.0.2.0"} {
		if a, err := m.AllocateAddress(stateStart); err != nil || a.PublicIP.String() != want {
			t.Errorf("allocated %v, %v, want %s", a.PublicIP, err, want)
		}
	}
	kept.add(t, m)
	cfg.PublicPool = nil // that of the records
	if m, err = vpc.Restore(cfg, maps.Values(kept)); err != nil {
		t.Fatal(err)
	}
	if a, err := m.AllocateAddress(stateStart); err != nil || a.PublicIP.String() != "192.0.2.1" {
		t.Errorf("allocated %v, %v", a.PublicIP, err)
	}
}

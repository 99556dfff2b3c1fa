// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
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
		{"more shards", func(c *nat.Config) { c.Records, c.Shards = nil, 16 }},
		{"more shards, in place", func(c *nat.Config) { c.Shards = 16 }},
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
			if want := (nat.Adoption{Sessions: 3, Shards: min(2, cfg.Shards), Age: 10 * time.Second}); got != want {
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

// adopted is e's successor after gap, under the policy p.
func adopted(t *testing.T, cfg nat.Config, p *nat.Policy, now time.Duration) (*nat.Engine, *nat.Worker, nat.Adoption) {
	t.Helper()
	e, got, err := nat.Adopt(cfg, cfg.Records, p, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Check(now); err != nil {
		t.Error(err)
	}
	return e, e.Worker(), got
}

// begun is an engine with its own records.
func begun(t *testing.T, cfg nat.Config, p *nat.Policy) (nat.Config, *nat.Worker) {
	t.Helper()
	cfg.Records = make([]byte, cfg.RecordsSize())
	e, err := nat.New(cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, e.Worker()
}

func send(w *nat.Worker, from nat.AttachmentID, b []byte, now time.Duration) (nat.Verdict, []byte) {
	q := packet.From(b)
	v := w.Translate(&q, from, now)
	return v, q.Bytes()
}

// TestAdoptTime: time-outs go on while nobody runs, for however long that is.
func TestAdoptTime(t *testing.T) {
	p := policy(custom(func(f *nat.Profile) { f.Quarantine = 40 * time.Second }))
	for _, c := range []struct {
		gap  time.Duration
		want nat.Adoption
	}{
		{299 * time.Second, nat.Adoption{Sessions: 1}},
		{300 * time.Second, nat.Adoption{Expired: 1, Quarantined: 1}},
		{339 * time.Second, nat.Adoption{Expired: 1, Quarantined: 1}},
		{340 * time.Second, nat.Adoption{Expired: 1}},
		{(1<<32 + 1000) * time.Millisecond, nat.Adoption{Expired: 1}}, // the ticks have come round
	} {
		cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
		start := 1000 * time.Hour
		if v, _ := send(w, 0, udp(at(A, 5000), at(R1, 80), "x"), start); v != nat.Outbound {
			t.Fatal(v)
		}
		_, _, got := adopted(t, cfg, &p, start+c.gap)
		if c.want.Age, c.want.Shards = c.gap, 1; got != c.want {
			t.Errorf("after %v: %+v, want %+v", c.gap, got, c.want)
		}
	}
}

// TestAdoptPolicy: pools are known by their names wherever they stand, and what the new policy would not make is cut.
func TestAdoptPolicy(t *testing.T) {
	p := policy(nat.Profile{})
	cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
	if v, _ := send(w, 0, udp(at(A, 5000), at(R1, 80), "x"), 0); v != nat.Outbound {
		t.Fatal(v)
	}
	more := policy(nat.Profile{}, func(p *nat.Policy) {
		p.Pools = append([]nat.Pool{{Name: "another", Addresses: []netip.Addr{PB}}}, p.Pools...)
	})
	e, w, got := adopted(t, cfg, &more, time.Second)
	if want := (nat.Adoption{Sessions: 1, Shards: 1, Age: time.Second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if v, _ := send(w, 0, udp(at(A, 5000), at(R1, 80), "x"), time.Second); v != nat.Outbound || e.Stats(0).Created != 1 {
		t.Errorf("%v, %d sessions made", v, e.Stats(0).Created)
	}
	if _, _, got := adopted(t, cfg, &nat.Policy{Inside: p.Inside}, time.Second); got.Cut != 1 || got.Sessions != 0 {
		t.Errorf("without a pool: %+v", got)
	}
}

// TestAdoptRestrictions: the flows of a restricted 1:1 host go on while it has a restriction of the same name.
func TestAdoptRestrictions(t *testing.T) {
	only := rules(allow(packet.UDP, 0, R1))
	restricted := func(name string, out []nat.Allow) nat.Policy {
		return policy(nat.Profile{}, static(C, E1), restrict(name, nil, out, C))
	}
	for _, c := range []struct {
		name string
		p    nat.Policy
		want nat.Verdict
	}{
		{"the same", restricted("a", only), nat.StaticInbound},
		{"with other rules", restricted("a", nil), nat.StaticInbound},
		{"of another name", restricted("b", only), nat.DropNotAllowed},
		{"none", policy(nat.Profile{}, static(C, E1)), nat.StaticInbound},
	} {
		p := restricted("a", only)
		cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
		if v, _ := send(w, 0, udp(at(C, 5000), at(R1, 80), "x"), 0); v != nat.StaticOutbound {
			t.Fatal(v)
		}
		e, w, got := adopted(t, cfg, &c.p, time.Second)
		if v, _ := send(w, 1, udp(at(R1, 80), at(E1, 5000), "x"), time.Second); v != c.want {
			t.Errorf("%s: an answer is %v, want %v; %+v", c.name, v, c.want, got)
		}
		// And over a change of policy, which the next engine knows of.
		q := restricted("c", only)
		if _, err := e.Apply(&q, time.Second); err != nil {
			t.Fatal(err)
		}
		if _, w, got = adopted(t, cfg, &p, time.Second); got.Sessions != 0 {
			t.Errorf("%s: had another restriction meanwhile: %+v", c.name, got)
		} else if v, _ := send(w, 1, udp(at(R1, 80), at(E1, 5000), "x"), time.Second); v != nat.DropNotAllowed {
			t.Errorf("%s: had another restriction meanwhile, and an answer is %v", c.name, v)
		}
	}
}

// TestAdoptLimits: sessions that go on count for their host and their destination.
func TestAdoptLimits(t *testing.T) {
	f := nat.AWSProfile()
	f.PortsPerDestination = 2
	p := policy(f, func(p *nat.Policy) { p.HostSessions = 3 })
	cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
	for i, to := range []end{at(R1, 80), at(R1, 80), at(R2, 80)} {
		if v, _ := send(w, 0, udp(at(A, 5000+uint16(i)), to, "x"), 0); v != nat.Outbound {
			t.Fatal(v)
		}
	}
	_, w, _ = adopted(t, cfg, &p, time.Second)
	if v, _ := send(w, 0, udp(at(A, 5009), at(R2, 81), "x"), time.Second); v != nat.DropHostLimit {
		t.Errorf("a fourth session of its host is %v", v)
	}
	if v, _ := send(w, 0, udp(at(B, 5000), at(R1, 80), "x"), time.Second); v != nat.DropNoPort {
		t.Errorf("a third session to its destination is %v", v)
	}
	if v, _ := send(w, 0, udp(at(A, 5009), at(R2, 81), "x"), 400*time.Second); v != nat.Outbound {
		t.Errorf("when the others have ended it is %v", v)
	}
}

// TestAdoptNumbers: IP identifications go on, and the ports that come are not those that came before.
func TestAdoptNumbers(t *testing.T) {
	p := policy(nat.AWSProfile())
	cfg, w := begun(t, nat.Config{Sessions: 64, Seed: 1}, &p)
	ids, ports := map[uint16]bool{}, []uint16{}
	for range 4 {
		var made []uint16
		for i := range uint16(4) {
			b := datagram(at(A, 6000+i+uint16(len(ports))), at(R1, 80), 7, []byte("x"))
			_, out := send(w, 0, b, 0)
			id := uint16(out[4])<<8 | uint16(out[5])
			if ids[id] {
				t.Errorf("the identification %d twice", id)
			}
			ids[id] = true
			made = append(made, srcOf(out).Port())
		}
		if slices.Equal(made, ports[:min(4, len(ports))]) {
			t.Errorf("the ports %v again", made)
		}
		ports = append(ports, made...)
		_, w, _ = adopted(t, cfg, &p, 0)
	}
}

// TestAdoptRoom: where fewer records are than sessions, those that were answered go first.
func TestAdoptRoom(t *testing.T) {
	p := policy(nat.GatewayProfile())
	cfg, e := adoptee(t, nat.Config{Sessions: 8}, &p)
	old := cfg.Records
	cfg.Records, cfg.Sessions = nil, 2
	e, got, err := nat.Adopt(cfg, old, &p, time.Second)
	if want := (nat.Adoption{Sessions: 2, NoRoom: 1, Shards: 1}); err != nil || got != want {
		t.Fatalf("%+v, want %+v: %v", got, want, err)
	}
	for s := range e.Sessions(time.Second) {
		if !s.Replied {
			t.Errorf("%+v", s)
		}
	}
	if s := e.Stats(time.Second); s.Created != 3 || s.Recycled != 1 {
		t.Errorf("%+v", s)
	}
}

// TestAdoptTCP: a connection is tracked as before: what is out of its window does nothing, and its end is seen.
func TestAdoptTCP(t *testing.T) {
	p := policy(nat.AWSProfile())
	cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
	now := time.Second
	_, out := send(w, 0, tcp(at(A, 5000), at(R1, 80), syn, 100, 0, ""), now)
	ext := srcOf(out)
	e, w, _ := adopted(t, cfg, &p, now) // in the middle of the handshake
	send(w, 1, tcp(at(R1, 80), ext, syn|ack, 500, 101, ""), now)
	e, w, _ = adopted(t, cfg, &p, now)
	send(w, 0, tcp(at(A, 5000), at(R1, 80), ack, 101, 501, ""), now)
	state := func() string { return sessionsOf(e, now)[0].State }
	if got := state(); got != "established" {
		t.Errorf("after a handshake: %s", got)
	}
	e, w, _ = adopted(t, cfg, &p, now)
	send(w, 1, tcp(at(R1, 80), ext, packet.RST, 502, 0, ""), now)
	if got := state(); got != "established" {
		t.Errorf("after a RST with a wrong number: %s", got)
	}
	send(w, 1, tcp(at(R1, 80), ext, packet.FIN|ack, 501, 101, ""), now)
	e, w, _ = adopted(t, cfg, &p, now)
	send(w, 0, tcp(at(A, 5000), at(R1, 80), packet.FIN|ack, 101, 502, ""), now)
	if got := state(); got != "closing" {
		t.Errorf("after two FINs: %s", got)
	}
}

// TestAdoptManyPools: so many pools that not all names have room. Those that have are known wherever they stand; sessions of the
// others go on where they stood, and are cut, and given to nobody, where they did not.
func TestAdoptManyPools(t *testing.T) {
	const pools, low, high = 1100, 5, 1050
	name := func(i int) string { return "pool " + strconv.Itoa(i) }
	p := policy(nat.Profile{}, func(p *nat.Policy) {
		p.Pools = nil
		for i := range pools {
			p.Pools = append(p.Pools, nat.Pool{Name: name(i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)})}})
		}
		p.Routes = []nat.Route{{Source: netip.PrefixFrom(A, 32), Pool: name(low)}, {Source: netip.PrefixFrom(B, 32), Pool: name(high)}}
	})
	turned := p
	turned.Pools = slices.Clone(p.Pools)
	slices.Reverse(turned.Pools)
	for _, c := range []struct {
		name string
		next *nat.Policy
		want []netip.Addr
	}{{"as they were", &p, []netip.Addr{A, B}}, {"the other way round", &turned, []netip.Addr{A}}} {
		cfg, w := begun(t, nat.Config{Sessions: 8}, &p)
		for _, host := range []netip.Addr{A, B} {
			if v, _ := send(w, 0, udp(at(host, 5000), at(R1, 80), "x"), 0); v != nat.Outbound {
				t.Fatal(v)
			}
		}
		e, _, got := adopted(t, cfg, c.next, time.Second)
		var left []netip.Addr
		for _, s := range sessionsOf(e, time.Second) {
			left = append(left, s.Inside.Addr())
		}
		if !slices.Equal(left, c.want) || got.Cut != 2-len(c.want) || got.Torn != 0 {
			t.Errorf("%s: those of %v go on, want %v: %+v", c.name, left, c.want, got)
		}
	}
}

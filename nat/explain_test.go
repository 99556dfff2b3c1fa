// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// That explanations agree with what then happens, and change nothing, is proved by the simulation: TestTwin, which asks
// for one before each packet, and TestExplainChangesNothing in package sim. The tests here are about what they say.

func ExampleEngine_Explain() {
	inside := netip.MustParsePrefix("10.0.0.0/16")
	engine, err := nat.New(nat.Config{Seed: 1}, &nat.Policy{
		Inside:   []netip.Prefix{inside},
		Pools:    []nat.Pool{{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}},
		Routes:   []nat.Route{{Source: inside, Pool: "public"}},
		Forwards: []nat.Forward{{Protocol: packet.TCP, Outside: netip.MustParseAddrPort("203.0.113.1:8080"), Inside: netip.MustParseAddrPort("10.0.1.20:80")}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ask := func(from nat.AttachmentID, src, dst string) {
		p, err := nat.Probe(packet.TCP, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(engine.Explain(&p, from, 0))
	}
	ask(nat.FromOutside, "198.51.100.7:40000", "203.0.113.1:8080")
	ask(nat.FromOutside, "198.51.100.7:40000", "203.0.113.1:22")
	// Output:
	// packet    tcp 198.51.100.7:40000 > 203.0.113.1:8080, SYN, 40 bytes, TTL 64, DF
	// from      outside, attachment 1
	// policy    Pools[0]: "public": address-and-port-dependent mapping, address-and-port-dependent filtering
	//           Forwards[0]: tcp 203.0.113.1:8080 to 10.0.1.20:80
	// session   new: tcp 10.0.1.20:80 = 203.0.113.1:8080, with 198.51.100.7:40000, opening, for 4m0s
	// change    destination 203.0.113.1:8080 -> 10.0.1.20:80
	// verdict   inbound: translated, outside to inside; to the inside
	// packet    tcp 198.51.100.7:40000 > 203.0.113.1:22, SYN, 40 bytes, TTL 64, DF
	// from      outside, attachment 1
	// policy    Pools[0]: "public": address-and-port-dependent mapping, address-and-port-dependent filtering
	// session   none
	// verdict   no_mapping: nobody holds this external port
}

// TestExplainSays: the line that decided, the session, what is rewritten, for one packet of each way.
func TestExplainSays(t *testing.T) {
	other := netip.MustParsePrefix("10.0.1.12/32")
	bypass := netip.MustParsePrefix("172.16.0.0/12")
	pol := policy(nat.RFCProfile(), static(B, E1), func(p *nat.Policy) {
		p.Routes = append(p.Routes, nat.Route{Source: insideNet, Destination: bypass, Bypass: true}, nat.Route{Source: other})
		p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(A, 80)}}
		p.Services = []nat.Service{{Protocol: packet.TCP, Endpoint: at(PA, 22)}}
		p.Unlent = []netip.Prefix{netip.PrefixFrom(E2, 32)}
		p.ICMPErrorsPerSecond = 1
	})
	g := newGate(t, nat.Config{Seed: 7}, pol)
	ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
	piece := craft.Cut(craft.UDP(craft.IP{Src: A, Dst: R1, ID: 3}, 5000, 53, make([]byte, 100)), 64)
	for _, c := range []struct {
		name string
		from nat.AttachmentID
		b    []byte
		want []string // in this order
	}{
		{"an answer", 1, udp(at(R1, 53), ext, ""), []string{`Pools[0]: "pool"`, "udp 10.0.1.10:5000 = " + ext.String(), "started from inside, not answered, 5m0s left",
			"destination " + ext.String() + " -> 10.0.1.10:5000", "ttl 64 -> 63", "inbound"}},
		{"through a mapping", 1, udp(at(R2, 9), ext, ""), []string{"the mapping 10.0.1.10:5000 = " + ext.String(), "inbound"}},
		{"a new flow of a mapping", 0, udp(at(A, 5000), at(R2, 9), ""), []string{"Routes[0]", "new: udp 10.0.1.10:5000 = " + ext.String(), "outbound"}},
		{"a new flow", 0, udp(at(A, 5001), at(R2, 9), ""), []string{"new: udp", "is the next of 1024-65535 on 198.51.100.1", "source 10.0.1.10:5001 -> 198.51.100.1:"}},
		{"1:1", 0, udp(at(B, 1), at(R2, 9), ""), []string{"Routes[0]", "Static[0]: 10.0.1.11 = 198.51.100.129", "session   none", "static_outbound"}},
		{"1:1, in", 1, udp(at(R2, 9), at(E1, 1), ""), []string{"Static[0]", "static_inbound"}},
		{"a forward", 1, tcp(at(R1, 9), at(PA, 8080), syn, 1, 0, ""), []string{"Forwards[0]: tcp 198.51.100.1:8080 to 10.0.1.10:80", "new: tcp", "inbound"}},
		{"a host with a forward, out", 0, tcp(at(A, 80), at(R1, 9), syn, 1, 0, ""), []string{"Forwards[0]", "10.0.1.10:80 = 198.51.100.1:8080", "outbound"}},
		{"an answer through a forward", 0, tcp(at(A, 80), at(R1, 9), syn|ack, 1, 2, ""), []string{"started from outside, ", " left", "outbound"}},
		{"hairpin", 0, tcp(at(A, 7), at(PA, 8080), syn, 1, 0, ""), []string{"Routes[0]", "Pools[0]", "Forwards[0]", "new: tcp 10.0.1.10:7", "new: tcp 10.0.1.10:80", "hairpin"}},
		{"bypass", 0, udp(at(A, 1), at(ip4("172.16.0.1"), 9), ""), []string{"Routes[1]", "untranslated", "bypassed"}},
		{"bypass, in", 1, udp(at(ip4("172.16.0.1"), 9), at(A, 1), ""), []string{"Routes[1]", "untouched"}},
		{"inside", 0, udp(at(A, 1), at(B, 9), ""), []string{"Inside[0]: 10.0.0.0/16", "untouched"}},
		{"no way out", 0, udp(at(C, 1), at(R1, 9), ""), []string{"Routes[2]", "no way out", "no_public_path"}},
		{"spoof", 0, udp(at(R2, 1), at(R1, 9), ""), []string{"Inside: [10.0.0.0/16]", "spoof"}},
		{"martian", 0, udp(at(A, 1), at(ip4("127.0.0.1"), 9), ""), []string{"session   none", "martian"}},
		{"a service", 1, tcp(at(R1, 9), at(PA, 22), syn, 1, 0, ""), []string{"Services[0]: tcp 198.51.100.1:22", "to_host"}},
		{"unlent", 1, udp(at(R1, 9), at(E2, 22), ""), []string{"Unlent[0]: 198.51.100.130/32", "unassigned"}},
		{"unsolicited", 1, tcp(at(R1, 9), at(PA, 4000), syn, 1, 0, ""), []string{"session   none", "held_syn"}},
		{"an error", 1, craft.Error(head(X, PA), 3, 1, 0, udp(ext, at(R1, 53), "")), []string{"about udp " + ext.String(), "of the quoted packet: udp 10.0.1.10:5000",
			"quoted source " + ext.String() + " -> 10.0.1.10:5000", "icmp_error_inbound"}},
		{"ttl", 0, craft.SetTTL(udp(at(A, 1), at(R1, 9), ""), 1), []string{"emits     to the inside: icmp 10.0.0.1 > 10.0.1.10, type 11 code 0", "ttl: the time to live ended here"}},
		{"a fragment", 0, piece[0], []string{"bytes 0-63, more follow", "held_fragment"}},
		{"another protocol", 0, craft.IPv4(head(A, R1), 47, []byte("data")), []string{`Pools[0]: "pool": protocol 47 has no ports`, "proto"}},
		{"nothing", 0, []byte{0x45}, []string{"unreadable (shorter than an IPv4 header), 1 bytes", "malformed"}},
		{"a wrong checksum", 0, append([]byte{0x45, 1}, udp(at(A, 1), at(R1, 9), "")[2:]...), []string{"a wrong header checksum", "header_checksum"}},
		{"from nowhere", 9, udp(at(A, 1), at(R1, 9), ""), []string{"nowhere, attachment 9", "attachment"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := packet.From(c.b)
			x := g.e.Explain(&p, c.from, g.now)
			rest := x.String()
			for _, w := range c.want {
				_, after, ok := strings.Cut(rest, w)
				if !ok {
					t.Fatalf("no %q (in its place) in\n%v", w, x)
				}
				rest = after
			}
			if r := g.send(c.from, packet.From(c.b))[0]; r.Verdict != x.Verdict {
				t.Errorf("it was %v", r.Verdict)
			}
			g.at(g.now + 2*time.Second)
		})
	}
	p := packet.From(craft.SetTTL(udp(at(A, 1), at(R1, 9), ""), 1))
	g.send(0, p.Clone())
	if x := g.e.Explain(&p, 0, g.now); !x.Suppressed || len(x.Emits) > 0 || !strings.Contains(x.String(), "too many in this second") {
		t.Errorf("the limit of errors is not told:\n%v", x)
	}
}

// TestExplainJSON: the names of the fields are for programs, so they stay.
func TestExplainJSON(t *testing.T) {
	f := custom(anyClass, func(f *nat.Profile) { f.PreservePort = true })
	g := newGate(t, nat.Config{Seed: 7}, policy(f))
	p := packet.From(udp(at(A, 5000), at(R1, 53), "hi"))
	b, err := json.Marshal(g.e.Explain(&p, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"attachment":0,"side":"inside",` +
		`"packet":{"protocol":"udp","source":"10.0.1.10:5000","destination":"203.0.113.9:53","length":30,"ttl":64,"id":7,"df":true},` +
		`"policy":[{"line":"Routes[0]","text":"from 10.0.0.0/16 to anywhere: by the 1:1 mapping of the source, else pool \"pool\""},` +
		`{"line":"Pools[0]","text":"\"pool\": endpoint-independent mapping, endpoint-independent filtering"}],` +
		`"sessions":[{"use":"new","protocol":"udp","inside":"10.0.1.10:5000","external":"198.51.100.1:5000","remote":"203.0.113.9:53","state":"dns","inbound":false,"replied":false,"left":300}],` +
		`"port":{"address":"198.51.100.1","port":5000,"min":1024,"max":65535,"kept":true},` +
		`"changes":[{"field":"source","before":"10.0.1.10:5000","after":"198.51.100.1:5000"},{"field":"ttl","before":"64","after":"63"}],` +
		`"emits":[],"suppressed":false,"verdict":"outbound","reason":"translated, inside to outside","to":"outside"}`
	if string(b) != want {
		t.Errorf("\n%s, want\n%s", b, want)
	}
	var back nat.Explanation
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(back); err != nil || string(again) != want {
		t.Errorf("read and written again, it is\n%s, %v", again, err)
	}
}

// TestVerdictText: a verdict comes back from its name.
func TestVerdictText(t *testing.T) {
	for v := range nat.Verdict(nat.NumVerdicts) {
		b, err := v.MarshalText()
		var back nat.Verdict
		if err != nil || back.UnmarshalText(b) != nil || back != v {
			t.Errorf("%d: %s, %v, is %d", v, b, err, back)
		}
	}
	if err := new(nat.Verdict).UnmarshalText([]byte("invalid")); err == nil {
		t.Error("a name of no verdict")
	}
}

// TestExplainHairpinIntoFullTable: the second session of a hairpin is judged as if the first had been made.
func TestExplainHairpinIntoFullTable(t *testing.T) {
	for _, c := range []struct {
		name     string
		sessions int
		host     int
		policy   func(*nat.Policy)
		want     nat.Verdict
	}{
		{"room for both", 3, 0, nil, nat.Hairpin},
		{"the mapping gives way to the session that wants to use it", 1, 0, nil, nat.DropNoMapping},
		{"room for one", 2, 0, nil, nat.Hairpin},
		{"room for one, and nobody gives way", 2, 0, func(p *nat.Policy) { p.Pools[0].Profile.NoRecycling = true }, nat.DropTableFull},
		{"one of the host's sessions is left", 9, 2, nil, nat.DropHostLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := custom(anyClass, func(f *nat.Profile) { f.NoRecycling, f.Quarantine, f.HoldSYN = false, 0, false })
			pol := policy(f, func(p *nat.Policy) { p.HostSessions = c.host })
			if c.policy != nil {
				c.policy(&pol)
			}
			g := newGate(t, nat.Config{Seed: 7, Sessions: c.sessions}, pol)
			ext := g.opens(packet.TCP, at(A, 5000), at(R1, 53))
			p := packet.From(tcp(at(A, 6000), ext, syn, 1, 0, ""))
			x := g.e.Explain(&p, 0, g.now)
			got := g.w.Translate(&p, 0, g.now)
			if x.Verdict != got || got != c.want {
				t.Errorf("%v, and then it was %v, want %v:\n%v", x.Verdict, got, c.want, x)
			}
		})
	}
}

// TestExplainWhoGivesWay: in a full table the first session of a hairpin pushes out the oldest that was not answered, and
// the second pass meets what is left.
func TestExplainWhoGivesWay(t *testing.T) {
	adf := func(f *nat.Profile) {
		filtering(nat.FilterAddressDependent)(f)
		f.NoRecycling, f.Quarantine, f.HoldSYN = false, 0, false
	}
	for _, c := range []struct {
		name  string
		proto uint8
		size  int
		setup func(g *gate) (src, dst end)
		limit int
		want  nat.Verdict
	}{
		{"a mapping has another session left", packet.TCP, 2, func(g *gate) (end, end) {
			g.opens(packet.TCP, at(A, 5000), at(R1, 53))
			return at(B, 6000), g.opens(packet.TCP, at(A, 5000), at(R2, 53))
		}, 0, nat.DropFiltered},
		{"the only session to our address gives way", packet.UDP, 3, func(g *gate) (end, end) {
			other := g.opens(packet.UDP, at(C, 7000), at(R1, 53))
			mapped := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
			g.reaches(at(A, 5000), udp(at(R1, 53), mapped, "")) // answered, so it stays
			g.out(udp(at(A, 5000), other, ""))
			g.reaches(at(C, 7000), udp(at(R1, 53), other, ""))
			return at(B, 6000), mapped
		}, 0, nat.DropFiltered},
		{"one of two sessions to our address gives way", packet.UDP, 4, func(g *gate) (end, end) {
			other := g.opens(packet.UDP, at(C, 7000), at(R1, 53))
			second := g.opens(packet.UDP, at(C, 7001), at(R1, 53))
			g.reaches(at(C, 7000), udp(at(R1, 53), other, ""))
			g.reaches(at(C, 7001), udp(at(R1, 53), second, ""))
			g.out(udp(at(A, 5000), other, ""))
			g.out(udp(at(A, 5000), second, ""))
			return at(B, 6000), g.session(packet.UDP, at(A, 5000), other).External
		}, 0, nat.Hairpin},
		{"a host at its limit loses a session and may have another", packet.TCP, 3, func(g *gate) (end, end) {
			g.opens(packet.TCP, at(A, 5000), at(R1, 53))
			g.opens(packet.TCP, at(A, 5001), at(R1, 53))
			g.opens(packet.TCP, at(C, 1), at(R1, 53))
			return at(B, 6000), at(PA, 8080)
		}, 2, nat.Hairpin},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := custom(anyClass, adf)
			pol := policy(f, func(p *nat.Policy) {
				p.HostSessions = c.limit
				p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(A, 80)}}
			})
			g := newGate(t, nat.Config{Seed: 7, Sessions: c.size}, pol)
			src, dst := c.setup(g)
			if s := g.stats(); s.Sessions != c.size || s.Recycled != 0 {
				t.Fatalf("%d of %d sessions, %d gave way", s.Sessions, c.size, s.Recycled)
			}
			p := packet.From(of(c.proto, src, dst))
			x := g.e.Explain(&p, 0, g.now)
			got := g.w.Translate(&p, 0, g.now)
			if x.Verdict != got || got != c.want {
				t.Errorf("%v, and then it was %v, want %v:\n%v", x.Verdict, got, c.want, x)
			}
			if s := g.stats(); s.Recycled == 0 {
				t.Errorf("nobody gave way")
			}
		})
	}
}

// TestExplainPort: what is said of a port that is not a matter of chance.
func TestExplainPort(t *testing.T) {
	for _, c := range []struct {
		change func(*nat.Profile)
		want   string
	}{
		{func(f *nat.Profile) { f.PreservePort = true }, "port      5000 is kept, since it is free on 198.51.100.1"},
		{ports(4000, 4000), "port      4000 is the only one on 198.51.100.1"},
		{ports(4000, 4001), " is the next of 4000-4001 on 198.51.100.1"},
	} {
		g := newGate(t, nat.Config{Seed: 7}, policy(custom(anyClass, c.change)))
		p := packet.From(udp(at(A, 5000), at(R1, 53), ""))
		if x := g.e.Explain(&p, 0, g.now); !strings.Contains(x.String(), c.want) {
			t.Errorf("no %q in\n%v", c.want, x)
		}
	}
}

// TestExplainBesideTraffic runs questions and packets at the same time.
func TestExplainBesideTraffic(t *testing.T) {
	pol := policy(nat.GatewayProfile())
	e, err := nat.New(nat.Config{Seed: 1, Shards: 4, Sessions: 4 * 512}, &pol)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 2 {
		wg.Go(func() {
			w := e.Worker()
			for i := range 2000 {
				p := packet.From(udp(at(addr10(n), uint16(i)), at(R1, 53), ""))
				w.Translate(&p, 0, time.Duration(i)*time.Millisecond)
			}
		})
		wg.Go(func() {
			for i := range 500 {
				p := packet.From(udp(at(addr10(n), uint16(2*i)), at(R1, 53), ""))
				if x := e.Explain(&p, 0, time.Duration(i)*time.Millisecond); x.Verdict.Dropped() && x.Verdict != nat.DropTableFull {
					t.Errorf("%v", x)
				}
			}
		})
	}
	wg.Wait()
	if err := e.Check(3 * time.Second); err != nil {
		t.Error(err)
	}
	if s := e.Stats(3 * time.Second); s.Verdicts[nat.Outbound] != 4000 {
		t.Errorf("%d packets were counted, want 4000", s.Verdicts[nat.Outbound])
	}
}

// TestProbe: probes are packets like any other.
func TestProbe(t *testing.T) {
	for _, proto := range []uint8{packet.TCP, packet.UDP, packet.ICMP} {
		p, err := nat.Probe(proto, at(A, 5000), at(R1, 53))
		if err != nil {
			t.Fatal(err)
		}
		if err := craft.Verify(p.Bytes()); err != nil {
			t.Error(err)
		}
		var v packet.View
		if fault := v.Parse(p.Bytes()); fault != packet.OK || v.Kind != packet.KindFlow || v.Proto != proto || v.SrcPort != 5000 {
			t.Errorf("%v, %+v", fault, v)
		}
	}
	if _, err := nat.Probe(47, at(A, 1), at(R1, 2)); err == nil || !strings.Contains(err.Error(), "no ports") {
		t.Errorf("%v", err)
	}
	if _, err := nat.Probe(packet.UDP, at(ip4("2001:db8::1"), 1), at(R1, 2)); err == nil || !strings.Contains(err.Error(), "IPv4") {
		t.Errorf("%v", err)
	}
}

// TestExplainRestrictions: the rule that lets a packet pass is named, or the restriction that does not.
func TestExplainRestrictions(t *testing.T) {
	t.Parallel()
	p := policy(nat.Profile{}, static(A, E1), static(B, E2),
		restrict("a", rules(allow(packet.ICMP, packet.Echo)), rules(allow(packet.TCP, 80), nat.Allow{Protocol: -1, Remotes: []netip.Prefix{netip.PrefixFrom(E2, 32)}}), A),
		restrict("b", rules(nat.Allow{Protocol: packet.UDP, PortMin: 50, PortMax: 59}, nat.Allow{Protocol: 47}), nil, B))
	p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(PA, 8080), Inside: at(B, 80)}}
	e, err := nat.New(nat.Config{Seed: 1}, &p)
	if err != nil {
		t.Fatal(err)
	}
	w := e.Worker()
	for _, c := range []struct {
		from nat.AttachmentID
		b    []byte
		want []string // the lines about restrictions
	}{
		{0, tcp(at(A, 5000), at(R1, 80), syn, 1, 0, ""), []string{`Restrictions[0].Out[0] "a" of 10.0.1.10: tcp port 80 to anywhere`}},
		{1, tcp(at(R1, 80), at(E1, 5000), syn|ack, 1, 2, ""), []string{`Restrictions[0] "a" of 10.0.1.10: it is of a flow that was allowed`}},
		{0, tcp(at(A, 5000), at(R1, 81), syn, 1, 0, ""), []string{`Restrictions[0] "a" of 10.0.1.10: no rule of Out covers it`}},
		{1, ping(at(R1, 1), E1), []string{`Restrictions[0].In[0] "a" of 10.0.1.10: icmp echo request from anywhere`}},
		{0, udp(at(A, 5000), at(E2, 50), "x"), []string{`Restrictions[0].Out[1] "a" of 10.0.1.10: all protocols to [198.51.100.130/32]`, `Restrictions[1].In[0] "b" of 10.0.1.11: udp ports 50-59 from anywhere`}},
		{0, raw(47, A, E2), []string{`Restrictions[0].Out[1] "a" of 10.0.1.10: all protocols to [198.51.100.130/32]`, `Restrictions[1].In[1] "b" of 10.0.1.11: protocol 47 from anywhere`}},
		{1, udp(at(R1, 5000), at(PA, 8080), "x"), []string{`Restrictions[1] "b" of 10.0.1.11: no rule of In covers it`}},
		{0, udp(at(C, 5000), at(R1, 50), "x"), nil},
	} {
		q := packet.From(c.b)
		x := e.Explain(&q, c.from, 0)
		var got []string
		for _, l := range x.Policy {
			if strings.HasPrefix(l.Line, "Restrictions") {
				got = append(got, l.Line+" "+l.Text)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", craft.Describe(c.b), got, c.want)
		}
		if v := w.Translate(&q, c.from, 0); v != x.Verdict {
			t.Errorf("%s: %v, explained as %v", craft.Describe(c.b), v, x.Verdict)
		}
	}
}

// TestHeaderFaults: every packet that cannot be read says why.
func TestHeaderFaults(t *testing.T) {
	for name, b := range map[string][]byte{
		"short": {0x45}, "version": append([]byte{0x65}, make([]byte, 40)...), "header length": append([]byte{0x44}, make([]byte, 40)...),
		"total length": append([]byte{0x45, 0, 0, 19}, make([]byte, 40)...), "truncated": append([]byte{0x45, 0, 0, 99}, make([]byte, 40)...),
		"checksum": append([]byte{0x45, 0, 0, 20}, make([]byte, 40)...),
	} {
		if h := nat.ReadHeader(b); h.Fault == "" {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

// TestProbeChecksum: a sum that comes out as 0 is sent as 0xffff, for 0 is no checksum (RFC 768).
func TestProbeChecksum(t *testing.T) {
	ones := 0
	for port := range uint16(65535) {
		p, err := nat.Probe(packet.UDP, at(A, port+1), at(R1, 53))
		if err != nil {
			t.Fatal(err)
		}
		b := p.Bytes()
		if sum := be.Uint16(b[26:]); sum == 0 {
			t.Fatalf("source port %d: no checksum", port+1)
		} else if sum == 0xffff {
			ones++
		}
		if bad := craft.Verify(b); bad != nil {
			t.Fatalf("source port %d: %v", port+1, bad)
		}
	}
	if ones == 0 {
		t.Error("no port gives the sum in question")
	}
}

// TestExplainBecomes: the state after the packet is told where the packet changes it.
func TestExplainBecomes(t *testing.T) {
	g := newGate(t, nat.Config{Seed: 7}, policy(nat.RFCProfile()))
	ext := g.opens(packet.TCP, at(A, 5000), at(R1, 80))
	g.want(g.in(tcp(at(R1, 80), ext, syn|ack, 900, 101, "")), nat.Inbound)
	p := packet.From(craft.TCP(head(A, R1), craft.Segment{Src: 5000, Dst: 80, Flags: ack, Seq: 101, Ack: 901, Window: 65535}, nil))
	if s := g.e.Explain(&p, 0, g.now).String(); !strings.Contains(s, "opening, which becomes established, started from inside") {
		t.Error(s)
	}
	p = packet.From(craft.TCP(head(A, R1), craft.Segment{Src: 5001, Dst: 80, Flags: syn, Seq: 1, Window: 65535, Options: []byte{2, 4, 5, 180}}, nil))
	if s := g.e.Explain(&p, 0, g.now).String(); !strings.Contains(s, "TTL 64, MSS 1460, DF") {
		t.Error(s)
	}
}

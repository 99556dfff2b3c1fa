// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/nat/internal/invariants"
	"github.com/tidegate/tidegate/packet"
)

// sender sends many small datagrams without a checksum, from a worker of its own. The laws are asked about each, but for
// its owner.
type sender struct {
	*gate
	w    *nat.Worker
	laws *invariants.Laws
	from nat.AttachmentID
	now  time.Duration
	p    packet.Packet
	was  packet.Packet
}

func (g *gate) sender(from nat.AttachmentID) *sender {
	laws := invariants.New(&g.pol)
	laws.Shared = true
	return &sender{gate: g, w: g.e.Worker(), laws: laws, from: from, p: packet.From(make([]byte, 28)), was: packet.From(make([]byte, 28))}
}

// send sends one; the translated packet is in s.p.
func (s *sender) send(src, dst end) nat.Verdict {
	b := s.p.Bytes()
	clear(b)
	b[0], b[3], b[6], b[9], b[25] = 0x45, 28, 0x40, packet.UDP, 8
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	be.PutUint16(b[20:], src.Port())
	be.PutUint16(b[22:], dst.Port())
	craft.SetTTL(b, 64)
	return s.through(b)
}

// through sends b, which is in s.p.
func (s *sender) through(b []byte) nat.Verdict {
	s.was.Len = copy(s.was.Buf[s.was.Off:], b)
	v := s.w.Translate(&s.p, s.from, s.now)
	if err := s.laws.Packet(s.from, s.was, s.p, v, s.w.Emitted()); err != nil {
		s.Errorf("%v: %v, of %s", v, err, craft.Describe(s.was.Bytes()))
	}
	return v
}

func (s *sender) src() end { return srcOf(s.p.Bytes()) }

// TestB30_LastPort would take hours if each packet searched all ports: it asks 100,000 times for the one port of 64,512
// that is free, and 100,000 times for one when there is none.
func TestB30_LastPort(t *testing.T) {
	const all, times = 65536 - 1024, 100_000
	f := custom(anyClass, func(f *nat.Profile) {
		f.Quarantine, f.NoPort = 0, nat.RefuseSilently
		f.Timeouts.UDP, f.Timeouts.DNS = time.Hour, time.Millisecond
	})
	g := newGate(t, nat.Config{Sessions: 1 << 17}, policy(f))
	s := g.sender(0)
	used := map[end]bool{}
	for i := range all - 1 {
		if v := s.send(at(A, uint16(i)), at(R1, 80)); v != nat.Outbound {
			t.Fatalf("flow %d: %v", i, v)
		}
		used[s.src()] = true
	}
	if len(used) != all-1 {
		t.Fatalf("%d ports are used", len(used))
	}
	for i := range times {
		s.now += time.Millisecond // the one before has ended
		if v := s.send(at(B, uint16(i)), at(R1, 53)); v != nat.Outbound {
			t.Fatalf("the last port was not found: %v", v)
		}
		if used[s.src()] {
			t.Fatalf("%v was given out twice", s.src())
		}
	}
	for i := range times {
		if v := s.send(at(C, uint16(i)), at(R1, 53)); v != nat.DropNoPort {
			t.Fatalf("with no port free: %v", v)
		}
	}
	if v := s.send(at(A, 7), at(R1, 80)); v != nat.Outbound { // those that live are not hurt
		t.Fatal(v)
	}
	if err := g.e.Check(s.now); err != nil {
		t.Error(err)
	}
}

func TestB31_NoEvictionOfLiveFlows(t *testing.T) {
	const size = 300
	for _, f := range []nat.Profile{nat.GatewayProfile(), nat.AWSProfile()} {
		trial{policy: policy(f), config: nat.Config{Sessions: size}, oneShard: true}.run(t, func(g *gate) {
			// The ones that were used longest ago are live: connections that wait for something.
			var conns []*conn
			for i := range size / 2 {
				conns = append(conns, g.dial(at(A, uint16(5000+i)), at(R1, 80)))
			}
			for i := range 10 * size {
				g.at(time.Duration(i) * 10 * time.Millisecond)
				g.want(g.out(udp(at(addr10(1000+i), 9), at(R2, 80), "")), nat.Outbound) // each unanswered one makes room for the next
			}
			for _, c := range conns {
				c.hears(ack|psh, "at last")
				c.sends(ack, "")
			}
			if s := g.stats(); s.Recycled == 0 || s.Sessions > size {
				g.Errorf("%+v", s)
			}
		})
	}
}

func TestB32_LandPackets(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(C, E1))}.run(t, func(g *gate) {
		selfAddressed(g)
		for _, ours := range []netip.Addr{PA, E1} {
			for _, proto := range allProtocols {
				g.drops(nat.DropMartian, 1, of(proto, at(ours, 7), at(ours, 7)))
			}
		}
		for _, proto := range allProtocols {
			g.drops(nat.DropLand, 0, of(proto, at(A, 7), at(A, 7)))
			g.drops(nat.DropSpoof, 0, of(proto, at(PA, 7), at(PA, 7)))
		}
		if s := g.stats(); s.Emitted != 0 {
			g.Errorf("%d packets more than came in", s.Emitted)
		}
	})
}

func TestB33_MartiansMakeNoMappings(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile(), static(C, E1), sourcesOfAAndC)}.run(t, martians)
}

func TestB34_LinkLocalStays(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile(), static(B, E1))}.run(t, func(g *gate) {
		for _, dst := range []string{"169.254.169.254", "169.254.169.253", "169.254.0.1", "224.0.0.1", "224.0.0.251", "239.1.2.3", "255.255.255.255"} {
			for _, proto := range allProtocols {
				for _, h := range []netip.Addr{A, B} {
					g.drops(nat.DropMartian, 0, of(proto, at(h, 5000), at(ip4(dst), 80)))
				}
			}
		}
		// The broadcast address of the inside is an inside one: never translated.
		if r := g.out(udp(at(A, 5000), at(ip4("10.0.255.255"), 80), "")); r.Side() == nat.Outside || srcOf(r.b) != at(A, 5000) {
			g.Errorf("%v", r)
		}
	})
}

func TestB35_PartialChecksumIsNotFull(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile(), static(C, E1))}.run(t, partialChecksums)
}

func TestB36_SuperPackets(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile(), static(C, E1), mtu(1400, 1400))}.run(t, superPackets)
}

func TestB37_Clock(t *testing.T) {
	const ms = time.Millisecond
	for _, start := range []time.Duration{0, 1<<31*ms - 100*time.Second, 1<<32*ms - 100*time.Second, 1<<32*ms + 1<<31*ms - 100*time.Second} {
		trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
			g.at(start)
			c := g.dial(at(A, 5000), at(R1, 80))
			kept := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
			left := g.opens(packet.UDP, at(B, 5000), at(R1, 53))
			for i := range 4 {
				g.at(start + time.Duration(i)*99*time.Second) // the first step crosses
				if got := g.opens(packet.UDP, at(A, 5000), at(R1, 53)); got != kept {
					g.Fatalf("after %v: %v, before %v", g.now-start, got, kept)
				}
				g.tick()
			}
			g.at(start + 299*time.Second)
			g.reaches(at(B, 5000), udp(at(R1, 53), left, ""))
			g.at(start + 300*time.Second)
			g.drops(nat.DropNoMapping, 1, udp(at(R1, 53), left, ""))
			c.hears(ack, "")
			// An hour back is no time at all; an hour forward ends what it should, and no more.
			g.at(g.now - time.Hour)
			c.sends(ack, "")
			g.reaches(at(A, 5000), udp(at(R1, 53), kept, ""))
			g.at(start + 300*time.Second + time.Hour)
			g.tick()
			c.hears(ack, "")
			g.drops(nat.DropNoMapping, 1, udp(at(R1, 53), kept, ""))
			if n := g.stats().Sessions; n != 1 {
				g.Errorf("%d sessions, want 1", n)
			}
			// Nothing lives for ever.
			g.at(g.now + 50*24*time.Hour)
			if n := g.stats().Sessions; n != 0 {
				g.Errorf("%d sessions, want none", n)
			}
		})
	}
}

// TestB38_ExpiryAndRefresh refreshes a million times at the moment when a session ends, or a tick before or after.
func TestB38_ExpiryAndRefresh(t *testing.T) {
	f := custom(func(f *nat.Profile) { f.Timeouts.UDP, f.Quarantine = time.Second, 0 })
	trial{policy: policy(f), oneShard: true}.run(t, func(g *gate) {
		for i := range 1000 {
			ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
			created := g.stats().Created
			off := time.Duration(i%3-1) * time.Millisecond
			g.at(g.now + time.Second + off)
			if i%2 == 0 {
				g.tick()
			}
			if off < 0 {
				if got := g.opens(packet.UDP, at(A, 5000), at(R1, 80)); got != ext || g.stats().Created != created {
					g.Fatalf("round %d: ended before its time", i)
				}
				g.at(g.now + time.Second)
				continue
			}
			g.want(g.in(udp(at(R1, 80), ext, "")), nat.DropNoMapping)
			if n := g.stats().Sessions; n != 0 {
				g.Fatalf("round %d: %d sessions", i, n)
			}
		}
	})
	g := newGate(t, nat.Config{Sessions: 4}, policy(f))
	out, back := g.sender(0), g.sender(1)
	var ext end
	made := uint64(0)
	for i := range 1_000_000 {
		off := time.Duration(i%3-1) * time.Millisecond
		if i > 0 {
			g.at(g.now + time.Second + off)
		}
		if out.now, back.now = g.now, g.now; i%5 == 0 {
			g.w.Tick(g.now)
		}
		lives := i > 0 && off < 0
		if v := back.send(at(R1, 80), ext); i > 0 && (v == nat.Inbound) != lives {
			t.Fatalf("round %d: %v", i, v)
		}
		if v := out.send(at(A, 5000), at(R1, 80)); v != nat.Outbound || lives && out.src() != ext {
			t.Fatalf("round %d: %v from %v, before from %v", i, v, out.src(), ext)
		}
		if ext = out.src(); !lives {
			made++
		}
	}
	if s := g.stats(); s.Created != made {
		t.Errorf("%d sessions were made, want %d", s.Created, made)
	}
	g.check()
}

func TestB39_LateReplies(t *testing.T) {
	trial{policy: policy(custom(ports(2000, 2063))), oneShard: true}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
		g.at(sec(330))
		for i := range 63 {
			if got := g.opens(packet.UDP, at(B, uint16(2000+i)), at(R2, 53)); got == ext {
				g.Fatal("the port has a new owner 30 s after it ended")
			}
		}
		g.drops(nat.DropNoMapping, 1, udp(at(R1, 53), ext, "late"))
	})
}

func TestB40_AddressesMove(t *testing.T) {
	before := policy(nat.RFCProfile(), static(A, E1))
	// 1:1: from the moment of the change on nothing for E1 reaches A, and nothing of A's leaves as E1.
	trial{policy: before}.run(t, func(g *gate) {
		g.want(g.out(tcp(at(A, 5000), at(R1, 80), syn, 1, 0, "")), nat.StaticOutbound)
		g.apply(policy(nat.RFCProfile(), static(B, E1)))
		reply := tcp(at(R1, 80), at(E1, 5000), syn|ack, 9, 2, "")
		if r := g.want(g.in(bytes.Clone(reply)), nat.StaticInbound); dstOf(r.b) != at(B, 5000) {
			g.Errorf("%v", r)
		}
		if r := g.out(tcp(at(A, 5000), at(R1, 80), ack, 2, 10, "")); r.Forward() && srcOf(r.b).Addr() == E1 {
			g.Errorf("A still leaves as E1: %v", r)
		}
		gone := policy(nat.RFCProfile(), func(p *nat.Policy) { p.Unlent = []netip.Prefix{netip.PrefixFrom(E1, 32)} })
		g.apply(gone)
		g.drops(nat.DropUnassigned, 1, reply)
	})
	// A pool's address that becomes B's own: a half-open connection of A's is no longer answered to A.
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		ext := g.opens(packet.TCP, at(A, 5000), at(R1, 80))
		udpExt := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		moved := policy(nat.RFCProfile(), static(B, PA), func(p *nat.Policy) { p.Pools[0].Addresses = []netip.Addr{PB} })
		if i := g.apply(moved); i.Cut != 2 || i.Kept != 0 {
			g.Errorf("%+v", i)
		}
		if r := g.in(answer(packet.TCP, at(R1, 80), ext)); r.Forward() && dstOf(r.b).Addr() != B {
			g.Errorf("%v", r)
		}
		g.want(g.out(tcp(at(A, 5000), at(R1, 80), ack, 101, 901, "")), nat.DropNoSession)
		// Back in the pool it knows nothing of before.
		g.apply(policy(nat.RFCProfile()))
		g.drops(nat.DropNoMapping, 1, answer(packet.TCP, at(R1, 80), ext))
		g.drops(nat.DropNoMapping, 1, udp(at(R1, 80), udpExt, ""))
	})
	// A draining address keeps its flows and gets no new ones; without it they end.
	trial{policy: policy(nat.AWSProfile(), twoAddresses), oneShard: true}.run(t, func(g *gate) {
		var onPB []*conn
		for i := range 40 {
			if c := g.dial(at(A, uint16(5000+i)), at(R1, 80)); c.ext.Addr() == PB {
				onPB = append(onPB, c)
			}
		}
		drain := func(p *nat.Policy) { p.Pools[0].Draining = []netip.Addr{PB} }
		if i := g.apply(policy(nat.AWSProfile(), drain)); i != (nat.Impact{Kept: 40, Draining: len(onPB)}) {
			g.Errorf("%+v, with %d on the draining address", i, len(onPB))
		}
		for i := range 40 {
			if ext := g.opens(packet.TCP, at(B, uint16(5000+i)), at(R1, 80)); ext.Addr() == PB {
				g.Fatal("a new flow on a draining address")
			}
		}
		for _, c := range onPB {
			c.sends(ack, "on")
			c.hears(ack, "on")
		}
		g.apply(policy(nat.AWSProfile()))
		for _, c := range onPB {
			g.drops(nat.DropUnassigned, 1, c.segIn(ack, ""))
			g.want(g.out(c.segOut(ack, "")), nat.DropReset)
		}
		if len(onPB) == 0 {
			g.Error("nothing was proved")
		}
	})
}

// TestB41_HashIsKeyed takes 100,000 tuples that a sum or an exclusive or of their words would all put in one place, and
// others that collide under one key: with another key they do not.
func TestB41_HashIsKeyed(t *testing.T) {
	keys := rand.New(rand.NewPCG(41, 2))
	table := func() *conntrack.Table {
		tb, err := conntrack.New(conntrack.Config{Sessions: 16, Key: [2]uint64{keys.Uint64(), keys.Uint64()}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tb
	}
	const n = 100_000
	one, other := table(), table()
	crowd := func(tag func(i uint32) uint32) (most int) {
		slots := map[uint32]int{}
		for i := range uint32(n) {
			slots[tag(i)>>15]++ // as many places as tuples
		}
		for _, c := range slots {
			most = max(most, c)
		}
		return most
	}
	in := uint32(10 << 24)
	for name, tag := range map[string]func(i uint32) uint32{
		"xor out": func(i uint32) uint32 { return one.OutTag(in+i, 203<<24+i, 80, packet.UDP) },
		"sum out": func(i uint32) uint32 { return one.OutTag(in+i, 203<<24-i, 80, packet.UDP) },
		"ports":   func(i uint32) uint32 { return one.OutTag(in+i, 203<<24, i<<16|80, packet.UDP) },
		"xor in":  func(i uint32) uint32 { return one.InTag(in+i, 203<<24+i, 80, packet.UDP) },
		"sum in":  func(i uint32) uint32 { return one.InTag(in+i, 203<<24-i, 80, packet.UDP) },
	} {
		if most := crowd(tag); most > 16 { // 9 or 10 of 100,000 at random
			t.Errorf("%s: %d tuples in one place", name, most)
		}
	}
	// Those that collide under one key are spread by another.
	r := rand.New(rand.NewPCG(41, 1))
	spread, colliding := map[uint32]int{}, 0
	for range 1 << 20 {
		in, rem, ports := r.Uint32(), r.Uint32(), r.Uint32()
		if one.OutTag(in, rem, ports, packet.UDP)>>24 == 0 {
			colliding++
			spread[other.OutTag(in, rem, ports, packet.UDP)>>24]++
		}
	}
	for place, c := range spread {
		if c > 3*colliding/256 {
			t.Errorf("%d of %d are at %d under another key", c, colliding, place)
		}
	}
	if len(spread) < 250 {
		t.Errorf("%d places", len(spread))
	}
}

func TestB42_OneHostCannotTakeAll(t *testing.T) {
	p := policy(nat.RFCProfile(), func(p *nat.Policy) { p.HostSessions = 100 })
	trial{policy: p}.run(t, func(g *gate) {
		for i := range 1000 {
			want := nat.Outbound
			if i >= 100 {
				want = nat.DropHostLimit
			}
			proto := allProtocols[i%3]
			g.want(g.out(of(proto, at(A, uint16(2000+i)), at(R1, 80))), want)
			if i%50 == 0 {
				g.opens(packet.UDP, at(B, uint16(2000+i)), at(R1, 80))
			}
		}
		g.at(sec(60)) // A's 33 queries have ended
		g.tick()
		for i := range 40 {
			want := nat.Outbound
			if i >= 33 {
				want = nat.DropHostLimit
			}
			g.want(g.out(udp(at(A, uint16(9000+i)), at(R1, 80), "")), want)
		}
	})
	p = policy(nat.RFCProfile(), func(p *nat.Policy) { p.HostRate = 100 })
	trial{policy: p, config: nat.Config{Sessions: 8192}}.run(t, func(g *gate) {
		for second := range 3 {
			passed := 0
			for i := range 1000 {
				g.at(time.Duration(second)*time.Second + time.Duration(i)*time.Millisecond)
				r := g.out(udp(at(A, uint16(1024+second*1000+i)), at(R1, 80), ""))
				if r.Forward() {
					passed++
				} else {
					g.want(r, nat.DropHostRate)
				}
				if i%100 == 0 {
					g.opens(packet.UDP, at(B, uint16(1024+second*1000+i)), at(R1, 80))
				}
			}
			if passed != 100 {
				g.Errorf("second %d: %d passed", second, passed)
			}
		}
	})
}

// TestB43_NothingGrows sends all kinds of floods for hours of engine time: after a while, neither gauges nor the
// memory of the process grow.
func TestB43_NothingGrows(t *testing.T) {
	p := policy(nat.RFCProfile(), func(p *nat.Policy) {
		p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(A, 80)}}
		p.HostSessions = 10_000
		p.Pools[0].Profile.NoRecycling = false // so that records change hands all the time
	})
	g := newGate(t, nat.Config{Sessions: 2048, HeldSYNs: 64, FragmentBytes: 1 << 20, FlowCounters: true}, p)
	w := g.e.Worker()
	r := rand.New(rand.NewPCG(43, 1))
	synFlood := tcp(at(R1, 1), at(PA, 8080), syn, 1, 0, "")
	fragment := craft.Cut(datagram(at(A, 5000), at(R1, 80), 0, random(600)), 8)[1]
	flow := noChecksum(udp(at(A, 1), at(R1, 1), ""))
	var from [2]*sender
	for i := range from {
		from[i] = g.sender(nat.AttachmentID(i))
		from[i].p, from[i].was = packet.From(make([]byte, 1000)), packet.From(make([]byte, 1000))
	}
	send := func(side int, b []byte) {
		s := from[side]
		s.now, s.p.Len = g.now, copy(s.p.Buf[s.p.Off:], b)
		s.through(s.p.Bytes())
	}
	flood := func(n int) {
		for _, s := range from {
			s.laws = invariants.New(&p) // which keeps fragments, of sets that are never complete
			s.laws.Shared = true
		}
		for range n {
			g.now += 3 * time.Millisecond
			copy(synFlood[12:], far(r.IntN(1<<24)).AsSlice())
			be.PutUint16(synFlood[22:], []uint16{8080, uint16(r.Uint32())}[r.IntN(2)])
			send(1, craft.SetTTL(synFlood, 64))
			be.PutUint16(fragment[4:], uint16(r.Uint32()))
			copy(fragment[12:], addr10(r.IntN(60000)).AsSlice())
			send(0, craft.SetTTL(fragment, 64))
			copy(flow[12:], addr10(r.IntN(60000)).AsSlice())
			be.PutUint32(flow[20:], r.Uint32())
			send(0, craft.SetTTL(flow, 64))
			if r.IntN(50) == 0 {
				w.Tick(g.now)
			}
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	flood(20_000)
	warm, before := g.stats(), heap()
	for range 5 {
		flood(20_000)
		s := g.stats()
		if s.MemoryBytes != warm.MemoryBytes || s.Sessions > 2048 || s.HeldSYNs > 64 || s.FragmentBytes > 1<<20 || s.Mappings > 2048 {
			t.Fatalf("%+v, after a while it was %+v", s, warm)
		}
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d", before, after)
	}
	s := g.stats()
	for _, v := range []nat.Verdict{nat.HeldSYN, nat.HeldFragment, nat.DropFragmentLimit, nat.DropNoMapping, nat.Inbound, nat.Outbound} {
		if s.Verdicts[v] == 0 {
			t.Errorf("%v was never reached", v)
		}
	}
	if err := g.e.Check(g.now); err != nil {
		t.Error(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// tuple names a session in its events.
type tuple struct {
	proto        uint8
	in, ext, rem end
}

func tupleOf(v nat.Event) tuple { return tuple{v.Protocol, v.Inside, v.External, v.Remote} }

// book is what a reader of events knows.
type book struct {
	testing.TB
	open        map[tuple]nat.EventKind // the sessions that live, and the last that was heard of each
	kinds       map[nat.EventKind]int
	reasons     map[nat.EndReason]int
	packets     uint64
	lastOfTuple map[tuple]time.Duration
}

func newBook(t testing.TB) *book {
	return &book{TB: t, open: map[tuple]nat.EventKind{}, kinds: map[nat.EventKind]int{}, reasons: map[nat.EndReason]int{}, lastOfTuple: map[tuple]time.Duration{}}
}

// read reads all events, so many at a time, and reports how many there were.
func (k *book) read(e *nat.Engine, atOnce int) (total int) {
	k.Helper()
	buf := make([]nat.Event, atOnce)
	for {
		n := e.Events(buf)
		if !slices.IsSortedFunc(buf[:n], func(a, b nat.Event) int { return int(a.At - b.At) }) {
			k.Fatalf("not in order of time: %+v", buf[:n])
		}
		for _, v := range buf[:n] {
			k.enter(v)
		}
		if total += n; n == 0 {
			return total
		}
	}
}

func (k *book) enter(v nat.Event) {
	k.Helper()
	k.kinds[v.Kind]++
	if v.Kind == nat.Refused {
		return
	}
	t := tupleOf(v)
	if v.At < k.lastOfTuple[t] {
		k.Fatalf("%v %v at %v, after one at %v", v.Kind, t, v.At, k.lastOfTuple[t])
	}
	k.lastOfTuple[t] = v.At
	before, known := k.open[t]
	if known == (v.Kind == nat.SessionCreated) {
		k.Fatalf("%v of %v, of which the last was %v", v.Kind, t, before)
	}
	if k.open[t] = v.Kind; v.Kind == nat.SessionEnded {
		k.reasons[v.Reason]++
		k.packets += v.Packets[nat.Out] + v.Packets[nat.In]
		delete(k.open, t)
	}
}

func TestL2_CreatesAndEndsBalance(t *testing.T) {
	const flows = 100_000
	for _, shards := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			g := newGate(t, nat.Config{Sessions: 4096, Shards: shards, FlowCounters: true, Events: 1 << 14}, policy(nat.GatewayProfile(), twoAddresses))
			g.every = 20_000
			k, dice := newBook(t), rand.New(rand.NewPCG(1, uint64(shards)))
			passed := uint64(0)
			for i := range flows {
				g.now += time.Duration(dice.IntN(100)) * time.Millisecond
				proto := []uint8{packet.TCP, packet.UDP, packet.ICMP}[dice.IntN(3)]
				in, rem := at(addr10(dice.IntN(200)), uint16(5000+dice.IntN(50))), at(far(dice.IntN(50)), 80)
				r := g.out(of(proto, in, rem))
				if r.Verdict != nat.Outbound {
					t.Fatalf("%v", r.Verdict)
				}
				passed++
				if dice.IntN(2) == 0 && g.in(answer(proto, rem, srcOf(r.b))).Verdict == nat.Inbound {
					passed++
				}
				if i%30_000 == 29_999 { // PB goes, and comes back
					k.read(g.e, 300)
					g.apply(policy(nat.GatewayProfile()))
					k.read(g.e, 300)
					g.apply(policy(nat.GatewayProfile(), twoAddresses))
				}
				if i%50 == 0 {
					k.read(g.e, 1+dice.IntN(64))
				}
			}
			g.now += 24 * time.Hour
			for range 400 { // of a few dozen each
				g.tick()
				k.read(g.e, 64)
			}
			s := g.stats()
			want := map[nat.EndReason]int{nat.EndExpired: int(s.Expired), nat.EndRecycled: int(s.Recycled), nat.EndCut: int(s.Cut)}
			if len(k.open) != 0 || s.EventsLost != 0 || k.kinds[nat.SessionCreated] != int(s.Created) || k.kinds[nat.SessionEnded] != int(s.Created) {
				t.Errorf("%d sessions left, %v, %d lost, of %d sessions", len(k.open), k.kinds, s.EventsLost, s.Created)
			}
			for why, n := range want {
				if k.reasons[why] != n || n == 0 {
					t.Errorf("%d sessions ended as %v, want %d and more than none", k.reasons[why], why, n)
				}
			}
			if k.kinds[nat.SessionEstablished] == 0 || k.packets != passed {
				t.Errorf("%v; %d packets told, %d passed", k.kinds, k.packets, passed)
			}
		})
	}
}

func TestL2_FullRing(t *testing.T) {
	trial{config: nat.Config{Sessions: 64, Events: 8}, policy: policy(nat.GatewayProfile(), func(p *nat.Policy) { p.HostSessions = 11 }), oneShard: true}.run(t, func(g *gate) {
		for i := range 10 {
			g.opens(packet.UDP, at(A, uint16(5000+i)), at(R1, 80))
		}
		if s := g.stats(); s.EventsLost != 2 || s.Sessions != 10 {
			g.Fatalf("%d events lost, %d sessions", s.EventsLost, s.Sessions)
		}
		var some [3]nat.Event
		if n := g.e.Events(some[:]); n != 3 || some[0].Inside.Port() != 5000 || some[2].Inside.Port() != 5002 {
			g.Fatalf("%d events: %+v", n, some)
		}
		g.opens(packet.UDP, at(A, 5010), at(R1, 80)) // has room
		g.want(g.out(udp(at(A, 5011), at(R1, 80), "")), nat.DropHostLimit)
		if s := g.stats(); s.EventsLost != 3 { // 6 wait: no place for a refusal beyond half
			g.Fatalf("%d events lost", s.EventsLost)
		}
		var rest [20]nat.Event
		if n := g.e.Events(rest[:]); n != 6 || rest[5].Inside.Port() != 5010 {
			g.Fatalf("%d events: %+v", n, rest)
		}
		for range 10 {
			g.want(g.out(udp(at(A, 5011), at(R1, 80), "")), nat.DropHostLimit)
		}
		n := g.e.Events(rest[:])
		want := nat.Event{At: g.now, Kind: nat.Refused, Verdict: nat.DropHostLimit, Protocol: packet.UDP, Inside: at(A, 5011), Remote: at(R1, 80)}
		if n != 4 || rest[0] != want || g.stats().EventsLost != 9 {
			g.Fatalf("%d events, %d lost: %+v, want %+v", n, g.stats().EventsLost, rest[0], want)
		}
	})
}

// TestL2_BesideTraffic has a reader beside two workers, each with its part of the hosts.
func TestL2_BesideTraffic(t *testing.T) {
	g := newGate(t, nat.Config{Sessions: 1 << 16, Shards: 4, Events: 256}, policy(custom(overlapping), twoAddresses))
	var traffic sync.WaitGroup
	done, stopped := make(chan struct{}), make(chan struct{})
	var kinds [5]uint64
	read := func() {
		var buf [32]nat.Event
		for n := g.e.Events(buf[:]); n > 0; n = g.e.Events(buf[:]) {
			for _, v := range buf[:n] {
				kinds[v.Kind]++
			}
		}
	}
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
				read()
			}
		}
	}()
	for i := range 2 {
		traffic.Go(func() {
			s := g.sender(0)
			for n := range 20_000 {
				s.now = time.Duration(n) * 100 * time.Millisecond
				s.send(at(addr10(i), uint16(1024+n)), at(R1, 80))
			}
		})
	}
	traffic.Wait()
	close(done)
	<-stopped
	for g.now = time.Hour; g.stats().Sessions > 0; g.tick() {
		read()
	}
	read()
	s := g.stats()
	if told := kinds[nat.SessionCreated] + kinds[nat.SessionEnded] + s.EventsLost; told != s.Created+s.Expired+s.Recycled || s.Created != 40_000 {
		t.Errorf("%v told, %d lost; %d sessions were made", kinds, s.EventsLost, s.Created)
	}
}

func TestEvents_Story(t *testing.T) {
	trial{config: nat.Config{Events: 64, FlowCounters: true}, policy: policy(nat.GatewayProfile())}.run(t, func(g *gate) {
		g.at(sec(1))
		c := g.dial(at(A, 5000), at(R1, 80))
		g.at(sec(2))
		c.closes()
		g.at(sec(3))
		c.sends(ack, "") // closing is not prolonged
		g.at(sec(9000))
		g.want(g.out(c.segOut(ack, "")), nat.DropNoSession) // and only now it is noticed
		want := []nat.Event{
			{At: sec(1), Kind: nat.SessionCreated, State: "opening"},
			{At: sec(1), Kind: nat.SessionEstablished, State: "established", Replied: true},
			{At: sec(62), Kind: nat.SessionEnded, Reason: nat.EndExpired, State: "closing", Replied: true, Packets: [2]uint64{5, 3}, Bytes: [2]uint64{200, 120}},
		}
		var got [8]nat.Event
		n := g.e.Events(got[:])
		for i := range want {
			want[i].Protocol, want[i].Inside, want[i].External, want[i].Remote = packet.TCP, c.in, c.ext, c.rem
		}
		if !slices.Equal(got[:n], want) {
			g.Fatalf("%+v,\nwant %+v", got[:n], want)
		}
	})
}

func TestEvents_Names(t *testing.T) {
	names := ""
	for k := range nat.Refused + 2 {
		names += k.String() + " "
	}
	for r := range nat.EndCut + 2 {
		names += r.String() + " "
	}
	if want := "invalid session_created session_established session_ended refused invalid  expired recycled cut invalid "; names != want {
		t.Errorf("%q, want %q", names, want)
	}
}

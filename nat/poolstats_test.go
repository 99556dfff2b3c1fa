// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// twoPools has hosts 10.0.1.0/24 behind a NAT gateway with few ports, 10.0.2.0/24 behind one of another kind, and C with an
// address of its own.
func twoPools() nat.Policy {
	few := nat.AWSProfile()
	few.PortMin, few.PortMax, few.PortsPerDestination = 2000, 2031, 20
	p := policy(few, mtu(0, 1000), static(C, E1))
	p.Pools = append(p.Pools, nat.Pool{Name: "home", Addresses: []netip.Addr{PB}})
	p.Routes = []nat.Route{
		{Source: netip.MustParsePrefix("10.0.1.0/24"), Static: true, Pool: "pool"},
		{Source: netip.MustParsePrefix("10.0.2.0/24"), Pool: "home"},
	}
	p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PB, 80), Inside: at(ip4("10.0.2.9"), 8080)}}
	p.DropBadResets = true
	return p
}

// ledger counts packets by pool as somebody would who sees nothing but what goes in and what comes out.
type ledger map[string]*nat.PoolCounters

func (l ledger) of(name string) *nat.PoolCounters {
	if l[name] == nil {
		l[name] = new(nat.PoolCounters)
	}
	return l[name]
}

func (l ledger) add(o ledger) {
	for name, c := range o {
		for d := range c.Sent {
			for _, v := range []struct{ to, from *nat.Traffic }{
				{&l.of(name).Received[d], &c.Received[d]}, {&l.of(name).Sent[d], &c.Sent[d]}, {&l.of(name).Dropped[d], &c.Dropped[d]},
			} {
				v.to.Packets += v.from.Packets
				v.to.Bytes += v.from.Bytes
			}
		}
		l.of(name).PortErrors += c.PortErrors
	}
}

func poolOf(ext netip.Addr) string {
	return map[netip.Addr]string{PA: "pool", PB: "home"}[ext]
}

// behind is the pool that an inside host leaves by.
func behind(host netip.Addr) string {
	switch b := host.As4(); {
	case host == C || b[0] != 10:
		return ""
	case b[2] == 1:
		return "pool"
	default:
		return "home"
	}
}

func put(t *nat.Traffic, bs ...[]byte) {
	for _, b := range bs {
		t.Packets++
		t.Bytes += uint64(len(b))
	}
}

// note counts packets, several if they are the pieces of one datagram, of which v is the last verdict.
func (l ledger) note(from nat.AttachmentID, in [][]byte, v nat.Verdict, made []nat.Emission) {
	src, dst := addrs(in[0])
	var passes []*nat.Traffic // received, by pool and direction
	var sent []*nat.Traffic
	var dropped []*nat.Traffic
	visit := func(name string, d nat.Direction) {
		if name != "" {
			c := l.of(name)
			passes, sent, dropped = append(passes, &c.Received[d]), append(sent, &c.Sent[d]), append(dropped, &c.Dropped[d])
		}
	}
	back := v == nat.Hairpin || v == nat.DropNoMapping || v == nat.DropFiltered || v == nat.DropLand ||
		v == nat.Reassembled && poolOf(dst) != "" // it got to the other end of the hairpin
	if from == nat.FromOutside {
		visit(poolOf(dst), nat.In)
	} else {
		if _, inside := map[byte]bool{10: true}[dst.As4()[0]]; inside {
			return
		}
		if visit(behind(src), nat.Out); back {
			visit(poolOf(dst), nat.In)
		}
	}
	if len(passes) == 0 || v == nat.HeldFragment {
		return
	}
	for _, t := range passes {
		put(t, in...)
	}
	last := len(passes) - 1
	if v.Dropped() {
		for _, t := range sent[:last] {
			put(t, in...)
		}
		put(dropped[last], in...)
		name := behind(src)
		if from == nat.FromOutside || back && poolOf(dst) != "" {
			name = poolOf(dst)
		}
		for _, e := range made {
			to := nat.In
			if e.Side == nat.Outside {
				to = nat.Out
			}
			put(&l.of(name).Sent[to], e.Packet.Bytes())
		}
		if v == nat.DropNoPort && from == nat.FromInside {
			l.of(name).PortErrors++
		}
		return
	}
	for _, t := range sent[:last] {
		put(t, in...)
	}
	if v.Forward() {
		put(sent[last], in...)
	}
	for _, e := range made {
		put(sent[last], e.Packet.Bytes())
	}
}

// crowd is hosts that send at random, through a worker of their own.
type crowd struct {
	t      *testing.T
	w      *nat.Worker
	r      *rand.Rand
	number int
	clock  *atomic.Int64
	ledger ledger
	conns  []crowdConn
	next   int
	seen   map[nat.Verdict]int
}

type crowdConn struct {
	proto        uint8
	in, ext, rem end
	seq, back    uint32
}

// send sends what may be the pieces of one datagram.
func (c *crowd) send(from nat.AttachmentID, bs ...[]byte) (nat.Verdict, []byte) {
	var v nat.Verdict
	var p packet.Packet
	for i, b := range bs {
		p = packet.From(b)
		if v = c.w.Translate(&p, from, time.Duration(c.clock.Load())); v != nat.HeldFragment && i < len(bs)-1 {
			c.ledger.note(from, bs[i:i+1], v, c.w.Emitted()) // it does not wait, or what it waits for is lost
			c.seen[v]++
		}
	}
	whole := bs
	if v == nat.HeldFragment || v == nat.DropFragmentPolicy {
		whole = bs[len(bs)-1:]
	}
	c.ledger.note(from, whole, v, c.w.Emitted())
	c.seen[v]++
	if v.Forward() {
		return v, p.Bytes()
	}
	return v, nil
}

func (c *crowd) fresh() (in, rem end) {
	c.next++
	host := netip.AddrFrom4([4]byte{10, 0, byte(1 + c.r.IntN(2)), byte(20 + c.number*10 + c.r.IntN(4))})
	return at(host, uint16(1024+c.next%60000)), at(far(c.r.IntN(3)), uint16(80+c.r.IntN(2)))
}

func (c *crowd) step() {
	in, rem := c.fresh()
	old := func() *crowdConn {
		if len(c.conns) == 0 {
			return &crowdConn{proto: packet.UDP, in: in, ext: at(PA, 2001), rem: rem}
		}
		return &c.conns[c.r.IntN(len(c.conns))]
	}
	begin := func(proto uint8, b []byte) {
		if v, out := c.send(nat.FromInside, b); v == nat.Outbound {
			c.conns = append(c.conns, crowdConn{proto: proto, in: in, ext: srcOf(out), rem: rem, seq: 1001, back: 5000})
			if len(c.conns) > 40 {
				c.conns = c.conns[1:]
			}
		}
	}
	switch o := old(); c.r.IntN(16) {
	case 0, 1:
		begin(packet.UDP, udp(in, rem, "datagram"))
	case 2, 3, 4:
		begin(packet.TCP, tcp(in, rem, syn, 1000, 0, ""))
	case 5, 6, 7, 8: // the next segment, or another datagram
		payload := string(make([]byte, c.r.IntN(200)))
		switch {
		case o.proto == packet.UDP:
			c.send(nat.FromInside, udp(o.in, o.rem, payload))
			c.send(nat.FromOutside, udp(o.rem, o.ext, payload))
		case o.back == 5000:
			c.send(nat.FromOutside, tcp(o.rem, o.ext, syn|ack, o.back, o.seq, ""))
			o.back++
			c.send(nat.FromInside, tcp(o.in, o.rem, ack, o.seq, o.back, ""))
		default:
			c.send(nat.FromInside, tcp(o.in, o.rem, ack, o.seq, o.back, payload))
			o.seq += uint32(len(payload))
			c.send(nat.FromOutside, tcp(o.rem, o.ext, ack, o.back, o.seq, payload))
			o.back += uint32(len(payload))
		}
	case 9: // closes, or is reset out of the window
		if o.proto == packet.TCP && c.r.IntN(2) == 0 {
			c.send(nat.FromInside, tcp(o.in, o.rem, fin|ack, o.seq, o.back, ""))
			c.send(nat.FromOutside, tcp(o.rem, o.ext, fin|ack, o.back, o.seq+1, ""))
		} else if o.proto == packet.TCP {
			c.send(nat.FromOutside, tcp(o.rem, o.ext, rst, o.back+1<<30, 0, ""))
		}
	case 10: // an error about what was sent
		if o.proto == packet.UDP {
			c.send(nat.FromOutside, icmp(X, o.ext.Addr(), packet.Unreachable, 1, 0, udp(o.ext, o.rem, "datagram")))
		}
	case 11: // nobody asked for it
		c.send(nat.FromOutside, udp(at(R1, 99), at([]netip.Addr{PA, PB, E1}[c.r.IntN(3)], uint16(1990+c.r.IntN(60))), "unasked"))
		c.send(nat.FromOutside, tcp(at(R2, uint16(c.next%60000)), at(PB, 80), syn, 1, 0, ""))
	case 12: // pieces
		p := udp(in, rem, string(make([]byte, 600)))
		switch c.r.IntN(4) {
		case 0:
			p = udp(in, o.ext, string(make([]byte, 600)))
		case 1:
			p = tcp(in, rem, syn, 1000, 0, string(make([]byte, 600)))
		}
		p[6] &^= 0x40
		be.PutUint16(p[4:], uint16(c.next))
		craft.Fix(p)
		c.send(nat.FromInside, craft.Cut(p, 200, 400)...)
	case 13: // too large, or cut
		p := udp(in, rem, string(make([]byte, 1500)))
		if c.r.IntN(2) == 0 {
			p[6] &^= 0x40
			craft.Fix(p)
		}
		c.send(nat.FromInside, p)
	case 14: // other protocols, and what belongs to nothing
		c.send(nat.FromInside, craft.IPv4(head(in.Addr(), rem.Addr()), 47, []byte("gre!")))
		c.send(nat.FromInside, tcp(in, rem, ack, 1, 1, "stray"))
		c.send(nat.FromInside, udp(at(C, in.Port()), rem, "by its own address"))
	case 15: // hairpins
		c.send(nat.FromInside, udp(in, o.ext, "hairpin"))
		c.send(nat.FromInside, udp(at(C, 5000), o.ext, "from another address"))
		c.send(nat.FromInside, udp(in, at(E1, 7000), "to another address"))
	}
	c.clock.Add(int64(c.r.IntN(int(time.Second))))
}

// TestPoolCounters holds the counters of pools against those of somebody who looks at packets alone: one worker, which
// makes hairpins exact, too, and four side by side, while others sweep and ask.
func TestPoolCounters(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			p := twoPools()
			e, err := nat.New(nat.Config{Sessions: 4096, Shards: workers, Seed: 7, FlowCounters: true, Events: 1 << 18}, &p)
			if err != nil {
				t.Fatal(err)
			}
			var clock atomic.Int64
			crowds := make([]*crowd, workers)
			var sending, asking sync.WaitGroup
			done := make(chan struct{})
			for i := range crowds {
				c := &crowd{t: t, w: e.Worker(), r: rand.New(rand.NewPCG(9, uint64(i))), number: i, clock: &clock, ledger: ledger{}, seen: map[nat.Verdict]int{}}
				crowds[i] = c
				sending.Go(func() {
					for range 24_000 / workers {
						c.step()
					}
				})
			}
			asking.Go(func() {
				var last []nat.PoolStats
				for w := e.Worker(); ; w.Tick(time.Duration(clock.Load())) {
					now := e.PoolStats(time.Duration(clock.Load()))
					for i := range last {
						if name, ok := stepsBack(last[i].PoolCounters, now[i].PoolCounters); ok {
							t.Errorf("%s steps back: %+v, then %+v", name, last[i], now[i])
							return
						}
					}
					last = now
					select {
					case <-done:
						return
					default:
					}
				}
			})
			sending.Wait()
			close(done)
			asking.Wait()
			now := time.Duration(clock.Load())
			want := ledger{}
			seen := map[nat.Verdict]int{}
			for _, c := range crowds {
				want.add(c.ledger)
				for v, n := range c.seen {
					seen[v] += n
				}
			}
			for _, v := range []nat.Verdict{
				nat.Outbound, nat.Inbound, nat.Hairpin, nat.ErrorInbound, nat.Reassembled, nat.Fragmented, nat.DropNoPort, nat.DropTooBig,
				nat.DropReset, nat.DropNoSession, nat.DropProtocol, nat.DropFragmentPolicy, nat.DropOutOfWindow, nat.DropNoMapping, nat.DropFiltered, nat.StaticOutbound,
			} {
				if seen[v] < 10 {
					t.Errorf("%v happened %d times: the scenario is poor", v, seen[v])
				}
			}
			got := e.PoolStats(now)
			active := map[string]int{}
			for s := range e.Sessions(now) {
				if s.Protocol == packet.TCP && s.State == "established" {
					active[poolOf(s.External.Addr())]++
				}
			}
			if n := e.Stats(now).EventsLost; n > 0 {
				t.Fatal("events were lost: ", n)
			}
			for buf := make([]nat.Event, 4096); ; {
				n := e.Events(buf)
				if n == 0 {
					break
				}
				for _, v := range buf[:n] {
					if v.Protocol != packet.TCP || !v.External.IsValid() {
						continue
					}
					switch c := want.of(poolOf(v.External.Addr())); {
					case v.Kind == nat.SessionCreated:
						c.Attempts++
					case v.Kind == nat.SessionEstablished:
						c.Established++
					case v.Kind == nat.SessionEnded && v.Reason == nat.EndExpired && v.State == "established":
						c.IdleTimeouts++
					}
				}
			}
			for i, name := range []string{"pool", "home"} {
				if got[i].Name != name || got[i].ActiveConnections != active[name] {
					t.Errorf("%s has %d active connections, %s is %+v", name, active[name], got[i].Name, got[i])
				}
				if c := got[i].PoolCounters; c != *want[name] {
					t.Errorf("%s:\ngot  %+v\nwant %+v", name, c, *want[name])
				}
			}
			if c := got[0]; c.Attempts == 0 || c.Established == 0 || c.IdleTimeouts == 0 {
				t.Errorf("a poor scenario: %+v", c)
			}
			if err := e.Check(now); err != nil {
				t.Error(err)
			}
		})
	}
}

// stepsBack names a counter that is less than before.
func stepsBack(before, now nat.PoolCounters) (string, bool) {
	var walk func(path string, a, b reflect.Value) (string, bool)
	walk = func(path string, a, b reflect.Value) (string, bool) {
		for i := range a.NumField() {
			x, y, name := a.Field(i), b.Field(i), path+a.Type().Field(i).Name
			switch x.Kind() {
			case reflect.Uint64:
				if y.Uint() < x.Uint() {
					return name, true
				}
			case reflect.Array:
				for d := range x.Len() {
					if s, ok := walk(name+".", x.Index(d), y.Index(d)); ok {
						return s, true
					}
				}
			}
		}
		return "", false
	}
	return walk("", reflect.ValueOf(before), reflect.ValueOf(now))
}

// TestPoolCountersOfConnections: what begins, is answered, idles away and is taken over.
func TestPoolCountersOfConnections(t *testing.T) {
	trial{policy: policy(nat.AWSProfile())}.run(t, func(g *gate) {
		is := func(what string, active int, want nat.PoolCounters) {
			t.Helper()
			got := g.e.PoolStats(g.now)[0]
			got.Received, got.Sent, got.Dropped = want.Received, want.Sent, want.Dropped
			if got.ActiveConnections != active || got.PoolCounters != want {
				g.Fatalf("%s: %d active, %+v; want %d, %+v", what, got.ActiveConnections, got.PoolCounters, active, want)
			}
		}
		in := at(A, 4000)
		for range 3 {
			g.want(g.out(tcp(in, at(R1, 80), syn, 1, 0, "")), nat.Outbound)
		}
		is("a SYN that nobody answers, sent three times", 0, nat.PoolCounters{Attempts: 1})
		c := g.dial(at(A, 5000), at(R1, 443))
		is("a connection", 1, nat.PoolCounters{Attempts: 2, Established: 1})
		g.at(sec(100))
		c.closes()
		is("closed", 0, nat.PoolCounters{Attempts: 2, Established: 1})
		c.seq += 1000
		c.handshake()
		is("another one on the same ports", 1, nat.PoolCounters{Attempts: 3, Established: 2})
		g.at(sec(300))
		is("the SYN has timed out: it never was active", 1, nat.PoolCounters{Attempts: 3, Established: 2})
		g.at(sec(450))
		is("idle for 350 s", 0, nat.PoolCounters{Attempts: 3, Established: 2, IdleTimeouts: 1})
		g.tick()
		is("and swept", 0, nat.PoolCounters{Attempts: 3, Established: 2, IdleTimeouts: 1})
	})
}

// TestPoolCountersFollowTheName: they are of the pool of that name, as long as it is there.
func TestPoolCountersFollowTheName(t *testing.T) {
	one, two := twoPools(), twoPools()
	two.Pools, two.Forwards = two.Pools[1:], nil
	two.Pools[0].Name = "other" // "home", with its address and its place
	two.Routes = []nat.Route{{Source: netip.MustParsePrefix("10.0.2.0/24"), Pool: "other"}}
	two.Static = nil
	g := newGate(t, nat.Config{FlowCounters: true}, one)
	g.opens(packet.UDP, at(A, 5000), at(R1, 80))
	g.opens(packet.UDP, at(A, 5000), at(R1, 80))
	g.opens(packet.UDP, at(ip4("10.0.2.1"), 5000), at(R1, 80))
	look := func(want string) {
		t.Helper()
		got := ""
		for _, s := range g.e.PoolStats(g.now) {
			got += fmt.Sprintf("%s %d, ", s.Name, s.Sent[nat.Out].Packets)
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	look("pool 2, home 1, ")
	one.Pools[0], one.Pools[1] = one.Pools[1], one.Pools[0]
	g.apply(one)
	look("home 1, pool 2, ")
	g.apply(two)
	g.opens(packet.UDP, at(ip4("10.0.2.1"), 5001), at(R1, 80))
	look("other 1, ") // nothing of the sessions that the change has cut
	g.apply(twoPools())
	look("pool 0, home 0, ")
	p := twoPools()
	e, err := nat.New(nat.Config{}, &p)
	if err != nil {
		t.Fatal(err)
	}
	q := packet.From(udp(at(A, 5000), at(R1, 80), ""))
	e.Worker().Translate(&q, nat.FromInside, 0)
	q = packet.From(udp(at(R1, 9), at(PA, 9), ""))
	e.Worker().Translate(&q, nat.FromOutside, 0)
	if s := e.PoolStats(0)[0]; s.Sent != [2]nat.Traffic{} || s.Received != [2]nat.Traffic{} || s.Dropped[nat.In].Packets != 1 {
		t.Errorf("without counters of flows: %+v", s)
	}
}

// TestPoolCountersAfterAdopt: what came over is counted once, also when it then ends.
func TestPoolCountersAfterAdopt(t *testing.T) {
	p := policy(nat.GatewayProfile())
	cfg, old := adoptee(t, nat.Config{Sessions: 64, Shards: 2, FlowCounters: true}, &p)
	before := old.PoolStats(time.Second)[0]
	e, _, err := nat.Adopt(cfg, cfg.Records, &p, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, now := range []time.Duration{time.Second, 24 * time.Hour} {
		s := e.PoolStats(now)[0]
		if s.Sent != before.Sent || s.Received != before.Received || s.Sent[nat.Out].Packets != uint64(len(allProtocols)) || s.Attempts != 0 {
			t.Errorf("%v: %+v, before %+v", now, s, before)
		}
	}
	if n := len(sessionsOf(e, 24*time.Hour)); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

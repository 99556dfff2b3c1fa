// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

const (
	opening = 240 * time.Second
	longest = 7440 * time.Second
)

// forwardTo is a port forward of PA:8080 to A:80.
func forwardTo(p *nat.Policy) {
	p.Forwards = []nat.Forward{{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(A, 80)}}
}

func TestT1_ValidSequencesPass(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), forwardTo)}.run(t, func(g *gate) {
		rem := at(R1, 80)
		c := g.dial(at(A, 5000), rem)
		for range 3 {
			c.sends(ack|psh, "request")
			c.hears(ack|psh, "response")
		}
		// A retransmission, and one that was lost behind us: its successor came first.
		c.seq -= 7
		c.sends(ack|psh, "request")
		c.back += 8
		c.hears(ack|psh, "second")
		c.back -= 14
		c.hears(ack|psh, "a gap..")
		c.back += 7
		// Urgent data; a zero window, its probe and its end; a keep-alive, one byte before the window.
		c.sends(ack|urg, "!")
		zero := c.segIn(ack, "")
		be.PutUint16(l4(zero)[14:], 0)
		craft.Fix(zero)
		g.reaches(c.in, zero)
		c.sends(ack, "?")
		c.hears(ack, "")
		c.seq--
		c.sends(ack, "")
		c.seq++
		c.hears(ack, "")
		c.is("established")
		// The FIN overtakes the last data.
		data, last := c.segIn(ack|psh, "last words"), c.segIn(fin|ack, "")
		g.reaches(c.in, last)
		g.reaches(c.in, data)
		c.sends(ack, "")
		c.is("established")
		c.sends(fin|ack, "")
		c.hears(ack, "")
		c.is("closing")

		// Data in the SYN (TCP fast open).
		c = &conn{gate: g, in: at(A, 5001), rem: rem, seq: 50, back: 7}
		c.ext = srcOf(g.want(g.out(tcp(c.in, rem, syn|psh, 50, 0, "early")), nat.Outbound).b)
		c.is("opening")
		c.seq = 56
		c.hears(syn|ack, "and the answer")
		c.back++
		c.sends(ack, "")
		c.is("established")

		// From the other side, through a port forward.
		c = &conn{gate: g, in: at(A, 80), rem: at(R2, 999), ext: at(PA, 8080), seq: 300, back: 900}
		c.hears(syn, "")
		c.back++
		c.is("opening")
		c.sends(syn|ack, "")
		c.seq++
		c.hears(ack, "")
		c.is("established")
		c.hears(ack|psh, "hello")
		c.sends(ack|psh, "hello")
		c.hears(fin|ack, "")
		c.sends(ack, "")
		c.sends(fin|ack, "")
		c.hears(ack, "")
		c.is("closing")
	})
}

func TestT2_SimultaneousOpen(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		in, rem := at(A, 5000), at(R1, 6000)
		c := &conn{gate: g, in: in, rem: rem, seq: 100, back: 900}
		c.ext = srcOf(g.want(g.out(c.segOut(syn, "")), nat.Outbound).b)
		g.reaches(in, tcp(rem, c.ext, syn, 900, 0, ""))
		c.is("opening")
		c.seq++
		c.back++
		g.want(g.out(tcp(in, rem, syn|ack, 100, 901, "")), nat.Outbound)
		g.reaches(in, tcp(rem, c.ext, syn|ack, 900, 101, ""))
		c.is("established")
		c.expires(longest)
		c.sends(ack, "data")
		c.hears(ack, "data")
	})
}

func TestT3_UnsolicitedSYNWaits(t *testing.T) {
	b := tcp(at(R1, 6000), at(PA, 5000), syn, 1, 0, "")
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		g.at(sec(1))
		if r := g.want(g.in(bytes.Clone(b)), nat.HeldSYN); len(r.emitted) > 0 {
			g.Fatal("answered at once")
		}
		g.at(sec(3)) // a retransmission does not begin anew
		g.want(g.in(bytes.Clone(b)), nat.HeldSYN)
		g.at(sec(6.999))
		if es := g.tick(); len(es) > 0 {
			g.Fatal("answered before six seconds are over")
		}
		g.at(sec(7))
		es := g.tick()
		if len(es) != 1 || es[0].side != nat.Outside {
			g.Fatalf("%d answers", len(es))
		}
		m := es[0].b
		if src, dst := addrs(m); src != PA || dst != R1 || l4(m)[0] != packet.Unreachable || l4(m)[1] != 3 {
			g.Errorf("answered with %s", craft.Describe(m))
		}
		if !bytes.Equal(craft.Quote(m), b) {
			g.Errorf("quotes % x, not % x", craft.Quote(m), b)
		}
		g.at(sec(60))
		if es := g.tick(); len(es) > 0 || g.stats().HeldSYNs != 0 {
			g.Error("something is left")
		}
	})
	trial{policy: policy(nat.AWSProfile())}.run(t, func(g *gate) {
		g.drops(nat.DropNoMapping, 1, bytes.Clone(b))
		for i := range 10 {
			g.at(time.Duration(i) * time.Second)
			if es := g.tick(); len(es) > 0 {
				g.Fatal("answered")
			}
		}
	})
	// Held SYNs are bounded, and so is their memory.
	trial{policy: policy(nat.RFCProfile()), config: nat.Config{HeldSYNs: 50}}.run(t, func(g *gate) {
		memory := g.stats().MemoryBytes
		for i := range 500 {
			want := nat.HeldSYN
			if i >= 50 {
				want = nat.DropNoMapping
			}
			g.want(g.in(tcp(at(far(i), 6000), at(PA, 5000), syn, 1, 0, "")), want)
		}
		if s := g.stats(); s.HeldSYNs != 50 || s.MemoryBytes != memory || s.Sessions != 0 {
			g.Errorf("%+v", s)
		}
		g.at(sec(6))
		if n := len(g.tick()); n != 50 {
			g.Errorf("%d answers, want 50", n)
		}
		g.want(g.in(tcp(at(R1, 6000), at(PA, 5000), syn, 1, 0, "")), nat.HeldSYN)
	})
}

func TestT4_HeldSYNIsForgotten(t *testing.T) {
	f := custom(func(f *nat.Profile) { f.PreservePort = true })
	trial{policy: policy(f), oneShard: true}.run(t, func(g *gate) {
		theirs := tcp(at(R1, 6000), at(PA, 5000), syn, 1, 0, "")
		g.want(g.in(bytes.Clone(theirs)), nat.HeldSYN)
		g.at(sec(3))
		if ext := g.opens(packet.TCP, at(A, 5000), at(R1, 6000)); ext != at(PA, 5000) {
			g.Fatalf("A has %v", ext)
		}
		if n := g.stats().HeldSYNs; n != 0 {
			g.Errorf("%d are held", n)
		}
		g.at(sec(6))
		if es := g.tick(); len(es) > 0 {
			g.Error("answered with an error")
		}
		g.reaches(at(A, 5000), theirs)
	})
}

func TestT5_EstablishedLifetime(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for i, use := range []func(c *conn){
			func(c *conn) { c.sends(ack, "") },
			func(c *conn) { c.hears(ack, "") },
		} {
			c := g.dial(at(A, uint16(5000+i)), at(R1, 80))
			start := g.now
			g.at(start + sec(7439))
			use(c)
			c.expires(start + sec(7439+7440))
			g.at(start + sec(7439+7441))
			g.drops(nat.DropNoMapping, 1, c.segIn(ack, ""))
		}
	})
	short := nat.RFCProfile()
	short.Timeouts.TCPEstablished = time.Hour
	if p := policy(short); p.Validate() == nil {
		t.Error("the rfc profile accepts an hour")
	}
	short.Name = "custom"
	if p := policy(short); p.Validate() != nil {
		t.Error("a custom profile refuses an hour")
	}
	if f := nat.AWSProfile(); f.Timeouts.TCPEstablished != 350*time.Second {
		t.Error("the aws profile")
	}
}

func TestT6_OpeningAndClosingAreApart(t *testing.T) {
	if f := nat.RFCProfile(); f.Timeouts.TCPOpening != opening || f.Timeouts.TCPClosing != 240*time.Second {
		t.Error("the defaults are not 240 s")
	}
	synOnly := func(g *gate, limit time.Duration) {
		for i, c := range []struct {
			at time.Duration
			ok bool
		}{{limit - time.Second, true}, {limit + time.Second, false}} {
			in := at(A, uint16(5000+i))
			start := g.now
			ext := g.opens(packet.TCP, in, at(R1, 80))
			g.at(start + c.at)
			if b := answer(packet.TCP, at(R1, 80), ext); c.ok {
				g.reaches(in, b)
			} else {
				g.drops(nat.DropNoMapping, 1, b)
			}
		}
	}
	closed := func(g *gate, limit time.Duration) {
		c := g.dial(at(B, 5000), at(R1, 80))
		c.closes()
		c.expires(g.now + limit)
	}
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		synOnly(g, opening)
		closed(g, 240*time.Second)
	})
	f := custom(func(f *nat.Profile) { f.Timeouts.TCPOpening = 30 * time.Second })
	trial{policy: policy(f)}.run(t, func(g *gate) {
		synOnly(g, 30*time.Second)
		closed(g, 240*time.Second)
	})
}

func TestT7_Closing(t *testing.T) {
	trial{policy: policy(custom(ports(2000, 2000), anyClass)), oneShard: true}.run(t, func(g *gate) {
		c := g.dial(at(A, 5000), at(R1, 80))
		c.closes()
		g.at(sec(60))
		g.reaches(c.in, tcp(c.rem, c.ext, fin|ack, c.back-1, c.seq, ""))
		c.sends(ack, "")
		g.at(sec(239.9))
		c.sends(ack, "")
		g.want(g.out(tcp(at(B, 1), c.rem, syn, 1, 0, "")), nat.DropNoPort)
		// The port is free at 240 s, and given out after its quarantine of 120 s unless there is no other.
		g.at(sec(240))
		g.drops(nat.DropNoSession, 0, c.segOut(ack, ""))
		if s := g.stats(); s.Sessions != 0 || s.Quarantined != 1 {
			g.Errorf("%d sessions, %d ports in quarantine", s.Sessions, s.Quarantined)
		}
		g.at(sec(359.9))
		if n := g.stats().Quarantined; n != 1 {
			g.Error("the quarantine is over too early")
		}
		g.at(sec(360))
		g.opens(packet.TCP, at(B, 1), c.rem)
		if s := g.stats(); s.Quarantined != 0 || s.Unburied != 0 {
			g.Errorf("%+v", s)
		}
	})
}

func TestT8_HalfClose(t *testing.T) {
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.GatewayProfile()} {
		trial{policy: policy(f)}.run(t, func(g *gate) {
			c := g.dial(at(A, 5000), at(R1, 80))
			c.sends(fin|ack, "")
			c.hears(ack, "")
			for i := 1; i <= 3*3600/1000; i++ {
				g.at(time.Duration(i) * 1000 * time.Second)
				c.hears(ack|psh, "more")
				c.is("established")
			}
		})
	}
}

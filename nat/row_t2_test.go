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

// resets is T-9: a RST ends the session 240 s later, unless somebody still talks.
func resets(g *gate) {
	c := g.dial(at(A, 5000), at(R1, 80))
	c.hears(rst, "")
	c.is("reset")
	c.expires(g.now + 240*time.Second)
	g.at(sec(100))
	c.sends(ack|psh, "still here") // retransmitted, or on its way already
	c.is("established")
	c.expires(g.now + longest)
	c.hears(ack, "")
	c.hears(rst|ack, "")
	start := g.now
	g.at(start + sec(239.9))
	c.is("reset")
	g.at(start + sec(240))
	g.drops(nat.DropNoMapping, 1, c.segIn(ack, ""))
	if n := g.stats().Sessions; n != 0 {
		g.Errorf("%d sessions are left", n)
	}
}

func TestT9_Reset(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, resets)
}

func TestT10_BlindResets(t *testing.T) {
	for _, drop := range []bool{false, true} {
		p := policy(nat.RFCProfile(), func(p *nat.Policy) { p.DropBadResets = drop })
		trial{policy: p}.run(t, func(g *gate) {
			c := g.dial(at(A, 5000), at(R1, 80))
			c.hears(ack|psh, "data")
			c.sends(ack, "")
			expiry := c.session().Expires
			g.at(sec(10))
			x := uint32(12345)
			outside := 0
			for range 1000 {
				x = x*1664525 + 1013904223
				if x == c.back {
					continue
				}
				far := x-c.back > 65535 && c.back-x > 65535
				r := g.in(tcp(c.rem, c.ext, rst, x, 0, ""))
				if drop && far {
					outside++
					g.want(r, nat.DropOutOfWindow)
				} else {
					g.want(r, nat.Inbound)
				}
			}
			c.is("established")
			c.expires(expiry)
			if n := g.stats().Verdicts[nat.DropOutOfWindow]; int(n) != outside || drop && n < 900 {
				g.Errorf("%d counted, want %d", n, outside)
			}
			// In the window, but not exact: forwarded, and A asks with a challenge ACK, which must pass.
			g.reaches(c.in, tcp(c.rem, c.ext, rst, c.back+100, 0, ""))
			c.is("established")
			c.expires(expiry)
			c.sends(ack, "")
			// The real one answers the challenge.
			c.hears(rst, "")
			c.is("reset")
		})
	}
}

func TestT11_SYNOnEstablished(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		again := func(port uint16) (*conn, uint32) {
			c := g.dial(at(A, port), at(R1, 80))
			expiry := c.session().Expires
			g.at(g.now + 10*time.Second)
			isn := c.seq + 1_000_000_000
			g.want(g.out(tcp(c.in, c.rem, syn, isn, 0, "")), nat.Outbound)
			c.is("established")
			c.expires(expiry)
			return c, isn
		}
		// The server still knows the connection: it challenges, A resets.
		c, _ := again(5000)
		c.hears(ack, "")
		c.is("established")
		g.want(g.out(tcp(c.in, c.rem, rst, c.seq, 0, "")), nat.Outbound)
		c.is("reset")
		c.expires(g.now + 240*time.Second)
		// The server has forgotten it: a new connection on the same ports.
		c, isn := again(5001)
		c.seq, c.back = isn+1, 77
		c.hears(syn|ack, "")
		c.back++
		c.is("opening")
		c.sends(ack, "")
		c.is("established")
		c.hears(ack|psh, "data")
		c.expires(g.now + longest)
	})
}

// reopens is T-12: a SYN on a connection that has ended starts the next one.
func reopens(g *gate, c *conn) {
	g.Helper()
	ended := g.now
	g.at(ended + 5*time.Second)
	ext := c.ext
	c.seq, c.back = c.seq+2_000_000_000, c.back+1_500_000_000 // far outside of the old window
	r := g.want(g.out(tcp(c.in, c.rem, syn, c.seq, 0, "")), nat.Outbound)
	if srcOf(r.b) != ext {
		g.Fatalf("on %v, before on %v", srcOf(r.b), ext)
	}
	c.is("opening")
	c.expires(g.now + opening)
	c.handshake()
	c.expires(g.now + longest)
	c.sends(ack|psh, "data")
	g.at(ended + 241*time.Second)
	c.hears(ack|psh, "data")
	c.is("established")
}

func TestT12_Reuse(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		c := g.dial(at(A, 5000), at(R1, 80))
		c.closes()
		reopens(g, c)
	})
	// What the outside began it may begin anew.
	trial{policy: policy(nat.RFCProfile(), forwardTo)}.run(t, func(g *gate) {
		c := &conn{gate: g, in: at(A, 80), rem: at(R2, 999), ext: at(PA, 8080), seq: 300, back: 900}
		c.hears(syn, "")
		c.back++
		c.sends(syn|ack, "")
		c.seq++
		c.hears(ack, "")
		c.closes()
		g.at(sec(5))
		c.back += 1_500_000_000
		c.hears(syn, "")
		c.is("opening")
		c.expires(g.now + opening)
	})
}

func TestT13_StraySegments(t *testing.T) {
	in, rem := at(A, 5000), at(R1, 443)
	stray := func() []byte { return tcp(in, rem, ack, 100, 900, "data") }
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		g.drops(nat.DropNoSession, 0, stray())
		g.drops(nat.DropNoMapping, 1, tcp(rem, at(PA, 5000), ack, 1, 1, ""))
	})
	trial{policy: policy(nat.AWSProfile())}.run(t, func(g *gate) {
		for _, c := range []struct {
			b        []byte
			seq, ack uint32
			flags    uint8
		}{
			{stray(), 900, 0, rst},
			{tcp(in, rem, psh, 100, 0, "data"), 0, 104, rst | ack},
		} {
			r := g.want(g.out(c.b), nat.DropReset)
			if len(r.emitted) != 1 || r.emitted[0].side != nat.Inside {
				g.Fatal("no RST to the inside")
			}
			m := r.emitted[0].b
			seg := l4(m)
			if srcOf(m) != rem || dstOf(m) != in || seg[13] != c.flags || be.Uint32(seg[4:]) != c.seq || c.flags&ack != 0 && be.Uint32(seg[8:]) != c.ack {
				g.Errorf("answered %s", craft.Describe(m))
			}
		}
		g.drops(nat.DropNoSession, 0, tcp(in, rem, rst, 100, 0, "")) // a RST is never answered
		g.drops(nat.DropNoMapping, 1, tcp(rem, at(PA, 5000), ack, 1, 1, ""))
		if n := g.stats().Sessions; n != 0 {
			g.Errorf("%d sessions", n)
		}
	})
	pickup := custom(func(f *nat.Profile) { f.Stray = nat.StrayPickup })
	trial{policy: policy(pickup)}.run(t, func(g *gate) {
		r := g.want(g.out(stray()), nat.Outbound)
		c := &conn{gate: g, in: in, rem: rem, ext: srcOf(r.b), seq: 104, back: 900}
		c.is("established")
		c.expires(longest)
		c.hears(ack|psh, "data")
		c.sends(ack|psh, "data")
		g.drops(nat.DropNoMapping, 1, tcp(rem, at(PA, c.ext.Port()^1), ack, 1, 1, ""))
		// A RST, and then a segment that was on its way: established again, though no handshake was seen.
		r = g.want(g.out(tcp(at(B, 5000), rem, ack, 100, 900, "data")), nat.Outbound)
		c = &conn{gate: g, in: at(B, 5000), rem: rem, ext: srcOf(r.b), seq: 104, back: 900}
		c.hears(rst, "")
		c.is("reset")
		c.sends(ack|psh, "data")
		c.is("established")
	})
}

func TestT14_ImpossibleFlags(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), forwardTo)}.run(t, func(g *gate) {
		ext := g.opens(packet.TCP, at(B, 5000), at(R2, 80)) // anybody may send to it
		for _, flags := range []uint8{syn | fin, syn | rst, 0, fin | psh | urg, syn | fin | rst | psh | ack | urg, fin} {
			g.drops(nat.DropBadFlags, 0, tcp(at(A, 5000), at(R1, 80), flags, 1, 0, ""))
			g.drops(nat.DropBadFlags, 1, tcp(at(R1, 80), at(PA, 8080), flags, 1, 0, ""))
			g.drops(nat.DropBadFlags, 1, tcp(at(R1, 80), ext, flags, 1, 0, ""))
		}
		for _, offset := range []byte{0, 4, 6, 15} {
			b := tcp(at(A, 5000), at(R1, 80), syn, 1, 0, "")
			l4(b)[12] = offset << 4
			craft.Fix(b)
			g.drops(nat.DropMalformed, 0, b)
		}
	})
}

func TestT15_WindowIsTolerant(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, tolerates)
	// Scales count only if both SYNs have the option.
	for _, both := range []bool{true, false} {
		trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
			in, rem := at(A, 5000), at(R1, 80)
			option := []byte{3, 3, 10}
			s := craft.Segment{Src: in.Port(), Dst: rem.Port(), Seq: 100, Flags: syn, Window: 1000, Options: option}
			ext := srcOf(g.want(g.out(craft.TCP(head(A, R1), s, nil)), nat.Outbound).b)
			s = craft.Segment{Src: rem.Port(), Dst: ext.Port(), Seq: 900, Ack: 101, Flags: syn | ack, Window: 1000}
			if both {
				s.Options = option
			}
			g.reaches(in, craft.TCP(head(R1, PA), s, nil))
			s = craft.Segment{Src: in.Port(), Dst: rem.Port(), Seq: 101, Ack: 901, Flags: ack, Window: 1000}
			g.want(g.out(craft.TCP(head(A, R1), s, nil)), nat.Outbound)
			g.at(sec(10))
			// 500,000 bytes ahead: within 1000 << 10, and far beyond 1000.
			g.reaches(in, tcp(rem, ext, ack, 901+500_000, 101, ""))
			want := longest
			if both {
				want += g.now
			}
			if s := g.session(packet.TCP, in, rem); s.Expires != want {
				g.Errorf("both: %t: ends at %v, want %v", both, s.Expires, want)
			}
		})
	}
	// The sequence space wraps.
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		c := &conn{gate: g, in: at(A, 5000), rem: at(R1, 80), seq: 1<<32 - 3, back: 1<<32 - 2}
		c.handshake()
		for i := range 5 {
			g.at(time.Duration(i) * time.Second)
			c.sends(ack|psh, "across")
			c.hears(ack|psh, "across")
			c.expires(g.now + longest)
		}
	})
}

// tolerates sends what is out of the window: it is translated and changes nothing.
func tolerates(g *gate) {
	c := g.dial(at(A, 5000), at(R1, 80))
	c.sends(ack|psh, "data")
	c.hears(ack|psh, "data")
	expiry := c.session().Expires
	g.at(sec(10))
	for _, d := range []uint32{1 << 30, 1 << 31, 3 << 30, 1 << 20} {
		r := g.want(g.out(tcp(c.in, c.rem, ack|psh, c.seq-d, c.back, "old")), nat.Outbound)
		if srcOf(r.b) != c.ext {
			g.Errorf("leaves from %v, want %v", srcOf(r.b), c.ext)
		}
		g.reaches(c.in, tcp(c.rem, c.ext, ack|psh, c.back-d, c.seq, "old"))
		g.reaches(c.in, tcp(c.rem, c.ext, ack|psh, c.back, c.seq+d, "acknowledges what was never sent"))
		g.reaches(c.in, tcp(c.rem, c.ext, fin|ack, c.back+d, c.seq, ""))
	}
	c.is("established")
	c.expires(expiry)
}

func TestT16_MSSClamp(t *testing.T) {
	p := policy(nat.RFCProfile(), forwardTo, static(B, E1), func(p *nat.Policy) { p.MSSClamp = 1360 })
	trial{policy: p}.run(t, func(g *gate) {
		const none = 0
		for i, c := range []struct {
			options []byte
			at      int // of the MSS among them
			want    uint16
		}{
			{[]byte{2, 4, 0x05, 0xb4}, 2, 1360},
			{[]byte{2, 4, 0x04, 0xb0}, 2, 1200},
			{[]byte{2, 4, 0x05, 0x50}, 2, 1360},
			{[]byte{1, 1, 1, 2, 4, 0x05, 0xb4}, 5, 1360}, // its bytes are halves of two words
			{[]byte{1, 3, 3, 7, 2, 4, 0xff, 0xff}, 6, 1360},
			{[]byte{1, 1, 3, 3, 7, 2, 4, 0x23, 0x28}, 7, 1360},
			{[]byte{3, 3, 7}, 0, none},
			{nil, 0, none},
			{[]byte{2, 9, 1, 1}, 0, none}, // runs out of the header
		} {
			for _, flags := range []uint8{syn, syn | ack, ack} {
				in, ext := at(A, 80), at(PA, 8080)
				s := craft.Segment{Src: uint16(100 + i), Dst: 8080, Seq: 1, Ack: 1, Flags: syn, Options: c.options}
				var b, got []byte
				switch flags {
				case syn: // in, through the forward
					b = craft.TCP(head(R1, PA), s, nil)
					got = g.reaches(in, bytes.Clone(b)).b
				default: // and the answers
					s.Src, s.Dst, s.Flags, s.Ack = 80, uint16(100+i), flags, 2
					b = craft.TCP(head(A, R1), s, []byte("odd"))
					r := g.want(g.out(bytes.Clone(b)), nat.Outbound)
					if got = r.b; srcOf(got) != ext {
						g.Fatal("not through the forward")
					}
				}
				if err := craft.Verify(got); err != nil {
					g.Error(err)
				}
				want := bytes.Clone(l4(b)[20:])
				if c.want != none && flags&syn != 0 {
					be.PutUint16(want[c.at:], c.want)
				}
				if !bytes.Equal(l4(got)[20:], want) {
					g.Errorf("%x with flags %#x: options became %x, want %x", c.options, flags, l4(got)[20:], want)
				}
			}
		}
		// Through a 1:1 mapping too.
		s := craft.Segment{Src: 5000, Dst: 80, Flags: syn, Options: []byte{2, 4, 0x05, 0xb4}}
		if r := g.want(g.out(craft.TCP(head(B, R1), s, nil)), nat.StaticOutbound); be.Uint16(l4(r.b)[22:]) != 1360 {
			g.Error("1:1: not lowered")
		}
	})
	// A gateway whose MTU is 8500 says so.
	trial{policy: policy(nat.AWSProfile(), mtu(0, 8500))}.run(t, func(g *gate) {
		r := g.want(g.out(udp(at(A, 5000), at(R1, 80), string(make([]byte, 9001-28)))), nat.DropTooBig)
		if len(r.emitted) != 1 || be.Uint16(l4(r.emitted[0].b)[6:]) != 8500 {
			g.Error("no 3/4 with 8500")
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

func TestB44_NoPinholes(t *testing.T) {
	f := nat.GatewayProfile()
	trial{policy: policy(f)}.run(t, noPinholes)
	// Split so that a segment, or a fragment's payload, begins with the command.
	trial{policy: policy(f)}.run(t, func(g *gate) {
		for i, payload := range attacks {
			for _, port := range []uint16{21, 5060, 1720} {
				c := g.dial(at(A, uint16(7000+10*i)+port%7), at(R1, port))
				sessions := g.stats().Sessions
				c.sends(ack|psh, "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
				b := c.segOut(ack|psh, payload)
				if r := g.want(g.out(bytes.Clone(b)), nat.Outbound); !bytes.Equal(l4(r.b)[20:], []byte(payload)) {
					g.Error("changed")
				}
				if n := g.stats().Sessions; n != sessions {
					g.Errorf("%d sessions, before %d", n, sessions)
				}
				for _, hole := range []uint16{48914, 49170, 5060} {
					g.drops(nat.DropNoMapping, 1, tcp(at(R1, 20), at(PA, hole), syn, 1, 0, ""))
				}
			}
		}
	})
}

func TestB45_PortShadow(t *testing.T) {
	shadowed(t, []uint16{1194, 5351, 51820})
}

func TestB47_ReplyIsNoSecondSession(t *testing.T) {
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.GatewayProfile(), nat.AWSProfile()} {
		trial{policy: policy(f)}.run(t, func(g *gate) {
			for i, proto := range allProtocols {
				in, rem := at(A, uint16(5000+i)), at(R1, 80)
				ext := g.opens(proto, in, rem)
				first := g.session(proto, in, rem)
				g.at(g.now + time.Second)
				g.reaches(in, answer(proto, rem, ext))
				s := g.session(proto, in, rem)
				if n := len(g.sessions()); n != i+1 || g.stats().Created != uint64(i+1) || !s.Replied {
					g.Errorf("%d sessions, %d made, replied %t", n, g.stats().Created, s.Replied)
				}
				want := first.Expires
				if proto == packet.TCP || f.InboundRefresh {
					want += time.Second
				}
				if s.Expires != want {
					g.Errorf("%s, protocol %d: ends at %v, want %v", f.Name, proto, s.Expires, want)
				}
			}
		})
	}
}

func TestB48_MappingLivesAsLongAsItsSessions(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		rems := []end{at(R1, 80), at(R1, 81), at(R2, 80)}
		var ext end
		for i, rem := range rems {
			g.at(time.Duration(i) * 100 * time.Second)
			ext = g.opens(packet.UDP, at(A, 5000), rem)
		}
		for i := range rems {
			g.at(time.Duration(i)*100*time.Second + 299*time.Second)
			if n := g.stats(); n.Sessions != 3-i || n.Mappings != 1 {
				g.Errorf("%d sessions, %d mappings", n.Sessions, n.Mappings)
			}
			g.reaches(at(A, 5000), udp(at(X, 1), ext, ""))
		}
		g.at(sec(500))
		g.drops(nat.DropNoMapping, 1, udp(at(X, 1), ext, ""))
		if n := g.stats(); n.Sessions != 0 || n.Mappings != 0 {
			g.Errorf("%d sessions, %d mappings", n.Sessions, n.Mappings)
		}
	})
	// A million lives, of mappings with one to three sessions, leave nothing.
	f := custom(func(f *nat.Profile) { f.Timeouts.UDP, f.Quarantine = time.Second, time.Second })
	g := newGate(t, nat.Config{Sessions: 1 << 14, Shards: 4}, policy(f, twoAddresses))
	s := g.sender(0)
	r := rand.New(rand.NewPCG(48, 1))
	for i := range 1_000_000 {
		s.now = time.Duration(i) * 200 * time.Microsecond
		if v := s.send(at(addr10(r.IntN(500)), uint16(r.IntN(1<<16))), at(far(r.IntN(3)), 80)); v != nat.Outbound {
			t.Fatal(v)
		}
		if i%100_000 == 0 {
			if err := g.e.Check(s.now); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.now = s.now + 2*time.Second
	if st := g.stats(); st.Sessions != 0 || st.Mappings != 0 || st.Quarantined != 0 || st.Created != st.Expired {
		t.Errorf("%+v", st)
	}
	g.check()
}

func TestB49_ResetsAreNotAnswered(t *testing.T) {
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.GatewayProfile(), nat.AWSProfile()} {
		trial{policy: policy(f)}.run(t, func(g *gate) {
			for _, flags := range []uint8{rst, rst | ack} {
				g.drops(nat.DropNoSession, 0, tcp(at(A, 5000), at(R1, 80), flags, 1, 1, ""))
				g.drops(nat.DropNoMapping, 1, tcp(at(R1, 80), at(PA, 5000), flags, 1, 1, ""))
			}
			g.drops(nat.DropMartian, 0, tcp(at(A, 5000), at(ip4("255.255.255.255"), 80), ack, 1, 1, ""))
			g.drops(nat.DropMartian, 0, tcp(at(A, 5000), at(ip4("224.0.0.1"), 80), ack, 1, 1, ""))
			g.drops(nat.DropSpoof, 0, tcp(at(R2, 5000), at(R1, 80), ack, 1, 1, ""))
		})
	}
}

func TestB50_Timestamps(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, headersStay) // with a timestamp option
	keepsEndedPorts(t)
}

func TestB51_LengthFieldsAreNotTrusted(t *testing.T) {
	p := policy(nat.RFCProfile(), forwardTo, static(C, E1), mtu(700, 700), func(p *nat.Policy) { p.MSSClamp = 500 })
	trial{policy: p}.run(t, func(g *gate) {
		r := rand.New(rand.NewPCG(51, 1))
		var seeds [][]byte
		for _, h := range []netip.Addr{A, C} {
			for _, proto := range allProtocols {
				out := withOptions(of(proto, at(h, 5000), at(R1, 80)), 7)
				ext := g.out(bytes.Clone(out)).b
				seeds = append(seeds, out, withOptions(answer(proto, at(R1, 80), srcOf(ext)), 6), icmp(X, srcOf(ext).Addr(), 11, 0, 0, ext))
				seeds = append(seeds, craft.Cut(datagram(at(h, 5000), at(R1, 80), 7, random(100)), 24, 48)...)
			}
		}
		for n := range 64 {
			for _, from := range []nat.AttachmentID{0, 1} {
				g.send(from, packet.From(random(n)))
				g.send(from, packet.From(make([]byte, n)))
				g.send(from, packet.From(seeds[n%len(seeds)][:n%20]))
			}
		}
		for range 15_000 {
			b := bytes.Clone(seeds[r.IntN(len(seeds))])
			for range 1 + r.IntN(3) {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
			if r.IntN(3) == 0 {
				b = b[:r.IntN(len(b)+1)]
			}
			if r.IntN(4) > 0 && len(b) >= 20 { // so that it gets past the first check
				if hlen := int(b[0]&15) * 4; hlen >= 20 && hlen <= len(b) {
					craft.SetTTL(b, b[8])
				}
			}
			res := g.send(nat.AttachmentID(r.IntN(2)), packet.From(b))[0]
			if res.Forward() && len(res.b) != int(be.Uint16(res.b[2:])) {
				g.Fatalf("%d bytes leave with total length %d", len(res.b), be.Uint16(res.b[2:]))
			}
		}
	})
}

func TestB54_OnceThroughTheNAT(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(C, E1))}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		for name, r := range map[string]result{
			"hairpin":           g.want(g.out(udp(at(B, 6000), ext, "")), nat.Hairpin),
			"hairpin, 1:1":      g.want(g.out(udp(at(B, 6000), at(E1, 1), "")), nat.Hairpin),
			"inbound":           g.want(g.in(udp(at(R1, 80), ext, "")), nat.Inbound),
			"inbound, 1:1":      g.want(g.in(udp(at(R1, 80), at(E1, 1), "")), nat.StaticInbound),
			"error, hairpinned": g.want(g.out(icmp(A, PA, 3, 3, 0, g.out(udp(at(B, 6000), ext, "")).b)), nat.ErrorInbound),
		} {
			// What was delivered to the inside and comes back from there is nobody's there.
			if again := g.out(bytes.Clone(r.b)); again.Verdict != nat.DropSpoof {
				g.Errorf("%s, again from inside: %v", name, again)
			}
		}
		// What left and is routed back comes from ourselves.
		for _, h := range []netip.Addr{A, C} {
			b := g.out(udp(at(h, 5000), at(R1, 80), "")).b
			g.drops(nat.DropMartian, 1, b)
		}
		// Inside to inside is not ours to touch.
		b := udp(at(A, 5000), at(B, 80), "")
		r := g.want(g.out(bytes.Clone(b)), nat.Untouched)
		if craft.SetTTL(b, 63); !bytes.Equal(r.b, b) {
			g.Errorf("%v", r)
		}
	})
}

func TestB55_TrafficClass(t *testing.T) {
	trial{policy: policy(nat.AWSProfile())}.run(t, headersStay)
	// ECN bits survive fragmentation and reassembly: pieces go on as they came, each with its own.
	trial{policy: policy(nat.RFCProfile(), mtu(0, 1000))}.run(t, func(g *gate) {
		for ecn := range uint8(4) {
			b := craft.UDP(craft.IP{Src: A, Dst: R1, TOS: 46<<2 | ecn, ID: uint16(ecn)}, 5000, 80, random(1500))
			for _, e := range g.want(g.out(bytes.Clone(b)), nat.Fragmented).emitted {
				if e.b[1] != 46<<2|ecn {
					g.Errorf("%#x became %#x", 46<<2|ecn, e.b[1])
				}
			}
			pieces := craft.Cut(b, 600, 1200)
			for i, p := range pieces {
				r := g.out(bytes.Clone(p))
				if i < 2 {
					continue
				}
				for _, e := range g.want(r, nat.Reassembled).emitted {
					if e.b[1] != 46<<2|ecn {
						g.Errorf("%#x became %#x", 46<<2|ecn, e.b[1])
					}
				}
			}
		}
	})
}

func TestB56_RefusedPeersKeepNothingAlive(t *testing.T) {
	for _, refresh := range []bool{false, true} {
		refusedNeverRefreshes(t, refresh)
	}
	// Nor does a peer that an open filter lets in, without being asked.
	f := custom(func(f *nat.Profile) { f.InboundRefresh = true })
	trial{policy: policy(f)}.run(t, func(g *gate) {
		if ended := inboundOnly(g, at(R2, 53), nat.Inbound); ended != 5*time.Minute {
			g.Errorf("ended at %v", ended)
		}
	})
}

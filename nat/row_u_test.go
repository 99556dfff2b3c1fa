// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

func TestU1_Lifetime(t *testing.T) {
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.GatewayProfile()} {
		trial{policy: policy(f)}.run(t, func(g *gate) {
			rem := at(R1, 4000) // the gateway profile is shorter for DNS
			early := g.opens(packet.UDP, at(A, 5000), rem)
			late := g.opens(packet.UDP, at(B, 5000), rem)
			g.at(sec(299.9))
			g.reaches(at(A, 5000), udp(rem, early, "in time"))
			g.at(sec(300))
			g.want(g.in(udp(rem, early, "")), nat.DropNoMapping) // also while its record is there yet
			g.at(sec(300.1))
			g.drops(nat.DropNoMapping, 1, udp(rem, late, "too late"))
		})
	}
	short := nat.RFCProfile()
	short.Timeouts.UDP = 119 * time.Second
	p := policy(short)
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "RFC 4787 REQ-5") {
		t.Errorf("119s in the rfc profile: %v", err)
	}
	short.Name = "short"
	p = policy(short)
	if err := p.Validate(); err != nil {
		t.Errorf("119s under another name: %v", err)
	}
}

// TestU1_Opening: until the other side has answered a session may live shorter, in both directions.
func TestU1_Opening(t *testing.T) {
	f := custom(func(f *nat.Profile) { f.Timeouts.UDPOpening, f.InboundRefresh = sec(30), true })
	p := policy(f)
	p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(PA, 2000), Inside: at(C, 2000)}}
	trial{policy: p}.run(t, func(g *gate) {
		rem := at(R1, 4000)
		expires := func(want time.Duration, in end) {
			g.Helper()
			if s := g.session(packet.UDP, in, rem); s.Expires != want {
				g.Errorf("%v ends at %v, want %v", in, s.Expires, want)
			}
		}
		ext := g.opens(packet.UDP, at(A, 5000), rem)
		expires(sec(30), at(A, 5000))
		lost := g.opens(packet.UDP, at(B, 5000), rem)
		g.reaches(at(C, 2000), udp(rem, at(PA, 2000), ""))
		g.at(sec(20))
		g.opens(packet.UDP, at(B, 5000), rem)
		expires(sec(50), at(B, 5000))
		g.reaches(at(C, 2000), udp(rem, at(PA, 2000), ""))
		expires(sec(50), at(C, 2000))
		g.reaches(at(A, 5000), udp(rem, ext, "answer"))
		expires(sec(320), at(A, 5000))
		g.want(g.out(udp(at(C, 2000), rem, "answer")), nat.Outbound)
		expires(sec(320), at(C, 2000))
		g.at(sec(50))
		g.drops(nat.DropNoMapping, 1, udp(rem, lost, "too late"))
		g.at(sec(319.9))
		g.reaches(at(A, 5000), udp(rem, ext, ""))
	})
	for _, c := range []struct {
		change func(*nat.Timeouts)
		want   string
	}{
		{func(t *nat.Timeouts) { t.UDPOpening = sec(30) }, "UDP opening: 30s is below 2m0s (RFC 4787 REQ-5)"},
		{func(t *nat.Timeouts) { t.UDPOpening = sec(400) }, "UDP opening: 6m40s is longer than the 5m0s of UDP"},
		{func(t *nat.Timeouts) { t.UDP = sec(130) }, ""},
	} {
		p := policy(nat.RFCProfile())
		c.change(&p.Pools[0].Profile.Timeouts)
		if err := p.Validate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestU2_OutboundRefreshes(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
		g.at(sec(299))
		if got := g.opens(packet.UDP, at(A, 5000), at(R1, 53)); got != ext {
			g.Fatalf("%v, before %v", got, ext)
		}
		g.at(sec(598))
		g.reaches(at(A, 5000), udp(at(R1, 53), ext, "data"))
		g.opens(packet.UDP, at(A, 5000), at(R1, 53)) // now that it was answered, too
		g.at(sec(897))
		g.reaches(at(A, 5000), udp(at(R1, 53), ext, "data"))
	})
}

// inboundOnly sends from outside every minute after one packet out, and returns when that no longer passed.
func inboundOnly(g *gate, from end, passes nat.Verdict) time.Duration {
	ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
	for i := 1; i <= 10; i++ {
		g.at(time.Duration(i) * time.Minute)
		if r := g.in(udp(from, ext, "data")); r.Verdict != passes {
			g.want(r, nat.DropNoMapping)
			return g.now
		}
	}
	return 0
}

func TestU3_InboundRefreshIsAnOption(t *testing.T) {
	for _, on := range []bool{false, true} {
		f := custom(func(f *nat.Profile) { f.InboundRefresh = on })
		trial{policy: policy(f)}.run(t, func(g *gate) {
			want := 5 * time.Minute
			if on {
				want = 0
			}
			if ended := inboundOnly(g, at(R1, 53), nat.Inbound); ended != want {
				g.Errorf("on: %t: ended at %v, want %v", on, ended, want)
			}
		})
		refusedNeverRefreshes(t, on)
	}
}

// refusedNeverRefreshes checks that an endpoint that the filter refuses keeps no mapping alive (RFC 7857, section 7).
func refusedNeverRefreshes(t *testing.T, refresh bool) {
	for _, how := range []nat.Filtering{nat.FilterAddressDependent, nat.FilterAddressAndPortDependent} {
		f := custom(filtering(how), func(f *nat.Profile) { f.InboundRefresh = refresh })
		trial{policy: policy(f)}.run(t, func(g *gate) {
			if ended := inboundOnly(g, at(R2, 53), nat.DropFiltered); ended != 5*time.Minute {
				g.Errorf("refresh %t: ended at %v", refresh, ended)
			}
		})
	}
}

func TestU4_AnswersOfErrorDoNotRefresh(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 53))
		g.at(sec(200))
		got := g.reaches(at(A, 5000), udp(at(R1, 53), ext, "nobody listens")).b
		g.want(g.out(icmp(A, R1, packet.Unreachable, 3, 0, got)), nat.ErrorOutbound)
		g.at(sec(299.9))
		g.reaches(at(A, 5000), udp(at(R1, 53), ext, ""))
		g.at(sec(300))
		g.drops(nat.DropNoMapping, 1, udp(at(R1, 53), ext, ""))
	})
}

// noChecksum takes the UDP checksum away.
func noChecksum(b []byte) []byte {
	be.PutUint16(l4(b)[6:], 0)
	return b
}

func TestU5_NoChecksumStays(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(B, E1))}.run(t, func(g *gate) {
		for name, r := range map[string]result{
			"out":        g.want(g.out(noChecksum(udp(at(A, 5000), at(R1, 53), "data"))), nat.Outbound),
			"1:1 out":    g.want(g.out(noChecksum(udp(at(B, 5000), at(R1, 53), "data"))), nat.StaticOutbound),
			"1:1 in":     g.want(g.in(noChecksum(udp(at(R1, 53), at(E1, 5000), "data"))), nat.StaticInbound),
			"in":         g.reaches(at(A, 5000), noChecksum(udp(at(R1, 53), g.session(packet.UDP, at(A, 5000), at(R1, 53)).External, "data"))),
			"out, again": g.want(g.out(noChecksum(udp(at(A, 5000), at(R1, 53), "data"))), nat.Outbound),
		} {
			if sum := be.Uint16(l4(r.b)[6:]); sum != 0 {
				g.Errorf("%s: %#04x", name, sum)
			}
		}
	})
}

// vectorU6 is a datagram that needs the checksum 0 once it is translated to 198.51.100.7:40000.
func vectorU6(t *testing.T) ([]byte, nat.Policy) {
	t.Helper()
	b := udp(at(ip4("10.0.0.5"), 5000), at(R1, 53), "\xfd\x1f")
	if sum := be.Uint16(l4(b)[6:]); sum != 0xa8ee {
		t.Fatalf("not the vector: %#04x", sum)
	}
	return b, policy(custom(ports(40000, 40000)), func(p *nat.Policy) {
		p.Pools[0].Addresses = []netip.Addr{ip4("198.51.100.7")}
	})
}

func TestU6_ComputedZeroIsAllOnes(t *testing.T) {
	b, p := vectorU6(t)
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		for range 2 { // a new flow, and an established one
			if sum := be.Uint16(l4(g.want(g.out(bytes.Clone(b)), nat.Outbound).b)[6:]); sum != 0xffff {
				g.Errorf("%#04x", sum)
			}
		}
	})
}

func TestU7_Length(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		length := func(n uint16) []byte {
			b := udp(at(A, 5000), at(R1, 53), "123456")
			be.PutUint16(l4(b)[4:], n)
			return b
		}
		g.drops(nat.DropMalformed, 0, length(9000))
		g.drops(nat.DropMalformed, 0, length(15))
		g.drops(nat.DropMalformed, 0, length(7))
		g.drops(nat.DropMalformed, 0, length(0))

		// Four bytes of six belong to the datagram: its checksum covers those, and the others travel along.
		b := udp(at(A, 5000), at(R1, 53), "1234")
		b = append(b, "56"...)
		be.PutUint16(b[2:], uint16(len(b)))
		craft.SetTTL(b, 64)
		if craft.Verify(b) != nil {
			g.Fatal("the test's packet is wrong")
		}
		r := g.want(g.out(b), nat.Outbound)
		if got := string(l4(r.b)[8:]); got != "123456" {
			g.Errorf("payload became %q", got)
		}
	})
}

// attacks are payloads that have led NATs to open ports (NAT slipstreaming and its kin).
var attacks = []string{
	"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.1.10:5060\r\nContact: <sip:a@10.0.1.10:5060>\r\n" +
		"Content-Type: application/sdp\r\n\r\nv=0\r\no=- 0 0 IN IP4 10.0.1.10\r\nc=IN IP4 10.0.1.10\r\nm=audio 49170 RTP/AVP 0\r\n",
	"REGISTER sip:example.com SIP/2.0\r\nContact: <sip:a@10.0.1.10:5060>\r\n\r\n",
	"PORT 10,0,1,10,191,18\r\n",
	"EPRT |1|10.0.1.10|48914|\r\n",
	"\x03\x00\x00\x20\x08\x02\x00\x01\x05\x10\x0a\x00\x01\x0a\xc0\x12\x00\x00",
	"PRIVMSG x :\x01DCC SEND f 167772426 48914\x01\r\n",
}

// noPinholes sends attacks from A, to the ports where gateways listen to them, and looks for holes.
func noPinholes(g *gate) {
	for i, payload := range attacks {
		for _, port := range []uint16{5060, 21, 1720, 6667} {
			in := at(A, uint16(6000+i))
			rem := at(R1, port)
			r := g.want(g.out(udp(in, rem, payload)), nat.Outbound)
			if got := string(l4(r.b)[8:]); got != payload {
				g.Errorf("payload became %q", got)
			}
			before := g.stats().Sessions
			c := g.dial(at(B, uint16(6000+i)), rem)
			b := c.segOut(ack|psh, payload)
			if r := g.want(g.out(bytes.Clone(b)), nat.Outbound); !bytes.Equal(l4(r.b)[20:], []byte(payload)) {
				g.Error("TCP payload was changed")
			}
			if n := g.stats().Sessions; n != before+1 {
				g.Errorf("%d sessions more, want the connection alone", n-before)
			}
		}
	}
	for _, port := range []uint16{5060, 49170, 49171, 48914} {
		for _, from := range []end{at(R1, 5060), at(R1, 21), at(R1, 20), at(R1, 1720)} {
			g.drops(nat.DropNoMapping, 1, udp(from, at(PA, port), ""))
			g.drops(nat.DropNoMapping, 1, tcp(from, at(PA, port), syn, 1, 0, ""))
		}
	}
}

func TestU8_PayloadIsNotTouched(t *testing.T) {
	f := custom(func(f *nat.Profile) { f.HoldSYN = false })
	trial{policy: policy(f)}.run(t, noPinholes)
	// Data in a SYN that reads like an option is none.
	trial{policy: policy(f, func(p *nat.Policy) { p.MSSClamp = 1000 })}.run(t, func(g *gate) {
		const data = "\x02\x04\xff\xff"
		r := g.want(g.out(tcp(at(A, 5000), at(R1, 80), syn, 1, 0, data)), nat.Outbound)
		if got := l4(r.b)[20:]; string(got) != data {
			g.Errorf("payload became % x", got)
		}
	})
}

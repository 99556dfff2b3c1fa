// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TestI3_Error: A sees its own packet quoted, and the sums are right, by all of I-3, I-4, I-11, I-13.
func TestI3_Error(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	in, out := udp(on(a, 5000), on(r1, 80)), udp(on(pa, 40000), on(r1, 80))
	r.step(inside, in, nat.Outbound, out)
	before := r.expires()
	r.now = time.Second
	wrap := func(dst netip.Addr, quote []byte) []byte {
		return craft.Error(craft.IP{Src: x, Dst: dst, DF: true}, packet.TimeExceeded, 0, 0, quote)
	}
	for _, n := range []int{28, 32, 24} { // without the checksum, too
		r.step(outside, wrap(pa, out[:n]), nat.ErrorInbound, wrap(a, in[:n]))
	}
	r.step(outside, wrap(pa, out[:23]), nat.DropICMPQuote, nil)                           // I-5
	r.step(outside, wrap(pa, udp(on(pa, 40001), on(r1, 80))), nat.DropICMPNoMapping, nil) // I-9
	r.step(outside, wrap(pa, wrap(pa, out)), nat.DropICMPQuote, nil)                      // I-16
	r.step(outside, wrap(pa, udp(on(pb, 40000), on(r1, 80))), nat.DropICMPQuote, nil)     // for somebody else
	r.wrong(outside, wrap(pa, out), nat.ErrorInbound, wrap(a, out))                       // B-5
	bad := wrap(pa, out)
	bad[len(bad)-1]++
	r.step(outside, bad, nat.DropICMPChecksum, nil) // I-6
	if r.expires() != before {
		t.Error("an error refreshed its session")
	}
}

// TestI10_ErrorOut: whoever inside complains does so as the address that the packet was sent to.
func TestI10_ErrorOut(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	r.step(inside, udp(on(a, 5000), on(r1, 80)), nat.Outbound, udp(on(pa, 40000), on(r1, 80)))
	wrap := func(src netip.Addr, to netip.AddrPort) []byte {
		return craft.Error(craft.IP{Src: src, Dst: r1, DF: true}, packet.Unreachable, 3, 0, udp(on(r1, 80), to))
	}
	r.step(inside, wrap(a, on(a, 5000)), nat.ErrorOutbound, wrap(pa, on(pa, 40000)))
	r.step(inside, wrap(b, on(a, 5000)), nat.ErrorOutbound, wrap(pa, on(pa, 40000)))
	r.wrong(inside, wrap(b, on(a, 5000)), nat.ErrorOutbound, wrap(b, on(pa, 40000))) // B-12
}

// TestI15_TTL: the engine is the router, the packet ends, its sender hears of it, and nothing is kept.
func TestI15_TTL(t *testing.T) {
	p := policyOf(nat.RFCProfile())
	p.Attachments = []nat.Attachment{{ID: 0, Side: nat.Inside, Router: true}, {ID: 1, Side: nat.Outside, Router: true, MTU: 600}}
	p.InsideRouter = netip.MustParseAddr("10.0.0.1")
	r := newRig(t, p)
	last := craft.SetTTL(udp(on(a, 5000), on(r1, 80)), 1)
	note := func(typ, code uint8, rest uint32, quote []byte) []byte {
		return craft.Error(craft.IP{Src: p.InsideRouter, Dst: a, DF: true}, typ, code, rest, quote)
	}
	r.emits(inside, last, nat.DropTTL, nat.Inside, note(packet.TimeExceeded, 0, 0, last))
	r.step(inside, udp(on(a, 5000), on(r1, 80)), nat.Outbound, craft.SetTTL(udp(on(pa, 40000), on(r1, 80)), 63)) // K-3

	big := func(df bool, src netip.AddrPort, id uint16) []byte {
		return craft.UDP(craft.IP{Src: src.Addr(), Dst: r1, DF: df, ID: id}, src.Port(), 80, make([]byte, 1200))
	}
	r.emits(inside, big(true, on(a, 5000), 0), nat.DropTooBig, nat.Inside, note(packet.Unreachable, 4, 600, big(true, on(a, 5000), 0)[:548])) // F-1
	pieces := craft.Cut(craft.SetTTL(big(false, on(pa, 40000), 9), 63), 576, 1152)
	r.emits(inside, big(false, on(a, 5000), 3), nat.Fragmented, nat.Outside, pieces...) // F-2
}

// TestF3_AnyOrder: four pieces in each of 24 orders are one clean datagram.
func TestF3_AnyOrder(t *testing.T) {
	in := craft.Cut(craft.UDP(craft.IP{Src: a, Dst: r1, ID: 7}, 5000, 53, make([]byte, 100)), 24, 48, 72)
	out := craft.Cut(craft.UDP(craft.IP{Src: pa, Dst: r1, ID: 99}, 40000, 53, make([]byte, 100)), 24, 48, 72)
	var orders func(done []int)
	orders = func(done []int) {
		if len(done) < 4 {
			for i := range 4 {
				seen := false
				for _, j := range done {
					seen = seen || i == j
				}
				if !seen {
					orders(append(done[:len(done):len(done)], i))
				}
			}
			return
		}
		r := newRig(t, policyOf(nat.RFCProfile()))
		for _, i := range done[:3] {
			r.step(inside, in[i], nat.HeldFragment, nil)
		}
		r.step(inside, in[done[0]], nat.DropFragmentDuplicate, nil)
		r.emits(inside, in[done[3]], nat.Reassembled, nat.Outside, out...)
	}
	orders(nil)
}

func TestF4_F6_F8_Fragments(t *testing.T) {
	whole := craft.UDP(craft.IP{Src: a, Dst: r1, ID: 7}, 5000, 53, make([]byte, 100))
	p, q := craft.Cut(whole, 24, 48), craft.Cut(whole, 32)
	r := newRig(t, policyOf(nat.RFCProfile()))
	r.step(inside, p[0], nat.HeldFragment, nil)
	r.step(inside, q[0], nat.DropFragmentOverlap, nil)
	r.step(inside, p[1], nat.DropFragmentOverlap, nil)
	r.now = 15 * time.Second
	r.step(inside, p[1], nat.HeldFragment, nil)
	r.now = 30*time.Second - time.Millisecond
	r.step(inside, p[0], nat.HeldFragment, nil)
	r.now = 30 * time.Second
	r.step(inside, p[2], nat.HeldFragment, nil) // the others are gone
	tiny := craft.Cut(tcpSegment(on(a, 1), on(r1, 2), packet.SYN, 0, 0, 40), 16)
	r.step(inside, tiny[0], nat.DropTinyFragment, nil)
}

// TestH1_H4_Hairpin: B reaches A at its external endpoint and is seen as one itself; nobody reaches himself.
func TestH1_H4_Hairpin(t *testing.T) {
	r := newRig(t, policyOf(nat.RFCProfile()))
	r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
	r.step(inside, udp(on(b, 6000), on(pa, 40000)), nat.Hairpin, udp(on(pa, 41000), on(a, 5000)))
	r.step(inside, udp(on(a, 5000), on(pa, 41000)), nat.Hairpin, udp(on(pa, 40000), on(b, 6000)))
	r.step(inside, udp(on(a, 5001), on(pa, 40000)), nat.Hairpin, udp(on(pa, 42000), on(a, 5000)))
	r.wrong(inside, udp(on(b, 6000), on(pa, 40000)), nat.Hairpin, udp(on(b, 6000), on(a, 5000))) // B-23

	r = newRig(t, policyOf(nat.RFCProfile()))
	r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
	own := outcome(nat.DropLand, nil, 0)
	own.Sessions = func(yield func(nat.Session) bool) {
		yield(nat.Session{Protocol: packet.UDP, Inside: on(a, 5000), External: on(pa, 40000), Remote: on(pa, 40000)})
	}
	if err := r.twin.Step(r.now, inside, packet.From(udp(on(a, 5000), on(pa, 40000))), own); err != nil {
		t.Error(err)
	}
}

// TestT3_T4_Held: an unsolicited SYN is answered after six seconds, unless the inside asked for it.
func TestT3_T4_Held(t *testing.T) {
	syn := tcpSegment(on(r1, 6000), on(pa, 5000), packet.SYN, 1, 0, 0)
	note := craft.Error(craft.IP{Src: pa, Dst: r1, DF: true}, packet.Unreachable, 3, 0, syn)
	tick := func(r *rig, emitted ...[]byte) error {
		o := outcome(nat.HeldSYN, nil, nat.Outside, emitted...)
		for i := range o.Emitted {
			o.Emitted[i].Cause = -1
		}
		return r.twin.Tick(r.now, o.Emitted)
	}
	r := newRig(t, policyOf(nat.RFCProfile()))
	r.step(outside, syn, nat.HeldSYN, nil)
	r.now = 5999 * time.Millisecond
	if err := tick(r, note); err == nil {
		t.Error("the twin lets an answer go early")
	}
	r = newRig(t, policyOf(nat.RFCProfile()))
	r.step(outside, syn, nat.HeldSYN, nil)
	r.now = 6 * time.Second
	if err := tick(r, note); err != nil {
		t.Error(err)
	}
	r = newRig(t, policyOf(nat.RFCProfile()))
	r.step(outside, syn, nat.HeldSYN, nil)
	r.step(inside, tcpSegment(on(a, 5000), on(r1, 6000), packet.SYN, 1, 0, 0), nat.Outbound, tcpSegment(on(pa, 5000), on(r1, 6000), packet.SYN, 1, 0, 0))
	r.step(outside, syn, nat.Inbound, tcpSegment(on(r1, 6000), on(a, 5000), packet.SYN, 1, 0, 0))
	r.now = 6 * time.Second
	if err := tick(r); err != nil {
		t.Error(err)
	}
}

// TestIGW1_Static: addresses change, ports and everything else do not.
func TestIGW1_Static(t *testing.T) {
	p := policyOf(nat.RFCProfile())
	p.Static = []nat.Static{{Inside: b, Outside: pb}}
	p.Routes[0].Static = true
	r := newRig(t, p)
	r.step(inside, udp(on(b, 5000), on(r1, 53)), nat.StaticOutbound, udp(on(pb, 5000), on(r1, 53)))
	r.step(outside, tcpSegment(on(r1, 9), on(pb, 22), packet.SYN, 0, 0, 3), nat.StaticInbound, tcpSegment(on(r1, 9), on(b, 22), packet.SYN, 0, 0, 3))
	esp := func(src netip.Addr) []byte { return craft.IPv4(craft.IP{Src: src, Dst: r1}, 50, []byte("secret")) }
	r.step(inside, esp(b), nat.StaticOutbound, esp(pb))
	r.step(inside, esp(a), nat.DropProtocol, nil)
	if r.twin.Len() != 0 {
		t.Error("1:1 translation made a session")
	}
}

// TestK8_Partial: a partial sum is of addresses alone, and stays partial.
func TestK8_Partial(t *testing.T) {
	in, out := craft.Partial(udp(on(a, 5000), on(r1, 53))), craft.Partial(udp(on(pa, 40000), on(r1, 53)))
	r := newRig(t, policyOf(nat.RFCProfile()))
	if err := r.twin.Step(0, inside, in, Outcome{Verdict: nat.Outbound, Packet: out}); err != nil {
		t.Error(err)
	}
	out = packet.From(udp(on(pa, 40000), on(r1, 53)))
	out.Offload = in.Offload
	if err := r.twin.Step(0, inside, in, Outcome{Verdict: nat.Outbound, Packet: out}); err == nil {
		t.Error("the twin takes a complete sum for a partial one")
	}
}

// TestApply: a session ends when its pool loses its address, and goes on while that is draining.
func TestApply(t *testing.T) {
	for _, c := range []struct {
		draining []netip.Addr
		want     nat.Impact
		v        nat.Verdict
	}{
		{[]netip.Addr{pa}, nat.Impact{Kept: 1, Draining: 1}, nat.Inbound},
		{nil, nat.Impact{Cut: 1}, nat.DropUnassigned},
	} {
		r := newRig(t, policyOf(nat.RFCProfile(), pa))
		r.step(inside, udp(on(a, 5000), on(r1, 53)), nat.Outbound, udp(on(pa, 40000), on(r1, 53)))
		p := policyOf(nat.RFCProfile(), pb)
		p.Pools[0].Draining = c.draining
		if err := r.twin.Apply(0, p, c.want); err != nil {
			t.Error(err)
		}
		r.step(outside, udp(on(r1, 53), on(pa, 40000)), c.v, udp(on(r1, 53), on(a, 5000)))
	}
}

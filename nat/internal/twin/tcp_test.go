// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// talk is a connection from A:5000 to R1:80 as PA:40000, and who said what up to where.
type talk struct {
	*rig
	seq [2]uint32
}

func newTalk(t *testing.T) *talk {
	return &talk{newRig(t, policyOf(nat.RFCProfile())), [2]uint32{1000, 500_000}}
}

// say sends a segment of n bytes from one side, at an offset from where its sender is, and lets it count if it is there.
func (c *talk) say(d int, flags uint8, offset int, n int) {
	c.Helper()
	s := c.seq[d] + uint32(offset)
	ack := c.seq[1-d]
	if flags&packet.ACK == 0 {
		ack = 0
	}
	if d == out {
		c.step(inside, tcpSegment(on(a, 5000), on(r1, 80), flags, s, ack, n), nat.Outbound, tcpSegment(on(pa, 40000), on(r1, 80), flags, s, ack, n))
	} else {
		c.step(outside, tcpSegment(on(r1, 80), on(pa, 40000), flags, s, ack, n), nat.Inbound, tcpSegment(on(r1, 80), on(a, 5000), flags, s, ack, n))
	}
	if offset == 0 && flags&packet.RST == 0 {
		c.seq[d] += uint32(n)
		if flags&(packet.SYN|packet.FIN) != 0 {
			c.seq[d]++
		}
	}
}

// is checks the state and how long it will last.
func (c *talk) is(state string, left time.Duration) {
	c.Helper()
	if s := c.session(); s.tcp.state != state || c.expires()-c.now != left {
		c.Fatalf("t=%v: %s for %v, want %s for %v", c.now, s.tcp.state, c.expires()-c.now, state, left)
	}
}

const (
	openFor  = 240 * time.Second
	liveFor  = 7440 * time.Second
	closeFor = 240 * time.Second
)

func (c *talk) shake() {
	c.Helper()
	c.say(out, packet.SYN, 0, 0)
	c.is(opening, openFor)
	c.say(in, packet.SYN|packet.ACK, 0, 0)
	c.is(opening, openFor)
	c.say(out, packet.ACK, 0, 0)
	c.is(established, liveFor)
}

func TestT2_SimultaneousOpen(t *testing.T) {
	c := newTalk(t)
	c.say(out, packet.SYN, 0, 0)
	c.say(in, packet.SYN, 0, 0)
	c.is(opening, openFor)
	c.say(out, packet.SYN|packet.ACK, -1, 0)
	c.is(opening, openFor)
	c.say(in, packet.SYN|packet.ACK, -1, 0)
	c.is(established, liveFor)
}

func TestT7_T8_Close(t *testing.T) {
	c := newTalk(t)
	c.shake()
	c.say(out, packet.FIN|packet.ACK, 0, 0)
	for range 10 {
		c.now += 1000 * time.Second
		c.say(in, packet.ACK, 0, 100)
		c.is(established, liveFor)
	}
	c.say(in, packet.FIN|packet.ACK, 0, 0)
	c.is(closing, closeFor)
	c.now += time.Minute
	c.say(out, packet.ACK, 0, 0)
	c.is(closing, closeFor-time.Minute)
}

func TestT9_T10_Reset(t *testing.T) {
	c := newTalk(t)
	c.shake()
	c.now += time.Minute
	c.say(in, packet.RST, 1, 0) // in the window, not exact
	c.say(in, packet.RST, 1<<30, 0)
	c.is(established, liveFor-time.Minute)
	c.say(in, packet.RST, 0, 0)
	c.is(reset, closeFor)
	c.now += 100 * time.Second
	c.say(in, packet.RST, 0, 0)
	c.is(reset, closeFor-100*time.Second)
	c.say(out, packet.ACK, 0, 10)
	c.is(established, liveFor)
}

func TestT11_SYNOnEstablished(t *testing.T) {
	c := newTalk(t)
	c.shake()
	c.now += time.Minute
	c.say(out, packet.SYN, 1<<30, 0)
	c.is(established, liveFor-time.Minute)
	c.say(in, packet.ACK, 0, 0) // the challenge
	c.is(established, liveFor)
	c.seq[out] += 1<<30 + 1
	c.say(in, packet.SYN|packet.ACK, 7777777, 0)
	c.is(opening, openFor)
}

func TestT12_Reuse(t *testing.T) {
	c := newTalk(t)
	c.shake()
	c.say(out, packet.FIN|packet.ACK, 0, 0)
	c.say(in, packet.FIN|packet.ACK, 0, 0)
	c.is(closing, closeFor)
	c.now += 5 * time.Second
	c.say(in, packet.SYN, 1<<20, 0) // the outside did not start it
	c.is(closing, closeFor-5*time.Second)
	c.seq[out] += 1 << 20
	c.say(out, packet.SYN, 0, 0)
	c.is(opening, openFor)
	c.seq[in] = 42
	c.say(in, packet.SYN|packet.ACK, 0, 0)
	c.say(out, packet.ACK, 0, 0)
	c.is(established, liveFor)
}

func TestT13_T14_NoSession(t *testing.T) {
	seg := func(flags uint8) []byte { return tcpSegment(on(a, 5000), on(r1, 80), flags, 1, 2, 3) }
	r := newRig(t, policyOf(nat.RFCProfile()))
	for _, flags := range []uint8{0, packet.SYN | packet.FIN, packet.SYN | packet.RST, packet.FIN | packet.PSH | packet.URG} {
		r.step(inside, seg(flags), nat.DropBadFlags, nil)
	}
	for _, flags := range []uint8{packet.ACK, packet.RST, packet.SYN | packet.ACK} {
		r.step(inside, seg(flags), nat.DropNoSession, nil)
	}
	r = newRig(t, policyOf(nat.AWSProfile()))
	r.emits(inside, seg(packet.ACK), nat.DropReset, nat.Inside, func() []byte {
		b := tcpSegment(on(r1, 80), on(a, 5000), packet.RST, 2, 0, 0)
		be.PutUint16(b[34:], 0)
		craft.Fix(b)
		return b
	}())
	f := nat.RFCProfile()
	f.Stray = nat.StrayPickup
	r = newRig(t, policyOf(f))
	r.step(inside, seg(packet.ACK), nat.Outbound, tcpSegment(on(pa, 40000), on(r1, 80), packet.ACK, 1, 2, 3))
	if s := r.session(); s.tcp.state != established {
		t.Errorf("picked up as %s", s.tcp.state)
	}
}

// TestT15_OutOfWindow: it is translated, and keeps nothing alive.
func TestT15_OutOfWindow(t *testing.T) {
	c := newTalk(t)
	c.shake()
	c.now += time.Minute
	c.say(out, packet.ACK, -1<<30, 10)
	c.say(in, packet.ACK, 70000, 10)
	c.is(established, liveFor-time.Minute)
	c.say(in, packet.ACK, 60000, 10)
	c.is(established, liveFor)
}

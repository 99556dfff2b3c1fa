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

// Names of the fixture: hosts a, b inside, external addresses pa, pb, remote hosts r1, r2, a router x on the way.
var (
	a  = netip.MustParseAddr("10.0.1.10")
	b  = netip.MustParseAddr("10.0.1.11")
	pa = netip.MustParseAddr("198.51.100.1")
	pb = netip.MustParseAddr("198.51.100.2")
	r1 = netip.MustParseAddr("203.0.113.9")
	r2 = netip.MustParseAddr("203.0.113.10")
	x  = netip.MustParseAddr("192.0.2.1")
)

const (
	inside  nat.AttachmentID = 0
	outside nat.AttachmentID = 1
)

func on(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// policyOf is one pool with a profile for all of 10.0.0.0/16.
func policyOf(f nat.Profile, addrs ...netip.Addr) *nat.Policy {
	if len(addrs) == 0 {
		addrs = []netip.Addr{pa}
	}
	net := netip.MustParsePrefix("10.0.0.0/16")
	return &nat.Policy{
		Inside: []netip.Prefix{net},
		Routes: []nat.Route{{Source: net, Pool: "p"}},
		Pools:  []nat.Pool{{Name: "p", Addresses: addrs, Profile: f}},
	}
}

// rig is a twin, a clock, and a made-up engine: the tests say what that one did.
type rig struct {
	*testing.T
	twin *Twin
	now  time.Duration
}

func newRig(t *testing.T, p *nat.Policy) *rig {
	return &rig{T: t, twin: New(nat.Config{Sessions: 16}, p)}
}

func outcome(v nat.Verdict, out []byte, side nat.Side, emitted ...[]byte) Outcome {
	o := Outcome{Verdict: v}
	if v.Forward() {
		o.Packet = packet.From(out)
	}
	for _, e := range emitted {
		o.Emitted = append(o.Emitted, nat.Emission{Packet: packet.From(e), Side: side})
	}
	return o
}

// step: the twin must agree that in becomes out.
func (r *rig) step(from nat.AttachmentID, in []byte, v nat.Verdict, out []byte) {
	r.Helper()
	if err := r.twin.Step(r.now, from, packet.From(in), outcome(v, out, 0)); err != nil {
		r.Fatalf("t=%v %s: %v", r.now, craft.Describe(in), err)
	}
}

// emits: the twin must agree that in ends with v, and packets to a side.
func (r *rig) emits(from nat.AttachmentID, in []byte, v nat.Verdict, side nat.Side, emitted ...[]byte) {
	r.Helper()
	if err := r.twin.Step(r.now, from, packet.From(in), outcome(v, nil, side, emitted...)); err != nil {
		r.Fatalf("t=%v %s: %v", r.now, craft.Describe(in), err)
	}
}

// wrong: the twin must object. What it believes afterwards is of no use.
func (r *rig) wrong(from nat.AttachmentID, in []byte, v nat.Verdict, out []byte) {
	r.Helper()
	if err := r.twin.Step(r.now, from, packet.From(in), outcome(v, out, 0)); err == nil {
		r.Fatalf("t=%v %s: the twin believes %v", r.now, craft.Describe(in), v)
	}
}

// session is the only one that the twin has.
func (r *rig) session() *session {
	r.Helper()
	if len(r.twin.sessions) != 1 {
		r.Fatalf("%d sessions", len(r.twin.sessions))
	}
	return r.twin.sessions[0]
}

func (r *rig) expires() time.Duration {
	r.Helper()
	s := r.session()
	return time.Duration(s.lastSeen+r.twin.policy.timeout(s)) * time.Millisecond
}

// udp and tcp are small packets with DF, so that their identification stays.
func udp(src, dst netip.AddrPort) []byte {
	return craft.UDP(craft.IP{Src: src.Addr(), Dst: dst.Addr(), DF: true}, src.Port(), dst.Port(), []byte("data"))
}

func tcpSegment(src, dst netip.AddrPort, flags uint8, seq, ack uint32, n int) []byte {
	return craft.TCP(craft.IP{Src: src.Addr(), Dst: dst.Addr(), DF: true},
		craft.Segment{Src: src.Port(), Dst: dst.Port(), Flags: flags, Seq: seq, Ack: ack, Window: 64000}, make([]byte, n))
}

func echo(src, dst netip.Addr, typ uint8, id uint16) []byte {
	return craft.Query(craft.IP{Src: src, Dst: dst, DF: true}, typ, 0, id, 1, []byte("ping"))
}

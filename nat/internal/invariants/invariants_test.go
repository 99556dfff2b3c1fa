// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var (
	addr       = netip.MustParseAddr
	a, b       = addr("10.0.1.10"), addr("10.0.1.11")
	pa, pb, e1 = addr("198.51.100.1"), addr("198.51.100.2"), addr("198.51.100.129")
	r1, far    = addr("203.0.113.9"), addr("172.16.0.9")
)

func policy() *nat.Policy {
	return &nat.Policy{
		Inside: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Routes: []nat.Route{{Destination: netip.MustParsePrefix("172.16.0.0/12"), Bypass: true}},
		Pools: []nat.Pool{
			{Name: "independent", Addresses: []netip.Addr{pa}, Profile: nat.RFCProfile()},
			{Name: "sharing", Addresses: []netip.Addr{pb}, Profile: nat.AWSProfile()},
		},
		Static: []nat.Static{{Inside: a, Outside: e1}},
	}
}

// step is one packet and what became of it.
type step struct {
	in, out packet.Packet
	verdict nat.Verdict
	emitted []nat.Emission
	live    []nat.Session
}

func udp(src netip.Addr, sport uint16, dst netip.Addr, dport uint16) packet.Packet {
	return packet.From(craft.UDP(craft.IP{Src: src, Dst: dst, ID: 7}, sport, dport, make([]byte, 96)))
}

// outbound is A's datagram, and as it leaves.
func outbound() step {
	return step{in: udp(a, 5000, r1, 53), out: udp(pa, 40000, r1, 53), verdict: nat.Outbound}
}

func emission(side nat.Side, b []byte) nat.Emission {
	return nat.Emission{Side: side, Packet: packet.From(b)}
}

// told is an ICMP error that the engine made.
func told(side nat.Side, src, dst netip.Addr, quote packet.Packet) []nat.Emission {
	return []nat.Emission{emission(side, craft.Error(craft.IP{Src: src, Dst: dst}, packet.TimeExceeded, 0, 0, quote.Bytes()))}
}

// inPieces is a datagram that arrives, and leaves, in three pieces.
func inPieces() (steps []step) {
	s := outbound()
	out := craft.Cut(s.out.Bytes(), 32, 64)
	for _, p := range craft.Cut(s.in.Bytes(), 32, 64) {
		steps = append(steps, step{in: packet.From(p), verdict: nat.HeldFragment})
	}
	slices.Reverse(steps) // the order in which they come does not matter
	last := &steps[2]
	last.verdict = nat.Reassembled
	for _, p := range out {
		last.emitted = append(last.emitted, emission(nat.Outside, p))
	}
	return steps
}

func (s step) to(l *Laws) error {
	if err := l.Packet(nat.FromInside, s.in, s.out, s.verdict, s.emitted); err != nil {
		return err
	}
	return l.Settle(slices.Values(s.live))
}

// TestPlanted: what an engine might do wrong is found, each by its law, and what is right is not.
func TestPlanted(t *testing.T) {
	l4 := func(p packet.Packet) []byte { return p.Bytes()[20:] }
	aHas := nat.Session{Protocol: packet.UDP, Inside: netip.AddrPortFrom(a, 5000), External: netip.AddrPortFrom(pa, 40000), Remote: netip.AddrPortFrom(r1, 53)}
	second := step{in: udp(b, 9, r1, 53), out: udp(pa, 40000, r1, 53), verdict: nat.Outbound, live: []nat.Session{aHas}}
	sharedA := step{in: udp(a, 5000, r1, 53), out: udp(pb, 40000, r1, 53), verdict: nat.Outbound}
	sharedB := step{in: udp(b, 9, r1, 54), out: udp(pb, 40000, r1, 54), verdict: nat.Outbound}
	one := func(change func(s *step)) []step {
		s := outbound()
		change(&s)
		return []step{s}
	}
	pieces := func(change func(last *step)) []step {
		all := inPieces()
		change(&all[2])
		return all
	}
	for name, c := range map[string]struct {
		steps []step
		want  string // "" is nothing
	}{
		"outbound": {one(func(*step) {}), ""},
		"1:1":      {one(func(s *step) { s.out, s.verdict = udp(e1, 5000, r1, 53), nat.StaticOutbound }), ""},
		"bypass":   {one(func(s *step) { s.in, s.out, s.verdict = udp(a, 1, far, 2), udp(a, 1, far, 2), nat.Bypassed }), ""},
		"pieces":   {inPieces(), ""},
		"wrong before and after": {one(func(s *step) {
			l4(s.in)[50]++
			l4(s.out)[50]++
		}), ""},
		"told inside":     {one(func(s *step) { s.verdict, s.emitted = nat.DropTTL, told(nat.Inside, addr("10.0.0.1"), a, s.in) }), ""},
		"told outside":    {one(func(s *step) { s.verdict, s.emitted = nat.DropTTL, told(nat.Outside, pa, r1, s.out) }), ""},
		"shared port":     {[]step{sharedA, sharedB}, ""},
		"port of the old": {[]step{outbound(), {in: second.in, out: second.out, verdict: nat.Outbound}}, ""},

		"undecided":                    {one(func(s *step) { s.verdict = nat.Unset }), "unset"},
		"leak, but the engine says so": {one(func(s *step) { s.verdict = nat.DropLeak }), "leak"},
		"source":                       {one(func(s *step) { s.out = s.in.Clone() }), "leak: udp 10.0.1.10"},
		"source of a stranger":         {one(func(s *step) { s.out = udp(r1, 5000, r1, 53) }), "leak"},
		"source told outside":          {one(func(s *step) { s.verdict, s.emitted = nat.DropTTL, told(nat.Outside, a, r1, s.out) }), "leak"},
		"quote told outside":           {one(func(s *step) { s.verdict, s.emitted = nat.DropTTL, told(nat.Outside, pa, r1, s.in) }), "leak in a quote"},
		"quote translated":             {one(func(s *step) { s.out, s.verdict = told(nat.Outside, pa, r1, s.in)[0].Packet, nat.ErrorOutbound }), "leak in a quote"},
		"source of a piece":            {pieces(func(s *step) { s.emitted = append(s.emitted, emission(nat.Outside, s.in.Bytes())) }), "leak"},
		"IP checksum":                  {one(func(s *step) { s.out.Bytes()[11]++ }), "checksums wrong"},
		"transport checksum":           {one(func(s *step) { l4(s.out)[7]++ }), "checksums wrong"},
		"payload":                      {one(func(s *step) { l4(s.out)[60]++ }), "checksums wrong"},
		"repaired":                     {one(func(s *step) { l4(s.in)[7]++ }), "checksums wrong"},
		"partial":                      {one(func(s *step) { s.in, s.out = craft.Partial(s.in.Bytes()), craft.Partial(s.out.Bytes()); l4(s.out)[7]++ }), "checksums wrong"},
		"length":                       {one(func(s *step) { s.out.Len-- }), "total length"},
		"checksum of told": {one(func(s *step) {
			s.verdict, s.emitted = nat.DropTTL, told(nat.Inside, pa, a, s.in)
			s.emitted[0].Packet.Bytes()[22]++
		}), "ICMP checksum"},
		"checksum of a piece":    {pieces(func(s *step) { s.emitted[1].Packet.Bytes()[11]++ }), "IP header checksum"},
		"payload of a piece":     {pieces(func(s *step) { s.emitted[1].Packet.Bytes()[40]++ }), "checksums wrong"},
		"a piece too few":        {pieces(func(s *step) { s.emitted = s.emitted[:2] }), "checksums wrong"},
		"another order":          {pieces(func(s *step) { slices.Reverse(s.emitted) }), "does not belong"},
		"no pieces":              {pieces(func(s *step) { s.emitted = nil }), "no pieces"},
		"a piece out of nowhere": {inPieces()[1:], "never came"},
		"cut": {one(func(s *step) {
			s.verdict = nat.Fragmented
			for _, p := range craft.Cut(s.out.Bytes(), 32) {
				s.emitted = append(s.emitted, emission(nat.Outside, p))
			}
			s.emitted[0].Packet.Bytes()[30]++
		}), "checksums wrong"},
		"two owners":           {[]step{outbound(), second}, "still has it"},
		"delivered to another": {[]step{outbound(), {in: udp(r1, 53, pa, 40000), out: udp(r1, 53, b, 5000), verdict: nat.Inbound, live: []nat.Session{aHas}}}, "still has it"},
		"hairpin to another":   {[]step{outbound(), {in: udp(b, 9, pa, 40000), out: udp(pa, 40001, b, 5000), verdict: nat.Hairpin, live: []nat.Session{aHas}}}, "still has it"},
	} {
		l := New(policy())
		var err error
		for i, s := range c.steps {
			if err = s.to(l); err != nil && i < len(c.steps)-1 {
				t.Errorf("%s: step %d: %v", name, i, err)
			}
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestOwners(t *testing.T) {
	session := func(in, ext netip.Addr, remote uint16) nat.Session {
		return nat.Session{Protocol: packet.UDP, Inside: netip.AddrPortFrom(in, 5000), External: netip.AddrPortFrom(ext, 40000), Remote: netip.AddrPortFrom(r1, remote)}
	}
	for _, c := range []struct {
		live []nat.Session
		ok   bool
	}{
		{[]nat.Session{session(a, pa, 53), session(a, pa, 54)}, true},
		{[]nat.Session{session(a, pa, 53), session(b, pa, 54)}, false},
		{[]nat.Session{session(a, pb, 53), session(b, pb, 54)}, true},
		{[]nat.Session{session(a, pb, 53), session(b, pb, 53)}, false},
	} {
		if err := New(policy()).Owners(slices.Values(c.live)); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.live, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package invariants judges an engine by what holds for every packet, policy and time:
//
//   - nothing leaves on the outside with a source, or in the quote of an ICMP error with an address, that is not
//     external;
//   - an external endpoint has one owner at a time;
//   - every checksum is as right, or as wrong by the same amount, as it was on arrival, and what the engine makes
//     itself is right.
//
// Every test that has an engine hands its packets to Laws, and so none of them repeats these. Packets are read by
// package craft, which shares no code with the engine.
package invariants

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var be = binary.BigEndian

// Laws is what an engine must keep under its policy, and what was seen of it. It is not safe for concurrent use; workers
// that run side by side have one each.
type Laws struct {
	// Shared: others use the engine at the same time, so that who owns what cannot be told from these packets.
	Shared bool

	inside   []netip.Prefix
	external map[netip.Addr]bool
	unlent   []netip.Prefix
	knowing  []netip.Prefix // destinations that may see inside addresses
	sharing  map[netip.Addr][nat.NumClasses]bool
	owners   map[tuple]netip.AddrPort
	suspects map[tuple]netip.AddrPort    // endpoints that were seen with two owners, and the new one
	asked    int                         // how many sessions there were when that was last settled
	held     map[datagram]map[int][]byte // fragments that wait, by offset
}

// tuple is what one inside endpoint owns: an external endpoint, and if its pool shares ports by destination, a remote
// one.
type tuple struct {
	proto    uint8
	ext, rem netip.AddrPort
}

type datagram struct {
	from     nat.AttachmentID
	src, dst netip.Addr
	proto    uint8
	id       uint16
}

// New is the laws for an engine with policy p.
func New(p *nat.Policy) *Laws {
	l := &Laws{owners: map[tuple]netip.AddrPort{}, suspects: map[tuple]netip.AddrPort{}, held: map[datagram]map[int][]byte{}}
	l.Policy(p)
	return l
}

// Policy puts another policy in place, as Engine.Apply did.
func (l *Laws) Policy(p *nat.Policy) {
	l.inside, l.unlent, l.knowing = p.Inside, p.Unlent, nil
	l.external, l.sharing = map[netip.Addr]bool{}, map[netip.Addr][nat.NumClasses]bool{}
	for _, q := range p.Pools {
		f := q.Profile
		if f == (nat.Profile{}) {
			f = nat.GatewayProfile()
		}
		var shares [nat.NumClasses]bool
		for k, m := range f.Mapping {
			shares[k] = m == nat.AddressAndPortDependent
		}
		for _, a := range slices.Concat(q.Addresses, q.Draining) {
			l.external[a], l.sharing[a] = true, shares
		}
	}
	for _, s := range p.Static {
		l.external[s.Outside] = true
	}
	if p.OutsideRouter.IsValid() {
		l.external[p.OutsideRouter] = true
	}
	for _, r := range p.Routes {
		if r.Bypass {
			l.knowing = append(l.knowing, r.Destination)
		}
	}
	clear(l.owners)
	clear(l.suspects)
}

// Forget is for an engine that goes on without the fragments of the one before.
func (l *Laws) Forget() { clear(l.held) }

// Packet judges what became of a packet: in is what arrived, and out what it is now, which counts if v is to forward it.
func (l *Laws) Packet(from nat.AttachmentID, in, out packet.Packet, v nat.Verdict, emitted []nat.Emission) error {
	if v == nat.Unset || v == nat.DropLeak {
		return fmt.Errorf("%v", v)
	}
	if v.Forward() {
		if err := l.forwarded(in, out, v); err != nil {
			return err
		}
		l.owned(in.Bytes(), out.Bytes(), v)
	}
	switch v {
	case nat.HeldFragment:
		l.hold(from, in.Bytes())
	case nat.Reassembled:
		was, err := l.release(from, in.Bytes())
		if err != nil {
			return err
		}
		return l.pieces(was, emitted)
	case nat.Fragmented:
		return l.pieces(complete(in), emitted)
	}
	return l.Emitted(emitted)
}

func (l *Laws) forwarded(in, out packet.Packet, v nat.Verdict) error {
	b := out.Bytes()
	if v != nat.Bypassed {
		if err := l.leaves(v.Side(), b); err != nil {
			return err
		}
	}
	if n := int(be.Uint16(b[2:])); n != len(b) && out.Offload.GSO == packet.GSONone {
		return fmt.Errorf("%d bytes leave, with a total length of %d", len(b), n)
	}
	was := complete(in)
	return sameSums(was[:min(len(was), int(be.Uint16(was[2:])))], complete(out))
}

// Emitted judges packets that the engine made.
func (l *Laws) Emitted(emitted []nat.Emission) error {
	for _, e := range emitted {
		b := e.Packet.Bytes()
		if err := l.leaves(e.Side, b); err != nil {
			return err
		}
		if err := verifyMade(b); err != nil {
			return fmt.Errorf("it made a packet whose %w: %s", err, craft.Describe(b))
		}
	}
	return nil
}

// verifyMade recomputes the checksums of a packet that the engine made. What an ICMP error quotes is as it came.
func verifyMade(b []byte) error {
	err := craft.Verify(b)
	if err != nil && craft.Quote(b) != nil {
		if skews := craft.Skews(b); len(skews) > 1 && skews[0] == 0 && skews[1] == 0 {
			return nil
		}
	}
	return err
}

// pieces judges a datagram, was when it arrived, that left in pieces.
func (l *Laws) pieces(was []byte, emitted []nat.Emission) error {
	var all [][]byte
	for _, e := range emitted {
		b := e.Packet.Bytes()
		if err := l.leaves(e.Side, b); err != nil {
			return err
		}
		if err := craft.Verify(b[:]); err != nil && be.Uint16(b[6:])&0x3fff != 0 {
			return fmt.Errorf("a piece whose %w: %s", err, craft.Describe(b))
		}
		all = append(all, b)
	}
	is, err := join(all)
	if err != nil {
		return err
	}
	return sameSums(was, is)
}

// leaves looks for inside addresses in what goes outside: source, and the quotes of ICMP errors.
func (l *Laws) leaves(side nat.Side, b []byte) error {
	src, dst := addrs(b)
	if side != nat.Outside || among(l.knowing, dst) {
		return nil
	}
	if !l.external[src] && !among(l.unlent, src) {
		return fmt.Errorf("leak: %s", craft.Describe(b))
	}
	if q := craft.Quote(b); len(q) >= 20 {
		if src, dst := addrs(q); among(l.inside, src) && !l.external[src] || among(l.inside, dst) && !l.external[dst] {
			return fmt.Errorf("leak in a quote: %s", craft.Describe(b))
		}
	}
	return nil
}

// sameSums: what is wrong stays wrong by as much, and a right checksum right.
func sameSums(was, is []byte) error {
	a, b := craft.Skews(was), craft.Skews(is)
	// What is right in value alone may be written in the usual way.
	same := func(was, is uint16) bool { return was == is || was == 0xffff && is == 0 }
	if slices.EqualFunc(a, b, same) {
		return nil
	}
	return fmt.Errorf("checksums wrong by %#x before and by %#x after\n  %s\n  %s", a, b, craft.Describe(was), craft.Describe(is))
}

// complete is p as a card with checksum offload sends it.
func complete(p packet.Packet) []byte {
	b := p.Bytes()
	at := int(p.Offload.CsumStart) + int(p.Offload.CsumOffset)
	if p.Offload.Csum != packet.CsumPartial || at+2 > len(b) {
		return b
	}
	b = slices.Clone(b)
	c := craft.Checksum(b[p.Offload.CsumStart:])
	if c == 0 && b[9] == packet.UDP {
		c = 0xffff
	}
	be.PutUint16(b[at:], c)
	return b
}

func addrs(b []byte) (src, dst netip.Addr) {
	return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
}

func among(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

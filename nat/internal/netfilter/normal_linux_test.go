// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// names stand for the external ports and identifiers that a NAT chose, in the order of their appearance.
type names map[string]string

// end is an endpoint in normal form.
func (n *names) end(proto uint8, e end) string {
	if e.Addr() != PA || e.Port() == 8080 || e.Port() == 5353 {
		return e.String()
	}
	if *n == nil {
		*n = names{}
	}
	key := fmt.Sprint(proto, e)
	if (*n)[key] == "" {
		(*n)[key] = fmt.Sprintf("PA:x%d", len(*n)+1)
	}
	return (*n)[key]
}

// describe is a packet in normal form.
func (n *names) describe(d datagram, side nat.Side, answer bool) string {
	b := d.b
	made := answer && craft.Quote(b) != nil
	var s strings.Builder
	n.header(&s, b)
	fmt.Fprintf(&s, ", ttl %d, %d bytes", b[8], len(b))
	if df := b[6]&0x40 != 0; !made {
		fmt.Fprintf(&s, ", tos %d", b[1])
		if df {
			fmt.Fprintf(&s, ", df, id %d", be.Uint16(b[4:]))
		}
	}
	if o := b[20 : b[0]&15*4]; len(o) > 0 {
		fmt.Fprintf(&s, ", options %x", o)
	}
	n.body(&s, b, side)
	if d.pieces != nil {
		fmt.Fprintf(&s, ", in pieces at %v", d.pieces)
	}
	if skews := craft.Skews(b); slices.ContainsFunc(skews, func(x uint16) bool { return x != 0 }) {
		fmt.Fprintf(&s, ", checksums wrong by %#x", skews)
	}
	return s.String()
}

// header writes protocol and ends.
func (n *names) header(s *strings.Builder, b []byte) {
	protocol := map[uint8]string{packet.ICMP: "icmp", packet.TCP: "tcp", packet.UDP: "udp"}[b[9]]
	if protocol == "" {
		protocol = fmt.Sprintf("protocol %d", b[9])
	}
	src, dst := ends(b)
	if craft.Quote(b) != nil || src.Port() == 0 && dst.Port() == 0 { // no ports
		fmt.Fprintf(s, "%s %s > %s", protocol, src.Addr(), dst.Addr())
		return
	}
	from, to := n.end(b[9], src), n.end(b[9], dst)
	if b[9] == packet.ICMP { // there is one identifier
		switch PA {
		case src.Addr():
			to = dst.Addr().String()
		case dst.Addr():
			from = src.Addr().String()
		}
	}
	fmt.Fprintf(s, "%s %s > %s", protocol, from, to)
}

// body writes what is behind the IP header, apart from ports and checksums.
func (n *names) body(s *strings.Builder, b []byte, side nat.Side) {
	t := l4(b)
	switch {
	case b[9] == packet.TCP && len(t) >= 20:
		fmt.Fprintf(s, ", flags %#x, seq %d, ack %d, window %d, urgent %d", t[12:14], be.Uint32(t[4:]), be.Uint32(t[8:]),
			be.Uint16(t[14:]), be.Uint16(t[18:]))
		t = t[20:]
	case b[9] == packet.UDP && len(t) >= 8:
		fmt.Fprintf(s, ", length %d", be.Uint16(t[4:]))
		if be.Uint16(t[6:]) == 0 {
			s.WriteString(", no checksum")
		}
		t = t[8:]
	case b[9] == packet.ICMP && len(t) >= 8:
		fmt.Fprintf(s, ", type %d, code %d", t[0], t[1])
		if q := craft.Quote(b); len(q) >= 20 {
			fmt.Fprintf(s, ", rest %x, about (", t[4:8])
			n.quote(s, q, side)
			s.WriteByte(')')
			return
		}
		fmt.Fprintf(s, ", seq %d", be.Uint16(t[6:]))
		t = t[8:]
	}
	if len(t) <= 40 {
		fmt.Fprintf(s, ", %q", t)
		return
	}
	h := fnv.New32a()
	_, _ = h.Write(t)
	fmt.Fprintf(s, ", %d bytes with hash %x", len(t), h.Sum32())
}

// quote writes what an ICMP error quotes. Toward the inside that is, byte for byte, what the host sent, checksum and all;
// toward the outside it depends on the port that the NAT chose, so the ports have names and the checksum is left to Skews.
func (n *names) quote(s *strings.Builder, q []byte, side nat.Side) {
	q = bytes.Clone(q)
	n.header(s, q)
	q[10], q[11] = 0, 0 // left to Skews, too: Linux and the engine may differ in what they make of a wrong one
	t := l4(q)
	if side == nat.Outside {
		at, ports := map[uint8]int{packet.TCP: 16, packet.UDP: 6, packet.ICMP: 2}[q[9]], 0
		if q[9] == packet.ICMP {
			ports = 4
		}
		for _, i := range []int{ports, ports + 1, at, at + 1} {
			if i < len(t) {
				t[i] = 0
			}
		}
		if q[9] != packet.ICMP {
			copy(t, make([]byte, min(4, len(t))))
		}
	}
	fmt.Fprintf(s, " %x", q)
}

// datagram is a packet, whole, and the offsets of its pieces if it left as several.
type datagram struct {
	b      []byte
	pieces []int
}

// reassemble returns what left on a side, in the order in which it was complete. What never is does not count.
func reassemble(left []output, side nat.Side) (ds []datagram) {
	sets := map[string][][]byte{}
	for _, o := range left {
		if o.side != side {
			continue
		}
		if be.Uint16(o.b[6:])&0x3fff == 0 {
			ds = append(ds, datagram{b: o.b})
			continue
		}
		key := string(o.b[4:6]) + string(o.b[9]) + string(o.b[12:20])
		sets[key] = append(sets[key], o.b)
		if d, ok := join(sets[key]); ok {
			ds = append(ds, d)
			delete(sets, key)
		}
	}
	return ds
}

// join is the datagram of pieces, if they are all of one. Nobody here sends pieces that overlap.
func join(pieces [][]byte) (d datagram, ok bool) {
	offset := func(b []byte) int { return int(be.Uint16(b[6:])&0x1fff) * 8 }
	pieces = slices.SortedFunc(slices.Values(pieces), func(a, b []byte) int { return offset(a) - offset(b) })
	var whole []byte
	for _, p := range pieces {
		if offset(p) != len(whole) {
			return d, false
		}
		whole = append(whole, l4(p)...)
		d.pieces = append(d.pieces, offset(p))
	}
	last, first := pieces[len(pieces)-1], pieces[0]
	if last[6]&0x20 != 0 {
		return d, false
	}
	d.b = append(bytes.Clone(first[:first[0]&15*4]), whole...)
	be.PutUint16(d.b[2:], uint16(len(d.b)))
	be.PutUint16(d.b[6:], be.Uint16(d.b[6:])&0x4000)
	be.PutUint16(d.b[10:], 0)
	be.PutUint16(d.b[10:], craft.Checksum(d.b[:d.b[0]&15*4]))
	for _, p := range pieces { // the header is whole only if those of all pieces are
		if craft.Checksum(p[:p[0]&15*4]) != 0 {
			be.PutUint16(d.b[10:], 0)
		}
	}
	return d, true
}

// end is an endpoint: an address with a port, or with an ICMP identifier.
type end = netip.AddrPort

func at(a netip.Addr, port uint16) end { return netip.AddrPortFrom(a, port) }

// l4 is the transport part of a packet.
func l4(b []byte) []byte { return b[int(b[0]&15)*4:] }

// ends are source and destination. Of an ICMP query both have the identifier; what has no ports has 0.
func ends(b []byte) (src, dst end) {
	s, d := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	t := l4(b)
	switch {
	case (b[9] == packet.TCP || b[9] == packet.UDP) && len(t) >= 4:
		return at(s, be.Uint16(t)), at(d, be.Uint16(t[2:]))
	case b[9] == packet.ICMP && len(t) >= 8 && craft.Quote(b) == nil:
		return at(s, be.Uint16(t[4:])), at(d, be.Uint16(t[4:]))
	}
	return at(s, 0), at(d, 0)
}

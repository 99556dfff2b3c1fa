// SPDX-License-Identifier: Apache-2.0

package craft

import (
	"fmt"

	"github.com/tidegate/tidegate/packet"
)

// Checksum is the internet checksum (RFC 1071) of the parts one after the other, each but the last of even length.
func Checksum(parts ...[]byte) uint16 {
	sum := 0
	for _, b := range parts {
		for i := range b {
			if i%2 == 0 {
				sum += int(b[i]) << 8
			} else {
				sum += int(b[i])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudo is the pseudo-header of the IPv4 packet b (RFC 768) for a transport part of n bytes.
func pseudo(b []byte, n int) []byte {
	h := make([]byte, 12)
	copy(h, b[12:20])
	h[9] = b[9]
	be.PutUint16(h[10:], uint16(n))
	return h
}

// sum is one checksum of a packet: where its field is, and what it covers.
type sum struct {
	name   string
	field  int
	pseudo []byte
	from   int
	to     int
	udp    bool
}

// want is what the field should hold. It lies at an even distance from the start of what is summed.
func (s sum) want(b []byte) uint16 {
	c := Checksum(s.pseudo, b[s.from:s.field], b[s.field+2:s.to])
	if s.udp && c == 0 {
		return 0xffff // RFC 768: a computed 0 is sent as all ones
	}
	return c
}

// sums lists the checksums of a packet, from the outside to the inside; ok is false if its lengths contradict it.
func sums(b []byte) (list []sum, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, false
	}
	hlen, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if hlen < 20 || total < hlen || total > len(b) {
		return nil, false
	}
	list = []sum{{name: "IP header", field: 10, to: hlen}}
	if be.Uint16(b[6:])&0x3fff != 0 {
		return list, true // a fragment: its transport checksum covers what is elsewhere
	}
	body := b[hlen:total]
	switch b[9] {
	case packet.TCP:
		if len(body) < 20 {
			return list, false
		}
		list = append(list, sum{name: "TCP", field: hlen + 16, pseudo: pseudo(b, len(body)), from: hlen, to: total})
	case packet.UDP:
		if len(body) < 8 {
			return list, false
		}
		n := int(be.Uint16(body[4:]))
		if n < 8 || n > len(body) {
			return list, false
		}
		if be.Uint16(body[6:]) != 0 { // RFC 768: 0 says that there is none
			list = append(list, sum{name: "UDP", field: hlen + 6, pseudo: pseudo(b, n), from: hlen, to: hlen + n, udp: true})
		}
	case packet.ICMP:
		if len(body) < 8 {
			return list, false
		}
		list = append(list, sum{name: "ICMP", field: hlen + 2, from: hlen, to: total})
		switch body[0] {
		case packet.Unreachable, packet.TimeExceeded, packet.ParameterProblem:
			q := body[8:]
			if len(q) >= 20 && q[0]>>4 == 4 && q[0]&15 >= 5 && len(q) >= int(q[0]&15)*4 {
				at := hlen + 8
				list = append(list, sum{name: "quoted IP header", field: at + 10, from: at, to: at + int(q[0]&15)*4})
			}
		}
	}
	return list, true
}

// Verify recomputes every checksum of an IPv4 packet: the header's, that of TCP, UDP or ICMP unless it is a fragment,
// and that of a quoted header. The error names the first wrong one.
func Verify(b []byte) error {
	list, ok := sums(b)
	if !ok {
		return fmt.Errorf("lengths contradict each other in % x", b[:min(len(b), 32)])
	}
	for _, s := range list {
		if got, want := be.Uint16(b[s.field:]), s.want(b); got != want {
			return fmt.Errorf("%s checksum is %#04x, want %#04x", s.name, got, want)
		}
	}
	return nil
}

// Fix makes the lengths and checksums of b agree with its bytes, as far as its headers can be read: total length,
// header checksum, UDP length, transport checksum. A quoted packet is left as it is.
func Fix(b []byte) {
	if len(b) < 20 {
		return
	}
	be.PutUint16(b[2:], uint16(len(b)))
	hlen := fixHeader(b)
	if hlen == 0 || be.Uint16(b[6:])&0x3fff != 0 {
		return
	}
	if b[9] == packet.UDP && len(b)-hlen >= 8 {
		be.PutUint16(b[hlen+4:], uint16(len(b)-hlen))
		be.PutUint16(b[hlen+6:], 1) // anything but "none"
	}
	list, ok := sums(b)
	if !ok {
		return
	}
	for _, s := range list[1:] {
		if s.name != "quoted IP header" {
			be.PutUint16(b[s.field:], s.want(b))
		}
	}
}

// fixHeader puts in the header checksum and returns the header's length, 0 if it has none.
func fixHeader(b []byte) int {
	hlen := int(b[0]&15) * 4
	if hlen < 20 || hlen > len(b) {
		return 0
	}
	be.PutUint16(b[10:], 0)
	be.PutUint16(b[10:], Checksum(b[:hlen]))
	return hlen
}

// SPDX-License-Identifier: Apache-2.0

package craft

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tidegate/tidegate/packet"
)

// Describe is an IPv4 packet in one line, for traces.
func Describe(b []byte) string {
	if len(b) < 20 || b[0]>>4 != 4 || int(b[0]&15)*4 > len(b) || b[0]&15 < 5 {
		return fmt.Sprintf("%d bytes: % x", len(b), b[:min(len(b), 40)])
	}
	hlen, frag := int(b[0]&15)*4, be.Uint16(b[6:])
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	body := b[hlen:]
	var s strings.Builder
	note := func(format string, args ...any) { fmt.Fprintf(&s, format, args...) }
	switch whole := frag&0x1fff == 0; {
	case whole && b[9] == packet.TCP && len(body) >= 20:
		note("tcp %v:%d > %v:%d %s seq %d ack %d win %d", src, be.Uint16(body), dst, be.Uint16(body[2:]), flagNames(body[13]),
			be.Uint32(body[4:]), be.Uint32(body[8:]), be.Uint16(body[14:]))
	case whole && b[9] == packet.UDP && len(body) >= 8:
		note("udp %v:%d > %v:%d", src, be.Uint16(body), dst, be.Uint16(body[2:]))
	case whole && b[9] == packet.ICMP && len(body) >= 8:
		note("icmp %v > %v %d/%d id %d", src, dst, body[0], body[1], be.Uint16(body[4:]))
		switch body[0] {
		case packet.Unreachable, packet.TimeExceeded, packet.ParameterProblem:
			note(" about (%s)", Describe(body[8:]))
		}
	default:
		note("protocol %d %v > %v", b[9], src, dst)
	}
	note(", %d bytes, ttl %d, id %d", len(b), b[8], be.Uint16(b[4:]))
	if frag&0x4000 != 0 {
		note(", df")
	}
	if frag&0x3fff != 0 {
		note(", at %d", frag&0x1fff*8)
		if frag&0x2000 != 0 {
			note(" and more")
		}
	}
	return s.String()
}

func flagNames(f byte) string {
	s := ""
	for i, n := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if f>>i&1 != 0 {
			s += "|" + n
		}
	}
	return strings.TrimPrefix(s+" ", "|")
}

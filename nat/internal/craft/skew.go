// SPDX-License-Identifier: Apache-2.0

package craft

import "github.com/tidegate/tidegate/packet"

// Skews is by how much each checksum of b is wrong, in one's-complement arithmetic and in the order of Verify: 0 is right
// and 0xffff the other zero, which is right in value alone. A checksum quoted with all that it covers counts, too. A
// translator may change none of them: it neither breaks what is right nor repairs what is wrong.
func Skews(b []byte) []uint16 {
	list, _ := sums(b)
	skews := make([]uint16, 0, 4)
	for _, s := range list {
		got, want := be.Uint16(b[s.field:]), s.want(b)
		x := int(got) + int(^want)
		if x = x>>16 + x&0xffff; got == want {
			x = 0
		}
		skews = append(skews, uint16(x))
	}
	if q := Quote(b); len(q) > 20 {
		if rest := Skews(q); len(rest) > 1 { // its header's is in the list already
			skews = append(skews, rest[1:]...)
		}
	}
	return skews
}

// Quote is what the ICMP error b quotes, nil if it is none. It aliases b.
func Quote(b []byte) []byte {
	if len(b) < 20 || b[9] != packet.ICMP || be.Uint16(b[6:])&0x3fff != 0 {
		return nil
	}
	hlen, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if hlen < 20 || total < hlen+8 || total > len(b) {
		return nil
	}
	switch b[hlen] {
	case packet.Unreachable, packet.TimeExceeded, packet.ParameterProblem:
		return b[hlen+8 : total]
	}
	return nil
}

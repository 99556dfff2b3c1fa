// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"bytes"

	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// A NAT never repairs (K-2): a checksum that was wrong stays wrong by as much. So a checksum field is not adjusted
// here but taken apart, into what the bytes at hand add up to and the rest (an error on the way, bytes that are not at
// hand), and put together again for the new bytes. All sums are of one's complement: modulo 65,535.

const modulus = 0xffff

// carry is the field that stood over old bytes, for new ones; what covers them besides is the same.
func carry(field uint16, old, new [][]byte) uint16 {
	rest := (int(field) + modulus - int(craft.Checksum(old...))%modulus) % modulus
	want := craft.Checksum(new...)
	if rest == 0 && want == modulus {
		return want // RFC 1071: nothing but zeros add up to this
	}
	return uint16((int(want) + rest) % modulus)
}

// resum puts the checksums into b, a translated packet, that was old; both are whole datagrams, or single fragments.
func resum(b, old []byte, h *header, csum packet.Csum) {
	hlen := h.hlen
	if h.off == 0 {
		resumTransport(b[hlen:], old[hlen:], pseudo(b), pseudo(old), h, csum)
	}
	resumHeader(b, old, hlen)
}

func resumHeader(b, old []byte, hlen int) {
	put(b, old, 10, 0, hlen, nil, nil)
}

// put carries over the checksum field at a place of b; it covers from..to and a pseudo-header.
func put(b, old []byte, field, from, to int, pb, pold []byte) {
	be.PutUint16(b[field:], carry(be.Uint16(old[field:]), [][]byte{pold, without(old, field, from, to)}, [][]byte{pb, without(b, field, from, to)}))
}

// without is b[from:to] with the field zero.
func without(b []byte, field, from, to int) []byte {
	c := append([]byte(nil), b[from:to]...)
	c[field-from], c[field-from+1] = 0, 0
	return c
}

// pseudo is the part of the pseudo-header that translation changes; the rest is the same before and after.
func pseudo(b []byte) []byte { return b[12:20] }

// field is where the checksum of a protocol is in its header, and whether addresses count in it. -1: there is none
// that translation would have to change.
func field(proto uint8) (at int, addresses bool) {
	switch proto {
	case packet.TCP:
		return 16, true
	case packet.UDP, packet.UDPLite, packet.DCCP:
		return 6, true
	case packet.ICMP:
		return 2, false
	}
	return -1, false
}

func resumTransport(b, old, pb, pold []byte, h *header, csum packet.Csum) {
	at, addresses := field(h.proto)
	if at < 0 || len(b) < at+2 {
		return
	}
	sum := be.Uint16(old[at:])
	switch {
	case h.isError() && !h.fragment():
		resumQuote(b[8:], old[8:])
	case csum == packet.CsumPartial:
		// K-8: the field is the sum of the pseudo-header alone, not complemented. 0 is never the result.
		be.PutUint16(b[at:], ^carry(^sum, [][]byte{pold}, [][]byte{pb}))
		return
	case sum == 0 && (h.proto == packet.UDP || h.proto == packet.UDPLite):
		return // RFC 768: there is none, and none comes of it (U-5); RFC 3828: an error, which stays one
	}
	if !addresses {
		if bytes.Equal(b, old) { // 1:1: nothing that it covers has changed
			return
		}
		pb, pold = nil, nil
	}
	put(b, old, at, 0, len(b), pb, pold)
	if be.Uint16(b[at:]) == 0 && (h.proto == packet.UDP || h.proto == packet.UDPLite) {
		be.PutUint16(b[at:], 0xffff) // RFC 768, RFC 3828 (U-6)
	}
}

// resumQuote is resum for the packet that an ICMP error quotes: what of it is there (I-4, I-5).
func resumQuote(b, old []byte) {
	h, readable, _ := parseQuote(old)
	if !readable {
		return
	}
	if h.off == 0 {
		q, oldQ := b[h.hlen:], old[h.hlen:]
		at, addresses := field(h.proto)
		if at >= 0 && len(q) >= at+2 && (addresses || !bytes.Equal(q, oldQ)) && !(be.Uint16(oldQ[at:]) == 0 && (h.proto == packet.UDP || h.proto == packet.UDPLite)) {
			pb, pold := pseudo(b), pseudo(old)
			if !addresses {
				pb, pold = nil, nil
			}
			put(q, oldQ, at, 0, len(q), pb, pold)
			switch {
			case be.Uint16(q[at:]) == 0 && (h.proto == packet.UDP || h.proto == packet.UDPLite):
				be.PutUint16(q[at:], 0xffff)
			case be.Uint16(q[at:]) == 0xffff && h.proto == packet.ICMP:
				be.PutUint16(q[at:], 0) // how much of it was zeros nobody knows
			}
		}
	}
	resumHeader(b, old, h.hlen)
}

// complete puts in the checksum that a packet with CsumPartial lacks.
func complete(b []byte, o packet.Offload) {
	at := int(o.CsumStart + o.CsumOffset)
	sum := craft.Checksum(b[o.CsumStart:])
	if sum == 0 && b[9] == packet.UDP {
		sum = 0xffff
	}
	be.PutUint16(b[at:], sum)
}

// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"encoding/binary"
	"net/netip"

	"github.com/tidegate/tidegate/packet"
)

// setTTL changes the time to live, and the header checksum by as much (RFC 1624).
func setTTL(b []byte, ttl uint8) {
	d := packet.Delta16(uint16(b[8])<<8, uint16(ttl)<<8)
	b[8] = ttl
	binary.BigEndian.PutUint16(b[10:], d.Apply(binary.BigEndian.Uint16(b[10:])))
}

// icmpError is what a router says about a packet (RFC 792), or nil where it must not: about ICMP errors and about later
// fragments (RFC 1122, section 3.2.2).
func icmpError(from netip.Addr, about []byte, kind, code uint8, mtu uint16) []byte {
	head := int(about[0]&15) * 4
	if about[6]&0x1f != 0 || about[7] != 0 {
		return nil
	}
	if about[9] == packet.ICMP && (len(about) <= head || about[head] != 8 && about[head] != 0) {
		return nil
	}
	quote := about[:min(len(about), 576-28)]
	b := make([]byte, 28+len(quote))
	b[0], b[8], b[9] = 0x45, 64, packet.ICMP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	src := from.As4()
	copy(b[12:], src[:])
	copy(b[16:20], about[12:16])
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20]))
	b[20], b[21] = kind, code
	binary.BigEndian.PutUint16(b[26:], mtu)
	copy(b[28:], quote)
	binary.BigEndian.PutUint16(b[22:], packet.Checksum(b[20:]))
	return b
}

// fragment cuts a packet without options to an MTU (RFC 791, section 3.2).
func fragment(b []byte, mtu int) [][]byte {
	head := int(b[0]&15) * 4
	most := (mtu - head) &^ 7
	field := binary.BigEndian.Uint16(b[6:])
	var pieces [][]byte
	for at := head; at < len(b); at += most {
		n := min(most, len(b)-at)
		piece := append(append([]byte(nil), b[:head]...), b[at:at+n]...)
		f := field + uint16((at-head)/8)
		if at+n < len(b) {
			f |= 0x2000
		}
		binary.BigEndian.PutUint16(piece[2:], uint16(len(piece)))
		binary.BigEndian.PutUint16(piece[6:], f)
		binary.BigEndian.PutUint16(piece[10:], 0)
		binary.BigEndian.PutUint16(piece[10:], packet.Checksum(piece[:head]))
		pieces = append(pieces, piece)
	}
	return pieces
}

// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"bytes"
	"net/netip"

	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// TCP flags.
const (
	fin = packet.FIN
	syn = packet.SYN
	rst = packet.RST
	psh = packet.PSH
	ack = packet.ACK
	urg = packet.URG
)

// Some ends of flows, and one that has neither flow nor port forward.
var (
	a5000, b5000 = at(A, 5000), at(B, 5000)
	s22          = at(S, 22)
	r80, r53     = at(R1, 80), at(R1, 53)
	nobody       = at(PA, 40000)
)

// head is an IP header with DF, so that its identification may stay.
func head(src, dst netip.Addr) craft.IP { return craft.IP{Src: src, Dst: dst, ID: 7, DF: true} }

func udp(src, dst end, payload string) []byte {
	return craft.UDP(head(src.Addr(), dst.Addr()), src.Port(), dst.Port(), []byte(payload))
}

func tcp(src, dst end, flags uint8, seq, ackNo uint32, payload string) []byte {
	s := craft.Segment{Src: src.Port(), Dst: dst.Port(), Flags: flags, Seq: seq, Ack: ackNo, Window: 65535}
	return craft.TCP(head(src.Addr(), dst.Addr()), s, []byte(payload))
}

// ping is an echo request of the identifier that src has for a port; pong is the reply.
func ping(src end, dst netip.Addr) []byte {
	return craft.Query(head(src.Addr(), dst), packet.Echo, 0, src.Port(), 1, []byte("ping"))
}

func pong(src netip.Addr, dst end) []byte {
	return craft.Query(head(src, dst.Addr()), packet.EchoReply, 0, dst.Port(), 1, []byte("ping"))
}

// icmp is an error about quote.
func icmp(src, dst netip.Addr, typ, code uint8, rest uint32, quote []byte) []byte {
	return craft.Error(head(src, dst), typ, code, rest, quote)
}

// large is a datagram of so many bytes, with or without DF.
func large(src, dst end, bytes int, df bool) []byte {
	h := head(src.Addr(), dst.Addr())
	h.DF = df
	payload := make([]byte, bytes-28)
	for i := range payload {
		payload[i] = byte(i * 7 >> 3)
	}
	return craft.UDP(h, src.Port(), dst.Port(), payload)
}

// set is a copy of b with other bytes at a place, and a right header checksum if that place is in the header.
func set(b []byte, at int, to ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], to)
	if at < 20 {
		craft.SetTTL(b, b[8])
	}
	return b
}

// spoil makes the checksum at a place wrong, by as much whatever it is.
func spoil(b []byte, at int) []byte {
	b = bytes.Clone(b)
	sum := uint32(be.Uint16(b[at:])) + 0x0101
	be.PutUint16(b[at:], uint16(sum+sum>>16))
	return b
}

// ttl is a copy of b with another time to live.
func ttl(b []byte, ttl uint8) []byte { return craft.SetTTL(bytes.Clone(b), ttl) }

// cut is the first n bytes of b.
func cut(b []byte, n int) []byte { return b[:n:n] }

// SPDX-License-Identifier: Apache-2.0

// Package craft builds and judges IPv4 packets for tests. It shares no code with the engine: headers are written by
// gopacket, and every checksum is computed in full by the ten lines of Checksum, never adjusted.
package craft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/tidegate/tidegate/packet"
)

var be = binary.BigEndian

// IP is what a test wants to say of an IPv4 header; the rest follows from the packet. A TTL of 0 means 64: use
// SetTTL for a real 0.
type IP struct {
	Src, Dst netip.Addr
	TTL, TOS uint8
	ID       uint16
	DF, MF   bool
	// Offset is the fragment offset in bytes, a multiple of 8.
	Offset int
	// Options are written as they are and padded to a multiple of 4.
	Options []byte
}

// Segment is a TCP header. Flags are those of package packet.
type Segment struct {
	Src, Dst uint16
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	// Options are written as they are and padded to a multiple of 4.
	Options []byte
}

// TCP is a segment.
func TCP(ip IP, s Segment, payload []byte) []byte {
	t := &layers.TCP{
		SrcPort: layers.TCPPort(s.Src), DstPort: layers.TCPPort(s.Dst), DataOffset: 5, Seq: s.Seq, Ack: s.Ack, Window: s.Window,
		FIN: s.Flags&packet.FIN != 0, SYN: s.Flags&packet.SYN != 0, RST: s.Flags&packet.RST != 0,
		PSH: s.Flags&packet.PSH != 0, ACK: s.Flags&packet.ACK != 0, URG: s.Flags&packet.URG != 0,
	}
	b := serialize(t, gopacket.Payload(payload))
	if n := len(s.Options); n > 0 { // by hand: gopacket cannot write options that contradict themselves
		pad := (4 - n%4) % 4
		o := append(append([]byte(nil), s.Options...), make([]byte, pad)...)
		b = append(append(b[:20:20], o...), payload...)
		b[12] = byte(5+len(o)/4) << 4
	}
	return IPv4(ip, packet.TCP, b)
}

// UDP is a datagram.
func UDP(ip IP, src, dst uint16, payload []byte) []byte {
	u := &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
	return IPv4(ip, packet.UDP, serialize(u, gopacket.Payload(payload)))
}

// Query is an ICMP echo or timestamp message.
func Query(ip IP, typ, code uint8, id, seq uint16, payload []byte) []byte {
	i := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: id, Seq: seq}
	return IPv4(ip, packet.ICMP, serialize(i, gopacket.Payload(payload)))
}

// Error is an ICMP error that quotes quote, all of it; rest is its second word.
func Error(ip IP, typ, code uint8, rest uint32, quote []byte) []byte {
	return Query(ip, typ, code, uint16(rest>>16), uint16(rest), quote)
}

// IPv4 puts a header in front of body and fills in whatever checksum proto has (see Fix).
func IPv4(ip IP, proto uint8, body []byte) []byte {
	h := &layers.IPv4{
		Version: 4, IHL: 5, TOS: ip.TOS, Id: ip.ID, TTL: ip.TTL, Protocol: layers.IPProtocol(proto),
		FragOffset: uint16(ip.Offset / 8), SrcIP: ip.Src.AsSlice(), DstIP: ip.Dst.AsSlice(),
	}
	if h.TTL == 0 {
		h.TTL = 64
	}
	if ip.DF {
		h.Flags |= layers.IPv4DontFragment
	}
	if ip.MF {
		h.Flags |= layers.IPv4MoreFragments
	}
	b := serialize(h, gopacket.Payload(nil))
	o := append([]byte(nil), ip.Options...)
	o = append(o, make([]byte, (4-len(o)%4)%4)...)
	b = append(append(b[:20:20], o...), body...)
	b[0] = 0x40 | byte(5+len(o)/4)
	Fix(b)
	return b
}

func serialize(ls ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, ls...); err != nil {
		panic(err) // a test asked for a header that cannot be written
	}
	return append([]byte(nil), buf.Bytes()...)
}

// SetTTL changes the time to live and the header checksum of b.
func SetTTL(b []byte, ttl uint8) []byte {
	b[8] = ttl
	fixHeader(b)
	return b
}

// Cut is the datagram b in pieces of at the given payload offsets, which are multiples of 8 in rising order.
func Cut(b []byte, at ...int) [][]byte {
	hlen := int(b[0]&15) * 4
	body := b[hlen:]
	at = append(append([]int{0}, at...), len(body))
	var pieces [][]byte
	for i := range at[:len(at)-1] {
		p := append(append([]byte(nil), b[:hlen]...), body[at[i]:at[i+1]]...)
		f := be.Uint16(p[6:])&0x4000 | uint16(at[i]/8)
		if i+2 < len(at) {
			f |= 0x2000
		}
		be.PutUint16(p[6:], f)
		be.PutUint16(p[2:], uint16(len(p)))
		fixHeader(p)
		pieces = append(pieces, p)
	}
	return pieces
}

// Partial is b as a device with checksum offload hands it over: the TCP or UDP checksum left to be completed.
func Partial(b []byte) packet.Packet {
	p := packet.From(b)
	b = p.Bytes()
	hlen := int(b[0]&15) * 4
	field := 16
	if b[9] == packet.UDP {
		field = 6
	}
	be.PutUint16(b[hlen+field:], ^Checksum(pseudo(b, len(b)-hlen)))
	p.Offload = packet.Offload{Csum: packet.CsumPartial, CsumStart: uint16(hlen), CsumOffset: uint16(field)}
	return p
}

// Super is the TCP or UDP packet b as one to be cut into segments of size bytes of payload.
func Super(b []byte, size int) packet.Packet {
	p := Partial(b)
	o := &p.Offload
	hlen := int(b[0]&15) * 4
	o.GSOSize = uint16(size)
	if b[9] == packet.TCP {
		o.GSO, o.HdrLen = packet.GSOTCPv4, uint16(hlen+int(b[hlen+12]>>4)*4)
	} else {
		o.GSO, o.HdrLen = packet.GSOUDP, uint16(hlen+8)
	}
	return p
}

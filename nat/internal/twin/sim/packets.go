// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"net/netip"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var be = binary.BigEndian

// arrival is a packet about to arrive.
type arrival struct {
	from nat.AttachmentID
	p    packet.Packet
}

func plain(from nat.AttachmentID, b []byte) arrival { return arrival{from, packet.From(b)} }

// ends is who talks to whom.
type ends struct {
	proto    uint8
	src, dst netip.AddrPort
}

// endsOf reads the ends of a whole packet; ok is false for one without ports.
func endsOf(b []byte) (e ends, ok bool) {
	if len(b) < 28 || be.Uint16(b[6:])&0x3fff != 0 {
		return e, false
	}
	hlen := int(b[0]&15) * 4
	if hlen < 20 || len(b) < hlen+8 {
		return e, false
	}
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	e.proto = b[9]
	switch e.proto {
	case packet.TCP, packet.UDP:
		e.src, e.dst = netip.AddrPortFrom(src, be.Uint16(b[hlen:])), netip.AddrPortFrom(dst, be.Uint16(b[hlen+2:]))
		return e, e.proto == packet.UDP || len(b) >= hlen+20
	case packet.ICMP:
		id := be.Uint16(b[hlen+4:])
		e.src, e.dst = netip.AddrPortFrom(src, id), netip.AddrPortFrom(dst, id)
		return e, b[hlen] == packet.Echo || b[hlen] == packet.EchoReply || b[hlen] == packet.Timestamp || b[hlen] == packet.TimestampReply
	}
	return e, false
}

// header is a likely IP header between two ends.
func header(d *dice, e ends) craft.IP {
	h := craft.IP{Src: e.src.Addr(), Dst: e.dst.Addr(), ID: uint16(d.n(200)), DF: d.one(2), TOS: pick[uint8](d, 0, 0, 0xb8, 3)}
	h.TTL = pick[uint8](d, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 2, 1, 255)
	if d.one(20) {
		h.Options = pick(d, []byte{148, 4, 0, 0}, []byte{1, 1, 1, 0}, []byte{7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0}, []byte{131, 3, 4}, []byte{7, 60})
	}
	return h
}

func payload(d *dice) []byte {
	b := make([]byte, pick(d, 0, 2, 5, 33, 120, 580, 1200))
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// first is a packet of a flow that may be new.
func first(d *dice, e ends) []byte {
	h := header(d, e)
	switch e.proto {
	case packet.TCP:
		s := craft.Segment{Src: e.src.Port(), Dst: e.dst.Port(), Seq: uint32(d.n(3)) * 1 << 31, Window: pick[uint16](d, 64240, 1000, 0)}
		s.Flags = pick[uint8](d, packet.SYN, packet.SYN, packet.SYN, packet.SYN, packet.SYN|packet.PSH, packet.ACK, packet.ACK|packet.FIN,
			packet.RST, packet.SYN|packet.ACK, packet.SYN|packet.FIN, 0, packet.FIN|packet.PSH|packet.URG, packet.PSH, packet.RST|packet.SYN)
		var data []byte
		if s.Flags&packet.SYN != 0 {
			s.Options = synOptions(d)
		}
		if d.one(6) {
			data = payload(d)
		}
		return craft.TCP(h, s, data)
	case packet.UDP:
		b := craft.UDP(h, e.src.Port(), e.dst.Port(), payload(d))
		if d.one(6) {
			hlen := int(b[0]&15) * 4
			be.PutUint16(b[hlen+6:], 0) // no checksum
		}
		return b
	default:
		typ := pick[uint8](d, packet.Echo, packet.Echo, packet.Echo, packet.Timestamp, packet.EchoReply, packet.Redirect)
		return craft.Query(h, typ, 0, e.src.Port(), uint16(d.n(2)), payload(d))
	}
}

func synOptions(d *dice) []byte {
	return pick(d, []byte{2, 4, 5, 0xb4, 1, 3, 3, 7}, []byte{2, 4, 5, 0xb4}, nil, []byte{1, 2, 4, 5, 0xb4, 3, 3, 2}, []byte{2, 4, 0, 100}, []byte{1, 3, 3, 14, 2, 4, 0xff, 0xff}, []byte{2, 9, 1, 1})
}

// jitter moves a sequence number, seldom.
func jitter(d *dice) uint32 {
	if !d.one(5) {
		return 0
	}
	return pick[uint32](d, 1, ^uint32(0), 500, 65535, 70000, 1<<32-70000, 1<<30, 1<<31)
}

// answer is what the receiver of b may send back.
func answer(d *dice, b []byte) ([]byte, bool) {
	e, ok := endsOf(b)
	if !ok {
		return nil, false
	}
	hlen := int(b[0]&15) * 4
	e.src, e.dst = e.dst, e.src
	h := header(d, e)
	switch e.proto {
	case packet.UDP:
		return craft.UDP(h, e.src.Port(), e.dst.Port(), payload(d)), true
	case packet.ICMP:
		typ := map[uint8]uint8{packet.Echo: packet.EchoReply, packet.Timestamp: packet.TimestampReply}[b[hlen]]
		if d.one(8) {
			typ = b[hlen]
		}
		var data []byte // RFC 792: what came goes back
		if !d.one(4) {
			data = b[hlen+8:]
		}
		return craft.Query(h, typ, 0, e.src.Port(), be.Uint16(b[hlen+6:]), data), true
	}
	t := b[hlen:]
	flags := t[13]
	off := min(int(t[12]>>4)*4, len(t))
	n := uint32(len(t)-off) + uint32(flags>>1&1) + uint32(flags&1)
	s := craft.Segment{Src: e.src.Port(), Dst: e.dst.Port(), Window: pick[uint16](d, 64240, 500, 0), Flags: packet.ACK}
	s.Ack = be.Uint32(t[4:]) + n
	if flags&packet.ACK != 0 {
		s.Seq = be.Uint32(t[8:])
	} else {
		s.Seq = uint32(d.n(256)) << 24
	}
	switch {
	case flags&packet.SYN != 0 && flags&packet.ACK == 0:
		s.Flags = pick[uint8](d, packet.SYN|packet.ACK, packet.SYN|packet.ACK, packet.SYN|packet.ACK, packet.SYN|packet.ACK, packet.SYN, packet.RST|packet.ACK, packet.ACK)
	case flags&packet.SYN != 0:
		s.Flags = pick[uint8](d, packet.ACK, packet.ACK, packet.ACK, packet.RST, packet.ACK|packet.FIN)
	default:
		s.Flags = pick[uint8](d, packet.ACK, packet.ACK, packet.ACK, packet.ACK|packet.PSH, packet.ACK|packet.FIN, packet.ACK|packet.FIN, packet.RST, packet.RST|packet.ACK, packet.SYN, packet.SYN|packet.ACK)
	}
	var data []byte
	if s.Flags&packet.SYN != 0 {
		s.Options = synOptions(d)
	} else if d.one(3) {
		data = payload(d)
	}
	if s.Flags == packet.SYN {
		s.Ack = 0
	}
	s.Seq += jitter(d)
	s.Ack += jitter(d)
	return craft.TCP(h, s, data), true
}

// next is what the sender of b may send after it.
func next(d *dice, b []byte) ([]byte, bool) {
	e, ok := endsOf(b)
	if !ok {
		return nil, false
	}
	if e.proto != packet.TCP {
		return first(d, e), true
	}
	hlen := int(b[0]&15) * 4
	t := b[hlen:]
	off := min(int(t[12]>>4)*4, len(t))
	s := craft.Segment{Src: e.src.Port(), Dst: e.dst.Port(), Window: be.Uint16(t[14:])}
	s.Seq, s.Ack = be.Uint32(t[4:]), be.Uint32(t[8:])
	if d.one(3) { // once more
		s.Flags = t[13] & 0x3f
	} else {
		s.Seq += uint32(len(t)-off) + uint32(t[13]>>1&1) + uint32(t[13]&1)
		s.Flags = pick[uint8](d, packet.ACK, packet.ACK|packet.PSH, packet.ACK|packet.FIN, packet.RST, packet.SYN, packet.RST|packet.ACK)
	}
	s.Seq += jitter(d)
	var data []byte
	if s.Flags&packet.SYN != 0 {
		s.Options = synOptions(d)
	} else if d.one(2) {
		data = payload(d)
	}
	return craft.TCP(header(d, e), s, data), true
}

// complain is an ICMP error about b, from its receiver or a router on the way.
func complain(d *dice, b []byte, routers []netip.Addr) []byte {
	q := append([]byte(nil), b...)
	hlen := int(q[0]&15) * 4
	if q[8] > 1 && d.one(2) {
		craft.SetTTL(q, 1)
	}
	if d.one(8) {
		q[pick(d, 1, 2, 10, 12, 16, hlen, hlen+1)%len(q)] ^= 1 << d.n(8)
	}
	n := min(len(q), pick(d, hlen+8, hlen+8, 548, 548, 1500, hlen+18, hlen+17, hlen+20, hlen+4, hlen+5, hlen+3, 20, 12))
	src, _ := netip.AddrFromSlice(b[16:20])
	to, _ := netip.AddrFromSlice(b[12:16])
	if d.one(2) {
		src = routers[d.n(len(routers))]
	}
	h := header(d, ends{1, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(to, 0)})
	typ := pick[uint8](d, 3, 3, 3, 11, 12, 4, 5)
	rest := pick[uint32](d, 0, 1400, 32<<16)
	e := craft.Error(h, typ, uint8(d.n(14)), rest, q[:n])
	if d.one(12) {
		e[len(e)-1] ^= 4
	}
	return e
}

// spoil makes a packet that nobody should send of b; its sums may be right all the same.
func spoil(d *dice, b []byte) []byte {
	b = append([]byte(nil), b...)
	at := pick(d, 0, 1, 2, 3, 6, 7, 8, 9, 10, 12, 16, 19, 20, 23, 24, 25, 32, 33, d.n(60))
	if at < len(b) {
		b[at] = pick(d, 0, 0xff, b[at]^byte(1<<d.n(8)), 127, 224, 0x45, byte(d.n(256)))
	}
	switch d.n(4) {
	case 0:
		b = b[:min(len(b), d.n(48))]
	case 1:
		b = append(b, 1, 2, 3)
	}
	if !d.one(4) && len(b) >= 20 && b[0]&15 >= 5 && int(b[0]&15)*4 <= len(b) {
		total, short := be.Uint16(b[2:]), d.one(2)
		craft.Fix(b)
		if short {
			be.PutUint16(b[2:], total)
			craft.SetTTL(b, b[8])
		}
	}
	return b
}

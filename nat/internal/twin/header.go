// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"encoding/binary"
	"net/netip"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var be = binary.BigEndian

// header is what the twin reads of a packet: IP, and for a whole datagram or a first fragment the transport.
type header struct {
	src, dst netip.AddrPort // port 0 where there are none; an ICMP identifier stands in both
	proto    uint8
	ttl, tos uint8
	hlen     int
	total    int
	id       uint16
	off      int
	mf, df   bool
	flags    uint8 // TCP
	typ      uint8 // ICMP
	code     uint8
}

func (h *header) fragment() bool { return h.mf || h.off > 0 }

// query and isError are the ICMP messages that NAPT knows (RFC 5508, section 3); isReply those that answer.
func (h *header) query() bool {
	switch h.typ {
	case packet.Echo, packet.EchoReply, packet.Timestamp, packet.TimestampReply:
		return h.proto == packet.ICMP
	}
	return false
}

func (h *header) isReply() bool {
	return h.proto == packet.ICMP && (h.typ == packet.EchoReply || h.typ == packet.TimestampReply)
}

func (h *header) isError() bool {
	switch h.typ {
	case packet.Unreachable, packet.TimeExceeded, packet.ParameterProblem:
		return h.proto == packet.ICMP
	}
	return false
}

// flow: it has endpoints that a session could be found by.
func (h *header) flow() bool {
	return h.proto == packet.TCP || h.proto == packet.UDP || h.query()
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b[:4])
	return a
}

// parse reads a packet that has just arrived, and says what is wrong with it (K-5, K-6, U-7, F-8); Unset is nothing.
func parse(b []byte) (h header, fault nat.Verdict) {
	if len(b) < 20 {
		return h, nat.DropMalformed
	}
	if b[0]>>4 != 4 {
		return h, nat.DropNotIPv4
	}
	h.readIP(b)
	switch {
	case h.hlen < 20:
		return h, nat.DropHeaderLength
	case h.total < h.hlen:
		return h, nat.DropTotalLength
	case h.total > len(b):
		return h, nat.DropTruncated
	}
	if sum := craft.Checksum(b[:h.hlen]); sum != 0 {
		return h, nat.DropHeaderChecksum
	}
	if fault := badOptions(b[20:h.hlen]); fault != nat.Unset {
		return h, fault
	}
	body := b[h.hlen:h.total]
	if !h.fragment() {
		return h, h.readTransport(body)
	}
	if len(body) == 0 || h.mf && len(body)%8 != 0 || h.hlen+h.off+len(body) > 65535 {
		return h, nat.DropMalformed
	}
	// RFC 1858, section 3.2, and RFC 3128: no TCP flags may hide in a second fragment.
	if h.off > 0 {
		if h.proto == packet.TCP && h.off == 8 {
			return h, nat.DropTinyFragment
		}
		return h, nat.Unset
	}
	if len(body) < map[uint8]int{packet.TCP: 20, packet.UDP: 8, packet.ICMP: 8, packet.DCCP: 8, packet.UDPLite: 8}[h.proto] {
		return h, nat.DropTinyFragment
	}
	h.readPorts(body)
	return h, nat.Unset
}

func (h *header) readIP(b []byte) {
	h.hlen, h.tos, h.total = int(b[0]&15)*4, b[1], int(be.Uint16(b[2:]))
	f := be.Uint16(b[6:])
	h.id, h.df, h.mf, h.off = be.Uint16(b[4:]), f&0x4000 != 0, f&0x2000 != 0, int(f&0x1fff)*8
	h.ttl, h.proto = b[8], b[9]
	h.src, h.dst = netip.AddrPortFrom(addr(b[12:]), 0), netip.AddrPortFrom(addr(b[16:]), 0)
}

// readTransport reads and checks the transport header of a whole datagram.
func (h *header) readTransport(body []byte) nat.Verdict {
	switch h.proto {
	case packet.TCP:
		if len(body) < 20 {
			return nat.DropMalformed
		}
		if off := int(body[12]>>4) * 4; off < 20 || off > len(body) {
			return nat.DropMalformed
		}
	case packet.UDP:
		if len(body) < 8 {
			return nat.DropMalformed
		}
		if n := int(be.Uint16(body[4:])); n < 8 || n > len(body) { // RFC 1122, section 4.1: shorter is legal (U-7)
			return nat.DropMalformed
		}
	case packet.ICMP:
		if len(body) < 8 {
			return nat.DropMalformed
		}
	}
	h.readPorts(body)
	return nat.Unset
}

// readPorts reads what finds a session. The caller has checked that it is there.
func (h *header) readPorts(body []byte) {
	switch h.proto {
	case packet.TCP, packet.UDP:
		h.src = netip.AddrPortFrom(h.src.Addr(), be.Uint16(body))
		h.dst = netip.AddrPortFrom(h.dst.Addr(), be.Uint16(body[2:]))
		if h.proto == packet.TCP && len(body) > 13 {
			h.flags = body[13] & 0x3f
		}
	case packet.ICMP:
		h.typ, h.code = body[0], body[1]
		if h.query() {
			h.src = netip.AddrPortFrom(h.src.Addr(), be.Uint16(body[4:]))
			h.dst = netip.AddrPortFrom(h.dst.Addr(), be.Uint16(body[4:]))
		}
	}
}

// badOptions: source routes are refused (RFC 7126, K-5), options that run out of the header are malformed.
func badOptions(o []byte) nat.Verdict {
	for len(o) > 0 && o[0] != 0 {
		switch {
		case o[0] == 1:
			o = o[1:]
			continue
		case o[0] == 131 || o[0] == 137:
			return nat.DropSourceRoute
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return nat.DropMalformed
		}
		o = o[o[1]:]
	}
	return nat.Unset
}

// parseQuote reads the packet that an ICMP error quotes, which may end early (I-5, I-7): readable says whether it can
// be translated at all, sound whether its header's checksum verifies.
func parseQuote(b []byte) (h header, readable, sound bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return h, false, false
	}
	h.readIP(b)
	if h.hlen < 20 || h.hlen > len(b) || h.total < h.hlen {
		return h, false, false
	}
	sound = craft.Checksum(b[:h.hlen]) == 0
	if h.off > 0 {
		return h, true, sound
	}
	body := b[h.hlen:]
	need := map[uint8]int{packet.TCP: 4, packet.UDP: 4, packet.ICMP: 6}[h.proto]
	if len(body) < need {
		return h, false, sound
	}
	h.readPorts(body)
	return h, true, sound
}

// segment is what TCP tracking reads.
type segment struct {
	seq, ack uint32
	len      uint32 // sequence space: payload, SYN and FIN
	window   uint32
	flags    uint8
	scale    int // of a SYN; -1: no option
}

// readSegment reads the TCP segment in body, a whole one.
func readSegment(body []byte) segment {
	s := segment{
		seq: be.Uint32(body[4:]), ack: be.Uint32(body[8:]), window: uint32(be.Uint16(body[14:])),
		flags: body[13] & 0x3f, scale: -1,
	}
	off := min(int(body[12]>>4)*4, len(body))
	s.len = uint32(len(body) - off)
	if s.has(packet.SYN) {
		s.len++
		if o := tcpOption(body[20:off], 3); len(o) == 3 {
			s.scale = min(int(o[2]), 14) // RFC 7323, section 2.3
		}
	}
	if s.has(packet.FIN) {
		s.len++
	}
	return s
}

func (s *segment) has(flag uint8) bool { return s.flags&flag != 0 }

// tcpOption finds an option by kind; the result aliases o.
func tcpOption(o []byte, kind byte) []byte {
	for len(o) > 0 && o[0] != 0 {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return nil
		}
		if o[0] == kind {
			return o[:o[1]]
		}
		o = o[o[1]:]
	}
	return nil
}

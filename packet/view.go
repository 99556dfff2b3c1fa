// SPDX-License-Identifier: Apache-2.0

package packet

import "math/bits"

// Protocol numbers (IANA) that have their own handling.
const (
	ICMP    = 1
	TCP     = 6
	UDP     = 17
	DCCP    = 33
	ICMPv6  = 58
	UDPLite = 136
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Fault is why a packet cannot be parsed. OK is none.
type Fault uint8

const (
	OK Fault = iota
	// ShortPacket has less than a header.
	ShortPacket
	// NotIPv4 has another version number.
	NotIPv4
	// BadIHL is a header length below 20 bytes; in a quote also one beyond what is quoted.
	BadIHL
	// BadTotal is a total length below that of the header, BadLength one that the buffer does not hold.
	BadTotal
	BadLength
	// BadHeaderChecksum is an IP header checksum that does not verify (RFC 1812, section 5.2.2).
	BadHeaderChecksum
	// SourceRoute is a loose or strict source route option (RFC 7126), BadOption an option that runs out of the header.
	SourceRoute
	BadOption
	// BadTransport is a transport header that contradicts itself or the packet: TCP data offset, UDP length, too short.
	BadTransport
	// TinyFragment is a first fragment without its whole transport header, or a TCP fragment at offset 8 (RFC 1858,
	// section 3.2; RFC 3128).
	TinyFragment
	// BadFragment is a fragment that runs past 65,535 bytes, or a piece that is not the last and no multiple of 8 long.
	BadFragment
)

// Kind is what part of the engine a packet is for.
type Kind uint8

const (
	// KindFlow has ports, or an identifier that stands for them: TCP, UDP, ICMP query.
	KindFlow Kind = iota
	// KindError is an ICMP error that quotes a packet.
	KindError
	// KindFragment is a piece of a datagram, its first one too.
	KindFragment
	// KindOther is another protocol, or an ICMP message that is neither query nor translatable error.
	KindOther
)

// View is the parsed headers of one packet: every length and field is checked once, here, and nobody else looks at
// them again. It holds no reference to the packet's bytes, so it stays valid while addresses and ports are rewritten;
// what it says then is what stood there before.
type View struct {
	// Src and Dst are the addresses.
	Src, Dst uint32
	// SrcPort and DstPort are the ports of TCP and UDP; for an ICMP query both are the identifier. Valid for KindFlow.
	SrcPort, DstPort uint16
	// Total is the length of the packet by its own account; a longer buffer is trimmed to it.
	Total uint16
	// ID is the IP identification, FragOff the fragment offset in bytes, MF and DF the flags.
	ID      uint16
	FragOff uint16
	// L4 is where the transport header starts.
	L4 uint8
	// Proto is the protocol number.
	Proto uint8
	// Kind says which of the other fields are valid.
	Kind Kind
	// TTL is the time to live, TOS the traffic class byte.
	TTL, TOS uint8
	// MF is "more fragments", DF "don't fragment".
	MF, DF bool
	// Flags is the TCP flags byte (CWR and ECE masked out), Type the ICMP type, Code its code.
	Flags, Type, Code uint8
}

// ICMP types (IANA).
const (
	EchoReply        = 0
	Unreachable      = 3
	SourceQuench     = 4
	Redirect         = 5
	Echo             = 8
	TimeExceeded     = 11
	ParameterProblem = 12
	Timestamp        = 13
	TimestampReply   = 14
)

// Parse fills v from the IPv4 packet in b. On a Fault v holds what had been read until then.
// The header checksum is verified, the transport checksum is not: an error in it travels on unchanged.
func (v *View) Parse(b []byte) Fault {
	if len(b) < 20 {
		return ShortPacket
	}
	// Three loads for all of it: the hot path starts here.
	_ = b[19]
	x, y, dst := be.Uint64(b), be.Uint64(b[8:]), be.Uint32(b[16:])
	w, f := uint32(x>>32), uint32(x)
	if w>>28 != 4 {
		return NotIPv4
	}
	ihl := int(w>>24&15) * 4
	total := int(w & 0xffff)
	v.TOS = uint8(w >> 16)
	v.Total = uint16(total)
	v.L4 = uint8(ihl)
	v.ID = uint16(f >> 16)
	v.DF = f&0x4000 != 0
	proto := uint8(y >> 48)
	v.TTL, v.Proto = uint8(y>>56), proto
	v.Src, v.Dst = uint32(y), dst
	if ihl < 20 || total < ihl {
		if ihl < 20 {
			return BadIHL
		}
		return BadTotal
	}
	if total > len(b) {
		return BadLength
	}
	if ihl == 20 {
		// The sum of ten words, four at a time with end-around carry, is to be a multiple of 0xffff, as 1<<64 - 1 is.
		s, c := bits.Add64(x, y, 0)
		s, c = bits.Add64(s, uint64(dst), c)
		if (s+c)%0xffff != 0 {
			return BadHeaderChecksum
		}
	} else if fault := options(b[:ihl]); fault != OK {
		return fault
	}
	if f&0x3fff != 0 {
		return v.parseFragment(b[:total], f)
	}
	v.FragOff, v.MF = 0, false
	b = b[ihl:total]
	switch proto {
	case TCP:
		if len(b) < 20 {
			return BadTransport
		}
		if off := int(b[12]>>4) * 4; off < 20 || off > len(b) {
			return BadTransport
		}
		v.Kind = KindFlow
		v.SrcPort, v.DstPort = be.Uint16(b), be.Uint16(b[2:])
		v.Flags = b[13] & 0x3f
	case UDP:
		if len(b) < 8 {
			return BadTransport
		}
		// RFC 1122, section 4.1: shorter than the IP payload is legal, the rest is not covered by the checksum.
		if n := int(be.Uint16(b[4:])); n < 8 || n > len(b) {
			return BadTransport
		}
		v.Kind = KindFlow
		v.SrcPort, v.DstPort = be.Uint16(b), be.Uint16(b[2:])
	case ICMP:
		if len(b) < 8 {
			return BadTransport
		}
		v.Type, v.Code = b[0], b[1]
		v.icmpKind(b)
	default:
		v.Kind = KindOther
	}
	return OK
}

func (v *View) icmpKind(b []byte) {
	switch v.Type {
	case Echo, EchoReply, Timestamp, TimestampReply:
		v.Kind = KindFlow
		v.SrcPort = be.Uint16(b[4:])
		v.DstPort = v.SrcPort
	case Unreachable, TimeExceeded, ParameterProblem:
		v.Kind = KindError
	default: // source quench (RFC 6633), redirect and the rest are not translated
		v.Kind = KindOther
	}
}

// parseFragment reads a piece of a datagram; f is the word with identification, flags and offset.
func (v *View) parseFragment(b []byte, f uint32) Fault {
	v.Kind = KindFragment
	v.FragOff, v.MF = uint16(f&0x1fff)*8, f&0x2000 != 0
	n := len(b) - int(v.L4)
	if n == 0 || v.MF && n%8 != 0 || int(v.L4)+int(v.FragOff)+n > 65535 {
		return BadFragment
	}
	if v.FragOff != 0 {
		if v.Proto == TCP && v.FragOff == 8 {
			return TinyFragment
		}
		return OK
	}
	need := 0
	switch v.Proto {
	case TCP:
		// RFC 1858, section 3.2.1: the flags must be in the first fragment; all of the fixed header is asked for.
		need = 20
	case UDP, ICMP, DCCP, UDPLite:
		need = 8
	}
	if n < need {
		return TinyFragment
	}
	switch v.Proto {
	case TCP, UDP:
		v.SrcPort, v.DstPort = be.Uint16(b[v.L4:]), be.Uint16(b[v.L4+2:])
		if v.Proto == TCP {
			v.Flags = b[v.L4+13] & 0x3f
		}
	case ICMP:
		v.Type, v.Code = b[v.L4], b[v.L4+1]
		v.SrcPort = be.Uint16(b[v.L4+4:])
		v.DstPort = v.SrcPort
	}
	return OK
}

// options verifies a header that has some, its checksum first.
func options(h []byte) Fault {
	if Fold(Sum(h, 0)) != 0xffff {
		return BadHeaderChecksum
	}
	for o := h[20:]; len(o) > 0; {
		switch o[0] {
		case 0: // end of list
			return OK
		case 1: // no operation
			o = o[1:]
			continue
		case 131, 137: // loose, strict source route
			return SourceRoute
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return BadOption
		}
		o = o[o[1]:]
	}
	return OK
}

// ParseQuote fills v from the packet that an ICMP error quotes, which ends where the router stopped copying: Total may
// be more than b has, and checksums are not verified (RFC 5508, REQ-3c). The ports are valid only with Kind KindFlow;
// headerOK says whether the quoted header's own checksum verifies (REQ-3a leaves it to the caller what follows).
func (v *View) ParseQuote(b []byte) (headerOK bool, fault Fault) {
	if len(b) < 20 {
		return false, ShortPacket
	}
	if b[0]>>4 != 4 {
		return false, NotIPv4
	}
	ihl := int(b[0]&15) * 4
	if ihl < 20 || ihl > len(b) { // RFC 5508, REQ-3b: options are skipped by the quoted header's own length
		return false, BadIHL
	}
	f := be.Uint32(b[4:])
	v.TOS, v.Total, v.L4 = b[1], be.Uint16(b[2:]), uint8(ihl)
	v.ID, v.DF, v.MF, v.FragOff = uint16(f>>16), f&0x4000 != 0, f&0x2000 != 0, uint16(f&0x1fff)*8
	v.TTL, v.Proto = b[8], b[9]
	v.Src, v.Dst = be.Uint32(b[12:]), be.Uint32(b[16:])
	headerOK = Fold(Sum(b[:ihl], 0)) == 0xffff
	if int(v.Total) < ihl {
		return headerOK, BadTotal
	}
	if v.FragOff != 0 { // no ports to find it by
		v.Kind = KindFragment
		return headerOK, OK
	}
	q := b[ihl:]
	switch v.Proto {
	case TCP, UDP:
		if len(q) < 4 {
			return headerOK, BadTransport
		}
		v.Kind = KindFlow
		v.SrcPort, v.DstPort = be.Uint16(q), be.Uint16(q[2:])
	case ICMP:
		if len(q) < 6 {
			return headerOK, BadTransport
		}
		v.Type, v.Code = q[0], q[1]
		v.icmpKind(q)
	default:
		v.Kind = KindOther
	}
	return headerOK, OK
}

// Whole makes the view of a first fragment that of its datagram, whose pieces are all at hand and have length bytes of
// transport header and payload in all; b is the first piece.
func (v *View) Whole(b []byte, length int) Fault {
	l4 := b[v.L4:]
	switch v.Proto {
	case TCP:
		if off := int(l4[12]>>4) * 4; off < 20 || off > length {
			return BadTransport
		}
		v.Kind = KindFlow
	case UDP:
		if n := int(be.Uint16(l4[4:])); n < 8 || n > length {
			return BadTransport
		}
		v.Kind = KindFlow
	case ICMP:
		v.icmpKind(l4)
	default:
		v.Kind = KindOther
	}
	return OK
}

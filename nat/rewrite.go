// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"encoding/binary"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

var be = binary.BigEndian

// ttlStep is the Delta of a TTL that goes down by one: the word TTL<<8|protocol changes by 0x0100.
const ttlStep packet.Delta = 0xfeff

// change is what a translation does to each packet of a flow, in one direction.
type change struct {
	dir      Direction
	addr     uint32
	port     uint16 // or ICMP identifier
	hasPort  bool
	addrD    packet.Delta
	portD    packet.Delta
	ttl      bool // take one step
	newID    bool
	id       uint16
	mssClamp uint16
}

// outward and inward are the changes that a session stands for.
func outward(r *conntrack.Record) change {
	return change{
		dir: Out, addr: r.Ext, port: r.ExtPort, hasPort: true,
		addrD: packet.Delta(r.Delta), portD: packet.Delta16(r.InPort, r.ExtPort),
	}
}

func inward(r *conntrack.Record) change {
	return change{
		dir: In, addr: r.In, port: r.InPort, hasPort: true,
		addrD: packet.Delta(r.Delta).Reverse(), portD: packet.Delta16(r.ExtPort, r.InPort),
	}
}

// rewrite applies c to a packet whose headers are v.
func (c *change) rewrite(p *packet.Packet, v *packet.View) {
	b := p.Bytes()
	at := 12
	if c.dir == In {
		at = 16
	}
	be.PutUint32(b[at:], c.addr)
	d := c.addrD
	if c.ttl {
		b[8]--
		d = d.Plus(ttlStep)
	}
	if c.newID {
		d = d.Plus(packet.Delta16(be.Uint16(b[4:]), c.id))
		be.PutUint16(b[4:], c.id)
	}
	be.PutUint16(b[10:], d.Apply(be.Uint16(b[10:])))
	if v.FragOff != 0 { // no transport header in here
		return
	}
	l4 := b[v.L4:]
	partial := p.Offload.Csum == packet.CsumPartial
	switch v.Proto {
	case packet.TCP:
		if len(l4) < 18 { // never: Parse saw a whole header. It is for the compiler, here and below
			return
		}
		c.rewritePort(l4)
		switch sum := be.Uint16(l4[16:]); {
		case partial:
			be.PutUint16(l4[16:], c.addrD.ApplyPartial(sum))
		default:
			be.PutUint16(l4[16:], c.both().Apply(sum))
		}
		if c.mssClamp != 0 && v.Flags&packet.SYN != 0 {
			clampMSS(l4, c.mssClamp, partial)
		}
	case packet.UDP:
		if len(l4) < 8 {
			return
		}
		c.rewritePort(l4)
		switch sum := be.Uint16(l4[6:]); {
		case partial:
			be.PutUint16(l4[6:], c.addrD.ApplyPartial(sum))
		default:
			be.PutUint16(l4[6:], c.both().ApplyUDP(sum))
		}
	case packet.ICMP: // no pseudo-header
		if len(l4) < 8 || !c.hasPort {
			return
		}
		rewriteQuery(l4, c.port, c.portD)
	case packet.DCCP:
		if len(l4) < 8 {
			return
		}
		be.PutUint16(l4[6:], c.addrD.Apply(be.Uint16(l4[6:])))
	case packet.UDPLite: // RFC 3828: the checksum may not be 0
		if len(l4) < 8 {
			return
		}
		be.PutUint16(l4[6:], c.addrD.ApplyUDP(be.Uint16(l4[6:])))
	}
}

// rewriteQuery puts another identifier into the ICMP query l4.
func rewriteQuery(l4 []byte, id uint16, d packet.Delta) {
	be.PutUint16(l4[4:], id)
	sum := d.Apply(be.Uint16(l4[2:]))
	if sum == 0 && id == 0 {
		be.PutUint16(l4[2:], 0)
		sum = packet.Checksum(l4) // an empty reply to identifier 0: nothing but zeros add up to all ones
	}
	be.PutUint16(l4[2:], sum)
}

func (c *change) rewritePort(l4 []byte) {
	if !c.hasPort {
		return
	}
	if c.dir == Out {
		be.PutUint16(l4, c.port)
	} else {
		be.PutUint16(l4[2:], c.port)
	}
}

// both is what the change does to a sum over pseudo-header and ports.
func (c *change) both() packet.Delta {
	if !c.hasPort {
		return c.addrD
	}
	return c.addrD.Plus(c.portD)
}

// stepTTL takes one step off the TTL of a packet that is not translated.
func stepTTL(p *packet.Packet) {
	b := p.Bytes()
	b[8]--
	be.PutUint16(b[10:], ttlStep.Apply(be.Uint16(b[10:])))
}

// clampMSS lowers the MSS option of a SYN to at most limit; it never raises and never inserts one (T-16).
func clampMSS(tcp []byte, limit uint16, partial bool) {
	end := min(int(tcp[12]>>4)*4, len(tcp))
	for i := 20; i < end; {
		switch kind := tcp[i]; {
		case kind == 0:
			return
		case kind == 1:
			i++
			continue
		case i+1 >= end || tcp[i+1] < 2 || i+int(tcp[i+1]) > end:
			return
		case kind == 2 && tcp[i+1] == 4:
			old := be.Uint16(tcp[i+2:])
			if old <= limit {
				return
			}
			be.PutUint16(tcp[i+2:], limit)
			if partial { // the sum over the segment is yet to be made
				return
			}
			d := packet.Delta16(old, limit)
			if i&1 != 0 { // the option is not aligned: its bytes are halves of two words
				d = d>>8 | d<<8
			}
			be.PutUint16(tcp[16:], d.Apply(be.Uint16(tcp[16:])))
			return
		}
		i += int(tcp[i+1])
	}
}

// segment is what tracking wants to know of a TCP segment whose headers are v; length is that of header and payload,
// which for a fragmented datagram is more than b has.
func segment(b []byte, v *packet.View, length int) conntrack.Segment {
	t := b[v.L4:]
	_ = t[19]
	off := int(t[12]>>4) * 4
	s := conntrack.Segment{
		Seq: be.Uint32(t[4:]), Ack: be.Uint32(t[8:]), Window: be.Uint16(t[14:]), Flags: v.Flags, Scale: 255,
		Len: uint32(max(0, length-off)),
	}
	if v.Flags&packet.SYN == 0 {
		return s
	}
	for i, end := 20, min(off, len(t)); i < end; {
		switch kind := t[i]; {
		case kind == 0:
			return s
		case kind == 1:
			i++
			continue
		case i+1 >= end || t[i+1] < 2 || i+int(t[i+1]) > end:
			return s
		case kind == 3 && t[i+1] == 3:
			s.Scale = t[i+2]
			return s
		}
		i += int(t[i+1])
	}
	return s
}

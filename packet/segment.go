// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"fmt"
)

// ErrOffload is wrapped by all errors about offload metadata that contradicts its packet.
var ErrOffload = errors.New("offload metadata contradicts the packet")

// CheckOffload tells whether the metadata fits the packet: offsets inside of it, a partial checksum that is the one of
// the transport header behind the IP header, a super-packet of the right protocol with a payload to cut. It says
// nothing else about the packet. The extension headers of IPv6 are taken on trust.
func (p *Packet) CheckOffload() error {
	o := &p.Offload
	if o.Csum != CsumPartial && o.GSO == GSONone {
		return nil
	}
	b := p.Bytes()
	l4, proto, err := transport(b)
	if err != nil {
		return err
	}
	if o.Csum == CsumPartial {
		if b[0]>>4 == 6 && proto != TCP && proto != UDP && proto != ICMPv6 {
			l4, proto = behindExtensions(o)
		}
		if err := checkPartial(o, len(b), l4, proto); err != nil {
			return err
		}
	}
	if o.GSO == GSONone {
		return nil
	}
	return checkGSO(o, b, l4, proto)
}

// transport finds the transport header of a whole datagram, by the fixed header alone.
func transport(b []byte) (l4 int, proto byte, err error) {
	if len(b) < 20 {
		return 0, 0, fmt.Errorf("%w: %d bytes are no packet", ErrOffload, len(b))
	}
	switch b[0] >> 4 {
	case 4:
		if be.Uint16(b[6:])&0x3fff != 0 {
			return 0, 0, fmt.Errorf("%w: it is a fragment", ErrOffload)
		}
		l4, proto = int(b[0]&15)*4, b[9]
		if l4 < 20 {
			return 0, 0, fmt.Errorf("%w: an IP header of %d bytes", ErrOffload, l4)
		}
	case 6:
		l4, proto = 40, b[6]
	default:
		return 0, 0, fmt.Errorf("%w: IP version %d", ErrOffload, b[0]>>4)
	}
	if l4 >= len(b) {
		return 0, 0, fmt.Errorf("%w: nothing behind the IP header", ErrOffload)
	}
	return l4, proto, nil
}

// behindExtensions takes the place of the checksum for the place and kind of the transport header.
func behindExtensions(o *Offload) (l4 int, proto byte) {
	l4 = max(int(o.CsumStart), 40)
	switch o.CsumOffset {
	case 16:
		return l4, TCP
	case 6:
		return l4, UDP
	}
	return l4, ICMPv6
}

func checkPartial(o *Offload, size, l4 int, proto byte) error {
	start, field := int(o.CsumStart), int(o.CsumOffset)
	if start != l4 || start+field+2 > size {
		return fmt.Errorf("%w: a sum from byte %d, its field %d further on, the transport header at %d of %d bytes",
			ErrOffload, start, field, l4, size)
	}
	want := field
	switch proto {
	case TCP:
		want = 16
	case UDP, UDPLite, DCCP:
		want = 6
	case ICMPv6:
		want = 2
	}
	if field != want {
		return fmt.Errorf("%w: a checksum field at %d of protocol %d", ErrOffload, field, proto)
	}
	return nil
}

func checkGSO(o *Offload, b []byte, l4 int, proto byte) error {
	version, want := byte(4), byte(TCP)
	switch o.GSO {
	case GSOTCPv4:
	case GSOTCPv6:
		version = 6
	case GSOUDP:
		version, want = b[0]>>4, UDP
	default:
		return fmt.Errorf("%w: segmentation kind %d", ErrOffload, o.GSO)
	}
	if b[0]>>4 != version || proto != want {
		return fmt.Errorf("%w: segmentation kind %d of protocol %d, IP version %d", ErrOffload, o.GSO, proto, b[0]>>4)
	}
	n := 8
	if want == TCP {
		if l4+20 > len(b) {
			return fmt.Errorf("%w: a TCP header cut off", ErrOffload)
		}
		if n = int(b[l4+12]>>4) * 4; n < 20 {
			return fmt.Errorf("%w: a TCP header of %d bytes", ErrOffload, n)
		}
	}
	if int(o.HdrLen) != l4+n || int(o.HdrLen) >= len(b) {
		return fmt.Errorf("%w: headers of %d bytes, of %d in all, where %d were expected", ErrOffload, o.HdrLen, len(b), l4+n)
	}
	if o.GSOSize == 0 {
		return fmt.Errorf("%w: segments of 0 bytes", ErrOffload)
	}
	return nil
}

// Complete finishes the partial checksum of an ordinary packet in place; a packet that has none is left alone. The
// checksum then is what the sender would have computed. A super-packet is refused: see Segment.
func Complete(p *Packet) error {
	o := &p.Offload
	if o.GSO != GSONone {
		return fmt.Errorf("%w: a super-packet has no checksum of its own", ErrOffload)
	}
	if o.Csum != CsumPartial {
		return nil
	}
	b := p.Bytes()
	start, at := int(o.CsumStart), int(o.CsumStart)+int(o.CsumOffset)
	if start < 20 || at+2 > len(b) {
		return fmt.Errorf("%w: a sum from byte %d, its field at %d, of %d bytes", ErrOffload, start, at, len(b))
	}
	sum := Checksum(b[start:])
	if sum == 0 && o.CsumOffset == 6 { // UDP and its kin say "none" with 0; the field of TCP is elsewhere
		sum = 0xffff
	}
	be.PutUint16(b[at:], sum)
	o.Csum, o.CsumStart, o.CsumOffset = CsumUnverified, 0, 0
	return nil
}

// Segment does in software what was left to the interface card: it calls emit with each of the packets that p becomes
// on a wire, in order, with complete checksums and no more offload metadata. An error of emit ends it and is returned.
//
// An ordinary packet is completed in place and handed on itself. The segments of a super-packet are built one after the
// other in scratch, behind Headroom bytes, and valid until emit returns; p stays as it was. If scratch has less than
// Headroom + p.WireLen() bytes, one that has is allocated.
//
// Segments of IPv4 have consecutive identifications, beginning with the one in the header. CWR stays on the first TCP
// segment only, FIN and PSH on the last. UDP without a checksum stays without one.
func Segment(p *Packet, scratch []byte, emit func(Packet) error) error {
	if p.Offload.GSO == GSONone {
		if err := Complete(p); err != nil {
			return err
		}
		return emit(*p)
	}
	if err := p.CheckOffload(); err != nil {
		return err
	}
	if need := Headroom + p.WireLen(); len(scratch) < need {
		scratch = make([]byte, need)
	}
	b := p.Bytes()
	hdr, size := int(p.Offload.HdrLen), int(p.Offload.GSOSize)
	c := newCutter(p)
	copy(scratch[Headroom:], b[:hdr])
	for off := hdr; off < len(b); off += size {
		n := copy(scratch[Headroom+hdr:], b[off:min(off+size, len(b))])
		q := Packet{Buf: scratch, Off: Headroom, Len: hdr + n}
		c.finish(q.Bytes(), off-hdr, off+n == len(b))
		if err := emit(q); err != nil {
			return err
		}
	}
	return nil
}

// cutter writes the headers of the segments of one super-packet.
type cutter struct {
	l4    int
	tcp   bool
	noSum bool
	id    uint16
	seq   uint32
	flags byte
}

func newCutter(p *Packet) cutter {
	b := p.Bytes()
	o := &p.Offload
	c := cutter{tcp: o.GSO != GSOUDP}
	if c.tcp {
		// The data offset was checked against HdrLen, so this finds the header behind extension headers too.
		c.l4 = tcpStart(o, b)
		c.seq, c.flags = be.Uint32(b[c.l4+4:]), b[c.l4+13]
	} else {
		c.l4 = int(o.HdrLen) - 8
		c.noSum = o.Csum != CsumPartial && be.Uint16(b[c.l4+6:]) == 0
	}
	c.id = be.Uint16(b[4:])
	return c
}

func tcpStart(o *Offload, b []byte) int {
	if o.Csum == CsumPartial {
		return int(o.CsumStart)
	}
	if b[0]>>4 == 4 {
		return int(b[0]&15) * 4
	}
	return 40
}

// cwr is the TCP flag beyond those in view.go that only the first segment may carry (RFC 3168, section 6.1.2).
const cwr = 0x80

// finish writes the headers of the segment b, whose payload starts off bytes into the whole.
func (c *cutter) finish(b []byte, off int, last bool) {
	if b[0]>>4 == 4 {
		be.PutUint16(b[2:], uint16(len(b)))
		be.PutUint16(b[4:], c.id)
		c.id++
		b[10], b[11] = 0, 0
		be.PutUint16(b[10:], Checksum(b[:int(b[0]&15)*4]))
	} else {
		be.PutUint16(b[4:], uint16(len(b)-40))
	}
	t := b[c.l4:]
	if !c.tcp {
		be.PutUint16(t[4:], uint16(len(t)))
		if !c.noSum {
			c.sum(b, t, UDP, 6)
		}
		return
	}
	be.PutUint32(t[4:], c.seq+uint32(off))
	t[13] = c.flags
	if off > 0 {
		t[13] &^= cwr
	}
	if !last {
		t[13] &^= FIN | PSH
	}
	c.sum(b, t, TCP, 16)
}

// sum computes the transport checksum of the segment b, whose transport header starts t.
func (c *cutter) sum(b, t []byte, proto uint32, at int) {
	addrs := b[12:20]
	if b[0]>>4 == 6 {
		addrs = b[8:40]
	}
	t[at], t[at+1] = 0, 0
	s := ^Fold(Sum(t, Sum(addrs, proto+uint32(len(t)))))
	if s == 0 && !c.tcp {
		s = 0xffff
	}
	be.PutUint16(t[at:], s)
}

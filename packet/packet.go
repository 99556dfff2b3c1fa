// SPDX-License-Identifier: Apache-2.0

package packet

// Headroom is how many bytes a reader of packets should leave free in front of each: later translation to IPv6 grows
// a packet by 20 bytes, by 28 with a fragment header.
const Headroom = 32

// Packet is one IP packet in a buffer of the caller's, with what the device knows about it. It is a plain value:
// copying it copies no bytes. Whoever made Buf owns it; nothing in this module keeps it after a call returns.
type Packet struct {
	// Buf is the whole buffer. The packet is Buf[Off:Off+Len]; what lies in front is headroom, what follows tailroom.
	Buf []byte
	// Off is where the IP header starts, Len how many bytes the packet has.
	Off, Len int
	// Offload says what was left undone for an interface card, or for whoever stands in for one. The zero value is an
	// ordinary packet: checksums complete and not yet verified, not to be segmented.
	Offload Offload
}

// Bytes is the packet, from its IP header on. It aliases Buf.
func (p *Packet) Bytes() []byte { return p.Buf[p.Off : p.Off+p.Len] }

// From makes a Packet that holds a copy of b behind Headroom bytes.
func From(b []byte) Packet {
	buf := make([]byte, Headroom+len(b))
	copy(buf[Headroom:], b)
	return Packet{Buf: buf, Off: Headroom, Len: len(b)}
}

// Clone copies the packet and its headroom into a buffer of its own.
func (p *Packet) Clone() Packet {
	q := *p
	q.Buf = append([]byte(nil), p.Buf[:p.Off+p.Len]...)
	return q
}

// Csum says how far the transport checksum of a packet can be trusted.
type Csum uint8

const (
	// CsumUnverified is a complete checksum that nobody has looked at.
	CsumUnverified Csum = iota
	// CsumPartial is a checksum field that holds the folded sum of the pseudo-header alone, not complemented; whoever
	// sends the packet on adds the bytes from Offload.CsumStart on (virtio: VIRTIO_NET_HDR_F_NEEDS_CSUM).
	CsumPartial
	// CsumVerified is a complete checksum that was found right (virtio: VIRTIO_NET_HDR_F_DATA_VALID).
	CsumVerified
)

// GSO is the kind of segments that a super-packet is to be cut into.
type GSO uint8

const (
	// GSONone is a packet that is sent as it is.
	GSONone GSO = iota
	// GSOTCPv4 and GSOTCPv6 are TCP segments under one header.
	GSOTCPv4
	GSOTCPv6
	// GSOUDP is UDP datagrams of equal size under one header (Linux: UDP_SEGMENT).
	GSOUDP
)

// Offload is the metadata of checksum and segmentation offload, in the terms of struct virtio_net_hdr (virtio 1.2,
// section 5.1.6). All offsets are in bytes from the start of the IP header.
type Offload struct {
	// Csum is the state of the transport checksum.
	Csum Csum
	// GSO is the kind of super-packet, GSONone for an ordinary one.
	GSO GSO
	// ECN marks a TCP super-packet whose first segment alone carries CWR (VIRTIO_NET_HDR_GSO_ECN).
	ECN bool
	// HdrLen is the length of all headers of a super-packet, IP to transport.
	HdrLen uint16
	// GSOSize is the payload of each segment but the last.
	GSOSize uint16
	// CsumStart is where the sum starts, CsumOffset where the checksum field is from there. Valid with CsumPartial.
	CsumStart, CsumOffset uint16
}

// Segments is how many packets p becomes on a wire: 1 for an ordinary one.
func (p *Packet) Segments() int {
	o := &p.Offload
	if o.GSO == GSONone || o.GSOSize == 0 {
		return 1
	}
	n := (p.Len - int(o.HdrLen) + int(o.GSOSize) - 1) / int(o.GSOSize)
	return max(n, 1)
}

// WireLen is the length of the longest IP packet that p becomes on a wire, which is what an MTU is compared with.
func (p *Packet) WireLen() int {
	o := &p.Offload
	if o.GSO == GSONone || o.GSOSize == 0 {
		return p.Len
	}
	return min(p.Len, int(o.HdrLen)+int(o.GSOSize))
}

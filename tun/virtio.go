// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate/packet"
)

// struct virtio_net_hdr (virtio 1.2, section 5.1.6), as TUN puts it in front of each packet: little-endian since
// TUNSETVNETLE says so, without the count of merged buffers.
//
//	0  flags        4  gso_size
//	1  gso_type     6  csum_start
//	2  hdr_len      8  csum_offset
const headerLen = 10

const (
	flagNeedsCsum = 1
	flagDataValid = 2

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDPL4 = 5
	gsoECN   = 0x80
)

var errHeader = errors.New("the virtio header contradicts its packet")

// decode reads the header h of the packet p into p.Offload. What it lets through is consistent with the packet
// (packet.CheckOffload), whoever wrote it.
func decode(h []byte, p *packet.Packet) error {
	_ = h[headerLen-1]
	p.Offload = packet.Offload{}
	if h[0]&(flagNeedsCsum|flagDataValid) == 0 && h[1] == gsoNone { // most small packets
		return nil
	}
	le := binary.LittleEndian
	o := &p.Offload
	switch {
	case h[0]&flagNeedsCsum != 0:
		o.Csum = packet.CsumPartial
		o.CsumStart, o.CsumOffset = le.Uint16(h[6:]), le.Uint16(h[8:])
	case h[0]&flagDataValid != 0:
		o.Csum = packet.CsumVerified
	}
	o.ECN = h[1]&gsoECN != 0
	switch h[1] &^ gsoECN {
	case gsoNone:
		o.ECN = false
		return decodePlain(p)
	case gsoTCPv4:
		o.GSO = packet.GSOTCPv4
	case gsoTCPv6:
		o.GSO = packet.GSOTCPv6
	case gsoUDPL4:
		o.GSO = packet.GSOUDP
	default: // UFO among them, which we never ask for
		return fmt.Errorf("%w: gso_type %#x", errHeader, h[1])
	}
	if o.Csum != packet.CsumPartial { // virtio 1.2, section 5.1.6.4.1: segmentation comes with a partial checksum
		return fmt.Errorf("%w: gso_type %#x without a partial checksum", errHeader, h[1])
	}
	o.GSOSize = le.Uint16(h[4:])
	// Linux puts the length of its first buffer into hdr_len, which may reach into the payload.
	n, ok := transportLen(p)
	if !ok {
		return fmt.Errorf("%w: no transport header at %d", errHeader, o.CsumStart)
	}
	o.HdrLen = o.CsumStart + uint16(n)
	if err := p.CheckOffload(); err != nil {
		return fmt.Errorf("%w: %w", errHeader, err)
	}
	return nil
}

// decodePlain checks a packet that is not to be segmented. The rest of the module takes a partial checksum for that of
// the transport header behind the IP header. If it is another one, of a header inside a tunnel, it is completed here.
func decodePlain(p *packet.Packet) error {
	if p.Offload.Csum != packet.CsumPartial {
		return nil
	}
	if err := p.CheckOffload(); err == nil {
		return nil
	}
	if err := packet.Complete(p); err != nil {
		return fmt.Errorf("%w: %w", errHeader, err)
	}
	return nil
}

// transportLen is the length of the transport header at CsumStart.
func transportLen(p *packet.Packet) (int, bool) {
	b := p.Bytes()
	start := int(p.Offload.CsumStart)
	if p.Offload.GSO == packet.GSOUDP {
		return 8, start+8 <= len(b)
	}
	if start+20 > len(b) {
		return 0, false
	}
	return int(b[start+12]>>4) * 4, true
}

// encode writes the header of p to h.
func encode(h []byte, p *packet.Packet) {
	_ = h[headerLen-1]
	clear(h[:headerLen])
	o := &p.Offload
	le := binary.LittleEndian
	switch o.Csum {
	case packet.CsumPartial:
		h[0] = flagNeedsCsum
		le.PutUint16(h[6:], o.CsumStart)
		le.PutUint16(h[8:], o.CsumOffset)
	case packet.CsumVerified:
		h[0] = flagDataValid
	}
	switch o.GSO {
	case packet.GSONone:
		return
	case packet.GSOTCPv4:
		h[1] = gsoTCPv4
	case packet.GSOTCPv6:
		h[1] = gsoTCPv6
	case packet.GSOUDP:
		h[1] = gsoUDPL4
	}
	if o.ECN {
		h[1] |= gsoECN
	}
	le.PutUint16(h[2:], o.HdrLen)
	le.PutUint16(h[4:], o.GSOSize)
}

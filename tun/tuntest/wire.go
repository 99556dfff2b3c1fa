// SPDX-License-Identifier: Apache-2.0

package tuntest

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

func buffers(dev tun.Device, n int) []packet.Packet {
	ps := make([]packet.Packet, n)
	for i := range ps {
		ps[i].Buf = make([]byte, dev.BufferSize())
	}
	return ps
}

func send(t *testing.T, far Far, p packet.Packet) {
	t.Helper()
	if err := far.Send(p); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, far Far) packet.Packet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := far.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wire is what p becomes on a wire.
func wire(t *testing.T, p packet.Packet) (out [][]byte) {
	t.Helper()
	err := packet.Segment(&p, nil, func(q packet.Packet) error {
		out = append(out, bytes.Clone(q.Bytes()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// expect takes packets from next until they are as much as want, on a wire, and compares.
func expect(t *testing.T, next func() packet.Packet, want []packet.Packet) {
	t.Helper()
	var w, g [][]byte
	for _, p := range want {
		w = append(w, wire(t, p.Clone())...)
	}
	for len(g) < len(w) {
		g = append(g, wire(t, next())...)
	}
	if len(g) != len(w) {
		t.Fatalf("%d packets, want %d", len(g), len(w))
	}
	for i := range w {
		if !bytes.Equal(g[i], w[i]) {
			t.Fatalf("packet %d of %d is\n%x, want\n%x", i, len(w), g[i], w[i])
		}
	}
}

// ipv4 is a packet from 10.9.0.2 to 198.51.100.7 with the transport header and n bytes of payload.
func ipv4(id uint16, proto byte, header []byte, n int) packet.Packet {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 10, 9, 0, 2, 198, 51, 100, 7}
	b = append(b, header...)
	for i := range n {
		b = append(b, byte(i*7)+byte(id))
	}
	be := binary.BigEndian
	be.PutUint16(b[2:], uint16(len(b)))
	be.PutUint16(b[4:], id)
	be.PutUint16(b[10:], packet.Checksum(b[:20]))
	p := packet.From(b)
	p.Offload.Csum, p.Offload.CsumStart, p.Offload.CsumOffset = packet.CsumPartial, 20, 16
	if proto == packet.UDP {
		p.Offload.CsumOffset = 6
	}
	at := int(p.Offload.CsumStart + p.Offload.CsumOffset)
	sum := packet.PseudoIPv4(be.Uint32(b[12:]), be.Uint32(b[16:]), proto, len(b)-20)
	be.PutUint16(p.Bytes()[at:], packet.Fold(sum))
	return p
}

// datagram is UDP with n bytes of payload and a complete checksum.
func datagram(id uint16, n int) packet.Packet { return complete(partialDatagram(id, n)) }

func partialDatagram(id uint16, n int) packet.Packet {
	h := []byte{0x13, 0x88, 0, 53, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(h[4:], uint16(8+n))
	return ipv4(id, packet.UDP, h, n)
}

// segment is TCP with 12 bytes of options (no operation), n bytes of payload and a partial checksum.
func segment(id uint16, flags byte, n int) packet.Packet {
	h := []byte{0x13, 0x88, 0, 80, 0xff, 0xff, 0xf0, 0, 1, 2, 3, 4, 0x80, flags, 0x20, 0, 0, 0, 0, 0}
	return ipv4(id, packet.TCP, append(h, bytes.Repeat([]byte{1}, 12)...), n)
}

func super(p packet.Packet, kind packet.GSO, size uint16) packet.Packet {
	p.Offload.GSO, p.Offload.GSOSize, p.Offload.HdrLen = kind, size, 52
	if kind == packet.GSOUDP {
		p.Offload.HdrLen = 28
	}
	return p
}

func complete(p packet.Packet) packet.Packet {
	if err := packet.Complete(&p); err != nil {
		panic(err) // made in this file
	}
	return p
}

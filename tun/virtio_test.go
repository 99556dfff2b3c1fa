// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"bytes"
	"testing"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// headers of the packets that the table is about; the payload is zeroes.
func tcp4(n int) packet.Packet { return made(4, packet.TCP, 20, n) }
func udp4(n int) packet.Packet { return made(4, packet.UDP, 20, n) }
func tcp6(n int) packet.Packet { return made(6, packet.TCP, 40, n) }

func made(version, proto byte, l4, n int) packet.Packet {
	b := make([]byte, l4+20+n)
	b[0] = version<<4 | 5
	if version == 4 {
		b[9] = proto
	} else {
		b[6] = proto
	}
	b[l4+12] = 5 << 4
	return packet.From(b)
}

func fragment(p packet.Packet) packet.Packet {
	p.Bytes()[6] = 0x20
	return p
}

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name   string
		header [10]byte
		packet packet.Packet
		want   packet.Offload
	}{
		{"nothing", [10]byte{}, tcp4(0), packet.Offload{}},
		{"nothing, of no packet at all", [10]byte{}, packet.From([]byte{1, 2}), packet.Offload{}},
		{"verified", [10]byte{2}, tcp4(0), packet.Offload{Csum: packet.CsumVerified}},
		{"partial TCP", [10]byte{1, 0, 0, 0, 0, 0, 20, 0, 16, 0}, tcp4(1),
			packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 16}},
		{"partial UDP", [10]byte{1, 0, 0, 0, 0, 0, 20, 0, 6, 0}, udp4(1),
			packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6}},
		{"TCP segments", [10]byte{1, 1, 40, 0, 0xb4, 0x05, 20, 0, 16, 0}, tcp4(5000),
			packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 16, GSO: packet.GSOTCPv4, HdrLen: 40, GSOSize: 1460}},
		{"TCP segments with ECN", [10]byte{1, 0x81, 40, 0, 0xb4, 0x05, 20, 0, 16, 0}, tcp4(5000),
			packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 16, GSO: packet.GSOTCPv4, HdrLen: 40, GSOSize: 1460, ECN: true}},
		{"TCP segments over IPv6", [10]byte{1, 4, 60, 0, 0xa0, 0x05, 40, 0, 16, 0}, tcp6(5000),
			packet.Offload{Csum: packet.CsumPartial, CsumStart: 40, CsumOffset: 16, GSO: packet.GSOTCPv6, HdrLen: 60, GSOSize: 1440}},
		{"UDP segments", [10]byte{1, 5, 28, 0, 0xe8, 0x03, 20, 0, 6, 0}, udp4(5000),
			packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6, GSO: packet.GSOUDP, HdrLen: 28, GSOSize: 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.packet
			p.Offload = packet.Offload{HdrLen: 77, ECN: true} // what was there before is of no account
			if err := tun.DecodeHeader(c.header[:], &p); err != nil || p.Offload != c.want {
				t.Errorf("decoded %+v, %v; want %+v", p.Offload, err, c.want)
			}
			h := bytes.Repeat([]byte{0xff}, tun.HeaderLen)
			if tun.EncodeHeader(h, &p); !bytes.Equal(h, c.header[:]) {
				t.Errorf("encoded % x, want % x", h, c.header)
			}
		})
	}
}

// TestHeaderLength: Linux puts the length of its first buffer into hdr_len.
func TestHeaderLength(t *testing.T) {
	for _, hdrLen := range []byte{0, 1, 54, 255} {
		p := tcp4(5000)
		h := [10]byte{1, 1, hdrLen, 0, 0xb4, 0x05, 20, 0, 16, 0}
		if err := tun.DecodeHeader(h[:], &p); err != nil || p.Offload.HdrLen != 40 {
			t.Errorf("hdr_len %d: %+v, %v; want 40", hdrLen, p.Offload, err)
		}
	}
}

// TestHeaderOfTunnel: a partial checksum that is not that of the outer transport header is completed on the spot.
func TestHeaderOfTunnel(t *testing.T) {
	p := made(4, 4, 20, 100) // IP in IP; UDP inside, at 40
	h := [10]byte{1, 0, 0, 0, 0, 0, 40, 0, 6, 0}
	p.Bytes()[46], p.Bytes()[47] = 0x12, 0x34
	if err := tun.DecodeHeader(h[:], &p); err != nil || p.Offload != (packet.Offload{}) {
		t.Errorf("%+v, %v", p.Offload, err)
	}
	// With the pseudo-header, whose sum was in the field, the whole must verify.
	if sum := packet.Fold(packet.Sum(p.Bytes()[40:], 0x1234)); sum != 0xffff {
		t.Errorf("the sum is %#x", sum)
	}
}

func TestHeaderContradictions(t *testing.T) {
	for _, c := range []struct {
		name   string
		header [10]byte
		packet packet.Packet
	}{
		{"the checksum field is past the end", [10]byte{1, 0, 0, 0, 0, 0, 20, 0, 19, 0}, tcp4(0)},
		{"so far that it wraps", [10]byte{1, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 0}, tcp4(0)},
		{"the sum starts in the IP header", [10]byte{1, 0, 0, 0, 0, 0, 8, 0, 16, 0}, tcp4(0)},
		{"an unknown kind", [10]byte{1, 2, 40, 0, 1, 0, 20, 0, 16, 0}, tcp4(9)},
		{"UFO", [10]byte{1, 3, 28, 0, 1, 0, 20, 0, 6, 0}, udp4(9)},
		{"segments without a partial checksum", [10]byte{0, 1, 40, 0, 1, 0, 0, 0, 0, 0}, tcp4(9)},
		{"segments with a verified checksum", [10]byte{2, 1, 40, 0, 1, 0, 0, 0, 0, 0}, tcp4(9)},
		{"segments of nothing", [10]byte{1, 1, 40, 0, 0, 0, 20, 0, 16, 0}, tcp4(9)},
		{"no payload", [10]byte{1, 1, 40, 0, 1, 0, 20, 0, 16, 0}, tcp4(0)},
		{"TCP segments of UDP", [10]byte{1, 1, 40, 0, 1, 0, 20, 0, 6, 0}, udp4(9)},
		{"UDP segments of TCP", [10]byte{1, 5, 28, 0, 1, 0, 20, 0, 16, 0}, tcp4(9)},
		{"IPv4 segments of IPv6", [10]byte{1, 1, 60, 0, 1, 0, 40, 0, 16, 0}, tcp6(9)},
		{"IPv6 segments of IPv4", [10]byte{1, 4, 40, 0, 1, 0, 20, 0, 16, 0}, tcp4(9)},
		{"segments of a fragment", [10]byte{1, 1, 40, 0, 1, 0, 20, 0, 16, 0}, fragment(tcp4(9))},
		{"the transport header is elsewhere", [10]byte{1, 1, 40, 0, 1, 0, 24, 0, 16, 0}, tcp4(90)},
		{"the transport header is past the end", [10]byte{1, 1, 40, 0, 1, 0, 0xff, 0xff, 16, 0}, tcp4(90)},
		{"no IP packet", [10]byte{1, 1, 40, 0, 1, 0, 0, 0, 1, 0}, packet.From([]byte{1, 2, 3})},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.packet
			if err := tun.DecodeHeader(c.header[:], &p); err == nil {
				t.Errorf("accepted as %+v", p.Offload)
			}
		})
	}
}

// FuzzHeader: whatever the header and the packet are, what is accepted can be segmented and encoded again.
func FuzzHeader(f *testing.F) {
	for _, p := range []packet.Packet{tcp4(100), udp4(100), tcp6(100)} {
		for _, h := range [][]byte{
			{1, 1, 40, 0, 10, 0, 20, 0, 16, 0}, {1, 5, 28, 0, 10, 0, 20, 0, 6, 0}, {1, 0x84, 60, 0, 10, 0, 40, 0, 16, 0}, {2},
		} {
			f.Add(append(h, make([]byte, 10-len(h))...), p.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, h, b []byte) {
		if len(h) < tun.HeaderLen || len(b) > 65535 {
			return
		}
		p := packet.From(b)
		if tun.DecodeHeader(h, &p) != nil {
			return
		}
		if err := p.CheckOffload(); err != nil {
			t.Fatal(err)
		}
		var again [tun.HeaderLen]byte
		tun.EncodeHeader(again[:], &p)
		q := p
		if err := tun.DecodeHeader(again[:], &q); err != nil || q.Offload != p.Offload {
			t.Fatalf("%+v came back as %+v, %v", p.Offload, q.Offload, err)
		}
		if err := packet.Segment(&p, nil, func(packet.Packet) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}

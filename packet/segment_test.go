// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// wire is what p becomes on a wire.
func wire(t testing.TB, p *Packet, scratch []byte) (out [][]byte) {
	t.Helper()
	err := Segment(p, scratch, func(q Packet) error {
		if q.Offload != (Offload{}) {
			t.Errorf("a segment with %+v", q.Offload)
		}
		out = append(out, bytes.Clone(q.Bytes()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// flow builds the packets of one flow with the independent encoder.
type flow struct {
	name string
	v6   bool
	tcp  *layers.TCP // nil for UDP
}

func flows() []flow {
	tcp := &layers.TCP{
		SrcPort: 5000, DstPort: 80, Seq: 0xfffff000, Ack: 1, Window: 500, ACK: true, ECE: true,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}},
	}
	return []flow{{"TCPv4", false, tcp}, {"TCPv6", true, tcp}, {"UDPv4", false, nil}, {"UDPv6", true, nil}}
}

// packet is the one with id, whose payload lies at off in the stream. ends says whether it begins and ends a burst.
func (f *flow) packet(t testing.TB, id uint16, off int, payload []byte, begins, ends bool) []byte {
	var ip gopacket.SerializableLayer
	proto := layers.IPProtocolUDP
	if f.tcp != nil {
		proto = layers.IPProtocolTCP
	}
	if f.v6 {
		ip = &layers.IPv6{
			Version: 6, TrafficClass: 0xb8, FlowLabel: 0x12345, NextHeader: proto, HopLimit: 64,
			SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2"),
		}
	} else {
		h := header(proto)
		h.Id = id
		ip = h
	}
	if f.tcp == nil {
		return encode(t, ip, &layers.UDP{SrcPort: 5000, DstPort: 53}, gopacket.Payload(payload))
	}
	tcp := *f.tcp
	tcp.Seq += uint32(off)
	tcp.CWR, tcp.PSH, tcp.FIN = begins, ends, ends
	return encode(t, ip, &tcp, gopacket.Payload(payload))
}

// super makes a super-packet of b with segments of size bytes.
func (f *flow) super(b []byte, size int) Packet {
	p := From(b)
	o := &p.Offload
	o.CsumStart = 20
	if f.v6 {
		o.CsumStart = 40
	}
	o.Csum, o.GSOSize = CsumPartial, uint16(size)
	if f.tcp == nil {
		o.GSO, o.CsumOffset, o.HdrLen = GSOUDP, 6, o.CsumStart+8
	} else {
		o.GSO, o.CsumOffset, o.HdrLen = GSOTCPv4, 16, o.CsumStart+32
		if f.v6 {
			o.GSO = GSOTCPv6
		}
	}
	pseudo(p.Bytes(), o)
	return p
}

// pseudo puts the sum of the pseudo-header where a partial checksum has it.
func pseudo(b []byte, o *Offload) {
	var sum uint16
	n := len(b) - int(o.CsumStart)
	proto := map[uint16]byte{6: UDP, 16: TCP}[o.CsumOffset]
	if b[0]>>4 == 4 {
		sum = slowSum(append(bytes.Clone(b[12:20]), 0, proto, byte(n>>8), byte(n)))
	} else {
		sum = slowSum(append(bytes.Clone(b[8:40]), byte(n>>8), byte(n), 0, proto))
	}
	be.PutUint16(b[o.CsumStart+o.CsumOffset:], sum)
}

func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// TestSegment compares with packets that the independent encoder built one by one.
func TestSegment(t *testing.T) {
	scratch := make([]byte, Headroom+65535)
	for _, f := range flows() {
		for _, c := range []struct{ n, size int }{
			{1, 1}, {1, 1000}, {1000, 1000}, {1001, 1000}, {5000, 1000}, {4999, 1000}, {65535 - 80, 1448}, {30, 1}, {99, 7},
		} {
			t.Run(fmt.Sprintf("%s, %d bytes by %d", f.name, c.n, c.size), func(t *testing.T) {
				data := payload(c.n)
				const id = 0xfffe // wraps
				p := f.super(f.packet(t, id, 0, data, true, true), c.size)
				before := p.Clone()
				for _, scratch := range [][]byte{scratch, nil} {
					got := wire(t, &p, scratch)
					if len(got) != p.Segments() {
						t.Errorf("%d segments, Segments() is %d", len(got), p.Segments())
					}
					for i, off := 0, 0; off < len(data); i, off = i+1, off+c.size {
						end := min(off+c.size, len(data))
						want := f.packet(t, id+uint16(i), off, data[off:end], off == 0, end == len(data))
						if i >= len(got) || !bytes.Equal(got[i], want) {
							t.Fatalf("segment %d of %d:\n%x, want\n%x", i, len(got), got[min(i, len(got)-1)], want)
						}
						if len(want) > p.WireLen() {
							t.Errorf("segment of %d bytes, WireLen() is %d", len(want), p.WireLen())
						}
					}
				}
				if !bytes.Equal(p.Bytes(), before.Bytes()) || p.Offload != before.Offload {
					t.Error("the super-packet was changed")
				}
			})
		}
	}
}

// TestSegmentExtensionHeaders: the place of the checksum tells where the transport header of IPv6 is.
func TestSegmentExtensionHeaders(t *testing.T) {
	for _, f := range flows() {
		if !f.v6 {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			// Eight bytes of destination options: one option that pads.
			extend := func(b []byte) []byte {
				out := append(bytes.Clone(b[:40]), b[6], 0, 1, 4, 0, 0, 0, 0)
				out[6] = 60
				be.PutUint16(out[4:], uint16(len(b)-32))
				return append(out, b[40:]...)
			}
			p := f.super(f.packet(t, 0, 0, payload(2500), true, true), 1000)
			o := p.Offload
			p = From(extend(p.Bytes()))
			o.CsumStart, o.HdrLen = o.CsumStart+8, o.HdrLen+8
			p.Offload = o
			got := wire(t, &p, nil)
			for i, off := range []int{0, 1000, 2000} {
				want := extend(f.packet(t, 0, off, payload(2500)[off:min(off+1000, 2500)], i == 0, i == 2))
				if len(got) != 3 || !bytes.Equal(got[i], want) {
					t.Fatalf("segment %d of %d:\n%x, want\n%x", i, len(got), got[i], want)
				}
			}
		})
	}
}

// TestSegmentUDPChecksum: none stays none, and one that computes to 0 is sent as 0xffff.
func TestSegmentUDPChecksum(t *testing.T) {
	f := &flow{}
	p := f.super(f.packet(t, 1, 0, payload(100), true, true), 30)
	p.Offload.Csum, p.Offload.CsumStart, p.Offload.CsumOffset = CsumUnverified, 0, 0
	be.PutUint16(p.Bytes()[26:], 0)
	for i, b := range wire(t, &p, nil) {
		if sum := be.Uint16(b[26:]); sum != 0 {
			t.Errorf("segment %d has the checksum %#04x, where there was none", i, sum)
		}
	}
	be.PutUint16(p.Bytes()[26:], 1)
	for i, b := range wire(t, &p, nil) {
		want := f.packet(t, uint16(1+i), 0, b[28:], true, true)
		if !bytes.Equal(b, want) {
			t.Errorf("segment %d is\n%x, want\n%x", i, b, want)
		}
	}
}

// TestSegmentZero is U-6 and B-2: a sum of 0 is written as 0xffff for UDP, and as it is for TCP.
func TestSegmentZero(t *testing.T) {
	for _, f := range flows() {
		hdr, want := 28, uint16(0xffff)
		if f.tcp != nil {
			hdr, want = 52, 0
		}
		if f.v6 {
			hdr += 20
		}
		t.Run(f.name, func(t *testing.T) {
			p := f.super(f.packet(t, 1, 0, payload(60), true, true), 30)
			at := int(p.Offload.CsumStart + p.Offload.CsumOffset)
			// What is missing to 0 goes into the last word of each segment, which was 0.
			data := payload(60)
			for _, off := range []int{28, 58} {
				be.PutUint16(data[off:], 0)
			}
			for i, b := range wire(t, ptr(f.super(f.packet(t, 1, 0, data, true, true), 30)), nil) {
				be.PutUint16(data[i*30+28:], be.Uint16(b[at:]))
			}
			p = f.super(f.packet(t, 1, 0, data, true, true), 30)
			for i, b := range wire(t, &p, nil) {
				if sum := be.Uint16(b[at:]); sum != want || len(b) != hdr+30 {
					t.Errorf("segment %d has the checksum %#04x, want %#04x", i, sum, want)
				}
			}
		})
	}
}

func ptr(p Packet) *Packet { return &p }

func TestSegmentStops(t *testing.T) {
	f := flows()[0]
	p := f.super(f.packet(t, 1, 0, payload(5000), true, true), 1000)
	full := errors.New("full")
	calls := 0
	err := Segment(&p, nil, func(Packet) error {
		if calls++; calls == 2 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// TestComplete is K-8 for a path without offload: the partial checksum becomes what the independent encoder wrote.
func TestComplete(t *testing.T) {
	for _, f := range flows() {
		for _, n := range []int{0, 1, 2, 33, 1400} {
			want := f.packet(t, 1, 0, payload(n), false, true)
			p := f.super(want, 1)
			p.Offload.GSO, p.Offload.GSOSize, p.Offload.HdrLen = GSONone, 0, 0
			if err := Complete(&p); err != nil || !bytes.Equal(p.Bytes(), want) || p.Offload != (Offload{}) {
				t.Errorf("%s, %d bytes: %v, %+v\n%x, want\n%x", f.name, n, err, p.Offload, p.Bytes(), want)
			}
		}
	}
}

// TestCompleteZero is U-6 and B-2: a sum of 0 is written as 0xffff for UDP, and as it is for TCP.
func TestCompleteZero(t *testing.T) {
	for _, c := range []struct {
		proto  byte
		offset uint16
		want   uint16
	}{{UDP, 6, 0xffff}, {TCP, 16, 0}} {
		b := make([]byte, 60)
		b[0], b[9] = 0x45, c.proto
		b[20], b[21] = 0xff, 0xff // all of the sum
		p := From(b)
		p.Offload = Offload{Csum: CsumPartial, CsumStart: 20, CsumOffset: c.offset}
		if err := Complete(&p); err != nil {
			t.Fatal(err)
		}
		if got := be.Uint16(p.Bytes()[20+c.offset:]); got != c.want {
			t.Errorf("protocol %d: %#04x, want %#04x", c.proto, got, c.want)
		}
	}
}

func TestCompleteLeavesAlone(t *testing.T) {
	for _, state := range []Csum{CsumUnverified, CsumVerified} {
		p := From(udpPacket(t, 3))
		p.Offload.Csum = state
		before := p.Clone()
		if err := Complete(&p); err != nil || !bytes.Equal(p.Bytes(), before.Bytes()) || p.Offload != before.Offload {
			t.Errorf("state %d: %v, %+v", state, err, p.Offload)
		}
	}
}

// TestBadOffload: metadata that contradicts its packet is refused, and nothing is emitted or written.
func TestBadOffload(t *testing.T) {
	f := flows()
	tcp := f[0].super(f[0].packet(t, 1, 0, payload(3000), false, false), 1000)
	tcp6 := f[1].super(f[1].packet(t, 1, 0, payload(3000), false, false), 1000)
	udp := f[2].super(f[2].packet(t, 1, 0, payload(3000), false, false), 1000)
	for _, c := range []struct {
		name   string
		base   Packet
		change func(p *Packet)
	}{
		{"no packet", tcp, func(p *Packet) { p.Len = 0 }},
		{"19 bytes", tcp, func(p *Packet) { p.Len = 19 }},
		{"the IP header alone", tcp, func(p *Packet) { p.Len = 20 }},
		{"TCP header cut off", tcp, func(p *Packet) { p.Len = 39 }},
		{"no payload", tcp, func(p *Packet) { p.Len = 52 }},
		{"UDP header cut off", udp, func(p *Packet) { p.Len = 27 }},
		{"version 5", tcp, func(p *Packet) { p.Bytes()[0] = 0x55 }},
		{"IHL 4", tcp, func(p *Packet) { p.Bytes()[0] = 0x44 }},
		{"a fragment", tcp, func(p *Packet) { p.Bytes()[7] = 1 }},
		{"segments of nothing", tcp, func(p *Packet) { p.Offload.GSOSize = 0 }},
		{"headers too short", tcp, func(p *Packet) { p.Offload.HdrLen-- }},
		{"headers too long", udp, func(p *Packet) { p.Offload.HdrLen++ }},
		{"data offset 4", tcp, func(p *Packet) { p.Bytes()[32] = 0x40 }},
		{"data offset 15", tcp, func(p *Packet) { p.Bytes()[32] = 0xf0 }},
		{"an unknown kind", tcp, func(p *Packet) { p.Offload.GSO = 200 }},
		{"UDP kind, TCP packet", tcp, func(p *Packet) { p.Offload.GSO = GSOUDP }},
		{"TCP kind, UDP packet", udp, func(p *Packet) { p.Offload.GSO = GSOTCPv4 }},
		{"IPv6 kind, IPv4 packet", tcp, func(p *Packet) { p.Offload.GSO = GSOTCPv6 }},
		{"IPv4 kind, IPv6 packet", tcp6, func(p *Packet) { p.Offload.GSO = GSOTCPv4 }},
		{"sum from the wrong place", tcp, func(p *Packet) { p.Offload.CsumStart = 24 }},
		{"sum from the IP header", tcp6, func(p *Packet) { p.Offload.CsumStart = 20 }},
		{"sum from past the end", tcp6, func(p *Packet) { p.Offload.CsumStart = 65535 }},
		{"sum from behind the TCP header's place", tcp6, func(p *Packet) { p.Offload.CsumStart = 44 }},
		{"the wrong field", tcp, func(p *Packet) { p.Offload.CsumOffset = 6 }},
		{"a field past the end", udp, func(p *Packet) { p.Offload.CsumOffset = 65535 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.base.Clone()
			c.change(&p)
			before := p.Clone()
			if err := p.CheckOffload(); !errors.Is(err, ErrOffload) {
				t.Errorf("CheckOffload: %v", err)
			}
			err := Segment(&p, nil, func(Packet) error { t.Error("emitted"); return nil })
			if !errors.Is(err, ErrOffload) {
				t.Errorf("Segment: %v", err)
			}
			if !bytes.Equal(p.Bytes(), before.Bytes()) {
				t.Error("the packet was changed")
			}
		})
	}
	p := udp.Clone()
	if err := Complete(&p); !errors.Is(err, ErrOffload) {
		t.Errorf("Complete of a super-packet: %v", err)
	}
	for _, o := range []Offload{
		{Csum: CsumPartial, CsumStart: 10, CsumOffset: 6},
		{Csum: CsumPartial, CsumStart: 20, CsumOffset: 65535},
		{Csum: CsumPartial, CsumStart: 65535, CsumOffset: 65535},
		{Csum: CsumPartial, CsumStart: uint16(udp.Len - 2), CsumOffset: 1},
	} {
		p.Offload = o
		if err := Complete(&p); !errors.Is(err, ErrOffload) {
			t.Errorf("Complete with %+v: %v", o, err)
		}
	}
}

// TestSegmentAllocatesNothing with scratch at hand and a function that is there already.
func TestSegmentAllocatesNothing(t *testing.T) {
	f := flows()[0]
	p := f.super(f.packet(t, 1, 0, payload(60_000), true, true), 1448)
	scratch := make([]byte, Headroom+p.WireLen())
	emit := func(Packet) error { return nil }
	if n := testing.AllocsPerRun(100, func() {
		if err := Segment(&p, scratch, emit); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSegment(b *testing.B) {
	for _, f := range flows() {
		if f.v6 {
			continue
		}
		b.Run(f.name+"/64KB-by-1448", func(b *testing.B) {
			p := f.super(f.packet(b, 1, 0, payload(64_000), true, true), 1448)
			scratch := make([]byte, Headroom+p.WireLen())
			emit := func(Packet) error { return nil }
			b.SetBytes(int64(p.Len))
			b.ReportAllocs()
			for b.Loop() {
				if err := Segment(&p, scratch, emit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestPartialICMPv6: the one partial checksum of another place than those of TCP and UDP, behind extension headers too.
func TestPartialICMPv6(t *testing.T) {
	for _, extension := range []int{0, 8} {
		b := make([]byte, 40+extension+16)
		b[0], b[6] = 0x60, ICMPv6
		if extension > 0 {
			b[6] = 60 // destination options
			b[40] = ICMPv6
		}
		p := From(b)
		p.Offload = Offload{Csum: CsumPartial, CsumStart: uint16(40 + extension), CsumOffset: 2}
		if err := p.CheckOffload(); err != nil {
			t.Errorf("with %d bytes of extensions: %v", extension, err)
		}
		if p.Offload.CsumOffset = 4; p.CheckOffload() == nil {
			t.Errorf("with %d bytes of extensions: a field at 4 was accepted", extension)
		}
	}
}

// TestSegmentOfNoSegments: a packet that is none too many is completed, and refused if it cannot be.
func TestSegmentOfNoSegments(t *testing.T) {
	p := From(make([]byte, 37))
	p.Offload = Offload{Csum: CsumPartial, CsumStart: 20, CsumOffset: 16}
	if err := Segment(&p, nil, func(Packet) error { t.Error("emitted"); return nil }); !errors.Is(err, ErrOffload) {
		t.Errorf("%v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"testing"

	"github.com/google/gopacket/layers"
)

func seeds(f *testing.F) (out [][]byte) {
	option := layers.IPv4Option{OptionType: 7, OptionLength: 8, OptionData: make([]byte, 6)}
	for _, b := range [][]byte{
		udpPacket(f, 0), udpPacket(f, 9, option), tcpPacket(f, 30), tcpPacket(f, 1, option),
		icmpPacket(f, Echo, 0), icmpPacket(f, Unreachable, 4), icmpPacket(f, Redirect, 0),
	} {
		out = append(out, b, with(b, set(6, 0x20, 0)), with(b, set(6, 0, 1)), b[:len(b)-1])
	}
	return out
}

// FuzzParse: what Parse calls right has all the bytes that its readers will touch. The input is tried as it is, and
// with the header checksum made right, without which nothing would be reached.
func FuzzParse(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkParse(t, b)
		if len(b) >= 20 {
			checkParse(t, with(b, func([]byte) {}))
		}
	})
}

func checkParse(t *testing.T, b []byte) {
	before := bytes.Clone(b)
	var v View
	fault := v.Parse(b)
	if !bytes.Equal(b, before) {
		t.Fatal("Parse wrote to the packet")
	}
	if fault != OK {
		return
	}
	total, l4 := int(v.Total), int(v.L4)
	if l4 < 20 || l4 > 60 || total < l4 || total > len(b) {
		t.Fatalf("header of %d bytes in %d, of a buffer of %d", l4, total, len(b))
	}
	if slowChecksum(b[:l4]) != 0 {
		t.Fatal("the header checksum is wrong")
	}
	n := total - l4
	need := 0
	switch {
	case v.Kind == KindFragment && v.FragOff != 0, v.Kind == KindOther && v.Proto != ICMP:
	case v.Proto == TCP:
		need = 20
	default:
		need = 8
	}
	if v.Kind == KindFragment && need > 0 && v.Proto != TCP && v.Proto != UDP && v.Proto != ICMP {
		need = 0 // of a protocol whose header nobody looks at
	}
	if n < need {
		t.Fatalf("%d bytes of transport, kind %d, protocol %d", n, v.Kind, v.Proto)
	}
	if v.Kind == KindFragment && (!v.MF && v.FragOff == 0 || v.MF && n%8 != 0 || l4+int(v.FragOff)+n > 65535) {
		t.Fatalf("fragment %+v", v)
	}
	if v.Kind == KindFlow && v.Proto == UDP && int(be.Uint16(b[l4+4:])) > n {
		t.Fatal("the UDP length is past the end")
	}
	if v.Kind == KindFlow && v.Proto == TCP && int(b[l4+12]>>4)*4 > n {
		t.Fatal("the TCP header is past the end")
	}
	// A tail is no part of the packet.
	var w View
	if fault := w.Parse(append(bytes.Clone(b[:total]), 1, 2, 3)); fault != OK || w != v {
		t.Fatalf("with a tail: fault %d, %+v, not %+v", fault, w, v)
	}
}

// FuzzParseQuote: a flow has the bytes of its ports, and reading a quote never depends on what lies behind it.
func FuzzParseQuote(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v View
		ok, fault := v.ParseQuote(b[:len(b):len(b)])
		if fault != OK {
			return
		}
		l4 := int(v.L4)
		if l4 < 20 || l4 > len(b) {
			t.Fatalf("header of %d bytes in %d", l4, len(b))
		}
		if ok != (slowChecksum(b[:l4]) == 0) {
			t.Fatal("wrong about the header checksum")
		}
		need := map[uint8]int{TCP: 4, UDP: 4, ICMP: 6}[v.Proto]
		if v.Kind == KindFlow && (need == 0 || len(b)-l4 < need) {
			t.Fatalf("a flow of protocol %d with %d bytes", v.Proto, len(b)-l4)
		}
	})
}

// FuzzWhole: the first piece of a datagram tells the same as the datagram.
func FuzzWhole(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b, uint16(len(b)))
		f.Add(b, uint16(1000))
	}
	f.Fuzz(func(t *testing.T, b []byte, length uint16) {
		var first, whole View
		if len(b) < 20 {
			return
		}
		first.Parse(b)
		if first.L4 < 20 || int(first.Total) > len(b) || first.Total < uint16(first.L4) {
			return
		}
		b = b[:first.Total]
		piece := with(b, set(6, 0x20, 0)) // offset 0, and more to come
		if first.Parse(piece) != OK || int(length) < len(b)-int(first.L4) || int(length)+int(first.L4) > 65535 {
			return
		}
		datagram := append(bytes.Clone(b), make([]byte, int(length)-(len(b)-int(first.L4)))...)
		want := whole.Parse(with(datagram, func(b []byte) {
			be.PutUint16(b[2:], uint16(len(b)))
			be.PutUint16(b[6:], 0)
		}))
		got := first.Whole(piece, int(length))
		if want == BadTransport && length < 8 { // not even a header: such a piece is never the first one
			return
		}
		if got != want {
			t.Fatalf("fault %d, want %d", got, want)
		}
		if got == OK && (first.Kind != whole.Kind || first.Kind == KindFlow && (first.SrcPort != whole.SrcPort || first.DstPort != whole.DstPort || first.Flags != whole.Flags)) {
			t.Fatalf("%+v, want %+v", first, whole)
		}
	})
}

// FuzzSegment: whatever the packet and its metadata are, segments are valid packets that add up to the payload.
func FuzzSegment(f *testing.F) {
	for _, fl := range flows() {
		p := fl.super(fl.packet(f, 1, 0, payload(300), true, true), 100)
		o := p.Offload
		f.Add(p.Bytes(), byte(o.Csum), byte(o.GSO), o.HdrLen, o.GSOSize, o.CsumStart, o.CsumOffset)
		f.Add(p.Bytes(), byte(CsumUnverified), byte(o.GSO), o.HdrLen, o.GSOSize, uint16(0), uint16(0))
		f.Add(p.Bytes(), byte(o.Csum), byte(GSONone), uint16(0), uint16(0), o.CsumStart, o.CsumOffset)
	}
	f.Fuzz(func(t *testing.T, b []byte, csum, gso byte, hdrLen, gsoSize, start, offset uint16) {
		if len(b) > 65535 || gso != byte(GSONone) && int(gsoSize)*1000 < len(b) { // not too many
			return
		}
		p := From(b)
		p.Offload = Offload{
			Csum: Csum(csum), GSO: GSO(gso), HdrLen: hdrLen, GSOSize: gsoSize, CsumStart: start, CsumOffset: offset,
		}
		super := p.Offload.GSO != GSONone
		segments, wireLen, got := p.Segments(), p.WireLen(), []byte(nil)
		n := 0
		err := Segment(&p, nil, func(q Packet) error {
			n++
			if !super {
				return nil
			}
			s := q.Bytes()
			if len(s) > wireLen {
				t.Fatalf("a segment of %d bytes, WireLen() was %d", len(s), wireLen)
			}
			if s[0]>>4 == 4 {
				checkSegment(t, s)
			}
			got = append(got, s[hdrLen:]...)
			return nil
		})
		if err != nil {
			if n > 0 {
				t.Fatalf("%v after %d segments", err, n)
			}
			return
		}
		if n != segments || super && !bytes.Equal(got, b[hdrLen:]) {
			t.Fatalf("%d segments, Segments() was %d; %d bytes of %d", n, segments, len(got), len(b)-int(hdrLen))
		}
	})
}

func checkSegment(t *testing.T, s []byte) {
	l4 := int(s[0]&15) * 4
	if int(be.Uint16(s[2:])) != len(s) || slowChecksum(s[:l4]) != 0 {
		t.Fatalf("the IP header of %x", s)
	}
	if s[9] == UDP && be.Uint16(s[l4+6:]) == 0 {
		return
	}
	n := len(s) - l4
	pseudo := append(bytes.Clone(s[12:20]), 0, s[9], byte(n>>8), byte(n))
	if slowSum(append(pseudo, s[l4:]...)) != 0xffff {
		t.Fatalf("the transport checksum of %x", s)
	}
}

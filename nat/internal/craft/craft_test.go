// SPDX-License-Identifier: Apache-2.0

package craft

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/tidegate/tidegate/packet"
)

var ip = IP{Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("203.0.113.9"), ID: 7}

// The sums of gopacket are a third opinion.
func TestAgainstGopacket(t *testing.T) {
	h := &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocolTCP, SrcIP: ip.Src.AsSlice(), DstIP: ip.Dst.AsSlice()}
	l4 := &layers.TCP{SrcPort: 5000, DstPort: 80, Seq: 1, SYN: true, Window: 1000,
		Options: []layers.TCPOption{{OptionType: 2, OptionLength: 4, OptionData: []byte{5, 0xb4}}}}
	if err := l4.SetNetworkLayerForChecksum(h); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, h, l4, gopacket.Payload("odd")); err != nil {
		t.Fatal(err)
	}
	got := TCP(ip, Segment{Src: 5000, Dst: 80, Seq: 1, Flags: packet.SYN, Window: 1000, Options: []byte{2, 4, 5, 0xb4}}, []byte("odd"))
	if !bytes.Equal(got, buf.Bytes()) {
		t.Errorf("got  % x\nwant % x", got, buf.Bytes())
	}
}

// TestVector is row U-6: a datagram whose checksum is known.
func TestVector(t *testing.T) {
	b := UDP(ip, 5000, 53, []byte{0xfd, 0x1f})
	if got := be.Uint16(b[26:]); got != 0xa8ee {
		t.Errorf("checksum %#x, want 0xa8ee", got)
	}
	ip := ip
	ip.Src = netip.MustParseAddr("198.51.100.7")
	b = UDP(ip, 40000, 53, []byte{0xfd, 0x1f})
	if got := be.Uint16(b[26:]); got != 0xffff {
		t.Errorf("checksum %#x, want 0xffff", got)
	}
}

func TestVerify(t *testing.T) {
	udp := UDP(ip, 5000, 53, []byte("payload"))
	for _, c := range []struct {
		name, want string
		b          []byte
		flip       int
	}{
		{"header", "IP header", udp, 8},
		{"udp", "UDP", udp, 30},
		{"tcp", "TCP", TCP(ip, Segment{Src: 1, Dst: 2, Flags: packet.ACK}, []byte("x")), 25},
		{"icmp", "ICMP", Query(ip, packet.Echo, 0, 1, 2, []byte("x")), 28},
		{"quote", "ICMP", Error(ip, 3, 1, 0, udp[:28]), 36},
		{"length", "lengths", udp[:30], 30},
	} {
		if c.flip < len(c.b) {
			if err := Verify(c.b); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		b := append([]byte(nil), c.b...)
		if c.flip < len(b) {
			b[c.flip] ^= 0x10
		}
		if err := Verify(b); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want one about %s", c.name, err, c.want)
		}
	}

	// A quoted header that was wrong before it was quoted: only that one is.
	quote := append([]byte(nil), udp...)
	quote[8]--
	if err := Verify(Error(ip, 11, 0, 0, quote)); err == nil || !strings.HasPrefix(err.Error(), "quoted") {
		t.Errorf("wrong quote: %v", err)
	}
	// No UDP checksum, and a computed 0 that was not written as all ones.
	be.PutUint16(udp[26:], 0)
	if err := Verify(udp); err != nil {
		t.Errorf("without checksum: %v", err)
	}
}

func TestCut(t *testing.T) {
	b := UDP(ip, 5000, 53, make([]byte, 100))
	pieces := Cut(b, 8, 64)
	var body []byte
	for _, p := range pieces {
		if err := Verify(p); err != nil {
			t.Error(err)
		}
		body = append(body, p[20:]...)
	}
	if !bytes.Equal(body, b[20:]) || len(pieces) != 3 || pieces[2][6] != 0 || pieces[2][7] != 8 || pieces[1][6] != 0x20 {
		t.Errorf("pieces %x", pieces)
	}
}

func TestPartial(t *testing.T) {
	b := TCP(ip, Segment{Src: 1, Dst: 2, Flags: packet.ACK}, []byte("xyz"))
	p := Super(b, 2)
	got := p.Bytes()
	want := be.Uint16(b[36:])
	if sum := Checksum(got[20:]); sum != want { // what the interface card does: the field counts in
		t.Errorf("completed to %#x, want %#x", sum, want)
	}
	if p.Segments() != 2 || p.WireLen() != 42 {
		t.Errorf("%d segments of %d", p.Segments(), p.WireLen())
	}
}

func TestFix(t *testing.T) {
	for _, b := range [][]byte{
		UDP(ip, 5000, 53, []byte("payload")), TCP(ip, Segment{Src: 1, Dst: 2}, nil), Query(ip, 8, 0, 1, 1, []byte("abc")),
	} {
		b = append(b, "more"...)
		b[15]++
		Fix(b)
		if err := Verify(b); err != nil {
			t.Error(err)
		}
	}
}

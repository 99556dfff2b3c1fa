// SPDX-License-Identifier: Apache-2.0

package craft

import (
	"bytes"
	"slices"
	"testing"

	"github.com/tidegate/tidegate/packet"
)

func TestSkews(t *testing.T) {
	udp := UDP(ip, 5000, 53, []byte("payload"))
	whole := Error(ip, packet.TimeExceeded, 0, 0, udp)
	off := func(b []byte, field int, by uint32) []byte {
		b = bytes.Clone(b)
		x := uint32(be.Uint16(b[field:])) + by
		be.PutUint16(b[field:], uint16(x+x>>16))
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		want []uint16
	}{
		{"right", udp, []uint16{0, 0}},
		{"header", off(udp, 10, 0x0101), []uint16{0x0101, 0}},
		{"transport", off(udp, 26, 0xfffe), []uint16{0, 0xfffe}},
		{"no checksum", append(bytes.Clone(udp[:26]), append([]byte{0, 0}, udp[28:]...)...), []uint16{0}},
		{"quote", whole, []uint16{0, 0, 0, 0}},
		{"quoted header", Error(ip, packet.TimeExceeded, 0, 0, off(udp, 10, 5)), []uint16{0, 0, 5, 0}},
		{"quoted transport", Error(ip, packet.TimeExceeded, 0, 0, off(udp, 26, 7)), []uint16{0, 0, 0, 7}},
		{"cut quote", Error(ip, packet.TimeExceeded, 0, 0, udp[:30]), []uint16{0, 0, 0}},
		{"fragment", Cut(udp, 8)[0], []uint16{0}},
	} {
		if got := Skews(c.b); !slices.Equal(got, c.want) {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	// The other zero is not the one to write.
	zero := Query(ip, packet.Echo, 0, 0, 0, nil)
	be.PutUint16(zero[24:], be.Uint16(zero[22:])) // now the sum is 0
	Fix(zero)
	if be.Uint16(zero[22:]) != 0 {
		t.Fatalf("checksum %#04x, want the example of 0", be.Uint16(zero[22:]))
	}
	be.PutUint16(zero[22:], 0xffff)
	if got := Skews(zero); got[1] != 0xffff {
		t.Errorf("the other zero: %#x", got)
	}
}

func TestQuote(t *testing.T) {
	udp := UDP(ip, 5000, 53, []byte("payload"))
	if got := Quote(Error(ip, packet.Unreachable, 3, 0, udp)); !bytes.Equal(got, udp) {
		t.Errorf("% x, want % x", got, udp)
	}
	for _, b := range [][]byte{nil, udp, Query(ip, packet.Echo, 0, 1, 1, udp), Error(ip, packet.Unreachable, 3, 0, udp)[:30]} {
		if got := Quote(b); got != nil {
			t.Errorf("% x quotes % x", b, got)
		}
	}
}

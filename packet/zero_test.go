// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"testing"

	"github.com/tidegate/tidegate/packet"
)

// TestZeroValues: an empty Packet is a packet without bytes, a zero View is one to be filled in, and a zero Delta changes
// nothing.
func TestZeroValues(t *testing.T) {
	var p packet.Packet
	c := p.Clone()
	if len(p.Bytes())+len(c.Bytes()) != 0 || p.Segments() != 1 || p.WireLen() != 0 {
		t.Errorf("%+v is %d packets of %d bytes", p, p.Segments(), p.WireLen())
	}
	if err := p.CheckOffload(); err != nil {
		t.Error(err)
	}
	if err := packet.Complete(&p); err != nil {
		t.Error(err)
	}
	n := 0
	if err := packet.Segment(&p, nil, func(packet.Packet) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d segments, %v", n, err)
	}
	var v packet.View
	if f := v.Parse(p.Bytes()); f != packet.ShortPacket {
		t.Errorf("fault %d", f)
	}
	if ok, f := v.ParseQuote(nil); ok || f != packet.ShortPacket {
		t.Errorf("quote: %v, fault %d", ok, f)
	}
	var d packet.Delta
	for _, sum := range []uint16{0, 1, 0x1234, 0xffff} {
		if d.Apply(sum) != sum {
			t.Errorf("%#x becomes %#x", sum, d.Apply(sum))
		}
	}
	if packet.Checksum(nil) != 0xffff || packet.Sum(nil, 7) != 7 || packet.Fold(0) != 0 {
		t.Error("the sum of nothing")
	}
}

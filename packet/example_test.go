// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"

	"github.com/tidegate/tidegate/packet"
)

// A source address and port are changed without looking at the payload.
func ExampleDelta() {
	there := packet.Delta32(0x0a000005, 0xc6336407).Plus(packet.Delta16(5000, 40000))
	sum := uint16(0xa8ee)
	for _, d := range []packet.Delta{there, there.Reverse()} {
		sum = d.ApplyUDP(sum) // on the way there it computes to 0, which UDP sends as 0xffff
		fmt.Printf("%#04x\n", sum)
	}
	// Output:
	// 0xffff
	// 0xa8ee
}

// A super-packet of UDP with 2,500 bytes of payload goes out over an interface that cannot segment.
func ExampleSegment() {
	b := make([]byte, 28+2500)
	copy(b, []byte{0x45, 0, 0x09, 0xe0, 0, 7, 0x40, 0, 64, packet.UDP, 0, 0, 10, 0, 0, 5, 203, 0, 113, 9})
	p := packet.From(b)
	p.Offload = packet.Offload{
		Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6,
		GSO: packet.GSOUDP, HdrLen: 28, GSOSize: 1000,
	}
	err := packet.Segment(&p, nil, func(q packet.Packet) error {
		var v packet.View
		fmt.Println(q.Len, "bytes, fault", v.Parse(q.Bytes()), "identification", v.ID)
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// 1028 bytes, fault 0 identification 7
	// 1028 bytes, fault 0 identification 8
	// 528 bytes, fault 0 identification 9
}

// A packet is a plain value around a buffer of the caller's. Its headers are looked at once.
func ExampleView_Parse() {
	p := packet.From([]byte{ // UDP, 10.0.1.10:5000 > 198.51.100.7:53
		0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0x05, 0x8c, 10, 0, 1, 10, 198, 51, 100, 7, 0x13, 0x88, 0, 53, 0, 8, 0, 0})
	var v packet.View
	if fault := v.Parse(p.Bytes()); fault != packet.OK {
		fmt.Println("not to be forwarded:", fault)
	}
	fmt.Println(v.Kind == packet.KindFlow, v.Proto == packet.UDP, v.SrcPort, v.DstPort, v.DF)
	fmt.Println(p.Len, "bytes behind", p.Off)

	p.Bytes()[8]-- // a TTL that goes down, and nobody has told the checksum
	fmt.Println(v.Parse(p.Bytes()) == packet.BadHeaderChecksum)
	// Output:
	// true true 5000 53 true
	// 28 bytes behind 32
	// true
}

// An interface without checksum offload gets a packet whose checksum was left to it.
func ExampleComplete() {
	b := []byte{0x45, 0, 0, 32, 0, 1, 0x40, 0, 64, 17, 0x05, 0x88, 10, 0, 1, 10, 198, 51, 100, 7, 0x13, 0x88, 0, 53, 0, 12, 0, 0, 'd', 'a', 't', 'a'}
	pseudo := packet.PseudoIPv4(0x0a00010a, 0xc6336407, packet.UDP, 12)
	half := packet.Fold(pseudo)
	b[26], b[27] = byte(half>>8), byte(half)
	p := packet.From(b)
	p.Offload = packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6}
	err := packet.Complete(&p)
	fmt.Println(err, p.Offload == packet.Offload{}, packet.Fold(packet.Sum(p.Bytes()[20:], pseudo)) == 0xffff)
	// Output: <nil> true true
}

// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"

	"github.com/tidegate/tidegate/packet"
)

// A source address and port are changed without looking at the payload.
func ExampleDelta() {
	d := packet.Delta32(0x0a000005, 0xc6336407).Plus(packet.Delta16(5000, 40000))
	fmt.Printf("%#04x\n", d.ApplyUDP(0xa8ee)) // computes to 0, which UDP sends as 0xffff
	fmt.Printf("%#04x\n", d.Reverse().ApplyUDP(0xffff))
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

// SPDX-License-Identifier: Apache-2.0

package tuntest_test

import (
	"fmt"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun/tuntest"
)

// One end of a Pipe stands for the network; the other is given to whatever is tested.
func ExamplePipe() {
	near, far := tuntest.Pipe(tuntest.Options{Name: "inside", MTU: 1400})
	if err := far.Send(packet.From([]byte("a packet"))); err != nil {
		fmt.Println(err)
	}
	ps := make([]packet.Packet, near.BatchSize())
	for i := range ps {
		ps[i].Buf = make([]byte, near.BufferSize())
	}
	n, err := near.Read(ps)
	fmt.Println(n, err)
	fmt.Printf("%s\n", ps[0].Bytes())
	// Output:
	// 1 <nil>
	// a packet
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// Private hosts in 10.0.0.0/16 go out as 203.0.113.1.
func Example() {
	inside := netip.MustParsePrefix("10.0.0.0/16")
	engine, err := nat.New(nat.Config{}, &nat.Policy{
		Inside: []netip.Prefix{inside},
		Pools:  []nat.Pool{{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}},
		Routes: []nat.Route{{Source: inside, Pool: "public"}},
	})
	if err != nil {
		panic(err)
	}
	worker := engine.Worker() // one for each goroutine
	start := time.Now()
	const fromInside, fromOutside = 0, 1 // the attachments of a policy that names none

	for _, b := range somePackets() {
		p := packet.From(b) // what a TUN device would have read
		verdict := worker.Translate(&p, fromInside, time.Since(start))
		if verdict.Forward() {
			fmt.Printf("%v: goes %v\n", verdict, verdict.Side()) // write p.Bytes() there
		} else {
			fmt.Printf("%v: %s\n", verdict, verdict.Text())
		}
	}
	_ = fromOutside
	// Output:
	// outbound: goes outside
	// spoof: a source that does not belong to where the packet came from
}

// somePackets are what a device might give: one of a host inside, one with a source that nobody inside has.
func somePackets() [][]byte {
	server := netip.MustParseAddr("198.51.100.7")
	return [][]byte{
		craft.UDP(craft.IP{Src: netip.MustParseAddr("10.0.1.10"), Dst: server}, 5000, 53, []byte("query")),
		craft.UDP(craft.IP{Src: netip.MustParseAddr("192.168.1.1"), Dst: server}, 5000, 53, []byte("query")),
	}
}

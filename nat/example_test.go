// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
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
		panic(err) // every fault of the policy at once
	}
	worker, start := engine.Worker(), time.Now() // a worker for each goroutine

	p := packet.From([]byte{ // UDP, 10.0.1.10:5000 > 198.51.100.7:53; a device would have read it
		0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0x05, 0x8c, 10, 0, 1, 10, 198, 51, 100, 7, 0x13, 0x88, 0, 53, 0, 8, 0, 0})
	verdict := worker.Translate(&p, nat.FromInside, time.Since(start)) // rewrites p in place
	if verdict.Forward() {
		fmt.Println("to", verdict.Side(), netip.AddrFrom4([4]byte(p.Bytes()[12:16])))
	} else {
		fmt.Println(verdict, "-", verdict.Text())
	}
	for _, e := range worker.Emitted() { // what the engine sends of its own accord: ICMP errors, RSTs, fragments
		fmt.Println("also to", e.Side, e.Packet.Len)
	}
	worker.Tick(time.Since(start)) // now and then: timers, and the memory of what has ended
	// Output: to outside 203.0.113.1
}

// Packets of no host inside are dropped, and the verdict says why.
func ExampleVerdict_Text() {
	for _, v := range []nat.Verdict{nat.DropSpoof, nat.DropNoPath, nat.DropNoPort} {
		fmt.Printf("%v: %s\n", v, v.Text())
	}
	// Output:
	// spoof: a source that does not belong to where the packet came from
	// no_public_path: the source has no public address and no route to a NAT pool
	// no_port: no external port is left for this flow
}

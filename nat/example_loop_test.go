// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// arrival is a packet that reaches the loop, at a time on the loop's own clock.
type arrival struct {
	at   time.Duration
	from nat.AttachmentID
	raw  []byte
}

// An event loop of your own, with a clock of your own: here a queue of arrivals in virtual time, so that six minutes take
// none. With channels or a poller it is the same: whatever comes first, the next packets or the next timer.
func Example_eventLoop() {
	inside := netip.MustParsePrefix("10.0.0.0/16")
	engine, err := nat.New(nat.Config{}, &nat.Policy{
		Inside:   []netip.Prefix{inside},
		Pools:    []nat.Pool{{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}},
		Routes:   []nat.Route{{Source: inside, Pool: "public"}},
		Forwards: []nat.Forward{{Protocol: packet.UDP, Outside: netip.MustParseAddrPort("203.0.113.1:8080"), Inside: netip.MustParseAddrPort("10.0.1.10:80")}},
	})
	if err != nil {
		panic(err)
	}
	worker := engine.Worker()

	send := func(now time.Duration, to nat.Side, p packet.Packet) { // a device would write it
		b := p.Bytes()
		fmt.Println(now, "to the", to, netip.AddrFrom4([4]byte(b[12:16])), ">", netip.AddrFrom4([4]byte(b[16:20])))
	}
	queue := []arrival{ // UDP: two requests to the forwarded port, and the answers of the host behind it
		{5 * time.Millisecond, nat.FromOutside, []byte{
			0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0xd4, 0x93, 198, 51, 100, 7, 203, 0, 113, 1, 0x13, 0x88, 0x1f, 0x90, 0, 8, 0, 0}},
		{9 * time.Millisecond, nat.FromInside, []byte{
			0x45, 0, 0, 28, 0, 2, 0x40, 0, 64, 17, 0x05, 0x8b, 10, 0, 1, 10, 198, 51, 100, 7, 0, 80, 0x13, 0x88, 0, 8, 0, 0}},
		{6 * time.Minute, nat.FromInside, []byte{ // the session has ended: it leaves as a flow of its own, through the same forward
			0x45, 0, 0, 28, 0, 3, 0x40, 0, 64, 17, 0x05, 0x8a, 10, 0, 1, 10, 198, 51, 100, 7, 0, 80, 0x13, 0x88, 0, 8, 0, 0}},
	}

	var packets [64]packet.Packet
	var verdicts [64]nat.Verdict
	timer := worker.Tick(0)
	for len(queue) > 0 {
		now := min(queue[0].at, timer)
		n, from := 0, queue[0].from
		for len(queue) > 0 && n < len(packets) && queue[0].at == now && queue[0].from == from { // all of one side is one batch
			packets[n] = packet.From(queue[0].raw)
			queue = queue[1:]
			n++
		}
		worker.Batch(packets[:n], from, now, verdicts[:n])
		for i, v := range verdicts[:n] {
			if v.Forward() {
				send(now, v.Side(), packets[i])
			} else {
				fmt.Println(now, v)
			}
		}
		for _, e := range worker.Emitted() { // valid until the next call
			send(now, e.Side, e.Packet)
		}
		if timer <= now {
			timer = worker.Tick(now)
			for _, e := range worker.Emitted() {
				send(now, e.Side, e.Packet)
			}
		}
	}
	s := engine.Stats(6 * time.Minute)
	fmt.Println(s.Created, "sessions made,", s.Expired, "expired")
	// Output:
	// 5ms to the inside 198.51.100.7 > 10.0.1.10
	// 9ms to the outside 203.0.113.1 > 198.51.100.7
	// 6m0s to the outside 203.0.113.1 > 198.51.100.7
	// 2 sessions made, 1 expired
}

// SPDX-License-Identifier: Apache-2.0

package conntrack_test

import (
	"fmt"

	"github.com/tidegate/tidegate/conntrack"
)

// A session lives as long as something refreshes it. The clock is the caller's, in milliseconds, and nothing happens
// between two calls.
func ExampleTable() {
	table, err := conntrack.New(conntrack.Config{Sessions: 1000}, nil)
	if err != nil {
		panic(err)
	}
	table.Timeouts[conntrack.UDPOpening] = 30_000 // of pool 0
	table.Timeouts[conntrack.UDP] = 300_000
	table.Ended = func(_ conntrack.Handle, r *conntrack.Record, why conntrack.Reason, at uint32) {
		fmt.Println("ended at", at, "since it timed out:", why == conntrack.TimedOut)
	}

	const inside, remote, external = 0x0a00010a, 0xc6336407, 0xcb007101
	h := table.Add(&conntrack.Record{
		In: inside, InPort: 5000, Rem: remote, RemPort: 53, Ext: external, ExtPort: 40000, Proto: 17,
		State: conntrack.UDPOpening, LastSeen: 1_000,
	})

	// An answer at 2 s finds it by its external tuple.
	tag := table.InTag(external, remote, 40000, 17)
	found, _ := table.FindIn(tag, external, remote, 40000, 53, 17)
	fmt.Println("found:", found == h, "alive:", table.Live(found, 2_000) != conntrack.None)
	table.Answered(h)
	fmt.Println("state:", table.Rec(h).State)

	// The next packet from inside comes at 400 s: too late, whether Advance was called or not.
	tag = table.OutTag(inside, remote, 5000<<16|53, 17)
	found = table.FindOut(tag, inside, remote, 5000<<16|53, 17)
	fmt.Println("alive:", table.Live(found, 400_000) != conntrack.None, "in use:", table.Used())
	// Output:
	// found: true alive: true
	// state: udp
	// ended at 301000 since it timed out: true
	// alive: false in use: 0
}

// What nobody asks about is given back by Advance, in steps as small as the caller likes.
func ExampleTable_Advance() {
	table, err := conntrack.New(conntrack.Config{Sessions: 1000}, nil)
	if err != nil {
		panic(err)
	}
	table.Timeouts[conntrack.UDP] = 300_000
	for port := range uint16(500) {
		table.Add(&conntrack.Record{In: 0x0a00010a, InPort: port, Rem: 0xc6336407, RemPort: 53, Ext: 0xcb007101, ExtPort: port, Proto: 17, State: conntrack.UDP})
	}
	fmt.Println("all at once:", table.Advance(300_000, 200))
	for !table.Advance(300_000, 200) { // between two batches of packets, say
	}
	fmt.Println(table.Used(), "left,", table.Stats().Expired, "expired")
	// Output:
	// all at once: false
	// 0 left, 500 expired
}

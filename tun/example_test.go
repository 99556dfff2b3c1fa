// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// A NAT between two TUN devices: one goroutine reads each, with a worker of its own. Addresses, routes and "up" are
// somebody else's business (for a gateway, see examples/gateway).
func Example() {
	inside := netip.MustParsePrefix("10.0.0.0/16")
	engine, err := nat.New(nat.Config{}, &nat.Policy{
		Inside: []netip.Prefix{inside},
		Pools:  []nat.Pool{{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}},
		Routes: []nat.Route{{Source: inside, Pool: "public"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	var devices [2]tun.Device // by side
	for side, name := range []string{"nat-in", "nat-out"} {
		if devices[side], err = tun.Open(tun.Options{Name: name}); err != nil {
			log.Fatal(err)
		}
		defer devices[side].Close()
	}
	start := time.Now()
	var writing [2]sync.Mutex // two Writes of one device may not run at once
	send := func(side nat.Side, ps ...packet.Packet) {
		writing[side].Lock()
		defer writing[side].Unlock()
		if _, err := devices[side].Write(ps); err != nil {
			log.Print(err) // what the interface refuses is lost, as on any link
		}
	}
	pump := func(from nat.Side) error {
		d, w := devices[from], engine.Worker()
		ps, vs := make([]packet.Packet, d.BatchSize()), make([]nat.Verdict, d.BatchSize())
		for i := range ps {
			ps[i].Buf = make([]byte, d.BufferSize())
		}
		for {
			n, err := d.Read(ps)
			if errors.Is(err, os.ErrClosed) {
				return nil
			} else if err != nil {
				return err
			}
			w.Batch(ps[:n], nat.AttachmentID(from), time.Since(start), vs)
			for i, v := range vs[:n] {
				if v.Forward() {
					send(v.Side(), ps[i])
				}
			}
			for _, e := range w.Emitted() {
				send(e.Side, e.Packet)
			}
		}
	}
	go func() { // timers: held SYNs are answered, ended sessions make room
		w := engine.Worker()
		for range time.Tick(100 * time.Millisecond) {
			w.Tick(time.Since(start))
			for _, e := range w.Emitted() {
				send(e.Side, e.Packet)
			}
		}
	}()
	go func() { fmt.Println(pump(nat.Outside)) }()
	fmt.Println(pump(nat.Inside))
}

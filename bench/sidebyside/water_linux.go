// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/songgao/water"

	"github.com/tidegate/tidegate/bench/sidebyside/forward"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// runWater forwards as most programs with a TUN do: a goroutine for each side, a packet a call, no offload. It ends with an
// error when an interface has gone.
func runWater(inside netip.Prefix, public netip.Addr) error {
	engine, err := forward.NewEngine(inside, public)
	if err != nil {
		return err
	}
	var devs [2]*water.Interface
	for side, name := range []string{nat.Inside: forward.Inside, nat.Outside: forward.Outside} {
		devs[side], err = water.New(water.Config{DeviceType: water.TUN, PlatformSpecificParams: water.PlatformSpecificParams{Name: name}})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	fmt.Println(forward.Ready)
	start, ended := time.Now(), make(chan error)
	for from, id := range []nat.AttachmentID{nat.Inside: nat.FromInside, nat.Outside: nat.FromOutside} {
		go func() {
			worker := engine.Worker()
			buf := make([]byte, packet.Headroom+2048)
			for {
				n, err := devs[from].Read(buf[packet.Headroom:])
				if err != nil {
					ended <- err
					return
				}
				p := packet.Packet{Buf: buf, Off: packet.Headroom, Len: n}
				if v := worker.Translate(&p, id, time.Since(start)); v.Forward() {
					write(devs[v.Side()], p.Bytes())
				}
				for _, e := range worker.Emitted() {
					write(devs[e.Side], e.Packet.Bytes())
				}
				worker.Tick(time.Since(start))
			}
		}()
	}
	return <-ended
}

// write ignores faults, as a router does: the packet is lost.
func write(w io.Writer, b []byte) { _, _ = w.Write(b) }

func waterMain(args []string) error {
	inside, public, err := addresses(args)
	if err != nil {
		return err
	}
	return runWater(inside, public)
}

func addresses(args []string) (inside netip.Prefix, public netip.Addr, err error) {
	if len(args) != 2 {
		return inside, public, fmt.Errorf("%s PREFIX ADDR", os.Args[1])
	}
	if inside, err = netip.ParsePrefix(args[0]); err != nil {
		return inside, public, err
	}
	public, err = netip.ParseAddr(args[1])
	return inside, public, err
}

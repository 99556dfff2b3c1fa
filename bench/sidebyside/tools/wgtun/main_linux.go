// SPDX-License-Identifier: Apache-2.0

// Command wgtun forwards between two TUN interfaces of wireguard's package tun, with the engine of this tree: reads split
// super-packets into batches of packets, writes join them again.
package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/tidegate/tidegate/bench/sidebyside/forward"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

const (
	mtu = 1500
	// offset is where packets begin in their buffers: wireguard wants room for a virtio header before them, and space after.
	offset = packet.Headroom + 16
	size   = offset + 65535
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("wgtun PREFIX ADDR")
	}
	inside, err := netip.ParsePrefix(args[0])
	if err != nil {
		return err
	}
	public, err := netip.ParseAddr(args[1])
	if err != nil {
		return err
	}
	engine, err := forward.NewEngine(inside, public)
	if err != nil {
		return err
	}
	var devs [2]tun.Device
	for side, name := range []string{nat.Inside: forward.Inside, nat.Outside: forward.Outside} {
		if devs[side], err = tun.CreateTUN(name, mtu); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		go func() {
			for range devs[side].Events() {
			}
		}()
	}
	fmt.Println(forward.Ready)
	start, ended := time.Now(), make(chan error)
	for from, id := range []nat.AttachmentID{nat.Inside: nat.FromInside, nat.Outside: nat.FromOutside} {
		go func() { ended <- pump(engine.Worker(), devs, nat.Side(from), id, start) }()
	}
	return <-ended
}

// pump moves what comes from one side, a batch at a time.
func pump(worker *nat.Worker, devs [2]tun.Device, from nat.Side, id nat.AttachmentID, start time.Time) error {
	n := devs[from].BatchSize()
	bufs, sizes := make([][]byte, n), make([]int, n)
	for i := range bufs {
		bufs[i] = make([]byte, size)
	}
	ps, verdicts := make([]packet.Packet, n), make([]nat.Verdict, n)
	var to [2][][]byte
	emitted := make([]byte, size)
	for {
		got, err := devs[from].Read(bufs, sizes, offset)
		if errors.Is(err, tun.ErrTooManySegments) {
			continue
		}
		if err != nil {
			return err
		}
		now := time.Since(start)
		to[nat.Inside], to[nat.Outside] = to[nat.Inside][:0], to[nat.Outside][:0]
		// The engine takes batches of up to 64, and what it emits lasts until the next.
		for i := 0; i < got; i += 64 {
			part := ps[i:min(i+64, got)]
			for j := range part {
				part[j] = packet.Packet{Buf: bufs[i+j], Off: offset, Len: sizes[i+j]}
			}
			worker.Batch(part, id, now, verdicts[i:])
			for j := range part {
				if v := verdicts[i+j]; v.Forward() {
					to[v.Side()] = append(to[v.Side()], bufs[i+j][:offset+part[j].Len])
				}
			}
			for _, e := range worker.Emitted() {
				n := copy(emitted[offset:], e.Packet.Bytes())
				_, _ = devs[e.Side].Write([][]byte{emitted[:offset+n]}, offset)
			}
		}
		for side, bs := range to {
			if len(bs) > 0 {
				_, _ = devs[side].Write(bs, offset) // a router loses what it cannot send
			}
		}
		worker.Tick(now)
	}
}

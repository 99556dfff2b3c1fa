// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// A wire is a device of one's own: packets come and go through channels. It could as well be a socket, a tunnel or the
// network of a virtual machine. The contract is that of tun.Device; tuntest.TestDevice holds an implementation to it.
type wire struct {
	name    string
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
}

var _ tun.Device = (*wire)(nil)

func newWire(name string) *wire {
	return &wire{name: name, in: make(chan []byte, 64), out: make(chan []byte, 64), closed: make(chan struct{})}
}

func (w *wire) Name() string      { return w.name }
func (w *wire) MTU() (int, error) { return 1500, nil }
func (w *wire) BatchSize() int    { return 1 }
func (w *wire) BufferSize() int   { return packet.Headroom + 1500 }

func (w *wire) Read(ps []packet.Packet) (int, error) {
	select {
	case <-w.closed:
		return 0, os.ErrClosed
	case b := <-w.in:
		ps[0].Off, ps[0].Offload = packet.Headroom, packet.Offload{} // nothing was left undone
		ps[0].Len = copy(ps[0].Buf[packet.Headroom:], b)
		return 1, nil
	}
}

func (w *wire) Write(ps []packet.Packet) (n int, err error) {
	refused := &tun.WriteError{}
	for i := range ps {
		// Whatever the packet still lacks (checksum, cutting) is done here, since a channel has no interface card.
		err := packet.Segment(&ps[i], nil, func(p packet.Packet) error {
			select {
			case w.out <- append([]byte(nil), p.Bytes()...): // the buffer stays the caller's
				return nil
			default:
				return errors.New("the queue is full")
			}
		})
		if err == nil {
			n++
			continue
		}
		if refused.Refused++; refused.First == nil {
			refused.First = err
		}
	}
	if refused.Refused > 0 {
		return n, refused
	}
	return n, nil
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// A device of your own in front of the engine.
func Example_ownDevice() {
	network := netip.MustParsePrefix("10.0.0.0/16")
	engine, err := nat.New(nat.Config{}, &nat.Policy{
		Inside: []netip.Prefix{network},
		Pools:  []nat.Pool{{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}}},
		Routes: []nat.Route{{Source: network, Pool: "public"}},
	})
	if err != nil {
		panic(err)
	}
	inside, outside := newWire("inside"), newWire("outside")
	done := make(chan error)
	go func() { done <- forward(engine, inside, outside) }()

	inside.in <- []byte{ // UDP, 10.0.1.10:5000 > 198.51.100.7:53
		0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0x05, 0x8c, 10, 0, 1, 10, 198, 51, 100, 7, 0x13, 0x88, 0, 53, 0, 8, 0, 0}
	sent := <-outside.out
	fmt.Println(netip.AddrFrom4([4]byte(sent[12:16])), ">", netip.AddrFrom4([4]byte(sent[16:20])))

	fmt.Println(inside.Close(), <-done)
	// Output:
	// 203.0.113.1 > 198.51.100.7
	// <nil> file already closed
}

// forward is one way of the loop: from the device inside to wherever the verdicts say.
func forward(engine *nat.Engine, inside, outside tun.Device) error {
	worker, start := engine.Worker(), time.Now()
	devices := [2]tun.Device{nat.Inside: inside, nat.Outside: outside}
	ps, vs := make([]packet.Packet, inside.BatchSize()), make([]nat.Verdict, inside.BatchSize())
	for i := range ps {
		ps[i].Buf = make([]byte, inside.BufferSize()) // read into again and again: the loop owns them
	}
	for {
		n, err := inside.Read(ps)
		if err != nil {
			return err
		}
		worker.Batch(ps[:n], nat.FromInside, time.Since(start), vs[:n])
		for i, v := range vs[:n] {
			if v.Forward() {
				_, _ = devices[v.Side()].Write(ps[i : i+1]) // what is refused is lost, as on any link
			}
		}
		for _, e := range worker.Emitted() {
			_, _ = devices[e.Side].Write([]packet.Packet{e.Packet})
		}
	}
}

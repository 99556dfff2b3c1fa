// SPDX-License-Identifier: Apache-2.0

package tuntest

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// What a Device refuses a packet for.
var (
	ErrFull   = errors.New("the queue is full")
	ErrTooBig = errors.New("the packet is larger than the MTU")
	ErrEmpty  = errors.New("the packet is empty")
)

// Options shape a pair of Devices. The zero value is usable.
type Options struct {
	// Name is that of the first Device, "mem0" if empty, and Peer that of the second, "mem1" if empty.
	Name, Peer string
	// MTU of both, in bytes; 1500 if zero or less. A longer packet is refused; of a super-packet, each segment counts.
	MTU int
	// Queue is how many packets wait at most for each of the two to read them; 1024 if zero or less.
	Queue int
	// Batch is the largest number of packets a Read returns; 64 if zero or less.
	Batch int
}

// Pipe joins two Devices by a wire in memory: what is written to one is read from the other, offload metadata and all.
// Order is kept; a packet that finds the queue full is refused. A Device whose peer is closed is a cable end: what is
// written to it is lost.
func Pipe(o Options) (a, b *Device) {
	name := func(s, byDefault string) string {
		if s == "" {
			return byDefault
		}
		return s
	}
	number := func(n, byDefault int) int {
		if n <= 0 {
			return byDefault
		}
		return n
	}
	queue := number(o.Queue, 1024)
	end := func(name string) *Device {
		return &Device{
			name: name, mtu: number(o.MTU, 1500), batch: number(o.Batch, 64),
			in: make(chan packet.Packet, queue), closed: make(chan struct{}),
		}
	}
	a, b = end(name(o.Name, "mem0")), end(name(o.Peer, "mem1"))
	a.peer, b.peer = b, a
	return a, b
}

// Device is one end of a Pipe. Beside the methods of tun.Device it has some that are handy at the testing end. Unlike
// the contract asks for, all may be called from several goroutines at once.
type Device struct {
	name       string
	mtu, batch int
	in         chan packet.Packet
	peer       *Device
	closed     chan struct{}
	once       sync.Once
}

var _ tun.Device = (*Device)(nil)

// Name implements tun.Device.
func (d *Device) Name() string { return d.name }

// MTU implements tun.Device.
func (d *Device) MTU() (int, error) { return d.mtu, nil }

// BatchSize implements tun.Device.
func (d *Device) BatchSize() int { return d.batch }

// BufferSize implements tun.Device.
func (d *Device) BufferSize() int { return packet.Headroom + 65536 }

// Close implements tun.Device. Packets that were not read are lost.
func (d *Device) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *Device) isClosed() bool {
	select {
	case <-d.closed:
		return true
	default:
		return false
	}
}

// Read implements tun.Device.
func (d *Device) Read(ps []packet.Packet) (n int, err error) {
	ps = ps[:min(len(ps), d.batch)]
	if len(ps) == 0 {
		return 0, nil
	}
	if d.isClosed() { // even if packets are left
		return 0, os.ErrClosed
	}
	select {
	case p := <-d.in:
		fill(&ps[0], p)
	case <-d.closed:
		return 0, os.ErrClosed
	}
	for n = 1; n < len(ps); n++ {
		select {
		case p := <-d.in:
			fill(&ps[n], p)
		default:
			return n, nil
		}
	}
	return n, nil
}

// fill copies p into the buffer that a reader has given.
func fill(dst *packet.Packet, p packet.Packet) {
	dst.Off, dst.Len, dst.Offload = packet.Headroom, p.Len, p.Offload
	copy(dst.Buf[packet.Headroom:], p.Bytes())
}

// Write implements tun.Device.
func (d *Device) Write(ps []packet.Packet) (n int, err error) {
	var refused *tun.WriteError
	for i := range ps {
		err := d.Send(ps[i])
		switch {
		case errors.Is(err, os.ErrClosed):
			return n, err
		case err == nil:
			n++
		case refused == nil:
			refused = &tun.WriteError{Refused: 1, First: err}
		default:
			refused.Refused++
		}
	}
	if refused != nil {
		return n, refused
	}
	return n, nil
}

// Send writes a copy of one packet. It never waits.
func (d *Device) Send(p packet.Packet) error {
	switch {
	case d.isClosed():
		return os.ErrClosed
	case p.Len <= 0:
		return ErrEmpty
	case p.WireLen() > d.mtu:
		return ErrTooBig
	case d.peer.isClosed():
		return nil
	}
	q := packet.From(p.Bytes())
	q.Offload = p.Offload
	select {
	case d.peer.in <- q:
		return nil
	default:
		return ErrFull
	}
}

// Receive waits for one packet, which the caller owns.
func (d *Device) Receive(ctx context.Context) (packet.Packet, error) {
	if d.isClosed() {
		return packet.Packet{}, os.ErrClosed
	}
	select {
	case p := <-d.in:
		return p, nil
	case <-d.closed:
		return packet.Packet{}, os.ErrClosed
	case <-ctx.Done():
		return packet.Packet{}, ctx.Err()
	}
}

// TryReceive is Receive without waiting: ok is false if there is no packet.
func (d *Device) TryReceive() (p packet.Packet, ok bool) {
	select {
	case p := <-d.in:
		return p, true
	default:
		return packet.Packet{}, false
	}
}

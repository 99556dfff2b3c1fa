// SPDX-License-Identifier: Apache-2.0

package tuntest

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

func TestMemory(t *testing.T) {
	TestDevice(t, func(*testing.T) (tun.Device, Far) {
		a, b := Pipe(Options{})
		return a, b
	})
	t.Run("small batches", func(t *testing.T) {
		TestDevice(t, func(*testing.T) (tun.Device, Far) {
			a, b := Pipe(Options{Batch: 1, Name: "one"})
			return b, a
		})
	})
}

// TestMemoryKeepsOffload: metadata arrives as it was sent.
func TestMemoryKeepsOffload(t *testing.T) {
	a, b := Pipe(Options{})
	for _, p := range offloaded() {
		send(t, a, p)
		if got := receive(t, b); got.Offload != p.Offload || got.Off != packet.Headroom {
			t.Errorf("received %+v, want %+v", got.Offload, p.Offload)
		}
	}
}

func TestMemoryBounds(t *testing.T) {
	a, b := Pipe(Options{Queue: 2, MTU: 100, Name: "x", Peer: "y"})
	if a.Name() != "x" || b.Name() != "y" {
		t.Errorf("names %q, %q", a.Name(), b.Name())
	}
	if err := a.Send(datagram(1, 73)); !errors.Is(err, ErrTooBig) {
		t.Errorf("101 bytes: %v", err)
	}
	if err := a.Send(super(partialDatagram(1, 1000), packet.GSOUDP, 73)); !errors.Is(err, ErrTooBig) {
		t.Errorf("segments of 101 bytes: %v", err)
	}
	if err := a.Send(super(partialDatagram(1, 1000), packet.GSOUDP, 72)); err != nil {
		t.Errorf("segments of 100 bytes: %v", err)
	}
	n, err := a.Write([]packet.Packet{datagram(2, 72), datagram(3, 1), datagram(4, 1)})
	var refused *tun.WriteError
	if n != 1 || !errors.As(err, &refused) || refused.Refused != 2 || !errors.Is(err, ErrFull) {
		t.Errorf("Write to a queue with room for one = %d, %v", n, err)
	}
	if _, ok := b.TryReceive(); !ok {
		t.Error("nothing there")
	}
	if _, ok := b.TryReceive(); !ok {
		t.Error("nothing there")
	}
	if p, ok := b.TryReceive(); ok {
		t.Errorf("received %x", p.Bytes())
	}
}

func TestMemoryEnds(t *testing.T) {
	a, b := Pipe(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Receive with an ended context: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(datagram(1, 1)); err != nil {
		t.Errorf("Send to a cable end: %v", err)
	}
	if err := b.Send(datagram(1, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
	if _, err := b.Receive(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive after Close: %v", err)
	}
}

// TestZeroOptions: numbers that are not set, or not possible, are those of the documentation.
func TestZeroOptions(t *testing.T) {
	for _, o := range []Options{{}, {MTU: -1, Queue: -1, Batch: -1}} {
		a, b := Pipe(o)
		mtu, err := a.MTU()
		if a.Name() != "mem0" || b.Name() != "mem1" || mtu != 1500 || err != nil || a.BatchSize() != 64 || cap(a.in) != 1024 {
			t.Errorf("%+v: %s, %s, MTU %d, %v, batches of %d, queue of %d", o, a.Name(), b.Name(), mtu, err, a.BatchSize(), cap(a.in))
		}
	}
}

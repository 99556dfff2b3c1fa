// SPDX-License-Identifier: Apache-2.0

package tuntest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// Far is the other end of the wire that a Device is on.
type Far interface {
	// Send makes p arrive at the Device.
	Send(p packet.Packet) error
	// Receive waits for the next packet that the Device has sent.
	Receive(ctx context.Context) (packet.Packet, error)
}

// patience is how long something may take that happens at once when all is well.
const patience = 20 * time.Second

// TestDevice holds a Device to the contract of tun.Device. open makes a new one for each part of the test, with an MTU
// of 1500, and cleans up by t.Cleanup; it is called on the goroutine of the test t.
//
// What goes over the wire is compared as ordinary packets, so a Device may cut super-packets or hand them through; an
// independent cutter at one of the ends is what makes the comparison worth something.
func TestDevice(t *testing.T, open func(t *testing.T) (tun.Device, Far)) {
	for _, part := range []struct {
		name string
		test func(*testing.T, tun.Device, Far)
	}{
		{"shape", testShape},
		{"read", testRead},
		{"read in batches", testReadBatches},
		{"write", testWrite},
		{"offload read", testOffloadRead},
		{"offload write", testOffloadWrite},
		{"refusal", testRefusal},
		{"both ways at once", testDuplex},
		{"close", testClose},
		{"close wakes read", testCloseWakes},
	} {
		t.Run(part.name, func(t *testing.T) {
			dev, far := open(t)
			part.test(t, dev, far)
		})
	}
}

func testShape(t *testing.T, dev tun.Device, _ Far) {
	if dev.Name() == "" {
		t.Error("no name")
	}
	if mtu, err := dev.MTU(); mtu != 1500 || err != nil {
		t.Errorf("MTU() = %d, %v; want 1500", mtu, err)
	}
	if dev.BatchSize() < 1 {
		t.Errorf("BatchSize() = %d", dev.BatchSize())
	}
	if n := dev.BufferSize(); n < packet.Headroom+65535 {
		t.Errorf("BufferSize() = %d, too small for the largest packet", n)
	}
	if n, err := dev.Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil) = %d, %v", n, err)
	}
	if n, err := dev.Write(nil); n != 0 || err != nil {
		t.Errorf("Write(nil) = %d, %v", n, err)
	}
}

func testRead(t *testing.T, dev tun.Device, far Far) {
	want := datagram(7, 100)
	send(t, far, want)
	ps := buffers(dev, 1)
	n, err := dev.Read(ps)
	if n != 1 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	if p := ps[0]; p.Off != packet.Headroom || p.Offload != (packet.Offload{}) || !bytes.Equal(p.Bytes(), want.Bytes()) {
		t.Errorf("read %x at %d, %+v\nwant %x", p.Bytes(), p.Off, p.Offload, want.Bytes())
	}
}

func testReadBatches(t *testing.T, dev tun.Device, far Far) {
	const total = 200
	for i := range total {
		send(t, far, datagram(uint16(i), i))
	}
	for got, size := 0, 1; got < total; size = size%(dev.BatchSize()+3) + 1 {
		ps := buffers(dev, size)
		n, err := dev.Read(ps)
		if err != nil || n < 1 || n > min(size, dev.BatchSize()) {
			t.Fatalf("Read of %d = %d, %v", size, n, err)
		}
		for _, p := range ps[:n] {
			if want := datagram(uint16(got), got); !bytes.Equal(p.Bytes(), want.Bytes()) {
				t.Fatalf("packet %d is %x\nwant %x", got, p.Bytes(), want.Bytes())
			}
			got++
		}
	}
}

func testWrite(t *testing.T, dev tun.Device, far Far) {
	var ps, want []packet.Packet
	for i := range 100 {
		p := datagram(uint16(i), i)
		want = append(want, p.Clone())
		switch i % 4 {
		case 1: // no headroom
			p = packet.Packet{Buf: p.Bytes(), Len: p.Len}
		case 2: // plenty, and tailroom
			buf := make([]byte, p.Len+200)
			copy(buf[100:], p.Bytes())
			p = packet.Packet{Buf: buf, Off: 100, Len: p.Len}
		case 3:
			p.Offload.Csum = packet.CsumVerified
		}
		ps = append(ps, p)
	}
	if n, err := dev.Write(ps); n != len(ps) || err != nil {
		t.Fatalf("Write of %d = %d, %v", len(ps), n, err)
	}
	expect(t, func() packet.Packet { return receive(t, far) }, want)
}

// offloaded are packets that leave work to the interface.
func offloaded() []packet.Packet {
	return []packet.Packet{
		partialDatagram(1, 5),
		partialDatagram(2, 0),
		segment(3, 0x18, 1001),
		super(segment(0xfffe, 0x19, 40000), packet.GSOTCPv4, 1448), // identifications wrap; FIN, PSH
		super(segment(9, 0x10, 2*1000), packet.GSOTCPv4, 1000),
		super(partialDatagram(10, 9001), packet.GSOUDP, 1400),
		super(segment(11, 0x10, 65535-52), packet.GSOTCPv4, 1448),
	}
}

// testOffloadRead: what the far end leaves undone arrives with its metadata, or done.
func testOffloadRead(t *testing.T, dev tun.Device, far Far) {
	for _, p := range offloaded() {
		send(t, far, p.Clone())
		ps := buffers(dev, dev.BatchSize())
		var got []packet.Packet
		expect(t, func() packet.Packet {
			if len(got) == 0 {
				n, err := dev.Read(ps)
				if err != nil {
					t.Fatal(err)
				}
				got = ps[:n]
			}
			q := got[0]
			got = got[1:]
			return q
		}, []packet.Packet{p})
	}
}

// testOffloadWrite: what is left undone for the Device reaches the far end with its metadata, or done.
func testOffloadWrite(t *testing.T, dev tun.Device, far Far) {
	for _, room := range []bool{true, false} {
		for _, p := range offloaded() {
			q := p.Clone()
			if !room {
				q = packet.Packet{Buf: q.Bytes(), Len: q.Len, Offload: q.Offload}
			}
			if n, err := dev.Write([]packet.Packet{q}); n != 1 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
			expect(t, func() packet.Packet { return receive(t, far) }, []packet.Packet{p})
		}
	}
}

func testRefusal(t *testing.T, dev tun.Device, far Far) {
	first, last := datagram(1, 10), datagram(2, 10)
	ps := []packet.Packet{first, {Buf: make([]byte, packet.Headroom), Off: packet.Headroom}, last}
	n, err := dev.Write(ps)
	var refused *tun.WriteError
	if n != 2 || !errors.As(err, &refused) || refused.Refused != 1 || refused.First == nil {
		t.Errorf("Write of two packets and an empty one = %d, %v", n, err)
	}
	expect(t, func() packet.Packet { return receive(t, far) }, []packet.Packet{first, last})
}

func testDuplex(t *testing.T, dev tun.Device, far Far) {
	const total = 150
	done := make(chan error, 1)
	go func() {
		ps := buffers(dev, dev.BatchSize())
		for got := 0; got < total; {
			n, err := dev.Read(ps)
			if err != nil {
				done <- err
				return
			}
			got += n
		}
		done <- nil
	}()
	for i := range total {
		send(t, far, datagram(uint16(i), 20))
		if n, err := dev.Write([]packet.Packet{datagram(uint16(i), 30)}); n != 1 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		if got := receive(t, far); got.Len != 28+30 {
			t.Fatalf("received %x", got.Bytes())
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func testClose(t *testing.T, dev tun.Device, far Far) {
	send(t, far, datagram(1, 1)) // also when there is something to read
	for range 2 {
		if err := dev.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if n, err := dev.Read(buffers(dev, 1)); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close = %d, %v", n, err)
	}
	if n, err := dev.Write([]packet.Packet{datagram(1, 1)}); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close = %d, %v", n, err)
	}
}

func testCloseWakes(t *testing.T, dev tun.Device, far Far) {
	send(t, far, datagram(1, 1))
	begun, woken := make(chan struct{}), make(chan error, 1)
	go func() {
		ps := buffers(dev, 1)
		_, err := dev.Read(ps)
		close(begun)
		for err == nil {
			_, err = dev.Read(ps)
		}
		woken <- err
	}()
	<-begun
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-woken:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("Read did not end")
	}
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"os"
	"testing"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/tun/tuntest"
)

// lender lends the packets that it has, with buffers of its own.
type lender struct {
	tun.Device
	has []packet.Packet
}

func (l *lender) Lend(ps []packet.Packet) (int, error) {
	n := copy(ps, l.has)
	if l.has = l.has[n:]; n == 0 {
		return 0, os.ErrClosed
	}
	return n, nil
}

func (l *lender) Stats() tun.Stats { return tun.Stats{Backend: tun.BackendURing} }

// TestSlotLends: what a device lends a slot hands on, and for one that does not lend it has buffers.
func TestSlotLends(t *testing.T) {
	first, far := tuntest.Pipe(tuntest.Options{})
	defer far.Close()
	s := newSlot(first, func() {})
	p := packet.From([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1})
	for range 2 { // with the same buffers
		if _, err := far.Write([]packet.Packet{p.Clone()}); err != nil {
			t.Fatal(err)
		}
		ps := make([]packet.Packet, 1)
		if n, err := s.Lend(ps); n != 1 || err != nil || string(ps[0].Bytes()) != string(p.Bytes()) || len(ps[0].Buf) != first.BufferSize() {
			t.Fatalf("Lend = %d, %v: %x in %d bytes", n, err, ps[0].Bytes(), len(ps[0].Buf))
		}
	}
	if s.Stats() != (tun.Stats{}) {
		t.Errorf("%+v", s.Stats())
	}
	next, other := tuntest.Pipe(tuntest.Options{})
	defer other.Close()
	if err := s.put(&lender{next, []packet.Packet{p}}); err != nil {
		t.Fatal(err)
	}
	ps := make([]packet.Packet, 2)
	if n, err := s.Lend(ps); n != 1 || err != nil || &ps[0].Buf[0] != &p.Buf[0] {
		t.Errorf("Lend of what is lent = %d, %v", n, err)
	}
	if s.Stats().Backend != tun.BackendURing {
		t.Errorf("%+v", s.Stats())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Lend(ps); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Lend after Close = %d, %v", n, err)
	}
}

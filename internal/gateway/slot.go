// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// slot is a tun.Device, a queue, whose interface may be deleted and made again. Then Read waits until there is another one, and
// what is written meanwhile is refused.
type slot struct {
	name string
	lost func() // called, perhaps often, when the interface is found to be gone; it must not wait
	now  atomic.Pointer[seat]
	mu   sync.Mutex // of changes
	end  bool
	own  []byte // buffers to lend of a device that has none
	// quiet is closed when nothing more is to be read.
	quiet chan struct{}
	hush  sync.Once
}

// seat is the device of a time.
type seat struct {
	tun.Device
	left chan struct{} // closed when there is another one, or none any more
}

func newSlot(dev tun.Device, lost func()) *slot {
	s := &slot{name: dev.Name(), lost: lost, quiet: make(chan struct{})}
	s.now.Store(&seat{dev, make(chan struct{})})
	return s
}

// put makes dev, which is of the same kind, the device, and closes the one before.
func (s *slot) put(dev tun.Device) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end {
		return dev.Close()
	}
	select {
	case <-s.quiet:
		if k, ok := dev.(tun.Keeper); ok {
			if err := k.StopReading(); err != nil {
				return errors.Join(err, dev.Close())
			}
		}
	default:
	}
	old := s.now.Swap(&seat{dev, make(chan struct{})})
	err := old.Close()
	close(old.left)
	return err
}

// put makes the queues of an interface those that the slots have.
func put(slots []*slot, devs []tun.Device) error {
	var errs []error
	for i, d := range devs {
		errs = append(errs, slots[i].put(d))
	}
	return errors.Join(errs...)
}

func (s *slot) Name() string      { return s.name }
func (s *slot) MTU() (int, error) { return s.now.Load().MTU() }
func (s *slot) BatchSize() int    { return s.now.Load().BatchSize() }
func (s *slot) BufferSize() int   { return s.now.Load().BufferSize() }

func (s *slot) Read(ps []packet.Packet) (int, error) { return s.read(ps, tun.Device.Read) }

// Lend is that of tun.Lender, whatever the device is.
func (s *slot) Lend(ps []packet.Packet) (int, error) { return s.read(ps, s.lend) }

func (s *slot) lend(d tun.Device, ps []packet.Packet) (int, error) {
	if l, ok := d.(tun.Lender); ok {
		return l.Lend(ps)
	}
	size := d.BufferSize()
	ps = ps[:min(len(ps), d.BatchSize())]
	if len(s.own) < len(ps)*size {
		s.own = make([]byte, d.BatchSize()*size)
	}
	for i := range ps {
		ps[i].Buf = s.own[i*size : (i+1)*size : (i+1)*size]
	}
	return d.Read(ps)
}

// Stats is that of tun.Observed, of the device that there is now.
func (s *slot) Stats() tun.Stats {
	if o, ok := s.now.Load().Device.(tun.Observed); ok {
		return o.Stats()
	}
	return tun.Stats{}
}

// read reads from the device that there is, by the way given. After StopReading that is what the device had taken by then.
func (s *slot) read(ps []packet.Packet, how func(tun.Device, []packet.Packet) (int, error)) (int, error) {
	for {
		d := s.now.Load()
		n, err := how(d.Device, ps)
		if err == nil {
			return n, nil
		}
		switch {
		case errors.Is(err, os.ErrClosed): // by put or Close, which is about to say so
		case errors.Is(err, tun.ErrGone):
			s.lost()
		default:
			return n, err
		}
		select {
		case <-d.left:
		case <-s.quiet:
			return 0, os.ErrClosed
		}
		if s.now.Load() == d {
			return 0, os.ErrClosed
		}
	}
}

func (s *slot) Write(ps []packet.Packet) (int, error) {
	n, err := s.now.Load().Write(ps)
	if err != nil && errors.Is(err, tun.ErrGone) {
		s.lost()
	}
	return n, err
}

func (s *slot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end {
		return nil
	}
	s.end = true
	d := s.now.Load()
	err := d.Close()
	close(d.left)
	return err
}

// StopReading and Descriptor are those of tun.Keeper, of the device that there is now.
func (s *slot) StopReading() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.now.Load().Device.(tun.Keeper)
	if !ok {
		return errors.ErrUnsupported
	}
	s.hush.Do(func() { close(s.quiet) })
	return k.StopReading()
}

func (s *slot) Descriptor() (fd int, err error) {
	k, ok := s.now.Load().Device.(tun.Keeper)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	return k.Descriptor()
}

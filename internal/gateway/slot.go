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

// slot is a tun.Device whose interface may be deleted and made again. Then Read waits until there is another one, and
// what is written meanwhile is refused.
type slot struct {
	name string
	lost func() // called, perhaps often, when the interface is found to be gone; it must not wait
	now  atomic.Pointer[seat]
	mu   sync.Mutex // of changes
	end  bool
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
	old := s.now.Swap(&seat{dev, make(chan struct{})})
	err := old.Close()
	close(old.left)
	return err
}

func (s *slot) Name() string      { return s.name }
func (s *slot) MTU() (int, error) { return s.now.Load().MTU() }
func (s *slot) BatchSize() int    { return s.now.Load().BatchSize() }
func (s *slot) BufferSize() int   { return s.now.Load().BufferSize() }

func (s *slot) Read(ps []packet.Packet) (int, error) {
	for {
		d := s.now.Load()
		select {
		case <-s.quiet:
			return 0, os.ErrClosed
		default:
		}
		n, err := d.Read(ps)
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

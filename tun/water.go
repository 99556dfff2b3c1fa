// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/songgao/water"

	"github.com/tidegate/tidegate/packet"
)

// plain is an interface that moves one ordinary packet a call: what water opens.
//
// Of water's known faults, a Close that does not wake Read (its issue 22) comes from File.Fd, which is not called here;
// deadlines (54) are not offered; several queues (26) are left to the Linux backend.
type plain struct {
	name    string
	rw      io.ReadWriteCloser
	mtu     func() (int, error)
	closed  atomic.Bool
	gone    error // what the reader knows: the runtime's poller gives up such a descriptor and no longer says why
	emit    func(packet.Packet) error
	scratch []byte
}

func openWater(o Options) ([]Device, error) {
	if o.Queues > 1 {
		return nil, fmt.Errorf("%w: the backend %q has one queue", ErrUnsupported, BackendWater)
	}
	config, err := waterConfig(o)
	if err != nil {
		return nil, err
	}
	config.DeviceType = water.TUN // water refuses the zero value that its documentation calls TUN
	ifce, err := water.New(config)
	if err != nil {
		return nil, explain(err)
	}
	d := &plain{name: ifce.Name()}
	d.emit = d.write
	if d.rw, d.mtu, err = adopt(ifce, o); err != nil {
		return nil, errors.Join(err, ifce.Close())
	}
	return []Device{d}, nil
}

func (d *plain) Name() string    { return d.name }
func (d *plain) BatchSize() int  { return 1 }
func (d *plain) BufferSize() int { return bufferSize }

func (d *plain) MTU() (int, error) {
	mtu, err := d.mtu()
	if err != nil {
		return 0, fmt.Errorf("tun: MTU of interface %q: %w", d.name, err)
	}
	return mtu, nil
}

func (d *plain) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	return d.rw.Close()
}

func (d *plain) Read(ps []packet.Packet) (int, error) {
	if len(ps) == 0 {
		return 0, nil
	}
	if d.gone != nil && !d.closed.Load() {
		return 0, d.gone
	}
	p := &ps[0]
	n, err := d.rw.Read(p.Buf[packet.Headroom:])
	if d.closed.Load() {
		return 0, os.ErrClosed
	}
	if err != nil {
		err = d.fault("read", err)
		if errors.Is(err, ErrGone) {
			d.gone = err
		}
		return 0, err
	}
	p.Off, p.Len, p.Offload = packet.Headroom, n, packet.Offload{}
	return 1, nil
}

func (d *plain) Write(ps []packet.Packet) (n int, err error) {
	var refused *WriteError
	for i := range ps {
		p := &ps[i]
		if p.Offload.GSO != packet.GSONone && d.scratch == nil {
			d.scratch = make([]byte, bufferSize)
		}
		err := packet.Segment(p, d.scratch, d.emit)
		switch {
		case d.closed.Load():
			return n, os.ErrClosed
		case err == nil:
			n++
		case errors.Is(err, ErrGone):
			return n, err
		default:
			refused = refuse(refused, err)
		}
	}
	if refused != nil {
		return n, refused
	}
	return n, nil
}

func (d *plain) write(p packet.Packet) error {
	if p.Len <= 0 {
		return errEmpty
	}
	if _, err := d.rw.Write(p.Bytes()); err != nil {
		return d.fault("write", err)
	}
	return nil
}

func (d *plain) fault(op string, err error) error {
	return fmt.Errorf("tun: %s interface %q: %w", op, d.name, meaning(err))
}

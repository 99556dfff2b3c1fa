// SPDX-License-Identifier: Apache-2.0

package tuntest

import (
	"sync/atomic"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// Faulty is a Device that fails as it is told to, to test who reads and writes it.
type Faulty struct {
	tun.Device
	read, write atomic.Pointer[func([]packet.Packet) (int, error)]
}

// OnRead makes each Read from the next on call f instead, which may call that of the embedded Device; nil ends that. It may be called
// while a Read waits, which goes on waiting.
func (f *Faulty) OnRead(read func(ps []packet.Packet) (int, error)) { set(&f.read, read) }

// OnWrite is OnRead for Write.
func (f *Faulty) OnWrite(write func(ps []packet.Packet) (int, error)) { set(&f.write, write) }

func set(p *atomic.Pointer[func([]packet.Packet) (int, error)], f func([]packet.Packet) (int, error)) {
	if f == nil {
		p.Store(nil)
		return
	}
	p.Store(&f)
}

// Read implements tun.Device.
func (f *Faulty) Read(ps []packet.Packet) (int, error) {
	if read := f.read.Load(); read != nil {
		return (*read)(ps)
	}
	return f.Device.Read(ps)
}

// Write implements tun.Device.
func (f *Faulty) Write(ps []packet.Packet) (int, error) {
	if write := f.write.Load(); write != nil {
		return (*write)(ps)
	}
	return f.Device.Write(ps)
}

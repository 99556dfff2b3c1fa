// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"runtime"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// batches returns how to read dev for the calling goroutine: each call fills ps with up to a batch, in buffers that
// are ours until the next one. With io_uring it locks the goroutine to its thread, where the kernel leaves what it reads.
func batches(dev tun.Device) (read func(ps []packet.Packet) (int, error), ps []packet.Packet) {
	ps = make([]packet.Packet, dev.BatchSize())
	if o, ok := dev.(tun.Observed); ok && o.Stats().Backend == tun.BackendURing {
		runtime.LockOSThread() // until the goroutine ends, and the thread with it
	}
	if l, ok := dev.(tun.Lender); ok {
		return l.Lend, ps
	}
	size := dev.BufferSize()
	slab := make([]byte, len(ps)*size)
	for i := range ps {
		ps[i].Buf = slab[i*size : (i+1)*size : (i+1)*size]
	}
	return dev.Read, ps
}

// backend is how a device is read and written, in the words of the configuration.
func backend(s tun.Stats) string {
	switch s.Backend {
	case tun.BackendURing:
		return string(config.BackendIOURing)
	case tun.BackendLinux:
		return string(config.BackendPlain)
	}
	return s.Backend
}

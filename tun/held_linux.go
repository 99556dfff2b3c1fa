// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// heldFD is a descriptor that is not closed while it is used. An os.File would have the runtime's poller woken by each packet.
type heldFD struct {
	mu sync.RWMutex
	fd int // -1 is closed
}

func (h *heldFD) control(f func(fd int) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.fd < 0 {
		return os.ErrClosed
	}
	return f(h.fd)
}

func (h *heldFD) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	fd := h.fd
	h.fd = -1
	return unix.Close(fd)
}

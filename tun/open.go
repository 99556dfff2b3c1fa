// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/tidegate/tidegate/packet"
)

// What Open and the methods of a Device fail with; test with errors.Is. The operating system's own error is wrapped
// beside them.
var (
	// ErrNoDevice: this machine, or this container, has no TUN driver.
	ErrNoDevice = errors.New("there is no /dev/net/tun: load the driver (modprobe tun) or pass the device to the container")
	// ErrPermission: the process may not make interfaces.
	ErrPermission = errors.New("no permission for TUN interfaces: run as root, or with CAP_NET_ADMIN")
	// ErrBusy: another process holds the interface.
	ErrBusy = errors.New("the interface is in use by another process: stop that, or choose another name")
	// ErrGone: the interface was deleted while the Device was open. The Device can only be closed.
	ErrGone = errors.New("the interface is gone: open it again")
	// ErrDown: a packet was refused since the interface is down.
	ErrDown = errors.New("the interface is down: set it up")
	// ErrUnsupported: the backend, or the operating system, cannot do what Options ask for.
	ErrUnsupported = errors.New("not supported here")
)

// The names of Options.Backend.
const (
	// BackendURing is the kernel's TUN driver by io_uring: a batch is one system call. Linux 6.7 and later, where the
	// administrator (kernel.io_uring_disabled) and the container (seccomp) allow it.
	BackendURing = "io_uring"
	// BackendLinux is the kernel's TUN driver with a system call for each packet.
	BackendLinux = "linux"
	// BackendWater is github.com/songgao/water.
	BackendWater = "water"
)

// batchSize is how many packets a Linux device reads at once. Each has a buffer of 64 KiB: more of them would fall out
// of the processor's cache and gain nothing, since the cost of waking up is shared by all.
const batchSize = 64

// bufferSize is room for the largest IPv4 packet, however the MTU is changed later.
const bufferSize = packet.Headroom + 65536

// Options say which interface Open opens, and how. The zero value is a new interface named by the system.
type Options struct {
	// Name is the interface to open; it is made if it is not there. On Linux it has at most 15 bytes, and a %d in it
	// becomes the first free number. On macOS it is utunN. If empty, the system chooses.
	Name string
	// Queues is how many Devices OpenQueues opens for the interface; if zero, one. The kernel keeps the packets of a
	// flow on one queue: the one that its last packet was written to. BackendWater has one.
	Queues int
	// NoOffload asks for ordinary packets only: none longer than the MTU, all with complete checksums.
	NoOffload bool
	// Persist makes the interface stay when its last Device is closed. If false, the Linux backend leaves that property
	// of an existing interface as it is; water switches it off. Linux only.
	Persist bool
	// Owner and Group are the user and group that may open the interface without privilege, if not zero. Linux only.
	Owner, Group uint32
	// Backend is BackendURing, BackendLinux or BackendWater. If empty, on Linux the first of them that can be had, which
	// Observed tells, and BackendWater everywhere else.
	Backend string
	// Spin is how long Read looks for the next packet before it sleeps, as long as that is of use (it soon spins less
	// where it is not), on a processor of its own; if zero, it sleeps at once. 50 µs is a usual value. Linux only.
	Spin time.Duration
	// Network is the address and prefix that the Windows driver must be told. Windows only.
	Network netip.Prefix
}

// Open opens a TUN interface as one Device. On Linux the interface is in the network namespace of the calling thread
// and may be used from any; a caller that has changed its namespace has locked its goroutine to the thread already.
// The errors name what to do about them; see ErrNoDevice and the others beside it.
func Open(o Options) (Device, error) {
	if o.Queues > 1 {
		return nil, fmt.Errorf("tun: Open opens one queue, Options.Queues is %d: call OpenQueues", o.Queues)
	}
	ds, err := OpenQueues(o)
	if err != nil {
		return nil, err
	}
	return ds[0], nil
}

// OpenQueues opens a TUN interface as Options.Queues Devices, for as many goroutines. Each is read, written and closed
// on its own; a packet may be written to any of them. On an error none is left open.
func OpenQueues(o Options) ([]Device, error) {
	ds, err := openQueues(o)
	if err != nil {
		return nil, fmt.Errorf("tun: interface %q: %w", o.Name, err)
	}
	return ds, nil
}

func openQueues(o Options) ([]Device, error) {
	if o.Queues < 0 {
		return nil, fmt.Errorf("%d queues: choose 1 or more", o.Queues)
	}
	if strings.ContainsAny(o.Name, "/ \x00") {
		return nil, errors.New("a name has no slash, space or zero byte")
	}
	switch o.Backend {
	case "":
		return openDefault(o)
	case BackendURing, BackendLinux:
		return openKernel(o)
	case BackendWater:
		return openWater(o)
	}
	return nil, fmt.Errorf("no backend %q: choose %q, %q or %q", o.Backend, BackendURing, BackendLinux, BackendWater)
}

// FromFD makes a Device of a descriptor that is attached to a TUN interface (TUNSETIFF), in whatever namespace: one that
// another process handed over, or that was kept across a restart. It owns the descriptor from then on, also when it
// fails. Of the Options, NoOffload, Persist, Owner, Group, Spin and Backend count. Linux only.
func FromFD(fd int, o Options) (Device, error) {
	d, err := fromFD(fd, o)
	if err != nil {
		return nil, fmt.Errorf("tun: descriptor %d: %w", fd, err)
	}
	return d, nil
}

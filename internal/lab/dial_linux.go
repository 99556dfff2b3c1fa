// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects from the host, as net.Dialer does; network is "tcp" or "udp", address an IPv4 address and port.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	remote, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return h.DialFrom(ctx, network, 0, remote)
}

// DialFrom is Dial from a local port of the caller's choice; 0 leaves the choice to the kernel.
//
// The socket is made on the host's thread, where making it takes no time; the wait for the peer, which would keep the
// host from everything else, is here.
func (h *Host) DialFrom(ctx context.Context, network string, port uint16, remote netip.AddrPort) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(remote), Err: err}
	}
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	var f *os.File
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), network)
		if port != 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
				return err
			}
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(remote.Port()), Addr: remote.Addr().As4()})
		if errors.Is(err, unix.EINPROGRESS) {
			return nil
		}
		return err
	})
	if f != nil {
		defer f.Close() // net.FileConn has a descriptor of its own
	}
	if err != nil {
		return nil, fail(err)
	}
	if err := connected(ctx, f); err != nil {
		return nil, fail(err)
	}
	return net.FileConn(f)
}

// connected waits until f is, or has failed to be.
func connected(ctx context.Context, f *os.File) error {
	if d, ok := ctx.Deadline(); ok {
		_ = f.SetWriteDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = rc.Write(func(fd uintptr) bool {
		var e int
		if e, failure = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failure != nil {
			return true
		}
		if e != 0 {
			failure = os.NewSyscallError("connect", unix.Errno(e))
			return true
		}
		_, failure = unix.Getpeername(int(fd))
		if errors.Is(failure, unix.ENOTCONN) {
			failure = nil
			return false
		}
		return true
	})
	return errors.Join(failure, err)
}

// Listen listens in the host; network is "tcp", address as for net.Listen.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket is Listen for "udp".
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// A stream begins with one byte that says who sends.
const (
	byteUp   = 'u'
	byteDown = 'd'
)

const streamBuffer = 128 << 10

func (a *agent) dialStream(q request) (int, error) {
	fd, err := dial(unix.SOCK_STREAM, q.Server, portTCP)
	if err != nil {
		return -1, err
	}
	first := []byte{byteUp}
	if q.Down {
		first[0] = byteDown
	}
	if _, err := unix.Write(fd, first); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("write", err)
	}
	return fd, nil
}

// sendStream sends until the load is to stop, or the other side has gone.
func (a *agent) sendStream(fd int) error {
	for buf := make([]byte, streamBuffer); !a.stop.Load(); {
		n, err := unix.SendmsgN(fd, buf, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil && !transient(err) {
			return os.NewSyscallError("send", err)
		}
		a.sent.Add(uint64(max(n, 0)))
	}
	return nil
}

func (a *agent) receiveStream(fd int) error {
	for buf := make([]byte, streamBuffer); !a.stop.Load(); {
		n, err := unix.Read(fd, buf)
		if err != nil && !transient(err) {
			return os.NewSyscallError("receive", err)
		}
		if n == 0 && err == nil {
			return nil
		}
		a.bytes.Add(uint64(max(n, 0)))
	}
	return nil
}

// acceptStreams serves each stream in a thread of its own, until the client closes it.
func (a *agent) acceptStreams(fd int) error {
	for {
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if transient(err) || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return os.NewSyscallError("accept", err)
		}
		go func() {
			defer unix.Close(c)
			first := make([]byte, 1)
			if n, err := unix.Read(c, first); n != 1 || err != nil {
				return
			}
			// It ends with an error, since the client closes in the middle: that is no fault.
			if first[0] == byteDown {
				_ = a.sendStream(c)
			} else {
				_ = a.receiveStream(c)
			}
		}()
	}
}

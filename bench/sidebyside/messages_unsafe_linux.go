// SPDX-License-Identifier: Apache-2.0

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// header is the kernel's struct mmsghdr (sendmmsg(2)).
type header struct {
	unix.Msghdr
	length uint32
	_      [4]byte
}

// messages are the arguments of sendmmsg and recvmmsg. The kernel follows the pointers in them only during a call; they lead
// to memory that the struct itself refers to, so it stays where it is until then.
type messages struct {
	headers []header
	iov     []unix.Iovec
	buf     []byte
}

// newMessages are n messages of at most size bytes.
func newMessages(n, size int) *messages {
	m := &messages{headers: make([]header, n), iov: make([]unix.Iovec, n), buf: make([]byte, n*size)}
	for i := range m.headers {
		m.iov[i].Base = &m.buf[i*size]
		m.iov[i].SetLen(size)
		m.headers[i].Iov = &m.iov[i]
		m.headers[i].SetIovlen(1)
	}
	return m
}

func (m *messages) length(i int) int { return int(m.headers[i].length) }

func (m *messages) send(fd int) (int, error) { return m.call(unix.SYS_SENDMMSG, fd, 0) }

// receive waits for one message and takes what else is there.
func (m *messages) receive(fd int) (int, error) {
	return m.call(unix.SYS_RECVMMSG, fd, unix.MSG_WAITFORONE)
}

func (m *messages) call(number uintptr, fd, flags int) (int, error) {
	n, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&m.headers[0])), uintptr(len(m.headers)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

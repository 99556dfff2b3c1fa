// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Short connections: the client sends a request, the server answers, the client closes, and then the server. TIME_WAIT is
// the client's, whose kernel may take such a port again after a second (tcp_tw_reuse, which the bed sets).

const edge = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET | unix.EPOLLRDHUP

func watch(ep, fd int, events uint32) error {
	err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	return os.NewSyscallError("epoll", err)
}

// serveCRR is one thread.
func serveCRR(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("nonblock", err)
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll", err)
	}
	if err := watch(ep, fd, unix.EPOLLIN); err != nil {
		return err
	}
	events, buf := make([]unix.EpollEvent, 256), make([]byte, 2048)
	answer := make([]byte, transaction)
	for {
		n, err := unix.EpollWait(ep, events, -1)
		if err != nil && !transient(err) {
			return os.NewSyscallError("epoll", err)
		}
		for i := range max(n, 0) {
			c := int(events[i].Fd)
			if c != fd {
				n, err := unix.Read(c, buf)
				if n > 0 {
					_, err = unix.SendmsgN(c, answer, nil, nil, unix.MSG_NOSIGNAL)
				}
				if n == 0 || err != nil && !transient(err) {
					_ = unix.Close(c)
				}
				continue
			}
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				if err != nil {
					break
				}
				if err := watch(ep, c, unix.EPOLLIN); err != nil {
					return err
				}
			}
		}
	}
}

// short is a connection of the client.
type short struct {
	began time.Time
	asked bool
	got   int
}

// hopeless is when a short connection has failed.
const hopeless = 5 * time.Second

type crr struct {
	a    *agent
	addr *unix.SockaddrInet4
	ep   int
	open map[int]*short
	ask  []byte
	buf  []byte
}

func (a *agent) startCRR(q request) error {
	addr, err := to(q.Server, portCRR)
	if err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll", err)
	}
	c := &crr{a: a, addr: addr, ep: ep, open: map[int]*short{}, ask: make([]byte, transaction), buf: make([]byte, 2048)}
	a.loop(ep, func(int) error {
		defer func() {
			for fd := range c.open {
				_ = unix.Close(fd)
			}
		}()
		return c.run()
	})
	return nil
}

func (c *crr) run() error {
	events := make([]unix.EpollEvent, 256)
	for looked := time.Now(); !c.a.stop.Load(); {
		for range concurrent - len(c.open) {
			if err := c.connect(); err != nil {
				return err
			}
		}
		n, err := unix.EpollWait(c.ep, events, 50)
		if err != nil && !transient(err) {
			return os.NewSyscallError("epoll", err)
		}
		for i := range max(n, 0) {
			fd := int(events[i].Fd)
			if done, ok := c.step(fd, c.open[fd]); done {
				c.end(fd, ok)
			}
		}
		if now := time.Now(); now.Sub(looked) > hopeless/10 {
			looked = now
			for fd, s := range c.open {
				if now.Sub(s.began) > hopeless {
					c.end(fd, false)
				}
			}
		}
	}
	return nil
}

func (c *crr) end(fd int, ok bool) {
	if ok {
		c.a.done.Add(1)
	} else {
		c.a.failed.Add(1)
	}
	delete(c.open, fd)
	_ = unix.Close(fd)
}

func (c *crr) connect() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, c.addr); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		c.a.failed.Add(1) // no port is left, say
		return nil
	}
	c.open[fd] = &short{began: time.Now()}
	return watch(c.ep, fd, edge)
}

// step goes on with a connection after an event: done says that it is to be closed, ok that all of the answer came.
func (c *crr) step(fd int, s *short) (done, ok bool) {
	if s == nil { // closed by an earlier event
		return false, false
	}
	if !s.asked {
		_, err := unix.SendmsgN(fd, c.ask, nil, nil, unix.MSG_NOSIGNAL)
		if transient(err) {
			return false, false
		}
		if err != nil {
			return true, false
		}
		s.asked = true
	}
	for {
		n, err := unix.Read(fd, c.buf)
		if transient(err) {
			return false, false
		}
		if err != nil || n == 0 {
			return true, false
		}
		if s.got += n; s.got == transaction {
			return true, true
		}
	}
}

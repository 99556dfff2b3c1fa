// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// agent is the process that makes or takes load in one namespace. It reads a request a line and writes a reply a line. Its
// loops are threads in system calls, which look at stop now and then.
type agent struct {
	bytes, sent, reads, done, failed atomic.Uint64
	began                            time.Time

	stop atomic.Bool // of the load
	wg   sync.WaitGroup
	mu   sync.Mutex
	err  error // the first of a load
}

// The ports of the servers.
const (
	portTCP  = 5001
	portUDP  = 5002
	portGSO  = 5003
	portEcho = 5004
	portCRR  = 5005
)

// runAgent serves requests until in ends.
func runAgent(in io.Reader, out io.Writer) error {
	a := &agent{began: time.Now()}
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q request
		if err := dec.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := a.answer(q)
		if err != nil {
			r.Error = err.Error()
		}
		r.counts = a.counts()
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
}

func (a *agent) counts() counts {
	return counts{At: time.Since(a.began).Nanoseconds(), Bytes: a.bytes.Load(), Sent: a.sent.Load(), Reads: a.reads.Load(),
		Done: a.done.Load(), Failed: a.failed.Load()}
}

func (a *agent) answer(q request) (r reply, err error) {
	switch q.Op {
	case "serve":
		return r, a.serve(q.Server)
	case "start":
		return r, a.start(q)
	case "count":
		return r, nil
	case "stop":
		a.stop.Store(true)
		a.wg.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		err, a.err = a.err, nil
		return r, err
	case "rtt":
		r.RTT, r.Lost, err = ping(q)
		return r, err
	}
	return r, fmt.Errorf("no such request: %q", q.Op)
}

// start begins a load.
func (a *agent) start(q request) error {
	a.stop.Store(false)
	switch q.Kind {
	case kindTCP:
		for range q.Streams {
			fd, err := a.dialStream(q)
			if err != nil {
				return err
			}
			if q.Down {
				a.loop(fd, a.receiveStream)
			} else {
				a.loop(fd, a.sendStream)
			}
		}
		return nil
	case kindUDP, kindGSO:
		fd, err := dialUDP(q.Server, q.Kind)
		if err != nil {
			return err
		}
		a.loop(fd, func(fd int) error {
			if q.Kind == kindGSO {
				return a.sendSuper(fd)
			}
			return a.sendSmall(fd, q.Rate)
		})
		return nil
	case kindCRR:
		return a.startCRR(q)
	}
	return fmt.Errorf("no such load: %q", q.Kind)
}

// loop runs f in a thread and closes fd after it.
func (a *agent) loop(fd int, f func(fd int) error) {
	a.wg.Go(func() {
		defer unix.Close(fd)
		if err := f(fd); err != nil {
			a.fail(err)
		}
	})
}

func (a *agent) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
	}
}

// serve starts all servers, at one address, so that answers come from it, too. They run as long as the process.
func (a *agent) serve(server string) error {
	for _, s := range []struct {
		kind, port int
		run        func(fd int) error
	}{
		{unix.SOCK_STREAM, portTCP, a.acceptStreams},
		{unix.SOCK_DGRAM, portUDP, a.receiveSmall},
		{unix.SOCK_DGRAM, portGSO, a.receiveSuper},
		{unix.SOCK_DGRAM, portEcho, echo},
		{unix.SOCK_STREAM, portCRR, serveCRR},
	} {
		fd, err := listen(s.kind, server, s.port)
		if err != nil {
			return err
		}
		go func() {
			if err := s.run(fd); err != nil {
				fmt.Fprintf(os.Stderr, "port %d: %v\n", s.port, err)
				os.Exit(1)
			}
		}()
	}
	return nil
}

func listen(kind int, server string, port int) (fd int, err error) {
	addr, err := to(server, port)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	fail := func(what string, err error) (int, error) {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError(what, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fail("reuse", err)
	}
	if err := unix.Bind(fd, addr); err != nil {
		return fail("bind", err)
	}
	if kind == unix.SOCK_DGRAM {
		// The receiver is not to be what loses datagrams.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
			return fail("receive buffer", err)
		}
		return fd, nil
	}
	if err := unix.Listen(fd, 1024); err != nil {
		return fail("listen", err)
	}
	return fd, nil
}

// to is an endpoint of the server.
func to(server string, port int) (*unix.SockaddrInet4, error) {
	a, err := netip.ParseAddr(server)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: port, Addr: a.As4()}, nil
}

// look is how often a blocked thread looks whether it is to stop.
var look = unix.NsecToTimeval((50 * time.Millisecond).Nanoseconds())

// dial makes a connected, blocking socket with time-outs.
func dial(kind int, server string, port int) (int, error) {
	addr, err := to(server, port)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	fail := func(what string, err error) (int, error) {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError(what, err)
	}
	// Connecting obeys the time-out for sending, and may take longer than a look.
	patience := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return fail("time-out", err)
	}
	for {
		err := unix.Connect(fd, addr)
		if err == nil || err == unix.EISCONN {
			break
		}
		if err != unix.EINTR { // else it goes on by itself, and the next call waits for it
			return fail("connect", err)
		}
	}
	for _, o := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &look); err != nil {
			return fail("time-out", err)
		}
	}
	return fd, nil
}

// transient says that a call may be made again.
func transient(err error) bool {
	return err == unix.EAGAIN || err == unix.EINTR
}

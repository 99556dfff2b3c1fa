// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func dialUDP(server, kind string) (int, error) {
	port := portUDP
	if kind == kindGSO {
		port = portGSO
	}
	fd, err := dial(unix.SOCK_DGRAM, server, port)
	if err != nil {
		return -1, err
	}
	if kind == kindGSO {
		if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, segmentSize); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("UDP_SEGMENT", err)
		}
	}
	return fd, nil
}

// The paced load goes in small bursts, since a large one would be a queue of its own.
const (
	burst   = 8
	vectors = 64 // datagrams a call where nothing is paced
)

// sendSmall sends small datagrams: so many a second, or as many as it can.
func (a *agent) sendSmall(fd, rate int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := vectors
	var gap time.Duration
	if rate > 0 {
		n, gap = burst, burst*time.Second/time.Duration(rate)
		// A thread may otherwise sleep 50 µs longer than it asked.
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("timer slack", err)
		}
	}
	m := newMessages(n, smallSize)
	for next := time.Now(); !a.stop.Load(); {
		sent, err := m.send(fd)
		switch {
		case err == unix.ENOBUFS || err == unix.ECONNREFUSED || transient(err):
		case err != nil:
			return os.NewSyscallError("sendmmsg", err)
		}
		a.sent.Add(uint64(max(sent, 0) * smallSize))
		if rate == 0 {
			continue
		}
		next = next.Add(gap)
		if wait := time.Until(next); wait > 0 {
			ts := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&ts, nil) // a signal only makes it shorter
		} else if wait < -10*time.Millisecond {
			next = time.Now() // what could not be sent is not made up for
		}
	}
	return nil
}

// sendSuper sends super-packets, as many as it can.
func (a *agent) sendSuper(fd int) error {
	for buf := make([]byte, segments*segmentSize); !a.stop.Load(); {
		n, err := unix.SendmsgN(fd, buf, nil, nil, 0)
		if err != nil && err != unix.ENOBUFS && err != unix.ECONNREFUSED && !transient(err) {
			return os.NewSyscallError("send", err)
		}
		a.sent.Add(uint64(max(n, 0)))
	}
	return nil
}

func (a *agent) receiveSmall(fd int) error {
	m := newMessages(vectors, 2048)
	for {
		n, err := m.receive(fd)
		if transient(err) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvmmsg", err)
		}
		bytes := 0
		for i := range n {
			bytes += m.length(i)
		}
		a.bytes.Add(uint64(bytes))
		a.reads.Add(uint64(n))
	}
}

// receiveSuper takes super-packets whole where the kernel has them so.
func (a *agent) receiveSuper(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
		return os.NewSyscallError("UDP_GRO", err)
	}
	m := newMessages(vectors, 64<<10)
	for {
		n, err := m.receive(fd)
		if transient(err) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvmmsg", err)
		}
		for i := range n {
			a.bytes.Add(uint64(m.length(i)))
		}
		a.reads.Add(uint64(n))
	}
}

// echo answers every datagram with itself.
func echo(fd int) error {
	runtime.LockOSThread()
	for buf := make([]byte, 2048); ; {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if transient(err) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("receive", err)
		}
		_ = unix.Sendto(fd, buf[:n], 0, from) // a lost answer is a lost ping
	}
}

// ping sends pings, one at a time, with a gap after each answer.
func ping(q request) (rtt []int64, lost int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := dial(unix.SOCK_DGRAM, q.Server, portEcho)
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(fd)
	out, in := make([]byte, smallSize), make([]byte, 2048)
	end := time.Now().Add(q.For)
	for seq := uint64(1); ; seq++ {
		binary.BigEndian.PutUint64(out, seq)
		start := time.Now()
		if _, err := unix.Write(fd, out); err != nil && err != unix.ECONNREFUSED {
			return nil, 0, fmt.Errorf("ping: %w", os.NewSyscallError("write", err))
		}
		if answered(fd, in, seq) {
			rtt = append(rtt, time.Since(start).Nanoseconds())
		} else {
			lost++
		}
		if !time.Now().Before(end) {
			return rtt, lost, nil
		}
		if q.Gap > 0 {
			ts := unix.NsecToTimespec(q.Gap.Nanoseconds())
			_ = unix.Nanosleep(&ts, nil)
		}
	}
}

// answered waits for the answer to ping seq, past late ones to others; the socket's time-out ends it.
func answered(fd int, buf []byte, seq uint64) bool {
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false
		}
		if n == smallSize && binary.BigEndian.Uint64(buf) == seq {
			return true
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Probe sends p and waits until an ICMP error about it arrives or ctx ends. Path MTUs that the host has learned are
// ignored, and what is too big for its own interface is an error.
func (h *Host) Probe(ctx context.Context, p Probe) (ProbeReply, error) {
	var r ProbeReply
	err := h.probe(ctx, p, &r)
	if err != nil {
		return r, fmt.Errorf("host %s: probe %s: %w", h.name, p.To, err)
	}
	return r, nil
}

func (h *Host) probe(ctx context.Context, p Probe, r *ProbeReply) error {
	var f *os.File
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "probe")
		opts := map[int]int{unix.IP_RECVERR: 1, unix.IP_MTU_DISCOVER: unix.IP_PMTUDISC_PROBE}
		if p.TTL != 0 {
			opts[unix.IP_TTL] = p.TTL
		}
		for o, v := range opts {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, o, v); err != nil {
				return err
			}
		}
		to := &unix.SockaddrInet4{Port: int(p.To.Port()), Addr: p.To.Addr().As4()}
		return unix.Sendto(fd, make([]byte, p.Size-28), 0, to)
	})
	if f == nil {
		return err
	}
	defer f.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = rc.Read(func(fd uintptr) bool {
		oob := make([]byte, 512)
		var n int
		_, n, _, _, failure = unix.Recvmsg(int(fd), nil, oob, unix.MSG_ERRQUEUE)
		if errors.Is(failure, unix.EAGAIN) {
			failure = nil
			return false
		}
		if failure == nil {
			failure = r.parse(oob[:n])
		}
		return true
	})
	return errors.Join(failure, err)
}

// parse reads struct sock_extended_err, and the address that follows it (ip(7)).
func (r *ProbeReply) parse(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		d := m.Data
		if m.Header.Level != unix.IPPROTO_IP || m.Header.Type != unix.IP_RECVERR || len(d) < 24 {
			continue
		}
		if d[4] != unix.SO_EE_ORIGIN_ICMP {
			return unix.Errno(binary.NativeEndian.Uint32(d))
		}
		r.Type, r.Code = d[5], d[6]
		if r.Type == 3 && r.Code == 4 {
			r.MTU = int(binary.NativeEndian.Uint32(d[8:]))
		}
		r.From = netip.AddrFrom4([4]byte(d[20:24]))
		return nil
	}
	return errors.New("an error without a cause")
}

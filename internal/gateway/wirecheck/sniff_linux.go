// SPDX-License-Identifier: Apache-2.0

package wirecheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Sniffer is a packet socket that sees what an interface receives.
type Sniffer struct {
	file *os.File
	// Dropped is how many packets the kernel had no room for, once Run has returned.
	Dropped int
}

// Sniff opens a packet socket on an interface of the calling thread's network namespace. It needs CAP_NET_RAW.
func Sniff(device string) (*Sniffer, error) {
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	// Protocol 0 receives nothing until bind.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "sniff "+device)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: ifi.Index}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket on %s: %w", device, err), f.Close())
	}
	return &Sniffer{file: f}, nil
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(be.AppendUint16(nil, v)) }

// Run calls each with every packet, until Stop; what had arrived before Stop is seen.
func (s *Sniffer) Run(each func([]byte)) error {
	buf := make([]byte, 1<<16)
	for {
		n, err := s.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return s.drain(each, buf)
		}
		if err != nil {
			return err
		}
		each(buf[:n])
	}
}

// drain takes what is left in the socket.
func (s *Sniffer) drain(each func([]byte), buf []byte) error {
	c, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			if err != nil {
				break
			}
			each(buf[:n])
		}
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			s.Dropped = int(st.Drops)
		}
	})
}

// Stop ends Run. It may be called once.
func (s *Sniffer) Stop() error { return s.file.SetReadDeadline(time.Unix(1, 0)) }

// Close gives the socket back, after Run has returned.
func (s *Sniffer) Close() error { return s.file.Close() }

// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// The main goroutine keeps the process's first thread, which is never destroyed: no test may take it to a namespace.
func init() { runtime.LockOSThread() }

// enter takes the test to a network namespace of its own, which ends with the test's goroutine and all descriptors
// that belong to it. Nothing else in the process notices.
func enter(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("the kernel's TUN driver can only be tested by root, in a network namespace (CAP_SYS_ADMIN)")
		}
		t.Fatal("a network namespace: ", err)
	}
}

// ipv6 switches IPv6 on or off for interfaces to come; off, the kernel sends nothing of its own accord.
func ipv6(t testing.TB, on bool) {
	t.Helper()
	value := "1"
	if on {
		value = "0"
	}
	for _, which := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			t.Fatal(err)
		}
	}
}

// open opens a Device in the test's namespace and sets it up, with the addresses.
func open(t testing.TB, o tun.Options, addrs ...string) tun.Device {
	t.Helper()
	d, err := tun.Open(o)
	if o.Backend == tun.BackendURing && errors.Is(err, tun.ErrUnsupported) {
		t.Skip(err)
	}
	if errors.Is(err, tun.ErrNoDevice) {
		t.Skip("the kernel's TUN driver is not to be had here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	up(t, d.Name(), addrs...)
	return d
}

func link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func up(t testing.TB, name string, addrs ...string) {
	t.Helper()
	l := link(t, name)
	for _, s := range addrs {
		p := netip.MustParsePrefix(s)
		a := &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD,
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
}

// kernelEnd is the kernel's side of a TUN interface: a packet socket that speaks virtio headers too.
type kernelEnd struct{ f *os.File }

func newKernelEnd(t testing.TB, name string) kernelEnd {
	t.Helper()
	const ipv4 = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8
	// With this protocol, and not ETH_P_ALL, the socket does not see what it sends itself.
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(s), "packet socket")
	t.Cleanup(func() { f.Close() })
	if err := unix.SetsockoptInt(s, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: link(t, name).Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	return kernelEnd{f}
}

func (k kernelEnd) Send(p packet.Packet) error {
	b := make([]byte, tun.HeaderLen, tun.HeaderLen+p.Len)
	tun.EncodeHeader(b, &p)
	_, err := k.f.Write(append(b, p.Bytes()...))
	return err
}

// send is Send of a packet without offloads, and allocates nothing.
func (k kernelEnd) send(p packet.Packet) error {
	b := p.Buf[p.Off-tun.HeaderLen : p.Off+p.Len]
	clear(b[:tun.HeaderLen])
	_, err := k.f.Write(b)
	return err
}

func (k kernelEnd) Receive(ctx context.Context) (packet.Packet, error) {
	deadline, _ := ctx.Deadline()
	if err := k.f.SetReadDeadline(deadline); err != nil {
		return packet.Packet{}, err
	}
	buf := make([]byte, 1<<17)
	n, err := k.f.Read(buf)
	if err != nil {
		return packet.Packet{}, err
	}
	p := packet.From(buf[tun.HeaderLen:n])
	if err := tun.DecodeHeader(buf, &p); err != nil {
		return p, fmt.Errorf("%x: %w", buf[:tun.HeaderLen], err)
	}
	return p, nil
}

func buffers(d tun.Device) []packet.Packet {
	ps := make([]packet.Packet, d.BatchSize())
	for i := range ps {
		ps[i].Buf = make([]byte, d.BufferSize())
	}
	return ps
}

const patience = 20 * time.Second

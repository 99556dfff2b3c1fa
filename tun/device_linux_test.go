// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/tun/tuntest"
)

// kinds are the ways to open an interface that must all keep the contract.
var kinds = []struct {
	name    string
	options tun.Options
}{
	{"io_uring", tun.Options{Name: "tg%d", Backend: tun.BackendURing}},
	{"io_uring without offloads", tun.Options{Name: "tg%d", Backend: tun.BackendURing, NoOffload: true}},
	{"linux", tun.Options{Name: "tg%d", Backend: tun.BackendLinux}},
	{"linux without offloads", tun.Options{Name: "tg%d", Backend: tun.BackendLinux, NoOffload: true}},
	{"linux, spinning", tun.Options{Name: "tg%d", Backend: tun.BackendLinux, Spin: time.Millisecond}},
	{"io_uring, spinning", tun.Options{Name: "tg%d", Backend: tun.BackendURing, Spin: time.Millisecond}},
	{"water", tun.Options{Name: "tg%d", Backend: tun.BackendWater}},
}

// The kernel's own segmentation and checksums are at the other end, so this also holds packet.Segment to them.
func TestContract(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			tuntest.TestDevice(t, func(t *testing.T) (tun.Device, tuntest.Far) {
				enter(t)
				ipv6(t, false)
				d := open(t, k.options)
				return d, newKernelEnd(t, d.Name())
			})
		})
	}
}

// TestPartialChecksum: what a program in the namespace sends arrives with its checksum left to us.
func TestPartialChecksum(t *testing.T) {
	enter(t)
	ipv6(t, false)
	d := open(t, tun.Options{}, "10.9.0.1/24")
	c, err := net.Dial("udp4", "10.9.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	ps := buffers(d)
	n, err := d.Read(ps)
	if n != 1 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	p := &ps[0]
	want := packet.Offload{Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6}
	if p.Offload != want {
		t.Errorf("metadata %+v, want %+v", p.Offload, want)
	}
	answer(p)
	if n, err := d.Write(ps[:1]); n != 1 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	m, err := c.Read(buf)
	if string(buf[:m]) != "question" || err != nil {
		t.Errorf("the sender got %q, %v", buf[:m], err)
	}
}

// answer sends a packet back: it swaps addresses and ports, which changes no checksum.
func answer(p *packet.Packet) {
	b := p.Bytes()
	for i := range 4 {
		b[12+i], b[16+i] = b[16+i], b[12+i]
	}
	for i := range 2 {
		b[20+i], b[22+i] = b[22+i], b[20+i]
	}
}

// TestSuperPacketFromProgram: UDP_SEGMENT comes through whole with offloads, in pieces without.
func TestSuperPacketFromProgram(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			d := open(t, k.options, "10.9.0.1/24")
			c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 9})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			raw, err := c.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			cerr := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 1000)
			})
			if err := errors.Join(cerr, err); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(make([]byte, 30_500)); err != nil {
				t.Fatal(err)
			}
			ps := buffers(d)
			payload, segments, reads := 0, 0, 0
			for payload < 30_500 {
				n, err := d.Read(ps)
				if err != nil {
					t.Fatal(err)
				}
				for i := range ps[:n] {
					payload += ps[i].Len - 28
					segments += ps[i].Segments()
					reads++
				}
			}
			wantReads := 31
			if !k.options.NoOffload && k.options.Backend != tun.BackendWater {
				wantReads = 1
				if o := ps[0].Offload; o.GSO != packet.GSOUDP || o.GSOSize != 1000 || o.HdrLen != 28 {
					t.Errorf("metadata %+v", o)
				}
			}
			if reads != wantReads || segments != 31 {
				t.Errorf("%d packets, %d on a wire; want %d, 31", reads, segments, wantReads)
			}
		})
	}
}

// TestCloseWakesRead does it often, and nothing may be left running.
func TestCloseWakesRead(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			open(t, k.options) // or skip
			before, had := goleak.IgnoreCurrent(), descriptors(t)
			ps := []packet.Packet{{Buf: make([]byte, 1<<17)}}
			for range 50 {
				d, err := tun.Open(k.options)
				if err != nil {
					t.Fatal(err)
				}
				woken := make(chan error)
				go func() {
					_, err := d.Read(ps)
					woken <- err
				}()
				runtime.Gosched()
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-woken:
					if !errors.Is(err, os.ErrClosed) {
						t.Fatal(err)
					}
				case <-time.After(patience):
					t.Fatal("Read did not end")
				}
			}
			goleak.VerifyNone(t, before)
			if now := descriptors(t); now > had {
				t.Errorf("%d descriptors were left open", now-had)
			}
		})
	}
}

// TestKeeper: a queue goes on in another Device with what waits in it, while the first one still writes.
func TestKeeper(t *testing.T) {
	for _, backend := range []string{tun.BackendURing, tun.BackendLinux} {
		for _, next := range []string{tun.BackendURing, tun.BackendLinux} {
			t.Run(backend+" to "+next, func(t *testing.T) { keep(t, backend, next) })
		}
	}
}

func keep(t *testing.T, backend, next string) {
	enter(t)
	ipv6(t, false)
	first := open(t, tun.Options{Name: "tg%d", Backend: backend}).(tun.Keeper)
	far := newKernelEnd(t, first.Name())
	woken := make(chan error)
	go func() {
		_, err := first.Read(buffers(first)[:1])
		woken <- err
	}()
	runtime.Gosched()
	if err := first.StopReading(); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; !errors.Is(err, os.ErrClosed) {
		t.Fatalf("a Read that waited: %v", err)
	}
	p := packet.From([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1})
	if err := far.Send(p); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(buffers(first)); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Read afterwards, with a packet in the queue: %v", err)
	}
	if n, err := first.Write([]packet.Packet{packet.From(p.Bytes())}); n != 1 || err != nil {
		t.Errorf("Write afterwards: %d, %v", n, err)
	}
	fd, err := first.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Descriptor(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Descriptor after Close: %v", err)
	}
	second, err := tun.FromFD(fd, tun.Options{Backend: next})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	ps := buffers(second)
	if n, err := second.Read(ps); n != 1 || err != nil || string(ps[0].Bytes()) != string(p.Bytes()) {
		t.Errorf("the second Device reads %d, %v", n, err)
	}
}

// TestGone: an interface that is deleted ends Read, and everything after it, with ErrGone.
func TestGone(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			d := open(t, k.options)
			far := newKernelEnd(t, d.Name())
			p := packet.From([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1})
			if err := far.Send(p); err != nil {
				t.Fatal(err)
			}
			begun, ended := make(chan struct{}), make(chan error)
			go func() {
				ps := buffers(d)
				_, err := d.Read(ps)
				close(begun)
				for err == nil {
					_, err = d.Read(ps)
				}
				_, again := d.Read(ps)
				ended <- err
				ended <- again
			}()
			<-begun
			if err := netlink.LinkDel(link(t, d.Name())); err != nil {
				t.Fatal(err)
			}
			for _, which := range []string{"the waiting", "the next"} {
				select {
				case err := <-ended:
					if !errors.Is(err, tun.ErrGone) {
						t.Errorf("%s Read ended with: %v", which, err)
					}
				case <-time.After(patience):
					t.Fatal("Read did not end")
				}
			}
			if _, err := d.Write([]packet.Packet{p}); !errors.Is(err, tun.ErrGone) {
				t.Errorf("Write: %v", err)
			}
			if _, err := d.MTU(); !errors.Is(err, tun.ErrGone) {
				t.Errorf("MTU: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if _, err := d.Read(buffers(d)); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Read after Close: %v", err)
			}
			if _, err := d.MTU(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("MTU after Close: %v", err)
			}
		})
	}
}

// TestDown: packets for an interface that is down are refused, and it is no more than that.
func TestDown(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			d := open(t, k.options)
			l := link(t, d.Name())
			p := packet.From([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1})
			if err := netlink.LinkSetDown(l); err != nil {
				t.Fatal(err)
			}
			n, err := d.Write([]packet.Packet{p, p})
			var refused *tun.WriteError
			if n != 0 || !errors.As(err, &refused) || refused.Refused != 2 || !errors.Is(err, tun.ErrDown) {
				t.Errorf("Write to an interface that is down = %d, %v", n, err)
			}
			if err := netlink.LinkSetUp(l); err != nil {
				t.Fatal(err)
			}
			if n, err := d.Write([]packet.Packet{p, p}); n != 2 || err != nil {
				t.Errorf("Write to an interface that is up again = %d, %v", n, err)
			}
		})
	}
}

// TestMTU follows the interface, also through a new name.
func TestMTU(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			d := open(t, k.options)
			l := link(t, d.Name())
			if err := errors.Join(netlink.LinkSetMTU(l, 1280), netlink.LinkSetDown(l), netlink.LinkSetName(l, "renamed")); err != nil {
				t.Fatal(err)
			}
			got := make(chan int)
			go func() { // not in the namespace
				mtu, err := d.MTU()
				if err != nil {
					t.Error(err)
				}
				got <- mtu
			}()
			if mtu := <-got; mtu != 1280 {
				t.Errorf("MTU() = %d, want 1280", mtu)
			}
		})
	}
}

// TestNoAllocation: Read, Lend and Write of the Linux backends allocate nothing.
func TestNoAllocation(t *testing.T) {
	for _, backend := range []string{tun.BackendURing, tun.BackendLinux} {
		t.Run(backend, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			d := open(t, tun.Options{Backend: backend, Spin: time.Microsecond})
			far := newKernelEnd(t, d.Name())
			p := packet.From([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1})
			reads := []func([]packet.Packet) (int, error){d.Read}
			if l, ok := d.(tun.Lender); ok {
				reads = append(reads, l.Lend)
			}
			for _, read := range reads {
				ps := buffers(d)[:2]
				if n := testing.AllocsPerRun(90, func() {
					if err := far.send(p); err != nil {
						t.Fatal(err)
					}
					n, err := read(ps)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := d.Write(ps[:n]); err != nil {
						t.Fatal(err)
					}
				}); n != 0 {
					t.Errorf("%v allocations a batch", n)
				}
			}
		})
	}
}

// TestStats: a Device says what it is.
func TestStats(t *testing.T) {
	for _, k := range kinds {
		if k.options.Backend == tun.BackendWater {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			if s := open(t, k.options).(tun.Observed).Stats(); s != (tun.Stats{Backend: k.options.Backend}) {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("either", func(t *testing.T) {
		enter(t)
		s := open(t, tun.Options{}).(tun.Observed).Stats()
		if (s.Backend == tun.BackendURing) != (s.Why == nil) {
			t.Errorf("%+v", s)
		}
	})
}

// descriptors is how many the process has, but those of other tests.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

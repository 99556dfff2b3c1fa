// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

func TestNames(t *testing.T) {
	for _, backend := range []string{tun.BackendLinux, tun.BackendWater} {
		t.Run(backend, func(t *testing.T) {
			enter(t)
			for _, c := range []struct{ ask, get string }{
				{"", "tun0"}, {"", "tun1"}, {"inside%d", "inside0"}, {"inside%d", "inside1"}, {"fifteen-letters", "fifteen-letters"},
			} {
				if d := open(t, tun.Options{Name: c.ask, Backend: backend}); d.Name() != c.get {
					t.Errorf("asked for %q, got %q, want %q", c.ask, d.Name(), c.get)
				}
			}
			for _, name := range []string{"sixteen--letters", "a/b", "a b", "a\x00b", "lo"} {
				if d, err := tun.Open(tun.Options{Name: name, Backend: backend}); err == nil {
					t.Errorf("opened %q", name)
					_ = d.Close()
				}
			}
		})
	}
}

func TestOptionErrors(t *testing.T) {
	for _, c := range []struct {
		options tun.Options
		want    string
	}{
		{tun.Options{Backend: "tap"}, `no backend "tap"`},
		{tun.Options{Queues: -1}, "choose 1 or more"},
		{tun.Options{Queues: 2}, "call OpenQueues"},
	} {
		if _, err := tun.Open(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.options, err)
		}
	}
	_, err := tun.OpenQueues(tun.Options{Queues: 2, Backend: tun.BackendWater})
	if !errors.Is(err, tun.ErrUnsupported) {
		t.Errorf("two queues with water: %v", err)
	}
}

func TestBusy(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			d := open(t, k.options)
			o := k.options
			o.Name = d.Name()
			if _, err := tun.Open(o); !errors.Is(err, tun.ErrBusy) || !errors.Is(err, unix.EBUSY) {
				t.Errorf("the second Open: %v", err)
			}
		})
	}
}

// TestPermission takes CAP_NET_ADMIN from the test's thread, which is in a namespace that it is for.
func TestPermission(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var caps [2]unix.CapUserData
			if err := unix.Capget(&head, &caps[0]); err != nil {
				t.Fatal(err)
			}
			caps[0].Effective &^= 1 << unix.CAP_NET_ADMIN
			if err := unix.Capset(&head, &caps[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := tun.Open(k.options); !errors.Is(err, tun.ErrPermission) {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

// hide puts an empty directory in the place of dir, for the calling thread alone. In a chroot the mount that / is in has
// no name; the root of the mount namespace has one, so the thread goes there to make the mounts private, and back.
func hide(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.NewSyscallError("mount over "+dir, unix.Mount("empty", dir, "tmpfs", 0, ""))
}

// TestNoDevice hides /dev/net from the test's thread.
func TestNoDevice(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			if err := hide("/dev/net"); err != nil {
				t.Fatal(err)
			}
			if _, err := tun.Open(k.options); !errors.Is(err, tun.ErrNoDevice) {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

func TestPersistAndOwner(t *testing.T) {
	enter(t)
	d := open(t, tun.Options{Name: "stays", Persist: true, Owner: 1234, Group: 5678})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	l, ok := link(t, "stays").(*netlink.Tuntap)
	if !ok || l.Owner != 1234 || l.Group != 5678 || l.NonPersist {
		t.Errorf("after Close: %+v", l)
	}
	d = open(t, tun.Options{Name: "stays"})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	link(t, "stays") // still

	gone := open(t, tun.Options{Name: "goes"})
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	var missing netlink.LinkNotFoundError
	if _, err := netlink.LinkByName("goes"); !errors.As(err, &missing) {
		t.Errorf("after Close: %v", err)
	}
}

// TestOffloadIsForgotten: an interface that was used with offloads gives ordinary packets to who wants no other.
func TestOffloadIsForgotten(t *testing.T) {
	for _, k := range kinds {
		if !k.options.NoOffload && k.options.Backend != tun.BackendWater {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			if err := open(t, tun.Options{Name: "tg", Persist: true}).Close(); err != nil {
				t.Fatal(err)
			}
			o := k.options
			o.Name = "tg"
			d := open(t, o)
			far := newKernelEnd(t, "tg")
			p := udp(1, 3000)
			p.Offload = packet.Offload{
				Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6, GSO: packet.GSOUDP, GSOSize: 1000, HdrLen: 28,
			}
			if err := far.Send(p); err != nil {
				t.Fatal(err)
			}
			ps := buffers(d)
			if n, err := d.Read(ps); n < 1 || err != nil || ps[0].Len != 1028 || ps[0].Offload != (packet.Offload{}) {
				t.Errorf("Read = %d, %v: %d bytes, %+v", n, err, ps[0].Len, ps[0].Offload)
			}
		})
	}
}

// udp is a datagram from port number port with n bytes of payload and no checksum.
func udp(port uint16, n int) packet.Packet {
	b := make([]byte, 28+n)
	copy(b, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, packet.UDP, 0, 0, 10, 9, 0, 2, 198, 51, 100, 7})
	be := binary.BigEndian
	be.PutUint16(b[2:], uint16(len(b)))
	be.PutUint16(b[10:], packet.Checksum(b[:20]))
	be.PutUint16(b[20:], port)
	be.PutUint16(b[22:], 53)
	be.PutUint16(b[24:], uint16(8+n))
	return packet.From(b)
}

// TestQueues: four Devices share the flows of one interface, and each flow stays with one.
func TestQueues(t *testing.T) {
	for _, backend := range []string{tun.BackendURing, tun.BackendLinux} {
		t.Run(backend, func(t *testing.T) { shareFlows(t, backend) })
	}
}

func shareFlows(t *testing.T, backend string) {
	ds := queues(t, backend)
	if len(ds) != 4 {
		t.Fatalf("%d devices", len(ds))
	}
	for _, d := range ds {
		if d.Name() != "many0" {
			t.Errorf("a queue of %q", d.Name())
		}
	}
	up(t, "many0")
	far := newKernelEnd(t, "many0")
	const flows, each = 64, 3
	for range each {
		for port := range flows {
			if err := far.Send(udp(uint16(1000+port), 8)); err != nil {
				t.Fatal(err)
			}
		}
	}
	type arrival struct{ queue, port int }
	arrivals := make(chan arrival, flows*each)
	for q, d := range ds {
		go func() {
			ps := buffers(d)
			for {
				n, err := d.Read(ps)
				if err != nil {
					return // closed
				}
				for _, p := range ps[:n] {
					arrivals <- arrival{q, int(binary.BigEndian.Uint16(p.Bytes()[20:]))}
				}
			}
		}()
	}
	queueOf, used := map[int]int{}, map[int]bool{}
	for range flows * each {
		a := <-arrivals
		if q, ok := queueOf[a.port]; ok && q != a.queue {
			t.Errorf("the flow from port %d is on queues %d and %d", a.port, q, a.queue)
		}
		queueOf[a.port], used[a.queue] = a.queue, true
	}
	if len(used) < 2 {
		t.Errorf("%d flows on %d queue", flows, len(used))
	}
	for i, d := range ds { // the others go on
		for _, rest := range ds[i:] {
			if n, err := rest.Write([]packet.Packet{udp(1, 1)}); n != 1 || err != nil {
				t.Errorf("Write with %d queues left = %d, %v", len(ds)-i, n, err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// queues opens four queues of many0 in a namespace of its own.
func queues(t *testing.T, backend string) []tun.Device {
	t.Helper()
	enter(t)
	ipv6(t, false)
	ds, err := tun.OpenQueues(tun.Options{Name: "many%d", Queues: 4, Backend: backend})
	if backend == tun.BackendURing && errors.Is(err, tun.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

// TestSteering: what was written to a queue last brings the answers to it. So where a worker reads and writes the queues
// of one number of two interfaces, a flow and its returns meet it.
func TestSteering(t *testing.T) {
	for _, backend := range []string{tun.BackendURing, tun.BackendLinux} {
		t.Run(backend, func(t *testing.T) {
			ds := queues(t, backend)
			for _, d := range ds {
				t.Cleanup(func() { _ = d.Close() })
			}
			up(t, "many0")
			far := newKernelEnd(t, "many0")
			for i, d := range ds {
				p := udp(4000, 8)
				if n, err := d.Write([]packet.Packet{p.Clone()}); n != 1 || err != nil {
					t.Fatalf("Write to queue %d = %d, %v", i, n, err)
				}
				if _, err := far.Receive(t.Context()); err != nil {
					t.Fatal(err)
				}
				answer(&p)
				for range 3 {
					if err := far.Send(p); err != nil {
						t.Fatal(err)
					}
				}
				ps := buffers(d)
				for got := 0; got < 3; {
					n, err := d.Read(ps) // which waits for ever, were they elsewhere
					if err != nil {
						t.Fatal(err)
					}
					got += n
				}
			}
		})
	}
}

// TestFromFD opens an interface in one namespace and takes the descriptor over in another, as after a restart.
func TestFromFD(t *testing.T) {
	for _, header := range []uint16{0, unix.IFF_VNET_HDR} {
		fds := make(chan int)
		opened := t.Run("open", func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0) // blocking, as a careless opener leaves it
			if err != nil {
				t.Fatal(err)
			}
			req, err := unix.NewIfreq("handed")
			if err != nil {
				t.Fatal(err)
			}
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | header)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
				t.Fatal(err)
			}
			up(t, "handed")
			if err := netlink.LinkSetMTU(link(t, "handed"), 1333); err != nil {
				t.Fatal(err)
			}
			far := newKernelEnd(t, "handed")
			if err := far.Send(udp(1, 1)); err != nil {
				t.Fatal(err)
			}
			go func() { fds <- fd }()
		})
		if !opened {
			return
		}
		d, err := tun.FromFD(<-fds, tun.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Name() != "handed" {
			t.Errorf("Name() = %q", d.Name())
		}
		if mtu, err := d.MTU(); mtu != 1333 || err != nil {
			t.Errorf("MTU() = %d, %v", mtu, err)
		}
		ps := buffers(d)
		want := udp(1, 1)
		if n, err := d.Read(ps); n != 1 || err != nil || string(ps[0].Bytes()) != string(want.Bytes()) {
			t.Errorf("Read = %d, %v: %x", n, err, ps[0].Bytes())
		}
		woken := make(chan error)
		go func() {
			_, err := d.Read(ps)
			woken <- err
		}()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-woken; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read ended with %v", err)
		}
	}
}

func TestFromFDErrors(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pipe[1]) }()
	if _, err := tun.FromFD(pipe[0], tun.Options{}); err == nil || !strings.Contains(err.Error(), "no descriptor of a TUN") {
		t.Errorf("a pipe: %v", err)
	}
	enter(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("the kernel's TUN driver is not to be had here: ", err)
	}
	if _, err := tun.FromFD(fd, tun.Options{}); !errors.Is(err, tun.ErrGone) {
		t.Errorf("a descriptor without interface: %v", err)
	}
}

// TestNotInherited: no program that is started later gets the descriptor.
func TestNotInherited(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			enter(t)
			before := tunDescriptors(t)
			open(t, k.options)
			opened := 0
			for fd := range tunDescriptors(t) {
				if before[fd] {
					continue
				}
				opened++
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("descriptor %d: flags %#x, %v", fd, flags, err)
				}
			}
			if opened != 1 {
				t.Errorf("%d descriptors were opened", opened)
			}
		})
	}
}

func tunDescriptors(t *testing.T) map[int]bool {
	t.Helper()
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fds := map[int]bool{}
	for _, e := range entries {
		if to, err := os.Readlink(dir + e.Name()); err != nil || to != "/dev/net/tun" {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		fds[fd] = true
	}
	return fds
}

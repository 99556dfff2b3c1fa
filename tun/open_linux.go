// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const node = "/dev/net/tun"

func openDefault(o Options) ([]Device, error) { return openKernel(o) }

// openKernel attaches o.Queues descriptors to one interface.
func openKernel(o Options) (ds []Device, err error) {
	defer func() {
		if err != nil {
			for _, d := range ds {
				_ = d.Close()
			}
			ds = nil
		}
	}()
	queues := max(o.Queues, 1)
	for range queues {
		fd, err := attach(o, queues > 1)
		if err != nil {
			return ds, err
		}
		d, err := newDevice(fd, o)
		if err != nil {
			return ds, err
		}
		ds = append(ds, d)
		o.Name = d.Name() // the next queue is of the same interface, whatever %d became
	}
	return ds, nil
}

// attach opens the driver and joins the interface, which exists from then on.
func attach(o Options, multi bool) (fd int, err error) {
	req, err := unix.NewIfreq(o.Name)
	if err != nil {
		return -1, fmt.Errorf("the name has %d bytes: choose one of at most %d", len(o.Name), unix.IFNAMSIZ-1)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if !o.NoOffload {
		flags |= unix.IFF_VNET_HDR
	}
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(flags)
	fd, err = unix.Open(node, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, explain(err)
	}
	// Only now: a descriptor that is polled before it has an interface reports an error for ever.
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return -1, explain(err)
	}
	return fd, nil
}

// explain adds what to do about an error of opening an interface.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w (%w)", ErrNoDevice, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the name belongs to an interface that is no TUN or was made with another kind of queues: "+
			"choose another name, or delete that interface (%w)", err)
	}
	return err
}

// fromFD takes over a descriptor.
func fromFD(fd int, o Options) (Device, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	unix.CloseOnExec(fd)
	return newDevice(fd, o)
}

// identify says which interface fd is attached to, and with which flags.
func identify(fd int) (name string, flags uint16, err error) {
	req, err := unix.NewIfreq("")
	if err != nil {
		return "", 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, req); err != nil {
		if errors.Is(err, unix.EBADFD) {
			return "", 0, fmt.Errorf("%w (%w)", ErrGone, err)
		}
		return "", 0, fmt.Errorf("this is no descriptor of a TUN interface (%w)", err)
	}
	return req.Name(), req.Uint16(), nil
}

// configure sets what an interface remembers from one owner to the next, and tells whether the kernel knows UDP
// super-packets. It is called for water's descriptors too.
func configure(fd int, o Options, header bool) (uso bool, err error) {
	if header {
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerLen); err != nil {
			return false, fmt.Errorf("setting the size of the virtio header: %w", err)
		}
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
			return false, fmt.Errorf("setting the byte order of the virtio header: %w", err)
		}
	}
	if uso, err = setOffload(fd, header && !o.NoOffload); err != nil {
		return false, err
	}
	if o.Owner != 0 {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, int(o.Owner)); err != nil {
			return false, fmt.Errorf("giving the interface to user %d: %w", o.Owner, err)
		}
	}
	if o.Group != 0 {
		if err := unix.IoctlSetInt(fd, unix.TUNSETGROUP, int(o.Group)); err != nil {
			return false, fmt.Errorf("giving the interface to group %d: %w", o.Group, err)
		}
	}
	if o.Persist {
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return false, fmt.Errorf("making the interface persistent: %w", err)
		}
	}
	return uso, nil
}

// setOffload asks for as much as the kernel has (USO came with Linux 6.2), or for nothing: an interface that was made
// before may still have what its last owner asked for.
func setOffload(fd int, on bool) (uso bool, err error) {
	const (
		tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
		all = tso | unix.TUN_F_USO4 | unix.TUN_F_USO6
	)
	if !on {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
			return false, fmt.Errorf("switching offloads off: %w", err)
		}
		return false, nil
	}
	for _, f := range []int{all, tso, unix.TUN_F_CSUM, 0} {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, f); err == nil {
			return f == all, nil
		}
	}
	return false, fmt.Errorf("setting offloads: %w", err)
}

// socketFor makes a socket in the network namespace of the interface behind fd. A socket belongs to its namespace for
// good, so questions about the interface can be asked from any thread, and after privileges were dropped.
func socketFor(fd int) (*os.File, error) {
	ns, err := unix.IoctlRetInt(fd, unix.TUNGETDEVNETNS)
	if err != nil { // needs CAP_NET_ADMIN; without, the interface can only be one of ours
		return socket()
	}
	defer func() { _ = unix.Close(ns) }()
	if same, err := isCurrent(ns); err != nil || same {
		if err != nil {
			return nil, err
		}
		return socket()
	}
	type result struct {
		f   *os.File
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			c <- result{err: fmt.Errorf("entering the namespace of the interface: %w", err)}
			return
		}
		f, err := socket()
		c <- result{f, err}
	}()
	r := <-c
	return r.f, r.err
}

func isCurrent(ns int) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(ns, &a); err != nil {
		return false, fmt.Errorf("the namespace of the interface: %w", err)
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &b); err != nil {
		return false, fmt.Errorf("the namespace of this thread: %w", err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

func socket() (*os.File, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a socket to ask for the MTU: %w", err)
	}
	return os.NewFile(uintptr(s), "socket"), nil
}

// mtuOf asks for the MTU of the interface behind a descriptor, by the name that it has now, in the namespace of socket.
func mtuOf(control func(func(fd int) error) error, socket *os.File) (mtu int, err error) {
	var name string
	err = control(func(fd int) (err error) {
		name, _, err = identify(fd)
		return err
	})
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	err = controlFile(socket, func(fd int) error { return unix.IoctlIfreq(fd, unix.SIOCGIFMTU, req) })
	if errors.Is(err, unix.ENODEV) {
		err = ErrGone
	}
	return int(req.Uint32()), err
}

// controlFile calls f with the descriptor of file, which cannot be closed meanwhile. It is not File.Fd, which would make
// the descriptor blocking, so that Close no longer wakes a Read.
func controlFile(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return os.ErrClosed
	}
	return err
}

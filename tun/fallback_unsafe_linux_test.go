// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// forbid makes a system call fail with errno for the thread of the test, which ends with it: as a container would.
func forbid(t *testing.T, call uint32, errno unix.Errno) {
	t.Helper()
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
	runtime.KeepAlive(filter)
	if err != nil {
		t.Skip("a seccomp filter: ", err)
	}
}

// TestFallback: where io_uring is not to be had Open does without, and says so; who asks for it by name is told.
func TestFallback(t *testing.T) {
	for _, c := range []struct {
		name  string
		call  uint32
		errno unix.Errno
	}{
		{"an old kernel", unix.SYS_IO_URING_SETUP, unix.ENOSYS},
		{"kernel.io_uring_disabled", unix.SYS_IO_URING_SETUP, unix.EPERM},
		{"registering forbidden", unix.SYS_IO_URING_REGISTER, unix.EPERM},
		{"entering forbidden", unix.SYS_IO_URING_ENTER, unix.EPERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			enter(t)
			ipv6(t, false)
			forbid(t, c.call, c.errno)
			had := descriptors(t)
			for range 3 {
				_, err := tun.Open(tun.Options{Backend: tun.BackendURing})
				if !errors.Is(err, tun.ErrUnsupported) || !errors.Is(err, c.errno) {
					t.Fatal(err)
				}
			}
			if now := descriptors(t); now > had {
				t.Errorf("%d descriptors were left open", now-had)
			}
			d := open(t, tun.Options{})
			if s := d.(tun.Observed).Stats(); s.Backend != tun.BackendLinux || !errors.Is(s.Why, c.errno) {
				t.Errorf("%+v", s)
			}
			p := packet.From([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1})
			if err := newKernelEnd(t, d.Name()).Send(p); err != nil {
				t.Fatal(err)
			}
			if n, err := d.Read(buffers(d)); n != 1 || err != nil {
				t.Errorf("Read = %d, %v", n, err)
			}
		})
	}
}

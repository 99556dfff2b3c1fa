// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gateway_test

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// txOffloadOff makes an interface send packets as they are on a wire: cut, and with their checksums. The argument of
// SIOCETHTOOL is a struct that points to another one, which package unix has no function for.
func txOffloadOff(h *lab.Host, device string) error {
	type value struct{ cmd, data uint32 }
	type request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, cmd := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
			v := &value{cmd: cmd}
			r := &request{data: unsafe.Pointer(v)}
			copy(r.name[:], device)
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(r))); e != 0 {
				return os.NewSyscallError("SIOCETHTOOL", e)
			}
		}
		return nil
	})
}

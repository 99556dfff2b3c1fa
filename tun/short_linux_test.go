// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// TestShortWrite: where the end of a packet is not taken the packet is refused; where none of it is, too. A pipe that is
// nearly full does both.
func TestShortWrite(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{name: "tun0"}
	d.w.fd = fds[1]
	if err := d.write(make([]byte, size-100)); err != nil {
		t.Fatal(err)
	}
	if err := d.write(make([]byte, size+100)); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("more than there is room for: %v", err)
	}
	for range size { // until there is no room at all
		if _, err := unix.Write(fds[1], make([]byte, 1)); err != nil {
			break
		}
	}
	if err := d.write(make([]byte, 10)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("without room: %v", err)
	}
	if _, err := unix.Read(fds[0], make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := d.write(make([]byte, 2*size)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("half of it: %v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// pin keeps the calling goroutine, and the programs that it starts, on one processor, the last, until the function that it
// returns is called. The processors of a guest may be of different speed for minutes, since one of them shares its core
// with somebody, and what is compared is to have the same.
func pin(tb testing.TB) (release func()) {
	tb.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	err := unix.SchedGetaffinity(0, &all)
	if err == nil {
		for cpu, left := 0, all.Count(); left > 0; cpu++ {
			if all.IsSet(cpu) {
				if left--; left == 0 {
					one.Set(cpu)
				}
			}
		}
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return func() {
		err := unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// TestPin: a thread that is pinned may run on one processor, and after that on all that it might before.
func TestPin(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	count := func() int {
		var s unix.CPUSet
		if err := unix.SchedGetaffinity(0, &s); err != nil {
			t.Fatal(err)
		}
		return s.Count()
	}
	before := count()
	release := pin(t)
	if n := count(); n != 1 {
		t.Errorf("%d processors while it is pinned", n)
	}
	if release(); count() != before {
		t.Errorf("%d processors after that, %d before", count(), before)
	}
}

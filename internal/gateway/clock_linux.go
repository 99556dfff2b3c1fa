// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"time"

	"golang.org/x/sys/unix"
)

// uptime is the time since the machine was started, suspended or not. Nobody can set it; the monotonic clock of package
// time stands still while the machine sleeps, and connections that ended meanwhile would live on.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // Linux has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package gateway

import "time"

var loaded = time.Now()

// uptime is the time since the process was started.
func uptime() time.Duration { return time.Since(loaded) }

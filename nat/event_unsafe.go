// SPDX-License-Identifier: Apache-2.0

package nat

import "unsafe"

// eventBytes is the size of an event: a cache line.
const (
	eventBytes = int(unsafe.Sizeof(event{}))

	_ = uint(64 - eventBytes)
	_ = uint(eventBytes - 64)
)

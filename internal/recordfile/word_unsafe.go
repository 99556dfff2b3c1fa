// SPDX-License-Identifier: Apache-2.0

//go:build linux

package recordfile

import (
	"unsafe"
)

// word is 8 bytes of a mapping as a number. A mapping begins with a page, so at a multiple of 8 it is aligned; it is no
// memory of the garbage collector, and stays until Close.
func word(b []byte, at int) *uint64 {
	_ = b[at+7]
	return (*uint64)(unsafe.Pointer(&b[at]))
}

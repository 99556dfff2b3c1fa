// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package control

import (
	"errors"
	"syscall"
)

// isRefused: the socket is there, and nobody listens.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

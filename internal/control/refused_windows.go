// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isRefused: the socket is there, and nobody listens.
func isRefused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }

// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"net"
)

// Socket is a listening unix socket.
type Socket struct{ *net.UnixListener }

// Listen is not supported: nothing here keeps other users of the machine from such a socket.
func Listen(path string) (*Socket, error) {
	return nil, fmt.Errorf("the control socket %s: %w on Windows", path, errors.ErrUnsupported)
}

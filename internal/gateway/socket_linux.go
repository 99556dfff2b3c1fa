// SPDX-License-Identifier: Apache-2.0

package gateway

import "github.com/tidegate/tidegate/internal/control"

// listenControl listens at path; "" is nothing and no error.
func listenControl(path string) (*control.Socket, error) {
	if path == "" {
		return nil, nil
	}
	s, err := control.Listen(path)
	if err != nil {
		return nil, refuse("%w (write another path with --socket, or none)", err)
	}
	return s, nil
}

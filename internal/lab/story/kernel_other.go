// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package story

import (
	"errors"

	"github.com/tidegate/tidegate/internal/lab"
)

// NewKernelWorld needs the network namespaces of Linux: elsewhere it always fails.
func NewKernelWorld(*Network, lab.Fault, ...lab.Tap) (World, error) {
	return nil, errors.ErrUnsupported
}

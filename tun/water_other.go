// SPDX-License-Identifier: Apache-2.0

//go:build !linux && !darwin && !windows

package tun

import (
	"fmt"
	"runtime"

	"github.com/songgao/water"
)

func waterConfig(Options) (c water.Config, err error) {
	return c, fmt.Errorf("%w: no backend has interfaces of %s", ErrUnsupported, runtime.GOOS)
}

// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package tun

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/songgao/water"
)

func openDefault(o Options) ([]Device, error) { return openWater(o) }

func openKernel(o Options) ([]Device, error) {
	return nil, fmt.Errorf("%w: the backend %q is for Linux", ErrUnsupported, o.Backend)
}

func fromFD(int, Options) (Device, error) {
	return nil, fmt.Errorf("%w: taking over a descriptor is for Linux", ErrUnsupported)
}

func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	return err
}

func meaning(err error) error { return err }

func adopt(ifce *water.Interface, _ Options) (io.ReadWriteCloser, func() (int, error), error) {
	mtu := func() (int, error) {
		i, err := net.InterfaceByName(ifce.Name())
		if err != nil {
			return 0, err
		}
		return i.MTU, nil
	}
	return ifce.ReadWriteCloser, mtu, nil
}

// linuxOnly refuses what only Linux interfaces have.
func linuxOnly(o Options) error {
	if o.Persist || o.Owner != 0 || o.Group != 0 {
		return fmt.Errorf("%w: Persist, Owner and Group are for Linux", ErrUnsupported)
	}
	return nil
}

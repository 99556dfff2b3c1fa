// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"

	"github.com/tidegate/tidegate/tun"
)

// OpenTUN makes a TUN interface in the host and returns its other end, which the caller closes.
func (h *Host) OpenTUN(l Link) (dev tun.Device, err error) {
	err = h.Do(func() error {
		dev, err = tun.Open(tun.Options{Name: l.Name})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.name, err)
	}
	if err := h.setup(l); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

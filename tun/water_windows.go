// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"

	"github.com/songgao/water"
)

func waterConfig(o Options) (c water.Config, err error) {
	if !o.Network.IsValid() || !o.Network.Addr().Is4() {
		return c, errors.New("the driver needs the interface's IPv4 address and prefix: set Options.Network")
	}
	c.ComponentID = "tap0901" // the driver that comes with OpenVPN
	c.InterfaceName = o.Name
	c.Network = o.Network.String()
	return c, linuxOnly(o)
}

// SPDX-License-Identifier: Apache-2.0

package tun

import "github.com/songgao/water"

func waterConfig(o Options) (c water.Config, err error) {
	c.Name = o.Name // utunN, which water checks
	return c, linuxOnly(o)
}

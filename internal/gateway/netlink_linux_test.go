// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// linkSetMTU is for the thread of a host.
func linkSetMTU(index, mtu int) error {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}

// onLink does something to an interface of a host.
func onLink(h *lab.Host, name string, do func(nl *netlink.Handle, l netlink.Link) error) error {
	return h.Do(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		l, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		return do(nl, l)
	})
}

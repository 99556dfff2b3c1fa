// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/tidegate/tidegate/internal/calls"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/cloud"
	"github.com/tidegate/tidegate/nat"
)

// newLab makes what carries the packets of a region, and how to find its machines.
func newLab(internet netip.Addr, sessions int) (*cloud.Cloud, func(string) (m calls.Machine, exists, runs bool), error) {
	c, err := cloud.New(cloud.Options{Engine: nat.Config{Sessions: sessions, FlowCounters: true}, Internet: internet, InsideMTU: insideMTU, OutsideMTU: outsideMTU})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("a lab needs /dev/net/tun, which this system does not show: %w (%w)", fs.ErrPermission, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fmt.Errorf("a lab makes network namespaces, and needs root for that: %w", err)
	case err != nil:
		return nil, nil, err
	}
	return c, func(name string) (m calls.Machine, exists, runs bool) {
		h, runs := c.Host(name)
		if h == nil {
			return m, false, false
		}
		return calls.Machine{PID: os.Getpid(), TID: h.TID()}, true, runs
	}, nil
}

func enter(m calls.Machine, name string, args ...string) error {
	return lab.Exec(m.PID, m.TID, name, args...)
}

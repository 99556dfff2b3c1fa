// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"net/netip"

	"github.com/tidegate/tidegate/internal/calls"
	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/vpc"
)

var errNoLab = usageError{errors.New("a lab is made of the network namespaces of Linux, and this system has none")}

// noLab is what there is in the place of a lab: nothing makes one.
type noLab interface {
	region.Engines
	Observe(*vpc.Model) error
	Close() error
}

func newLab(netip.Addr, int) (noLab, func(string) (m calls.Machine, exists, runs bool), error) {
	return nil, nil, errNoLab
}

func enter(calls.Machine, string, ...string) error { return errNoLab }

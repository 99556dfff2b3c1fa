// SPDX-License-Identifier: Apache-2.0

// Package forward is what the forwarders that stand for other TUN libraries have in common: the engine, with the policy of
// the gateway that they are measured beside. Only the I/O differs.
package forward

import (
	"net/netip"

	"github.com/tidegate/tidegate/nat"
)

// The interfaces that a forwarder makes, toward each side.
const (
	Inside  = "fw-in"
	Outside = "fw-out"
)

// Ready is what a forwarder prints when its interfaces are there.
const Ready = "ready"

// NewEngine is an engine for a gateway of inside hosts with one public address.
func NewEngine(inside netip.Prefix, public netip.Addr) (*nat.Engine, error) {
	return nat.New(nat.Config{Sessions: 1 << 20}, &nat.Policy{
		Inside: []netip.Prefix{inside},
		Pools:  []nat.Pool{{Name: "public", Addresses: []netip.Addr{public}}},
		Routes: []nat.Route{{Source: inside, Pool: "public"}},
	})
}

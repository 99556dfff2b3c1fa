// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"context"
	"net"
	"net/netip"
)

// DialContext is as net.Dialer's with a literal address, for "tcp", "tcp4", "udp" and "udp4". It fits http.Transport.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, network, 0, address)
}

// asConn keeps a nil of a concrete type out of an interface.
func asConn[C net.Conn](c C, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Listen is as net.Listen with "tcp" or "tcp4" and a literal address.
func (h *Host) Listen(network, address string) (net.Listener, error) {
	if network != "tcp" && network != "tcp4" {
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	a, err := literal(address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	l, err := h.ListenTCP(a)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// ListenPacket is as net.ListenPacket with "udp" or "udp4" and a literal address.
func (h *Host) ListenPacket(network, address string) (net.PacketConn, error) {
	if network != "udp" && network != "udp4" {
		return nil, &net.OpError{Op: "listen", Net: network, Err: net.UnknownNetworkError(network)}
	}
	a, err := literal(address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	c, err := h.ListenUDP(a)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// DialFrom is DialContext from a local port, 0 being any.
func (h *Host) DialFrom(ctx context.Context, network string, port uint16, address string) (net.Conn, error) {
	a, err := literal(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if a.Addr().IsUnspecified() {
		a = netip.AddrPortFrom(h.Addr(), a.Port()) // package net dials the host itself
	}
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	switch network {
	case "tcp", "tcp4":
		return asConn(h.DialTCP(ctx, local, a))
	case "udp", "udp4":
		return asConn(h.DialUDP(local, a))
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
}

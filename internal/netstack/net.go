// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"context"
	"net"
	"net/netip"
)

// DialContext is as net.Dialer's with a literal address, for "tcp", "tcp4", "udp" and "udp4". It fits http.Transport.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	a, err := literal(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	switch network {
	case "tcp", "tcp4":
		return asConn(h.DialTCP(ctx, netip.AddrPort{}, a))
	case "udp", "udp4":
		return asConn(h.DialUDP(netip.AddrPort{}, a))
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
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

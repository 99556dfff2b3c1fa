// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping sends one ICMP echo request with so many bytes of data, and returns when its reply has come. Whether a host
// answers is its stack's business: these do.
func (h *Host) Ping(ctx context.Context, to netip.Addr, size int) (time.Duration, error) {
	addr := &net.IPAddr{IP: to.AsSlice()}
	if !to.Unmap().Is4() {
		return 0, opError("ping", "ip4:icmp", nil, addr, notIPv4(to))
	}
	s, err := h.open("ip4:icmp", icmp.ProtocolNumber4, netip.AddrPort{}, netip.AddrPortFrom(to, 0))
	if err != nil {
		return 0, opError("ping", "ip4:icmp", nil, addr, err)
	}
	s.remote = addr
	defer func() { _ = s.shut(s.ep.Close) }()
	request := make([]byte, header.ICMPv4MinimumSize+size)
	header.ICMPv4(request).SetType(header.ICMPv4Echo)
	header.ICMPv4(request).SetSequence(1)
	start := time.Now()
	err = s.try(waiter.WritableEvents|waiter.EventErr, &s.write, ctx, func() tcpip.Error {
		f := fullAddress(netip.AddrPortFrom(to, 0))
		_, err := s.ep.Write(bytes.NewReader(request), tcpip.WriteOptions{To: &f})
		return err
	})
	if err == nil {
		err = s.try(waiter.ReadableEvents|waiter.EventErr, &s.read, ctx, func() tcpip.Error {
			var reply bytes.Buffer
			_, err := s.ep.Read(&reply, tcpip.ReadOptions{})
			return err
		})
	}
	return time.Since(start), opError("ping", "ip4:icmp", nil, addr, err)
}

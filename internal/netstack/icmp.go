// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ICMPError is an error that a router or host has sent about a packet.
type ICMPError struct {
	// From is who sent it.
	From netip.Addr
	// Type and Code are those of ICMP; MTU is the next hop's, where the error tells one.
	Type, Code uint8
	MTU        int
	// Proto is the protocol of the packet it is about, Src and Dst are that packet's ends; the ports are the first two
	// words after its IP header, whatever the protocol.
	Proto    uint8
	Src, Dst netip.AddrPort
}

// ParseICMPError says what error b is, if it is a whole one with right checksums. It is for Host.Tap.
func ParseICMPError(b []byte) (e ICMPError, ok bool) {
	ip := header.IPv4(b)
	if !ip.IsValid(len(b)) || !ip.IsChecksumValid() || ip.TransportProtocol() != header.ICMPv4ProtocolNumber ||
		ip.FragmentOffset() != 0 || ip.More() {
		return e, false
	}
	icmp := header.ICMPv4(ip.Payload())
	if len(icmp) < header.ICMPv4MinimumSize+header.IPv4MinimumSize || checksum.Checksum(icmp, 0) != 0xffff {
		return e, false
	}
	switch icmp.Type() {
	case header.ICMPv4DstUnreachable:
		if icmp.Code() == header.ICMPv4FragmentationNeeded {
			e.MTU = int(icmp.MTU())
		}
	case header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
	default:
		return e, false
	}
	quote := header.IPv4(icmp.Payload())
	ports := int(quote.HeaderLength())
	if ports < header.IPv4MinimumSize || len(quote) < ports+4 {
		return e, false
	}
	addr := func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
	e.From = addr(ip.SourceAddressSlice())
	e.Type, e.Code = uint8(icmp.Type()), uint8(icmp.Code())
	e.Proto = quote.Protocol()
	e.Src = netip.AddrPortFrom(addr(quote.SourceAddressSlice()), binary.BigEndian.Uint16(quote[ports:]))
	e.Dst = netip.AddrPortFrom(addr(quote.DestinationAddressSlice()), binary.BigEndian.Uint16(quote[ports+2:]))
	return e, true
}

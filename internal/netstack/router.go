// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Interface is one of a Router's.
type Interface struct {
	// Addr is the router's IPv4 address there, by which the errors it sends there are known.
	Addr netip.Addr
	// MTU is the largest IP packet it sends, in bytes; 0 means 1,500.
	MTU int
	// Routes are what is behind the interface. Among all interfaces the longest match counts.
	Routes []netip.Prefix
	// Output is called with each IP packet that leaves by the interface; the bytes are its own to keep. It must not block,
	// and may be called from several goroutines at once, during a call of Inject only.
	Output func(b []byte)
}

// Router forwards between its interfaces (RFC 1812): it takes its step of the time to live, refuses what is too big and
// must not be fragmented, fragments the rest, and says with ICMP what it cannot forward. To itself it answers pings. It
// never touches what is behind the IP header: a wrong transport checksum stays wrong.
//
// It is not made of gVisor's stack, whose forwarding sends on a TTL of 0, mends transport checksums, and reads the TTL
// of a packet after it has given its memory away. All methods may be called from any goroutine.
type Router struct {
	interfaces []Interface
	routes     []route // longest first
	wrong      atomic.Uint64
	id         atomic.Uint32
}

type route struct {
	dst netip.Prefix
	out int
}

// NewRouter makes a router. It has no goroutines, and nothing to close.
func NewRouter(interfaces ...Interface) (*Router, error) {
	r := &Router{interfaces: slices.Clone(interfaces)}
	for i := range r.interfaces {
		in := &r.interfaces[i]
		if in.MTU == 0 {
			in.MTU = 1500
		}
		if in.MTU < header.IPv4MinimumMTU {
			return nil, fmt.Errorf("netstack: an MTU of %d is below the %d bytes that IPv4 needs", in.MTU, header.IPv4MinimumMTU)
		}
		if !in.Addr.Is4() {
			return nil, fmt.Errorf("netstack: %v is no IPv4 address", in.Addr)
		}
		for _, p := range in.Routes {
			if !p.Addr().Is4() || !p.IsValid() {
				return nil, fmt.Errorf("netstack: %v is no IPv4 prefix", p)
			}
			r.routes = append(r.routes, route{p.Masked(), i})
		}
	}
	slices.SortStableFunc(r.routes, func(a, b route) int { return cmp.Compare(b.dst.Bits(), a.dst.Bits()) })
	return r, nil
}

// ChecksumErrors is how many packets the router has dropped so far because they or their checksum were wrong: that of
// IP, or of ICMP to itself.
func (r *Router) ChecksumErrors() uint64 { return r.wrong.Load() }

// Inject gives the router an IP packet that arrived at any interface. The bytes are copied.
func (r *Router) Inject(b []byte) {
	ip := header.IPv4(b)
	if !ip.IsValid(len(b)) || !ip.IsChecksumValid() {
		r.wrong.Add(1)
		return
	}
	ip = bytes.Clone(ip[:ip.TotalLength()])
	dst := address(ip.DestinationAddress())
	if slices.ContainsFunc(r.interfaces, func(i Interface) bool { return i.Addr == dst }) {
		r.answer(ip)
		return
	}
	if ip.TTL() <= 1 {
		r.refuse(ip, header.ICMPv4TimeExceeded, header.ICMPv4TTLExceeded, 0)
		return
	}
	out := r.lookup(dst)
	if out == nil {
		r.refuse(ip, header.ICMPv4DstUnreachable, header.ICMPv4NetUnreachable, 0)
		return
	}
	if len(ip) > out.MTU && ip.Flags()&header.IPv4FlagDontFragment != 0 {
		r.refuse(ip, header.ICMPv4DstUnreachable, header.ICMPv4FragmentationNeeded, out.MTU)
		return
	}
	ip.SetTTL(ip.TTL() - 1)
	seal(ip)
	out.send(ip)
}

// lookup is the interface to a destination, or nil.
func (r *Router) lookup(dst netip.Addr) *Interface {
	i := slices.IndexFunc(r.routes, func(r route) bool { return r.dst.Contains(dst) })
	if i < 0 {
		return nil
	}
	return &r.interfaces[r.routes[i].out]
}

// send puts a packet on the wire, in pieces if it is too big.
func (in *Interface) send(ip header.IPv4) {
	if len(ip) <= in.MTU {
		in.Output(ip)
		return
	}
	hdr, data := ip[:ip.HeaderLength()], ip.Payload()
	size := (in.MTU - len(hdr)) &^ 7
	for offset := 0; offset < len(data); offset += size {
		end := min(offset+size, len(data))
		piece := header.IPv4(slices.Concat(hdr, data[offset:end]))
		flags := ip.Flags()
		if end < len(data) {
			flags |= header.IPv4FlagMoreFragments
		}
		piece.SetFlagsFragmentOffset(flags, ip.FragmentOffset()+uint16(offset))
		piece.SetTotalLength(uint16(len(piece)))
		seal(piece)
		in.Output(piece)
	}
}

// answer is for packets to the router itself.
func (r *Router) answer(ip header.IPv4) {
	icmp := header.ICMPv4(ip.Payload())
	if ip.TransportProtocol() != header.ICMPv4ProtocolNumber || ip.More() || ip.FragmentOffset() != 0 {
		return
	}
	if len(icmp) < header.ICMPv4MinimumSize || checksum.Checksum(icmp, 0) != 0xffff {
		r.wrong.Add(1)
		return
	}
	if icmp.Type() != header.ICMPv4Echo {
		return
	}
	reply := bytes.Clone(icmp)
	header.ICMPv4(reply).SetType(header.ICMPv4EchoReply)
	r.originate(address(ip.DestinationAddress()), address(ip.SourceAddress()), reply)
}

// refuse sends an ICMP error about a packet, where one may be sent (RFC 1812, section 4.3.2.7).
func (r *Router) refuse(ip header.IPv4, t header.ICMPv4Type, code header.ICMPv4Code, mtu int) {
	src := address(ip.SourceAddress())
	if ip.FragmentOffset() != 0 || src.IsUnspecified() || src.IsMulticast() || address(ip.DestinationAddress()).IsMulticast() {
		return
	}
	if ip.TransportProtocol() == header.ICMPv4ProtocolNumber && !query(ip.Payload()) {
		return
	}
	back := r.lookup(src)
	if back == nil {
		return
	}
	// As much of the packet as fits 576 bytes (section 4.3.2.3).
	quote := ip[:min(len(ip), header.IPv4MinimumProcessableDatagramSize-header.IPv4MinimumSize-header.ICMPv4MinimumSize)]
	icmp := header.ICMPv4(slices.Concat(make([]byte, header.ICMPv4MinimumSize), quote))
	icmp.SetType(t)
	icmp.SetCode(code)
	icmp.SetMTU(uint16(mtu))
	r.originate(back.Addr, src, icmp)
}

// query says whether an ICMP message is no error.
func query(icmp header.ICMPv4) bool {
	if len(icmp) < header.ICMPv4MinimumSize {
		return false
	}
	switch icmp.Type() {
	case header.ICMPv4Echo, header.ICMPv4EchoReply, header.ICMPv4Timestamp, header.ICMPv4TimestampReply:
		return true
	}
	return false
}

// originate sends an ICMP message, whose checksum is still to be made.
func (r *Router) originate(src, dst netip.Addr, icmp header.ICMPv4) {
	out := r.lookup(dst)
	if out == nil {
		return
	}
	icmp.SetChecksum(0)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	ip := header.IPv4(slices.Concat(make([]byte, header.IPv4MinimumSize), icmp))
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), ID: uint16(r.id.Add(1)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4()),
	})
	seal(ip)
	out.send(ip)
}

// seal makes the checksum of an IP header.
func seal(ip header.IPv4) {
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

func address(a tcpip.Address) netip.Addr { return netip.AddrFrom4(a.As4()) }

// SPDX-License-Identifier: Apache-2.0

package lab

import "net/netip"

// Probe is a UDP datagram with the don't-fragment flag.
type Probe struct {
	// To is where it goes; a port where nobody listens makes the destination answer.
	To netip.AddrPort
	// TTL is its time to live, 0 for the host's usual one.
	TTL int
	// Size is the length of the whole IP packet, at least 28 bytes.
	Size int
}

// ProbeReply is the ICMP error that came back.
type ProbeReply struct {
	// From is who sent it.
	From netip.Addr
	// Type and Code are those of ICMP; MTU is the next hop's, where the error tells one.
	Type, Code uint8
	MTU        int
}

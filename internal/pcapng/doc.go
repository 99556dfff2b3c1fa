// SPDX-License-Identifier: Apache-2.0

// Package pcapng reads captures, pcapng and classic pcap, and writes pcapng whose bytes depend on nothing but what is
// written.
//
// gopacket's pcapgo is what our tests check it with, and is not enough for a tool that has to say what it did with each
// packet of any file: it takes a file that ends inside a block for one that ends there, does not say where in the file a
// packet stands, panics on some options that are too short or time stamps too fine, and allocates what a damaged length
// asks for. (Its writer puts the machine's architecture and system into the section header.)
//
// The reader holds one block at a time, and is safe for any input: what it cannot read is an *Error with the number of the
// packet and the place in the file. Format: draft-ietf-opsawg-pcapng; blocks of unknown types are skipped.
package pcapng

// Link types (LINKTYPE_ numbers of the tcpdump group).
const (
	LinkEthernet = 1
	// LinkRaw is IP of either version; 12 and 14 are what some systems write for it.
	LinkRaw, LinkRaw12, LinkRaw14 = 101, 12, 14
	// LinkIPv4 is bare IPv4 packets. It is what a Writer's interfaces have: libpcap 1.10, so tcpdump, refuses files with
	// several interfaces of LinkRaw.
	LinkIPv4 = 228
)

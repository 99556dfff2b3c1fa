// SPDX-License-Identifier: Apache-2.0

// Package netfilter holds the engine against the NAT of the Linux kernel: its tests send the same packets through both
// and compare what comes out. Twenty years of traffic have been through the other one; where the two differ, the list of
// differences says why.
//
// The kernel is a router in a network namespace of the test, between two TUN interfaces, with rules as people write
// them. Both NATs have the same addresses, MTUs, 1:1 mappings and port forwards. What is not compared, since it may
// differ by right: the external port that a flow gets, but not where it is the same and where another; the IP
// identification where DF is off, but for a test of its own; the TOS, DF and identification of ICMP errors that the NAT
// itself makes.
package netfilter

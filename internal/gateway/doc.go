// SPDX-License-Identifier: Apache-2.0

// Package gateway turns a Linux machine into a NAT gateway: two TUN interfaces, the routing that leads traffic through
// them, and the loop that translates it in between.
//
// # The way of a packet
//
// The kernel routes, the engine translates. A packet from an inside host arrives at whatever interface, a routing rule
// sends it into the inside TUN, the engine writes it, translated, to the outside TUN, and the kernel routes it from there
// by its main table, like any packet. Answers go the same way back. So each packet is forwarded twice and its TTL goes
// down by two: traceroute shows the gateway as two hops, its inside and its outside address.
//
// Rules in front of the main table decide who goes where. P is an inside prefix, E an external address, UPLINK an
// interface that the default route leads to, if no inside host is behind it:
//
//	1000: from P iif UPLINK              nowhere: a spoofed source (RFC 2827)
//	1001: to P iif lo, to P iif INSIDE   main table, routes at least as long as P: the gateway itself, and answers
//	1002: from P to P                    main table, routes at least as long as P: inside to inside stays with the kernel
//	1003: from P                         table 7400: default to INSIDE; P unreachable
//	1004: all                            table 7401: E to OUTSIDE; P to OUTSIDE
//
// What comes from elsewhere for P (the last line) is for the engine to refuse and to count. A source in E matches none
// but the last, so what the engine sent out does not come back.
//
// # Fail closed
//
// Behind each route to a TUN there is a worse one that refuses: the guard. When a TUN is gone, with its process, however
// that ended, its routes are gone, and inside traffic ends as unreachable instead of leaving with private sources. The
// guard is in place before the TUNs are, it stays when the gateway stops, and a start replaces it without a gap. Only
// Teardown takes it away.
//
// The external addresses are no addresses of any interface: the kernel would answer for them itself. They are routed to
// the machine, or, if they lie in the network of one of its interfaces, answered for there (proxy ARP).
package gateway

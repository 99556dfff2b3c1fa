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
//	1003: from P, from D iif lo          table 7400: default to INSIDE; P unreachable
//	1004: all                            table 7401: E to OUTSIDE; P to OUTSIDE
//	1005: iif OUTSIDE                    on to 1007
//	1006: not iif lo                     nowhere
//	1007: (the way on, to the main table)
//
// What comes from elsewhere for P (1004) is for the engine to refuse and to count. A source in E matches nothing before
// 1004, so what the engine sent out does not come back.
//
// Rule 1006 is the fence: nothing leaves that did not come out of the outside TUN, except what the machine itself sends
// and what inside hosts send each other. It catches what inside hosts send with sources that are not theirs, and what
// arrives for addresses that nobody has, which the machine and its router would send each other until the TTL is up. So
// the machine forwards for nobody else: another network behind it has to be in P.
//
// # The errors of the kernel
//
// The machine is a router on either side of the engine, and has to say when a TTL is up, a packet is too big or a host is
// down. While the gateway runs, such an error has as its source an address of the interface that the packet came from
// (icmp_errors_use_inbound_ifaddr). About packets of the inside TUN that is D, 192.0.0.8, so that rule 1003 sends the error
// back into that TUN and the engine translates it: outside it comes from, and quotes, the address that the sender knows.
// The outside TUN has the machine's own outside address, so that inside hosts see it as the second hop.
//
// # Fail closed
//
// Behind each route to a TUN there is a worse one that refuses; with the fence these are the guard. When a TUN is gone, its
// routes are gone, and inside traffic ends as unreachable instead of leaving with private sources; while a TUN is there and
// nobody reads it, what is led into it ends there. The guard is in place before anything leads to the TUNs, it stays when
// the gateway stops, and a start replaces it without a gap. Only Teardown takes it away. A start that fails for want of a
// TUN leaves no guard, if there was none.
//
// # One process after the other
//
// With state (config.State) the records of the engine are in a file mapping, and whatever the process was doing when it
// died, the next one adopts them: connections, ports, time-outs and counters go on. The clock is that since the machine's
// start, so the time in between counts. The TUNs are persistent then, and stay with addresses, routes and rules.
//
// How a process ends decides what waits for the next. Killed, it leaves all as it is; what is for the TUNs is dropped until
// they are read again, unless the service manager has their queues, where it waits. SIGUSR2 is that on purpose, after what
// was read has been sent on: a restart loses nothing that fits into the queues. SIGTERM withdraws: TUNs, ARP entries and
// sysctls go, the guard and the records stay. And a process that is started over one that runs takes all of it over while
// the queues hold what comes; see handover_linux.go.
//
// The external addresses are no addresses of any interface: the kernel would answer for them itself. They are routed to
// the machine, or, if they lie in the network of one of its interfaces, answered for there (proxy ARP). The machine itself
// cannot reach inside hosts by them: their answers are for an address of its own, and it takes them as they are, before
// they are translated.
//
// # While it runs
//
// What is described above is kept up: see monitor_linux.go. While a hole in the guard cannot be closed nothing is forwarded.
//
// The control socket (package control) shows sessions, counters and ports, and takes reloads. It is opened before the
// capabilities are dropped, and belongs to the user of the process alone. CAP_NET_ADMIN is kept: routes follow the
// machine's addresses, and a reload changes routes, rules and ARP entries. Files are read as that user, no more: the
// configuration has to be readable for it.
package gateway

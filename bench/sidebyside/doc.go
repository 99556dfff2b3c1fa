// SPDX-License-Identifier: Apache-2.0

// Command sidebyside measures the gateway beside the other ways to do its job: the kernel's forwarding, nft masquerade,
// pasta, slirp4netns, and the same engine over plain water and over wireguard's tun.
//
//	go run ./bench/sidebyside            # five rounds, about twenty minutes
//	go run ./bench/sidebyside --quick    # about a minute
//
// It needs root and Linux, and works in network namespaces of its own alone:
//
//	in 10.0.1.10 ---- 10.0.1.1 gw 198.51.100.2 ---- 198.51.100.1 out (192.0.2.1, the server)
//
// The namespaces are held by threads and descriptors (package internal/lab), and every program dies with the thread that
// started it, so nothing is left after a crash. Every visit to a peer has namespaces of its own; peers take turns, and the
// whole sequence is one round. pasta and slirp4netns bring their own interface into "in" and end its connections in sockets
// of "gw"; all others route.
//
// The load is made by this program, in processes of their own inside the namespaces (agent_linux.go and the files beside
// it): plain system calls from threads, sendmmsg and recvmmsg for small datagrams, UDP_SEGMENT and UDP_GRO for large ones,
// epoll for short connections. What it can do at most is the row "kernel forwarding", which has the same load and no NAT.
// TCP is dialled from "in" in both directions.
//
// What the rows mean is in rows.go; docs/performance.md says how to read them.
package main

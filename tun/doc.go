// SPDX-License-Identifier: Apache-2.0

// Package tun reads and writes IP packets through the operating system's TUN interfaces, in batches and with their
// offloads: a 64 KiB super-packet or a partial checksum comes and goes as it is, described by packet.Offload, so that
// whoever forwards it looks at one header instead of forty.
//
// Three things to know:
//
//   - Buffers are the caller's: Read fills those it is given, and Write is done with them when it returns (it may
//     overwrite the headroom of a packet, and complete its checksum). A Lender has buffers of its own, and copies nothing.
//   - Concurrency: one Read and one Write of a Device may run at the same time, two of a kind may not. For more goroutines
//     there are more queues: OpenQueues.
//   - Time: there are no deadlines. A Read waits until packets come, or until Close ends it with os.ErrClosed. It sleeps
//     at once, unless Options.Spin lets it look for a while, which makes round trips shorter at the price of a processor.
//
// Three backends stand behind Device. On Linux, Open speaks to /dev/net/tun itself: virtio headers, several queues,
// batches; by io_uring, so that a batch is one system call, or where the kernel or a container does not allow that with a
// call a packet (Observed tells which, and why). Everywhere else, and on Linux by Options.Backend, it is
// github.com/songgao/water: one packet a call and no offload; super-packets are then cut, and checksums completed, before
// they are written. What they have in common is held to one contract by package tuntest, which also has a Device that lives in memory. The examples are a NAT between
// two interfaces, and a Device of one's own.
//
// The package makes interfaces and nothing more: addresses, routes and the state of the link belong to the caller.
//
// # Limits
//
// On Windows, water waits for the driver inside a call that Close cannot interrupt for sure: a Read may stay until the
// next packet arrives. On macOS and Linux Close wakes it. The backends of macOS and Windows are built and vetted, and have
// not been run.
package tun

// SPDX-License-Identifier: Apache-2.0

// Package tun reads and writes IP packets through the operating system's TUN interfaces, in batches and with their
// offloads: a 64 KiB super-packet or a partial checksum comes and goes as it is, described by packet.Offload, so that
// whoever forwards it looks at one header instead of forty.
//
// Two backends stand behind Device. On Linux, Open speaks to /dev/net/tun itself: virtio headers, several queues,
// batches. Everywhere else, and on Linux by Options.Backend, it is github.com/songgao/water: one packet a call and no
// offload; super-packets are then cut, and checksums completed, before they are written. What they have in common is
// held to one contract by package tuntest, which also has a Device that lives in memory.
//
// The package makes interfaces and nothing more: addresses, routes and the state of the link belong to the caller.
//
// # Limits
//
// On Windows, water waits for the driver inside a call that Close cannot interrupt for sure: a Read may stay until the
// next packet arrives. On macOS and Linux Close wakes it. There are no deadlines: to end a Read, close the Device.
package tun

// SPDX-License-Identifier: Apache-2.0

// Package netstack makes hosts out of gVisor's network stack: a real TCP/IP implementation in this process, with the
// connections of package net, that sends and receives IP packets through two function calls.
//
// A [Host] is driven from one place at a time. gVisor's TCP works in goroutines of its own, which here are held by
// their pause mechanism (made for checkpoints) and let go only inside a call: an operation of a connection, a packet
// that arrives, a timer. When such a call returns, the stack has done all that followed from it, and its goroutines
// block on channels. Two things come of that: what a host sends in answer to a packet is known when Inject returns, and
// a host may live in a bubble of testing/synctest, where time stands still until every goroutine blocks (gVisor's own
// way to sleep does not count as that).
//
// A [Router] is what may be between hosts.
//
// No method blocks on anything but its purpose: Read waits for data, Dial for the peer, each until its deadline,
// context or Close.
package netstack

// SPDX-License-Identifier: Apache-2.0

// Package stuntest finds out from the inside how a NAT treats UDP, as RFC 5780 has it: a STUN server with two addresses
// and two ports, and a client that asks it.
//
// Both work on sockets that the caller opens, whatever network those belong to, and know time only through the time
// package and read deadlines; so they run in a network namespace as well as over a network stack in process, on the
// virtual clock of testing/synctest.
package stuntest

// SPDX-License-Identifier: Apache-2.0

// Package nat is the engine: it decides about packets and translates them.
//
// An Engine is made of a Config and a Policy. Packets go through a Worker, one by one or in batches, with the place
// they came from and the time; they are rewritten in place, and each gets a Verdict, which says whether and where it is
// to be sent and, if not, why. What the engine sends of its own accord (ICMP errors, RSTs, fragments it had kept) is in
// Worker.Emitted.
//
// The engine does no I/O, reads no clock, starts no goroutine and writes no log. It is a function of its packets, their
// sides and times, and a seed. Nothing leaves on the outside with a source that is not in the external set, unless the
// policy asks for just that (Route.Bypass).
//
// What it owes is in RFC 3022 (the translation), 4787, 5382 and 5508 with 7857 (the behaviour for UDP, TCP and ICMP),
// 6888 (limits) and, for the profile of that name, in the documentation of Amazon VPC.
package nat

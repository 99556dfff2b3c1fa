// SPDX-License-Identifier: Apache-2.0

// Package nat is the engine: it decides about packets and translates them.
//
// An Engine is made of a Config and a Policy. Packets go through a Worker, one by one or in batches, with the place
// they came from and the time; they are rewritten in place, and each gets a Verdict, which says whether and where it is
// to be sent and, if not, why. What the engine sends of its own accord (ICMP errors, RSTs, fragments it had kept) is in
// Worker.Emitted.
//
// Three things to know:
//
//   - Time is an argument: the time since some moment of the caller's choice, from a clock that does not jump. The engine
//     does no I/O, reads no clock, starts no goroutine and writes no log; it is a function of its packets, their sides and
//     times, and a seed. Sessions end on time by themselves; Worker.Tick is for what has to be sent at a time, and for the
//     memory of what has ended.
//   - Buffers are the caller's. The engine keeps none after a call (what it must keep it copies), and what it emits is
//     valid until the next call to the same Worker.
//   - Concurrency: an Engine is for all goroutines, a Worker for one. Policies, lists, counters and events may be changed
//     and read while packets flow. Config.Shards says how many workers can be busy at once without waiting for each other.
//
// What an engine knows of sessions can outlive it: it lies in Config.Records, which may be a file mapping, and Adopt makes
// another engine that goes on with it, after an upgrade or a crash at any moment.
//
// The first example is a whole program; the one called eventLoop is a loop of one's own, with a clock of one's own. A loop
// over two TUN devices, or over devices of one's own, is in the examples of package tun.
//
// Nothing leaves on the outside with a source that is not in the external set, unless the policy asks for just that
// (Route.Bypass). What else the engine owes is in RFC 3022 (the translation), 4787, 5382 and 5508 with 7857 (the behaviour
// for UDP, TCP and ICMP), 6888 (limits) and, for the profile of that name, in the documentation of Amazon VPC.
package nat

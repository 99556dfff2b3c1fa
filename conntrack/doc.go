// SPDX-License-Identifier: Apache-2.0

// Package conntrack keeps the sessions of a NAT: flat tables without pointers, in memory that the caller hands over.
//
// A Table has a fixed number of 64-byte records, one a session, stored once for both directions. Two indexes of 8-byte
// slots find a record by its inside tuple and by its external one; two more find the endpoint-independent mapping that
// an inside or an external endpoint belongs to. A mapping has no record of its own: it is the list of its sessions, and
// ends with the last of them, so that the port it holds and the sessions that use it cannot disagree.
//
// Time is an argument, in ticks of a millisecond that wrap around. Nothing here reads a clock, starts a goroutine,
// allocates after New, or locks: a Table belongs to whoever holds its lock. A session is dead as soon as a lookup says
// so (Table.Alive); Table.Advance gives back the records of the dead, in bounded steps.
package conntrack

// SPDX-License-Identifier: Apache-2.0

// Package conntrack keeps the sessions of a NAT: flat tables without pointers, in memory that the caller hands over.
//
// Three things to know:
//
//   - Time is an argument, in ticks of a millisecond that wrap around. A session is dead as soon as a lookup says so
//     (Table.Live, Table.Alive); Table.Advance gives back the records of the dead, in bounded steps.
//   - Memory is all taken by New, from the caller or the heap, and nothing is allocated afterwards. A Record that a Table
//     has handed out is the Table's: what a caller may change in it is said at Table.Rec, and a Handle means nothing once
//     its session has ended.
//   - Concurrency is the caller's: a Table belongs to whoever holds its lock. Nothing here locks, starts a goroutine or
//     reads a clock.
//
// A Table has a fixed number of 64-byte records, one a session, stored once for both directions. Two indexes of 8-byte
// slots find a record by its inside tuple and by its external one; two more find the endpoint-independent mapping that
// an inside or an external endpoint belongs to. A mapping has no record of its own: it is the list of its sessions, and
// ends with the last of them, so that the port it holds and the sessions that use it cannot disagree.
//
// The example of Table is the life of a session. Whoever wants a NAT and no table uses package nat.
package conntrack

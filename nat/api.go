// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/packet"
)

// Config is what an Engine is made of; it cannot change later. The zero value is usable.
type Config struct {
	// Sessions bounds the live sessions; 0 means 65,536. Memory for all of them is taken at once.
	Sessions int
	// Shards is how many parts the tables have, a power of two, up to 64; 0 means 1. As many as there are workers is
	// enough; with 1 the engine is a pure function of its input and Seed.
	Shards int
	// Seed makes hashes and ports. Engines with equal seeds and input do the same; 0 stands for a random one.
	Seed uint64
	// FragmentBytes bounds the memory for fragments that wait; 0 means 4 MiB, and less than 640 KiB counts as that.
	FragmentBytes int
	// FragmentTimeout is how long the pieces of a datagram wait for the rest, from the first one on, 1 ms to 1 hour; 0
	// means DefaultFragmentTimeout.
	FragmentTimeout time.Duration
	// HeldSYNs bounds the inbound SYNs that wait; 0 means 1,024.
	HeldSYNs int
	// QuarantinedPorts bounds the ports that wait until they may be given out again (Profile.Quarantine), rounded up to a
	// multiple of Shards; beyond, the one that has waited longest is free early and counted as Unburied. 0 means as many as
	// Sessions, since a port that waits has a record; but no session is refused for its sake.
	QuarantinedPorts int
	// FlowCounters keeps packet and byte counts for each session, at 24 bytes more a session, and so those of pools
	// (Engine.PoolStats).
	FlowCounters bool
	// Records is the memory for what is to outlive the engine: sessions, ports that wait, counters, the clock; a file mapping,
	// say. It has at least RecordsSize bytes, aligned to 8, and belongs to the engine for good. New overwrites it; Adopt
	// goes on with what an engine has left. nil is memory from the heap.
	Records []byte
	// Events is how many events wait for Engine.Events, up to 16,777,216, at 64 bytes each; 0 means that none are kept. Each
	// shard has an equal part, rounded up to a power of two of at least 2.
	Events int
}

// DefaultFragmentTimeout is within what RFC 791, section 3.2, has receivers wait.
const DefaultFragmentTimeout = 15 * time.Second

// Emission is a packet that the engine made, or kept and now lets go: ICMP errors, RSTs, fragments.
type Emission struct {
	// Packet is valid until the next call to the Worker that made it. It has Headroom.
	Packet packet.Packet
	// Side is where it goes.
	Side Side
	// Cause is the place in the batch of the packet that caused it, or -1 for a timer.
	Cause int
}

// Session is one live session, for people and tests. Flows of restricted hosts that pass no pool have one, too: its External
// is its Inside, and its protocol may be any.
type Session struct {
	Protocol                 uint8
	Inside, External, Remote netip.AddrPort
	// State is the name of the protocol state; Inbound says that it was started from outside, Replied that the other
	// side has answered.
	State            string
	Inbound, Replied bool
	// Expires is when it ends if nothing refreshes it, on the clock of the calls.
	Expires time.Duration
	// Packets and Bytes by Direction, if Config.FlowCounters is set.
	Packets [2]uint64
	Bytes   [2]uint64
}

// Stats is a snapshot of counters and gauges.
type Stats struct {
	// Verdicts counts packets by Verdict.
	Verdicts [NumVerdicts]uint64
	// Sessions is how many records are in use, SessionsMax how many there are.
	Sessions, SessionsMax int
	// Created, Expired, Recycled and Cut count sessions that were made, that timed out, that gave way before they were
	// answered when the table was full, and that a change of policy ended.
	Created, Expired, Recycled, Cut uint64
	// Mappings is how many external ports endpoint-independent mappings hold, Quarantined how many wait.
	Mappings, Quarantined int
	// Emitted counts packets that the engine made; ICMPSuppressed those that the rate limit kept back.
	Emitted, ICMPSuppressed uint64
	// EventsLost counts events that found the ring full.
	EventsLost uint64
	// QuoteChecksums counts ICMP errors passed though they quote a header with a wrong checksum.
	QuoteChecksums uint64
	// Unburied counts ports whose quarantine ended early, since no other port or record was left or too many waited;
	// ParityLost those whose parity could not be kept.
	Unburied, ParityLost uint64
	// FragmentBytes, FragmentSets and HeldSYNs are what waits.
	FragmentBytes, FragmentSets, HeldSYNs int
	// MemoryBytes is the size of all tables.
	MemoryBytes int
}

// Impact says what a change of policy does to live sessions. Those that a shorter time-out ends are in none of its numbers.
type Impact struct {
	// Kept go on, Cut end with their next packet.
	Kept, Cut int
	// Draining is how many of Kept have an external address that nothing new gets (Pool.Draining).
	Draining int
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

// Handle names a record of a Table. None is no record.
type Handle uint32

// None is the Handle of no record.
const None Handle = 0

// Dir is the direction of a packet: its index in the two-element fields of a Record.
type Dir uint8

const (
	// Out is from inside to outside, In from outside to inside.
	Out Dir = iota
	In
)

// State is what a session waits for; with the pool it decides how long.
type State uint8

const (
	// Free is a record that nobody uses: only the list fields are valid.
	Free State = iota
	// UDPOpening is UDP before the other side has answered; then it is UDP.
	UDPOpening
	// UDP, DNS and Query are sessions of UDP, UDP to port 53, and ICMP queries.
	UDP
	DNS
	Query
	// Opening is TCP until both SYNs were seen and acknowledged.
	Opening
	// Established is TCP after that, half-closed too.
	Established
	// Closing is TCP after a FIN each way. Only a new SYN leads out of it.
	Closing
	// Reset is TCP after an acceptable RST. A later segment leads back.
	Reset
	// Quarantined holds the external port of an endpoint-independent mapping that has ended: only Ext, ExtPort, Proto,
	// Pool and LastSeen (when it ended) are valid.
	Quarantined

	// NumStates is the number of states.
	NumStates
)

var stateNames = [NumStates]string{"free", "udp_opening", "udp", "dns", "query", "opening", "established", "closing", "reset", "quarantined"}

// String is the name of the state in lower case.
func (s State) String() string {
	if s >= NumStates {
		return "invalid"
	}
	return stateNames[s]
}

// Bits are properties of a record.
type Bits uint16

const (
	// Inbound: the session was started from outside.
	Inbound Bits = 1 << iota
	// Replied: the other side has answered.
	Replied
	// Independent: the external endpoint is an endpoint-independent mapping.
	Independent
	// Forwarded: the external endpoint is that of a port forward.
	Forwarded
	// Head: the first session of its mapping to its remote address: the one that the inbound index names.
	Head
	// Completed: TCP, the handshake was seen to its end at some time.
	Completed
	// Unknown: TCP, picked up in the middle: window scales are not known.
	Unknown
	// Looped: the remote address is an external one of this NAT: packets are hairpinned.
	Looped
	// Tallied and Crowded: the session is counted for its inside host, for its destination, by whoever set the bit.
	Tallied
	Crowded
	// Reusable: the port of its mapping may be given out as soon as the mapping ends: no quarantine.
	Reusable
	// Filter: the session translates nothing; it remembers what its inside host was allowed.
	Filter
)

// TCP flags of a record, by direction: shift by Dir.
const (
	sawSYN   = 1 << 0 // this direction's SYN was seen
	sawAcked = 1 << 2 // this direction acknowledged the other's SYN
	sawFIN   = 1 << 4
	sawReSYN = 1 << 6 // a SYN on an established session, which a SYN+ACK would confirm
)

// Record is one session: 64 bytes, a cache line, no pointers.
type Record struct {
	// In, Rem and Ext are the inside, the remote and the external address. (In may come to name a row of a table of
	// IPv6 hosts.)
	In, Rem, Ext uint32
	// InPort, RemPort and ExtPort are ports; of ICMP queries, the identifier inside, 0, and the identifier outside.
	InPort, RemPort, ExtPort uint16
	// Proto is the IP protocol number.
	Proto uint8
	// State is written last when a record is made, together with LastSeen, and first when it is given up.
	State State
	// LastSeen is the tick from which the time-out counts.
	LastSeen uint32
	// Epoch is the policy that the session was last found to agree with.
	Epoch uint32
	// Delta is the RFC 1624 difference of the addresses on the way out, for whoever translates.
	Delta uint16
	// Pool is the number of the pool whose time-outs apply.
	Pool uint16
	// Next and Prev link the sessions of one endpoint-independent mapping, those to one remote address side by side.
	// Of a Filter session they are whatever its owner wants (Owner).
	Next, Prev uint32
	// End is one past the highest sequence number that a direction sent, Ack the highest it acknowledged. Those of the
	// direction that has not answered yet link the unanswered sessions, oldest first.
	End, Ack [2]uint32
	// Win is the largest window that a direction advertised, as a power of two (rounded up); scale its window scales.
	Win   [2]uint8
	scale uint8
	flags uint8
	// Attachment is where the inside host was last seen.
	Attachment uint16
	Bits       Bits
}

// Owner is the number that SetOwner has given to a Filter session, before Add.
func (r *Record) Owner() uint64 { return uint64(r.Next)<<32 | uint64(r.Prev) }

// SetOwner keeps a number in a Filter session, for whoever wants to know later under what it was made.
func (r *Record) SetOwner(n uint64) { r.Next, r.Prev = uint32(n>>32), uint32(n) }

// strip clears what has no meaning in a tombstone, store by store: what it has stays as it is meanwhile.
func (r *Record) strip() {
	r.In, r.Rem = 0, 0
	crashPoint("strip")
	r.InPort, r.RemPort = 0, 0
	r.Epoch, r.Delta = 0, 0
	crashPoint("strip")
	r.Next, r.Prev = 0, 0
	r.End, r.Ack = [2]uint32{}, [2]uint32{}
	crashPoint("strip")
	r.Win, r.scale, r.flags = [2]uint8{}, 0, 0
	r.Attachment, r.Bits = 0, 0
	crashPoint("strip")
}

// Has reports whether all of b are set.
func (r *Record) Has(b Bits) bool { return r.Bits&b == b }

// replyDir is the direction opposite to the one that started the session.
func (r *Record) replyDir() Dir {
	if r.Bits&Inbound != 0 {
		return Out
	}
	return In
}

// Count is what passed through a session, by direction.
type Count struct {
	Bytes   [2]uint64
	Packets [2]uint32
}

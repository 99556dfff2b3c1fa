// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// Record is one packet that a NAT has seen, and what became of it.
type Record struct {
	// At is the time since the network was made.
	At time.Duration
	// From is the side it came from.
	From nat.Side
	// Verdict is the engine's, unless Fault says that the packet never got there.
	Verdict nat.Verdict
	Fault   string
	// Protocol, Source and Destination are the packet's as it came; NewSource and NewDestination as it went on. Ports are
	// those of TCP and UDP, and 0 in later fragments.
	Protocol                  uint8
	Source, Destination       netip.AddrPort
	NewSource, NewDestination netip.AddrPort
}

// String is a line.
func (r Record) String() string {
	var b strings.Builder
	proto := nat.ProtocolName(r.Protocol)
	if proto == "" {
		proto = fmt.Sprintf("protocol %d", r.Protocol)
	}
	fmt.Fprintf(&b, "%v from %v: %s %v > %v: ", r.At, r.From, proto, r.Source, r.Destination)
	switch {
	case r.Fault != "":
		b.WriteString(r.Fault)
	case r.Verdict.Forward():
		fmt.Fprintf(&b, "%v, as %v > %v", r.Verdict, r.NewSource, r.NewDestination)
	default:
		fmt.Fprintf(&b, "%v: %s", r.Verdict, r.Verdict.Text())
	}
	return b.String()
}

// maxRecords bounds the log of a NAT, and its events; with more, the older half is forgotten.
const maxRecords = 1 << 18

// keep appends to what is bounded so.
func keep[T any](all []T, more ...T) []T {
	if len(all)+len(more) > maxRecords {
		all = append(all[:0], all[len(all)-maxRecords/2:]...)
	}
	return append(all, more...)
}

func (x *NAT) log(r Record) { x.records = keep(x.records, r) }

// Log is what the NAT has seen, the last quarter of a million packets at most.
func (x *NAT) Log() []Record {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.records)
}

// Events are what the NAT has told, in that order: sessions made, established and ended, and what it refused, the last
// quarter of a million at most. They are on the clock of the records. An end is told when it is noticed, which may be late: by
// the next packet of those endpoints, a question, or this one; Event.At is when it was. A reboot, which loses sessions,
// ends them without a word; what was told before it stays. None is missing unless Stats().EventsLost says so.
func (x *NAT) Events() []nat.Event {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.settle()
	return slices.Clone(x.events)
}

// settle has the engine notice what has ended by now, and tell. The caller holds mu.
func (x *NAT) settle() {
	_ = x.engine.Stats(x.net.Elapsed()) // it gives back what has ended
	x.listen()
}

// listen keeps what the engine has told. The caller holds mu.
func (x *NAT) listen() {
	var some [16]nat.Event
	for n := len(some); n == len(some); {
		n = x.engine.Events(some[:])
		x.events = keep(x.events, some[:n]...)
	}
}

// Explain says what the NAT's engine would do with a packet from a side, and why. It changes nothing. What is eaten or
// blocked in front of the engine is not its concern.
func (x *NAT) Explain(p *packet.Packet, from nat.Side) nat.Explanation {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.engine.Explain(p, nat.AttachmentID(from), x.net.Elapsed())
}

// Count is how many packets have had a verdict so far, in this boot.
func (x *NAT) Count(v nat.Verdict) int { return int(x.Stats().Verdicts[v]) }

// Stats are the engine's counters and gauges.
func (x *NAT) Stats() nat.Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.engine.Stats(x.net.Elapsed())
}

// Sessions are the sessions that live now.
func (x *NAT) Sessions() iter.Seq[nat.Session] {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.engine.Sessions(x.net.Elapsed())
}

// Mapped are the external endpoints that an inside endpoint has now, in order: with an endpoint-independent mapping one
// at most. protocol is "tcp", "udp" or "icmp"; the port of ICMP is the identifier.
func (x *NAT) Mapped(protocol string, inside netip.AddrPort) []netip.AddrPort {
	var to []netip.AddrPort
	for s := range x.Sessions() {
		if nat.ProtocolName(s.Protocol) == protocol && s.Inside == inside {
			to = append(to, s.External)
		}
	}
	slices.SortFunc(to, netip.AddrPort.Compare)
	return slices.Compact(to)
}

// ends are the endpoints of a packet.
func ends(b []byte) (src, dst netip.AddrPort, proto uint8) {
	proto = b[9]
	var ports [2]uint16
	if at := int(b[0]&15) * 4; b[6]&0x1f == 0 && b[7] == 0 && (proto == packet.TCP || proto == packet.UDP) && len(b) >= at+4 {
		ports = [2]uint16{binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])}
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), ports[0]),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), ports[1]), proto
}

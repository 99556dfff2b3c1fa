// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Flow is one session.
type Flow struct {
	// Protocol is tcp, udp or icmp.
	Protocol string `json:"protocol"`
	// State is opening, established, closing or reset for TCP, else udp, dns or query.
	State string `json:"state"`
	// From is the side that it was started from, inside or outside.
	From string `json:"from"`
	// The ports of ICMP are identifiers; the remote one is 0.
	Inside   netip.AddrPort `json:"inside"`
	External netip.AddrPort `json:"external"`
	Remote   netip.AddrPort `json:"remote"`
	// Replied: the other side has answered.
	Replied bool `json:"replied"`
	// Expires is how many seconds it has left, if nothing refreshes it.
	Expires float64 `json:"expires"`
	// Packets and Bytes are there if the gateway counts them (flow_counters).
	Packets *Both `json:"packets,omitempty"`
	Bytes   *Both `json:"bytes,omitempty"`
}

// Both is a count for each direction.
type Both struct {
	// Out is from inside to outside, In the way back.
	Out uint64 `json:"out"`
	In  uint64 `json:"in"`
}

// FlowOf is a session at the time now; counters says that it has those.
func FlowOf(s *nat.Session, now time.Duration, counters bool) Flow {
	f := Flow{
		Protocol: nat.ProtocolName(s.Protocol), State: s.State, From: nat.Inside.String(),
		Inside: s.Inside, External: s.External, Remote: s.Remote, Replied: s.Replied,
		Expires: (s.Expires - now).Round(time.Millisecond).Seconds(),
	}
	if s.Inbound {
		f.From = nat.Outside.String()
	}
	if counters {
		f.Packets = &Both{s.Packets[nat.Out], s.Packets[nat.In]}
		f.Bytes = &Both{s.Bytes[nat.Out], s.Bytes[nat.In]}
	}
	return f
}

// tuple is a flow as seen by its sender, in one direction.
type tuple struct{ src, dst netip.AddrPort }

// tuples are the first packet's as it came, and an answer's as it comes: conntrack's original and reply.
func (f *Flow) tuples() (original, reply tuple) {
	if f.From == "outside" {
		return tuple{f.Remote, f.External}, tuple{f.Inside, f.Remote}
	}
	return tuple{f.Inside, f.Remote}, tuple{f.Remote, f.External}
}

var numbers = map[string]int{"tcp": 6, "udp": 17, "icmp": 1}

// state is what conntrack calls the state; "" for protocols that it has none for.
func (f *Flow) state() string {
	switch f.State {
	case "opening":
		if f.Replied {
			return "SYN_RECV"
		}
		return "SYN_SENT"
	case "established":
		return "ESTABLISHED"
	case "closing":
		return "TIME_WAIT"
	case "reset":
		return "CLOSE"
	default:
		return ""
	}
}

// AppendText appends the line that conntrack -L would print: without mark and use, which there are none of here.
func (f *Flow) AppendText(b []byte) []byte {
	b = fmt.Appendf(b, "%-8s %d %d ", f.Protocol, numbers[f.Protocol], int(f.Expires))
	if s := f.state(); s != "" {
		b = append(append(b, s...), ' ')
	}
	return f.appendTuples(b)
}

// appendTuples appends what follows the state.
func (f *Flow) appendTuples(b []byte) []byte {
	original, reply := f.tuples()
	outbound := f.From != "outside"
	b = f.appendTuple(b, original, f.Inside, 8)
	b = f.appendCounts(b, outbound)
	if !f.Replied {
		b = append(b, " [UNREPLIED]"...)
	}
	b = f.appendTuple(append(b, ' '), reply, f.External, 0)
	b = f.appendCounts(b, !outbound)
	if f.Replied && f.State != "opening" {
		b = append(b, " [ASSURED]"...)
	}
	return b
}

// appendTuple appends one direction. ICMP has type and identifier of id instead of ports.
func (f *Flow) appendTuple(b []byte, t tuple, id netip.AddrPort, kind int) []byte {
	b = t.src.Addr().AppendTo(append(b, "src="...))
	b = t.dst.Addr().AppendTo(append(b, " dst="...))
	if f.Protocol == "icmp" {
		return fmt.Appendf(b, " type=%d code=0 id=%d", kind, id.Port())
	}
	b = strconv.AppendUint(append(b, " sport="...), uint64(t.src.Port()), 10)
	return strconv.AppendUint(append(b, " dport="...), uint64(t.dst.Port()), 10)
}

func (f *Flow) appendCounts(b []byte, out bool) []byte {
	if f.Packets == nil || f.Bytes == nil {
		return b
	}
	packets, bytes := f.Packets.In, f.Bytes.In
	if out {
		packets, bytes = f.Packets.Out, f.Bytes.Out
	}
	return fmt.Appendf(b, " packets=%d bytes=%d", packets, bytes)
}

// isState reports whether s is the state, by conntrack's name or ours.
func (f *Flow) isState(s string) bool {
	return strings.EqualFold(s, f.state()) || strings.EqualFold(s, f.State)
}

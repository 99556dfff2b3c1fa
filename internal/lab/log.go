// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// Seen is one packet in a Log.
type Seen struct {
	// Port is the name of the port, Sent whether the edge wrote it there (or read it).
	Port string
	Sent bool
	// Outside is whether the port is on the outside.
	Outside bool
	At      time.Time
	// Src and Dst have port 0 where the packet has none; for ICMP queries it is the identifier.
	Src, Dst netip.AddrPort
	// Proto is the IP protocol, Flags the TCP flags, Type and Code those of ICMP.
	Proto, Flags, Type, Code uint8
	// Len is in bytes, of the IP packet.
	Len int
}

// logMax bounds a Log; a story is some thousand packets long.
const logMax = 1 << 18

// Log remembers the headers of what an edge read and wrote. The zero value is ready; after 262,144 packets it forgets
// new ones and Full says so.
type Log struct {
	mu   sync.Mutex
	seen []Seen
	full bool
}

// Tap is to be one of an edge's taps.
func (l *Log) Tap(port *Port, sent bool, p *packet.Packet, at time.Time) {
	var v packet.View
	if v.Parse(p.Bytes()) != packet.OK {
		return
	}
	s := Seen{Port: port.Name, Sent: sent, Outside: port.Side == nat.Outside, At: at, Proto: v.Proto, Len: p.Len,
		Src: netip.AddrPortFrom(addr(v.Src), 0), Dst: netip.AddrPortFrom(addr(v.Dst), 0)}
	if v.Kind == packet.KindFlow {
		s.Src, s.Dst = netip.AddrPortFrom(addr(v.Src), v.SrcPort), netip.AddrPortFrom(addr(v.Dst), v.DstPort)
	}
	switch v.Proto {
	case packet.TCP:
		s.Flags = v.Flags
	case packet.ICMP:
		s.Type, s.Code = v.Type, v.Code
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) == logMax {
		l.full = true
		return
	}
	l.seen = append(l.seen, s)
}

// Mark is the present end of the log, for Count and Find.
func (l *Log) Mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

// Find returns the packets after a mark for which f is true.
func (l *Log) Find(mark int, f func(*Seen) bool) []Seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []Seen
	for i := mark; i < len(l.seen); i++ {
		if f(&l.seen[i]) {
			found = append(found, l.seen[i])
		}
	}
	return found
}

// Full says whether packets were left out.
func (l *Log) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

func addr(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

func destination(p *packet.Packet) netip.Addr { return netip.AddrFrom4([4]byte(p.Bytes()[16:20])) }

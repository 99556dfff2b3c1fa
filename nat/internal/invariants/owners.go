// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"fmt"
	"iter"
	"net/netip"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// owned takes note of who uses an external endpoint, as the packet shows it.
func (l *Laws) owned(in, out []byte, v nat.Verdict) {
	if l.Shared || v != nat.Outbound && v != nat.Inbound && v != nat.Hairpin {
		return
	}
	src, dst, ok := ends(in)
	newSrc, newDst, _ := ends(out)
	if !ok {
		return
	}
	if v != nat.Inbound {
		l.own(in[9], newSrc, dst, src)
	}
	if v != nat.Outbound {
		l.own(in[9], dst, newSrc, newDst)
	}
}

func (l *Laws) own(proto uint8, ext, rem, who netip.AddrPort) {
	if _, pooled := l.sharing[ext.Addr()]; !pooled { // 1:1
		return
	}
	if proto == packet.ICMP {
		rem = netip.AddrPortFrom(rem.Addr(), 0)
	}
	t := l.tuple(proto, ext, rem)
	if before, known := l.owners[t]; known && before != who {
		l.suspects[t] = who
	}
	l.owners[t] = who
}

func (l *Laws) tuple(proto uint8, ext, rem netip.AddrPort) tuple {
	if !l.sharing[ext.Addr()][classOf(proto)] {
		rem = netip.AddrPort{}
	}
	return tuple{proto, ext, rem}
}

// Settle asks the engine's sessions, after one or some packets at one time, whether those who were seen to use an endpoint
// that was somebody else's before use it alone. With many sessions it waits for some more of those.
func (l *Laws) Settle(sessions iter.Seq[nat.Session]) error {
	if len(l.suspects) == 0 || len(l.suspects) < l.asked/256 {
		return nil
	}
	defer clear(l.suspects)
	l.asked = 0
	for s := range sessions {
		l.asked++
		if who, ok := l.suspects[l.tuple(s.Protocol, s.External, s.Remote)]; ok && who != s.Inside {
			return fmt.Errorf("%v towards %v is used by %v, and %v still has it", s.External, s.Remote, who, s.Inside)
		}
	}
	return nil
}

// Owners looks at all sessions for external endpoints with two owners.
func (l *Laws) Owners(sessions iter.Seq[nat.Session]) error {
	owners := map[tuple]netip.AddrPort{}
	for s := range sessions {
		t := l.tuple(s.Protocol, s.External, s.Remote)
		if other, ok := owners[t]; ok && other != s.Inside {
			return fmt.Errorf("%v is of %v and of %v", s.External, other, s.Inside)
		}
		owners[t] = s.Inside
	}
	return nil
}

func classOf(proto uint8) int {
	switch proto {
	case packet.TCP:
		return nat.ClassTCP
	case packet.UDP:
		return nat.ClassUDP
	}
	return nat.ClassICMP
}

// ends are source and destination of a whole packet; of an ICMP query both have the identifier. ok is false for others.
func ends(b []byte) (src, dst netip.AddrPort, ok bool) {
	hlen := int(b[0]&15) * 4
	if be.Uint16(b[6:])&0x3fff != 0 || len(b) < hlen+8 {
		return src, dst, false
	}
	s, d := addrs(b)
	from, to := be.Uint16(b[hlen:]), be.Uint16(b[hlen+2:])
	if b[9] == packet.ICMP {
		if craft.Quote(b) != nil {
			return src, dst, false
		}
		from = be.Uint16(b[hlen+4:])
		to = from
	}
	return netip.AddrPortFrom(s, from), netip.AddrPortFrom(d, to), true
}

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

// owned takes note of who uses an external endpoint, as the packet shows it, and if that was somebody else before, asks
// whether that one's session is over.
func (l *Laws) owned(in, out []byte, v nat.Verdict, sessions iter.Seq[nat.Session]) error {
	if sessions == nil || v != nat.Outbound && v != nat.Inbound && v != nat.Hairpin {
		return nil
	}
	src, dst, ok := ends(in)
	newSrc, newDst, _ := ends(out)
	if !ok {
		return nil
	}
	proto := in[9]
	if v != nat.Inbound {
		if err := l.own(proto, newSrc, dst, src, sessions); err != nil {
			return err
		}
	}
	if v != nat.Outbound {
		return l.own(proto, dst, newSrc, newDst, sessions)
	}
	return nil
}

func (l *Laws) own(proto uint8, ext, rem, who netip.AddrPort, sessions iter.Seq[nat.Session]) error {
	shares, pooled := l.sharing[ext.Addr()]
	if !pooled { // 1:1
		return nil
	}
	t := tuple{proto, ext, rem}
	if proto == packet.ICMP {
		t.rem = netip.AddrPortFrom(rem.Addr(), 0)
	}
	alone := !shares[classOf(proto)]
	if alone {
		t.rem = netip.AddrPort{}
	}
	before, known := l.owners[t]
	l.owners[t] = who
	if !known || before == who {
		return nil
	}
	for s := range sessions {
		if s.Protocol == proto && s.External == ext && s.Inside != who && (alone || s.Remote == t.rem) {
			return fmt.Errorf("%v towards %v is used by %v, and %v still has it", ext, rem, who, s.Inside)
		}
	}
	return nil
}

// Owners looks at all sessions for external endpoints with two owners.
func (l *Laws) Owners(sessions iter.Seq[nat.Session]) error {
	owners := map[tuple]netip.AddrPort{}
	for s := range sessions {
		t := tuple{s.Protocol, s.External, s.Remote}
		if shares := l.sharing[s.External.Addr()]; !shares[classOf(s.Protocol)] {
			t.rem = netip.AddrPort{}
		}
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

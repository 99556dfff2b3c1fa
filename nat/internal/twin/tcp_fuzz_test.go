// SPDX-License-Identifier: Apache-2.0

package twin

import (
	"testing"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// FuzzTCP follows a connection, whose segments the input spells, 6 bytes each, with conntrack and with the twin: state,
// refreshing and judgement of RSTs are the same after each, and the short way of conntrack ends where the long one does.
func FuzzTCP(f *testing.F) {
	const out, in, synAck = 0, 0x40, packet.SYN | packet.ACK
	open := []byte{0, packet.SYN, 0, 0, 0, 0, 7, in | synAck, 0, 0, 0, 7, 0, out | packet.ACK, 0, 0, 0, 0}
	more := func(b ...byte) []byte { return append(append([]byte(nil), open...), b...) }
	f.Add(more(0, out|packet.ACK, 0, 0, 9, 0, 0, in|packet.ACK, 0, 0, 200, 0))
	f.Add(more(0, out|packet.ACK|packet.FIN, 0, 0, 0, 0, 0, in|packet.ACK|packet.FIN, 0, 0, 0, 0, 0, out|packet.SYN, 100, 0, 0, 0))
	f.Add(more(0, in|packet.RST, 0, 0, 0, 0, 0, out|packet.ACK, 0, 0, 1, 0, 0, in|packet.RST, 90, 0, 0, 0))
	f.Add(more(0, out|packet.SYN, 77, 0, 0, 0, 0, in|synAck, 9, 0, 0, 0, 0x80, out|packet.ACK, 100, 100, 0, 0))
	f.Add([]byte{1, in | packet.SYN, 0, 0, 0, 0, 0, out | packet.SYN, 0, 0, 0, 0, 3, in | synAck, 255, 0, 0, 0})
	f.Add([]byte{2, out | packet.ACK, 0, 0, 40, 0, 0, in | packet.ACK, 0, 0, 9, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) < 6 || len(ops) > 6*200 {
			return
		}
		table, err := conntrack.New(conntrack.Config{Sessions: 1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		table.Timeouts = make([]uint32, conntrack.NumStates)
		for s := range table.Timeouts {
			table.Timeouts[s] = 1 << 24
		}
		var c tcp
		h, now := conntrack.None, uint32(1)
		for ; len(ops) >= 6; ops = ops[6:] {
			d := int(ops[1]>>6) & 1
			if h == conntrack.None && ops[0]&1 != 0 {
				d = 1
			}
			s := spell(ops, &c, d)
			seg := conntrack.Segment{Seq: s.seq, Ack: s.ack, Len: s.len, Window: uint16(s.window), Flags: s.flags, Scale: 255}
			if s.has(packet.SYN) {
				seg.Len--
			}
			if s.has(packet.FIN) {
				seg.Len--
			}
			if s.scale >= 0 {
				seg.Scale = uint8(s.scale)
			}
			if now++; h == conntrack.None {
				r := conntrack.Record{Proto: packet.TCP, LastSeen: now}
				if d == 1 {
					r.Bits |= conntrack.Inbound
				}
				if !s.has(packet.SYN) {
					r.Bits |= conntrack.Unknown
				}
				r.StartTCP(conntrack.Dir(d), &seg)
				c.start(d, s, d == 1)
				h = table.Add(&r)
				continue
			}
			short := *table.Rec(h)
			took := s.flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) == packet.ACK && short.TrackData(conntrack.Dir(d), s.seq, s.ack, s.len, uint16(s.window), now)
			sound := table.TrackTCP(h, conntrack.Dir(d), &seg, now)
			r, want := table.Rec(h), c.step(d, s)
			if r.State.String() != c.state || (r.LastSeen == now) != want.refresh || sound == want.stray {
				t.Fatalf("after %+v from %d: %v, refreshed %t, sound %t; want %s, %+v", s, d, r.State, r.LastSeen == now, sound, c.state, want)
			}
			if took && short != *r {
				t.Fatalf("after %+v from %d, the short way: %+v, want %+v", s, d, short, *r)
			}
		}
		if err := table.Check(now); err != nil {
			t.Fatal(err)
		}
	})
}

// spell is the segment of an operation: what its sender would send next, or something beside that.
func spell(op []byte, c *tcp, d int) segment {
	s := segment{flags: op[1] & 0x3f, window: uint32(op[5]) << 8, scale: -1}
	off := func(b byte) uint32 { return uint32(int32(int8(b))) << (op[0] >> 3 & 31) }
	s.seq, s.ack = c.peers[d].end+off(op[2]), c.peers[1-d].end+off(op[3])
	s.len = uint32(op[4]) * uint32(op[4])
	if s.has(packet.SYN) {
		s.len++
		if op[0]&4 != 0 {
			s.scale = int(op[5] % 15)
		}
	}
	if s.has(packet.FIN) {
		s.len++
	}
	return s
}

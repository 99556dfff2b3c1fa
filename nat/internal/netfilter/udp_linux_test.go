// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"github.com/tidegate/tidegate/nat/internal/craft"
)

var udpCases = []scenario{
	{"udp: a flow and its answer", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(udp(r53, x, "answer"))
		s.out(udp(a5000, r53, "again"))
		s.in(udp(r53, x, ""))
	}},
	{"udp: one socket, two servers", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "one"))
		y, _ := s.out(udp(a5000, at(R2, 53), "two"))
		s.in(udp(r53, x, "from one"))
		s.in(udp(at(R2, 53), y, "from two"))
	}},
	{"udp: two hosts, one port", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "a"))
		y, _ := s.out(udp(b5000, r53, "b"))
		s.in(udp(r53, y, "to b"))
		s.in(udp(r53, x, "to a"))
	}},
	{"udp: nobody asked", func(s *stage) {
		s.in(udp(r53, nobody, "hello"))
		s.out(udp(a5000, r53, "asks somebody else"))
		s.in(udp(r53, nobody, "hello"))
	}},
	{"udp: an answer from another address", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(udp(at(R2, 53), x, "answer"))
	}},
	{"udp: an answer from another port", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(udp(at(R1, 54), x, "answer"))
	}},
	{"udp: no checksum", func(s *stage) {
		x, _ := s.out(set(udp(a5000, r53, "query"), 26, 0, 0))
		s.in(set(udp(r53, x, "answer"), 26, 0, 0))
	}},
	{"udp: a wrong checksum, outbound", func(s *stage) {
		s.out(spoil(udp(a5000, r53, "query"), 26))
	}},
	{"udp: a wrong checksum, inbound", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(spoil(udp(r53, x, "answer"), 26))
	}},
	{"udp: bytes behind the datagram", func(s *stage) {
		x, _ := s.out(tailed(udp(a5000, r53, "query")))
		s.in(tailed(udp(r53, x, "answer")))
	}},
	{"udp: a length beyond the packet", func(s *stage) {
		s.out(set(udp(a5000, r53, "query"), 25, 200))
	}},
	{"udp: a length of less than a header", func(s *stage) {
		s.out(set(udp(a5000, r53, "query"), 25, 7))
	}},
	{"udp: less than a header", func(s *stage) {
		s.out(craft.IPv4(head(A, R1), 17, []byte{0x13, 0x88, 0, 53, 0, 4}))
	}},
	{"udp: DSCP, ECN and identification", func(s *stage) {
		h := head(A, R1)
		h.TOS, h.ID = 0xb9, 4660
		x, _ := s.out(craft.UDP(h, 5000, 53, []byte("query")))
		h = head(R1, PA)
		h.TOS, h.ID = 0x2b, 22136
		s.in(craft.UDP(h, 53, x.Port(), []byte("answer")))
	}},
	{"udp: IP options", func(s *stage) {
		h := head(A, R1)
		h.Options = []byte{0x94, 4, 0, 0} // router alert
		x, _ := s.out(craft.UDP(h, 5000, 53, []byte("query")))
		h = head(R1, PA)
		h.Options = []byte{1, 1, 1, 1, 1}
		s.in(craft.UDP(h, 53, x.Port(), []byte("answer")))
	}},
	{"udp: a source route", func(s *stage) {
		h := head(A, R1)
		h.Options = []byte{0x83, 7, 4, 203, 0, 113, 99}
		s.out(craft.UDP(h, 5000, 53, []byte("query")))
	}},
	{"udp: time to live 2", func(s *stage) {
		x, _ := s.out(ttl(udp(a5000, r53, "query"), 2))
		s.in(ttl(udp(r53, x, "answer"), 2))
	}},
	{"udp: time to live 1, outbound", func(s *stage) {
		s.out(ttl(udp(a5000, r53, "query"), 1))
	}},
	{"udp: time to live 1, inbound", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(ttl(udp(r53, x, "answer"), 1))
	}},
	{"udp: time to live 0", func(s *stage) {
		s.out(ttl(udp(a5000, r53, "query"), 0))
	}},
	{"udp: too big with DF, outbound", func(s *stage) {
		s.out(large(a5000, r53, 1401, true))
		s.out(large(a5000, r53, 1400, true))
	}},
	{"udp: too big with DF, inbound", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(large(r53, x, 1501, true))
		s.in(large(r53, x, 1500, true))
	}},
	{"udp: too big without DF, outbound", func(s *stage) {
		s.out(large(a5000, r53, 1401, false))
		s.out(large(a5000, r53, 3000, false))
	}},
	{"udp: too big without DF, inbound", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(large(r53, x, 2900, false))
	}},
	{"udp: identifications of two hosts", func(s *stage) {
		one, two := head(A, R1), head(B, R1)
		one.DF, two.DF = false, false
		id := func(b []byte) uint16 { return be.Uint16(b[4:]) }
		first := s.nat.send(0, craft.UDP(one, 5000, 53, nil))
		second := s.nat.send(0, craft.UDP(two, 5000, 53, nil))
		if len(first) != 1 || len(second) != 1 {
			s.note("lost")
		} else if id(first[0].b) == id(second[0].b) {
			s.note("equal on the outside as on the inside")
		} else {
			s.note("told apart")
		}
	}},
}

// tailed is a UDP packet with bytes behind the datagram, which its own length does not count.
func tailed(b []byte) []byte {
	b = append(append([]byte(nil), b...), "tail"...)
	return set(b, 2, byte(len(b)>>8), byte(len(b)))
}

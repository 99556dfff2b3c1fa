// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"net/netip"

	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// server is one that only one scenario has: the pieces of datagrams wait for longer than a scenario takes.
func server(n byte) end { return at(netip.AddrFrom4([4]byte{203, 0, 113, n}), 53) }

var fragmentCases = []scenario{
	{"fragments: in order, outbound", func(s *stage) {
		s.out(craft.Cut(large(a5000, r53, 3028, false), 1000, 2000)...)
	}},
	{"fragments: last first, outbound", func(s *stage) {
		p := craft.Cut(large(a5000, r53, 3028, false), 1000, 2000)
		s.out(p[2], p[1], p[0])
	}},
	{"fragments: inbound", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		p := craft.Cut(large(r53, x, 3028, false), 1000, 2000)
		s.in(p[1], p[0], p[2])
	}},
	{"fragments: nobody asked", func(s *stage) {
		s.in(craft.Cut(large(server(101), nobody, 3028, false), 1000, 2000)...)
	}},
	{"fragments: echo", func(s *stage) {
		h := head(A, R1)
		h.DF = false
		s.out(craft.Cut(craft.Query(h, packet.Echo, 0, 77, 1, make([]byte, 1992)), 1000)...)
	}},
	{"fragments: tcp", func(s *stage) {
		connect(s)
		h := head(A, R1)
		h.DF = false
		b := craft.TCP(h, craft.Segment{Src: 5000, Dst: 80, Seq: 1001, Ack: 5001, Flags: ack, Window: 65535}, make([]byte, 1980))
		s.out(craft.Cut(b, 1000)...)
	}},
	{"fragments: one is missing", func(s *stage) {
		p := craft.Cut(large(a5000, server(102), 3028, false), 1000, 2000)
		s.out(p[0], p[2])
	}},
	{"fragments: one comes twice", func(s *stage) {
		p := craft.Cut(large(a5000, server(103), 3028, false), 1000, 2000)
		s.out(p[0], p[1], p[1], p[2])
	}},
	{"fragments: they overlap", func(s *stage) {
		p := craft.Cut(large(a5000, server(104), 3028, false), 1000, 2000)
		q := craft.Cut(large(a5000, server(104), 3028, false), 800, 2000)
		s.out(p[0], q[1], p[2], p[1])
	}},
	{"fragments: the ports in the second", func(s *stage) {
		h := head(A, R1)
		h.DF = false
		b := craft.TCP(h, craft.Segment{Src: 5000, Dst: 80, Seq: 1000, Flags: syn, Window: 65535}, nil)
		s.out(craft.Cut(b, 8)...)
	}},
	{"fragments: two hosts, one identification", func(s *stage) {
		p := craft.Cut(large(a5000, r53, 2028, false), 1000)
		q := craft.Cut(large(b5000, r53, 2028, false), 1000)
		s.out(p[0], q[0], q[1], p[1])
	}},
	{"fragments: time to live 1", func(s *stage) {
		p := craft.Cut(large(a5000, server(105), 2028, false), 1000)
		s.out(ttl(p[0], 1), ttl(p[1], 1))
	}},
}

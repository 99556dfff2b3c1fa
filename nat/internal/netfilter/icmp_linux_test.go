// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

const (
	unreachable = packet.Unreachable
	exceeded    = packet.TimeExceeded
)

var icmpCases = []scenario{
	{"icmp: echo and its reply", func(s *stage) {
		x, _ := s.out(ping(at(A, 77), R1))
		s.in(pong(R1, x))
		s.out(ping(at(A, 77), R1))
	}},
	{"icmp: two hosts, one identifier", func(s *stage) {
		x, _ := s.out(ping(at(A, 77), R1))
		y, _ := s.out(ping(at(B, 77), R1))
		s.in(pong(R1, y))
		s.in(pong(R1, x))
	}},
	{"icmp: timestamp and its reply", func(s *stage) {
		x, _ := s.out(craft.Query(head(A, R1), packet.Timestamp, 0, 78, 1, make([]byte, 12)))
		s.in(craft.Query(head(R1, PA), packet.TimestampReply, 0, x.Port(), 1, make([]byte, 12)))
	}},
	{"icmp: the public address does not answer", func(s *stage) {
		s.in(ping(at(R1, 1), PA))
		s.in(pong(R1, nobody))
	}},
	{"icmp: a reply that nobody asked for", func(s *stage) {
		s.out(pong(A, at(R1, 5)))
	}},
	{"icmp: address mask request", func(s *stage) {
		s.out(craft.Query(head(A, R1), 17, 0, 77, 1, make([]byte, 4)))
	}},
	{"icmp: redirect and source quench, inbound", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(X, PA, packet.Redirect, 1, 0xc0000201, udp(x, r53, "query")))
		s.in(icmp(X, PA, packet.SourceQuench, 0, 0, udp(x, r53, "query")))
	}},
	{"icmp: a wrong checksum, outbound", func(s *stage) {
		s.out(spoil(ping(at(A, 77), R1), 22))
	}},
	{"icmp: time to live 1", func(s *stage) {
		s.out(ttl(ping(at(A, 77), R1), 1))
	}},
	{"icmp: errors about udp, from the server and a router", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(R1, PA, unreachable, 3, 0, udp(x, r53, "query")))
		s.in(icmp(X, PA, exceeded, 0, 0, ttl(udp(x, r53, "query"), 1)))
		s.in(icmp(X, PA, unreachable, 13, 0, udp(x, r53, "query")))
		s.in(udp(r53, x, "answer"))
	}},
	{"icmp: errors that quote 8 bytes", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(X, PA, exceeded, 0, 0, cut(udp(x, r53, "query"), 28)))
		x = connect(s)
		s.in(icmp(X, PA, unreachable, 1, 0, cut(tcp(x, r80, ack, 1001, 5001, "data"), 28)))
		x, _ = s.out(ping(at(A, 77), R1))
		s.in(icmp(X, PA, exceeded, 0, 0, cut(ping(x, R1), 28)))
	}},
	{"icmp: errors about tcp", func(s *stage) {
		x := connect(s)
		s.out(tcp(a5000, r80, ack, 1001, 5001, "data"))
		s.in(icmp(X, PA, unreachable, 4, 1280, tcp(x, r80, ack, 1001, 5001, "data")))
		s.in(icmp(X, PA, exceeded, 0, 0, tcp(x, r80, ack, 1001, 5001, "data")))
		s.in(icmp(X, PA, packet.ParameterProblem, 0, 0x14000000, tcp(x, r80, ack, 1001, 5001, "data")))
	}},
	{"icmp: errors about echo", func(s *stage) {
		x, _ := s.out(ping(at(A, 77), R1))
		s.in(icmp(X, PA, exceeded, 0, 0, ttl(ping(x, R1), 1)))
		s.in(icmp(X, PA, unreachable, 1, 0, ping(x, R1)))
	}},
	{"icmp: errors from inside", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(udp(r53, x, "answer"))
		s.out(icmp(A, R1, unreachable, 3, 0, udp(r53, a5000, "answer")))
	}},
	{"icmp: errors from a router inside", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(udp(r53, x, "answer"))
		s.out(icmp(ip4("10.0.0.7"), R1, exceeded, 0, 0, ttl(udp(r53, a5000, "answer"), 1)))
	}},
	{"icmp: errors about nothing", func(s *stage) {
		s.in(icmp(X, PA, unreachable, 3, 0, udp(nobody, r53, "query")))
		s.in(icmp(X, PA, unreachable, 3, 0, tcp(nobody, r80, ack, 1, 1, "data")))
	}},
	{"icmp: errors about nothing, from inside", func(s *stage) {
		s.out(icmp(A, R1, unreachable, 3, 0, udp(r53, a5000, "answer")))
	}},
	{"icmp: an error about an error", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(X, PA, exceeded, 0, 0, icmp(PA, R1, unreachable, 3, 0, udp(r53, x, "answer"))))
	}},
	{"icmp: an error with a wrong checksum", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(spoil(icmp(R1, PA, unreachable, 3, 0, udp(x, r53, "query")), 22))
	}},
	{"icmp: a quoted header with a wrong checksum", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(R1, PA, unreachable, 3, 0, spoil(udp(x, r53, "query"), 10)))
	}},
	{"icmp: a quoted datagram with a wrong checksum", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(R1, PA, unreachable, 3, 0, spoil(udp(x, r53, "query"), 26)))
	}},
	{"icmp: a quoted datagram without checksum", func(s *stage) {
		x, _ := s.out(set(udp(a5000, r53, "query"), 26, 0, 0))
		s.in(icmp(R1, PA, unreachable, 3, 0, set(udp(x, r53, "query"), 26, 0, 0)))
	}},
	{"icmp: options in the quote", func(s *stage) {
		h := head(A, R1)
		h.Options = []byte{0x94, 4, 0, 0}
		x, _ := s.out(craft.UDP(h, 5000, 53, []byte("query")))
		h.Src = x.Addr()
		s.in(icmp(X, PA, exceeded, 0, 0, craft.UDP(h, x.Port(), 53, []byte("query"))))
	}},
	{"icmp: an error with extensions", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		q := append(udp(x, r53, "query"), make([]byte, 128-33)...)
		mpls := []byte{0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 0, 1, 0x11, 1}
		s.in(icmp(X, PA, exceeded, 0, 32<<16, append(q, mpls...)))
	}},
	{"icmp: a quote that ends in the ports", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(X, PA, exceeded, 0, 0, cut(udp(x, r53, "query"), 23)))
	}},
	{"icmp: a quote of other than its destination", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "query"))
		s.in(icmp(X, E1, exceeded, 0, 0, udp(x, r53, "query")))
	}},
}

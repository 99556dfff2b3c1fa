// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"net/netip"

	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var staticCases = []scenario{
	{"1:1: udp, both ways", func(s *stage) {
		s.out(udp(at(S, 6000), r53, "query"))
		s.in(udp(r53, at(E1, 6000), "answer"))
		s.in(udp(at(R2, 9), at(E1, 53), "unasked"))
		s.out(udp(at(S, 53), at(R2, 9), "answer"))
	}},
	{"1:1: tcp from outside", func(s *stage) {
		e := at(E1, 22)
		s.in(tcp(r80, e, syn, 5000, 0, ""))
		s.out(tcp(s22, r80, syn|ack, 1000, 5001, ""))
		s.in(tcp(r80, e, ack, 5001, 1001, "hello"))
		s.out(tcp(s22, r80, fin|ack, 1001, 5006, ""))
		s.in(tcp(r80, e, rst, 5006, 0, ""))
	}},
	{"1:1: ping, both ways", func(s *stage) {
		s.out(ping(at(S, 9), R1))
		s.in(pong(R1, at(E1, 9)))
		s.in(ping(at(R1, 8), E1))
		s.out(pong(S, at(R1, 8)))
	}},
	{"1:1: another protocol", func(s *stage) {
		s.out(craft.IPv4(head(S, R1), 99, []byte("whatever")))
		s.in(craft.IPv4(head(R1, E1), 99, []byte("whatever")))
	}},
	{"1:1: errors, both ways", func(s *stage) {
		s.out(udp(at(S, 6000), r53, "query"))
		s.in(icmp(X, E1, exceeded, 0, 0, ttl(udp(at(E1, 6000), r53, "query"), 1)))
		s.in(udp(r53, at(E1, 53), "unasked"))
		s.out(icmp(S, R1, unreachable, 3, 0, udp(r53, at(S, 53), "unasked")))
	}},
	{"1:1: errors about nothing", func(s *stage) {
		s.in(icmp(X, E1, exceeded, 0, 0, udp(at(E1, 6000), r53, "query")))
	}},
	{"1:1: fragments, both ways", func(s *stage) {
		s.out(craft.Cut(large(at(S, 6000), r53, 3028, false), 1000, 2000)...)
		s.in(craft.Cut(large(r53, at(E1, 6000), 3028, false), 1000, 2000)...)
	}},
	{"1:1: segments without a connection", func(s *stage) {
		s.out(tcp(s22, r80, ack, 1, 1, "data"))
		s.in(tcp(at(R2, 80), at(E1, 23), ack, 1, 1, "data"))
	}},
	{"1:1: RST without a connection, outbound", func(s *stage) {
		s.out(tcp(s22, r80, rst, 1, 0, ""))
	}},
	{"1:1: RST without a connection, inbound", func(s *stage) {
		s.in(tcp(r80, at(E1, 22), rst, 1, 0, ""))
	}},
	{"1:1: a wrong checksum", func(s *stage) {
		s.out(spoil(udp(at(S, 6000), r53, "query"), 26))
	}},
	{"1:1: time to live 1, outbound", func(s *stage) {
		s.out(ttl(udp(at(S, 6000), r53, "query"), 1))
	}},
	{"1:1: time to live 1, inbound", func(s *stage) {
		s.in(ttl(udp(r53, at(E1, 53), "unasked"), 1))
	}},
}

var forwardCases = []scenario{
	{"forward: tcp", func(s *stage) {
		f := at(PA, 8080)
		s.in(tcp(r80, f, syn, 5000, 0, ""))
		s.out(tcp(at(B, 80), r80, syn|ack, 1000, 5001, ""))
		s.in(tcp(r80, f, ack, 5001, 1001, "GET /"))
		s.out(tcp(at(B, 80), r80, ack, 1001, 5006, "page"))
		s.out(tcp(at(B, 80), r80, fin|ack, 1005, 5006, ""))
		s.in(tcp(r80, f, fin|ack, 5006, 1006, ""))
		s.out(tcp(at(B, 80), r80, ack, 1006, 5007, ""))
	}},
	{"forward: udp, two clients", func(s *stage) {
		f := at(PA, 5353)
		s.in(udp(r53, f, "one"))
		s.in(udp(at(R2, 53), f, "two"))
		s.out(udp(at(B, 53), r53, "to one"))
		s.out(udp(at(B, 53), at(R2, 53), "to two"))
	}},
	{"forward: errors, both ways", func(s *stage) {
		f := at(PA, 5353)
		s.in(udp(r53, f, "query"))
		s.out(icmp(B, R1, unreachable, 3, 0, udp(r53, at(B, 53), "query")))
		s.out(udp(at(B, 53), r53, "answer"))
		s.in(icmp(X, PA, exceeded, 0, 0, ttl(udp(f, r53, "answer"), 1)))
	}},
	{"forward: the other protocol", func(s *stage) {
		s.in(udp(r53, at(PA, 8080), "query"))
		s.in(tcp(r80, at(PA, 5353), syn, 1, 0, ""))
	}},
	{"forward: not a SYN", func(s *stage) {
		s.in(tcp(r80, at(PA, 8080), rst, 1, 0, ""))
		s.in(tcp(r80, at(PA, 8080), syn|ack, 1, 1, ""))
	}},
	{"forward: ACK without a connection", func(s *stage) {
		s.in(tcp(r80, at(PA, 8080), ack, 1, 1, "data"))
	}},
	{"forward: time to live 1", func(s *stage) {
		s.in(ttl(udp(r53, at(PA, 5353), "query"), 1))
	}},
	{"hairpin: to a port forward", func(s *stage) {
		s.out(tcp(a5000, at(PA, 8080), syn, 1000, 0, ""))
	}},
	{"hairpin: a port forward answers", func(s *stage) {
		left := s.nat.send(0, udp(a5000, at(PA, 5353), "query"))
		if len(left) != 1 {
			s.note("lost")
			return
		}
		x, _ := ends(left[0].b)
		s.out(udp(at(B, 53), x, "answer"))
	}},
	{"hairpin: to a 1:1 host", func(s *stage) {
		s.out(udp(a5000, at(E1, 53), "query"))
		s.out(ping(at(A, 77), E1))
	}},
	{"hairpin: from a 1:1 host to a port forward", func(s *stage) {
		s.out(tcp(at(S, 6000), at(PA, 8080), syn, 1000, 0, ""))
		s.out(tcp(at(B, 80), at(E1, 6000), syn|ack, 5000, 1001, ""))
	}},
	{"hairpin: a 1:1 host to itself", func(s *stage) {
		s.out(udp(at(S, 6000), at(E1, 53), "query"))
	}},
	{"hairpin: a 1:1 host pings itself", func(s *stage) {
		s.out(ping(at(S, 9), E1))
	}},
	{"hairpin: a port forward to itself", func(s *stage) {
		s.out(udp(at(B, 6000), at(PA, 5353), "query"))
	}},
	{"hairpin: between two hosts that both ask", func(s *stage) {
		x, _ := s.out(udp(a5000, r53, "a"))
		y, _ := s.out(udp(b5000, r53, "b"))
		s.out(udp(a5000, y, "a to b"))
		s.out(udp(b5000, x, "b to a"))
	}},
	{"hairpin: to a port that nobody has", func(s *stage) {
		s.out(udp(a5000, nobody, "hello"))
	}},
}

var oddCases = []scenario{
	{"odd: another version of IP", func(s *stage) {
		s.out(set(udp(a5000, r53, "query"), 0, 0x55))
	}},
	{"odd: a header of less than 20 bytes", func(s *stage) {
		s.out(set(udp(a5000, r53, "query"), 0, 0x44))
	}},
	{"odd: a total length beyond the packet", func(s *stage) {
		s.out(set(udp(a5000, r53, "query"), 3, 200))
	}},
	{"odd: bytes behind the total length", func(s *stage) {
		s.out(append(udp(a5000, r53, "query"), "tail"...))
	}},
	{"odd: a wrong header checksum", func(s *stage) {
		s.out(spoil(udp(a5000, r53, "query"), 10))
	}},
	{"odd: half a header", func(s *stage) {
		s.out(cut(udp(a5000, r53, "query"), 10))
	}},
	{"odd: martian sources", func(s *stage) {
		for _, a := range []string{"0.1.2.3", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255"} {
			s.out(udp(at(netip.MustParseAddr(a), 5000), r53, "query"))
		}
	}},
	{"odd: a link-local destination", func(s *stage) {
		s.out(udp(a5000, at(ip4("169.254.169.254"), 80), "query"))
	}},
	{"odd: multicast and broadcast", func(s *stage) {
		s.out(udp(a5000, at(ip4("224.0.0.251"), 5353), "query"))
		s.out(udp(a5000, at(ip4("255.255.255.255"), 67), "query"))
	}},
	{"odd: a source of nobody inside", func(s *stage) {
		s.out(udp(at(ip4("192.168.7.7"), 5000), r53, "query"))
	}},
	{"odd: an inside destination, from outside", func(s *stage) {
		s.in(udp(r53, a5000, "hello"))
	}},
	{"odd: an inside source, from outside", func(s *stage) {
		s.in(udp(at(A, 53), at(E1, 53), "hello"))
	}},
	{"odd: the public address as source, from outside", func(s *stage) {
		s.in(udp(at(PA, 53), at(E1, 53), "hello"))
	}},
	{"odd: a destination of nobody, from outside", func(s *stage) {
		s.in(udp(r53, at(ip4("198.51.100.77"), 53), "hello"))
	}},
	{"odd: from inside to inside", func(s *stage) {
		s.out(udp(a5000, at(B, 53), "hello"))
	}},
	{"odd: source and destination the same", func(s *stage) {
		s.out(udp(a5000, a5000, "hello"))
	}},
	{"odd: a protocol without ports", func(s *stage) {
		s.out(craft.IPv4(head(A, R1), 99, []byte("whatever")))
	}},
	{"odd: port 0", func(s *stage) {
		s.out(udp(at(A, 0), r53, "query"))
		s.out(udp(a5000, at(R1, 0), "query"))
	}},
	{"odd: icmp of no bytes", func(s *stage) {
		s.out(craft.IPv4(head(A, R1), packet.ICMP, []byte{8, 0}))
	}},
}

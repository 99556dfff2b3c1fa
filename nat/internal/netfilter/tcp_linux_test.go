// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"github.com/tidegate/tidegate/nat/internal/craft"
)

// connect opens a connection from A to R1; what A sends next is 1001, what R1 sends 5001.
func connect(s *stage) (x end) {
	x, _ = s.out(tcp(a5000, r80, syn, 1000, 0, ""))
	s.in(tcp(r80, x, syn|ack, 5000, 1001, ""))
	s.out(tcp(a5000, r80, ack, 1001, 5001, ""))
	return x
}

var tcpCases = []scenario{
	{"tcp: a connection from open to close", func(s *stage) {
		x := connect(s)
		s.out(tcp(a5000, r80, psh|ack, 1001, 5001, "GET /"))
		s.in(tcp(r80, x, ack, 5001, 1006, ""))
		s.in(tcp(r80, x, psh|ack, 5001, 1006, "page"))
		s.out(tcp(a5000, r80, ack|urg, 1006, 5005, "!"))
		s.out(tcp(a5000, r80, fin|ack, 1007, 5005, ""))
		s.in(tcp(r80, x, ack, 5005, 1008, ""))
		s.in(tcp(r80, x, psh|ack, 5005, 1008, "more"))
		s.in(tcp(r80, x, fin|ack, 5009, 1008, ""))
		s.out(tcp(a5000, r80, ack, 1008, 5010, ""))
		s.in(tcp(r80, x, fin|ack, 5009, 1008, "")) // again
		s.out(tcp(a5000, r80, ack, 1008, 5010, ""))
	}},
	{"tcp: closed from outside", func(s *stage) {
		x := connect(s)
		s.in(tcp(r80, x, fin|ack, 5001, 1001, ""))
		s.out(tcp(a5000, r80, ack, 1001, 5002, ""))
		s.out(tcp(a5000, r80, fin|ack, 1001, 5002, ""))
		s.in(tcp(r80, x, ack, 5002, 1002, ""))
	}},
	{"tcp: the same ports again", func(s *stage) {
		x := connect(s)
		s.out(tcp(a5000, r80, fin|ack, 1001, 5001, ""))
		s.in(tcp(r80, x, fin|ack, 5001, 1002, ""))
		s.out(tcp(a5000, r80, ack, 1002, 5002, ""))
		x, _ = s.out(tcp(a5000, r80, syn, 900000, 0, ""))
		s.in(tcp(r80, x, syn|ack, 700000, 900001, ""))
		s.out(tcp(a5000, r80, ack, 900001, 700001, ""))
	}},
	{"tcp: SYN again", func(s *stage) {
		s.out(tcp(a5000, r80, syn, 1000, 0, ""))
		x, _ := s.out(tcp(a5000, r80, syn, 1000, 0, ""))
		s.in(tcp(r80, x, syn|ack, 5000, 1001, ""))
		s.in(tcp(r80, x, syn|ack, 5000, 1001, ""))
	}},
	{"tcp: refused", func(s *stage) {
		x, _ := s.out(tcp(a5000, r80, syn, 1000, 0, ""))
		s.in(tcp(r80, x, rst|ack, 0, 1001, ""))
	}},
	{"tcp: reset from inside", func(s *stage) {
		connect(s)
		s.out(tcp(a5000, r80, rst, 1001, 0, ""))
	}},
	{"tcp: reset from outside", func(s *stage) {
		x := connect(s)
		s.in(tcp(r80, x, rst|ack, 5001, 1001, ""))
	}},
	{"tcp: a blind reset in the window", func(s *stage) {
		x := connect(s)
		s.in(tcp(r80, x, rst, 5777, 0, ""))
		s.out(tcp(a5000, r80, ack, 1001, 5001, "still here"))
		s.in(tcp(r80, x, ack, 5001, 1011, "me too"))
	}},
	{"tcp: a blind reset out of the window", func(s *stage) {
		x := connect(s)
		s.in(tcp(r80, x, rst, 5001+1<<30, 0, ""))
		s.out(tcp(a5000, r80, ack, 1001, 5001, "still here"))
	}},
	{"tcp: out of the window, outbound", func(s *stage) {
		connect(s)
		s.out(tcp(a5000, r80, ack, 1001+1<<30, 5001, "far ahead"))
	}},
	{"tcp: out of the window, inbound", func(s *stage) {
		x := connect(s)
		s.in(tcp(r80, x, ack, 5001+1<<30, 1001, "far ahead"))
	}},
	{"tcp: SYN on an established connection", func(s *stage) {
		x := connect(s)
		s.in(tcp(r80, x, syn, 42, 0, ""))
		s.out(tcp(a5000, r80, ack, 1001, 5001, "still here"))
	}},
	{"tcp: simultaneous open", func(s *stage) {
		x, _ := s.out(tcp(a5000, r80, syn, 1000, 0, ""))
		s.in(tcp(r80, x, syn, 5000, 0, ""))
		s.out(tcp(a5000, r80, syn|ack, 1000, 5001, ""))
		s.in(tcp(r80, x, syn|ack, 5000, 1001, ""))
		s.out(tcp(a5000, r80, ack, 1001, 5001, "a"))
		s.in(tcp(r80, x, ack, 5001, 1002, "b"))
	}},
	{"tcp: options", func(s *stage) {
		o := []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7}
		x, _ := s.out(craft.TCP(head(A, R1), craft.Segment{Src: 5000, Dst: 80, Seq: 1000, Flags: syn, Window: 64240, Options: o}, nil))
		s.in(craft.TCP(head(R1, PA), craft.Segment{Src: 80, Dst: x.Port(), Seq: 5000, Ack: 1001, Flags: syn | ack, Window: 65160, Options: o}, nil))
		o = []byte{1, 1, 8, 10, 0, 0, 0, 10, 0, 0, 0, 9}
		s.out(craft.TCP(head(A, R1), craft.Segment{Src: 5000, Dst: 80, Seq: 1001, Ack: 5001, Flags: ack, Window: 502, Options: o}, []byte("data")))
	}},
	{"tcp: two hosts, one port", func(s *stage) {
		x, _ := s.out(tcp(a5000, r80, syn, 1000, 0, ""))
		y, _ := s.out(tcp(b5000, r80, syn, 2000, 0, ""))
		s.in(tcp(r80, x, syn|ack, 5000, 1001, ""))
		s.in(tcp(r80, y, syn|ack, 6000, 2001, ""))
	}},
	{"tcp: SYN that nobody asked for", func(s *stage) {
		s.in(tcp(r80, nobody, syn, 1, 0, ""))
		x := connect(s)
		s.in(tcp(at(R2, 80), x, syn, 1, 0, ""))
	}},
	{"tcp: other segments that nobody asked for", func(s *stage) {
		for _, flags := range []uint8{ack, syn | ack, fin | ack, rst, rst | ack, 0, fin | psh | urg} {
			s.in(tcp(r80, nobody, flags, 1, 1, ""))
		}
	}},
	{"tcp: ACK without a connection", func(s *stage) {
		s.out(tcp(a5000, r80, ack, 1, 1, "data"))
	}},
	{"tcp: SYN+ACK without a connection", func(s *stage) {
		s.out(tcp(a5000, r80, syn|ack, 1, 1, ""))
	}},
	{"tcp: FIN without a connection", func(s *stage) {
		s.out(tcp(a5000, r80, fin|ack, 1, 1, ""))
	}},
	{"tcp: RST without a connection", func(s *stage) {
		s.out(tcp(a5000, r80, rst, 1, 0, ""))
	}},
	{"tcp: flags that no stack sends", func(s *stage) {
		for _, flags := range []uint8{0, fin, syn | fin, syn | rst, fin | psh | urg} {
			s.out(tcp(a5000, r80, flags, 1, 1, ""))
		}
	}},
	{"tcp: a wrong checksum, outbound", func(s *stage) {
		connect(s)
		s.out(spoil(tcp(a5000, r80, ack, 1001, 5001, "data"), 36))
	}},
	{"tcp: a wrong checksum, inbound", func(s *stage) {
		x := connect(s)
		s.in(spoil(tcp(r80, x, ack, 5001, 1001, "data"), 36))
	}},
	{"tcp: a header longer than the segment", func(s *stage) {
		s.out(set(tcp(a5000, r80, syn, 1000, 0, ""), 32, 0x60))
	}},
	{"tcp: less than a header", func(s *stage) {
		s.out(craft.IPv4(head(A, R1), 6, make([]byte, 16)))
	}},
	{"tcp: too big with DF", func(s *stage) {
		connect(s)
		s.out(tcp(a5000, r80, ack, 1001, 5001, string(make([]byte, 1361))))
		s.out(tcp(a5000, r80, ack, 1001, 5001, string(make([]byte, 1360))))
	}},
	{"tcp: time to live 1", func(s *stage) {
		x := connect(s)
		s.out(ttl(tcp(a5000, r80, ack, 1001, 5001, "data"), 1))
		s.in(ttl(tcp(r80, x, ack, 5001, 1001, "data"), 1))
	}},
}

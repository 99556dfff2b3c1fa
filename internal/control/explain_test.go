// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/url"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

const (
	tcpQuestion  = "proto=tcp&src=10.0.1.10&sport=40000&dst=203.0.113.9&dport=443"
	udpQuestion  = "proto=udp&src=10.0.1.10&sport=5000&dst=203.0.113.9&dport=53"
	icmpQuestion = "proto=icmp&src=10.0.1.10&dst=203.0.113.9"
)

func TestParseQuestion(t *testing.T) {
	for _, tt := range []struct{ query, want, from string }{
		{tcpQuestion, "tcp 10.0.1.10:40000 > 203.0.113.9:443, SYN, 40 bytes, TTL 64, DF", ""},
		{tcpQuestion + "&flags=sa&from=inside", "tcp 10.0.1.10:40000 > 203.0.113.9:443, SYN ACK, 40 bytes, TTL 64, DF", "inside"},
		{tcpQuestion + "&flags=FPU&size=1501", "tcp 10.0.1.10:40000 > 203.0.113.9:443, FIN PSH URG, 1501 bytes, TTL 64, DF", ""},
		{tcpQuestion + "&flags=", "tcp 10.0.1.10:40000 > 203.0.113.9:443, no flags, 40 bytes, TTL 64, DF", ""},
		{udpQuestion + "&from=outside", "udp 10.0.1.10:5000 > 203.0.113.9:53, 28 bytes, TTL 64, DF", "outside"},
		{udpQuestion + "&size=28", "udp 10.0.1.10:5000 > 203.0.113.9:53, 28 bytes, TTL 64, DF", ""},
		{udpQuestion + "&size=65535", "udp 10.0.1.10:5000 > 203.0.113.9:53, 65535 bytes, TTL 64, DF", ""},
		{strings.Replace(icmpQuestion, "icmp", "ICMP", 1), "icmp 10.0.1.10 > 203.0.113.9 id 0, echo request, 28 bytes, TTL 64, DF", ""},
		{icmpQuestion + "&sport=7&size=84", "icmp 10.0.1.10 > 203.0.113.9 id 7, echo request, 84 bytes, TTL 64, DF", ""},
		{"hex=" + url.QueryEscape("45 00\n\t0"+"0"), "unreadable (shorter than an IPv4 header), 3 bytes", ""},
		{"hex=" + strings.Repeat("0", 2*MaxHex), "unreadable (not version 4), 4096 bytes", ""},
	} {
		values, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseQuestion(values)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		h := nat.ReadHeader(q.Packet.Bytes())
		if got := h.String(); got != tt.want || q.From != tt.from {
			t.Errorf("%s: %s from %q, want %s from %q", tt.query, got, q.From, tt.want, tt.from)
		}
		if !values.Has("hex") && !whole(q.Packet.Bytes()) {
			t.Errorf("%s: a wrong checksum: % x", tt.query, q.Packet.Bytes()[:28])
		}
	}
}

// whole reports whether the checksums of a packet without options are right.
func whole(b []byte) bool {
	l4, sum := b[20:], uint32(0)
	if b[9] != packet.ICMP {
		sum = packet.PseudoIPv4(be.Uint32(b[12:]), be.Uint32(b[16:]), b[9], len(l4))
	}
	return packet.Checksum(b[:20]) == 0 && packet.Fold(packet.Sum(l4, sum)) == 0xffff
}

// TestParseQuestionBad: each fault has its sentence, and all come at once.
func TestParseQuestionBad(t *testing.T) {
	for query, want := range map[string]string{
		"":                           "missing: proto, src, dst, sport, dport; or the whole packet as hex",
		"proto=icmp":                 "missing: src, dst; or the whole packet as hex",
		"proto=gre&src=a&dst=::1":    "dst: \"::1\": write an IPv4 address, such as 10.0.1.10\nproto: \"gre\": write tcp, udp or icmp, or the whole packet as hex\nsrc: \"a\": write an IPv4 address, such as 10.0.1.10",
		tcpQuestion + "&flags=SX":    `flags: "SX": write letters of FSRPAU, such as S, SA or A`,
		tcpQuestion + "&size=39":     "size: 39: the headers alone are 40 bytes",
		tcpQuestion + "&size=65536":  `size: "65536": write the length of the packet, up to 65535 bytes`,
		tcpQuestion + "&from=above":  `from: "above": write inside or outside`,
		tcpQuestion + "&port=1":      "port is no parameter: there are dport, dst, flags, from, hex, proto, size, sport, src",
		tcpQuestion + "&src=1.2.3.4": "src is given 2 times: once is enough",
		udpQuestion + "&flags=S":     "flags are those of tcp",
		icmpQuestion + "&dport=1":    "dport: icmp has none; sport is its identifier",
		"hex=45&proto=tcp":           "hex is the whole packet: only from goes with it",
		"hex=4":                      `hex: "4": write the bytes of an IPv4 packet, its header first, up to 4096 of them`,
		"hex=":                       `hex: "": write the bytes of an IPv4 packet, its header first, up to 4096 of them`,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseQuestion(values); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	long := url.Values{"hex": {strings.Repeat("00", MaxHex+1)}}
	if _, err := ParseQuestion(long); err == nil || len(err.Error()) > 200 {
		t.Errorf("too many bytes: %v", err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package netfilter_test

// differences are the scenarios in which the two do not do the same, by the reason why; the rows are those of
// docs/conformance.md. What Linux cannot follow it calls invalid, and then its NAT does not touch it: unless a rule of
// the firewall drops it, it leaves with its inside source, or is taken for a packet to the router itself.
var differences = []struct {
	why       string
	scenarios []string
}{
	{"M-12: the gateway profile filters UDP by address, Linux by address and port", []string{
		"udp: an answer from another port",
	}},
	{"K-2: a wrong transport checksum is for the receiver to find; in Linux it makes a packet invalid, and it leaves untranslated", []string{
		"udp: a wrong checksum, outbound", "udp: a wrong checksum, inbound",
		"tcp: a wrong checksum, outbound", "tcp: a wrong checksum, inbound",
		"icmp: a wrong checksum, outbound", "1:1: a wrong checksum",
	}},
	{"U-7: bytes behind a datagram travel along; Linux counts them into the checksum", []string{
		"udp: bytes behind the datagram",
	}},
	{"K-6: a transport header that contradicts the packet is malformed; in Linux it leaves untranslated", []string{
		"udp: a length beyond the packet", "udp: a length of less than a header", "udp: less than a header",
		"tcp: a header longer than the segment", "tcp: less than a header", "odd: icmp of no bytes",
	}},
	{"F-7: identifications are told apart behind the NAT; Linux leaves them", []string{
		"udp: identifications of two hosts",
	}},
	{"T-10, T-11, T-15: segments out of the window are translated and change nothing; Linux lets them leave untranslated, or nobody have them", []string{
		"tcp: a blind reset out of the window", "tcp: out of the window, outbound", "tcp: out of the window, inbound",
		"tcp: SYN on an established connection",
	}},
	{"T-13: a segment without a connection is dropped by the gateway profile; Linux picks up what may be the middle of one", []string{
		"tcp: ACK without a connection", "forward: ACK without a connection",
	}},
	{"T-13, T-14: what cannot be of any connection makes nothing; in Linux it leaves untranslated", []string{
		"tcp: SYN+ACK without a connection", "tcp: FIN without a connection", "tcp: RST without a connection",
		"tcp: flags that no stack sends",
	}},
	{"I-1, I-9: a reply or an error that belongs to nothing is dropped; in Linux it leaves untranslated", []string{
		"icmp: a reply that nobody asked for", "icmp: errors about nothing, from inside",
	}},
	{"I-1: echo and timestamp are the queries; that for an address mask is deprecated (RFC 6918)", []string{
		"icmp: address mask request",
	}},
	{"I-17: source quench does not pass (RFC 6633)", []string{
		"icmp: redirect and source quench, inbound",
	}},
	{"F-8: a first piece without its whole TCP header is dropped; Linux puts it together with the rest", []string{
		"fragments: the ports in the second",
	}},
	{"I-15: the error quotes the piece that arrived; Linux has put the datagram together by then", []string{
		"fragments: time to live 1",
	}},
	{"1:1 mappings have no state: everything for the address arrives, and everything from it leaves with it; in Linux they need a connection", []string{
		"1:1: errors about nothing", "1:1: RST without a connection, outbound", "1:1: RST without a connection, inbound",
	}},
	{"H-4: what would have one address at both ends is dropped", []string{
		"hairpin: a 1:1 host pings itself",
	}},
	{"H-1: UDP has endpoint-independent mappings, which two hosts can meet at; Linux has none", []string{
		"hairpin: between two hosts that both ask",
	}},
	{"B-32: a packet from an endpoint to itself is dropped; Linux routes it", []string{
		"odd: source and destination the same",
	}},
	{"K-7, B-34: martians, spoofed sources and link-local destinations are dropped; in Linux that is for other rules to do", []string{
		"odd: martian sources", "odd: a link-local destination", "odd: a source of nobody inside",
		"odd: an inside source, from outside",
	}},
	{"K-7, M-13: from outside only external addresses are reached; Linux routes what else comes, unless a rule forbids it", []string{
		"odd: an inside destination, from outside", "odd: a destination of nobody, from outside",
	}},
	{"NAPT is for protocols with ports; Linux gives the whole address to the first flow of another", []string{
		"odd: a protocol without ports",
	}},
}

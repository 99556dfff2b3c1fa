// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// row is one thing that is measured.
type row struct {
	name string
	// unit is that of its value.
	unit string
	// title is its column's head.
	title string
	// small says that less is better.
	small bool
	// load is what the agent in "in" is asked to do: rtt rows have none, or the load behind the pings.
	load request
	// size is the payload of its datagrams.
	size int
	// rtt says that the value is a latency, measured beside the load, and gap how long after an answer the next ping goes.
	rtt bool
	gap time.Duration
}

const (
	smallSize   = 64     // bytes of payload of the small datagrams: 92 as IPv4 packets
	segmentSize = 1400   // bytes of payload of a segment of the super-packets
	segments    = 45     // in a super-packet
	pacedRate   = 40_000 // small datagrams a second, of the load that every peer has to carry
	transaction = 64     // bytes of a request and of its response
	concurrent  = 32     // short connections at once
	pingGap     = time.Millisecond
)

var rows = []row{
	// Pings, one a millisecond, so that everything goes to sleep in between.
	{name: "rtt-idle", unit: "µs", title: "RTT idle", small: true, rtt: true, gap: pingGap},
	// Each ping goes when the one before has come back, so that whoever looks again before he sleeps need not be woken.
	{name: "rtt-next", unit: "µs", title: "RTT back to back", small: true, rtt: true},
	// The same pings while a fixed load of small datagrams passes; CPU is per datagram of that load.
	{name: "rtt-load", unit: "µs", title: "RTT under load", small: true, rtt: true, gap: pingGap,
		load: request{Kind: kindUDP, Rate: pacedRate}, size: smallSize},
	{name: "tcp1-up", unit: "Gb/s", title: "TCP 1 up", load: request{Kind: kindTCP, Streams: 1}},
	{name: "tcp1-down", unit: "Gb/s", title: "TCP 1 down", load: request{Kind: kindTCP, Streams: 1, Down: true}},
	{name: "tcp4-up", unit: "Gb/s", title: "TCP 4 up", load: request{Kind: kindTCP, Streams: 4}},
	{name: "tcp4-down", unit: "Gb/s", title: "TCP 4 down", load: request{Kind: kindTCP, Streams: 4, Down: true}},
	// As many datagrams as the sender can make; the value is what arrives.
	{name: "udp-small", unit: "kpps", title: "UDP small", load: request{Kind: kindUDP}, size: smallSize},
	{name: "udp-gso", unit: "kpps", title: "UDP GSO", load: request{Kind: kindGSO}, size: segmentSize},
	// Connect, request, response, close. It goes on until more connections were made than there are ephemeral ports, so
	// that the NAT meets each tuple again while it still remembers it.
	{name: "tcp-crr", unit: "1/s", title: "TCP CRR", load: request{Kind: kindCRR}},
}

// Kinds of load.
const (
	kindTCP = "tcp"
	kindUDP = "udp"
	kindGSO = "gso"
	kindCRR = "crr"
)

// request is what the driver asks an agent.
type request struct {
	// Op is serve, start, count, stop or rtt.
	Op string `json:"op"`
	// Server is the address of the agent in "out".
	Server  string `json:"server,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Streams int    `json:"streams,omitempty"`
	Down    bool   `json:"down,omitempty"`
	// Rate is datagrams a second; 0 is no bound.
	Rate int `json:"rate,omitempty"`
	// For is how long to ping, in nanoseconds; 0 is once. Gap is how long to wait after each answer.
	For time.Duration `json:"for,omitempty"`
	Gap time.Duration `json:"gap,omitempty"`
}

// counts is what an agent has seen since it began.
type counts struct {
	// At is on its own clock, in nanoseconds.
	At int64 `json:"at"`
	// Bytes is payload received, Sent payload sent, both of TCP streams and UDP; Reads is messages received.
	Bytes uint64 `json:"bytes"`
	Sent  uint64 `json:"sent"`
	Reads uint64 `json:"reads"`
	// Done and Failed are short connections.
	Done   uint64 `json:"done"`
	Failed uint64 `json:"failed"`
}

// reply is an agent's answer.
type reply struct {
	Error string `json:"error,omitempty"`
	counts
	// RTT is in nanoseconds, in order; Lost pings are in none.
	RTT  []int64 `json:"rtt,omitempty"`
	Lost int     `json:"lost,omitempty"`
}

// SPDX-License-Identifier: Apache-2.0

// Package nattest is a test double for NATs: hosts with real TCP/IP stacks, behind real Tidegate engines, on an internet in
// this process, whose time is virtual.
//
//	func TestMyProtocol(t *testing.T) {
//		nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
//			server := n.Host("server")
//			laptop := n.NAT(nattest.Symmetric()).Host("laptop")
//			// server.Listen, laptop.Dial, laptop.HTTPClient ... are those of package net
//		})
//	}
//
// # Behaviours
//
// A NAT does what its [Behaviour] says. The presets are FullCone, RestrictedCone, PortRestrictedCone and Symmetric (RFC
// 3489), RFC7857, AWSNATGateway, LinuxMasquerade, CarrierGrade, DoubleNAT and Corporate; what they have in common with the
// gateway is the engine, so that what a test learns holds in production.
//
// A NAT opens what it is asked to: [NAT.Forward] is a port forward, [NAT.Static] an address of its own for a host. Behind a
// NAT there may be further ones, as deep as you like: [NAT.NAT].
//
// # Faults
//
// A NAT can [NAT.Reboot], run out of ports ([NAT.LimitPorts]), change its address ([NAT.Renumber]), eat ICMP errors, or drop
// a flow by a new rule ([NAT.Block]); any change of its policy is [NAT.Update]. A [Link] has latency, jitter, loss,
// duplication, reordering, bandwidth and an MTU, and can be changed while packets fly.
//
// # Time
//
// [Run] puts the test in a bubble of testing/synctest: time stands still while anybody has something to do, and jumps to
// the next timer otherwise. An hour of keep-alives takes what its packets cost. The rules of such bubbles hold: goroutines
// of the test must end with it (those that wait for a host's connections do: the hosts are closed), and nobody may wait
// for something outside, such as a real connection, a name server, or a lock that stays locked. Without a bubble, [New]
// makes the same network in real time.
//
// # What is the same each time
//
// With equal [Config.Seed] and a test that does the same, the same connections succeed and fail, at the same virtual
// times, and every NAT logs the same packets with the same verdicts and ports. That holds because the network and the
// test take turns: the goroutines that data or deadlines wake go on one after the other, a few nanoseconds apart, which is
// why times are not quite round; what they send in one moment leaves in the order of flows; a port of the host's choice
// follows from the destination; and every random choice is seeded.
//
// Not determined is what the test itself leaves open. Goroutines that it starts in one moment, or that sleep until the
// same one, act in any order. It shows where they share something: a connection, or the next port, when several on one
// host listen at port 0 or dial the same destination; or the host, if it dials itself.
//
// # Judgement
//
// [NAT.Log] is every packet a NAT has seen and what became of it, [NAT.Events] what became of its sessions, with the times,
// [NAT.Count] and [NAT.Stats] the engine's counters, [NAT.Sessions] and [NAT.Mapped] what it holds, [NAT.Explain] what it
// would do with a packet and why, and [Network.Capture] writes pcapng for Wireshark. When a test fails, the last packets of
// every NAT are in its output.
package nattest

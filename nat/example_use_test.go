// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// home is the policy of the examples: 10.0.0.0/16 goes out as the given address.
func home(public string) *nat.Policy {
	inside := netip.MustParsePrefix("10.0.0.0/16")
	return &nat.Policy{
		Inside: []netip.Prefix{inside},
		Pools:  []nat.Pool{{Name: "public", Addresses: []netip.Addr{netip.MustParseAddr(public)}}},
		Routes: []nat.Route{{Source: inside, Pool: "public"}},
	}
}

// fromTo is an empty UDP datagram, as a device would read it.
func fromTo(from, to string) packet.Packet {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := make([]byte, 28)
	copy(b, []byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, packet.UDP})
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	b[25] = 8 // its length; the checksum stays 0, which is "none"
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20]))
	return packet.From(b)
}

// source is the endpoint that a packet comes from, or seems to.
func source(p packet.Packet) netip.AddrPort {
	b := p.Bytes()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), binary.BigEndian.Uint16(b[20:]))
}

// All faults of configuration and policy are reported at once, each with what is wanted.
func ExampleNew() {
	policy := home("10.0.0.1")
	policy.Routes[0].Pool = "publik"
	_, err := nat.New(nat.Config{Shards: 3}, policy)
	fmt.Println(err)
	// Output:
	// nat: 3 shards: want a power of two up to 64
	// pool "public": 10.0.0.1 is also inside
	// route 1: there is no pool "publik"
}

// A packet goes out, its answer comes back, and nothing else does.
func ExampleWorker_Translate() {
	engine, err := nat.New(nat.Config{}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	w := engine.Worker()

	query := fromTo("10.0.1.10:5000", "198.51.100.7:53")
	fmt.Println(w.Translate(&query, nat.FromInside, 0), "as", source(query).Addr())
	mapped := source(query).String()

	answer := fromTo("198.51.100.7:53", mapped)
	fmt.Println(w.Translate(&answer, nat.FromOutside, 20*time.Millisecond))

	stranger := fromTo("192.0.2.1:53", mapped)
	v := w.Translate(&stranger, nat.FromOutside, 30*time.Millisecond)
	fmt.Println(v, "-", v.Text())
	// Output:
	// outbound as 203.0.113.1
	// inbound
	// filtered - the port is held, but not for this remote endpoint
}

// Packets that came from one side at one time are translated together, several times as fast.
func ExampleWorker_Batch() {
	engine, err := nat.New(nat.Config{}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	packets := []packet.Packet{
		fromTo("10.0.1.10:5000", "198.51.100.7:53"),
		fromTo("10.0.1.10:5000", "10.0.2.20:53"),
		fromTo("192.168.1.1:5000", "198.51.100.7:53"),
	}
	verdicts := make([]nat.Verdict, len(packets))
	w.Batch(packets, nat.FromInside, 0, verdicts)
	for _, v := range verdicts {
		if v.Forward() {
			fmt.Println("to the", v.Side(), v)
		} else {
			fmt.Println("dropped:", v)
		}
	}
	// Output:
	// to the outside outbound
	// to the inside untouched
	// dropped: spoof
}

// An unsolicited SYN waits for six seconds, in case the inside is about to send its own (RFC 5382 REQ-4). Then Tick
// answers it.
func ExampleWorker_Tick() {
	policy := home("203.0.113.1")
	policy.Pools[0].Profile = nat.RFCProfile()
	engine, err := nat.New(nat.Config{}, policy)
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	b := append(make([]byte, 0, 40), 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, packet.TCP, 0, 0, 198, 51, 100, 7, 203, 0, 113, 1)
	b = append(b, 0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, packet.SYN, 0xff, 0xff, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20]))
	syn := packet.From(b)
	fmt.Println(w.Translate(&syn, nat.FromOutside, 0))

	for now := time.Duration(0); now < 7*time.Second; {
		next := w.Tick(now) // a real loop waits for this or for packets, whichever comes first
		for _, e := range w.Emitted() {
			fmt.Println("at", now, "to the", e.Side, e.Packet.Len, "bytes of ICMP:", e.Packet.Bytes()[9] == packet.ICMP)
		}
		now = next
	}
	// Output:
	// held_syn
	// at 6s to the outside 68 bytes of ICMP: true
}

// A policy is replaced as a whole, while packets flow. Sessions that the new one would not have made end.
func ExampleEngine_Apply() {
	engine, err := nat.New(nat.Config{}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	p := fromTo("10.0.1.10:5000", "198.51.100.7:53")
	w.Translate(&p, nat.FromInside, 0)

	next := home("203.0.113.2")
	what, err := engine.Preview(next, time.Second)
	fmt.Println("would cut", what.Cut, err)
	impact, err := engine.Apply(next, time.Second)
	fmt.Println("cut", impact.Cut, err)

	p = fromTo("10.0.1.10:5000", "198.51.100.7:53")
	fmt.Println(w.Translate(&p, nat.FromInside, time.Second), "as", source(p).Addr())
	// Output:
	// would cut 1 <nil>
	// cut 1 <nil>
	// outbound as 203.0.113.2
}

// The sessions can be listed while packets flow.
func ExampleEngine_Sessions() {
	engine, err := nat.New(nat.Config{FlowCounters: true}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	for range 3 {
		p := fromTo("10.0.1.10:5000", "198.51.100.7:443")
		w.Translate(&p, nat.FromInside, 2*time.Second)
	}
	for s := range engine.Sessions(5 * time.Second) {
		fmt.Println(nat.ProtocolName(s.Protocol), s.Inside, "as", s.External.Addr(), "to", s.Remote, "until", s.Expires)
		fmt.Println(s.Packets[nat.Out], "packets out,", s.Packets[nat.In], "in")
	}
	// Output:
	// udp 10.0.1.10:5000 as 203.0.113.1 to 198.51.100.7:443 until 5m2s
	// 3 packets out, 0 in
}

// Who had which port, and when, is what logs are made of. Another goroutine may read them while packets flow.
func ExampleEngine_Events() {
	engine, err := nat.New(nat.Config{Events: 1024, FlowCounters: true}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	query := fromTo("10.0.1.10:5000", "198.51.100.7:53")
	w.Translate(&query, nat.FromInside, time.Second)
	answer := fromTo("198.51.100.7:53", source(query).String())
	w.Translate(&answer, nat.FromOutside, 1020*time.Millisecond)
	w.Tick(time.Hour) // late, but an end is at the moment of death

	events := make([]nat.Event, 64)
	for _, e := range events[:engine.Events(events)] {
		fmt.Println(e.At, e.Kind, e.Reason, e.Inside, "to", e.Remote, e.Packets)
	}
	fmt.Println(engine.Stats(time.Hour).EventsLost, "lost")
	// Output:
	// 1s session_created  10.0.1.10:5000 to 198.51.100.7:53 [0 0]
	// 1.02s session_established  10.0.1.10:5000 to 198.51.100.7:53 [0 0]
	// 21s session_ended expired 10.0.1.10:5000 to 198.51.100.7:53 [1 1]
	// 0 lost
}

// Each packet is counted under its verdict.
func ExampleEngine_Stats() {
	engine, err := nat.New(nat.Config{Sessions: 1024}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	for _, from := range []string{"10.0.1.10:5000", "10.0.1.11:5000", "192.168.1.1:5000"} {
		p := fromTo(from, "198.51.100.7:53")
		w.Translate(&p, nat.FromInside, 0)
	}
	s := engine.Stats(0)
	fmt.Println(s.Sessions, "of", s.SessionsMax, "sessions")
	for v, n := range s.Verdicts {
		if n > 0 {
			fmt.Println(nat.Verdict(v), n)
		}
	}
	// Output:
	// 2 of 1024 sessions
	// outbound 2
	// spoof 1
}

// In a test of your own, Check walks all tables and names whatever does not fit together.
func ExampleEngine_Check() {
	engine, err := nat.New(nat.Config{}, home("203.0.113.1"))
	if err != nil {
		panic(err)
	}
	p := fromTo("10.0.1.10:5000", "198.51.100.7:53")
	engine.Worker().Translate(&p, nat.FromInside, 0)
	fmt.Println(engine.Check(0))
	// Output: <nil>
}

// A 1:1 mapping, a port forward and a pool side by side.
func ExamplePolicy() {
	addr, port := netip.MustParseAddr, netip.MustParseAddrPort
	policy := home("203.0.113.1")
	policy.Routes[0].Static = true // who has a 1:1 mapping leaves by that
	policy.Static = []nat.Static{{Inside: addr("10.0.1.20"), Outside: addr("203.0.113.20")}}
	policy.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: port("203.0.113.1:53"), Inside: port("10.0.1.53:5353")}}
	engine, err := nat.New(nat.Config{}, policy)
	if err != nil {
		panic(err)
	}
	w := engine.Worker()
	p := fromTo("10.0.1.20:5000", "198.51.100.7:53")
	fmt.Println(w.Translate(&p, nat.FromInside, 0), source(p))
	p = fromTo("198.51.100.7:4000", "203.0.113.1:53")
	fmt.Println(w.Translate(&p, nat.FromOutside, 0))
	p = fromTo("10.0.1.53:5353", "198.51.100.7:4000")
	fmt.Println(w.Translate(&p, nat.FromInside, 0), source(p))
	// Output:
	// static_outbound 203.0.113.20:5000
	// inbound
	// outbound 203.0.113.1:53
}

// A security group: the host may look up names and fetch from the web, and one address may log in. Answers pass by themselves.
func ExampleRestriction() {
	policy := home("203.0.113.1")
	policy.Static = []nat.Static{{Inside: netip.MustParseAddr("10.0.1.10"), Outside: netip.MustParseAddr("203.0.113.10")}}
	policy.Routes[0].Static = true
	policy.Restrictions = []nat.Restriction{{
		Name:  "web-1",
		Hosts: []netip.Addr{netip.MustParseAddr("10.0.1.10")},
		In:    []nat.Allow{{Protocol: packet.UDP, PortMin: 22, PortMax: 22, Remotes: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}},
		Out:   []nat.Allow{{Protocol: packet.UDP, PortMin: 53, PortMax: 53}, {Protocol: packet.TCP, PortMin: 443, PortMax: 443}},
	}}
	engine, err := nat.New(nat.Config{}, policy)
	if err != nil {
		fmt.Println(err)
		return
	}
	w := engine.Worker()
	for _, c := range []struct {
		from     nat.AttachmentID
		src, dst string
	}{
		{nat.FromOutside, "192.0.2.53:53", "203.0.113.10:5000"},
		{nat.FromInside, "10.0.1.10:5000", "192.0.2.53:53"},
		{nat.FromOutside, "192.0.2.53:53", "203.0.113.10:5000"},
		{nat.FromOutside, "198.51.100.7:4000", "203.0.113.10:22"},
		{nat.FromOutside, "198.51.100.8:4000", "203.0.113.10:22"},
	} {
		p := fromTo(c.src, c.dst)
		fmt.Println(c.src, "to", c.dst, w.Translate(&p, c.from, 0))
	}
	// Output:
	// 192.0.2.53:53 to 203.0.113.10:5000 not_allowed
	// 10.0.1.10:5000 to 192.0.2.53:53 static_outbound
	// 192.0.2.53:53 to 203.0.113.10:5000 static_inbound
	// 198.51.100.7:4000 to 203.0.113.10:22 static_inbound
	// 198.51.100.8:4000 to 203.0.113.10:22 not_allowed
}

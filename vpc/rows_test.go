// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// IGW-2: whatever the protocol, the addresses change and the rest does not. (AH passes too; that it covers the addresses
// is its own affair.)
func TestIGW2_AnyProtocol(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	e.apply()
	payload := []byte("whatever this is, it is not ours to change")
	raw := func(p uint8, src, dst netip.Addr) []byte {
		buf := gopacket.NewSerializeBuffer()
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(p), Id: 9, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		if err := gopacket.SerializeLayers(buf, complete, ip, gopacket.Payload(payload)); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for _, p := range []uint8{47, 50, 51, 132, 253} {
		b, v := e.send(i.Attachment, raw(p, i.PrivateIP, r1))
		equal(t, "out", v, nat.StaticOutbound)
		want := read(t, raw(p, i.PublicIP, r1))
		want.ttl--
		equal(t, "out", read(t, b), want)
		if !bytes.Equal(b[20:], payload) {
			t.Errorf("protocol %d: the payload has changed", p)
		}
		b, v = e.send(OutsideAttachment, raw(p, r1, i.PublicIP))
		equal(t, "in", v, nat.StaticInbound)
		equal(t, "to", read(t, b).dst, i.PrivateIP)
		if !bytes.Equal(b[20:], payload) {
			t.Errorf("protocol %d: the payload has changed", p)
		}
	}
	// DCCP has a checksum over the addresses (RFC 4340, section 9.1), at bytes 6 and 7 of its header.
	b := raw(33, i.PrivateIP, r1)
	before := pseudoSum(b)
	out, v := e.send(i.Attachment, b)
	equal(t, "DCCP", v, nat.StaticOutbound)
	equal(t, "DCCP: checksum", pseudoSum(out), before)
}

// pseudoSum is the sum over the addresses and what follows the header, from which only the constant parts are missing.
func pseudoSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 12; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// icmpError is a message from somebody about a packet.
func icmpError(t *testing.T, from, to netip.Addr, kind uint8, about []byte) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, complete,
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: from.AsSlice(), DstIP: to.AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0)}, gopacket.Payload(about[:28])); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// quoted are the addresses in the quote of an ICMP error.
func quoted(b []byte) (src, dst netip.Addr) {
	return netip.AddrFrom4([4]byte(b[28+12:])), netip.AddrFrom4([4]byte(b[28+16:]))
}

// IGW-3: traceroute in both directions: nobody outside sees an inside address, and nobody inside the public one of a host.
func TestIGW3_ICMPErrors(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	e.apply()
	probe := udp(i.PrivateIP, 5000, r1, 33434)
	sent, v := e.send(i.Attachment, probe.build(t))
	equal(t, "probe", v, nat.StaticOutbound)
	b, v := e.send(OutsideAttachment, icmpError(t, router, i.PublicIP, layers.ICMPv4TypeTimeExceeded, sent))
	equal(t, "error in", v, nat.ErrorInbound)
	f := read(t, b)
	src, dst := quoted(b)
	equal(t, "in: from", f.src, router)
	equal(t, "in: to", f.dst, i.PrivateIP)
	equal(t, "in: about a packet from", src, i.PrivateIP)
	equal(t, "in: to", dst, r1)
	equal(t, "in: port", binary.BigEndian.Uint16(b[48:]), 5000)

	got, v := e.send(OutsideAttachment, udp(r1, 40000, i.PublicIP, 33434).build(t))
	equal(t, "probe from outside", v, nat.StaticInbound)
	b, v = e.send(i.Attachment, icmpError(t, i.PrivateIP, r1, layers.ICMPv4TypeDestinationUnreachable, got))
	equal(t, "error out", v, nat.ErrorOutbound)
	f = read(t, b)
	src, dst = quoted(b)
	equal(t, "out: from", f.src, i.PublicIP)
	equal(t, "out: about a packet from", src, r1)
	equal(t, "out: to", dst, i.PublicIP)
	equal(t, "out: port", binary.BigEndian.Uint16(b[50:]), 33434)

	// The edge is a hop, too.
	probe.ttl = 1
	_, v = e.send(i.Attachment, probe.build(t))
	equal(t, "TTL ends", v, nat.DropTTL)
	equal(t, "hop", read(t, e.worker.Emitted()[0].Packet.Bytes()).src, e.vpc.CIDRs[0].Addr().Next())
}

// IGW-4: no state: nothing to fill up, nothing to time out, nothing to wait for.
func TestIGW4_NoState(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	e.apply()
	before := e.engine.Stats(0)
	b := tcp(r1, 1, i.PublicIP, 22).build(t)
	for n := range 100_000 {
		p := packet.From(bytes.Clone(b))
		binary.BigEndian.PutUint16(p.Bytes()[20:], uint16(n)) // the port; its checksum is none of the edge's business
		if v := e.worker.Translate(&p, OutsideAttachment, 0); v != nat.StaticInbound {
			t.Fatalf("SYN %d: %v", n, v)
		}
	}
	after := e.engine.Stats(0)
	equal(t, "sessions", after.Sessions, 0)
	equal(t, "memory", after.MemoryBytes, before.MemoryBytes)

	e.isPublic("at once", i, i.PublicIP)
	e.now = e.now.Add(24 * time.Hour)
	e.isPublic("a day later", i, i.PublicIP)

	// The last fragment first: it goes on, and nothing is kept.
	pieces := fragments(t, i.PrivateIP, r1, layers.IPProtocolUDP)
	slices.Reverse(pieces)
	for _, b := range pieces {
		out, v := e.send(i.Attachment, b)
		equal(t, "fragment", v, nat.StaticOutbound)
		equal(t, "from", netip.AddrFrom4([4]byte(out[12:])), i.PublicIP)
	}
	stats := e.engine.Stats(e.now.Sub(t0))
	equal(t, "fragments that wait", stats.FragmentSets, 0)
	equal(t, "sessions", stats.Sessions, 0)
}

// fragments are a datagram of 3,000 bytes in three pieces.
func fragments(t *testing.T, src, dst netip.Addr, p layers.IPProtocol) (pieces [][]byte) {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: p, Id: 77, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	var head gopacket.SerializableLayer
	switch p {
	case layers.IPProtocolUDP:
		l := &layers.UDP{SrcPort: 5000, DstPort: 53}
		_ = l.SetNetworkLayerForChecksum(ip)
		head = l
	case layers.IPProtocolTCP:
		l := &layers.TCP{SrcPort: 5000, DstPort: 80, SYN: true}
		_ = l.SetNetworkLayerForChecksum(ip)
		head = l
	default:
		head = &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 5}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, complete, head, gopacket.Payload(make([]byte, 2976))); err != nil {
		t.Fatal(err)
	}
	body := bytes.Clone(buf.Bytes())
	for at := 0; at < len(body); at += 1200 {
		piece := *ip
		end := min(at+1200, len(body))
		piece.FragOffset = uint16(at / 8)
		if end < len(body) {
			piece.Flags = layers.IPv4MoreFragments
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, complete, &piece, gopacket.Payload(body[at:end])); err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, bytes.Clone(buf.Bytes()))
	}
	return pieces
}

// NGW-4: 55,000 connections to one destination for each address, from ports 1024 to 65535, and not one more.
func TestNGW4_ConnectionsForEachDestination(t *testing.T) {
	w := newWorld(t, "198.51.100.128/28")
	i := w.run(w.private)
	g := w.natGateway(w.public, w.allocate())
	w.ok(w.CreateRoute(w.vpc.MainRouteTableID, everything, g.ID))
	engine := must(nat.New(nat.Config{Seed: 1, Sessions: 1 << 17}, w.compiled()))(t)
	worker := engine.Worker()
	type endpoint struct {
		ip   netip.Addr
		port uint16
	}
	owner := map[endpoint]bool{}
	now := time.Duration(0)
	syn := tcp(i.PrivateIP, 0, r1, 443).build(t)
	send := func(port uint16) nat.Verdict {
		b := bytes.Clone(syn)
		binary.BigEndian.PutUint16(b[20:], port) // its checksum is none of the gateway's business
		p := packet.From(b)
		v := worker.Translate(&p, i.Attachment, now)
		if v == nat.Outbound {
			at := endpoint{netip.AddrFrom4([4]byte(p.Bytes()[12:])), binary.BigEndian.Uint16(p.Bytes()[20:])}
			if owner[at] || at.port < 1024 {
				t.Fatalf("%v is in use, or out of range", at)
			}
			owner[at] = true
		}
		return v
	}
	fill := func(from, to int) {
		for n := from; n < to; n++ {
			if v := send(uint16(n)); v != nat.Outbound {
				t.Fatalf("connection %d: %v", n, v)
			}
		}
	}
	fill(1, 2)
	var first endpoint
	for first = range owner {
	}
	now = 100 * time.Second
	fill(2, 55001)
	equal(t, "the 55,001st", send(55001), nat.DropNoPort)
	equal(t, "counted", engine.Stats(now).Verdicts[nat.DropNoPort], 1)
	for _, f := range []flow{tcp(i.PrivateIP, 1, r1, 444), tcp(i.PrivateIP, 1, r2, 443), udp(i.PrivateIP, 1, r1, 443)} {
		p := packet.From(f.build(t))
		equal(t, "another destination", worker.Translate(&p, i.Attachment, now), nat.Outbound)
	}

	// The first one ends, which nobody has answered for 240 s.
	now = 240 * time.Second
	delete(owner, first)
	fill(55001, 55002)
	equal(t, "full again", send(55002), nat.DropNoPort)

	// A second address carries as many again.
	must(w.AssociateNATGatewayAddress(g.ID, []string{w.allocate().ID}, nil))(t)
	must(engine.Apply(w.compiled(), now))(t)
	fill(55002, 65536)
	other := w.run(w.private)
	must(engine.Apply(w.compiled(), now))(t)
	i = other
	copy(syn[12:16], i.PrivateIP.AsSlice())
	binary.BigEndian.PutUint16(syn[10:], binary.BigEndian.Uint16(syn[10:])-1) // the address is one higher
	fill(1, 110_000-65534+1)
	equal(t, "the 110,001st", send(60000), nat.DropNoPort)
	w.ok(engine.Check(now))
}

// NGW-6: after 350 s without a packet a connection is over, and the host hears so with its next one.
func TestNGW6_IdleConnectionsEndWithReset(t *testing.T) {
	e, g, i := natEdge(t)
	f := tcp(i.PrivateIP, 5000, r1, 443)
	b, _ := e.send(i.Attachment, f.build(t))
	out := read(t, b)
	e.passes("answer", OutsideAttachment, out.reply(), nat.Inbound, f.reply())
	f.syn, f.ack, out.syn, out.ack = false, true, false, true
	e.now = e.now.Add(time.Second)
	e.passes("established", i.Attachment, f, nat.Outbound, out)
	e.now = e.now.Add(349 * time.Second)
	e.passes("after 349 s", i.Attachment, f, nat.Outbound, out)

	e.now = e.now.Add(351 * time.Second)
	e.stops("from outside after 351 s", OutsideAttachment, out.reply(), nat.DropNoMapping)
	_, v := e.send(i.Attachment, f.build(t))
	equal(t, "from inside after 351 s", v, nat.DropReset)
	emitted := e.worker.Emitted()
	if len(emitted) != 1 || emitted[0].Side != nat.Inside {
		t.Fatalf("emitted %+v, want one packet to the inside", emitted)
	}
	var tcpHeader layers.TCP
	if err := tcpHeader.DecodeFromBytes(emitted[0].Packet.Bytes()[20:], gopacket.NilDecodeFeedback); err != nil {
		t.Fatal(err)
	}
	rst := read(t, emitted[0].Packet.Bytes())
	equal(t, "from", rst.src, r1)
	equal(t, "to", rst.dst, i.PrivateIP)
	equal(t, "port", rst.srcPort, 443)
	equal(t, "RST, without ACK or FIN", [3]bool{tcpHeader.RST, tcpHeader.ACK, tcpHeader.FIN}, [3]bool{true, false, false})
	equal(t, "SEQ is SEG.ACK", tcpHeader.Seq, 1001)

	again := tcp(i.PrivateIP, 5000, r1, 443)
	b, v = e.send(i.Attachment, again.build(t))
	equal(t, "a new SYN", v, nat.Outbound)
	equal(t, "as", read(t, b).src, g.PublicIP)
}

// NGW-7: fragments of UDP pass, both ways; those of TCP and ICMP do not.
func TestNGW7_FragmentsOfUDPAlone(t *testing.T) {
	e, g, i := natEdge(t)
	pass := func(what string, from nat.AttachmentID, pieces [][]byte, side nat.Side) (first []byte) {
		t.Helper()
		var v nat.Verdict
		for _, b := range pieces {
			_, v = e.send(from, b)
		}
		equal(t, what, v, nat.Reassembled)
		equal(t, what+": pieces", len(e.worker.Emitted()), len(pieces))
		for n, m := range e.worker.Emitted() {
			equal(t, what+": side", m.Side, side)
			if n == 0 {
				first = bytes.Clone(m.Packet.Bytes())
			}
		}
		return first
	}
	first := pass("UDP out", i.Attachment, fragments(t, i.PrivateIP, r1, layers.IPProtocolUDP), nat.Outside)
	equal(t, "from", netip.AddrFrom4([4]byte(first[12:])), g.PublicIP)
	answer := fragments(t, r1, g.PublicIP, layers.IPProtocolUDP)
	copy(answer[0][22:24], first[20:22]) // to the port that it came from
	copy(answer[0][20:22], first[22:24])
	binary.BigEndian.PutUint16(answer[0][26:], 0) // without a checksum, which is as good
	first = pass("UDP in", OutsideAttachment, answer, nat.Inside)
	equal(t, "to", netip.AddrFrom4([4]byte(first[16:])), i.PrivateIP)
	equal(t, "port", binary.BigEndian.Uint16(first[22:]), 5000)
	for _, p := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolICMPv4} {
		for _, b := range fragments(t, i.PrivateIP, r1, p) {
			_, v := e.send(i.Attachment, b)
			equal(t, p.String(), v, nat.DropFragmentPolicy)
		}
	}
}

// NGW-12: a connection stays where it began; new ones use either address.
func TestNGW12_ConnectionsKeepTheirAddress(t *testing.T) {
	e, _, i := natEdge(t)
	e.apply()
	id := e.DescribeNATGateways()[0].ID
	must(e.AssociateNATGatewayAddress(id, []string{e.allocate().ID}, nil))(t)
	e.apply()
	used := map[netip.Addr]int{}
	for port := range uint16(2000) {
		f := udp(i.PrivateIP, port+1, r1, 53)
		b, v := e.send(i.Attachment, f.build(t))
		equal(t, "out", v, nat.Outbound)
		out := read(t, b)
		used[out.src]++
		e.passes("again", i.Attachment, f, nat.Outbound, func() flow { out.ttl = 64; return out }())
	}
	for ip, n := range used {
		if len(used) != 2 || n < 500 {
			t.Errorf("%v has %d of 2,000 flows, and %d addresses are in use", ip, n, len(used))
		}
	}
}

func TestVPC4_AnotherMainTable(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	main := w.DescribeRouteTables()[0]
	equal(t, "main", main.Main, true)
	sameAs(t, "its associations", main.Associations, []RouteTableAssociation{{ID: w.vpc.MainAssociationID, Main: true}})
	w.refused(InvalidParameterValue, func() error { return w.DisassociateRouteTable(w.vpc.MainAssociationID) })

	a := must(w.ReplaceRouteTableAssociation(w.vpc.MainAssociationID, w.outward.ID))(t)
	equal(t, "main", w.DescribeRouteTables()[1].Main, true)
	equal(t, "the old one", w.DescribeRouteTables()[0].Main, false)
	static := 0
	for _, r := range w.compiled().Routes {
		if r.Static {
			static++
		}
	}
	equal(t, "subnets with the route", static, 2)
	w.ok(w.DisassociateRouteTable(w.tables.byID[w.outward.ID].Associations[0].ID))
	w.refused(DependencyViolation, func() error { return w.DeleteRouteTable(w.outward.ID) })
	w.refused(AssociationNotFound, func() error { return second(w.ReplaceRouteTableAssociation(w.vpc.MainAssociationID, main.ID)) })
	must(w.ReplaceRouteTableAssociation(a.ID, main.ID))(t)
	w.ok(w.DeleteRouteTable(w.outward.ID))
}

// A VPC has several blocks, all of them local, and gives up those that nobody is in.
func TestVPC1_SeveralBlocks(t *testing.T) {
	e := newEdge(t)
	must(e.AssociateVPCCIDRBlock(e.vpc.ID, prefix("10.7.0.0/16")))(t)
	far := must(e.CreateSubnet(CreateSubnetInput{VPCID: e.vpc.ID, CIDR: prefix("10.7.1.0/24")}))(t)
	a, b := e.run(e.public), e.run(far)
	e.apply()
	f := tcp(a.PrivateIP, 5000, b.PrivateIP, 80)
	e.passes("between blocks", a.Attachment, f, nat.Untouched, f)
	e.passes("back", b.Attachment, f.reply(), nat.Untouched, f.reply())

	drop := func(p string) func() error {
		return func() error { return second(e.DisassociateVPCCIDRBlock(e.vpc.ID, prefix(p))) }
	}
	e.refused(OperationNotPermitted, drop("10.0.0.0/16"))
	e.refused(CIDRAssociationNotFound, drop("10.8.0.0/16"))
	e.refused(DependencyViolation, drop("10.7.0.0/16"))
	e.refused(VPCNotFound, func() error { return second(e.DisassociateVPCCIDRBlock("vpc-0", prefix("10.7.0.0/16"))) })
	must(e.TerminateInstance(e.now, b.ID))(t)
	e.ok(e.DeleteSubnet(far.ID))
	e.ok(drop("10.7.0.0/16")())
	e.apply()
	e.passes("the block is not ours any more", a.Attachment, f, nat.StaticOutbound, f.at(a.PublicIP))
}

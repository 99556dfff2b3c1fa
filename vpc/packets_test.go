// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/tidegate/tidegate/nat"
)

// isPublic asserts that the instance reaches the internet as ip, by TCP, UDP and ping, and is reached there.
func (e *edge) isPublic(what string, i Instance, ip netip.Addr) {
	e.t.Helper()
	for _, f := range []flow{tcp(i.PrivateIP, 5000, r1, 80), udp(i.PrivateIP, 5000, r1, 53), echo(i.PrivateIP, r1, 9)} {
		e.passes(what+": out", i.Attachment, f, nat.StaticOutbound, f.at(ip))
		e.passes(what+": answer", OutsideAttachment, f.at(ip).reply(), nat.StaticInbound, f.reply())
	}
	for _, f := range []flow{tcp(r1, 6000, ip, 22), udp(r1, 6000, ip, 53), echo(r1, ip, 9)} {
		e.passes(what+": unsolicited", OutsideAttachment, f, nat.StaticInbound, f.to(i.PrivateIP))
	}
	equal(e.t, what+": sessions", e.sessions(), 0)
}

// isDead asserts that nothing gets in through ip.
func (e *edge) isDead(what string, ip netip.Addr) {
	e.t.Helper()
	for _, f := range []flow{tcp(r1, 6000, ip, 22), udp(r1, 6000, ip, 53), echo(r1, ip, 9)} {
		e.stops(what, OutsideAttachment, f, nat.DropUnassigned)
	}
}

// isShut asserts that the instance gets nothing out.
func (e *edge) isShut(what string, i Instance) {
	e.t.Helper()
	for _, f := range []flow{tcp(i.PrivateIP, 5000, r1, 80), udp(i.PrivateIP, 5000, r1, 53), echo(i.PrivateIP, r1, 9)} {
		e.stops(what, i.Attachment, f, nat.DropNoPath)
	}
}

func TestVPC1_InsideIsNeverTranslated(t *testing.T) {
	e := newEdge(t)
	a, b := e.run(e.public), e.run(e.private)
	e.associate(e.allocate(), e.run(e.public))
	g := e.natGateway(e.public, e.allocate())
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, g.ID))
	e.apply()
	for _, f := range []flow{
		tcp(a.PrivateIP, 5000, b.PrivateIP, 5432), udp(a.PrivateIP, 5000, b.PrivateIP, 53), echo(a.PrivateIP, b.PrivateIP, 1),
		{proto: layers.IPProtocolESP, src: a.PrivateIP, dst: b.PrivateIP, ttl: 64},
	} {
		out, v := e.send(a.Attachment, f.build(t))
		equal(t, f.proto.String(), v, nat.Untouched)
		f.ttl--
		equal(t, f.proto.String()+": packet", string(out), string(f.build(t)))
	}
	f := tcp(b.PrivateIP, 5432, a.PrivateIP, 5000)
	e.passes("back", b.Attachment, f, nat.Untouched, f)
	equal(t, "sessions", e.sessions(), 0)
}

func TestVPC2_NoPublicPath(t *testing.T) {
	e := newEdge(t)
	c, bare := e.run(e.private), e.run(e.private)
	table := must(e.CreateRouteTable(e.vpc.ID))(t)
	must(e.AssociateRouteTable(table.ID, e.private.ID))(t)
	e.apply()
	e.isShut("no route", c)
	e.ok(e.CreateRoute(table.ID, everything, e.igw.ID))
	e.apply()
	e.isShut("a route to the internet gateway, but no public address", bare)
	spoofed := tcp(bare.PrivateIP, 5000, r1, 80)
	e.stops("another's address", c.Attachment, spoofed, nat.DropSpoof)
}

// Whatever instances send: what leaves on the outside has a public address as its source.
func TestVPC2_NoPrivateSourceLeaves(t *testing.T) {
	e := newEdge(t)
	hosts := []Instance{e.run(e.public), e.run(e.public), e.run(e.private), e.run(e.private)}
	e.associate(e.allocate(), hosts[1])
	e.associate(e.allocate(), hosts[3]) // where it does not help
	g := e.natGateway(e.public, e.allocate())
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, g.ID))
	e.apply()
	hosts = e.DescribeInstances()
	public := e.cfg.PublicPool[0]

	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(ips ...netip.Addr) netip.Addr { return ips[rng.IntN(len(ips))] }
	left, ended := 0, 0
	for n := range 100_000 {
		i := hosts[rng.IntN(len(hosts))]
		src := pick(i.PrivateIP, i.PrivateIP, i.PrivateIP, hosts[0].PrivateIP, hosts[0].PublicIP, r1, addr("10.9.9.9"), addr("127.0.0.1"))
		dst := pick(r1, r2, hosts[0].PrivateIP, hosts[0].PublicIP, hosts[1].PublicIP, g.Addresses[0].PublicIP, addr("198.51.100.143"), addr("10.9.9.9"))
		f := flow{
			proto: []layers.IPProtocol{1, 6, 17, 47, 50, 132}[rng.IntN(6)], src: src, dst: dst,
			srcPort: uint16(rng.IntN(9)), dstPort: uint16(rng.IntN(3)), ttl: uint8(rng.IntN(4)), syn: rng.IntN(4) > 0, ack: rng.IntN(4) == 0,
		}
		b, v := e.send(i.Attachment, f.build(t))
		if !v.Forward() || v.Side() != nat.Outside {
			ended++
			continue
		}
		left++
		if got := read(t, b); !public.Contains(got.src) {
			t.Fatalf("packet %d: %+v left as %+v (%v)", n, f, got, v)
		}
	}
	if left < 1000 || ended < 1000 {
		t.Errorf("%d left, %d did not: the packets are too much alike", left, ended)
	}
}

func TestVPC3_PublicAddressWithoutRoute(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.private)
	a := e.associate(e.allocate(), i)
	e.apply()
	e.isShut("no route", i)
	e.isDead("no route", a.PublicIP)
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, e.igw.ID))
	e.apply()
	e.isPublic("with the route", i, a.PublicIP)
}

func TestVPC4_RouteChangeCountsFromTheNextPacket(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.private)
	a := e.associate(e.allocate(), i)
	g := e.natGateway(e.public, e.allocate())
	main := e.vpc.MainRouteTableID
	e.ok(e.CreateRoute(main, everything, g.ID))
	e.apply()

	f := tcp(i.PrivateIP, 5000, r1, 443)
	b, v := e.send(i.Attachment, f.build(t))
	equal(t, "to the NAT gateway", v, nat.Outbound)
	translated := read(t, b)
	equal(t, "as", translated.src, g.Addresses[0].PublicIP)
	e.isDead("an Elastic IP that is not used", a.PublicIP)

	e.ok(e.ReplaceRoute(main, everything, e.igw.ID))
	impact := e.apply()
	equal(t, "sessions cut", impact.Cut, 1)
	e.stops("the old session", OutsideAttachment, translated.reply(), nat.DropNoMapping)
	e.isPublic("to the internet gateway", i, a.PublicIP)

	e.ok(e.ReplaceRoute(main, everything, g.ID))
	e.ok(e.CreateRoute(main, netip.PrefixFrom(r1, 32), e.igw.ID))
	e.apply()
	e.isPublic("the longer route wins", i, a.PublicIP)
	b, v = e.send(i.Attachment, f.to(r2).build(t))
	equal(t, "the shorter one elsewhere", v, nat.Outbound)
	equal(t, "as", read(t, b).src, g.Addresses[0].PublicIP)
}

func TestIGW1_OneToOne(t *testing.T) {
	e := newEdge(t)
	lent, elastic := e.run(e.public), e.run(e.public)
	a := e.associate(e.allocate(), elastic)
	e.apply()
	e.isPublic("lent address (AUTO-1)", lent, lent.PublicIP)
	e.isPublic("Elastic IP", elastic, a.PublicIP)
}

func TestIGW5_PublicHostsReachEachOtherByPublicAddress(t *testing.T) {
	e := newEdge(t)
	a, b := e.run(e.public), e.run(e.public)
	e.apply()
	for _, f := range []flow{tcp(a.PrivateIP, 5000, b.PublicIP, 80), echo(a.PrivateIP, b.PublicIP, 1)} {
		out, v := e.send(a.Attachment, f.build(t))
		equal(t, f.proto.String(), v, nat.Hairpin)
		f.ttl--
		equal(t, f.proto.String(), read(t, out), f.at(a.PublicIP).to(b.PrivateIP))
	}
}

func TestIGW6_DetachedGatewayCarriesNothing(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.private)
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, e.igw.ID))
	a := e.associate(e.allocate(), i)
	e.apply()
	e.isPublic("attached", i, a.PublicIP)
	e.ok(e.DisassociateAddress(e.now, a.AssociationID))
	e.ok(e.DetachInternetGateway(e.igw.ID, e.vpc.ID))
	e.apply()
	e.isShut("detached", i)
	e.isDead("detached", a.PublicIP)
}

func TestAUTO2_StoppedHostIsNotReached(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	e.apply()
	e.isPublic("running", i, i.PublicIP)
	must(e.StopInstance(e.now, i.ID))(t)
	e.apply()
	e.isDead("stopped", i.PublicIP)
	e.stops("sent by a stopped host", i.Attachment, tcp(i.PrivateIP, 5000, r1, 80), nat.DropAttachment)
	again := must(e.StartInstance(e.now, i.ID))(t)
	e.apply()
	e.isPublic("started", again, again.PublicIP)
	e.isDead("the address it had", i.PublicIP)
}

func TestEIP3_LentAddressStopsWithAssociation(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	a := e.associate(e.allocate(), i)
	e.apply()
	e.isPublic("Elastic IP", i, a.PublicIP)
	e.isDead("the lent address", i.PublicIP)
}

func TestEIP4_DisassociationStopsTheAddressAtOnce(t *testing.T) {
	e := newEdge(t)
	auto, manual := e.run(e.public), e.run(e.private)
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, e.igw.ID))
	a, b := e.associate(e.allocate(), auto), e.associate(e.allocate(), manual)
	e.apply()
	e.isPublic("associated", auto, a.PublicIP)
	e.isPublic("associated", manual, b.PublicIP)
	e.ok(e.DisassociateAddress(e.now, a.AssociationID))
	e.ok(e.DisassociateAddress(e.now, b.AssociationID))
	e.apply()
	e.isDead("disassociated", a.PublicIP)
	e.isDead("disassociated", b.PublicIP)
	e.isShut("without an address", manual)
	e.isPublic("with a lent one (AUTO-3)", auto, e.instance(auto).PublicIP)
}

func TestEIP5_RefusedMoveLeavesTrafficAlone(t *testing.T) {
	e := newEdge(t)
	a, b := e.run(e.public), e.run(e.public)
	eip := e.associate(e.allocate(), a)
	e.apply()
	e.refused(AlreadyAssociated, func() error {
		return second(e.AssociateAddress(e.now, AssociateAddressInput{AllocationID: eip.ID, InstanceID: b.ID, NoReassociation: true}))
	})
	e.apply()
	e.isPublic("still there", a, eip.PublicIP)
}

func TestEIP8_MoveLeavesNothingBehind(t *testing.T) {
	e := newEdge(t)
	a, b := e.run(e.public), e.run(e.public)
	eip := e.associate(e.allocate(), a)
	e.apply()
	open := tcp(a.PrivateIP, 5000, r1, 80)
	e.passes("opened by A", a.Attachment, open, nat.StaticOutbound, open.at(eip.PublicIP))

	e.associate(eip, b)
	e.apply()
	answer := open.at(eip.PublicIP).reply()
	e.passes("the answer reaches B", OutsideAttachment, answer, nat.StaticInbound, answer.to(b.PrivateIP))
	other := e.instance(a).PublicIP
	e.passes("A leaves as another", a.Attachment, open, nat.StaticOutbound, open.at(other))
	e.isPublic("B", b, eip.PublicIP)
	e.isDead("the address that B had", b.PublicIP)
}

func TestEIP9_StopAndStart(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.public)
	a := e.associate(e.allocate(), i)
	must(e.StopInstance(e.now, i.ID))(t)
	e.apply()
	e.isDead("stopped", a.PublicIP)
	must(e.StartInstance(e.now, i.ID))(t)
	e.apply()
	e.isPublic("started", i, a.PublicIP)
}

// The flows of a NAT gateway do not outlive its hold of the address.
func TestEIP10_StaleStateNeverMatchesTheNewOwner(t *testing.T) {
	e := newEdge(t)
	db, web := e.run(e.private), e.run(e.public)
	a := e.allocate()
	g := e.natGateway(e.public, a)
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, g.ID))
	e.apply()
	b, v := e.send(db.Attachment, tcp(db.PrivateIP, 5000, r1, 443).build(t))
	equal(t, "through the gateway", v, nat.Outbound)
	answer := read(t, b).reply()

	e.ok(e.DeleteNATGateway(g.ID))
	a = e.associate(a, web)
	equal(t, "sessions cut", e.apply().Cut, 1)
	e.passes("an answer to the old flow", OutsideAttachment, answer, nat.StaticInbound, answer.to(web.PrivateIP))

	e.ok(e.DisassociateAddress(e.now, a.AssociationID))
	g = e.natGateway(e.public, a)
	e.ok(e.ReplaceRoute(e.vpc.MainRouteTableID, everything, g.ID))
	e.now = e.now.Add(time.Second)
	e.apply()
	e.stops("the old flow, at a new gateway", OutsideAttachment, answer, nat.DropNoMapping)
}

// What a restricted host was answered for stays its own: who has its Elastic IP next is not answered in its place, nor is
// who has its private address next.
func TestEIP10_FilterStateStaysWithItsOwner(t *testing.T) {
	e := newEdge(t)
	closed := func(ip netip.Addr) Instance { // in the default group: nothing comes in unasked
		return must(e.RunInstance(e.now, RunInstanceInput{SubnetID: e.public.ID, PrivateIP: ip}))(t)
	}
	a, b := closed(addr("10.0.1.10")), closed(addr("10.0.1.11"))
	u := e.associate(e.allocate(), a)
	e.apply()
	f := udp(a.PrivateIP, 5000, r1, 53)
	answer := f.at(u.PublicIP).reply()
	asks := func(i Instance) {
		t.Helper()
		f := f.at(i.PrivateIP)
		e.passes("asked", i.Attachment, f, nat.StaticOutbound, f.at(u.PublicIP))
		e.passes("answered", OutsideAttachment, answer, nat.StaticInbound, f.reply())
	}
	asks(a)
	u = e.associate(u, b)
	e.apply()
	e.stops("at the next owner", OutsideAttachment, answer, nat.DropNotAllowed)
	asks(b)
	must(e.TerminateInstance(e.now, a.ID))(t)
	must(e.TerminateInstance(e.now, b.ID))(t)
	a = closed(a.PrivateIP) // another instance
	u = e.associate(u, a)
	equal(t, "sessions cut", e.apply().Cut, 2)
	e.stops("at another host with the same addresses", OutsideAttachment, answer, nat.DropNotAllowed)
	asks(a)
}

// natEdge is an edge whose private subnet leaves through a NAT gateway, and an instance there.
func natEdge(t *testing.T) (*edge, NATGatewayAddress, Instance) {
	e := newEdge(t)
	i := e.run(e.private)
	g := e.natGateway(e.public, e.allocate())
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, g.ID))
	e.apply()
	return e, g.Addresses[0], i
}

func TestNGW1_OtherProtocolsStop(t *testing.T) {
	e, _, i := natEdge(t)
	for _, p := range []layers.IPProtocol{layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolSCTP} {
		e.stops(p.String(), i.Attachment, flow{proto: p, src: i.PrivateIP, dst: r1, ttl: 64}, nat.DropProtocol)
	}
}

func TestNGW2_NothingFromOutsideStartsAFlow(t *testing.T) {
	e, g, i := natEdge(t)
	for _, f := range []flow{tcp(r1, 6000, g.PublicIP, 22), udp(r1, 6000, g.PublicIP, 5000), echo(r1, g.PublicIP, 9)} {
		e.stops(f.proto.String(), OutsideAttachment, f, nat.DropNoMapping)
	}
	// No instance has the private address of the gateway, so nobody answers there.
	e.passes("ping from inside", i.Attachment, echo(i.PrivateIP, g.PrivateIP, 9), nat.Untouched, echo(i.PrivateIP, g.PrivateIP, 9))
	equal(t, "answers", len(e.worker.Emitted()), 0)
	if slices.ContainsFunc(e.DescribeInstances(), func(i Instance) bool { return i.PrivateIP == g.PrivateIP }) {
		t.Errorf("an instance has %v", g.PrivateIP)
	}
}

func TestNGW3_OnlyExactRepliesPass(t *testing.T) {
	e, g, i := natEdge(t)
	out := tcp(i.PrivateIP, 5000, r1, 443)
	b, v := e.send(i.Attachment, out.build(t))
	equal(t, "out", v, nat.Outbound)
	ext := read(t, b)
	equal(t, "as", ext.src, g.PublicIP)

	e.stops("another port", OutsideAttachment, tcp(r1, 444, g.PublicIP, ext.srcPort), nat.DropNoMapping)
	e.stops("another host", OutsideAttachment, tcp(r2, 443, g.PublicIP, ext.srcPort), nat.DropNoMapping)
	e.stops("another protocol", OutsideAttachment, udp(r1, 443, g.PublicIP, ext.srcPort), nat.DropNoMapping)
	e.passes("the reply", OutsideAttachment, ext.reply(), nat.Inbound, out.reply())

	// 3/4 from a router on the way, about what left.
	quote := append([]byte(nil), b[:28]...)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, complete,
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: router.AsSlice(), DstIP: g.PublicIP.AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded), Seq: 1280},
		gopacket.Payload(quote)); err != nil {
		t.Fatal(err)
	}
	b, v = e.send(OutsideAttachment, buf.Bytes())
	equal(t, "ICMP error", v, nat.ErrorInbound)
	f := read(t, b)
	equal(t, "from", f.src, router)
	equal(t, "to", f.dst, i.PrivateIP)
	quoted := gopacket.NewPacket(b[28:], layers.LayerTypeIPv4, gopacket.Lazy).NetworkLayer().(*layers.IPv4)
	equal(t, "quoted source", quoted.SrcIP.String(), i.PrivateIP.String())
	equal(t, "quoted port", uint16(b[48])<<8|uint16(b[49]), 5000)
}

func TestNGW10_TracerouteShowsTheGateway(t *testing.T) {
	e, g, i := natEdge(t)
	other := e.natGateway(e.public, e.allocate())
	table := must(e.CreateRouteTable(e.vpc.ID))(t)
	e.ok(e.CreateRoute(table.ID, everything, other.ID))
	elsewhere := must(e.CreateSubnet(CreateSubnetInput{VPCID: e.vpc.ID, CIDR: prefix("10.0.77.0/24")}))(t)
	must(e.AssociateRouteTable(table.ID, elsewhere.ID))(t)
	open := e.run(e.public)
	second := e.run(elsewhere)
	e.apply()
	for _, c := range []struct {
		from Instance
		hop  netip.Addr
	}{{i, g.PrivateIP}, {second, other.Addresses[0].PrivateIP}, {open, addr("10.0.0.1")}} {
		probe := udp(c.from.PrivateIP, 5000, r1, 33434)
		probe.ttl = 1
		_, v := e.send(c.from.Attachment, probe.build(t))
		equal(t, "verdict", v, nat.DropTTL)
		emitted := e.worker.Emitted()
		if len(emitted) != 1 || emitted[0].Side != nat.Inside {
			t.Fatalf("emitted %+v, want one packet to the inside", emitted)
		}
		b := emitted[0].Packet.Bytes()
		f := read(t, b)
		equal(t, "from", f.src, c.hop)
		equal(t, "to", f.dst, c.from.PrivateIP)
		equal(t, "type", b[20], layers.ICMPv4TypeTimeExceeded)
	}
}

// Two hosts at the same time, from the same port to the same server, behind one address.
func TestNATGatewaySharesItsAddress(t *testing.T) {
	e, g, was := natEdge(t)
	db := e.run(e.private)
	e.apply()
	ports := map[uint16]flow{}
	for _, i := range []Instance{was, db} {
		b, v := e.send(i.Attachment, tcp(i.PrivateIP, 40000, r1, 80).build(t))
		equal(t, i.ID, v, nat.Outbound)
		f := read(t, b)
		equal(t, i.ID+" is", f.src, g.PublicIP)
		ports[f.srcPort] = tcp(i.PrivateIP, 40000, r1, 80)
	}
	equal(t, "ports", len(ports), 2)
	for port, f := range ports {
		e.passes("answer", OutsideAttachment, tcp(g.PublicIP, port, r1, 80).reply(), nat.Inbound, f.reply())
	}
}

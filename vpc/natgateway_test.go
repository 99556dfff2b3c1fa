// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// manyAddresses is a world whose quotas are no obstacle.
func manyAddresses(t *testing.T) *world {
	w := newWorld(t, "198.51.100.128/27")
	w.cfg.AddressQuota, w.cfg.Quotas.NATAddresses = 32, maxNATAddresses
	return w
}

func (w *world) privateGateway(s Subnet, more ...netip.Addr) NATGateway {
	w.t.Helper()
	return must(w.CreateNATGateway(CreateNATGatewayInput{SubnetID: s.ID, ConnectivityType: PrivateNAT, SecondaryPrivateIPs: more}))(w.t)
}

func TestNGW5_AddressesAreBounded(t *testing.T) {
	w := newWorld(t, "198.51.100.128/27")
	g := w.natGateway(w.public, w.allocate())
	two, three := w.allocate(), w.allocate()
	more := func(ids ...string) func() error {
		return func() error { return second(w.AssociateNATGatewayAddress(g.ID, ids, nil)) }
	}
	w.refused(AddressLimitExceeded, more(two.ID, three.ID))
	w.ok(more(two.ID)())
	w.refused(AddressLimitExceeded, more(three.ID)) // the default quota is two

	w = manyAddresses(t)
	g = w.natGateway(w.public, w.allocate())
	var ids []string
	for range maxNATAddresses {
		ids = append(ids, w.allocate().ID)
	}
	w.refused(PrivateIPAddressLimitExceeded, more(ids...))
	g = must(w.AssociateNATGatewayAddress(g.ID, ids[1:], []netip.Addr{addr("10.0.1.99"), {}}))(t)
	equal(t, "addresses", len(g.Addresses), 8)
	equal(t, "the one that was named", g.Addresses[1].PrivateIP, addr("10.0.1.99"))
	equal(t, "Elastic IP", w.DescribeAddresses()[2].AssociationID, g.Addresses[1].AssociationID)
	w.refused(PrivateIPAddressLimitExceeded, more(ids[0]))
	w.refused(OperationNotPermitted, func() error {
		return second(w.DisassociateNATGatewayAddress(w.now, g.ID, []string{g.Addresses[3].AssociationID, g.Addresses[0].AssociationID}, 0))
	})
	w.ok(w.DeleteNATGateway(g.ID))
	for _, a := range w.DescribeAddresses() {
		equal(t, a.ID, a, a.free())
	}

	// At once, with the gateway.
	g = must(w.CreateNATGateway(CreateNATGatewayInput{SubnetID: w.public.ID, AllocationID: ids[0], SecondaryAllocationIDs: ids[1:3]}))(t)
	equal(t, "addresses", len(g.Addresses), 3)
}

func TestNGW5_PrivateGatewayHasAsMany(t *testing.T) {
	w := newWorld(t)
	g := w.privateGateway(w.private, addr("10.0.2.50"))
	g = must(w.AssignPrivateNATGatewayAddress(g.ID, make([]netip.Addr, 6)))(t)
	equal(t, "addresses", len(g.Addresses), 8)
	w.refused(PrivateIPAddressLimitExceeded, func() error { return second(w.AssignPrivateNATGatewayAddress(g.ID, make([]netip.Addr, 1))) })
	w.refused(OperationNotPermitted, func() error {
		return second(w.UnassignPrivateNATGatewayAddress(w.now, g.ID, []netip.Addr{g.Addresses[0].PrivateIP}, 0))
	})
	must(w.UnassignPrivateNATGatewayAddress(w.now, g.ID, []netip.Addr{addr("10.0.2.50")}, time.Second))(t)
	next, changed := w.Advance(w.now.Add(time.Second))
	equal(t, "changed", changed, true)
	equal(t, "next", next, time.Time{})
	equal(t, "addresses", len(w.DescribeNATGateways()[0].Addresses), 7)
	equal(t, "free again", must(w.RunInstance(w.now, RunInstanceInput{SubnetID: w.private.ID, PrivateIP: addr("10.0.2.50")}))(t).PrivateIP, addr("10.0.2.50"))
}

func TestNATGatewayRefused(t *testing.T) {
	w := manyAddresses(t)
	g := w.natGateway(w.public, w.allocate())
	g = must(w.AssociateNATGatewayAddress(g.ID, []string{w.allocate().ID}, nil))(t)
	private := w.privateGateway(w.private)
	used, free := w.associate(w.allocate(), w.run(w.public)), w.allocate()
	create := func(in CreateNATGatewayInput) func() error {
		in.SubnetID = w.public.ID
		return func() error { return second(w.CreateNATGateway(in)) }
	}
	associate := func(id string, ips []netip.Addr, ids ...string) func() error {
		return func() error { return second(w.AssociateNATGatewayAddress(id, ids, ips)) }
	}
	disassociate := func(id string, d time.Duration, ids ...string) func() error {
		return func() error { return second(w.DisassociateNATGatewayAddress(w.now, id, ids, d)) }
	}
	unassign := func(id string, ips ...netip.Addr) func() error {
		return func() error { return second(w.UnassignPrivateNATGatewayAddress(w.now, id, ips, 0)) }
	}
	for _, c := range []struct {
		name string
		want Code
		call func() error
	}{
		{"of another type", InvalidParameterValue, create(CreateNATGatewayInput{ConnectivityType: "open"})},
		{"private with an Elastic IP", InvalidParameterCombination, create(CreateNATGatewayInput{ConnectivityType: PrivateNAT, AllocationID: free.ID})},
		{"one Elastic IP twice", InvalidParameterValue, create(CreateNATGatewayInput{AllocationID: free.ID, SecondaryAllocationIDs: []string{free.ID}})},
		{"more private addresses than Elastic IPs", InvalidParameterValue, create(CreateNATGatewayInput{AllocationID: free.ID, SecondaryPrivateIPs: make([]netip.Addr, 1)})},
		{"associate nothing", MissingParameter, associate(g.ID, nil)},
		{"associate to nothing", NATGatewayNotFound, associate("nat-0", nil, free.ID)},
		{"associate no Elastic IP", AllocationNotFound, associate(g.ID, nil, "eipalloc-0")},
		{"associate one in use", AlreadyAssociated, associate(g.ID, nil, used.ID)},
		{"associate at an address in use", IPAddressInUse, associate(g.ID, []netip.Addr{g.Addresses[0].PrivateIP}, free.ID)},
		{"associate to a private one", InvalidParameterValue, associate(private.ID, nil, free.ID)},
		{"disassociate nothing", MissingParameter, disassociate(g.ID, 0)},
		{"disassociate from nothing", NATGatewayNotFound, disassociate("nat-0", 0, g.Addresses[1].AssociationID)},
		{"disassociate another's", AssociationNotFound, disassociate(g.ID, 0, used.AssociationID)},
		{"disassociate for less than a second", InvalidParameterValue, disassociate(g.ID, time.Millisecond, g.Addresses[1].AssociationID)},
		{"disassociate for more than 4,000 s", InvalidParameterValue, disassociate(g.ID, 4001*time.Second, g.Addresses[1].AssociationID)},
		{"assign to a public one", InvalidParameterValue, func() error { return second(w.AssignPrivateNATGatewayAddress(g.ID, make([]netip.Addr, 1))) }},
		{"assign nothing", MissingParameter, func() error { return second(w.AssignPrivateNATGatewayAddress(private.ID, nil)) }},
		{"unassign nothing", MissingParameter, unassign(private.ID)},
		{"unassign from a public one", InvalidParameterValue, unassign(g.ID, g.Addresses[1].PrivateIP)},
		{"unassign another's", InvalidParameterValue, unassign(private.ID, g.Addresses[1].PrivateIP)},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.t = t
			sub.refused(c.want, c.call)
		})
	}
}

// NGW-8: the flows of an address that is taken away go on until the limit, new ones use the other.
func TestNGW8_Draining(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.private)
	g := e.natGateway(e.public, e.allocate())
	extra := e.allocate()
	g = must(e.AssociateNATGatewayAddress(g.ID, []string{extra.ID}, nil))(t)
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, g.ID))
	e.apply()

	type held struct{ inside, outside flow }
	var on [2][]held // by address
	port := uint16(1000)
	open := func(n int) (fresh [2]int) {
		for range n {
			port++
			f := tcp(i.PrivateIP, port, r1, 443)
			b, v := e.send(i.Attachment, f.build(t))
			equal(t, "a new flow", v, nat.Outbound)
			out := read(t, b)
			k := 0
			if out.src == extra.PublicIP {
				k = 1
			}
			e.passes("answered", OutsideAttachment, out.reply(), nat.Inbound, f.reply())
			on[k] = append(on[k], held{f, out})
			fresh[k]++
		}
		return fresh
	}
	if n := open(64); n[0] == 0 || n[1] == 0 {
		t.Fatalf("64 flows use the addresses %v times", n) // NGW-12, too
	}

	g = must(e.DisassociateNATGatewayAddress(e.now, g.ID, []string{g.Addresses[1].AssociationID}, 100*time.Second))(t)
	impact := e.apply()
	equal(t, "cut", impact.Cut, 0)
	equal(t, "draining", impact.Draining, len(on[1]))
	next, changed := e.Advance(e.now)
	equal(t, "the limit", next, e.now.Add(100*time.Second))
	equal(t, "changed", changed, false)
	passing := func(what string, flows []held) {
		t.Helper()
		for _, h := range flows {
			f, out := h.inside, h.outside
			f.syn, f.ack, out.syn, out.ack = false, true, false, true
			e.passes(what, i.Attachment, f, nat.Outbound, out)
			e.passes(what, OutsideAttachment, out.reply(), nat.Inbound, f.reply())
		}
	}
	e.now = e.now.Add(99 * time.Second)
	passing("the first address", on[0])
	passing("the draining address", on[1])
	equal(t, "new flows at the draining address", open(32)[1], 0)

	// A second change has to wait; deletion does not.
	e.refused(IncorrectState, func() error {
		return second(e.AssociateNATGatewayAddress(g.ID, []string{e.DescribeAddresses()[0].ID}, nil))
	})
	e.refused(IncorrectState, func() error {
		return second(e.DisassociateNATGatewayAddress(e.now, g.ID, []string{g.Addresses[1].AssociationID}, 0))
	})
	e.refused(AuthFailure, func() error { return e.DisassociateAddress(e.now, g.Addresses[1].AssociationID) })
	e.refused(IPAddressInUse, func() error { return e.ReleaseAddress(e.now, extra.ID) })

	e.now = e.now.Add(time.Second)
	next, changed = e.Advance(e.now)
	equal(t, "next", next, time.Time{})
	equal(t, "changed", changed, true)
	equal(t, "cut", e.apply().Cut, len(on[1]))
	equal(t, "its Elastic IP", e.address(extra), extra)
	passing("the first address", on[0])
	for _, h := range on[1] {
		f := h.inside
		f.syn, f.ack = false, true
		_, v := e.send(i.Attachment, f.build(t)) // as NGW-6
		equal(t, "a flow that was cut", v, nat.DropReset)
	}
	e.isDead("the address", extra.PublicIP)
	must(e.AssociateNATGatewayAddress(g.ID, []string{extra.ID}, nil))(t)
}

func TestNGW8_LimitsAndDeletion(t *testing.T) {
	w := manyAddresses(t)
	var drained []NATGateway
	for _, d := range []time.Duration{0, time.Second, 4000 * time.Second} {
		g := w.natGateway(w.public, w.allocate())
		g = must(w.AssociateNATGatewayAddress(g.ID, []string{w.allocate().ID}, nil))(t)
		drained = append(drained, must(w.DisassociateNATGatewayAddress(w.now, g.ID, []string{g.Addresses[1].AssociationID}, d))(t))
	}
	for _, want := range []time.Duration{time.Second, 350 * time.Second, 4000 * time.Second} {
		next, changed := w.Advance(w.now)
		equal(t, "next", next, t0.Add(want))
		equal(t, "changed", changed, want > time.Second)
		w.now = next
	}
	w.ok(w.DeleteNATGateway(drained[2].ID)) // while it drains
	_, changed := w.Advance(w.now)
	equal(t, "changed", changed, false)
	equal(t, "Elastic IPs in use", count(&w.addresses, func(a Address) bool { return a.AssociationID != "" }), 2)
}

// What a private gateway sends to an internet gateway is dropped, and what is behind a transit gateway it reaches as its
// private address; without one that is reached untranslated.
func TestNGW11_PrivateGateway(t *testing.T) {
	e := newEdge(t)
	i := e.run(e.private)
	peer := addr("10.1.0.5")
	tgw := e.CreateTransitGateway()
	attachment := must(e.CreateTransitGatewayVPCAttachment(tgw.ID, e.vpc.ID))(t)
	table := must(e.CreateRouteTable(e.vpc.ID))(t)
	own := must(e.AssociateRouteTable(table.ID, e.private.ID))(t)
	e.ok(e.CreateRoute(table.ID, prefix("10.1.0.0/16"), tgw.ID))
	e.apply()
	f := tcp(i.PrivateIP, 5000, peer, 80)
	e.passes("to the peer", i.Attachment, f, nat.Bypassed, f)
	e.passes("from the peer", OutsideAttachment, f.reply(), nat.Untouched, f.reply())
	e.stops("to elsewhere", i.Attachment, tcp(i.PrivateIP, 5000, r1, 80), nat.DropNoPath)

	// Through a private gateway whose subnet has a way to the internet and one to the peer.
	e.ok(e.CreateRoute(e.outward.ID, prefix("10.1.0.0/16"), tgw.ID))
	g := e.privateGateway(e.public)
	e.ok(e.CreateRoute(table.ID, everything, g.ID))
	e.ok(e.ReplaceRoute(table.ID, prefix("10.1.0.0/16"), g.ID))
	e.apply()
	e.stops("to the internet gateway", i.Attachment, tcp(i.PrivateIP, 5000, r1, 80), nat.DropNoPath)
	private := g.Addresses[0].PrivateIP
	b, v := e.send(i.Attachment, f.build(t))
	equal(t, "to the peer, through it", v, nat.Outbound)
	out := read(t, b)
	equal(t, "as", out.src, private)
	e.passes("the answer", OutsideAttachment, out.reply(), nat.Inbound, f.reply())
	e.stops("unasked", OutsideAttachment, tcp(peer, 80, private, out.srcPort+1), nat.DropNoMapping)
	e.stops("from an instance", i.Attachment, tcp(i.PrivateIP, 5000, private, out.srcPort), nat.DropNoMapping)
	e.stops("from the internet", OutsideAttachment, tcp(r1, 80, private, out.srcPort), nat.DropNoMapping)

	// A detached transit gateway leads nowhere.
	e.ok(e.ReplaceRoute(table.ID, prefix("10.1.0.0/16"), tgw.ID))
	e.ok(e.DeleteTransitGatewayVPCAttachment(attachment.ID))
	e.apply()
	e.stops("detached", i.Attachment, f, nat.DropNoPath)
	e.stops("detached", OutsideAttachment, f.reply(), nat.DropUnassigned)
	for _, rt := range e.DescribeRouteTables() {
		for _, r := range rt.Routes {
			equal(t, r.Target, r.State == RouteBlackhole, r.Target == tgw.ID)
		}
	}
	e.ok(e.DisassociateRouteTable(own.ID))
}

func TestTransitGatewayRefused(t *testing.T) {
	w := newWorld(t)
	g, other := w.CreateTransitGateway(), w.CreateTransitGateway()
	a := must(w.CreateTransitGatewayVPCAttachment(g.ID, w.vpc.ID))(t)
	attach := func(g, v string) func() error {
		return func() error { return second(w.CreateTransitGatewayVPCAttachment(g, v)) }
	}
	w.refused(TransitGatewayNotFound, attach("tgw-0", w.vpc.ID))
	w.refused(VPCNotFound, attach(g.ID, "vpc-0"))
	w.refused(TransitAttachmentDuplicate, attach(g.ID, w.vpc.ID))
	w.refused(IncorrectState, func() error { return w.DeleteTransitGateway(g.ID) })
	w.refused(TransitGatewayNotFound, func() error { return w.DeleteTransitGateway("tgw-0") })
	w.refused(TransitAttachmentNotFound, func() error { return w.DeleteTransitGatewayVPCAttachment("tgw-attach-0") })
	w.refused(TransitGatewayNotFound, func() error { return w.CreateRoute(w.outward.ID, prefix("10.1.0.0/16"), "tgw-0") })
	w.refused(InvalidParameterValue, func() error { return w.CreateRoute(w.outward.ID, prefix("10.1.0.0/16"), other.ID) })
	equal(t, "transit gateways", len(w.DescribeTransitGateways()), 2)
	sameAs(t, "attachments", w.DescribeTransitGatewayVPCAttachments(), []TransitGatewayVPCAttachment{a})
	w.ok(w.DeleteTransitGatewayVPCAttachment(a.ID))
	w.ok(w.DeleteTransitGateway(g.ID))
}

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"
)

// calls are what can be asked, those that make something more than once.
func (r *rules) calls() []func(*rapid.T) {
	return []func(*rapid.T){
		r.wait, r.wait, r.run, r.run, r.run, r.power, r.power, r.power, r.terminate, r.createInterface, r.deleteInterface, r.attach, r.attach, r.detach,
		r.assign, r.assign, r.unassign, r.allocate, r.allocate, r.allocate, r.release, r.associate, r.associate, r.associate, r.associate, r.disassociate, r.disassociate,
		r.createNAT, r.createNAT, r.deleteNAT, r.moreNAT, r.moreNAT, r.lessNAT, r.setRoute, r.setRoute, r.setRoute, r.setRoute, r.deleteRoute, r.associateTable,
		r.replaceAssociation, r.disassociateTable, r.attachIGW, r.detachIGW, r.join, r.leave, r.createGroup, r.deleteGroup, r.authorize,
		r.authorize, r.revoke, r.regroup,
	}
}

func (r *rules) wait(t *rapid.T) {
	r.now = r.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 30 * time.Second, time.Minute, 350 * time.Second}).Draw(t, "time"))
	next, changed := r.m.Advance(r.now)
	var wantNext time.Time
	wantChanged := false
	for _, g := range r.nats {
		g.addrs = slices.DeleteFunc(g.addrs, func(a ruleNATAddr) bool {
			switch {
			case a.until.IsZero():
				return false
			case a.until.After(r.now):
				if wantNext.IsZero() || a.until.Before(wantNext) {
					wantNext = a.until
				}
				return false
			}
			wantChanged = true
			if e := r.eips[a.eip]; e != nil {
				e.free()
			}
			return true
		})
	}
	if !next.Equal(wantNext) || changed != wantChanged {
		t.Fatalf("next %v, changed %v; want %v, %v", next, changed, wantNext, wantChanged)
	}
}

// someGroups are up to three groups, and why an interface of the VPC cannot be in them.
func (r *rules) someGroups(t *rapid.T, vpc string) (ids []string, why reasons) {
	seen := map[string]bool{}
	for range rapid.IntRange(0, 3).Draw(t, "groups") {
		id := pick(t, "group", r.groups)
		ids = append(ids, id)
		seen[id] = true
		g := r.groups[id]
		why.add(g == nil, GroupNotFound)
		why.add(g != nil && g.vpc != vpc, InvalidParameter)
	}
	why.add(len(seen) > 2, GroupsPerInterfaceExceeded)
	return ids, why
}

// newIface is an interface with the lowest free addresses, and why it cannot be.
func (r *rules) newIface(t *rapid.T, subnet string, n int) (*ruleIface, []string, reasons) {
	s := r.subnets[subnet]
	if s == nil {
		return nil, nil, reasons{SubnetNotFound}
	}
	groups, why := r.someGroups(t, s.vpc)
	free := r.free(subnet)
	why.add(len(r.ifaces) >= 10, InterfaceLimitExceeded)
	why.add(n > 3, PrivateIPAddressLimitExceeded)
	why.add(len(free) < n, InsufficientFreeAddresses)
	i := &ruleIface{subnet: subnet, ips: free[:min(n, len(free))], groups: distinct(groups)}
	if len(groups) == 0 {
		i.groups = []string{r.vpcs[s.vpc].group}
	}
	return i, groups, why
}

// distinct are the values without those that were there before.
func distinct(ids []string) (out []string) {
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

func (r *rules) run(t *rapid.T) {
	subnet := pick(t, "subnet", r.subnets)
	i, groups, why := r.newIface(t, subnet, 1)
	auto := i != nil && r.subnets[subnet].auto
	why.add(auto && !r.idleNow(), InsufficientAddressCapacity)
	got, err := r.m.RunInstance(r.now, RunInstanceInput{SubnetID: subnet, GroupIDs: groups})
	if answered(t, err, why) {
		i.host = got.ID
		n, err := r.m.NetworkInterface(got.NetworkInterfaceID)
		fatal(t, err)
		i.attachment = n.AttachmentID
		r.ifaces[n.ID] = i
		r.hosts[got.ID] = &ruleHost{Running, auto, n.ID, r.subnets[subnet].vpc}
		r.lend(t, got.ID)
	}
}

// host draws one, and says why it cannot be used if it is not there, or terminated.
func (r *rules) host(t *rapid.T) (string, *ruleHost, reasons) {
	id := pick(t, "host", r.hosts)
	h := r.hosts[id]
	var why reasons
	gone := h != nil && h.state == Terminated
	why.add(h == nil || gone, InstanceNotFound) // after an hour
	why.add(gone, IncorrectInstanceState)
	return id, h, why
}

func (r *rules) power(t *rapid.T) {
	id, h, why := r.host(t)
	if rapid.Bool().Draw(t, "off") {
		_, err := r.m.StopInstance(r.now, id)
		if answered(t, err, why) {
			h.state = Stopped
			r.withdraw(r.ifaces[h.primary])
		}
		return
	}
	if h != nil && h.state == Stopped {
		h.state = Running // to ask what would be due
		why.add(r.due(id) && !r.idleNow(), InsufficientAddressCapacity)
		h.state = Stopped
	}
	_, err := r.m.StartInstance(r.now, id)
	if answered(t, err, why) && h.state == Stopped {
		h.state = Running
		r.lend(t, id)
	}
}

func (r *rules) removeIface(id string) {
	for _, e := range r.eips {
		if e.iface == id {
			e.free()
		}
	}
	delete(r.ifaces, id)
}

func (r *rules) terminate(t *rapid.T) {
	id, h, why := r.host(t)
	if h != nil && h.state == Terminated {
		return // nothing happens
	}
	_, err := r.m.TerminateInstance(r.now, id)
	if !answered(t, err, why) {
		return
	}
	h.state = Terminated
	r.withdraw(r.ifaces[h.primary])
	for _, n := range r.ifacesOf(id) {
		if i := r.ifaces[n]; n == h.primary {
			r.removeIface(n)
		} else {
			i.host, i.attachment, i.index = "", "", 0
		}
	}
	h.primary = ""
}

func (r *rules) createInterface(t *rapid.T) {
	subnet, more := pick(t, "subnet", r.subnets), rapid.IntRange(0, 3).Draw(t, "more")
	i, groups, why := r.newIface(t, subnet, 1+more)
	n, err := r.m.CreateNetworkInterface(CreateNetworkInterfaceInput{SubnetID: subnet, SecondaryCount: more, GroupIDs: groups})
	if answered(t, err, why) {
		r.ifaces[n.ID] = i
	}
}

func (r *rules) iface(t *rapid.T) (string, *ruleIface, reasons) {
	id := pick(t, "interface", r.ifaces)
	if i := r.ifaces[id]; i != nil {
		return id, i, nil
	}
	return id, nil, reasons{InterfaceNotFound}
}

func (r *rules) deleteInterface(t *rapid.T) {
	id, i, why := r.iface(t)
	why.add(i != nil && i.host != "", InterfaceInUse)
	if answered(t, r.m.DeleteNetworkInterface(id), why) {
		r.removeIface(id)
	}
}

func (r *rules) attach(t *rapid.T) {
	n, i, why := r.iface(t)
	id, h, also := r.host(t)
	why = append(why, also...)
	index := rapid.IntRange(0, 2).Draw(t, "index")
	if i != nil && h != nil {
		why.add(i.host != "", InterfaceInUse)
		why.add(r.vpcOf(i) != h.vpc, InvalidParameterCombination)
		on := r.ifacesOf(id)
		why.add(len(on) >= 2, AttachmentLimitExceeded)
		for _, o := range on {
			why.add(r.ifaces[o].index == index, InvalidParameterValue)
		}
	}
	got, err := r.m.AttachNetworkInterface(AttachNetworkInterfaceInput{n, id, index})
	if answered(t, err, why) {
		i.host, i.index, i.attachment = id, index, got.AttachmentID
	}
}

func (r *rules) detach(t *rapid.T) {
	_, i, _ := r.iface(t)
	attachment, why := "none", reasons{AttachmentNotFound}
	if i != nil && i.attachment != "" {
		attachment, why = i.attachment, nil
		why.add(i.index == 0, OperationNotPermitted)
	}
	if answered(t, r.m.DetachNetworkInterface(attachment), why) {
		i.host, i.attachment, i.index = "", "", 0
	}
}

func (r *rules) assign(t *rapid.T) {
	id, i, why := r.iface(t)
	n := rapid.IntRange(0, 2).Draw(t, "more")
	var free []netip.Addr
	why.add(n == 0, MissingParameter)
	if i != nil {
		free = r.free(i.subnet)
		why.add(len(free) < n, InsufficientFreeAddresses)
		why.add(len(i.ips)+n > 3, PrivateIPAddressLimitExceeded)
	}
	_, err := r.m.AssignPrivateIPAddresses(id, nil, n)
	if answered(t, err, why) {
		i.ips = append(i.ips, free[:n]...)
	}
}

func (r *rules) unassign(t *rapid.T) {
	id, i, why := r.iface(t)
	ip := addr("10.0.1.15")
	if i != nil {
		ip = rapid.SampledFrom(append([]netip.Addr{ip}, i.ips...)).Draw(t, "ip")
		why.add(slices.Index(i.ips, ip) < 1, InvalidParameterValue)
	}
	if answered(t, r.m.UnassignPrivateIPAddresses(id, []netip.Addr{ip}), why) {
		if _, e := r.eipAt(id, ip); e != nil {
			e.free()
		}
		i.ips = slices.DeleteFunc(i.ips, func(a netip.Addr) bool { return a == ip })
	}
}

func (r *rules) allocate(t *rapid.T) {
	var why reasons
	why.add(len(r.eips) >= ruleQuota, AddressLimitExceeded)
	why.add(!r.idleNow(), InsufficientAddressCapacity)
	a, err := r.m.AllocateAddress(r.now)
	if answered(t, err, why) {
		r.eips[a.ID] = &ruleEIP{ip: r.gave(t, a.PublicIP)}
	}
}

func (r *rules) eip(t *rapid.T) (string, *ruleEIP, reasons) {
	id := pick(t, "eip", r.eips)
	if e := r.eips[id]; e != nil {
		return id, e, nil
	}
	return id, nil, reasons{AllocationNotFound}
}

func (r *rules) release(t *rapid.T) {
	id, e, why := r.eip(t)
	why.add(e != nil && e.association != "", IPAddressInUse)
	if answered(t, r.m.ReleaseAddress(r.now, id), why) {
		r.idle[e.ip] = r.now.Add(ruleRest)
		delete(r.eips, id)
	}
}

func (r *rules) associate(t *rapid.T) {
	id, e, why := r.eip(t)
	in := AssociateAddressInput{AllocationID: id, NoReassociation: rapid.Bool().Draw(t, "stay")}
	var n string
	if rapid.Bool().Draw(t, "by host") {
		h, host, also := r.host(t)
		in.InstanceID, why = h, append(why, also...)
		if host != nil && host.state != Terminated {
			n = host.primary
			why.add(len(r.ifacesOf(h)) > 1, InvalidInstanceID)
		}
	} else {
		h, _, also := r.iface(t)
		in.NetworkInterfaceID, why, n = h, append(why, also...), h
	}
	i := r.ifaces[n]
	var ip netip.Addr
	if i != nil {
		ip = i.ips[0]
		if rapid.Bool().Draw(t, "another address") {
			in.PrivateIP = rapid.SampledFrom(append([]netip.Addr{addr("10.0.1.15")}, i.ips...)).Draw(t, "ip")
			ip = in.PrivateIP
		}
		why.add(!slices.Contains(i.ips, ip), InvalidParameterValue)
	}
	again := e != nil && i != nil && e.iface == n && e.at == ip
	if e != nil && i != nil && !again {
		why.add(!r.hasGateway(r.vpcOf(i)), GatewayNotAttached)
		why.add(e.nat != "", AuthFailure)
		why.add(e.iface != "" && in.NoReassociation, AlreadyAssociated)
	}
	a, err := r.m.AssociateAddress(r.now, in)
	if !answered(t, err, why) || again {
		return
	}
	if _, displaced := r.eipAt(n, ip); displaced != nil {
		displaced.free()
	}
	was := *e
	e.association, e.iface, e.at = a.AssociationID, n, ip
	if ip == i.ips[0] {
		r.withdraw(i)
	}
	r.lost(t, was)
}

func (r *rules) disassociate(t *rapid.T) {
	_, e, why := r.eip(t)
	association := "none"
	if e == nil || e.association == "" {
		why = reasons{AssociationNotFound}
	} else {
		association = e.association
		why.add(e.nat != "", AuthFailure)
	}
	if answered(t, r.m.DisassociateAddress(r.now, association), why) {
		was := *e
		e.free()
		r.lost(t, was)
	}
}

func (r *rules) createNAT(t *rapid.T) {
	subnet := pick(t, "subnet", r.subnets)
	in := CreateNATGatewayInput{SubnetID: subnet}
	g := &ruleNAT{subnet: subnet, private: rapid.Bool().Draw(t, "private")}
	var why reasons
	var e *ruleEIP
	if g.private {
		in.ConnectivityType = PrivateNAT
	} else {
		in.AllocationID, e, why = r.eip(t)
		why.add(e != nil && e.association != "", AlreadyAssociated)
	}
	if s := r.subnets[subnet]; s == nil {
		why.add(true, SubnetNotFound)
	} else {
		n := 0
		for _, o := range r.nats {
			if r.subnets[o.subnet].vpc == s.vpc {
				n++
			}
		}
		why.add(n >= 5, NATGatewayLimitExceeded)
		why.add(!g.private && !r.hasGateway(s.vpc), GatewayNotAttached)
		free := r.free(subnet)
		why.add(len(free) == 0, InsufficientFreeAddresses)
		if len(free) > 0 {
			g.addrs = []ruleNATAddr{{in.AllocationID, free[0], time.Time{}}}
		}
	}
	got, err := r.m.CreateNATGateway(in)
	if answered(t, err, why) {
		r.nats[got.ID] = g
		if e != nil {
			e.association, e.nat, e.at = got.Addresses[0].AssociationID, got.ID, g.addrs[0].ip
		}
	}
}

func (r *rules) nat(t *rapid.T) (string, *ruleNAT, reasons) {
	id := pick(t, "nat", r.nats)
	if g := r.nats[id]; g != nil {
		return id, g, nil
	}
	return id, nil, reasons{NATGatewayNotFound}
}

func (r *rules) deleteNAT(t *rapid.T) {
	id, g, why := r.nat(t)
	if answered(t, r.m.DeleteNATGateway(id), why) {
		for _, a := range g.addrs {
			if e := r.eips[a.eip]; e != nil {
				e.free()
			}
		}
		delete(r.nats, id)
	}
}

// busy adds why the addresses of a gateway cannot be changed.
func (g *ruleNAT) busy(why *reasons, private bool) {
	why.add(g.private != private, InvalidParameterValue)
	for _, a := range g.addrs {
		why.add(!a.until.IsZero(), IncorrectState)
	}
}

func (r *rules) moreNAT(t *rapid.T) {
	id, g, why := r.nat(t)
	private := rapid.Bool().Draw(t, "private")
	var free []netip.Addr
	if g != nil {
		free = r.free(g.subnet)
		g.busy(&why, private)
		why.add(len(free) == 0, InsufficientFreeAddresses)
		why.add(len(g.addrs) >= 8, PrivateIPAddressLimitExceeded)
	}
	if private {
		_, err := r.m.AssignPrivateNATGatewayAddress(id, make([]netip.Addr, 1))
		if answered(t, err, why) {
			g.addrs = append(g.addrs, ruleNATAddr{"", free[0], time.Time{}})
		}
		return
	}
	a, e, also := r.eip(t)
	why = append(why, also...)
	why.add(e != nil && e.association != "", AlreadyAssociated)
	if g != nil {
		why.add(len(g.addrs) >= 2, AddressLimitExceeded)
		why.add(!r.hasGateway(r.subnets[g.subnet].vpc), GatewayNotAttached)
	}
	got, err := r.m.AssociateNATGatewayAddress(id, []string{a}, nil)
	if answered(t, err, why) {
		g.addrs = append(g.addrs, ruleNATAddr{a, free[0], time.Time{}})
		e.association, e.nat, e.at = got.Addresses[len(got.Addresses)-1].AssociationID, id, free[0]
	}
}

func (r *rules) lessNAT(t *rapid.T) {
	id, g, why := r.nat(t)
	private := rapid.Bool().Draw(t, "private")
	k := 0
	ip, association := addr("10.0.1.15"), "none"
	if g != nil {
		g.busy(&why, private)
		k = rapid.IntRange(0, len(g.addrs)-1).Draw(t, "place")
		why.add(k == 0, OperationNotPermitted)
		ip = g.addrs[k].ip
		if e := r.eips[g.addrs[k].eip]; e != nil {
			association = e.association
		}
	}
	var err error
	if private {
		_, err = r.m.UnassignPrivateNATGatewayAddress(r.now, id, []netip.Addr{ip}, 0)
	} else {
		_, err = r.m.DisassociateNATGatewayAddress(r.now, id, []string{association}, 0)
	}
	if answered(t, err, why) {
		g.addrs[k].until = r.now.Add(350 * time.Second)
	}
}

// targets are what routes may name, or may not.
func (r *rules) target(t *rapid.T) string {
	var ids []string
	for id := range r.igws {
		ids = append(ids, id)
	}
	for id := range r.nats {
		ids = append(ids, id)
	}
	for id := range r.tgws {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if rapid.IntRange(0, 19).Draw(t, "none") == 19 {
		ids = []string{"nat-0", "igw-0", "tgw-0", "eni-0"}
	}
	return rapid.SampledFrom(ids).Draw(t, "target")
}

func (r *rules) setRoute(t *rapid.T) {
	id, d, target := pick(t, "table", r.tables), pickDestination(t), r.target(t)
	table := r.tables[id]
	var why reasons
	why.add(table == nil, RouteTableNotFound)
	why.add(d == prefix("10.0.3.0/24"), InvalidParameterValue)
	why.add(target == "igw-0", InternetGatewayNotFound)
	why.add(target == "nat-0", NATGatewayNotFound)
	why.add(target == "tgw-0", TransitGatewayNotFound)
	why.add(target == "eni-0", GatewayNotFound)
	exists := false
	if table != nil {
		_, exists = table.routes[d]
		here := r.leads(table.vpc, target) != ""
		if g := r.nats[target]; g != nil {
			here = r.subnets[g.subnet].vpc == table.vpc
		}
		why.add(!here, InvalidParameterValue)
	}
	var err error
	if rapid.Bool().Draw(t, "replace") {
		why.add(table != nil && !exists, RouteNotFound)
		err = r.m.ReplaceRoute(id, d, target)
	} else {
		why.add(exists, RouteAlreadyExists)
		err = r.m.CreateRoute(id, d, target)
	}
	if answered(t, err, why) {
		table.routes[d] = target
	}
}

func (r *rules) deleteRoute(t *rapid.T) {
	id, d := pick(t, "table", r.tables), pickDestination(t)
	var why reasons
	if table := r.tables[id]; table == nil {
		why.add(true, RouteTableNotFound)
	} else if _, ok := table.routes[d]; !ok {
		why.add(true, RouteNotFound)
	}
	if answered(t, r.m.DeleteRoute(id, d), why) {
		delete(r.tables[id].routes, d)
	}
}

func (r *rules) associateTable(t *rapid.T) {
	id, subnet := pick(t, "table", r.tables), pick(t, "subnet", r.subnets)
	table, s := r.tables[id], r.subnets[subnet]
	var why reasons
	why.add(table == nil, RouteTableNotFound)
	why.add(s == nil, SubnetNotFound)
	if table != nil && s != nil {
		why.add(table.vpc != s.vpc, InvalidParameterValue)
		why.add(s.table != "" && s.table != id, AlreadyAssociated)
	}
	a, err := r.m.AssociateRouteTable(id, subnet)
	if answered(t, err, why) {
		s.table, s.association = id, a.ID
	}
}

func (r *rules) replaceAssociation(t *rapid.T) {
	id, to := pick(t, "subnet", r.subnets), pick(t, "table", r.tables)
	table, s := r.tables[to], r.subnets[id]
	association, from := "none", ""
	var v *ruleVPC
	switch {
	case s != nil && rapid.Bool().Draw(t, "main"):
		v, from = r.vpcs[s.vpc], s.vpc
		association = v.mainAssociation
	case s != nil && s.table != "":
		association, from = s.association, s.vpc
	}
	var why reasons
	why.add(association == "none", AssociationNotFound)
	why.add(table == nil, RouteTableNotFound)
	why.add(table != nil && from != "" && table.vpc != from, InvalidParameterValue)
	a, err := r.m.ReplaceRouteTableAssociation(association, to)
	if !answered(t, err, why) {
		return
	}
	if v != nil {
		v.mainTable, v.mainAssociation = to, a.ID
	} else {
		s.table, s.association = to, a.ID
	}
}

func (r *rules) disassociateTable(t *rapid.T) {
	s := r.subnets[pick(t, "subnet", r.subnets)]
	association, why := "none", reasons{AssociationNotFound}
	if s != nil && s.table != "" {
		association, why = s.association, nil
	}
	if answered(t, r.m.DisassociateRouteTable(association), why) {
		s.table, s.association = "", ""
	}
}

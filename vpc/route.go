// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"strings"
)

// RouteTable says where packets of its subnets go; the longest destination wins.
type RouteTable struct {
	ID, VPCID string
	// Main marks the table of all subnets that are not associated with another. In the store it is not set: the VPC says it.
	Main bool
	// Routes come in the order in which they were made. DescribeRouteTables puts the local ones first.
	Routes []Route
	// Associations are the subnets that use the table explicitly. DescribeRouteTables puts that of the main table first.
	Associations []RouteTableAssociation
}

// Route is one entry of a route table.
type Route struct {
	Destination netip.Prefix
	// Target is the id of an internet gateway, a NAT gateway or a transit gateway, or Local.
	Target string
	// State is filled in by DescribeRouteTables.
	State RouteState
}

// Local is the target of the routes between the addresses of the VPC, which every table has and none can change.
const Local = "local"

// RouteState says whether a route leads anywhere.
type RouteState string

const (
	// RouteActive: the target exists and is attached.
	RouteActive RouteState = "active"
	// RouteBlackhole: it does not, or not any more; packets that match end here.
	RouteBlackhole RouteState = "blackhole"
)

// RouteTableAssociation is the use of a route table: by a subnet, or, if Main is set, by all that have no other.
type RouteTableAssociation struct {
	ID, SubnetID string
	Main         bool
}

// CreateRouteTable makes a table with the local routes alone.
func (m *Model) CreateRouteTable(vpcID string) (RouteTable, error) {
	v, err := m.vpcs.find(vpcID, VPCNotFound)
	if err != nil {
		return RouteTable{}, err
	}
	inVPC := count(&m.tables, func(t RouteTable) bool { return t.VPCID == v.ID })
	if err := bounded(inVPC, 1, m.cfg.Quotas.RouteTables, RouteTableLimitExceeded, "route tables in the VPC"); err != nil {
		return RouteTable{}, err
	}
	t := RouteTable{ID: m.newID("rtb"), VPCID: v.ID}
	m.tables.put(t.ID, t)
	return m.describeTable(t), nil
}

// DeleteRouteTable deletes a table that no subnet is associated with and that is not the main one.
func (m *Model) DeleteRouteTable(routeTableID string) error {
	t, err := m.tables.find(routeTableID, RouteTableNotFound)
	switch {
	case err != nil:
		return err
	case m.vpcs.byID[t.VPCID].MainRouteTableID == t.ID:
		return refuse(DependencyViolation, "%s is the main route table of %s", t.ID, t.VPCID)
	case len(t.Associations) > 0:
		return refuse(DependencyViolation, "%s is associated with %s; disassociate it first", t.ID, t.Associations[0].SubnetID)
	}
	m.tables.del(t.ID)
	return nil
}

// AssociateRouteTable makes a subnet use a table instead of the main one.
func (m *Model) AssociateRouteTable(routeTableID, subnetID string) (RouteTableAssociation, error) {
	none := RouteTableAssociation{}
	t, err := m.tables.find(routeTableID, RouteTableNotFound)
	if err != nil {
		return none, err
	}
	s, err := m.subnets.find(subnetID, SubnetNotFound)
	if err != nil {
		return none, err
	}
	if s.VPCID != t.VPCID {
		return none, refuse(InvalidParameterValue, "%s and %s belong to different VPCs", t.ID, s.ID)
	}
	if have, i, ok := m.association(func(a RouteTableAssociation) bool { return a.SubnetID == s.ID }); ok {
		if have.ID == t.ID {
			return have.Associations[i], nil
		}
		return none, refuse(AlreadyAssociated, "%s uses %s; replace that association", s.ID, have.ID)
	}
	a := RouteTableAssociation{ID: m.newID("rtbassoc"), SubnetID: s.ID}
	m.tables.put(t.ID, t.withAssociation(a))
	return a, nil
}

// ReplaceRouteTableAssociation moves the subnet of an association to another table of the VPC, or makes another table the
// main one. The association gets a new id.
func (m *Model) ReplaceRouteTableAssociation(associationID, routeTableID string) (RouteTableAssociation, error) {
	none := RouteTableAssociation{}
	v, isMain := m.mainAssociation(associationID)
	from, i, ok := m.association(func(a RouteTableAssociation) bool { return a.ID == associationID })
	switch {
	case isMain:
		from = m.tables.byID[v.MainRouteTableID]
	case !ok:
		return none, refuse(AssociationNotFound, "the ID %q does not exist", associationID)
	}
	to, err := m.tables.find(routeTableID, RouteTableNotFound)
	if err != nil {
		return none, err
	}
	if from.VPCID != to.VPCID {
		return none, refuse(InvalidParameterValue, "%s and %s belong to different VPCs", from.ID, to.ID)
	}
	if isMain {
		v.MainRouteTableID, v.MainAssociationID = to.ID, m.newID("rtbassoc")
		m.vpcs.put(v.ID, v)
		return RouteTableAssociation{ID: v.MainAssociationID, Main: true}, nil
	}
	a := RouteTableAssociation{ID: m.newID("rtbassoc"), SubnetID: from.Associations[i].SubnetID}
	m.tables.put(from.ID, from.withoutAssociation(i))
	to = m.tables.byID[to.ID] // it may be the same table
	m.tables.put(to.ID, to.withAssociation(a))
	return a, nil
}

// DisassociateRouteTable makes the subnet of an association use the main table again.
func (m *Model) DisassociateRouteTable(associationID string) error {
	t, i, ok := m.association(func(a RouteTableAssociation) bool { return a.ID == associationID })
	if v, isMain := m.mainAssociation(associationID); isMain {
		return refuse(InvalidParameterValue, "%s makes %s the main table of %s; replace it instead", associationID, v.MainRouteTableID, v.ID)
	}
	if !ok {
		return refuse(AssociationNotFound, "the ID %q does not exist", associationID)
	}
	m.tables.put(t.ID, t.withoutAssociation(i))
	return nil
}

// mainAssociation is the VPC whose main table is so by this association.
func (m *Model) mainAssociation(associationID string) (VPC, bool) {
	for v := range m.vpcs.all() {
		if v.MainAssociationID == associationID {
			return v, true
		}
	}
	return VPC{}, false
}

// CreateRoute adds a route to an internet gateway or a NAT gateway of the VPC, or to a transit gateway that it is attached
// to. The destination may contain addresses of the VPC (the local routes are longer then) but not be a part of them.
func (m *Model) CreateRoute(routeTableID string, destination netip.Prefix, target string) error {
	t, i, err := m.checkRoute(routeTableID, destination, target)
	if err != nil {
		return err
	}
	if i >= 0 {
		return refuse(RouteAlreadyExists, "%s has a route to %v; replace it", t.ID, destination)
	}
	if err := bounded(len(t.Routes), 1, m.cfg.Quotas.Routes, RouteLimitExceeded, "routes in the table"); err != nil {
		return err
	}
	t.Routes = append(slices.Clone(t.Routes), Route{Destination: destination.Masked(), Target: target})
	m.tables.put(t.ID, t)
	return nil
}

// ReplaceRoute gives a route another target.
func (m *Model) ReplaceRoute(routeTableID string, destination netip.Prefix, target string) error {
	t, i, err := m.checkRoute(routeTableID, destination, target)
	if err != nil {
		return err
	}
	if i < 0 {
		return refuse(RouteNotFound, "%s has no route to %v; create it", t.ID, destination)
	}
	t.Routes = slices.Clone(t.Routes)
	t.Routes[i].Target = target
	m.tables.put(t.ID, t)
	return nil
}

// DeleteRoute removes a route.
func (m *Model) DeleteRoute(routeTableID string, destination netip.Prefix) error {
	t, err := m.tables.find(routeTableID, RouteTableNotFound)
	if err != nil {
		return err
	}
	i := t.routeTo(destination)
	if i < 0 {
		return refuse(RouteNotFound, "%s has no route to %v", t.ID, destination)
	}
	t.Routes = slices.Delete(slices.Clone(t.Routes), i, i+1)
	m.tables.put(t.ID, t)
	return nil
}

// checkRoute is the table, the place of its route to destination or -1, and whether such a route may have that target.
func (m *Model) checkRoute(routeTableID string, destination netip.Prefix, target string) (RouteTable, int, error) {
	t, err := m.tables.find(routeTableID, RouteTableNotFound)
	if err != nil {
		return t, 0, err
	}
	if !destination.IsValid() || !destination.Addr().Is4() {
		return t, 0, refuse(InvalidParameterValue, "%v is no IPv4 prefix", destination)
	}
	for _, cidr := range m.vpcs.byID[t.VPCID].CIDRs {
		if within(destination.Masked(), cidr) {
			return t, 0, refuse(InvalidParameterValue, "%v is part of %v, which is always local", destination, cidr)
		}
	}
	var owner string
	switch {
	case strings.HasPrefix(target, "igw-"):
		g, err := m.igws.find(target, InternetGatewayNotFound)
		if err != nil {
			return t, 0, err
		}
		owner = g.VPCID
	case strings.HasPrefix(target, "nat-"):
		g, err := m.natGateways.find(target, NATGatewayNotFound)
		if err != nil {
			return t, 0, err
		}
		owner = g.VPCID
	case strings.HasPrefix(target, "tgw-"):
		g, err := m.transits.find(target, TransitGatewayNotFound)
		if err != nil {
			return t, 0, err
		}
		if m.isAttached(t.VPCID, g.ID) {
			owner = t.VPCID
		}
	default:
		return t, 0, refuse(GatewayNotFound, "%q is neither an internet gateway (igw-...) nor a NAT gateway (nat-...) nor a transit gateway (tgw-...)", target)
	}
	if owner != t.VPCID {
		return t, 0, refuse(InvalidParameterValue, "%s is not in the VPC of %s, or not attached to it", target, t.ID)
	}
	return t, t.routeTo(destination), nil
}

// DescribeRouteTables lists all route tables, with their local routes and route states, in the order in which they were
// made.
func (m *Model) DescribeRouteTables() []RouteTable { return collect(m.tables.all(), m.describeTable) }

func (m *Model) describeTable(t RouteTable) RouteTable {
	var routes []Route
	for _, cidr := range m.vpcs.byID[t.VPCID].CIDRs {
		routes = append(routes, Route{cidr, Local, RouteActive})
	}
	for _, r := range t.Routes {
		r.State = RouteBlackhole
		if m.leads(t.VPCID, r) != nowhere {
			r.State = RouteActive
		}
		routes = append(routes, r)
	}
	var associations []RouteTableAssociation
	if v := m.vpcs.byID[t.VPCID]; v.MainRouteTableID == t.ID {
		t.Main = true
		associations = append(associations, RouteTableAssociation{ID: v.MainAssociationID, Main: true})
	}
	t.Routes, t.Associations = routes, append(associations, t.Associations...)
	return t
}

// way is the kind of thing that a route leads to.
type way uint8

const (
	nowhere way = iota
	toInternetGateway
	toNATGateway
	toTransitGateway
)

// leads is where a route of a VPC goes today: its target may be gone, or detached.
func (m *Model) leads(vpcID string, r Route) way {
	if g, ok := m.igws.byID[r.Target]; ok && g.VPCID == vpcID {
		return toInternetGateway
	}
	if _, ok := m.natGateways.byID[r.Target]; ok {
		return toNATGateway
	}
	if m.isAttached(vpcID, r.Target) {
		return toTransitGateway
	}
	return nowhere
}

// tableOf is the route table that a subnet uses.
func (m *Model) tableOf(s Subnet) RouteTable {
	if t, _, ok := m.association(func(a RouteTableAssociation) bool { return a.SubnetID == s.ID }); ok {
		return t
	}
	return m.tables.byID[m.vpcs.byID[s.VPCID].MainRouteTableID]
}

// association is the first association that is wanted: its table, and its place there.
func (m *Model) association(wanted func(RouteTableAssociation) bool) (RouteTable, int, bool) {
	for t := range m.tables.all() {
		if i := slices.IndexFunc(t.Associations, wanted); i >= 0 {
			return t, i, true
		}
	}
	return RouteTable{}, 0, false
}

// lookup is the route with the longest destination that contains all of p.
func (t RouteTable) lookup(p netip.Prefix) (best Route, ok bool) {
	for _, r := range t.Routes {
		if within(p, r.Destination) && (!ok || r.Destination.Bits() > best.Destination.Bits()) {
			best, ok = r, true
		}
	}
	return best, ok
}

// routeTo is the place of the route with exactly this destination, or -1.
func (t RouteTable) routeTo(destination netip.Prefix) int {
	return slices.IndexFunc(t.Routes, func(r Route) bool { return r.Destination == destination.Masked() })
}

// withAssociation and withoutAssociation are changed copies: stored values are never written through.
func (t RouteTable) withAssociation(a RouteTableAssociation) RouteTable {
	t.Associations = append(slices.Clone(t.Associations), a)
	return t
}

func (t RouteTable) withoutAssociation(i int) RouteTable {
	t.Associations = slices.Delete(slices.Clone(t.Associations), i, i+1)
	return t
}

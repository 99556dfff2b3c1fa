// SPDX-License-Identifier: Apache-2.0

package vpc

// Quotas bound what there may be at one time. 0 means the default of Amazon VPC, which is in parentheses.
type Quotas struct {
	// VPCs of the region (5).
	VPCs int
	// CIDRs of a VPC (5), Subnets (200), RouteTables (200) and NATGateways (5) in it.
	CIDRs, Subnets, RouteTables, NATGateways int
	// Routes of a route table, local ones not counted (50).
	Routes int
	// NATAddresses are the Elastic IPs of a NAT gateway (2); more than 8 addresses, public or private, it cannot have.
	NATAddresses int
	// Interfaces of the region (5,000), and of an instance (8): that depends on its type in Amazon EC2.
	Interfaces, InterfacesPerInstance int
	// AddressesPerInterface are its private addresses (30).
	AddressesPerInterface int
	// Groups are the security groups of the region (2,500), GroupsPerInterface those of a network interface (5), and
	// RulesPerGroup the rules of a group each way (60).
	Groups, GroupsPerInterface, RulesPerGroup int
}

// maxNATAddresses is what a NAT gateway can have, whatever the quota.
const maxNATAddresses = 8

// orDefault fills in the defaults, and reports negative values and impossible ones.
func (q Quotas) orDefault(fault func(string, ...any)) Quotas {
	for _, f := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"VPCs", &q.VPCs, 5},
		{"CIDRs", &q.CIDRs, 5},
		{"Subnets", &q.Subnets, 200},
		{"RouteTables", &q.RouteTables, 200},
		{"NATGateways", &q.NATGateways, 5},
		{"Routes", &q.Routes, 50},
		{"NATAddresses", &q.NATAddresses, 2},
		{"Interfaces", &q.Interfaces, 5000},
		{"InterfacesPerInstance", &q.InterfacesPerInstance, 8},
		{"AddressesPerInterface", &q.AddressesPerInterface, 30},
		{"Groups", &q.Groups, 2500},
		{"GroupsPerInterface", &q.GroupsPerInterface, 5},
		{"RulesPerGroup", &q.RulesPerGroup, 60},
	} {
		if *f.value < 0 {
			fault("Quotas.%s is %d; use 0 for the default of %d, or more", f.name, *f.value, f.standard)
		}
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	if q.NATAddresses > maxNATAddresses {
		fault("Quotas.NATAddresses is %d; a NAT gateway has %d addresses at most", q.NATAddresses, maxNATAddresses)
	}
	return q
}

// bounded refuses what would be more than the quota.
func bounded(have, more, quota int, code Code, what string) error {
	if have+more > quota {
		return refuse(code, "there are %d %s, and the quota is %d; remove some first", have, what, quota)
	}
	return nil
}

// count is how many of the values are wanted.
func count[T any](s *store[T], wanted func(T) bool) (n int) {
	for v := range s.all() {
		if wanted(v) {
			n++
		}
	}
	return n
}

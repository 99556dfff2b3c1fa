// SPDX-License-Identifier: Apache-2.0

package region

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
)

// owned are the public addresses that packets can leave with.
func owned(p *nat.Policy) []netip.Addr {
	if p == nil {
		return nil
	}
	var out []netip.Addr
	for _, s := range p.Static {
		out = append(out, s.Outside)
	}
	for _, q := range p.Pools {
		out = append(append(out, q.Addresses...), q.Draining...)
	}
	return out
}

// moving are the addresses that one VPC has, and another gets by the plan.
func (r *Region) moving(plan map[string]*nat.Policy) map[netip.Addr]bool {
	owner := map[netip.Addr]string{}
	for id, p := range r.applied {
		for _, a := range owned(p) {
			owner[a] = id
		}
	}
	moving := map[netip.Addr]bool{}
	for id, p := range plan {
		for _, a := range owned(p) {
			if before, ok := owner[a]; ok && before != id {
				moving[a] = true
			}
		}
	}
	return moving
}

// loses reports whether an engine with this policy has an address that moves.
func loses(p *nat.Policy, moving map[netip.Addr]bool) bool {
	return slices.ContainsFunc(owned(p), func(a netip.Addr) bool { return moving[a] })
}

// without is p before it gets the addresses that move: their hosts have no way out, and pools shrink or are gone.
func without(p *nat.Policy, moving map[netip.Addr]bool) *nat.Policy {
	if !loses(p, moving) {
		return p
	}
	gone := func(a netip.Addr) bool { return moving[a] }
	q := *p
	q.Static = slices.DeleteFunc(slices.Clone(p.Static), func(s nat.Static) bool { return gone(s.Outside) })
	q.Pools, q.Routes = nil, slices.Clone(p.Routes)
	for _, pool := range p.Pools {
		pool.Addresses = slices.DeleteFunc(slices.Clone(pool.Addresses), gone)
		pool.Draining = slices.DeleteFunc(slices.Clone(pool.Draining), gone)
		if len(pool.Addresses) > 0 {
			q.Pools = append(q.Pools, pool)
			continue
		}
		for i := range q.Routes {
			if q.Routes[i].Pool == pool.Name {
				q.Routes[i].Pool = ""
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(moving), netip.Addr.Compare) { // nobody's, for the moment
		q.Unlent = append(slices.Clip(q.Unlent), netip.PrefixFrom(a, 32))
	}
	return &q
}

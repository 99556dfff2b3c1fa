// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/tidegate/tidegate/packet"
)

// restriction is a compiled Restriction.
type restriction struct {
	name  string
	id    uint64     // nameID
	line  int        // in Policy.Restrictions
	allow [2][]allow // by Direction
}

// allow is a compiled Allow.
type allow struct {
	proto   int // -1: all
	lo, hi  uint16
	remotes *bart.Lite // nil: everybody
}

// bound is a restriction as it holds for one host.
type bound struct {
	*restriction
	host uint32
	// since is the epoch from which on the host has had it without a break.
	since uint32
}

// boundOf is what restricts an inside host, nil for most.
func (p *policy) boundOf(host uint32) *bound {
	if i := p.restricted.get(host); i != 0 {
		return &p.bounds[i-1]
	}
	return nil
}

// covers is the place of the first rule that lets the packet v pass from (In) or to (Out) a remote address, -1 if there is
// none. port is that of the receiving end, of TCP and UDP.
func (r *restriction) covers(d Direction, v *packet.View, port uint16, rem uint32) int {
	if v.Proto == packet.ICMP {
		port = uint16(v.Type)<<8 | uint16(v.Code)
	}
	for i := range r.allow[d] {
		a := &r.allow[d][i]
		if (a.proto < 0 || a.proto == int(v.Proto)) && port >= a.lo && port <= a.hi && (a.remotes == nil || a.remotes.Contains(from4(rem))) {
			return i
		}
	}
	return -1
}

func (c *policy) compileRestrictions(p *Policy, key uint64) {
	n := 0
	for _, r := range p.Restrictions {
		n += len(r.Hosts)
	}
	c.restricted = newAddrMap(n, key)
	c.bounds = make([]bound, 0, n)
	compiled := eachOnce(compileAllows)
	for i, r := range p.Restrictions {
		d := &restriction{name: r.Name, id: nameID(r.Name), line: i, allow: [2][]allow{Out: compiled(r.Out), In: compiled(r.In)}}
		for _, h := range r.Hosts {
			c.bounds = append(c.bounds, bound{restriction: d, host: to4(h)})
			c.restricted.insert(to4(h), uint32(len(c.bounds)))
		}
	}
}

// eachOnce is what made makes of a list, element by element, made once for each list: that of a security group may be long,
// and that of many hosts.
func eachOnce[T any](made func([]Allow) []T) func([]Allow) []T {
	known := map[*Allow][]T{}
	return func(all []Allow) []T {
		if len(all) == 0 {
			return nil
		}
		if got := known[&all[0]]; len(got) == len(all) {
			return got
		}
		known[&all[0]] = made(all)
		return known[&all[0]]
	}
}

func compileAllows(all []Allow) []allow {
	out := make([]allow, len(all))
	for i, a := range all {
		d := allow{proto: a.Protocol, lo: a.PortMin, hi: a.PortMax}
		if !hasPorts(a.Protocol) {
			d.lo, d.hi = 0, 1<<16-1
		}
		if len(a.Remotes) > 0 {
			d.remotes = new(bart.Lite)
			for _, q := range a.Remotes {
				d.remotes.Insert(q.Masked())
			}
		}
		out[i] = d
	}
	return out
}

// hasPorts reports whether the ports of an Allow mean something.
func hasPorts(proto int) bool {
	return proto == packet.TCP || proto == packet.UDP || proto == packet.ICMP
}

// inherit sets since when each host is bound, and none has lost its restriction, as the policy that follows old, which is nil
// for the first.
func (c *policy) inherit(old *policy, epoch uint32) {
	c.unbroken = epoch
	if old != nil && !slices.ContainsFunc(old.bounds, func(was bound) bool {
		b := c.boundOf(was.host)
		return b == nil || b.name != was.name
	}) {
		c.unbroken = old.unbroken
	}
	for i := range c.bounds {
		b := &c.bounds[i]
		b.since = epoch
		if old == nil {
			continue
		}
		if was := old.boundOf(b.host); was != nil && was.name == b.name {
			b.since = was.since
		}
	}
}

func (p *Policy) validateRestrictions(f *faults, ext map[netip.Addr]string) {
	names := map[string]bool{}
	hosts := map[netip.Addr]string{} // whose they are
	for i, r := range p.Restrictions {
		what := fmt.Sprintf("restriction %q", r.Name)
		if r.Name == "" {
			what = fmt.Sprintf("restriction %d", i+1)
			f.add("%s: has no name", what)
		} else if names[r.Name] {
			f.add("%s: there are two of that name", what)
		}
		names[r.Name] = true
		for _, h := range r.Hosts {
			switch by, taken := hosts[h]; {
			case !h.Is4():
				f.add("%s: %v is not an IPv4 address", what, h)
			case !containsAny(p.Inside, h):
				f.add("%s: %v is not inside", what, h)
			case ext[h] != "":
				f.add("%s: %v belongs to %s already", what, h, ext[h])
			case taken:
				f.add("%s: %v is restricted by %s already: a host has one restriction, with all its rules", what, h, by)
			}
			hosts[h] = what
		}
		for j, a := range r.In {
			a.validate(fmt.Sprintf("%s: In %d", what, j+1), f)
		}
		for j, a := range r.Out {
			a.validate(fmt.Sprintf("%s: Out %d", what, j+1), f)
		}
	}
	t := GatewayProfile()
	t.Timeouts = p.RestrictionTimeouts
	t.validate("restrictions", f)
}

func (a *Allow) validate(what string, f *faults) {
	switch every := a.PortMin == 0 && (a.PortMax == 0 || a.PortMax == 1<<16-1); {
	case a.Protocol < -1 || a.Protocol > 255:
		f.add("%s: protocol %d: want -1, for all, to 255", what, a.Protocol)
	case a.PortMin > a.PortMax:
		f.add("%s: %d to %d: the smaller first", what, a.PortMin, a.PortMax)
	case !hasPorts(a.Protocol) && !every:
		f.add("%s: %d to %d: only TCP and UDP have ports, and ICMP types; leave them out", what, a.PortMin, a.PortMax)
	}
	for _, q := range a.Remotes {
		f.prefix(what, q)
	}
}

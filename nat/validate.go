// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/packet"
)

// faults collects what is wrong.
type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// Validate reports everything that is wrong with the policy, all at once (errors.Join), each with its place.
func (p *Policy) Validate() error {
	if p == nil {
		return errors.New("no policy: one that lets nobody out is &Policy{}")
	}
	var f faults
	ext := map[netip.Addr]string{} // who has it
	p.validateAttachments(&f)
	for i, q := range p.Inside {
		f.prefix(fmt.Sprintf("inside %d", i+1), q)
	}
	for i, q := range p.Unlent {
		f.prefix(fmt.Sprintf("unlent %d", i+1), q)
		for _, in := range p.Inside {
			if in.IsValid() && q.IsValid() && in.Overlaps(q) { // RFC 4787 REQ-7
				f.add("unlent %d: %v overlaps the inside %v", i+1, q, in)
			}
		}
	}
	claim := func(what string, a netip.Addr, private bool) {
		switch {
		case !a.Is4():
			f.add("%s: %v is not an IPv4 address", what, a)
			return
		case isMartian(a):
			f.add("%s: %v cannot be an address of a host", what, a)
		case !private && containsAny(p.Inside, a):
			f.add("%s: %v is also inside", what, a)
		}
		if by, ok := ext[a]; ok {
			f.add("%s: %v belongs to %s already", what, a, by)
		}
		ext[a] = what
	}
	pools := map[string]bool{}
	for i, q := range p.Pools {
		what := fmt.Sprintf("pool %q", q.Name)
		if q.Name == "" {
			what = fmt.Sprintf("pool %d", i+1)
			f.add("%s: has no name", what)
		} else if pools[q.Name] {
			f.add("%s: there are two of that name", what)
		}
		pools[q.Name] = true
		for _, a := range q.Addresses {
			claim(what, a, q.Private)
		}
		for _, a := range q.Draining {
			claim(what+", draining", a, q.Private)
		}
		if q.Router.IsValid() && !q.Router.Is4() {
			f.add("%s: router: %v is not an IPv4 address", what, q.Router)
		}
		q.Profile.validate(what, &f)
		p.validateBlocks(what, &q, &f)
	}
	if len(p.Pools) > 1<<16-1 {
		f.add("%d pools: at most 65,535", len(p.Pools))
	}
	insides := map[netip.Addr]bool{}
	for _, s := range p.Static {
		what := fmt.Sprintf("static %v to %v", s.Inside, s.Outside)
		claim(what, s.Outside, false)
		switch {
		case !s.Inside.Is4():
			f.add("%s: %v is not an IPv4 address", what, s.Inside)
		case !containsAny(p.Inside, s.Inside):
			f.add("%s: %v is not inside", what, s.Inside)
		case ext[s.Inside] != "":
			f.add("%s: %v belongs to %s already", what, s.Inside, ext[s.Inside])
		case insides[s.Inside]:
			f.add("%s: %v has another one", what, s.Inside)
		}
		insides[s.Inside] = true
	}
	p.validateForwards(&f, ext)
	p.validateRoutes(&f, pools)
	p.validateRestrictions(&f, ext)
	for _, n := range []struct {
		what string
		v    int
	}{{"HostSessions", p.HostSessions}, {"HostRate", p.HostRate}} {
		if n.v < 0 {
			f.add("%s: %d is negative", n.what, n.v)
		}
	}
	if p.HostRate > 65535 {
		f.add("HostRate: %d: at most 65,535", p.HostRate)
	}
	for s, a := range [2]netip.Addr{p.InsideRouter, p.OutsideRouter} {
		if a.IsValid() && !a.Is4() {
			f.add("%v router: %v is not an IPv4 address", Side(s), a)
		}
	}
	return errors.Join(f...)
}

func (f *faults) prefix(what string, q netip.Prefix) {
	if !q.IsValid() || !q.Addr().Is4() {
		f.add("%s: %v is not an IPv4 prefix", what, q)
	}
}

func isMartian(a netip.Addr) bool { return containsAny(martians, a) }

func containsAny(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (p *Policy) validateAttachments(f *faults) {
	ids := map[AttachmentID]bool{}
	for _, a := range p.Attachments {
		what := fmt.Sprintf("attachment %d", a.ID)
		if ids[a.ID] {
			f.add("%s: there are two of that number", what)
		}
		ids[a.ID] = true
		if a.Side > Outside {
			f.add("%s: no such side", what)
		}
		for _, s := range a.Sources {
			f.prefix(what, s)
		}
		// 68 is the smallest MTU of IPv4 (RFC 791).
		if a.MTU < 0 || a.MTU > 0 && a.MTU < 68 {
			f.add("%s: an MTU of %d is below 68", what, a.MTU)
		}
	}
}

func (p *Policy) validateForwards(f *faults, ext map[netip.Addr]string) {
	type key struct {
		proto uint8
		at    netip.AddrPort
	}
	taken := map[key]bool{}
	pooled := map[netip.Addr]bool{}
	for _, q := range p.Pools {
		for _, a := range q.Addresses {
			pooled[a] = true
		}
	}
	check := func(what string, proto uint8, at netip.AddrPort) {
		if proto != packet.TCP && proto != packet.UDP {
			f.add("%s: protocol %d is neither TCP nor UDP", what, proto)
		}
		if at.Port() == 0 {
			f.add("%s: port 0", what)
		}
		if taken[key{proto, at}] {
			f.add("%s: %v is taken already", what, at)
		}
		taken[key{proto, at}] = true
	}
	for _, w := range p.Forwards {
		what := fmt.Sprintf("forward %v to %v", w.Outside, w.Inside)
		check(what, w.Protocol, w.Outside)
		if !pooled[w.Outside.Addr()] {
			f.add("%s: %v is not an address of a pool", what, w.Outside.Addr())
		}
		if !w.Inside.Addr().Is4() || !containsAny(p.Inside, w.Inside.Addr()) {
			f.add("%s: %v is not inside", what, w.Inside.Addr())
		}
		if by := ext[w.Inside.Addr()]; by != "" {
			f.add("%s: %v belongs to %s already", what, w.Inside.Addr(), by)
		}
		if w.Inside.Port() == 0 {
			f.add("%s: port 0", what)
		}
	}
	for _, s := range p.Services {
		what := fmt.Sprintf("service %v", s.Endpoint)
		check(what, s.Protocol, s.Endpoint)
		if _, ok := ext[s.Endpoint.Addr()]; !ok {
			f.add("%s: not an external address", what)
		}
	}
}

func (p *Policy) validateRoutes(f *faults, pools map[string]bool) {
	type key struct{ src, dst netip.Prefix }
	seen := map[key]bool{}
	for i, r := range p.Routes {
		what := fmt.Sprintf("route %d", i+1)
		f.prefix(what+", source", r.Source)
		if r.Destination.IsValid() {
			f.prefix(what+", destination", r.Destination)
		}
		if r.Pool != "" && !pools[r.Pool] {
			f.add("%s: there is no pool %q", what, r.Pool)
		}
		k := key{r.Source.Masked(), r.Destination.Masked()}
		if seen[k] {
			f.add("%s: there is another one from %v to the same destination", what, r.Source)
		}
		seen[k] = true
	}
}

func (f Profile) validate(what string, fs *faults) {
	opening := cmp.Or(f.Timeouts.UDPOpening, 300*time.Second) // none is that of UDP, which is looked at
	f = f.orDefault()
	if f.PortMin == 0 || f.PortMin > f.PortMax {
		fs.add("%s: ports %d to %d: want 1 to 65535, the smaller first", what, f.PortMin, f.PortMax)
	}
	for k, name := range [NumClasses]string{"tcp", "udp", "icmp"} {
		if f.Mapping[k] > AddressAndPortDependent || f.Filtering[k] > FilterAddressAndPortDependent {
			fs.add("%s: %s: no such mapping or filtering", what, name)
		}
		if f.Mapping[k] == AddressAndPortDependent && f.Filtering[k] != FilterAddressAndPortDependent {
			fs.add("%s: %s: address-and-port-dependent mapping shares an external port between hosts, so it needs address-and-port-dependent filtering", what, name)
		}
		if f.PortsPerDestination != 0 && f.Mapping[k] != AddressAndPortDependent {
			fs.add("%s: %s: a bound for each destination needs address-and-port-dependent mapping", what, name)
		}
	}
	if f.PortsPerDestination < 0 {
		fs.add("%s: %d ports for each destination", what, f.PortsPerDestination)
	}
	if f.Pooling > Arbitrary || f.NoPort > RefuseHostUnreachable || f.Stray > StrayPickup {
		fs.add("%s: no such pooling, refusal or treatment of strays", what)
	}
	t := &f.Timeouts
	for _, v := range []struct {
		name      string
		is, atRFC time.Duration
		clause    string
	}{
		{"UDP", t.UDP, 120 * time.Second, "RFC 4787 REQ-5"},
		{"UDP opening", opening, 120 * time.Second, "RFC 4787 REQ-5"},
		{"DNS", t.DNS, 120 * time.Second, "RFC 4787 REQ-5"},
		{"TCP established", t.TCPEstablished, 7440 * time.Second, "RFC 5382 REQ-5"},
		{"TCP opening", t.TCPOpening, 240 * time.Second, "RFC 5382 REQ-5"},
		{"TCP closing", t.TCPClosing, 240 * time.Second, "RFC 5382 REQ-5"},
		{"ICMP", t.ICMP, 60 * time.Second, "RFC 5508 REQ-2"},
	} {
		switch {
		case v.is < time.Millisecond || v.is > maxTimeout:
			fs.add("%s: time-out of %s: %v is not between 1ms and %v", what, v.name, v.is, maxTimeout)
		case f.Name == "rfc" && v.is < v.atRFC:
			fs.add("%s: time-out of %s: %v is below %v (%s); another profile may go lower", what, v.name, v.is, v.atRFC, v.clause)
		}
	}
	if t.UDPOpening > t.UDP {
		fs.add("%s: time-out of UDP opening: %v is longer than the %v of UDP", what, t.UDPOpening, t.UDP)
	}
	if f.Quarantine < 0 || f.Quarantine > maxTimeout {
		fs.add("%s: quarantine: %v is not between 0 and %v", what, f.Quarantine, maxTimeout)
	}
}

// maxTimeout keeps differences of ticks far from wrapping around.
const maxTimeout = 7 * 24 * time.Hour

// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// Reboot loses every mapping and session, at once. Addresses and rules stay.
func (x *NAT) Reboot() {
	x.net.tb.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.settle()
	x.boot()
}

// Update changes the NAT's policy while it runs, and says what that does to its sessions. The policy that edit gets has
// one pool and one route, that of everybody inside; what it makes of it is validated as a whole. New external addresses of
// pools and 1:1 mappings reach the NAT from then on, if nobody else has them; those that are gone reach nobody.
func (x *NAT) Update(edit func(p *nat.Policy)) nat.Impact {
	x.net.tb.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.policyCopy()
	edit(&p)
	old, addrs := externals(&x.policy), externals(&p)
	for _, a := range addrs {
		if at := x.outer.portOf(a); at != nil && at != x.port {
			x.net.tb.Fatalf("nattest: %s: %v is the address of %s", x.name, a, at.name)
		}
	}
	impact, err := x.engine.Apply(&p, x.net.Elapsed())
	if err != nil {
		x.net.tb.Fatalf("nattest: %s: %v", x.name, err)
	}
	for _, a := range old {
		x.outer.setPort(a, nil)
	}
	for _, a := range addrs {
		x.outer.setPort(a, x.port)
	}
	x.policy = p
	return impact
}

// externals are the addresses that a policy has to be sent packets for.
func externals(p *nat.Policy) (addrs []netip.Addr) {
	for _, pool := range p.Pools {
		addrs = append(append(addrs, pool.Addresses...), pool.Draining...)
	}
	for _, s := range p.Static {
		addrs = append(addrs, s.Outside)
	}
	return addrs
}

// Policy is a copy of the policy that is in force: for Policy.Subscriber, say.
func (x *NAT) Policy() *nat.Policy {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.policyCopy()
	return &p
}

// policyCopy is what an edit may change without the policy changing. The caller holds mu.
func (x *NAT) policyCopy() nat.Policy {
	p := x.policy
	p.Pools, p.Routes = slices.Clone(p.Pools), slices.Clone(p.Routes)
	p.Forwards, p.Static = slices.Clone(p.Forwards), slices.Clone(p.Static)
	for i := range p.Pools {
		p.Pools[i].Addresses, p.Pools[i].Draining = slices.Clone(p.Pools[i].Addresses), slices.Clone(p.Pools[i].Draining)
	}
	return p
}

// Forward opens a port of the NAT's first address for a host behind it: protocol is "tcp" or "udp".
func (x *NAT) Forward(protocol string, port uint16, to *Host, toPort uint16) nat.Impact {
	x.net.tb.Helper()
	proto, ok := map[string]uint8{"tcp": packet.TCP, "udp": packet.UDP}[protocol]
	if !ok {
		x.net.tb.Fatalf("nattest: %s: a forward of %q: it is tcp or udp", x.name, protocol)
	}
	return x.Update(func(p *nat.Policy) {
		p.Forwards = append(p.Forwards, nat.Forward{
			Protocol: proto,
			Outside:  netip.AddrPortFrom(p.Pools[0].Addresses[0], port), Inside: netip.AddrPortFrom(to.Addr(), toPort),
		})
	})
}

// Static gives a host behind the NAT an external address of its own, 1:1, as an Elastic IP is: the host is reached there,
// and seen with it.
func (x *NAT) Static(h *Host) netip.Addr {
	x.net.tb.Helper()
	a := x.lease(1)[0]
	x.Update(func(p *nat.Policy) { p.Static = append(p.Static, nat.Static{Inside: h.Addr(), Outside: a}) })
	return a
}

// Renumber gives the NAT new external addresses in place of those it has, as a provider does at night; forwards go with the
// old ones, 1:1 mappings stay. Its sessions are cut, and packets to the old addresses reach nobody.
func (x *NAT) Renumber() nat.Impact {
	x.net.tb.Helper()
	leased := x.lease(len(x.Publics()))
	return x.Update(func(p *nat.Policy) {
		p.Pools[0].Addresses, p.Pools[0].Draining, p.Forwards = leased, nil, nil
	})
}

// LimitPorts leaves the NAT so many external ports an address for new mappings, at least one and as many as its Behaviour
// has; those it has go on. With port blocks it is the ports of a block, and sessions outside of their host's new one are cut.
func (x *NAT) LimitPorts(ports int) nat.Impact {
	x.net.tb.Helper()
	from := x.behaviour.Profile
	most := int(from.PortMax) - int(from.PortMin) + 1
	if from.PortBlock > 0 {
		most = from.PortBlock
	}
	if ports < 1 || ports > most {
		x.net.tb.Fatalf("nattest: %s: a limit of %d ports is not between 1 and the %d it has", x.name, ports, most)
	}
	return x.Update(func(p *nat.Policy) {
		if f := &p.Pools[0].Profile; f.PortBlock > 0 {
			f.PortBlock = ports
		} else {
			f.PortMax = f.PortMin + uint16(ports-1)
		}
	})
}

// EatICMPErrors has the NAT swallow ICMP errors both ways, as badly kept firewalls do; path MTU discovery goes blind.
func (x *NAT) EatICMPErrors(eat bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deaf = eat
}

// Block drops everything to and from a remote network from now on, in the middle of flows, too; Unblock ends that.
func (x *NAT) Block(remote netip.Prefix) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.blocked = append(x.blocked, remote.Masked())
}

// Unblock takes back every Block of the same network.
func (x *NAT) Unblock(remote netip.Prefix) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.blocked = slices.DeleteFunc(x.blocked, func(p netip.Prefix) bool { return p == remote.Masked() })
}

// SetLink changes the link on the NAT's outside from now on. The MTU of its interface stays.
func (x *NAT) SetLink(l Link) {
	x.net.tb.Helper()
	x.port.setLink(l)
}

// isICMPError: RFC 792's unreachable, time exceeded and parameter problem.
func isICMPError(b []byte) bool {
	head := int(b[0]&15) * 4
	if b[9] != packet.ICMP || b[6]&0x1f != 0 || b[7] != 0 || len(b) <= head {
		return false
	}
	return b[head] == 3 || b[head] == 11 || b[head] == 12
}

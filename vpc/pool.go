// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// pool is the public addresses that nobody has. They queue up: the one that has been idle longest goes first.
type pool struct {
	// fresh are those that nobody has had yet, at the head of the queue. Clones of a model share them.
	fresh []netip.Addr
	// idle are those that were given back, by their text.
	idle     store[idleAddr]
	coolDown time.Duration
}

// idleAddr is an address that nobody gets before the time Ready.
type idleAddr struct {
	IP    netip.Addr
	Ready time.Time
}

func newPool(prefixes []netip.Prefix, coolDown time.Duration) pool {
	p := pool{coolDown: coolDown}
	for _, prefix := range prefixes {
		for ip := prefix.Addr(); prefix.Contains(ip); ip = ip.Next() {
			p.fresh = append(p.fresh, ip)
		}
	}
	return p
}

// PublicPool are the public addresses of the region, whoever has them: those of Config.PublicPool.
func (m *Model) PublicPool() []netip.Prefix { return slices.Clone(m.cfg.PublicPool) }

// sizeOf is how many addresses IPv4 prefixes have that do not overlap.
func sizeOf(prefixes []netip.Prefix) (n int) {
	for _, p := range prefixes {
		n += 1 << (32 - p.Bits())
	}
	return n
}

// next is the place of the address to be given out next, if there is one.
func (p *pool) next(now time.Time) (i int, ok bool) {
	if len(p.fresh) > 0 {
		return 0, true
	}
	i = slices.IndexFunc(p.idle.ids, func(id string) bool { return !p.idle.byID[id].Ready.After(now) })
	return i, i >= 0
}

// take removes the address at the place that next has named.
func (p *pool) take(i int) netip.Addr {
	if len(p.fresh) > 0 {
		ip := p.fresh[i]
		p.fresh = p.fresh[1:]
		return ip
	}
	a := p.idle.byID[p.idle.ids[i]]
	p.idle.del(a.IP.String())
	return a.IP
}

// giveBack queues up an address, to rest until its cool-down is over.
func (p *pool) giveBack(ip netip.Addr, now time.Time) {
	p.idle.put(ip.String(), idleAddr{ip, now.Add(p.coolDown)})
}

// all are the addresses that nobody has.
func (p *pool) all() []netip.Addr {
	ips := slices.Clone(p.fresh)
	for a := range p.idle.all() {
		ips = append(ips, a.IP)
	}
	return ips
}

// aggregate is the shortest list of prefixes that covers exactly these IPv4 addresses, which it sorts.
func aggregate(ips []netip.Addr) []netip.Prefix {
	slices.SortFunc(ips, netip.Addr.Compare)
	var out []netip.Prefix
	for i := 0; i < len(ips); {
		first := toUint(ips[i])
		bits, n := 32, 1
		// Double the block while its start is aligned to the next size and the addresses that it needs are all there.
		for bits > 0 && i+2*n <= len(ips) && first&uint32(2*n-1) == 0 && toUint(ips[i+2*n-1]) == first+uint32(2*n-1) {
			bits, n = bits-1, 2*n
		}
		out = append(out, netip.PrefixFrom(ips[i], bits))
		i += n
	}
	return out
}

func toUint(ip netip.Addr) uint32 {
	b := ip.As4()
	return binary.BigEndian.Uint32(b[:])
}

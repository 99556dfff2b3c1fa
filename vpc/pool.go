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
	idle     []idleAddr
	coolDown time.Duration
}

// idleAddr is an address that nobody gets before the time ready.
type idleAddr struct {
	ip    netip.Addr
	ready time.Time
}

func newPool(prefixes []netip.Prefix, coolDown time.Duration) pool {
	p := pool{coolDown: coolDown}
	for _, prefix := range prefixes {
		for ip := prefix.Addr(); prefix.Contains(ip); ip = ip.Next() {
			p.idle = append(p.idle, idleAddr{ip: ip})
		}
	}
	return p
}

// next is the place of the address to be given out next, if there is one.
func (p *pool) next(now time.Time) (i int, ok bool) {
	i = slices.IndexFunc(p.idle, func(a idleAddr) bool { return !a.ready.After(now) })
	return i, i >= 0
}

// take removes the address at the place that next has named.
func (p *pool) take(i int) netip.Addr {
	ip := p.idle[i].ip
	if i == 0 { // nearly always, and the pool may be large
		p.idle = p.idle[1:]
	} else {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	return ip
}

// giveBack queues up an address, to rest until its cool-down is over.
func (p *pool) giveBack(ip netip.Addr, now time.Time) {
	p.idle = append(p.idle, idleAddr{ip, now.Add(p.coolDown)})
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

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"net/netip"
	"slices"
)

// Deterministic port blocks (RFC 7422; RFC 6888, section 5): which ports a host may use follows from its address, so that
// nothing has to be logged to know who had a port. The sources of the routes to a pool, in the order of the routes, number
// the hosts; host k has block k, counted through the ports of the first address of the pool, then of the second, and so on.

// blocks is the numbering of a pool; size 0 is none.
type blocks struct {
	size, perAddr uint32
	portMin       uint32
	sources       []blockSource
}

// blockSource numbers the hosts first to last from k on.
type blockSource struct{ first, last, k uint32 }

// blocksOf is the numbering of pool q. What routes around it (Bypass) has no part in it.
func (p *Policy) blocksOf(q *Pool) blocks {
	f := q.Profile.orDefault()
	if f.PortBlock <= 0 {
		return blocks{}
	}
	b := blocks{size: uint32(f.PortBlock), portMin: uint32(f.PortMin)}
	b.perAddr = (uint32(f.PortMax) - uint32(f.PortMin) + 1) / b.size
	k := uint32(0)
	for _, src := range p.sourcesOf(q.Name) {
		s := blockSource{first: to4(src.Addr()), k: k}
		n := uint32(1<<(32-src.Bits()) - 1)
		s.last = s.first + n
		k += n + 1
		b.sources = append(b.sources, s)
	}
	return b
}

// sourcesOf are the prefixes that are routed to a pool, in the order of the routes, each once.
func (p *Policy) sourcesOf(pool string) (all []netip.Prefix) {
	for _, r := range p.Routes {
		src := r.Source.Masked()
		if r.Pool == pool && !r.Bypass && src.Addr().Is4() && !slices.Contains(all, src) {
			all = append(all, src)
		}
	}
	return all
}

// of is the block of a host: the place of its address in the pool, and its first port.
func (b *blocks) of(in uint32) (addr int, lo uint32) {
	for _, s := range b.sources {
		if in >= s.first && in <= s.last {
			k := s.k + in - s.first
			return int(k / b.perAddr), b.portMin + k%b.perAddr*b.size
		}
	}
	return -1, 0 // its route has gone elsewhere
}

// host is whose block a port of the pool's address number addr is in.
func (b *blocks) host(addr int, port uint16) (in uint32, ok bool) {
	i := (uint32(port) - b.portMin) / b.size
	if uint32(port) < b.portMin || i >= b.perAddr {
		return 0, false
	}
	k := uint32(addr)*b.perAddr + i
	for _, s := range b.sources {
		if k-s.k <= s.last-s.first {
			return s.first + k - s.k, true
		}
	}
	return 0, false
}

// owns reports whether an external endpoint is of the block of a host.
func (d *pool) owns(in, ext uint32, port uint16) bool {
	i, lo := d.blocks.of(in)
	return i >= 0 && d.addrs[i] == ext && uint32(port)-lo < d.blocks.size
}

// Subscriber is the inside host that has an external endpoint under a policy with port blocks (Profile.PortBlock), now and
// whenever it was in force. It is false where there are none, and for ports of nobody's block. The owners of port forwards
// are in Forwards.
func (p *Policy) Subscriber(external netip.AddrPort) (netip.Addr, bool) {
	for i := range p.Pools {
		q := &p.Pools[i]
		if at := slices.Index(q.Addresses, external.Addr()); at >= 0 && q.Profile.PortBlock > 0 {
			b := p.blocksOf(q)
			if in, ok := b.host(at, external.Port()); ok {
				return from4(in), true
			}
		}
	}
	return netip.Addr{}, false
}

// validate reports what is wrong with p, by itself and for an engine of c's sizes.
func (c *Config) validate(p *Policy) error {
	f := faults{}
	if err := p.Validate(); err != nil {
		f = append(f, err)
	}
	if p == nil {
		return errors.Join(f...)
	}
	for _, q := range p.Pools {
		// Any 2n ports in a row have two of each of n shards.
		if n := q.Profile.PortBlock; n > 0 && n < 2*c.Shards {
			f.add("pool %q: a block of %d ports is too small for %d shards: want %d", q.Name, n, c.Shards, 2*c.Shards)
		}
	}
	return errors.Join(f...)
}

// validateBlocks reports what port blocks do not go with.
func (p *Policy) validateBlocks(what string, q *Pool, f *faults) {
	pr := q.Profile.orDefault()
	ports := int(pr.PortMax) - int(pr.PortMin) + 1
	switch {
	case pr.PortBlock == 0:
		return
	case pr.PortBlock < 0 || pr.PortBlock > ports:
		f.add("%s: a block of %d ports: want 1 to %d, as many as there are from %d to %d", what, pr.PortBlock, max(ports, 0), pr.PortMin, pr.PortMax)
		return
	case pr.Pooling != Paired:
		f.add("%s: a port block is on one address, so it needs paired pooling", what)
	case pr.PreserveClass:
		f.add("%s: a port block has no ports of another class: turn off PreserveClass or PortBlock", what)
	case len(q.Draining) > 0:
		f.add("%s: with port blocks an address cannot drain, since all blocks move when it goes", what)
	}
	have := uint64(ports/pr.PortBlock) * uint64(len(q.Addresses))
	var want uint64
	sources := p.sourcesOf(q.Name)
	for i, s := range sources {
		want += 1 << (32 - s.Bits())
		for _, o := range sources[:i] {
			if o.Overlaps(s) {
				f.add("%s: %v and %v are both routed to it and overlap: with port blocks a host may be in one of them only", what, o, s)
			}
		}
	}
	if want > have {
		f.add("%s: %d inside addresses are routed to it, and it has %d blocks of %d ports: add addresses, or make the blocks smaller", what, want, have, pr.PortBlock)
	}
}

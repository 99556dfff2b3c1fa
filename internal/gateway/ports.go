// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// How full the external addresses are is written down nowhere: it is counted by going through the sessions, twice if
// there are protocols whose flows compete for ports by destination. That costs about 0.4 s of one processor for a million
// sessions, 24 KB for each external address, and nothing for destinations beyond maxCandidates.

// maxCandidates bounds the destinations that are counted. A destination is sure to be among them if it has more than
// 1/maxCandidates of all sessions: with a million, 245, which is 0.4 % of the ports of an address.
const maxCandidates = 4096

// holder is an external address and a protocol.
type holder struct {
	addr  netip.Addr
	proto uint8
}

// pair is a holder and a destination: what compete for the same ports are the sessions of a pair.
type pair struct {
	holder
	remote netip.AddrPort
}

// held is the ports of a holder.
type held struct {
	*nat.Pool
	class, total, used int
	draining           bool
	ports              *[1 << 16 / 64]uint64 // those with a session; nil: none has
}

// classes are the protocols in the order of the report, and their classes.
var classes = []struct {
	proto uint8
	class int
}{{packet.TCP, nat.ClassTCP}, {packet.UDP, nat.ClassUDP}, {packet.ICMP, nat.ClassICMP}}

// holdersOf are all holders of a policy, in order, and the endpoints that are not of the allocator.
func holdersOf(p *nat.Policy) (order []holder, all map[holder]*held, forwards map[nat.Service]bool) {
	all, forwards = map[holder]*held{}, map[nat.Service]bool{}
	for i := range p.Pools {
		pool := &p.Pools[i]
		for j, addr := range slices.Concat(pool.Addresses, pool.Draining) {
			for _, c := range classes {
				h := holder{addr, c.proto}
				order = append(order, h)
				all[h] = &held{Pool: pool, class: c.class, total: portsPerAddress(&pool.Profile, c.class), draining: j >= len(pool.Addresses)}
			}
		}
	}
	for _, f := range p.Forwards {
		forwards[nat.Service{Protocol: f.Protocol, Endpoint: f.Outside}] = true
		if h := all[holder{f.Outside.Addr(), f.Protocol}]; h != nil && f.Outside.Port() >= h.Profile.PortMin && f.Outside.Port() <= h.Profile.PortMax {
			h.total--
		}
	}
	return order, all, forwards
}

// portsPerAddress is how many ports, or identifiers, the allocator has for each address.
func portsPerAddress(f *nat.Profile, class int) int {
	low, high := int(f.PortMin), int(f.PortMax)
	switch {
	case f.PortBlock > 0:
		return (high - low + 1) / f.PortBlock * f.PortBlock
	case class == nat.ClassICMP:
		return 1 << 16
	case f.PreserveClass:
		return high - max(low, 1024) + 1 + 512 // 512 to 1023 are for inside ports below 1024
	default:
		return high - low + 1
	}
}

// competing reports whether flows of h compete for ports only with those to the same destination.
func (h *held) competing() bool { return h.Profile.Mapping[h.class] == nat.AddressAndPortDependent }

// limit is how many sessions a pair may have.
func (h *held) limit() int {
	if n := h.Profile.PortsPerDestination; n > 0 {
		return min(n, h.total)
	}
	return h.total
}

// portsOf counts, and reports the top fullest destinations.
func portsOf(e *nat.Engine, p *nat.Policy, now time.Duration, top int) control.Ports {
	order, all, forwards := holdersOf(p)
	result := control.Ports{Addresses: []control.AddressPorts{}, Destinations: []control.DestinationPorts{}}
	candidates := frequent[pair]{most: maxCandidates}
	for s := range e.Sessions(now) {
		result.Sessions++
		h := holder{s.External.Addr(), s.Protocol}
		d := all[h]
		if d == nil || forwards[nat.Service{Protocol: s.Protocol, Endpoint: s.External}] {
			continue
		}
		if d.ports == nil {
			d.ports = new([1 << 16 / 64]uint64)
		}
		d.ports[s.External.Port()/64] |= 1 << (s.External.Port() % 64)
		if d.competing() {
			candidates.add(pair{h, s.Remote})
		}
	}
	for _, h := range order {
		d := all[h]
		if d.ports != nil {
			for _, w := range d.ports {
				d.used += bits.OnesCount64(w)
			}
		}
		mapping := "endpoint-independent"
		if d.competing() {
			mapping = "address-and-port-dependent"
		}
		result.Addresses = append(result.Addresses, control.AddressPorts{Address: h.addr, Protocol: nat.ProtocolName(h.proto),
			Mapping: mapping, Draining: d.draining, Used: d.used, Total: d.total, Ratio: ratio(d.used, d.total)})
	}
	exact := candidates.counts
	if top <= 0 || len(exact) == 0 {
		return result
	}
	// What was found is what is frequent; how frequent it is takes another look.
	for k := range exact {
		exact[k] = 0
	}
	for s := range e.Sessions(now) {
		k := pair{holder{s.External.Addr(), s.Protocol}, s.Remote}
		if n, ok := exact[k]; ok && !forwards[nat.Service{Protocol: s.Protocol, Endpoint: s.External}] {
			exact[k] = n + 1
		}
	}
	for k, n := range exact {
		if n > 0 {
			limit := all[k.holder].limit()
			result.Destinations = append(result.Destinations, control.DestinationPorts{Address: k.addr,
				Protocol: nat.ProtocolName(k.proto), Remote: k.remote, Used: n, Total: limit, Ratio: ratio(n, limit)})
		}
	}
	slices.SortFunc(result.Destinations, func(a, b control.DestinationPorts) int {
		return cmp.Or(cmp.Compare(b.Ratio, a.Ratio), a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), a.Remote.Compare(b.Remote))
	})
	result.Destinations = result.Destinations[:min(top, len(result.Destinations))]
	return result
}

func ratio(n, of int) float64 {
	if of <= 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// frequent finds what is added often, in bounded memory (Misra and Gries, 1982): a key that makes up more than 1/most
// of all is in counts in the end; the counts are too low, by as much at most.
type frequent[K comparable] struct {
	most   int
	counts map[K]int
}

func (f *frequent[K]) add(k K) {
	if f.counts == nil {
		f.counts = make(map[K]int)
	}
	if n, ok := f.counts[k]; ok || len(f.counts) < f.most {
		f.counts[k] = n + 1
		return
	}
	// Every key pays one; each was paid for by an add, so this is constant time in the long run.
	for o, n := range f.counts {
		if n == 1 {
			delete(f.counts, o)
		} else {
			f.counts[o] = n - 1
		}
	}
}

// saturation is the answer of the last count, for metrics: a scrape is not to cost a pass each time.
type saturation struct {
	mu    sync.Mutex
	at    time.Time
	cost  time.Duration
	ports control.Ports
}

// saturationAge is how old what metrics say about ports may be; with a pass that takes long, 50 times that.
const saturationAge = 15 * time.Second

func (s *saturation) get(e *nat.Engine, p *nat.Policy, now time.Duration) control.Ports {
	s.mu.Lock()
	defer s.mu.Unlock()
	if begin := time.Now(); s.at.IsZero() || begin.Sub(s.at) > max(saturationAge, 50*s.cost) {
		s.ports = portsOf(e, p, now, 1)
		s.at, s.cost = begin, time.Since(begin)
	}
	return s.ports
}

// fullest is the largest ratio of anything that can run out of ports.
func fullest(p *control.Ports) float64 {
	full := 0.0
	for _, d := range p.Destinations {
		full = max(full, d.Ratio)
	}
	for _, a := range p.Addresses {
		if a.Mapping == "endpoint-independent" {
			full = max(full, a.Ratio)
		}
	}
	return full
}

// SPDX-License-Identifier: Apache-2.0

package story

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// PlantedFault is a defect that the story must notice.
type PlantedFault struct {
	// Text says what goes wrong.
	Text string
	// Step is the first step that can notice.
	Step int
	// plant makes the fault; it may keep state.
	plant func() lab.Fault
}

// Plant makes a fault of this kind, for one edge.
func (f PlantedFault) Plant() lab.Fault { return f.plant() }

// Faults are all that can be planted, by name.
var Faults = map[string]PlantedFault{
	"elastic-ip": {"an Elastic IP stays attached after it was disassociated", 6, stickyElasticIP},
	"leak":       {"packets of hosts without a public address leave untranslated", 4, leak},
	"wrong-port": {"translated packets leave with the next port", 7, wrongPort},
	"inbound":    {"the NAT gateway lets connections in", 7, inbound},
	"route":      {"a changed route does not take effect", 7, staleRoute},
	"checksum":   {"some packets to the inside have a wrong checksum", 1, badChecksum},
}

// FaultNames are the names in order.
func FaultNames() []string { return slices.Sorted(maps.Keys(Faults)) }

func stickyElasticIP() lab.Fault {
	return lab.Fault{Policy: func(old, new *nat.Policy) *nat.Policy {
		if old == nil {
			return new
		}
		p := *new
		p.Static = slices.Clone(p.Static)
		for _, s := range old.Static {
			if privateSubnet.Contains(s.Inside) && !slices.Contains(p.Static, s) {
				p.Static = append(p.Static, s)
				p.Unlent = without(p.Unlent, s.Outside)
			}
		}
		return &p
	}}
}

// without takes one address out of prefixes.
func without(prefixes []netip.Prefix, a netip.Addr) (out []netip.Prefix) {
	for _, p := range prefixes {
		for p.Contains(a) && p.Bits() < 32 {
			// Halve it, and keep the half that a is not in.
			low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
			b := p.Addr().As4()
			binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|1<<(31-p.Bits()))
			high := netip.PrefixFrom(netip.AddrFrom4(b), p.Bits()+1)
			if low.Contains(a) {
				low, high = high, low
			}
			out = append(out, low)
			p = high
		}
		if !p.Contains(a) {
			out = append(out, p)
		}
	}
	return out
}

func leak() lab.Fault {
	return lab.Fault{Packet: func(v nat.Verdict, _ *packet.Packet) nat.Verdict {
		if v == nat.DropNoPath {
			return nat.Bypassed
		}
		return v
	}}
}

func wrongPort() lab.Fault {
	return lab.Fault{Packet: func(v nat.Verdict, p *packet.Packet) nat.Verdict {
		b := p.Bytes()
		if v != nat.Outbound || b[9] != packet.TCP {
			return v
		}
		l4 := b[int(b[0]&15)*4:]
		port := binary.BigEndian.Uint16(l4)
		binary.BigEndian.PutUint16(l4, port+1)
		if p.Offload.Csum != packet.CsumPartial { // whose sum has no ports
			sum := binary.BigEndian.Uint16(l4[16:])
			binary.BigEndian.PutUint16(l4[16:], packet.Delta16(port, port+1).Apply(sum))
		}
		return v
	}}
}

func inbound() lab.Fault {
	return lab.Fault{Policy: func(_, new *nat.Policy) *nat.Policy {
		p := *new
		for _, pool := range p.Pools {
			p.Forwards = append(slices.Clone(p.Forwards), nat.Forward{Protocol: packet.TCP,
				Outside: netip.AddrPortFrom(pool.Addresses[0], wasPort), Inside: netip.AddrPortFrom(privateAddr(Was), wasPort)})
		}
		return &p
	}}
}

func staleRoute() lab.Fault {
	return lab.Fault{Policy: func(old, new *nat.Policy) *nat.Policy {
		p := *new
		if old != nil {
			p.Routes = old.Routes
		}
		return &p
	}}
}

// badChecksum spoils some of the segments with data that go inside. TCP sends them again, so nothing fails: only the
// hosts' counters tell.
func badChecksum() lab.Fault {
	n := 0
	return lab.Fault{Packet: func(v nat.Verdict, p *packet.Packet) nat.Verdict {
		b := p.Bytes()
		if !v.Forward() || v.Side() != nat.Inside || b[9] != packet.TCP || len(b) < 80 {
			return v
		}
		if n++; n%32 == 2 {
			// Complete, so that nobody on the way makes it right.
			lab.CompleteChecksum(b, &p.Offload)
			p.Offload.Csum = packet.CsumUnverified
			b[int(b[0]&15)*4+16] ^= 0xff
		}
		return v
	}}
}

// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Behaviour is what a NAT does. Start from a preset and change what you need; the zero value is nat.GatewayProfile.
type Behaviour struct {
	// Name is for people.
	Name string
	// Profile is the engine's: mapping, filtering, time-outs and the rest.
	Profile nat.Profile
	// Addresses is how many external addresses it has; 0 means 1.
	Addresses int
	// Sessions is how many sessions it has room for; 0 means 4,096. HostSessions bounds those of one host; 0 is no bound.
	Sessions, HostSessions int
	// HairpinOff refuses what its hosts send to its own external addresses.
	HairpinOff bool
	// Behind is a NAT between this one and the network that it is put on.
	Behind *Behaviour
}

// cone is an endpoint-independent mapping with a filter, as RFC 3489 classified NATs.
func cone(name string, f nat.Filtering) Behaviour {
	p := nat.GatewayProfile()
	p.Name = name
	p.Mapping = [nat.NumClasses]nat.Mapping{}
	p.Filtering = [nat.NumClasses]nat.Filtering{f, f, f}
	return Behaviour{Name: name, Profile: p}
}

// FullCone is RFC 3489's: one external endpoint for each inside one, and anybody may send to it.
func FullCone() Behaviour { return cone("full-cone", nat.FilterEndpointIndependent) }

// RestrictedCone is RFC 3489's: only addresses that were sent to may answer, from any port.
func RestrictedCone() Behaviour { return cone("restricted-cone", nat.FilterAddressDependent) }

// PortRestrictedCone is RFC 3489's: only endpoints that were sent to may answer. It is what most homes have.
func PortRestrictedCone() Behaviour {
	return cone("port-restricted-cone", nat.FilterAddressAndPortDependent)
}

// Symmetric is RFC 3489's: another external port for each remote endpoint, which alone may answer.
func Symmetric() Behaviour {
	p := nat.GatewayProfile()
	p.Name = "symmetric"
	for c := range p.Mapping {
		p.Mapping[c], p.Filtering[c] = nat.AddressAndPortDependent, nat.FilterAddressAndPortDependent
	}
	return Behaviour{Name: p.Name, Profile: p}
}

// RFC7857 follows RFC 4787, 5382, 5508 and 7857 to the letter: nat.RFCProfile.
func RFC7857() Behaviour { return Behaviour{Name: "rfc7857", Profile: nat.RFCProfile()} }

// AWSNATGateway is a NAT gateway of Amazon VPC: nat.AWSProfile. Idle connections are forgotten after 350 s, and reset when
// the inside sends on them again.
func AWSNATGateway() Behaviour {
	return Behaviour{Name: "aws-nat-gateway", Profile: nat.AWSProfile(), HairpinOff: true}
}

// LinuxMasquerade is what netfilter's MASQUERADE does with its defaults: a mapping for each session that keeps the port
// where it is free, so that it looks endpoint-independent until two hosts want the same one, and no hairpinning. (UDP has
// 120 s from its first answer on; Linux waits for the third second of a flow.)
func LinuxMasquerade() Behaviour {
	b := Symmetric()
	b.HairpinOff = true
	b.Name, b.Profile.Name = "linux-masquerade", "linux-masquerade"
	b.Profile.PreservePort = true
	b.Profile.InboundRefresh = true
	b.Profile.Stray = nat.StrayPickup // nf_conntrack_tcp_loose
	b.Profile.Timeouts = nat.Timeouts{
		UDP: 120 * time.Second, UDPOpening: 30 * time.Second, DNS: 30 * time.Second, ICMP: 30 * time.Second,
		TCPEstablished: 5 * 24 * time.Hour, TCPOpening: 120 * time.Second, TCPClosing: 120 * time.Second,
	}
	return b
}

// CarrierGrade is a provider's NAT (RFC 6888): endpoint-independent, hosts paired with one address, each with a block of
// ports of its own, and a bound on its sessions.
func CarrierGrade() Behaviour {
	b := FullCone()
	b.Name, b.Profile.Name = "carrier-grade", "carrier-grade"
	b.Profile.PortBlock = 504 // of 64,512 ports on each of two addresses: enough for 256 hosts
	b.Profile.NoPort = nat.RefuseHostUnreachable
	b.Addresses, b.HostSessions = 2, 2000
	return b
}

// DoubleNAT is a home behind a carrier: PortRestrictedCone behind CarrierGrade.
func DoubleNAT() Behaviour {
	b := PortRestrictedCone()
	carrier := CarrierGrade()
	b.Name, b.Behind = "double-nat", &carrier
	return b
}

// Corporate is a careful firewall: symmetric, it forgets UDP after 30 s and idle TCP after an hour.
func Corporate() Behaviour {
	b := Symmetric()
	b.Name, b.Profile.Name = "corporate", "corporate"
	t := &b.Profile.Timeouts
	t.UDP, t.DNS, t.ICMP, t.TCPEstablished, t.TCPOpening = 30*time.Second, 10*time.Second, 10*time.Second, time.Hour, 30*time.Second
	b.HairpinOff = true
	return b
}

// Presets are the presets, in the order of this file.
func Presets() []Behaviour {
	return []Behaviour{
		FullCone(), RestrictedCone(), PortRestrictedCone(), Symmetric(), RFC7857(), AWSNATGateway(), LinuxMasquerade(),
		CarrierGrade(), DoubleNAT(), Corporate(),
	}
}

// Preset is the preset of a name, as on a command line.
func Preset(name string) (b Behaviour, ok bool) {
	all := Presets()
	i := slices.IndexFunc(all, func(b Behaviour) bool { return b.Name == name })
	if i < 0 {
		return Behaviour{}, false
	}
	return all[i], true
}

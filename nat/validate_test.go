// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// TestValidate: each fault of a policy is named, with its place.
func TestValidate(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	profile := func(change func(f *nat.Profile)) func(*nat.Policy) {
		return func(p *nat.Policy) { change(&p.Pools[0].Profile) }
	}
	attach := func(a nat.Attachment) func(*nat.Policy) {
		return func(p *nat.Policy) { p.Attachments = append(p.Attachments, a) }
	}
	forward := func(f nat.Forward) func(*nat.Policy) {
		return func(p *nat.Policy) { p.Forwards = append(p.Forwards, f) }
	}
	good := nat.Forward{Protocol: packet.TCP, Outside: at(PA, 80), Inside: at(A, 80)}
	with := func(change func(f *nat.Forward)) func(*nat.Policy) {
		f := good
		change(&f)
		return forward(f)
	}
	for want, change := range map[string]func(p *nat.Policy){
		"pool \"pool\": 2001:db8::1 is not an IPv4 address":                        func(p *nat.Policy) { p.Pools[0].Addresses = []netip.Addr{v6} },
		"127.0.0.1 cannot be an address of a host":                                 func(p *nat.Policy) { p.Pools[0].Draining = []netip.Addr{ip4("127.0.0.1")} },
		"198.51.100.1 belongs to pool \"pool\" already":                            func(p *nat.Policy) { p.Pools[0].Draining = []netip.Addr{PA} },
		"pool 1: has no name":                                                      func(p *nat.Policy) { p.Pools[0].Name, p.Routes = "", nil },
		"there are two of that name":                                               func(p *nat.Policy) { p.Pools = append(p.Pools, nat.Pool{Name: "pool"}) },
		"65538 pools: at most 65,535":                                              func(p *nat.Policy) { p.Pools = append(p.Pools, make([]nat.Pool, 1<<16+1)...) },
		"static 2001:db8::1 to 198.51.100.129: 2001:db8::1 is not an IPv4 address": static(v6, E1),
		"203.0.113.9 is not inside":                                                static(R1, E1),
		"10.0.1.10 has another one":                                                func(p *nat.Policy) { static(A, E1)(p); static(A, E2)(p) },
		"HostSessions: -1 is negative":                                             func(p *nat.Policy) { p.HostSessions = -1 },
		"HostRate: -2 is negative":                                                 func(p *nat.Policy) { p.HostRate = -2 },
		"HostRate: 65536: at most 65,535":                                          func(p *nat.Policy) { p.HostRate = 65536 },
		"inside router: 2001:db8::1 is not an IPv4 address":                        func(p *nat.Policy) { p.InsideRouter = v6 },
		"outside router: 2001:db8::1 is not an IPv4 address":                       func(p *nat.Policy) { p.OutsideRouter = v6 },
		"inside 1: invalid Prefix is not an IPv4 prefix":                           func(p *nat.Policy) { p.Inside[0] = netip.Prefix{} },
		"attachment 0: there are two of that number":                               attach(nat.Attachment{}),
		"attachment 7: no such side":                                               attach(nat.Attachment{ID: 7, Side: 2}),
		"attachment 7: 2001:db8::/32 is not an IPv4 prefix":                        attach(nat.Attachment{ID: 7, Sources: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}}),
		"attachment 7: an MTU of 67 is below 68":                                   attach(nat.Attachment{ID: 7, MTU: 67}),
		"attachment 7: an MTU of -1 is below 68":                                   attach(nat.Attachment{ID: 7, MTU: -1}),
		"protocol 1 is neither TCP nor UDP":                                        with(func(f *nat.Forward) { f.Protocol = packet.ICMP }),
		"to 10.0.1.10:80: port 0":                                                  with(func(f *nat.Forward) { f.Outside = at(PA, 0) }),
		"to 10.0.1.10:0: port 0":                                                   with(func(f *nat.Forward) { f.Inside = at(A, 0) }),
		"198.51.100.2 is not an address of a pool":                                 with(func(f *nat.Forward) { f.Outside = at(PB, 80) }),
		"to 203.0.113.9:80: 203.0.113.9 is not inside":                             with(func(f *nat.Forward) { f.Inside = at(R1, 80) }),
		"198.51.100.1:80 is taken already":                                         func(p *nat.Policy) { p.Forwards = []nat.Forward{good, good} },
		"service 203.0.113.9:80: not an external address":                          func(p *nat.Policy) { p.Services = []nat.Service{{Protocol: packet.TCP, Endpoint: at(R1, 80)}} },
		"route 2: there is another one from 10.0.0.0/16":                           func(p *nat.Policy) { p.Routes = append(p.Routes, p.Routes[0]) },
		"route 1: there is no pool \"other\"":                                      func(p *nat.Policy) { p.Routes[0].Pool = "other" },
		"route 1, destination: 2001:db8::/32 is not an IPv4":                       func(p *nat.Policy) { p.Routes[0].Destination = netip.MustParsePrefix("2001:db8::/32") },
		"ports 9 to 8: want 1 to 65535":                                            profile(ports(9, 8)),
		"tcp: no such mapping or filtering":                                        profile(func(f *nat.Profile) { f.Mapping[nat.ClassTCP] = 9 }),
		"shares an external port between hosts":                                    profile(func(f *nat.Profile) { f.Mapping[nat.ClassUDP] = nat.AddressAndPortDependent }),
		"a bound for each destination needs":                                       profile(func(f *nat.Profile) { f.PortsPerDestination = 5 }),
		"-5 ports for each destination":                                            profile(func(f *nat.Profile) { f.PortsPerDestination = -5 }),
		"no such pooling, refusal or treatment":                                    profile(func(f *nat.Profile) { f.Stray = 9 }),
		"time-out of UDP: -1s is not between 1ms and":                              profile(func(f *nat.Profile) { f.Timeouts.UDP = -time.Second }),
		"quarantine: -1s is not between 0 and":                                     profile(func(f *nat.Profile) { f.Quarantine = -time.Second }),
		"time-out of ICMP: 59s is below 1m0s (RFC 5508 REQ-2)":                     profile(func(f *nat.Profile) { f.Timeouts.ICMP = 59 * time.Second }),
		"time-out of DNS: 20s is below 2m0s (RFC 4787 REQ-5)":                      profile(func(f *nat.Profile) { f.Timeouts.DNS = 20 * time.Second }),
		"time-out of TCP closing: 1m0s is below 4m0s":                              profile(func(f *nat.Profile) { f.Timeouts.TCPClosing = time.Minute }),
	} {
		p := policy(nat.RFCProfile())
		p.Inside = []netip.Prefix{insideNet}
		change(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for want, cfg := range map[string]nat.Config{
		"3 shards: want a power of two":            {Shards: 3},
		"128 shards: want a power of two up to 64": {Shards: 128},
		"3 sessions in 4 shards":                   {Sessions: 3, Shards: 4},
		"want 1ms to 1h":                           {FragmentTimeout: 2 * time.Hour},
		"events: want 0":                           {Events: -1},
		"a negative bound":                         {QuarantinedPorts: -1},
	} {
		p := policy(nat.RFCProfile())
		if _, err := nat.New(cfg, &p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}

func TestVerdictNames(t *testing.T) {
	names := map[string]bool{}
	for v := range nat.Verdict(nat.NumVerdicts) {
		if v.Text() == "" || v.String() == "" || names[v.String()] {
			t.Errorf("verdict %d is %q: %q", v, v, v.Text())
		}
		names[v.String()] = true
	}
	if none := nat.Verdict(nat.NumVerdicts); none.String() != "invalid" || none.Text() != "invalid" {
		t.Errorf("%v", none)
	}
}

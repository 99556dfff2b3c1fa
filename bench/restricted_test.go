// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// ways are how the hosts of the load leave, and what their packets pass as.
var ways = []struct {
	name    string
	out, in nat.Verdict
}{{"1to1", nat.StaticOutbound, nat.StaticInbound}, {"pool", nat.Outbound, nat.Inbound}}

// restricted is a policy for the hosts of n flows, 1:1 or through a pool as the profile aws has it. With rules each of them
// is restricted, by so many: the last one allows the load.
func restricted(n, rules int, way string) *nat.Policy {
	profile := nat.AWSProfile()
	profile.PortsPerDestination = 0
	p := policy(n, profile)
	if way == "1to1" {
		p.Pools, p.Routes = nil, []nat.Route{{Source: p.Inside[0], Static: true}}
	}
	var out []nat.Allow
	for i := range rules - 1 {
		out = append(out, nat.Allow{Protocol: packet.UDP, PortMin: 1, PortMax: 1000, Remotes: []netip.Prefix{netip.PrefixFrom(addr(172<<24+uint32(i)), 32)}})
	}
	out = append(out, nat.Allow{Protocol: -1, PortMax: 65535, Remotes: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}})
	for i := range uint32(n+63) / 64 { // outKeys has 64 flows a host
		in := addr(10<<24 + i)
		if way == "1to1" {
			p.Static = append(p.Static, nat.Static{Inside: in, Outside: addr(198<<24 + 18<<16 + i)})
		}
		if rules > 0 {
			p.Restrictions = append(p.Restrictions, nat.Restriction{Name: fmt.Sprint("host ", i), Hosts: []netip.Addr{in}, Out: out})
		}
	}
	return p
}

func addr(a uint32) netip.Addr { return netip.AddrFrom4([4]byte(be.AppendUint32(nil, a))) }

// BenchmarkRestricted translates packets of established flows of hosts that are restricted (rules=1) and of hosts that are
// not (rules=0), which leave 1:1 or through a pool. The two alternate, and x-free is the ratio of the medians.
func BenchmarkRestricted(b *testing.B) {
	for _, way := range ways {
		for _, p := range protocols {
			for _, flows := range []int{1, 65536, 1_000_000} {
				var ls []*engineLoad
				for _, dir := range []string{"out", "in", "both"} {
					b.Run(fmt.Sprintf("way=%s/proto=%s/flows=%d/dir=%s/batch=64", way.name, p.name, flows, dir), func(b *testing.B) {
						large(b, flows, 65536)
						for rules := len(ls); rules < 2; rules++ {
							l := newEmptyLoad(b, nat.Config{Sessions: flows}, restricted(flows, rules, way.name), newRing(p.proto))
							l.r.keys[0] = outKeys(flows, p.proto)
							l.establish(b, way.out, way.in)
							ls = append(ls, l)
						}
						const passes = 64
						var ns [2][]float64
						for _, l := range ls {
							l.r.direct(dir)
						}
						b.ReportAllocs()
						b.ResetTimer()
						for range max(1, b.N/(passes*ringSize)) {
							for i, l := range ls {
								each, done := l.r.pass(passes, l.translate)
								if done != passes*ringSize {
									b.Fatalf("%d of %d packets translated: %v", done, passes*ringSize, l.vs)
								}
								ns[i] = append(ns[i], each)
							}
						}
						b.StopTimer()
						for i, l := range ls {
							l.r.valid(b)
							want := flows
							if i == 0 && way.name == "1to1" {
								want = 0
							}
							if got := l.e.Stats(benchNow).Sessions; got != want {
								b.Fatalf("rules=%d: %d sessions, want %d", i, got, want)
							}
						}
						b.ReportMetric(0, "ns/op") // an operation is a packet, in whole rings
						b.ReportMetric(median(ns[1]), "ns/packet")
						b.ReportMetric(1e3/median(ns[1]), "Mpps")
						b.ReportMetric(median(ns[0]), "free-ns/packet")
						b.ReportMetric(median(ns[1])/median(ns[0]), "x-free")
					})
				}
			}
		}
	}
}

// BenchmarkRestrictedNewFlow fills an empty engine with the first packets of n UDP flows of restricted hosts, whose rules
// are all looked at: 60 is what a security group of AWS may have.
func BenchmarkRestrictedNewFlow(b *testing.B) {
	const flows = 65536
	for _, way := range ways {
		for _, rules := range []int{1, 60} {
			b.Run(fmt.Sprintf("way=%s/rules=%d/flows=%d/batch=64", way.name, rules, flows), func(b *testing.B) {
				r := newRing(packet.UDP)
				r.keys[0] = outKeys(flows, packet.UDP)
				r.direct("out")
				policy := restricted(flows, rules, way.name)
				b.ReportAllocs()
				b.ResetTimer()
				var ns []float64
				for range b.N {
					b.StopTimer()
					l := newEmptyLoad(b, nat.Config{Sessions: flows}, policy, r)
					l.want[0] = way.out
					b.StartTimer()
					each, done := r.pass(flows/ringSize, l.translate)
					b.StopTimer()
					if done != flows || l.e.Stats(time.Second).Sessions != done {
						b.Fatalf("%d of %d flows made: %v", done, flows, l.vs)
					}
					ns = append(ns, each)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(median(ns), "ns/flow")
			})
		}
	}
}

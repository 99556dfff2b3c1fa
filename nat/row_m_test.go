// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var allProtocols = []uint8{packet.TCP, packet.UDP, packet.ICMP}

func TestM1_OneExternalEndpointForAllDestinations(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), twoAddresses)}.run(t, func(g *gate) {
		for _, proto := range []uint8{packet.TCP, packet.UDP} {
			b := of(proto, at(A, 5000), at(R1, 53))
			r := g.want(g.out(b), nat.Outbound)
			ext := srcOf(r.b)
			if got := g.opens(proto, at(A, 5000), at(R2, 123)); got != ext {
				g.Errorf("protocol %d: %v to another destination, %v before", proto, got, ext)
			}
			// Nothing but source, port, TTL and checksums differs.
			want := bytes.Clone(b)
			copy(want[12:], ext.Addr().AsSlice())
			be.PutUint16(want[20:], ext.Port())
			want[8]--
			craft.Fix(want)
			if !bytes.Equal(r.b, want) {
				g.Errorf("got  %s\nwant %s", craft.Describe(r.b), craft.Describe(want))
			}
		}
	})
}

func TestM2_MappingDoesNotChangeWithLoad(t *testing.T) {
	for _, fill := range []int{0, 990} {
		p := policy(custom(ports(5000, 5999), func(f *nat.Profile) { f.PreservePort = true }))
		trial{policy: p, config: nat.Config{Sessions: 4096}, oneShard: true}.run(t, func(g *gate) {
			if got := g.opens(packet.UDP, at(A, 5000), at(R1, 53)); got != at(PA, 5000) {
				g.Fatalf("A has %v, want the port it asked for", got)
			}
			for i := range fill {
				g.opens(packet.UDP, at(C, uint16(20000+i)), at(R1, 53))
			}
			q := g.opens(packet.UDP, at(B, 5000), at(R1, 53))
			if q.Port() == 5000 {
				g.Fatal("B was given A's port")
			}
			for _, to := range []end{at(R2, 53), at(R1, 54)} {
				if got := g.opens(packet.UDP, at(B, 5000), to); got != q {
					g.Errorf("B has %v to %v and %v before", got, to, q)
				}
			}
			g.reaches(at(B, 5000), udp(at(R2, 9), q, "any"))
			g.reaches(at(A, 5000), udp(at(R2, 9), at(PA, 5000), "any"))
		})
	}
}

func TestM3_NoPortOverloading(t *testing.T) {
	type owner struct {
		proto uint8
		ext   end
	}
	trial{policy: policy(nat.RFCProfile(), twoAddresses), config: nat.Config{Sessions: 1 << 17}}.run(t, func(g *gate) {
		r := rand.New(rand.NewPCG(3, 3))
		owners := map[owner]end{}
		const flows, atOnce = 60_000, 64
		for n := 0; n < flows; n += atOnce {
			var bs [][]byte
			for range atOnce {
				in := at(addr10(r.IntN(500)), uint16(1024+r.IntN(60000)))
				bs = append(bs, of(allProtocols[r.IntN(3)], in, at(far(r.IntN(1000)), 1)))
			}
			for i, res := range g.outAll(bs) {
				g.want(res, nat.Outbound)
				o := owner{bs[i][9], srcOf(res.b)}
				owners[o] = srcOf(bs[i])
			}
			// Flows end all the time: pings after 60 s, SYNs after 240, datagrams after 300.
			g.at(g.now + 500*time.Millisecond)
			if n%(atOnce*150) != 0 {
				continue
			}
			live := map[owner]end{}
			for s := range g.e.Sessions(g.now) {
				o := owner{s.Protocol, s.External}
				if in, ok := live[o]; ok && in != s.Inside {
					g.Fatalf("%v is held by %v and %v", o, in, s.Inside)
				}
				live[o] = s.Inside
			}
			for o, in := range live {
				if owners[o] != in {
					g.Fatalf("%v is %v's, but was made for %v", o, in, owners[o])
				}
			}
		}
		for _, s := range g.sessions() {
			if s.Protocol == packet.UDP {
				g.reaches(s.Inside, udp(at(X, 9), s.External, "from anybody"))
			}
			g.reaches(s.Inside, answer(s.Protocol, s.Remote, s.External))
		}
		if s := g.stats(); s.Expired == 0 {
			g.Error("nothing has ended")
		}
	})
}

func TestM4_OverlappingPortsAreToldApartByRemote(t *testing.T) {
	p := policy(custom(overlapping, ports(40000, 40000), anyClass))
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		for _, proto := range []uint8{packet.UDP, packet.TCP} {
			flows := []struct{ in, rem end }{{at(A, 1), at(R1, 80)}, {at(B, 1), at(R2, 80)}, {at(C, 1), at(R1, 81)}}
			for _, f := range flows {
				if got := g.opens(proto, f.in, f.rem); got != at(PA, 40000) {
					g.Fatalf("%v leaves from %v", f.in, got)
				}
			}
			g.want(g.out(of(proto, at(B, 2), at(R1, 80))), nat.DropNoPort)
			for _, f := range flows {
				g.reaches(f.in, answer(proto, f.rem, at(PA, 40000)))
			}
			g.drops(nat.DropNoMapping, 1, answer(proto, at(R2, 81), at(PA, 40000)))
		}
	})
}

func TestM5_PairedAddress(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), twoAddresses)}.run(t, func(g *gate) {
		used := map[netip.Addr]int{}
		var mine netip.Addr
		for n := range 500 {
			proto := allProtocols[n%3]
			ext := g.opens(proto, at(A, uint16(2000+n)), at(far(n%7), 80)).Addr()
			if n == 0 {
				mine = ext
			}
			if ext != mine {
				g.Fatalf("flow %d leaves from %v, the first from %v", n, ext, mine)
			}
		}
		for n := range 100 { // other hosts use both
			used[g.opens(packet.UDP, at(addr10(n), 9), at(R1, 53)).Addr()]++
		}
		if used[PA] < 20 || used[PB] < 20 {
			g.Errorf("hosts by address: %v", used)
		}
	})
}

func TestM6_PairedAddressFull(t *testing.T) {
	for _, soft := range []bool{false, true} {
		f := custom(ports(2000, 2099), func(f *nat.Profile) {
			if soft {
				f.Pooling = nat.PairedSoft
			}
		})
		trial{policy: policy(f, twoAddresses), oneShard: true}.run(t, func(g *gate) {
			var first []end
			for n := range 100 {
				first = append(first, g.opens(packet.UDP, at(A, uint16(3000+n)), at(R1, 53)))
			}
			home := first[0].Addr()
			r := g.out(udp(at(A, 4000), at(R1, 53), ""))
			if soft {
				if ext := srcOf(g.want(r, nat.Outbound).b); ext.Addr() == home || !g.ours[ext.Addr()] {
					g.Errorf("the new flow leaves from %v, with %v full", ext, home)
				}
			} else {
				g.want(r, nat.DropNoPort)
				if len(r.emitted) != 1 || l4(r.emitted[0].b)[0] != packet.Unreachable || l4(r.emitted[0].b)[1] != 13 {
					g.Error("refused without ICMP 3/13")
				}
				if n := g.stats().Verdicts[nat.DropNoPort]; n != 1 {
					g.Errorf("counter no_port is %d", n)
				}
			}
			for n, ext := range first {
				in := at(A, uint16(3000+n))
				if ext.Addr() != home {
					g.Errorf("%v was at %v, others at %v", in, ext, home)
				}
				if got := g.opens(packet.UDP, in, at(R1, 53)); got != ext {
					g.Errorf("%v has moved from %v to %v", in, ext, got)
				}
			}
		})
	}
}

func TestM7_PortClass(t *testing.T) {
	for _, c := range []struct {
		f   nat.Profile
		low bool
	}{{nat.RFCProfile(), true}, {nat.AWSProfile(), false}, {nat.GatewayProfile(), false}} {
		trial{policy: policy(c.f)}.run(t, func(g *gate) {
			for n := range 100 {
				if got := g.opens(packet.UDP, at(addr10(n), 68), at(far(n), 67)); got.Port() < 1024 != c.low || got.Port() == 0 {
					g.Errorf("%s: port 68 became %v", c.f.Name, got)
				}
				if got := g.opens(packet.UDP, at(addr10(n), 5000), at(far(n), 67)); got.Port() < 1024 {
					g.Errorf("%s: port 5000 became %v", c.f.Name, got)
				}
			}
		})
	}
}

func TestM8_ParityIsAnOption(t *testing.T) {
	flows := func(g *gate, n int) (kept int) {
		for i := range n {
			if got := g.opens(packet.UDP, at(A, uint16(2000+i)), at(R1, 53)); int(got.Port())%2 == i%2 {
				kept++
			}
		}
		return kept
	}
	if f := nat.RFCProfile(); f.PreserveParity || nat.GatewayProfile().PreserveParity || nat.AWSProfile().PreserveParity {
		t.Error("parity is kept by default")
	}
	big := nat.Config{Sessions: 4096}
	trial{policy: policy(custom(func(f *nat.Profile) { f.PreserveParity = true })), config: big}.run(t, func(g *gate) {
		if kept := flows(g, 1000); kept != 1000 {
			g.Errorf("on: %d of 1000 kept", kept)
		}
		if n := g.stats().ParityLost; n != 0 {
			g.Errorf("%d said to be lost", n)
		}
	})
	trial{policy: policy(custom()), config: big}.run(t, func(g *gate) {
		if kept := flows(g, 1000); kept < 420 || kept > 580 {
			g.Errorf("off: %d of 1000 kept", kept)
		}
	})
	// With the even ports used up a host that asks for one gets an odd one, counted.
	p := policy(custom(ports(3000, 3019), func(f *nat.Profile) { f.PreserveParity = true }))
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		for i := range 12 {
			got := g.opens(packet.UDP, at(A, uint16(2000+2*i)), at(R1, 53))
			if even := got.Port()%2 == 0; even != (i < 10) {
				g.Errorf("flow %d has %v", i, got)
			}
		}
		if n := g.stats().ParityLost; n != 2 {
			g.Errorf("%d said to be lost, want 2", n)
		}
	})
}

func TestM9_PreservationIsAnOption(t *testing.T) {
	p := policy(custom(func(f *nat.Profile) { f.PreservePort = true }))
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		if got := g.opens(packet.UDP, at(A, 5000), at(R1, 53)); got.Port() != 5000 {
			g.Fatalf("A has %v", got)
		}
		var last uint16
		for i, h := range []netip.Addr{B, C, G} {
			q := g.opens(packet.UDP, at(h, 5000), at(R1, 53)).Port()
			if d := int(q) - int(last); q == 5000 || i > 0 && d > -16 && d < 16 {
				g.Errorf("a conflict was given %d, the one before %d", q, last)
			}
			last = q
		}
	})
	// Off, which is the default, ports tell nothing about each other.
	for _, f := range []nat.Profile{nat.RFCProfile(), nat.GatewayProfile(), nat.AWSProfile()} {
		if f.PreservePort {
			t.Errorf("%s: ports are preserved by default", f.Name)
		}
	}
	trial{policy: policy(custom()), config: nat.Config{Sessions: 1 << 14}}.run(t, func(g *gate) {
		const n = 10_000
		var sx, sy, sxx, syy, sxy float64
		for i := range n {
			x := float64(10000 + i)
			y := float64(g.opens(packet.UDP, at(A, uint16(x)), at(R1, 53)).Port())
			sx, sy, sxx, syy, sxy = sx+x, sy+y, sxx+x*x, syy+y*y, sxy+x*y
		}
		cov, vx, vy := sxy-sx*sy/n, sxx-sx*sx/n, syy-sy*sy/n
		if r2 := cov * cov / (vx * vy); r2 > 0.001 { // r beyond 0.03 in 1 of 600
			g.Errorf("inside and external port correlate: r² = %f", r2)
		}
	})
}

func TestM10_PortsAreUnpredictable(t *testing.T) {
	const flows = 50_000
	allocate := func(g *gate, n int) []uint16 {
		var got []uint16
		for i := 0; i < n; i += 100 {
			var bs [][]byte
			for j := range 100 {
				bs = append(bs, udp(at(addr10((i+j)%500), uint16(1024+(i+j)/500)), at(far(i+j), 53), ""))
			}
			for _, r := range g.outAll(bs) {
				got = append(got, srcOf(g.want(r, nat.Outbound).b).Port())
			}
		}
		return got
	}
	for _, c := range []struct {
		name string
		f    nat.Profile
		one  bool
	}{{"overlapping", custom(overlapping), false}, {"independent", custom(), true}} {
		trial{policy: policy(c.f), config: nat.Config{Sessions: 1 << 16}, oneShard: c.one}.run(t, func(g *gate) {
			ports := allocate(g, flows)
			var bins [64]float64
			runs := 0
			for i, p := range ports {
				bins[(int(p)-1024)*64/(65536-1024)]++
				if i >= 3 && ports[i-2] == ports[i-3]+1 && ports[i-1] == ports[i-2]+1 && p == ports[i-1]+1 {
					runs++
				}
			}
			chi := 0.0
			for _, n := range bins {
				d := n - flows/64.0
				chi += d * d / (flows / 64.0)
			}
			if chi > 92.01 { // 63 degrees of freedom, 1%
				g.Errorf("%s: chi-square of %.1f over 64 bins", c.name, chi)
			}
			if runs > 0 {
				g.Errorf("%s: %d runs of three steps", c.name, runs)
			}
		})
	}
	order := func(seed uint64) string {
		g := newGate(t, nat.Config{Seed: seed}, policy(custom()))
		return fmt.Sprint(allocate(g, 100))
	}
	if order(5) != order(5) {
		t.Error("equal seeds, different ports")
	}
	if order(5) == order(6) {
		t.Error("different seeds, equal ports")
	}
}

func TestM11_ProtocolsAreApart(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		c := g.dial(at(A, 5000), at(R1, 80))
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		g.at(sec(301))
		g.drops(nat.DropNoMapping, 1, udp(at(R1, 80), ext, "too late"))
		c.hears(ack, "still there")
		c.sends(ack, "still there")
	})
	// The same number may be given out twice, and each is its own.
	trial{policy: policy(custom(ports(2000, 2000), anyClass)), oneShard: true}.run(t, func(g *gate) {
		for _, proto := range []uint8{packet.TCP, packet.UDP} {
			in := at(A, uint16(5000+int(proto)))
			g.opens(proto, in, at(R1, 80))
			g.want(g.out(of(proto, at(B, 1), at(R1, 80))), nat.DropNoPort)
			g.reaches(in, answer(proto, at(R1, 80), at(PA, 2000)))
		}
	})
}

func TestM12_Filtering(t *testing.T) {
	for _, c := range []struct {
		how                      nat.Filtering
		samePort, sameHost, anys bool
	}{
		{nat.FilterEndpointIndependent, true, true, true},
		{nat.FilterAddressDependent, true, true, false},
		{nat.FilterAddressAndPortDependent, true, false, false},
	} {
		for k, proto := range []uint8{nat.ClassTCP: packet.TCP, nat.ClassUDP: packet.UDP} {
			// Selectable by protocol: the other protocols filter in another way.
			other := (c.how + 1) % 3
			f := custom(filtering(other), func(f *nat.Profile) { f.Filtering[k], f.HoldSYN = c.how, false })
			trial{policy: policy(f)}.run(t, func(g *gate) {
				ext := g.opens(proto, at(A, 5000), at(R1, 53))
				g.reaches(at(A, 5000), answer(proto, at(R1, 53), ext))
				for _, from := range []struct {
					rem    end
					passes bool
				}{{at(R1, 54), c.sameHost}, {at(R2, 53), c.anys}} {
					b := of(proto, from.rem, ext)
					if from.passes {
						g.reaches(at(A, 5000), b)
					} else {
						g.drops(nat.DropFiltered, 1, b)
					}
				}
			})
		}
	}
}

func TestM13_UnsolicitedMakesNothing(t *testing.T) {
	const n = 100_000
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		r := rand.New(rand.NewPCG(13, 1))
		before := g.state()
		for i := 0; i < n; i += 100 {
			var bs [][]byte
			for range 100 {
				bs = append(bs, udp(at(far(r.IntN(1<<24)), uint16(r.Uint32())), at(PA, uint16(r.Uint32())), "x"))
			}
			for _, res := range g.inAll(bs) {
				if g.want(res, nat.DropNoMapping); len(res.emitted) > 0 {
					g.Fatal("answered")
				}
			}
		}
		if after := g.state(); after != before {
			g.Errorf("%+v, before %+v", after, before)
		}
		if got := g.stats().Verdicts[nat.DropNoMapping]; got != n {
			g.Errorf("counted %d, want %d", got, n)
		}
	})
}

func TestM14_OutAndInIsIdentity(t *testing.T) {
	trial{policy: policy(custom(overlapping)), config: nat.Config{Sessions: 8192}}.run(t, func(g *gate) {
		r := rand.New(rand.NewPCG(14, 1))
		for range 4000 {
			in, rem := at(addr10(r.IntN(5000)), uint16(1+r.IntN(65535))), at(far(r.IntN(1<<20)), uint16(1+r.IntN(65535)))
			payload := make([]byte, r.IntN(64))
			for i := range payload {
				payload[i] = byte(r.Uint32())
			}
			ip := craft.IP{Src: in.Addr(), Dst: rem.Addr(), TTL: uint8(2 + r.IntN(200)), TOS: uint8(r.Uint32()), ID: uint16(r.Uint32()), DF: true}
			if r.IntN(3) == 0 {
				ip.Options = []byte{1, 7, 7, 4, 0, 0, 0, 0, 68, 4, 5, 0}[:1+7*r.IntN(2)]
			}
			proto := allProtocols[r.IntN(3)]
			build := func(src, dst end) []byte {
				ip := ip
				ip.Src, ip.Dst = src.Addr(), dst.Addr()
				switch proto {
				case packet.TCP:
					s := craft.Segment{Src: src.Port(), Dst: dst.Port(), Flags: syn, Seq: r.Uint32(), Window: 1000}
					if r.IntN(2) == 0 {
						s.Options = []byte{2, 4, 5, 0xb4, 1, 3, 3, 7}
					}
					return craft.TCP(ip, s, payload)
				case packet.UDP:
					return craft.UDP(ip, src.Port(), dst.Port(), payload)
				}
				typ, id := uint8(packet.Echo), src.Port()
				if src == rem {
					typ, id = packet.EchoReply, dst.Port()
				}
				return craft.Query(ip, typ, 0, id, 3, payload)
			}
			sent := build(in, rem)
			got := g.want(g.out(bytes.Clone(sent)), nat.Outbound).b
			equalBut(g.T, sent, got, 12)
			reply := build(rem, srcOf(got))
			back := g.reaches(in, bytes.Clone(reply))
			if proto != packet.ICMP && srcOf(back.b) != rem {
				g.Fatalf("comes from %v, want %v", srcOf(back.b), rem)
			}
			equalBut(g.T, reply, back.b, 16)
		}
	})
}

// equalBut checks that two packets are the same but for TTL, header checksum, the address at addr, its port or the
// ICMP identifier, and the transport checksum.
func equalBut(t *testing.T, a, b []byte, addr int) {
	t.Helper()
	a, b = bytes.Clone(a), bytes.Clone(b)
	if len(a) != len(b) {
		t.Fatalf("%d bytes became %d", len(a), len(b))
	}
	if a[8] != b[8]+1 {
		t.Fatalf("TTL %d became %d", a[8], b[8])
	}
	hlen := int(a[0]&15) * 4
	for _, p := range [][]byte{a, b} {
		clear(p[8:9])
		clear(p[10:12])
		clear(p[addr : addr+4])
		l4 := p[hlen:]
		switch p[9] {
		case packet.TCP, packet.UDP:
			port, sum := (addr-12)/2, checksumAt[p[9]]
			clear(l4[port : port+2])
			clear(l4[sum : sum+2])
		case packet.ICMP:
			clear(l4[2:6])
		}
	}
	if !bytes.Equal(a, b) {
		t.Fatalf("changed more than it may:\n% x\n% x", a, b)
	}
}

func TestM15_ReservedPorts(t *testing.T) {
	shadowed(t, []uint16{5351})
}

// shadowed checks that nobody can take the gateway's own ports (CVE-2021-3773).
func shadowed(t *testing.T, served []uint16) {
	preserve := custom(anyClass, func(f *nat.Profile) { f.PreservePort = true })
	p := policy(preserve, func(p *nat.Policy) {
		for _, port := range served {
			for _, proto := range []uint8{packet.TCP, packet.UDP} {
				p.Services = append(p.Services, nat.Service{Protocol: proto, Endpoint: at(PA, port)})
			}
		}
		p.Forwards = []nat.Forward{{Protocol: packet.UDP, Outside: at(PA, 7000), Inside: at(B, 53)}}
	})
	trial{policy: p, oneShard: true}.run(t, func(g *gate) {
		for _, port := range append(served, 7000) {
			if got := g.opens(packet.UDP, at(A, port), at(R1, 9)); got.Port() == port {
				g.Errorf("A has the gateway's port %d", port)
			}
		}
		for _, port := range served {
			b := udp(at(R1, 9), at(PA, port), "for the gateway")
			if r := g.want(g.in(bytes.Clone(b)), nat.ToHost); !bytes.Equal(r.b, b) {
				g.Error("changed on its way to the gateway")
			}
		}
		g.reaches(at(B, 53), udp(at(R1, 9), at(PA, 7000), "forwarded"))
	})
	// Nor when all other ports are gone.
	few := policy(custom(ports(served[0], served[0]+3)), func(q *nat.Policy) { q.Services = p.Services })
	trial{policy: few, oneShard: true}.run(t, func(g *gate) {
		for i := range 3 {
			if got := g.opens(packet.UDP, at(A, uint16(2000+i)), at(R1, 9)); got.Port() == served[0] {
				g.Errorf("A has the gateway's port %d", served[0])
			}
		}
		g.want(g.out(udp(at(A, 3000), at(R1, 9), "")), nat.DropNoPort)
	})
}

func TestM16_OverlappingAddressSpaceIsRefused(t *testing.T) {
	for name, change := range map[string]func(p *nat.Policy){
		"pool":     func(p *nat.Policy) { p.Pools[0].Addresses = []netip.Addr{ip4("10.0.9.9")} },
		"draining": func(p *nat.Policy) { p.Pools[0].Draining = []netip.Addr{ip4("10.0.9.9")} },
		"static":   static(A, ip4("10.0.9.9")),
		"unlent":   func(p *nat.Policy) { p.Unlent = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
		"twice":    static(A, PA),
	} {
		p := policy(nat.RFCProfile(), change)
		if _, err := nat.New(nat.Config{}, &p); err == nil {
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), "inside") && name != "twice" {
			t.Errorf("%s: the error does not say why: %v", name, err)
		}
	}
}

func TestM17_FullTableKeepsLiveSessions(t *testing.T) {
	const size = 512
	p := policy(nat.RFCProfile(), func(p *nat.Policy) { p.ICMPErrorsPerSecond = -1 })
	trial{policy: p, config: nat.Config{Sessions: size}, oneShard: true}.run(t, func(g *gate) {
		var exts []end
		for i := range size {
			in := at(A, uint16(2000+i))
			exts = append(exts, g.opens(packet.UDP, in, at(R1, 53)))
			if i%2 == 0 { // the others are live, too
				g.reaches(in, udp(at(R1, 53), exts[i], "answer"))
			}
		}
		for i := range 10 * size {
			proto := allProtocols[i%3]
			g.want(g.out(of(proto, at(addr10(1000+i), 9), at(R2, 53))), nat.DropTableFull)
		}
		if s := g.stats(); s.Sessions != size || s.Recycled != 0 || s.Mappings != size {
			g.Errorf("%+v", s)
		}
		for i, ext := range exts {
			in := at(A, uint16(2000+i))
			if got := g.opens(packet.UDP, in, at(R1, 53)); got != ext {
				g.Fatalf("%v has moved from %v to %v", in, ext, got)
			}
			g.reaches(in, udp(at(R1, 53), ext, "answer"))
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// The fates of a packet.
func leavesAs(src netip.Addr) string       { return fmt.Sprint("leaves as ", src) }
func arrivesAt(dst, src netip.Addr) string { return fmt.Sprint("arrives at ", dst, " from ", src) }
func fates(f ...string) []string           { return f }
func inVPC(ip netip.Addr) bool             { return prefix("10.0.0.0/16").Contains(ip) }
func (r *rules) runs(i *ruleIface) bool    { return i.host != "" && r.hosts[i.host].state == Running }
func (r *rules) isOpen(subnet string) (open bool) { // to the internet gateway, wherever to
	s := r.subnets[subnet]
	table := s.table
	if table == "" {
		table = r.vpcs[s.vpc].mainTable
	}
	for _, target := range r.tables[table].routes {
		open = open || r.leads(s.vpc, target) == "internet"
	}
	return open
}

// kind is what the start of a flow is to security groups: a protocol, and the port of the receiver or an ICMP type << 8.
type kind struct{ protocol, port int }

var kinds = []kind{{packet.TCP, 80}, {packet.UDP, 53}, {packet.ICMP, 8 << 8}, {packet.TCP, 22}, {packet.UDP, 61}}

// from is a packet of a kind from a port, or with that identifier.
func (k kind) from(src netip.Addr, port uint16, dst netip.Addr) flow {
	switch k.protocol {
	case packet.TCP:
		return tcp(src, port, dst, uint16(k.port))
	case packet.UDP:
		return udp(src, port, dst, uint16(k.port))
	}
	return echo(src, dst, port)
}

// public is the public address of a private one.
func (r *rules) public(iface string, ip netip.Addr) netip.Addr {
	if _, e := r.eipAt(iface, ip); e != nil {
		return e.ip
	}
	if i := r.ifaces[iface]; i.ips[0] == ip {
		return i.lent
	}
	return netip.Addr{}
}

// behind is the private address that the internet gateway of a VPC maps a public one to, if its host can be reached.
func (r *rules) behind(vpc string, public netip.Addr) netip.Addr {
	for id, i := range r.ifaces {
		for _, ip := range i.ips {
			if r.public(id, ip) == public && r.vpcOf(i) == vpc && r.runs(i) && r.isOpen(i.subnet) {
				return ip
			}
		}
	}
	return netip.Addr{}
}

// isElsewhere reports whether a public address is no business of this VPC: not of the region, or in use in another VPC.
func (r *rules) isElsewhere(vpc string, public netip.Addr) bool {
	if !prefix("198.51.100.16/28").Contains(public) {
		return true
	}
	for id, i := range r.ifaces {
		for _, ip := range i.ips {
			if r.public(id, ip) == public {
				return r.vpcOf(i) != vpc
			}
		}
	}
	for _, e := range r.eips {
		if e.ip == public && e.nat != "" {
			return r.subnets[r.nats[e.nat].subnet].vpc != vpc
		}
	}
	return false
}

// delivered is what becomes of a packet for a private address.
func (r *rules) delivered(vpc string, src, dst netip.Addr, k kind) string {
	for _, g := range r.nats {
		for _, a := range g.addrs {
			if g.private && a.ip == dst && r.subnets[g.subnet].vpc == vpc {
				return "" // a NAT gateway is nobody to talk to
			}
		}
	}
	for _, i := range r.ifaces {
		if r.vpcOf(i) == vpc && r.runs(i) && slices.Contains(i.ips, dst) && !r.allowed(i, 0, src, k.protocol, k.port) {
			return ""
		}
	}
	return arrivesAt(dst, src)
}

// throughGateway is what the internet gateway does with a packet that has a public source.
func (r *rules) throughGateway(vpc string, src, dst netip.Addr, k kind) string {
	if src == dst && k.protocol == packet.ICMP {
		return "" // both ends are the same, to the identifier (H-4)
	}
	if to := r.behind(vpc, dst); to.IsValid() {
		return r.delivered(vpc, src, to, k)
	}
	if r.isElsewhere(vpc, dst) {
		return leavesAs(src)
	}
	return ""
}

// fromHost is what may become of a packet of a host.
func (r *rules) fromHost(iface string, src, dst netip.Addr, k kind) []string {
	i := r.ifaces[iface]
	vpc := r.vpcOf(i)
	switch {
	case !r.runs(i) || !r.allowed(i, 1, dst, k.protocol, k.port):
		return fates("")
	case inVPC(dst):
		return fates(r.delivered(vpc, src, dst, k))
	}
	target := r.route(i.subnet, dst)
	switch r.leads(vpc, target) {
	case "transit":
		return fates(leavesAs(src))
	case "internet":
		if public := r.public(iface, src); public.IsValid() {
			return fates(r.throughGateway(vpc, public, dst, k))
		}
	case "nat":
		g := r.nats[target]
		second := r.leads(vpc, r.route(g.subnet, dst))
		var out []string
		for _, a := range g.addrs {
			switch {
			case !a.until.IsZero():
			case g.private && second == "transit":
				out = append(out, leavesAs(a.ip))
			case !g.private && second == "internet":
				out = append(out, r.throughGateway(vpc, r.eips[a.eip].ip, dst, k))
			default:
				return fates("")
			}
		}
		return out
	}
	return fates("")
}

// fromOutside is what becomes of a packet from elsewhere, by way of the internet or of a transit gateway.
func (r *rules) fromOutside(vpc string, src, dst netip.Addr, k kind) string {
	if to := r.behind(vpc, dst); to.IsValid() {
		return r.delivered(vpc, src, to, k)
	}
	for id, s := range r.subnets { // whether somebody has the address is not the engine's business
		if s.vpc == vpc && s.cidr.Contains(dst) && r.leads(vpc, r.route(id, src)) == "transit" {
			return r.delivered(vpc, src, dst, k)
		}
	}
	return ""
}

// holder is the running interface that has a private address, nil if there is none.
func (r *rules) holder(vpc string, ip netip.Addr) *ruleIface {
	for _, i := range r.ifaces {
		if r.vpcOf(i) == vpc && r.runs(i) && slices.Contains(i.ips, ip) {
			return i
		}
	}
	return nil
}

// matrix sends a packet from every address to every other, to the internet and to the peer network, and from those to
// every address, private and public, through the engine of each VPC. What arrives is answered, and the answer comes back
// whatever the security groups say.
func (r *rules) matrix(t *rapid.T) {
	for vpc := range r.vpcs {
		p, err := r.m.Policy(vpc)
		fatal(t, err)
		engine, err := nat.New(nat.Config{Seed: 1, Sessions: 4096}, p)
		fatal(t, err)
		w := engine.Worker()
		attachments := map[netip.Addr]nat.AttachmentID{}
		for _, a := range p.Attachments {
			for _, s := range a.Sources {
				attachments[s.Addr()] = a.ID
			}
		}
		// send says what becomes of a packet, and what it is then.
		send := func(from nat.AttachmentID, f flow) (string, flow) {
			q := packet.From(f.build(r.tb))
			v := w.Translate(&q, from, 0)
			if !v.Forward() {
				return "", f
			}
			out := read(r.tb, q.Bytes())
			if v.Side() == nat.Outside {
				return leavesAs(out.src), out
			}
			return arrivesAt(out.dst, out.src), out
		}
		destinations := []netip.Addr{internet, peer}
		for ip := addr("198.51.100.16"); ip != addr("198.51.100.32"); ip = ip.Next() {
			destinations = append(destinations, ip)
		}
		for ip := range r.taken(vpc) {
			destinations = append(destinations, ip)
		}
		slices.SortFunc(destinations, netip.Addr.Compare)
		port := uint16(1024) // another one for each packet
		next := func() (kind, uint16) { port++; return kinds[int(port)%len(kinds)], port }
		for _, n := range r.m.DescribeNetworkInterfaces() {
			if n.VPCID != vpc {
				continue
			}
			for _, a := range n.Addresses {
				for _, dst := range destinations {
					if dst == a.PrivateIP {
						continue
					}
					k, port := next()
					got, out := send(n.Attachment, k.from(a.PrivateIP, port, dst))
					if want := r.fromHost(n.ID, a.PrivateIP, dst, k); !slices.Contains(want, got) {
						t.Fatalf("%s: %v to %v, %v: %q, want %q", n.ID, a.PrivateIP, dst, k, got, want)
					}
					from := OutsideAttachment
					switch {
					case got == leavesAs(out.src) && r.isElsewhere(vpc, dst): // nobody outside answers for our own
					case got == arrivesAt(dst, a.PrivateIP) && r.holder(vpc, dst) != nil:
						from = attachments[dst]
					default:
						continue
					}
					if got, _ := send(from, out.reply()); got != arrivesAt(a.PrivateIP, dst) {
						t.Fatalf("%s: the answer of %v to %v, %v, as %v: %q", n.ID, dst, a.PrivateIP, k, out.src, got)
					}
				}
			}
		}
		for _, src := range []netip.Addr{internet, peer} {
			for _, dst := range destinations {
				if dst == internet || dst == peer {
					continue
				}
				k, port := next()
				got, out := send(OutsideAttachment, k.from(src, port, dst))
				if want := r.fromOutside(vpc, src, dst, k); got != want {
					t.Fatalf("%v to %v in %s, %v: %q, want %q", src, dst, vpc, k, got, want)
				}
				i := r.holder(vpc, out.dst)
				if got == "" || i == nil {
					continue
				}
				// The answer takes the way of the subnet, which may be another one.
				if way := r.leads(vpc, r.route(i.subnet, src)); way == "internet" && dst != out.dst || way == "transit" && dst == out.dst {
					if got, _ := send(attachments[out.dst], out.reply()); got != leavesAs(dst) {
						t.Fatalf("the answer of %v in %s, asked as %v by %v, %v: %q", out.dst, vpc, dst, src, k, got)
					}
				}
			}
		}
		fatal(t, engine.Check(0))
	}
}

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
func (r *rules) delivered(vpc string, src, dst netip.Addr, port int) string {
	for _, g := range r.nats {
		for _, a := range g.addrs {
			if g.private && a.ip == dst && r.subnets[g.subnet].vpc == vpc {
				return "" // a NAT gateway is nobody to talk to
			}
		}
	}
	for _, i := range r.ifaces {
		if r.vpcOf(i) == vpc && r.runs(i) && slices.Contains(i.ips, dst) && !r.allowed(i, 0, src, packet.TCP, port) {
			return ""
		}
	}
	return arrivesAt(dst, src)
}

// throughGateway is what the internet gateway does with a packet that has a public source.
func (r *rules) throughGateway(vpc string, src, dst netip.Addr, port int) string {
	if to := r.behind(vpc, dst); to.IsValid() {
		return r.delivered(vpc, src, to, port)
	}
	if r.isElsewhere(vpc, dst) {
		return leavesAs(src)
	}
	return ""
}

// fromHost is what may become of a packet of a host.
func (r *rules) fromHost(iface string, src, dst netip.Addr, port int) []string {
	i := r.ifaces[iface]
	vpc := r.vpcOf(i)
	switch {
	case !r.runs(i) || !r.allowed(i, 1, dst, packet.TCP, port):
		return fates("")
	case inVPC(dst):
		return fates(r.delivered(vpc, src, dst, port))
	}
	target := r.route(i.subnet, dst)
	switch r.leads(vpc, target) {
	case "transit":
		return fates(leavesAs(src))
	case "internet":
		if public := r.public(iface, src); public.IsValid() {
			return fates(r.throughGateway(vpc, public, dst, port))
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
				out = append(out, r.throughGateway(vpc, r.eips[a.eip].ip, dst, port))
			default:
				return fates("")
			}
		}
		return out
	}
	return fates("")
}

// fromOutside is what becomes of a packet from elsewhere, by way of the internet or of a transit gateway.
func (r *rules) fromOutside(vpc string, src, dst netip.Addr, port int) string {
	if to := r.behind(vpc, dst); to.IsValid() {
		return r.delivered(vpc, src, to, port)
	}
	for id, s := range r.subnets { // whether somebody has the address is not the engine's business
		if s.vpc == vpc && s.cidr.Contains(dst) && r.leads(vpc, r.route(id, src)) == "transit" {
			return r.delivered(vpc, src, dst, port)
		}
	}
	return ""
}

// matrix sends a packet from every address to every other, to the internet and to the peer network, and from those to
// every address, private and public, through the engine of each VPC. What is answered comes back.
func (r *rules) matrix(t *rapid.T) {
	for vpc := range r.vpcs {
		p, err := r.m.Policy(vpc)
		fatal(t, err)
		engine, err := nat.New(nat.Config{Seed: 1, Sessions: 4096}, p)
		fatal(t, err)
		w := engine.Worker()
		port := uint16(1024)
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
		for _, n := range r.m.DescribeNetworkInterfaces() {
			if n.VPCID != vpc {
				continue
			}
			for _, a := range n.Addresses {
				for _, dst := range destinations {
					if dst == a.PrivateIP {
						continue
					}
					port++
					got, out := send(n.Attachment, tcp(a.PrivateIP, port, dst, 80))
					if want := r.fromHost(n.ID, a.PrivateIP, dst, 80); !slices.Contains(want, got) {
						t.Fatalf("%s: %v to %v: %q, want %q", n.ID, a.PrivateIP, dst, got, want)
					}
					if got != leavesAs(out.src) || !r.isElsewhere(vpc, dst) { // nobody outside answers for our own
						continue
					}
					if got, _ := send(OutsideAttachment, out.reply()); got != arrivesAt(a.PrivateIP, dst) {
						t.Fatalf("%s: the answer of %v to %v, as %v: %q", n.ID, dst, a.PrivateIP, out.src, got)
					}
				}
			}
		}
		for _, src := range []netip.Addr{internet, peer} {
			for _, dst := range destinations {
				if dst == internet || dst == peer {
					continue
				}
				got, _ := send(OutsideAttachment, tcp(src, 6000, dst, 22))
				if want := r.fromOutside(vpc, src, dst, 22); got != want {
					t.Fatalf("%v to %v in %s: %q, want %q", src, dst, vpc, got, want)
				}
			}
		}
		fatal(t, engine.Check(0))
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/gopacket/layers"
)

// What the judge knows of the world, apart from the captures.
var (
	pool    = netip.MustParsePrefix("198.51.100.128/25")
	private = netip.MustParsePrefix("10.0.0.0/16")
	web     = netip.MustParseAddr("10.0.1.10")
	bastion = netip.MustParseAddr("10.0.1.20")
	was     = netip.MustParseAddr("10.0.2.10")
	db      = netip.MustParseAddr("10.0.2.20")
	mirror  = netip.MustParseAddr("203.0.113.10")
	client  = netip.MustParseAddr("203.0.113.18")
	scanner = netip.MustParseAddr("203.0.113.26")
)

// judge tells for each step, 1 to 8, what the captures say against it.
type judge struct {
	frames []*frame
	faults [9][]string

	// What was found out on the way: public addresses.
	web, bastion netip.Addr
	elastic      map[netip.Addr]netip.Addr // inside to public
	gateway      netip.Addr
}

func judgeCaptures(dir string) (*judge, error) {
	frames, err := readCaptures(dir)
	if err != nil {
		return nil, err
	}
	j := &judge{frames: frames, elastic: map[netip.Addr]netip.Addr{}}
	j.always()
	for i, f := range []func(){j.step1, j.step2, j.step3, j.step4, j.step5, j.step6, j.step7, j.step8} {
		if len(j.of(i+1, func(*frame) bool { return true })) == 0 {
			j.fault(i+1, "no packet at all")
			continue
		}
		f()
	}
	return j, nil
}

// differing are the numbers of the steps that something speaks against.
func (j *judge) differing() (steps []int) {
	for i, f := range j.faults {
		if len(f) > 0 {
			steps = append(steps, i)
		}
	}
	return steps
}

func (j *judge) fault(step int, format string, args ...any) {
	j.faults[step] = append(j.faults[step], fmt.Sprintf(format, args...))
}

// want notes a fault unless ok.
func (j *judge) want(step int, ok bool, format string, args ...any) {
	if !ok {
		j.fault(step, "missing: "+format, args...)
	}
}

// of are the frames of a step for which f is true.
func (j *judge) of(step int, f func(*frame) bool) (found []*frame) {
	for _, p := range j.frames {
		if p.step == step && f(p) {
			found = append(found, p)
		}
	}
	return found
}

func (j *judge) any(step int, f func(*frame) bool) bool { return len(j.of(step, f)) > 0 }

// inside and out select by place, addresses and, where not 0, ports.
func inside(port string, src, dst netip.Addr) func(*frame) bool {
	return func(p *frame) bool {
		return !p.outside && p.port == port && p.src.Addr() == src && p.dst.Addr() == dst
	}
}

func out(src, dst netip.Addr) func(*frame) bool {
	return func(p *frame) bool { return p.outside && p.src.Addr() == src && p.dst.Addr() == dst }
}

func and(fs ...func(*frame) bool) func(*frame) bool {
	return func(p *frame) bool {
		return !slices.ContainsFunc(fs, func(f func(*frame) bool) bool { return !f(p) })
	}
}

func to(port uint16) func(*frame) bool   { return func(p *frame) bool { return p.dst.Port() == port } }
func from(port uint16) func(*frame) bool { return func(p *frame) bool { return p.src.Port() == port } }
func says(text string) func(*frame) bool {
	return func(p *frame) bool { return bytes.Contains(p.payload, []byte(text)) }
}
func after(t time.Time) func(*frame) bool { return func(p *frame) bool { return p.at.After(t) } }
func tcp(p *frame) bool                   { return p.proto == layers.IPProtocolTCP }

// always is what no step may have.
func (j *judge) always() {
	for _, p := range j.frames {
		switch {
		case !p.sums:
			j.fault(p.step, "wrong checksum: %v", p)
		case p.outside && private.Contains(p.src.Addr()):
			j.fault(p.step, "private source outside: %v", p)
		case p.outside && pool.Contains(p.src.Addr()) == pool.Contains(p.dst.Addr()) && !private.Contains(p.dst.Addr()):
			j.fault(p.step, "no business of the edge: %v", p)
		}
	}
}

// step1: was and db talk by their private addresses, and the outside hears nothing.
func (j *judge) step1() {
	for _, port := range []string{"was", "db"} {
		j.want(1, j.any(1, and(inside(port, was, db), to(5432), (*frame).syn)), "SYN of was to db at %s", port)
		j.want(1, j.any(1, and(inside(port, db, was), from(5432), says("asked by 10.0.2.10"))), "answer of db at %s", port)
	}
	if p := j.of(1, func(p *frame) bool { return p.outside }); len(p) > 0 {
		j.fault(1, "seen outside: %v", p[0])
	}
}

// step2: the page comes from the public address, and the hosts behind it see each other's private ones.
func (j *judge) step2() {
	j.web = j.pageFrom(2)
	j.want(2, j.web.IsValid(), "the page, from a public address to the client")
	j.want(2, j.any(2, and(inside("web", client, web), to(80))), "the client at web")
	j.want(2, j.any(2, and(inside("was", web, was), to(8080), (*frame).syn)), "web at was")
	j.want(2, j.any(2, and(inside("db", was, db), to(5432), (*frame).syn)), "was at db")
}

// pageFrom is the public address that the client got the page from.
func (j *judge) pageFrom(step int) netip.Addr {
	for _, p := range j.of(step, and(from(80), says("page from was, asked by 10.0.1.10"))) {
		if p.outside && p.dst.Addr() == client && pool.Contains(p.src.Addr()) {
			return p.src.Addr()
		}
	}
	return netip.Addr{}
}

// step3: ssh to a public address, from there to was; a private address answers nobody outside.
func (j *judge) step3() {
	for _, p := range j.of(3, and(from(22), says("SSH-2.0"))) {
		if p.outside && p.dst.Addr() == client {
			j.bastion = p.src.Addr()
		}
	}
	j.want(3, pool.Contains(j.bastion) && j.bastion != j.web, "ssh from the client to a second public address")
	for host, a := range map[string]netip.Addr{"was": was, "db": db} {
		j.want(3, j.any(3, and(inside(host, a, bastion), from(22), says("SSH-2.0"))), "ssh from bastion to %s", host)
	}
	j.want(3, j.any(3, and(out(client, was), to(22), (*frame).syn)), "the client tries was itself")
	if j.any(3, func(p *frame) bool { return p.port == "was" && p.src.Addr() == client }) {
		j.fault(3, "the client reached was")
	}
}

// step4: was asks and nobody answers, nor does it get outside.
func (j *judge) step4() {
	j.want(4, j.any(4, and(inside("was", was, mirror), (*frame).syn)), "SYN of was to the mirror")
	if j.any(4, inside("was", mirror, was)) {
		j.fault(4, "the mirror answered")
	}
	if p := j.of(4, func(p *frame) bool { return p.outside && (p.src.Addr() == mirror || p.dst.Addr() == mirror) }); len(p) > 0 {
		j.fault(4, "seen outside: %v", p[0])
	}
}

// outsideOf is the frame outside that is p, read from an inside host, after translation: the same segment.
func (j *judge) outsideOf(p *frame) *frame {
	for _, q := range j.frames {
		if q.outside && q.step == p.step && tcp(q) && q.dst == p.dst && q.tcp.Seq == p.tcp.Seq && !q.at.Before(p.at) &&
			q.syn() == p.syn() && bytes.Equal(q.payload, p.payload) {
			return q
		}
	}
	return nil
}

// requests are the public addresses by which the mirror sees the requests of a host.
func (j *judge) requests(step int, host string, a netip.Addr) (seen []netip.Addr) {
	for _, p := range j.of(step, and(inside(host, a, mirror), to(80), says("GET /debian/"))) {
		if q := j.outsideOf(p); q == nil {
			j.fault(step, "a request of %s never got outside", host)
		} else if !slices.Contains(seen, q.src.Addr()) {
			seen = append(seen, q.src.Addr())
		}
	}
	return seen
}

// answered are the endpoints that answered the scanner.
func (j *judge) answered(step int) (open []string) {
	for _, p := range j.of(step, func(p *frame) bool { return p.outside && p.dst.Addr() == scanner && (!tcp(p) || p.synAck()) }) {
		if s := fmt.Sprintf("%v/%v", p.src, p.proto); p.proto != layers.IPProtocolICMPv4 && !slices.Contains(open, s) {
			open = append(open, s)
		}
	}
	slices.Sort(open)
	return open
}

func (j *judge) scan(step int, hosts map[string]netip.Addr) {
	var want []string
	for host, a := range hosts {
		ports := map[string][]int{"web": {22, 80}, "bastion": {22}, "was": {22, 8080}, "db": {22, 5432}}[host]
		for _, p := range ports {
			want = append(want, fmt.Sprintf("%v:%d/TCP", a, p))
		}
		want = append(want, fmt.Sprintf("%v:7/UDP", a))
	}
	slices.Sort(want)
	if got := j.answered(step); !slices.Equal(got, want) {
		j.fault(step, "the scanner heard from %s; expected %s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

// step5: each of the two has a public address of its own, for both ways.
func (j *judge) step5() {
	for host, a := range map[string]netip.Addr{"was": was, "db": db} {
		seen := j.requests(5, host, a)
		if len(seen) != 1 || !pool.Contains(seen[0]) || seen[0] == j.web || seen[0] == j.bastion {
			j.fault(5, "%s was seen as %v", host, seen)
			continue
		}
		j.elastic[a] = seen[0]
		j.want(5, j.any(5, and(out(mirror, seen[0]), says("HTTP/1.1 200"))), "answers of the mirror to %s", host)
		j.want(5, j.any(5, and(inside(host, mirror, a), says("HTTP/1.1 200"))), "answers of the mirror at %s", host)
	}
	if j.elastic[was] == j.elastic[db] {
		j.fault(5, "was and db share an address")
	}
	j.want(5, j.any(5, and(inside("was", mirror, was), says("!<arch>\ndebian-binary"))), "the package at was")
	j.scan(5, map[string]netip.Addr{"web": j.web, "bastion": j.bastion, "was": j.elastic[was], "db": j.elastic[db]})
}

// step6: after some moment nothing leaves from the two addresses and nothing for them arrives, though both ends try;
// web and bastion go on.
func (j *judge) step6() {
	left := j.of(6, func(p *frame) bool {
		return p.outside && (p.src.Addr() == j.elastic[was] || p.src.Addr() == j.elastic[db])
	})
	if len(left) == 0 {
		j.fault(6, "missing: a transfer")
		return
	}
	end := left[len(left)-1].at
	j.want(6, j.any(6, and(out(mirror, j.elastic[was]), after(end))), "the mirror still sends")
	tries := j.of(6, and(inside("was", was, mirror), (*frame).syn, after(end)))
	j.want(6, len(tries) > 0, "was still tries")
	for _, p := range j.of(6, and(inside("was", mirror, was), after(end))) {
		if len(tries) > 0 && p.at.After(tries[0].at) {
			j.fault(6, "the mirror got through: %v", p)
			break
		}
	}
	j.want(6, j.any(6, and(out(j.web, client), says("page from was"), after(end))), "pages of web go on")
	j.want(6, j.any(6, and(out(j.bastion, client), from(22), after(end))), "bastion goes on")
	opened := j.of(6, and(out(client, j.web), to(80), (*frame).syn))
	j.want(6, len(opened) == 1, "one connection for all pages: there are %d", len(opened))
	j.scan(6, map[string]netip.Addr{"web": j.web, "bastion": j.bastion})
}

// step7: both leave by one further address, with ports of their own, and nobody comes in.
func (j *judge) step7() {
	known := []netip.Addr{j.web, j.bastion, j.elastic[was], j.elastic[db]}
	for host, a := range map[string]netip.Addr{"was": was, "db": db} {
		seen := j.requests(7, host, a)
		if len(seen) != 1 || slices.Contains(known, seen[0]) || j.gateway.IsValid() && seen[0] != j.gateway {
			j.fault(7, "%s was seen as %v", host, seen)
			continue
		}
		j.gateway = seen[0]
		if j.any(7, inside(host, scanner, a)) {
			j.fault(7, "the scanner reached %s", host)
		}
	}
	var ports []uint16
	for host, a := range map[string]netip.Addr{"was": was, "db": db} {
		syns := j.of(7, and(inside(host, a, mirror), from(40000), (*frame).syn))
		if len(syns) == 0 {
			j.fault(7, "missing: %s from port 40000", host)
			continue
		}
		q := j.outsideOf(syns[0])
		if q == nil || q.src.Addr() != j.gateway {
			j.fault(7, "port 40000 of %s did not leave by the gateway", host)
			continue
		}
		ports = append(ports, q.src.Port())
		answer := j.of(7, func(p *frame) bool { return p.outside && p.src == q.dst && p.dst == q.src && p.synAck() })
		j.want(7, len(answer) > 0 && j.any(7, and(inside(host, mirror, a), to(40000), func(p *frame) bool {
			return p.synAck() && p.tcp.Seq == answer[0].tcp.Seq && p.tcp.Ack == answer[0].tcp.Ack
		})), "the answer to port 40000 of %s", host)
	}
	j.want(7, len(ports) == 2 && ports[0] != ports[1], "two external ports: %v", ports)

	hops := map[netip.Addr]bool{}
	narrow := false
	for _, p := range j.of(7, func(p *frame) bool {
		return p.port == "was" && p.dst.Addr() == was && p.proto == layers.IPProtocolICMPv4
	}) {
		if src, dst := p.quoted(); src != was || dst != mirror {
			j.fault(7, "an error that quotes %v to %v reached was", src, dst)
		}
		switch p.icmp.TypeCode {
		case layers.CreateICMPv4TypeCode(layers.ICMPv4TypeTimeExceeded, layers.ICMPv4CodeTTLExceeded),
			layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort):
			hops[p.src.Addr()] = true
		case layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded):
			narrow = narrow || p.icmp.Seq == 1400
		}
	}
	j.want(7, len(hops) == 4 && hops[mirror], "four hops, the mirror last: %v", hops)
	j.want(7, narrow, "a path MTU of 1400 told to was")
	j.scan(7, map[string]netip.Addr{"web": j.web, "bastion": j.bastion})
}

// step8: the old address is dead and another one serves the page.
func (j *judge) step8() {
	fresh := j.pageFrom(8)
	j.want(8, fresh.IsValid(), "the page, from a public address to the client")
	if slices.Contains([]netip.Addr{j.web, j.bastion, j.elastic[was], j.elastic[db], j.gateway}, fresh) {
		j.fault(8, "%v is not fresh", fresh)
	}
	if p := j.of(8, func(p *frame) bool { return p.outside && p.src.Addr() == j.web && p.dst.Addr() != client }); len(p) > 0 {
		j.fault(8, "the old address still speaks: %v", p[0])
	}
	j.scan(8, map[string]netip.Addr{"web": fresh, "bastion": j.bastion})
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/packet"
)

// lists are the parts of p that an explanation quotes, copied.
func (p *Policy) lists() Policy {
	q := Policy{
		Inside: slices.Clone(p.Inside), Routes: slices.Clone(p.Routes), Static: slices.Clone(p.Static), Unlent: slices.Clone(p.Unlent),
		Forwards: slices.Clone(p.Forwards), Services: slices.Clone(p.Services),
		Attachments: slices.Clone(p.Attachments), Pools: slices.Clone(p.Pools), Restrictions: slices.Clone(p.Restrictions),
	}
	copied := eachOnce(cloneAllows)
	for i := range q.Restrictions { // their hosts are in policy.bounds
		r := &q.Restrictions[i]
		r.Hosts, r.In, r.Out = nil, copied(r.In), copied(r.Out)
	}
	if len(q.Attachments) == 0 {
		q.Attachments = slices.Clone(defaultAttachments)
	}
	for i := range q.Attachments {
		q.Attachments[i].Sources = slices.Clone(q.Attachments[i].Sources)
	}
	for i := range q.Pools { // their addresses are in policy.owners
		q.Pools[i].Addresses, q.Pools[i].Draining = nil, nil
	}
	return q
}

func cloneAllows(all []Allow) []Allow {
	all = slices.Clone(all)
	for i := range all {
		all[i].Remotes = slices.Clone(all[i].Remotes)
	}
	return all
}

// explain finds the lines that the packet in b met, in the order in which it met them. It decides nothing: all that it
// asks are the tables that have decided.
func (c *policy) explain(b []byte, from AttachmentID, x *Explanation) []PolicyLine {
	t := tracer{c: c, x: x}
	if int(from) >= len(c.atts) || !c.atts[from].known {
		return nil
	}
	if fault := t.v.Parse(b); fault != packet.OK {
		return nil
	}
	switch x.Verdict {
	case DropMartian, DropLand, DropTTL: // no policy has a say in these
		return nil
	}
	if c.atts[from].side == Outside {
		t.inbound(t.v.Dst, t.v.Src)
	} else {
		t.outbound(from)
	}
	if len(c.bounds) > 0 {
		t.restrictions(c.atts[from].side)
	}
	return t.lines
}

// tracer collects lines.
type tracer struct {
	c     *policy
	x     *Explanation
	v     packet.View
	lines []PolicyLine
}

func (t *tracer) add(line, format string, args ...any) {
	l := PolicyLine{line, fmt.Sprintf(format, args...)}
	if !slices.Contains(t.lines, l) { // both passes of a hairpin may meet it
		t.lines = append(t.lines, l)
	}
}

func (t *tracer) outbound(from AttachmentID) {
	c, p, v := t.c, &t.c.lines, &t.v
	if t.x.Verdict == DropSpoof {
		i := slices.IndexFunc(p.Attachments, func(a Attachment) bool { return a.ID == from })
		if s := p.Attachments[i].Sources; len(s) > 0 {
			t.add(fmt.Sprintf("Attachments[%d].Sources", i), "%v", s)
		} else {
			t.add("Inside", "%v", p.Inside)
		}
		return
	}
	if o := c.owners.of(v.Dst); o.private {
		t.pool(int(o.pool))
		return
	}
	if c.owners.of(v.Dst).kind == inside {
		t.prefix("Inside", p.Inside, v.Dst)
		return
	}
	way, ok := t.route(v.Src, v.Dst)
	dst := c.owners.of(v.Dst)
	switch {
	case !ok || way.bypass:
		return
	case dst.kind != remote && c.hairpinOff:
		t.add("HairpinOff", "true")
		return
	case dst.kind == unlent:
		t.prefix("Unlent", p.Unlent, v.Dst)
		return
	}
	if way.static && c.outOf.get(v.Src) != 0 {
		t.static(func(s Static) bool { return to4(s.Inside) == v.Src })
	} else if way.pool >= 0 {
		t.pool(way.pool)
		if len(t.x.Sessions) > 0 { // the first is that of this pass
			s := &t.x.Sessions[0]
			t.forward(func(f Forward) bool { return f.Protocol == v.Proto && f.Outside == s.External && f.Inside == s.Inside })
		}
	}
	if dst.kind != remote {
		t.inbound(v.Dst, v.Src)
	}
}

// inbound is for a packet to dst, or the second pass of a hairpin.
func (t *tracer) inbound(dst, src uint32) {
	c, p, v := t.c, &t.c.lines, &t.v
	switch o := c.owners.of(dst); o.kind {
	case inside:
		if c.bypass {
			t.route(dst, src)
		}
	case unlent:
		t.prefix("Unlent", p.Unlent, dst)
	case static:
		t.static(func(s Static) bool { return to4(s.Outside) == dst })
	case external:
		at := netip.AddrPortFrom(from4(dst), v.DstPort)
		if i := slices.IndexFunc(p.Services, func(s Service) bool { return s.Protocol == v.Proto && s.Endpoint == at }); i >= 0 && t.x.Verdict == ToHost {
			t.add(fmt.Sprintf("Services[%d]", i), "%s %v is the gateway's own", ProtocolName(v.Proto), at)
			return
		}
		t.pool(int(o.pool))
		if v.Kind == packet.KindFlow {
			t.forward(func(f Forward) bool { return f.Protocol == v.Proto && f.Outside == at })
		}
	}
}

func (t *tracer) prefix(list string, ps []netip.Prefix, a uint32) {
	best := -1
	for i, q := range ps {
		if q.Contains(from4(a)) && (best < 0 || q.Bits() > ps[best].Bits()) {
			best = i
		}
	}
	if best >= 0 {
		t.add(fmt.Sprintf("%s[%d]", list, best), "%v", ps[best])
	}
}

func (t *tracer) route(src, dst uint32) (route, bool) {
	way, ok := t.c.route(src, dst)
	if !ok {
		t.add("Routes", "none leads from %v to %v", from4(src), from4(dst))
		return way, false
	}
	r := t.c.lines.Routes[way.line]
	to := "anywhere"
	if r.Destination.IsValid() {
		to = r.Destination.String()
	}
	how := "no way out"
	switch {
	case r.Bypass:
		how = "untranslated"
	case r.Static && r.Pool != "":
		how = fmt.Sprintf("by the 1:1 mapping of the source, else pool %q", r.Pool)
	case r.Static:
		how = "by the 1:1 mapping of the source"
	case r.Pool != "":
		how = fmt.Sprintf("pool %q", r.Pool)
	}
	t.add(fmt.Sprintf("Routes[%d]", way.line), "from %v to %s: %s", r.Source, to, how)
	return way, true
}

func (t *tracer) static(is func(Static) bool) {
	p := &t.c.lines
	if i := slices.IndexFunc(p.Static, is); i >= 0 {
		t.add(fmt.Sprintf("Static[%d]", i), "%v = %v", p.Static[i].Inside, p.Static[i].Outside)
	}
}

func (t *tracer) forward(is func(Forward) bool) {
	p := &t.c.lines
	if i := slices.IndexFunc(p.Forwards, is); i >= 0 {
		f := p.Forwards[i]
		t.add(fmt.Sprintf("Forwards[%d]", i), "%s %v to %v", ProtocolName(f.Protocol), f.Outside, f.Inside)
	}
}

func (t *tracer) pool(number int) {
	d := &t.c.pools[number]
	i := slices.IndexFunc(t.c.lines.Pools, func(q Pool) bool { return q.Name == d.name })
	k, ok := class(t.v.Proto)
	if !ok {
		t.add(fmt.Sprintf("Pools[%d]", i), "%q: protocol %d has no ports to translate", d.name, t.v.Proto)
		return
	}
	t.add(fmt.Sprintf("Pools[%d]", i), "%q: %s mapping, %s filtering", d.name,
		[...]string{"endpoint-independent", "address-and-port-dependent"}[d.Mapping[k]],
		[...]string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}[d.Filtering[k]])
}

// restrictions are those of the hosts that send and receive the packet.
func (t *tracer) restrictions(from Side) {
	c, v := t.c, t.v
	if from == Inside {
		t.restriction(c.boundOf(v.Src), Out, v.DstPort, v.Dst)
	}
	host, port := v.Dst, v.DstPort
	switch o := c.owners.of(v.Dst); o.kind {
	case static:
		host = c.inOf.get(v.Dst)
	case external:
		if to, ok := c.forwardsIn[endpoint{v.Dst, v.DstPort, v.Proto}]; ok {
			host, port = to.addr, to.port
		} else if n := len(t.x.Sessions); n > 0 {
			in := t.x.Sessions[n-1].Inside
			host, port = to4(in.Addr()), in.Port()
		}
	}
	if from == Inside && host == v.Src { // it went no further than its sender's session
		return
	}
	if from == Inside && c.outOf.get(v.Src) != 0 && c.owners.of(v.Dst).kind != inside {
		v.Src = c.outOf.get(v.Src) // as the other host of a hairpin sees it
	}
	t.restriction(c.boundOf(host), In, port, v.Src)
}

func (t *tracer) restriction(b *bound, d Direction, port uint16, rem uint32) {
	if b == nil {
		return
	}
	line, list, who := fmt.Sprintf("Restrictions[%d]", b.line), "Out", "to"
	if d == In {
		list, who = "In", "from"
	}
	i := b.covers(d, &t.v, port, rem)
	if i < 0 && t.x.Verdict != DropNotAllowed {
		t.add(line, "%q of %v: it is of a flow that was allowed", b.name, from4(b.host))
		return
	}
	if i < 0 {
		t.add(line, "%q of %v: no rule of %s covers it", b.name, from4(b.host), list)
		return
	}
	r := &t.c.lines.Restrictions[b.line]
	a := r.Out
	if d == In {
		a = r.In
	}
	t.add(fmt.Sprintf("%s.%s[%d]", line, list, i), "%q of %v: %s %s %s", b.name, from4(b.host), a[i].text(), who, a[i].remotes())
}

func (a *Allow) text() string {
	what := "all protocols"
	if a.Protocol >= 0 {
		if what = ProtocolName(uint8(a.Protocol)); what == "" {
			what = fmt.Sprintf("protocol %d", a.Protocol)
		}
	}
	switch {
	case !hasPorts(a.Protocol) || a.PortMin == 0 && a.PortMax == 1<<16-1:
		return what
	case a.Protocol == packet.ICMP:
		from, to := icmpName(uint8(a.PortMin>>8), uint8(a.PortMin)), icmpName(uint8(a.PortMax>>8), uint8(a.PortMax))
		if from == to {
			return fmt.Sprintf("%s %s", what, from)
		}
		return fmt.Sprintf("%s %s to %s", what, from, to)
	case a.PortMin == a.PortMax:
		return fmt.Sprintf("%s port %d", what, a.PortMin)
	}
	return fmt.Sprintf("%s ports %d-%d", what, a.PortMin, a.PortMax)
}

func (a *Allow) remotes() string {
	if len(a.Remotes) == 0 {
		return "anywhere"
	}
	return fmt.Sprint(a.Remotes)
}

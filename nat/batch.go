// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"math/bits"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// Theory of operation of a batch.
//
// The time of an established packet is two cache misses: the slot of the index and the record. So up to 64 packets go
// through four stages together, and the misses of a stage overlap: parse and hash all; load all buckets; find them there and
// load all records; verify, track and rewrite one after the other. Whatever is not plainly an established packet (a
// fault, a fragment, an error, a new flow, an old policy, a hairpin) is taken through Worker.one at its place in the
// order, so that a batch has the results of so many single calls. New flows out through a pool have stages of their own
// before that: their ports are random, but the next random numbers can be seen (numbers), so all that they will touch
// is loaded together (expect).
//
// With several shards the packets of one shard go through the later stages together, under one lock. Two packets of
// one flow and direction are in one shard, so they keep their order.

// stages takes at most maxBatch packets of one attachment through; base is the place of the first in the caller's batch.
func (w *Worker) stages(ps []packet.Packet, from AttachmentID, vs []Verdict, base int) {
	pol := w.pol
	items := w.items[:len(ps)]
	if int(from) >= len(pol.atts) || !pol.atts[from].known {
		for i := range ps {
			vs[i] = w.count(DropAttachment)
		}
		return
	}
	att := &pol.atts[from]
	w.parse(ps, items, att.router)
	shards := w.place(items, att)
	for shards != 0 {
		n := bits.TrailingZeros64(shards)
		shards &= shards - 1
		sh := w.enter(n)
		if missed := w.lookup(sh, items, att.side, uint8(n)); missed > 1 && att.side == Inside {
			w.expect(sh, items, att, uint8(n))
		}
		fresh := false // a slow packet may have moved what the lookups found
		for i := range items {
			it := &items[i]
			if int(it.shard) != n {
				continue
			}
			w.cause = base + i
			if it.state == fast {
				if fresh {
					w.enter(n)
					w.relookup(sh, it, att.side)
				}
				v := Unset
				switch {
				case it.h == conntrack.None:
				case att.side == Inside:
					v = w.hitOut(sh, &ps[i], it, from, att)
				default:
					v = w.hitIn(sh, &ps[i], it, from, att)
				}
				if v != Unset {
					vs[i] = w.count(v)
					continue
				}
			}
			switch it.state {
			case pair:
				vs[i] = w.count(w.swap(&ps[i], it, att))
			case opens:
				fresh = true
				vs[i] = w.open1(&ps[i], it, from, att)
			default:
				fresh = true
				vs[i] = w.one(&ps[i], from, base+i)
			}
		}
	}
}

// parse is the first stage: those that a lookup may do are fast.
func (w *Worker) parse(ps []packet.Packet, items []item, router bool) {
	minTTL, maxLen := uint8(0), w.pol.minMTU
	if router {
		minTTL = 2
	}
	for i := range items {
		p, it := &ps[i], &items[i]
		it.state = slow
		if it.v.Parse(p.Bytes()) == packet.OK && it.v.Kind == packet.KindFlow && it.v.TTL >= minTTL && p.WireLen() <= maxLen {
			p.Len = int(it.v.Total)
			it.state = fast
		}
	}
}

// place is the second half of it: tag, and shard. It returns the set of shards that the packets belong to; those for the
// slow path are in the shard of their place among the others, or the first.
func (w *Worker) place(items []item, att *attachment) (shards uint64) {
	if w.pol.outOf.n > 0 || w.pol.restricted.n > 0 || len(w.e.shards) > 1 {
		return w.placeEach(items, att)
	}
	t := w.e.shards[0].t
	for i := range items {
		it := &items[i]
		it.shard = 0
		v := &it.v
		if v.Proto == packet.ICMP {
			it.asked(att.side)
		}
		if att.side == Inside {
			it.tag = t.OutTag(v.Src, v.Dst, outPorts(v), v.Proto)
		} else {
			it.tag = t.InTag(v.Dst, v.Src, v.DstPort, v.Proto)
		}
	}
	return 1
}

// asked leaves an ICMP query to the slow path that is not answered, or asked, on the side that it comes from: the
// identifier is the inside's or the external one.
func (it *item) asked(side Side) {
	if query := it.v.Type == packet.Echo || it.v.Type == packet.Timestamp; query != (side == Inside) {
		it.state = slow
	}
}

// placeEach is place where there is more to look at than one table.
func (w *Worker) placeEach(items []item, att *attachment) (shards uint64) {
	pol, e := w.pol, w.e
	sharded, inside := len(e.shards) > 1, att.side == Inside
	for i := range items {
		it := &items[i]
		it.shard = 0
		v := &it.v
		if it.state == fast {
			if pol.restricted.n > 0 && v.Proto == packet.TCP && v.Flags&(packet.SYN|packet.ACK) == packet.SYN {
				it.state = slow // it may be barred though its session lives
			}
			if v.Proto == packet.ICMP {
				it.asked(att.side)
			}
			if w.static(it, att) {
				shards |= 1
				continue
			}
			switch {
			case !sharded:
			case inside:
				it.shard = uint8(e.shardOf(v.Src, v.SrcPort, v.Proto))
			default:
				if to, ok := pol.forwardsIn[endpoint{v.Dst, v.DstPort, v.Proto}]; ok {
					it.shard = uint8(e.shardOf(to.addr, to.port, to.proto))
				} else {
					it.shard = uint8(e.shardOfPort(v.DstPort))
				}
			}
			if t := e.shards[it.shard].t; inside {
				it.tag = t.OutTag(v.Src, v.Dst, outPorts(v), v.Proto)
			} else {
				it.tag = t.InTag(v.Dst, v.Src, v.DstPort, v.Proto)
			}
		}
		shards |= 1 << (it.shard & 63)
	}
	return shards
}

// static looks whether it is a packet of a 1:1 host, and then whether that is all there is to it.
func (w *Worker) static(it *item, att *attachment) bool {
	pol, v := w.pol, &it.v
	if att.side == Inside {
		if ext := pol.alwaysOut.get(v.Src); ext != 0 && pol.owners.surelyRemote(v.Dst) && (att.sources == nil || att.sources.Contains(from4(v.Src))) {
			it.state, it.other = pair, ext
			return true
		}
		if pol.outOf.get(v.Src) != 0 {
			it.state = slow
			return true
		}
		return false
	}
	in := pol.inOf.get(v.Dst)
	if in == 0 {
		return false
	}
	if it.state = slow; pol.owners.surelyRemote(v.Src) && len(pol.services) == 0 && !(pol.restricted.n > 0 && pol.boundOf(in) != nil) {
		it.state, it.other = pair, in
	}
	return true
}

// lookup is the second and third stage for the packets of one shard.
func (w *Worker) lookup(sh *shard, items []item, side Side, n uint8) (missed int) {
	m := 0
	for i := range items {
		if it := &items[i]; it.state == fast && it.shard == n {
			w.tags[m], w.at[m] = it.tag, uint8(i)
			m++
		}
	}
	tags, hs := w.tags[:m], w.hs[:m]
	if side == Inside {
		w.touched += sh.t.LookupOut(tags, hs)
	} else {
		w.touched += sh.t.LookupIn(tags, hs)
	}
	for i, h := range hs {
		if items[w.at[i]].h = h; h == conntrack.None {
			missed++
		}
	}
	return missed
}

// expect is what the second and third stage are for packets without a session that go out through a pool: most of them will
// make one. It loads what that takes: the slots of the mapping, of the ports that the allocator will look at, and of the
// session, and who has those ports. What another flow changes meanwhile makes a guess wrong, and nothing else.
func (w *Worker) expect(sh *shard, items []item, att *attachment, number uint8) {
	t := sh.t
	n, m := 0, 0
	for i := range items {
		it := &items[i]
		if it.state != fast || it.shard != number || it.h != conntrack.None {
			continue
		}
		v := &it.v
		pool, ok := w.plainPool(att, v)
		if !ok {
			continue
		}
		it.state, it.pool = opens, uint16(pool)
		f := &w.flows[n]
		k, _ := class(v.Proto)
		f.item, f.settled, f.independent = uint8(i), false, w.pol.pools[pool].Mapping[k] == EndpointIndependent
		if f.independent {
			w.tags[m], w.at[m] = t.MappingTag(v.Src, v.SrcPort, it.pool, v.Proto), uint8(n)
			m++
		}
		n++
	}
	flows := w.flows[:n]
	touched := t.TouchFree(n) + t.LookupMapping(w.tags[:m], w.hs[:m])
	for i, h := range w.hs[:m] {
		if h != conntrack.None { // it has a port already
			flows[w.at[i]].settled = true
		}
	}
	words := uint32(0)
	for i := range flows {
		if f := &flows[i]; !f.settled {
			f.settled = !w.foresee(sh, f, &items[f.item], words)
			f.foreseen = !f.settled
			words++
		} else {
			f.foreseen = false
		}
	}
	for round := range foreseen {
		touched += w.expectPorts(sh, items, flows, round, true) + w.expectPorts(sh, items, flows, round, false)
	}
	for i := range flows {
		if f := &flows[i]; f.independent && f.foreseen {
			v := &items[f.item].v
			touched += t.TouchIn(t.InTag(f.ext, v.Dst, f.port, v.Proto))
		}
	}
	w.touched += touched
}

// expectPorts looks who has the next port of each flow of one kind of mapping that has found none yet.
func (w *Worker) expectPorts(sh *shard, items []item, flows []newFlow, round int, independent bool) (touched uint64) {
	t, m := sh.t, 0
	for i := range flows {
		f := &flows[i]
		if f.settled || f.independent != independent {
			continue
		}
		v := &items[f.item].v
		f.port = f.ports[round]
		if w.at[m] = uint8(i); independent {
			w.tags[m] = t.HolderTag(f.ext, f.port, v.Proto)
		} else {
			w.tags[m] = t.InTag(f.ext, v.Dst, f.port, v.Proto)
		}
		m++
	}
	tags, hs := w.tags[:m], w.hs[:m]
	if independent {
		touched = t.LookupHolder(tags, hs)
	} else {
		touched = t.LookupIn(tags, hs)
	}
	for i, h := range hs {
		flows[w.at[i]].settled = h == conntrack.None
	}
	return touched
}

// foresee finds the address and the ports that the allocator will look at, if so many flows get a random word before this
// one. It reports false if there are none.
func (w *Worker) foresee(sh *shard, f *newFlow, it *item, words uint32) bool {
	v, d := &it.v, &w.pol.pools[it.pool]
	k, _ := class(v.Proto)
	q := want{
		proto: v.Proto, k: k, pool: d, in: v.Src, inPort: v.SrcPort, rem: v.Dst, remPort: uint16(outPorts(v)), independent: f.independent,
		span: w.spanOf(d, k, v.Src, v.SrcPort, sh.number), random: sh.random.ahead(words),
	}
	if len(d.addrs) == 0 || q.span.n == 0 {
		return false
	}
	f.ext = d.addrs[w.e.firstAddress(&q)]
	ports := f.ports[:]
	if d.PreservePort && q.span.has(uint32(q.inPort)) {
		ports[0], ports = q.inPort, ports[1:]
	}
	q.onlyParity, q.parityOfPort = d.PreserveParity && k != ClassICMP, uint32(q.inPort)&1
	if c := sh.crowds.find(&q, f.ext); c != nil {
		i, ok := c.choose(&q)
		for j := range ports {
			ports[j] = uint16(q.span.port(i))
		}
		return ok || len(ports) < foreseen
	}
	for j := range ports {
		ports[j] = uint16(q.guess())
	}
	return true
}

// plainPool is the pool that a packet from inside goes out through where fromInside would find nothing else to do.
func (w *Worker) plainPool(att *attachment, v *packet.View) (number int, ok bool) {
	pol := w.pol
	if !pol.owners.surelyRemote(v.Dst) || v.Src == v.Dst || !att.allows(pol, v.Src) {
		return 0, false
	}
	way, ok := pol.route(v.Src, v.Dst)
	if !ok || way.bypass || way.pool < 0 || way.static && pol.outOf.get(v.Src) != 0 {
		return 0, false
	}
	return way.pool, true
}

// open1 is one for a packet that plainPool has found a pool for.
func (w *Worker) open1(p *packet.Packet, it *item, from AttachmentID, att *attachment) Verdict {
	f := flow{p: p, v: it.v, from: from, att: att, length: p.Len - int(it.v.L4), pool: int(it.pool), dir: Out}
	before := len(w.emitted)
	return w.settle(&f, w.naptOut(&f, f.pool, owner{}), before)
}

// relookup does for one packet what lookup did, for after the table has changed.
func (w *Worker) relookup(sh *shard, it *item, side Side) {
	if side == Inside {
		it.h = sh.t.CandidateOut(it.tag)
	} else {
		it.h = sh.t.CandidateIn(it.tag)
	}
}

// outPorts is the port word of an outbound tuple.
func outPorts(v *packet.View) uint32 {
	if v.Proto == packet.ICMP {
		return uint32(v.SrcPort) << 16
	}
	return uint32(v.SrcPort)<<16 | uint32(v.DstPort)
}

// hitOut translates a packet of an established session, of which it.h is a candidate, on its way out, or returns Unset,
// having done nothing.
func (w *Worker) hitOut(sh *shard, p *packet.Packet, it *item, from AttachmentID, att *attachment) Verdict {
	v, r := &it.v, sh.t.Rec(it.h)
	if ports := outPorts(v); !r.OwnsOut(v.Src, v.Dst, ports, v.Proto) {
		h := sh.t.FindOut(it.tag, v.Src, v.Dst, ports, v.Proto)
		if h == conntrack.None {
			return Unset
		}
		it.h, r = h, sh.t.Rec(h)
	}
	if r.Attachment != uint16(from) || !w.current(sh.t, r) { // another attachment: its source is to be checked
		return Unset
	}
	b := p.Buf[p.Off : p.Off+p.Len]
	l4 := b[v.L4:]
	_, _ = b[19], l4[7]
	tracked := r.Has(conntrack.Replied)
	switch {
	case v.Proto == packet.TCP:
		_ = l4[19]
		tracked = v.Flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) == packet.ACK && r.TrackData(conntrack.Out,
			be.Uint32(l4[4:]), be.Uint32(l4[8:]), uint32(len(l4)-int(l4[12]>>4)*4), be.Uint16(l4[14:]), w.tick)
	case tracked: // RFC 4787 REQ-6
		r.LastSeen = w.tick
	}
	if tracked {
		if c := sh.t.Count(it.h); c != nil {
			sh.countOne(c, it.h, conntrack.Out, v.Total)
		}
	} else if !w.trackSlowly(sh, p, it, conntrack.Out, from, att) {
		return DropOutOfWindow
	}
	addr := packet.NoDeltas.Plus(packet.Delta(r.Delta))
	be.PutUint32(b[12:], r.Ext)
	ip := addr
	if att.router {
		b[8]--
		ip = ip.Plus(ttlStep)
	}
	if !v.DF {
		id := w.e.nextID(r.Ext, v.Dst, v.Proto, p.Segments())
		ip = ip.Word(v.ID, id)
		be.PutUint16(b[4:], id)
	}
	be.PutUint16(b[10:], ip.Apply(be.Uint16(b[10:])))
	if v.Proto == packet.ICMP {
		rewriteQuery(l4, r.ExtPort, packet.Delta16(r.InPort, r.ExtPort))
		return Outbound
	}
	be.PutUint16(l4, r.ExtPort)
	both := addr.Word(r.InPort, r.ExtPort)
	switch {
	case p.Offload.Csum == packet.CsumPartial:
		w.adjustPartial(v, l4, addr)
	case v.Proto == packet.UDP:
		be.PutUint16(l4[6:], both.ApplyUDP(be.Uint16(l4[6:])))
	default:
		_ = l4[17]
		be.PutUint16(l4[16:], both.Apply(be.Uint16(l4[16:])))
		if v.Flags&packet.SYN != 0 && w.pol.mssClamp != 0 {
			clampMSS(l4, w.pol.mssClamp, false)
		}
	}
	return Outbound
}

// hitIn is hitOut for the way in.
func (w *Worker) hitIn(sh *shard, p *packet.Packet, it *item, from AttachmentID, att *attachment) Verdict {
	v, r := &it.v, sh.t.Rec(it.h)
	remPort := v.SrcPort
	if v.Proto == packet.ICMP {
		remPort = 0
	}
	// Another candidate, or a session that is not the first of its mapping's to this address: the slow path knows.
	if !r.OwnsIn(v.Src, v.Dst, uint32(remPort)<<16|uint32(v.DstPort), v.Proto) {
		h, _ := sh.t.FindIn(it.tag, v.Dst, v.Src, v.DstPort, remPort, v.Proto)
		if h == conntrack.None {
			return Unset
		}
		it.h, r = h, sh.t.Rec(h)
	}
	if !w.current(sh.t, r) {
		return Unset
	}
	b := p.Buf[p.Off : p.Off+p.Len]
	l4 := b[v.L4:]
	_, _ = b[19], l4[7]
	tracked := r.Has(conntrack.Replied)
	switch {
	case v.Proto == packet.TCP:
		_ = l4[19]
		tracked = v.Flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) == packet.ACK && r.TrackData(conntrack.In,
			be.Uint32(l4[4:]), be.Uint32(l4[8:]), uint32(len(l4)-int(l4[12]>>4)*4), be.Uint16(l4[14:]), w.tick)
	case tracked && w.pol.pools[r.Pool].InboundRefresh: // RFC 4787 REQ-6
		r.LastSeen = w.tick
	}
	if tracked {
		if c := sh.t.Count(it.h); c != nil {
			sh.countOne(c, it.h, conntrack.In, v.Total)
		}
	} else if !w.trackSlowly(sh, p, it, conntrack.In, from, att) {
		return DropOutOfWindow
	}
	addr := packet.NoDeltas.Minus(packet.Delta(r.Delta))
	be.PutUint32(b[16:], r.In)
	ip := addr
	if att.router {
		b[8]--
		ip = ip.Plus(ttlStep)
	}
	be.PutUint16(b[10:], ip.Apply(be.Uint16(b[10:])))
	if v.Proto == packet.ICMP {
		rewriteQuery(l4, r.InPort, packet.Delta16(r.ExtPort, r.InPort))
		return Inbound
	}
	be.PutUint16(l4[2:], r.InPort)
	both := addr.Word(r.ExtPort, r.InPort)
	switch {
	case p.Offload.Csum == packet.CsumPartial:
		w.adjustPartial(v, l4, addr)
	case v.Proto == packet.UDP:
		be.PutUint16(l4[6:], both.ApplyUDP(be.Uint16(l4[6:])))
	default:
		_ = l4[17]
		be.PutUint16(l4[16:], both.Apply(be.Uint16(l4[16:])))
		if v.Flags&packet.SYN != 0 && w.pol.mssClamp != 0 {
			clampMSS(l4, w.pol.mssClamp, false)
		}
	}
	return Inbound
}

// adjustPartial changes the sum over the pseudo-header in a TCP or UDP header.
func (w *Worker) adjustPartial(v *packet.View, l4 []byte, addr packet.Deltas) {
	if v.Proto == packet.UDP {
		be.PutUint16(l4[6:], addr.Delta().ApplyPartial(be.Uint16(l4[6:])))
		return
	}
	be.PutUint16(l4[16:], addr.Delta().ApplyPartial(be.Uint16(l4[16:])))
	if v.Flags&packet.SYN != 0 && w.pol.mssClamp != 0 {
		clampMSS(l4, w.pol.mssClamp, true)
	}
}

// current reports whether r is alive, under the policy that it was last looked at with, and translates to the other side.
func (w *Worker) current(t *conntrack.Table, r *conntrack.Record) bool {
	return r.Epoch == w.pol.epoch && w.tick-r.LastSeen < t.Timeout(r) && r.Bits&(conntrack.Looped|conntrack.Filter) == 0
}

// trackSlowly is track for what no short cut knows. It books what it drops.
func (w *Worker) trackSlowly(sh *shard, p *packet.Packet, it *item, d conntrack.Dir, from AttachmentID, att *attachment) bool {
	f := flow{p: p, v: it.v, from: from, att: att, length: p.Len - int(it.v.L4)}
	if w.track(&f, sh, it.h, d) {
		return true
	}
	sh.books.pools[sh.t.Rec(it.h).Pool].drop(Direction(d), Traffic{1, uint64(it.v.Total)})
	return false
}

// countOne counts a packet of so many bytes for the session h, whose counter is c.
func (sh *shard) countOne(c *conntrack.Count, h conntrack.Handle, d conntrack.Dir, length uint16) {
	if c.Packets[d&1]++; c.Packets[d&1] == 0 {
		sh.wrapped(h, sh.t.Rec(h), d)
	}
	c.Bytes[d&1] += uint64(length)
}

// swap is the whole of a 1:1 translation of a query, a segment or a datagram, to an address that needs no other look.
func (w *Worker) swap(p *packet.Packet, it *item, att *attachment) Verdict {
	v, to := &it.v, it.other
	b := p.Buf[p.Off : p.Off+p.Len]
	l4 := b[v.L4:]
	_, _ = b[19], l4[7]
	verdict, addr := StaticOutbound, packet.NoDeltas
	if att.side == Inside {
		addr = addr.Long(v.Src, to)
		be.PutUint32(b[12:], to)
	} else {
		verdict, addr = StaticInbound, addr.Long(v.Dst, to)
		be.PutUint32(b[16:], to)
	}
	ip := addr
	if att.router {
		b[8]--
		ip = ip.Plus(ttlStep)
	}
	be.PutUint16(b[10:], ip.Apply(be.Uint16(b[10:])))
	switch {
	case v.Proto == packet.ICMP: // no pseudo-header
	case p.Offload.Csum == packet.CsumPartial:
		w.adjustPartial(v, l4, addr)
	case v.Proto == packet.UDP:
		be.PutUint16(l4[6:], addr.ApplyUDP(be.Uint16(l4[6:])))
	default:
		_ = l4[17]
		be.PutUint16(l4[16:], addr.Apply(be.Uint16(l4[16:])))
		if v.Flags&packet.SYN != 0 && w.pol.mssClamp != 0 {
			clampMSS(l4, w.pol.mssClamp, false)
		}
	}
	return verdict
}

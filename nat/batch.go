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
	shards := w.parse(ps, items, att)
	for shards != 0 {
		n := bits.TrailingZeros64(shards)
		shards &= shards - 1
		sh := w.enter(n)
		w.lookup(sh, items, att.side, uint8(n))
		if att.side == Inside && w.missed(items, uint8(n)) > 1 {
			w.expect(sh, items, att, uint8(n))
		}
		fresh := false // a slow packet may have moved what the lookups found
		for i := 0; ; i++ {
			if att.side == Inside {
				i = w.hitsOut(sh, ps, vs, i, fresh, from, att)
			} else {
				i = w.hitsIn(sh, ps, vs, i, fresh, from, att)
			}
			if i == len(ps) {
				break
			}
			fresh = true
			if w.cause = base + i; items[i].state == opens {
				vs[i] = w.open1(&ps[i], &items[i], from, att)
			} else {
				vs[i] = w.one(&ps[i], from, base+i)
			}
			w.enter(n)
		}
	}
}

// parse is the first stage: those that a lookup may do are fast, and have a tag and a shard. It returns the set of shards that
// the packets belong to; those for the slow path are in the shard of their place among the others, or the first.
func (w *Worker) parse(ps []packet.Packet, items []item, att *attachment) (shards uint64) {
	minTTL, maxLen := uint8(0), w.pol.minMTU
	if att.router {
		minTTL = 2
	}
	w.mixed = w.pol.outOf.n > 0 || w.pol.restricted.n > 0 || len(w.e.shards) > 1
	t, tags := w.e.shards[0].t, w.tags[:len(items)]
	for i := range items {
		p, it := &ps[i], &items[i]
		v := &it.v
		it.state, it.shard = slow, 0
		if v.Parse(p.Bytes()) != packet.OK || v.Kind != packet.KindFlow || v.TTL < minTTL || p.WireLen() > maxLen {
			continue
		}
		p.Len = int(v.Total)
		it.state = fast
		if w.mixed { // the rest by placeEach
			continue
		}
		if v.Proto == packet.ICMP {
			it.asked(att.side)
		}
		if att.side == Inside {
			tags[i] = t.OutTag(v.Src, v.Dst, outPorts(v), v.Proto)
		} else {
			tags[i] = t.InTag(v.Dst, v.Src, v.DstPort, v.Proto)
		}
	}
	if w.mixed {
		return w.placeEach(items, att)
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

// placeEach is the second half of parse where there is more to look at than one table.
func (w *Worker) placeEach(items []item, att *attachment) (shards uint64) {
	pol, e := w.pol, w.e
	sharded, inside := len(e.shards) > 1, att.side == Inside
	if pol.outOf.n > 0 {
		var touched uint64
		for i := range items {
			if v := &items[i].v; inside {
				touched += pol.alwaysOut.touch(v.Src)
			} else {
				touched += pol.inOf.touch(v.Dst)
			}
		}
		w.touched += touched
	}
	for i := range items {
		it := &items[i]
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
				w.tags[i] = t.OutTag(v.Src, v.Dst, outPorts(v), v.Proto)
			} else {
				w.tags[i] = t.InTag(v.Dst, v.Src, v.DstPort, v.Proto)
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
func (w *Worker) lookup(sh *shard, items []item, side Side, n uint8) {
	if !w.mixed { // those for the slow path, too, with any tag: nobody looks at what is found for them
		w.touched += find(sh, w.tags[:len(items)], w.hs[:len(items)], side)
		return
	}
	q, m := &w.ask, 0
	for i := range items {
		if it := &items[i]; it.state == fast && it.shard == n {
			q.tags[m], q.at[m] = w.tags[i], uint8(i)
			m++
		}
	}
	if m == 0 {
		return
	}
	w.touched += find(sh, q.tags[:m], q.hs[:m], side)
	for i, h := range q.hs[:m] {
		w.hs[q.at[i]] = h
	}
}

func find(sh *shard, tags []uint32, hs []conntrack.Handle, side Side) (touched uint64) {
	if side == Inside {
		return sh.t.LookupOut(tags, hs)
	}
	return sh.t.LookupIn(tags, hs)
}

// outPorts is the port word of an outbound tuple.
func outPorts(v *packet.View) uint32 {
	if v.Proto == packet.ICMP {
		return uint32(v.SrcPort) << 16
	}
	return uint32(v.SrcPort)<<16 | uint32(v.DstPort)
}

// ipOf, tcpOf and shortOf are the headers of a packet that Parse has found whole; shortOf the eight bytes that
// any transport has.
func ipOf(p *packet.Packet) *[20]byte { return (*[20]byte)(p.Buf[p.Off : p.Off+20 : p.Off+20]) }

func tcpOf(p *packet.Packet, v *packet.View) *[20]byte {
	at := p.Off + int(v.L4)
	return (*[20]byte)(p.Buf[at : at+20 : at+20])
}

func shortOf(p *packet.Packet, v *packet.View) *[8]byte {
	at := p.Off + int(v.L4)
	return (*[8]byte)(p.Buf[at : at+8 : at+8])
}

// hitsOut translates packets of a shard on their way out, from number i on, as long as they are of established sessions or
// 1:1. It returns the number of the first that is something else, of which nothing has been done yet. fresh says that what
// the lookup found may not be right any more.
func (w *Worker) hitsOut(sh *shard, ps []packet.Packet, vs []Verdict, i int, fresh bool, from AttachmentID, att *attachment) int {
	hits := uint32(0)
	for ; i < len(ps); i++ {
		p, it := &ps[i], &w.items[i&(maxBatch-1)]
		v := &it.v
		if int(it.shard) != sh.number {
			continue
		}
		if it.state != fast {
			if it.state == pair {
				vs[i] = w.count(w.swap(p, it, att))
				continue
			}
			break
		}
		h, ports := w.hs[i&(maxBatch-1)], outPorts(v)
		if fresh {
			h = sh.t.CandidateOut(w.tags[i&(maxBatch-1)])
		}
		if h == conntrack.None {
			break
		}
		r := sh.t.Rec(h)
		if !r.OwnsOut(v.Src, v.Dst, ports, v.Proto) {
			h = sh.t.FindOut(sh.t.OutTag(v.Src, v.Dst, ports, v.Proto), v.Src, v.Dst, ports, v.Proto)
			if h == conntrack.None {
				break
			}
			r = sh.t.Rec(h)
		}
		if r.Attachment != uint16(from) || !w.current(sh.t, r) { // another attachment: its source is to be checked
			break
		}
		tracked := r.Has(conntrack.Replied)
		if v.Proto == packet.TCP {
			b := tcpOf(p, v)
			tracked = v.Flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) == packet.ACK && r.TrackData(conntrack.Out,
				be.Uint32(b[4:8]), be.Uint32(b[8:12]), uint32(v.Total)-uint32(v.L4)-uint32(b[12]>>4)*4, be.Uint16(b[14:16]), w.tick)
		} else if tracked { // RFC 4787 REQ-6
			r.LastSeen = w.tick
		}
		if tracked {
			if c := sh.t.Count(h); c != nil {
				sh.countOne(c, h, conntrack.Out, v.Total)
			}
		} else if !w.trackSlowly(sh, p, v, h, conntrack.Out, from, att) {
			vs[i] = w.count(DropOutOfWindow)
			continue
		}
		b, addr := ipOf(p), packet.NoDeltas.Plus(packet.Delta(r.Delta))
		ip := addr
		be.PutUint32(b[12:16], r.Ext)
		if att.router {
			b[8] = v.TTL - 1
			ip = ip.Plus(ttlStep)
		}
		if !v.DF {
			at, n := w.e.idOf(r.Ext, v.Dst, v.Proto), p.Segments()
			id, ok := sh.ownID(at, n)
			if !ok {
				id = sh.claimID(w.e, at, n)
			}
			ip = ip.Word(v.ID, id)
			be.PutUint16(b[4:6], id)
		}
		be.PutUint16(b[10:12], ip.Apply(be.Uint16(b[10:12])))
		switch both := addr.Word(r.InPort, r.ExtPort); {
		case v.Proto == packet.ICMP:
			rewriteQuery(p.Bytes()[v.L4:], r.ExtPort, packet.Delta16(r.InPort, r.ExtPort))
		case v.Proto == packet.UDP:
			l4 := shortOf(p, v)
			if be.PutUint16(l4[0:2], r.ExtPort); plain(p, v) {
				be.PutUint16(l4[6:8], both.ApplyUDP(be.Uint16(l4[6:8])))
			} else {
				w.seal(p, v, addr, both)
			}
		default:
			l4 := tcpOf(p, v)
			if be.PutUint16(l4[0:2], r.ExtPort); plain(p, v) {
				be.PutUint16(l4[16:18], both.Apply(be.Uint16(l4[16:18])))
			} else {
				w.seal(p, v, addr, both)
			}
		}
		vs[i] = Outbound
		hits++
	}
	w.countMany(Outbound, hits)
	return i
}

// hitsIn is hitsOut for the way in.
func (w *Worker) hitsIn(sh *shard, ps []packet.Packet, vs []Verdict, i int, fresh bool, from AttachmentID, att *attachment) int {
	hits := uint32(0)
	for ; i < len(ps); i++ {
		p, it := &ps[i], &w.items[i&(maxBatch-1)]
		v := &it.v
		if int(it.shard) != sh.number {
			continue
		}
		if it.state != fast {
			if it.state == pair {
				vs[i] = w.count(w.swap(p, it, att))
				continue
			}
			break
		}
		h, remPort := w.hs[i&(maxBatch-1)], v.SrcPort
		if v.Proto == packet.ICMP {
			remPort = 0
		}
		if fresh {
			h = sh.t.CandidateIn(w.tags[i&(maxBatch-1)])
		}
		if h == conntrack.None {
			break
		}
		r := sh.t.Rec(h)
		// Another candidate, or a session that is not the first of its mapping's to this address.
		if !r.OwnsIn(v.Src, v.Dst, uint32(remPort)<<16|uint32(v.DstPort), v.Proto) {
			h, _ = sh.t.FindIn(sh.t.InTag(v.Dst, v.Src, v.DstPort, v.Proto), v.Dst, v.Src, v.DstPort, remPort, v.Proto)
			if h == conntrack.None {
				break
			}
			r = sh.t.Rec(h)
		}
		if !w.current(sh.t, r) {
			break
		}
		tracked := r.Has(conntrack.Replied)
		if v.Proto == packet.TCP {
			b := tcpOf(p, v)
			tracked = v.Flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) == packet.ACK && r.TrackData(conntrack.In,
				be.Uint32(b[4:8]), be.Uint32(b[8:12]), uint32(v.Total)-uint32(v.L4)-uint32(b[12]>>4)*4, be.Uint16(b[14:16]), w.tick)
		} else if tracked && w.pol.pools[r.Pool].InboundRefresh { // RFC 4787 REQ-6
			r.LastSeen = w.tick
		}
		if tracked {
			if c := sh.t.Count(h); c != nil {
				sh.countOne(c, h, conntrack.In, v.Total)
			}
		} else if !w.trackSlowly(sh, p, v, h, conntrack.In, from, att) {
			vs[i] = w.count(DropOutOfWindow)
			continue
		}
		b, addr := ipOf(p), packet.NoDeltas.Minus(packet.Delta(r.Delta))
		ip := addr
		be.PutUint32(b[16:20], r.In)
		if att.router {
			b[8] = v.TTL - 1
			ip = ip.Plus(ttlStep)
		}
		be.PutUint16(b[10:12], ip.Apply(be.Uint16(b[10:12])))
		switch both := addr.Word(r.ExtPort, r.InPort); {
		case v.Proto == packet.ICMP:
			rewriteQuery(p.Bytes()[v.L4:], r.InPort, packet.Delta16(r.ExtPort, r.InPort))
		case v.Proto == packet.UDP:
			l4 := shortOf(p, v)
			if be.PutUint16(l4[2:4], r.InPort); plain(p, v) {
				be.PutUint16(l4[6:8], both.ApplyUDP(be.Uint16(l4[6:8])))
			} else {
				w.seal(p, v, addr, both)
			}
		default:
			l4 := tcpOf(p, v)
			if be.PutUint16(l4[2:4], r.InPort); plain(p, v) {
				be.PutUint16(l4[16:18], both.Apply(be.Uint16(l4[16:18])))
			} else {
				w.seal(p, v, addr, both)
			}
		}
		vs[i] = Inbound
		hits++
	}
	w.countMany(Inbound, hits)
	return i
}

// seal brings the checksum of a segment or datagram up to date where there is more to it than that: one over the pseudo-header
// alone, or a SYN, whose MSS may be clamped. addr is the change of the addresses, both that with the ports.
func (w *Worker) seal(p *packet.Packet, v *packet.View, addr, both packet.Deltas) {
	partial := p.Offload.Csum == packet.CsumPartial
	if v.Proto == packet.UDP {
		l4 := shortOf(p, v)
		be.PutUint16(l4[6:8], addr.Delta().ApplyPartial(be.Uint16(l4[6:8])))
		return
	}
	l4 := tcpOf(p, v)
	if sum := be.Uint16(l4[16:18]); partial {
		be.PutUint16(l4[16:18], addr.Delta().ApplyPartial(sum))
	} else {
		be.PutUint16(l4[16:18], both.Apply(sum))
	}
	if v.Flags&packet.SYN != 0 && w.pol.mssClamp != 0 {
		clampMSS(p.Bytes()[v.L4:], w.pol.mssClamp, partial)
	}
}

// plain reports whether the checksum of a packet changes with its addresses and ports, and that is all.
func plain(p *packet.Packet, v *packet.View) bool {
	return p.Offload.Csum != packet.CsumPartial && (v.Proto != packet.TCP || v.Flags&packet.SYN == 0)
}

// current reports whether r is alive, under the policy that it was last looked at with, and translates to the other side.
func (w *Worker) current(t *conntrack.Table, r *conntrack.Record) bool {
	return r.Epoch == w.pol.epoch && w.tick-r.LastSeen < t.Timeout(r) && r.Bits&(conntrack.Looped|conntrack.Filter) == 0
}

// trackSlowly is track for what no short cut knows. It books what it drops.
func (w *Worker) trackSlowly(sh *shard, p *packet.Packet, v *packet.View, h conntrack.Handle, d conntrack.Dir, from AttachmentID, att *attachment) bool {
	f := flow{p: p, v: *v, from: from, att: att, length: p.Len - int(v.L4)}
	if w.track(&f, sh, h, d) {
		return true
	}
	sh.books.pools[sh.t.Rec(h).Pool].drop(Direction(d), Traffic{1, uint64(v.Total)})
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
	b := ipOf(p)
	verdict, addr := StaticOutbound, packet.NoDeltas
	if att.side == Inside {
		addr = addr.Long(v.Src, to)
		be.PutUint32(b[12:16], to)
	} else {
		verdict, addr = StaticInbound, addr.Long(v.Dst, to)
		be.PutUint32(b[16:20], to)
	}
	ip := addr
	if att.router {
		b[8] = v.TTL - 1
		ip = ip.Plus(ttlStep)
	}
	be.PutUint16(b[10:12], ip.Apply(be.Uint16(b[10:12])))
	switch {
	case v.Proto == packet.ICMP: // no pseudo-header
	case !plain(p, v):
		w.seal(p, v, addr, addr)
	case v.Proto == packet.TCP:
		l4 := tcpOf(p, v)
		be.PutUint16(l4[16:18], addr.Apply(be.Uint16(l4[16:18])))
	default:
		l4 := shortOf(p, v)
		be.PutUint16(l4[6:8], addr.ApplyUDP(be.Uint16(l4[6:8])))
	}
	return verdict
}

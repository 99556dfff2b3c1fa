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
// through four stages together, and the misses of a stage overlap: parse and hash all; load all slots; scan them and
// load all records; verify, track and rewrite one after the other. Whatever is not plainly an established packet (a
// fault, a fragment, an error, a new flow, an old policy, a hairpin) is taken through Worker.one at its place in the
// order, so that a batch has the results of so many single calls.
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
				if v := w.hit(sh, &ps[i], it, from, att); v != Unset {
					vs[i] = w.count(v)
					continue
				}
			}
			if it.state == pair {
				vs[i] = w.count(w.swap(&ps[i], &it.v, it.other, att))
				continue
			}
			fresh = true
			vs[i] = w.one(&ps[i], from, base+i)
		}
	}
}

// parse is the first stage. It returns the set of shards that the packets belong to; those for the slow path are in
// the shard of their place among the others, or the first.
func (w *Worker) parse(ps []packet.Packet, items []item, att *attachment) (shards uint64) {
	pol, e := w.pol, w.e
	minTTL := uint8(0)
	if att.router {
		minTTL = 2
	}
	sharded := len(e.shards) > 1
	statics, restricts := pol.outOf.n > 0, pol.restricted.n > 0
	for i := range items {
		p, it := &ps[i], &items[i]
		it.shard, it.h = 0, conntrack.None
		it.state = slow
		v := &it.v
		if v.Parse(p.Bytes()) == packet.OK && v.Kind == packet.KindFlow && v.TTL >= minTTL && p.WireLen() <= pol.minMTU {
			p.Len = int(v.Total)
			it.state = fast
			if restricts && v.Proto == packet.TCP && v.Flags&(packet.SYN|packet.ACK) == packet.SYN {
				it.state = slow // it may be barred though its session lives
			}
			if v.Proto == packet.ICMP {
				// The identifier is the inside's or the external one; queries are told from answers on the slow path.
				if query := v.Type == packet.Echo || v.Type == packet.Timestamp; query != (att.side == Inside) {
					it.state = slow
				}
			}
			if att.side == Inside {
				if ext := pol.alwaysOut.get(v.Src); ext != 0 && pol.owners.surelyRemote(v.Dst) && (att.sources == nil || att.sources.Contains(from4(v.Src))) {
					it.state, it.other = pair, ext
				} else if statics && pol.outOf.get(v.Src) != 0 {
					it.state = slow
				} else if sharded {
					it.shard = uint8(e.shardOf(v.Src, v.SrcPort, v.Proto))
				}
			} else {
				if in := pol.inOf.get(v.Dst); in != 0 {
					if it.state = slow; pol.owners.surelyRemote(v.Src) && len(pol.services) == 0 && !(restricts && pol.boundOf(in) != nil) {
						it.state, it.other = pair, in
					}
				} else if sharded {
					if to, ok := pol.forwardsIn[endpoint{v.Dst, v.DstPort, v.Proto}]; ok {
						it.shard = uint8(e.shardOf(to.addr, to.port, to.proto))
					} else {
						it.shard = uint8(e.shardOfPort(v.DstPort))
					}
				}
			}
		}
		shards |= 1 << it.shard
	}
	return shards
}

// lookup is the second and third stage for the packets of one shard.
func (w *Worker) lookup(sh *shard, items []item, side Side, n uint8) {
	t := sh.t
	var touched uint64
	for i := range items {
		it := &items[i]
		if it.state != fast || it.shard != n {
			continue
		}
		v := &it.v
		if side == Inside {
			it.tag = t.OutTag(v.Src, v.Dst, outPorts(v), v.Proto)
			touched += t.TouchOut(it.tag)
		} else {
			it.tag = t.InTag(v.Dst, v.Src, v.DstPort, v.Proto)
			touched += t.TouchIn(it.tag)
		}
	}
	for i := range items {
		it := &items[i]
		if it.state != fast || it.shard != n {
			continue
		}
		if side == Inside {
			_, it.h = t.ScanOut(it.tag)
		} else {
			_, it.h = t.ScanIn(it.tag)
		}
		if it.h != conntrack.None {
			touched += uint64(t.Rec(it.h).Proto) + t.TouchCount(it.h)
		}
	}
	w.touched += touched // keeps the loads
}

// relookup does for one packet what lookup did, for after the table has changed.
func (w *Worker) relookup(sh *shard, it *item, side Side) {
	if side == Inside {
		_, it.h = sh.t.ScanOut(it.tag)
	} else {
		_, it.h = sh.t.ScanIn(it.tag)
	}
}

// outPorts is the port word of an outbound tuple.
func outPorts(v *packet.View) uint32 {
	if v.Proto == packet.ICMP {
		return uint32(v.SrcPort) << 16
	}
	return uint32(v.SrcPort)<<16 | uint32(v.DstPort)
}

// hit translates the packet of an established session, or returns Unset, having done nothing.
func (w *Worker) hit(sh *shard, p *packet.Packet, it *item, from AttachmentID, att *attachment) Verdict {
	t, v := sh.t, &it.v
	if it.h == conntrack.None {
		return Unset
	}
	r := t.Rec(it.h)
	d := conntrack.Out
	verdict := Outbound
	if att.side == Outside {
		d, verdict = conntrack.In, Inbound
		remPort := v.SrcPort
		if v.Proto == packet.ICMP {
			remPort = 0
		}
		// Another candidate, or a session that is not the first of its mapping's to this address: the slow path knows.
		if !r.OwnsIn(v.Src, v.Dst, uint32(remPort)<<16|uint32(v.DstPort), v.Proto) {
			h, _ := t.FindIn(it.tag, v.Dst, v.Src, v.DstPort, remPort, v.Proto)
			if h == conntrack.None {
				return Unset
			}
			it.h, r = h, t.Rec(h)
		}
	} else {
		if ports := outPorts(v); !r.OwnsOut(v.Src, v.Dst, ports, v.Proto) {
			h := t.FindOut(it.tag, v.Src, v.Dst, ports, v.Proto)
			if h == conntrack.None {
				return Unset
			}
			it.h, r = h, t.Rec(h)
		}
		if r.Attachment != uint16(from) { // its source is to be checked
			return Unset
		}
	}
	if r.Epoch != w.pol.epoch || w.tick-r.LastSeen >= t.Timeout(r) || r.Bits&(conntrack.Looped|conntrack.Filter) != 0 {
		return Unset
	}
	if !w.trackHit(sh, p, it, r, d, from, att) {
		sh.books.pools[r.Pool].drop(Direction(d), Traffic{1, uint64(v.Total)})
		return DropOutOfWindow
	}
	w.rewriteHit(p, v, r, d, att.router)
	return verdict
}

// trackHit is track, with the usual packet first.
func (w *Worker) trackHit(sh *shard, p *packet.Packet, it *item, r *conntrack.Record, d conntrack.Dir, from AttachmentID, att *attachment) bool {
	v := &it.v
	switch {
	case v.Proto == packet.TCP:
		if v.Flags&(packet.SYN|packet.FIN|packet.RST|packet.ACK) == packet.ACK {
			t := p.Buf[p.Off+int(v.L4) : p.Off+p.Len]
			_ = t[19]
			length := uint32(len(t) - int(t[12]>>4)*4)
			if r.TrackData(d, be.Uint32(t[4:]), be.Uint32(t[8:]), length, be.Uint16(t[14:]), w.tick) {
				break
			}
		}
		f := flow{p: p, v: *v, from: from, att: att, length: p.Len - int(v.L4)}
		return w.track(&f, sh, it.h, d)
	case r.Has(conntrack.Replied):
		if d == conntrack.Out || w.pol.pools[r.Pool].InboundRefresh { // RFC 4787 REQ-6
			r.LastSeen = w.tick
		}
	default:
		f := flow{p: p, v: *v, from: from, att: att, length: p.Len - int(v.L4)}
		return w.track(&f, sh, it.h, d)
	}
	if c := sh.t.Count(it.h); c != nil {
		if c.Packets[d&1]++; c.Packets[d&1] == 0 {
			sh.wrapped(it.h, r, d)
		}
		c.Bytes[d&1] += uint64(v.Total)
	}
	return true
}

// swap is the whole of a 1:1 translation of a query, a segment or a datagram, to an address that needs no other look.
func (w *Worker) swap(p *packet.Packet, v *packet.View, to uint32, att *attachment) Verdict {
	c := change{addr: to, ttl: att.router, mssClamp: w.pol.mssClamp}
	verdict := StaticOutbound
	if att.side == Inside {
		c.dir, c.addrD = Out, packet.Delta32(v.Src, to)
	} else {
		c.dir, c.addrD = In, packet.Delta32(v.Dst, to)
		verdict = StaticInbound
	}
	c.rewrite(p, v)
	return verdict
}

// rewriteHit is change.rewrite for a whole packet of TCP, UDP or an ICMP query, without the detour over a change.
func (w *Worker) rewriteHit(p *packet.Packet, v *packet.View, r *conntrack.Record, d conntrack.Dir, router bool) {
	b := p.Buf[p.Off : p.Off+p.Len]
	addrD := packet.Delta(r.Delta)
	portD := packet.Delta16(r.InPort, r.ExtPort)
	l4 := b[v.L4:]
	_, _ = b[19], l4[7]
	port := 0
	if d == conntrack.Out {
		be.PutUint32(b[12:], r.Ext)
	} else {
		addrD, portD = addrD.Reverse(), portD.Reverse()
		be.PutUint32(b[16:], r.In)
		port = 2
	}
	ip := addrD
	if router {
		b[8]--
		ip = ip.Plus(ttlStep)
	}
	if d == conntrack.Out && !v.DF {
		id := w.e.nextID(r.Ext, v.Dst, v.Proto, p.Segments())
		ip = ip.Plus(packet.Delta16(v.ID, id))
		be.PutUint16(b[4:], id)
	}
	be.PutUint16(b[10:], ip.Apply(be.Uint16(b[10:])))
	to := r.ExtPort
	if d != conntrack.Out {
		to = r.InPort
	}
	partial := p.Offload.Csum == packet.CsumPartial
	switch v.Proto {
	case packet.TCP:
		be.PutUint16(l4[port:], to)
		_ = l4[17]
		if sum := be.Uint16(l4[16:]); partial {
			be.PutUint16(l4[16:], addrD.ApplyPartial(sum))
		} else {
			be.PutUint16(l4[16:], addrD.Plus(portD).Apply(sum))
		}
		if v.Flags&packet.SYN != 0 && w.pol.mssClamp != 0 {
			clampMSS(l4, w.pol.mssClamp, partial)
		}
	case packet.UDP:
		be.PutUint16(l4[port:], to)
		if sum := be.Uint16(l4[6:]); partial {
			be.PutUint16(l4[6:], addrD.ApplyPartial(sum))
		} else {
			be.PutUint16(l4[6:], addrD.Plus(portD).ApplyUDP(sum))
		}
	default:
		rewriteQuery(l4, to, portD)
	}
}

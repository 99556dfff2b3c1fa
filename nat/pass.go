// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// flow is a packet on its way through the passes, or a datagram whose pieces are in Worker.pieces.
type flow struct {
	p    *packet.Packet
	v    packet.View // what the headers are now; the outbound pass of a hairpin changes it
	from AttachmentID
	att  *attachment
	// length is that of transport header and payload.
	length int
	// set: the packets are Worker.pieces, p is the one that completed them.
	set bool
	// looped: this is the inbound pass of a hairpin.
	looped bool
	// cut: larger than the egress MTU, to be fragmented after translation.
	cut int
	// pool is the number of the pool that it is in the hands of, filterPool for none, and dir its way through that; counted:
	// its session has counted it.
	pool    int
	dir     Direction
	counted bool
}

// first is the packet with the transport header.
func (w *Worker) first(f *flow) *packet.Packet {
	if f.set {
		return &w.pieces[0]
	}
	return f.p
}

// faultVerdicts say what each Fault of the parser means.
var faultVerdicts = [...]Verdict{
	packet.ShortPacket: DropMalformed, packet.NotIPv4: DropNotIPv4, packet.BadIHL: DropHeaderLength,
	packet.BadTotal: DropTotalLength, packet.BadLength: DropTruncated,
	packet.BadHeaderChecksum: DropHeaderChecksum, packet.SourceRoute: DropSourceRoute, packet.BadOption: DropMalformed,
	packet.BadTransport: DropMalformed, packet.TinyFragment: DropTinyFragment, packet.BadFragment: DropMalformed,
}

// one takes a packet through everything. The stages of a batch are a shortcut for what would pass here anyway.
func (w *Worker) one(p *packet.Packet, from AttachmentID, cause int) Verdict {
	w.cause = cause
	f := flow{p: p, from: from}
	before := len(w.emitted)
	return w.settle(&f, w.decide(&f), before)
}

// settle books what became of f; before is how much had been emitted.
func (w *Worker) settle(f *flow, v Verdict, before int) Verdict {
	if f.pool != filterPool && w.why == nil {
		w.book(f, v, w.emitted[before:])
	}
	w.pieces = w.pieces[:0]
	return w.count(v)
}

func (w *Worker) decide(f *flow) Verdict {
	if int(f.from) >= len(w.pol.atts) || !w.pol.atts[f.from].known {
		return DropAttachment
	}
	f.att = &w.pol.atts[f.from]
	if fault := f.v.Parse(f.p.Bytes()); fault != packet.OK {
		return faultVerdicts[fault]
	}
	f.p.Len = int(f.v.Total) // K-6: what follows the packet is not sent
	f.length = f.p.Len - int(f.v.L4)
	if f.att.side == Outside {
		return w.fromOutside(f)
	}
	return w.fromInside(f)
}

// allows reports whether a packet from the attachment may have this source (K-7, RFC 2827).
func (a *attachment) allows(pol *policy, src uint32) bool {
	o := pol.owners.of(src)
	if a.sources != nil {
		return o.kind != martian && !o.private && a.sources.Contains(from4(src))
	}
	return o.kind == inside
}

func (w *Worker) fromInside(f *flow) Verdict {
	v, pol := &f.v, w.pol
	if !f.att.allows(pol, v.Src) {
		if pol.owners.of(v.Src).kind == martian {
			return DropMartian
		}
		return DropSpoof
	}
	dst := pol.owners.of(v.Dst)
	switch {
	case dst.kind == martian:
		return DropMartian
	case v.Src == v.Dst:
		return DropLand
	case f.att.router && v.TTL <= 1: // I-15, B-29: before there is any state
		return w.ttlExceeded(f, Inside)
	case dst.private: // NGW-2
		return DropNoMapping
	}
	if dst.kind == inside {
		return w.pass(f, Inside, Untouched)
	}
	way, ok := pol.route(v.Src, v.Dst)
	switch {
	case !ok:
		return w.noPath(f, dst)
	case way.bypass:
		return w.pass(f, Outside, Bypassed)
	case dst.kind != remote && pol.hairpinOff:
		return DropHairpin
	case dst.kind == unlent:
		return DropUnassigned
	}
	if way.static {
		if ext := pol.outOf.get(v.Src); ext != 0 {
			return w.staticOut(f, ext, dst)
		}
	}
	if way.pool < 0 {
		if v.Kind == packet.KindError { // a router inside may complain about a packet to a 1:1 host
			return w.errorOut(f, noPool, dst)
		}
		return w.noPath(f, dst)
	}
	w.through(f, way.pool, Out)
	if v.Kind == packet.KindFragment {
		return w.fragment(f, &pol.pools[way.pool], dst)
	}
	return w.naptOut(f, way.pool, dst)
}

// noPath is for a host without a way out: it still answers those who came in through a port forward.
func (w *Worker) noPath(f *flow, dst owner) Verdict {
	v := &f.v
	if v.Kind != packet.KindFlow || v.Proto == packet.ICMP || dst.kind != remote && w.pol.hairpinOff {
		return DropNoPath
	}
	t := w.enter(w.e.shardOf(v.Src, v.SrcPort, v.Proto)).t
	ports := outPorts(v)
	h := t.Live(t.FindOut(t.OutTag(v.Src, v.Dst, ports, v.Proto), v.Src, v.Dst, ports, v.Proto), w.tick)
	if h == conntrack.None || !t.Rec(h).Has(conntrack.Forwarded|conntrack.Inbound) {
		return DropNoPath
	}
	w.through(f, int(t.Rec(h).Pool), Out)
	return w.naptOut(f, f.pool, dst)
}

// pass sends a packet on as it is.
func (w *Worker) pass(f *flow, to Side, v Verdict) Verdict {
	if w.pol.restricted.n > 0 {
		var out, in uint32
		if f.att.side == Inside {
			out = f.v.Src
		}
		if to == Inside {
			in = f.v.Dst
		}
		if bad := w.filter(f, to, out, in); bad != Unset {
			return bad
		}
	}
	if bad := w.fit(f, to); bad != Unset {
		return bad
	}
	if f.att.router {
		if f.set {
			for i := range w.pieces {
				stepTTL(&w.pieces[i])
			}
		} else {
			stepTTL(f.p)
		}
	}
	return w.finish(f, v, to)
}

func (w *Worker) fromOutside(f *flow) Verdict {
	v, pol := &f.v, w.pol
	if pol.owners.of(v.Src).kind != remote { // K-7: a martian, or one of ours
		return DropMartian
	}
	dst := pol.owners.of(v.Dst)
	switch {
	case dst.kind == martian:
		return DropMartian
	case dst.kind == inside && pol.bypass:
		if way, ok := pol.route(v.Dst, v.Src); ok && way.bypass {
			if f.att.router && v.TTL <= 1 {
				return w.ttlExceeded(f, Outside)
			}
			return w.pass(f, Inside, Untouched)
		}
		return DropUnassigned
	case !dst.ours():
		return DropUnassigned
	}
	if len(pol.services) > 0 && v.FragOff == 0 && pol.services[endpoint{v.Dst, v.DstPort, v.Proto}] {
		return ToHost
	}
	if f.att.router && v.TTL <= 1 {
		return w.ttlExceeded(f, Outside)
	}
	w.arrive(f, dst)
	return w.inbound(f, dst)
}

// inbound is the pass of a packet for an external address: from outside, or the second one of a hairpin.
func (w *Worker) inbound(f *flow, dst owner) Verdict {
	v := &f.v
	if dst.kind == static {
		return w.staticIn(f, w.pol.inOf.get(v.Dst))
	}
	d := &w.pol.pools[dst.pool]
	if v.Kind == packet.KindFragment {
		return w.fragment(f, d, dst)
	}
	return w.naptIn(f, d, dst)
}

// loop is what follows an outbound pass to an external address: the inbound pass over its result (H-1).
func (w *Worker) loop(f *flow, dst owner) Verdict {
	v := &f.v
	w.arrive(f, dst)
	if v.Src == v.Dst && v.Kind != packet.KindFragment && v.Kind != packet.KindError {
		if v.Proto != packet.TCP && v.Proto != packet.UDP || v.SrcPort == v.DstPort {
			return DropLand // H-4
		}
	}
	f.looped = true
	got := w.inbound(f, dst)
	if got == Inbound || got == StaticInbound {
		return Hairpin
	}
	return got
}

// fit holds a packet against the MTU of where it goes, before anything is made of it. It returns Unset if it fits or
// may be cut, and otherwise the verdict, having told the sender.
func (w *Worker) fit(f *flow, to Side) Verdict {
	mtu := w.pol.mtu[to]
	if mtu == 0 || f.looped {
		return Unset
	}
	longest, whole := w.longestPiece(), true
	if !f.set {
		longest, whole = f.p.WireLen(), f.p.Offload.GSO == packet.GSONone
	}
	switch {
	case longest <= mtu:
		return Unset
	case !f.v.DF && whole: // RFC 4787 REQ-13a
		f.cut = mtu
		return Unset
	}
	w.icmpError(f, f.att.side, packet.Unreachable, 4, uint32(mtu)) // RFC 1191, section 4
	return DropTooBig
}

func (w *Worker) longestPiece() (n int) {
	for i := range w.pieces {
		n = max(n, w.pieces[i].Len)
	}
	return n
}

// apply changes all packets of f.
func (w *Worker) apply(f *flow, c *change) {
	if !f.set {
		c.rewrite(f.p, &f.v)
		return
	}
	for i := range w.pieces {
		var v packet.View
		if v.Parse(w.pieces[i].Bytes()) == packet.OK {
			c.rewrite(&w.pieces[i], &v)
		}
	}
}

// finish sends f on: a single packet by its verdict, all else by emission.
func (w *Worker) finish(f *flow, v Verdict, to Side) Verdict {
	if to == Outside && v != Bypassed {
		// The last line of defence: whatever went wrong before, a source that is not ours stays here.
		if !w.pol.owners.of(be.Uint32(w.first(f).Bytes()[12:])).ours() {
			return DropLeak
		}
	}
	if f.set {
		for i := range w.pieces {
			if p := &w.pieces[i]; f.cut > 0 && p.Len > f.cut {
				w.cut(p, f.cut, to)
			} else {
				w.emit(*p, to)
			}
		}
		return Reassembled
	}
	if f.cut > 0 {
		w.cut(f.p, f.cut, to)
		return Fragmented
	}
	return v
}

// staticOut is the outbound pass of a 1:1 mapping (basic NAT, RFC 3022): addresses alone, no state.
func (w *Worker) staticOut(f *flow, ext uint32, dst owner) Verdict {
	v := &f.v
	if bad := staticICMP(v); bad != Unset {
		return bad
	}
	to := Outside
	if dst.kind != remote {
		to = Inside
	}
	if v.Kind == packet.KindError {
		return w.staticErrorOut(f, ext, dst, to)
	}
	if bad := w.filter(f, to, v.Src, 0); bad != Unset {
		return bad
	}
	if bad := w.fit(f, to); bad != Unset {
		return bad
	}
	c := change{dir: Out, addr: ext, addrD: packet.Delta32(v.Src, ext), ttl: f.att.router, mssClamp: w.pol.mssClamp}
	w.apply(f, &c)
	v.Src = ext
	if to == Inside {
		return w.loop(f, dst)
	}
	return w.finish(f, StaticOutbound, Outside)
}

// staticICMP refuses the ICMP messages that 1:1 translation has no meaning for, also where only their first fragment is
// at hand.
func staticICMP(v *packet.View) Verdict {
	if v.Proto != packet.ICMP || v.FragOff != 0 {
		return Unset
	}
	switch v.Type {
	case packet.SourceQuench, packet.Redirect: // I-17, RFC 6633
		return DropProtocol
	case packet.Unreachable, packet.TimeExceeded, packet.ParameterProblem:
		if v.Kind == packet.KindFragment { // its quote, in pieces, would show an inside address (B-12)
			return DropICMPQuote
		}
	}
	return Unset
}

func (w *Worker) staticIn(f *flow, in uint32) Verdict {
	v := &f.v
	if bad := staticICMP(v); bad != Unset {
		return bad
	}
	if v.Kind == packet.KindError {
		return w.staticErrorIn(f, in)
	}
	if bad := w.filter(f, Inside, 0, in); bad != Unset {
		return bad
	}
	if bad := w.fit(f, Inside); bad != Unset {
		return bad
	}
	c := change{dir: In, addr: in, addrD: packet.Delta32(v.Dst, in), ttl: f.att.router && !f.looped, mssClamp: w.pol.mssClamp}
	w.apply(f, &c)
	return w.finish(f, StaticInbound, Inside)
}

// idBlock is how many IP identifications a shard takes at a time of those that all shards share.
const idBlock = 16

// idOf is the counter for packets from ext to dst.
func (e *Engine) idOf(ext, dst uint32, proto uint8) uint64 {
	x := (uint64(ext)<<32 | uint64(dst)) ^ uint64(proto)<<24 ^ e.key[1]
	return x * 0x9e3779b97f4a7c15 >> 52
}

// ownID takes n IP identifications of counter i, if n is 1 and the shard has one and is alone; otherwise claimID does.
func (sh *shard) ownID(i uint64, n int) (id uint16, ok bool) {
	next := sh.ids[i]
	if next%idBlock == 0 || n != sh.alone {
		return 0, false
	}
	sh.ids[i] = next + 1
	return uint16(next), true
}

// claimID takes n IP identifications of counter i (F-7, RFC 6864 section 5.3.1). The counters of the engine are shared; a
// shard, whose lock is held, takes a block of one and goes on by itself, unless the others come around to it meanwhile.
func (sh *shard) claimID(e *Engine, i uint64, n int) uint16 {
	all, id := &e.kept.ids[i], sh.ids[i]
	if !ownBlock(all.Load(), id, n) {
		blocks := (uint32(n) + idBlock - 1) / idBlock * idBlock
		id = (all.Add(blocks) - blocks) &^ (idBlock - 1)
	}
	sh.ids[i] = id + uint32(n)
	return uint16(id)
}

// peekID is what claimID would return.
func (sh *shard) peekID(e *Engine, i uint64, n int) uint16 {
	all, id := e.kept.ids[i].Load(), sh.ids[i]
	if ownBlock(all, id, n) {
		return uint16(id)
	}
	return uint16(all &^ (idBlock - 1))
}

// ownBlock reports whether the next identification id of the shard can be taken for n; all is the counter.
func ownBlock(all, id uint32, n int) bool { return n == 1 && id%idBlock != 0 && all-id < 1<<15 }

// outwardOf is the change of a session for this flow, on the way out.
func (w *Worker) outwardOf(f *flow, r *conntrack.Record) change {
	c := outward(r)
	c.ttl, c.mssClamp = f.att.router, w.pol.mssClamp
	if !f.v.DF || f.set {
		c.newID, c.id = true, w.newID(r.Ext, f.v.Dst, f.v.Proto, f.p.Segments())
	}
	return c
}

func (w *Worker) inwardOf(f *flow, r *conntrack.Record) change {
	c := inward(r)
	c.ttl, c.mssClamp = f.att.router && !f.looped, w.pol.mssClamp
	return c
}

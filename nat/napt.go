// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// naptOut is the outbound pass of a pool.
func (w *Worker) naptOut(f *flow, number int, dst owner) Verdict {
	v := &f.v
	switch {
	case v.Kind == packet.KindError:
		return w.errorOut(f, number, dst)
	case v.Kind == packet.KindOther:
		return DropProtocol
	}
	remPort := v.DstPort
	if v.Proto == packet.ICMP {
		if v.Type != packet.Echo && v.Type != packet.Timestamp {
			return DropNoSession // requests never come in through a pool, so nobody was asked
		}
		remPort = 0
	}
	to := Outside
	if dst.kind != remote {
		to = Inside
	}
	sh := w.enter(w.e.shardOf(v.Src, v.SrcPort, v.Proto))
	ports := uint32(v.SrcPort)<<16 | uint32(remPort)
	h := sh.t.Live(sh.t.FindOut(sh.t.OutTag(v.Src, v.Dst, ports, v.Proto), v.Src, v.Dst, ports, v.Proto), w.tick)
	var r *conntrack.Record
	if h == conntrack.None {
		var bad Verdict
		if r, bad = w.open(f, sh, number, remPort, to); bad != Unset {
			return bad
		}
	} else {
		if r = sh.t.Rec(h); r.Has(conntrack.Filter) {
			// The other end reached this one 1:1, and its answers have another way.
			return w.noteRefused(sh, DropNoPort, conntrack.Record{In: v.Src, InPort: v.SrcPort, Rem: v.Dst, RemPort: remPort, Proto: v.Proto})
		}
		if w.barred(v, v.Src, Out, v.DstPort, v.Dst, r) {
			return DropNotAllowed
		}
		if bad := w.fit(f, to); bad != Unset {
			return bad
		}
		if w.why == nil {
			r.Attachment = uint16(f.from)
		}
		if !w.track(f, sh, h, conntrack.Out) {
			return DropOutOfWindow
		}
	}
	c := w.outwardOf(f, r)
	w.apply(f, &c)
	v.Src, v.SrcPort = r.Ext, r.ExtPort
	if v.Proto == packet.ICMP {
		v.DstPort = r.ExtPort
	}
	if to == Inside {
		return w.loop(f, dst)
	}
	return w.finish(f, Outbound, Outside)
}

// track notes a packet of a session. It reports false for a RST that the policy wants dropped.
func (w *Worker) track(f *flow, sh *shard, h conntrack.Handle, d conntrack.Dir) bool {
	if w.why != nil {
		return w.rehearseTrack(f, sh, h, d)
	}
	r := sh.t.Rec(h)
	if f.v.Proto == packet.TCP {
		s, was := segment(w.first(f).Bytes(), &f.v, f.length), r.State
		if !sh.t.TrackTCP(h, d, &s, w.tick) && w.pol.dropBadResets {
			return false
		}
		if was != r.State {
			sh.bookSegment(r, was, f.v.Flags)
		}
		if was == conntrack.Opening && r.State == conntrack.Established {
			sh.noteNow(SessionEstablished, r)
		}
	} else {
		if answer := (d == conntrack.In) != r.Has(conntrack.Inbound); answer && !r.Has(conntrack.Replied) {
			sh.t.Answered(h)
			sh.noteNow(SessionEstablished, r)
		}
		if d == conntrack.Out || w.pol.pools[r.Pool].InboundRefresh { // RFC 4787 REQ-6
			r.LastSeen = w.tick
		}
	}
	w.account(sh, h, d, f)
	return true
}

func (w *Worker) account(sh *shard, h conntrack.Handle, d conntrack.Dir, f *flow) {
	f.counted = true
	if c := sh.t.Count(h); c != nil {
		if c.Packets[d]++; c.Packets[d] == 0 {
			sh.wrapped(h, sh.t.Rec(h), d)
		}
		c.Bytes[d] += f.counts().Bytes
	}
}

// startFlags judges the flags of a segment without a session: Unset for a SYN that may start one.
func startFlags(flags uint8) Verdict {
	switch {
	case flags&packet.SYN != 0 && flags&(packet.FIN|packet.RST) != 0, flags == 0, flags&packet.FIN != 0 && flags&packet.ACK == 0:
		return DropBadFlags // T-14
	case flags&packet.RST == 0 && flags&packet.SYN != 0 && flags&packet.ACK == 0:
		return Unset
	}
	return DropNoSession
}

// open makes a session for an outbound packet without one.
func (w *Worker) open(f *flow, sh *shard, number int, remPort uint16, to Side) (*conntrack.Record, Verdict) {
	v := &f.v
	d := &w.pol.pools[number]
	k, _ := class(v.Proto)
	if w.barred(v, v.Src, Out, v.DstPort, v.Dst, nil) {
		return nil, DropNotAllowed
	}
	pickup := false
	if v.Proto == packet.TCP {
		switch bad := startFlags(v.Flags); {
		case bad == Unset:
		case bad == DropBadFlags || v.Flags&(packet.RST|packet.SYN) != 0 || d.Stray == StrayDrop:
			return nil, bad
		case d.Stray == StrayReset:
			w.reset(f)
			return nil, DropReset
		default:
			pickup = true
		}
	}
	if bad := w.fit(f, to); bad != Unset {
		return nil, bad
	}
	tallied, bad := w.tally(v.Src, w.pol.hostRate)
	r := conntrack.Record{
		In: v.Src, InPort: v.SrcPort, Rem: v.Dst, RemPort: remPort, Proto: v.Proto, Pool: uint16(number),
		Attachment: uint16(f.from), Bits: tallied,
	}
	switch {
	case bad != Unset:
	case !w.haveRecords(sh, d, 1):
		bad = DropTableFull
	case !w.assign(sh, d, k, &r):
		bad = DropNoPort
	}
	if bad != Unset {
		w.untally(v.Src, tallied, w.pol.hostRate)
		w.refuse(f, d)
		return nil, w.noteRefused(sh, bad, r)
	}
	if to == Inside {
		r.Bits |= conntrack.Looped
	}
	if pickup {
		r.Bits |= conntrack.Unknown
	}
	w.start(f, &r, conntrack.Out)
	return w.add(f, sh, &r, conntrack.Out), Unset
}

// assign gives the session its external endpoint.
func (w *Worker) assign(sh *shard, d *pool, k int, r *conntrack.Record) bool {
	if len(w.pol.forwards) > 0 {
		for _, o := range w.pol.forwards[endpoint{r.In, r.InPort, r.Proto}] {
			if own := w.pol.owners.of(o.addr); own.kind == external && own.pool == r.Pool && !own.draining {
				r.Ext, r.ExtPort = o.addr, o.port
				r.Bits |= conntrack.Forwarded
				return true
			}
		}
	}
	if d.Mapping[k] == EndpointIndependent {
		r.Bits |= conntrack.Independent
		if h := sh.t.Mapping(r.In, r.InPort, r.Pool, r.Proto, w.tick); h != conntrack.None {
			// Also with its address draining: an endpoint has one mapping (RFC 4787 REQ-1).
			m := sh.t.Rec(h)
			r.Ext, r.ExtPort = m.Ext, m.ExtPort
			return true
		}
	}
	q := want{
		proto: r.Proto, k: k, pool: d, in: r.In, inPort: r.InPort, rem: r.Rem, remPort: r.RemPort,
		independent: r.Has(conntrack.Independent), span: w.spanOf(d, k, r.In, r.InPort, sh.number),
	}
	var ok bool
	if w.why != nil {
		r.Ext, r.ExtPort, ok = w.rehearsePort(sh, q)
		return ok
	}
	if r.Ext, r.ExtPort, ok = w.allocate(sh, &q); ok && d.PortsPerDestination > 0 {
		r.Bits |= conntrack.Crowded
	}
	return ok
}

// tally counts one more session of an inside host, if its limits let it have one (RFC 6888 REQ-4). What it returns
// belongs into the record, or to untally.
func (w *Worker) tally(in uint32, rate int) (conntrack.Bits, Verdict) {
	limit := w.pol.hostSessions
	if limit == 0 && rate == 0 {
		return 0, Unset
	}
	got := w.countHost(in, limit, rate)
	if got == tooMany { // some of them may have ended without anybody having looked
		w.held.t.Advance(w.tick, reclaimAtOnce)
		got = w.countHost(in, limit, rate)
	}
	switch got {
	case tooMany:
		return 0, DropHostLimit
	case tooFast:
		return 0, DropHostRate
	}
	return conntrack.Tallied, Unset
}

func (w *Worker) untally(in uint32, tallied conntrack.Bits, rate int) {
	if tallied != 0 && w.why == nil {
		w.e.hosts.cancel(uint64(in), 0, rate)
	}
}

// second is the current second, for rates.
func (w *Worker) second() uint16 { return uint16(w.tick / 1000) }

// haveRecords makes sure that add will find n records: free ones, or some to recycle.
func (w *Worker) haveRecords(sh *shard, d *pool, n int) bool {
	if used, _ := w.occupied(sh); sh.t.Cap()-used >= n {
		return true
	}
	sh.t.Advance(w.tick, reclaimAtOnce)
	used, buried := w.occupied(sh)
	if n -= sh.t.Cap() - used + buried; n <= 0 {
		return true
	}
	return !d.NoRecycling && w.unanswered(sh) >= n
}

// add makes the session of a packet in direction d.
func (w *Worker) add(f *flow, sh *shard, r *conntrack.Record, d conntrack.Dir) *conntrack.Record {
	r.LastSeen, r.Epoch = w.tick, w.pol.epoch
	r.Delta = uint16(packet.Delta32(r.In, r.Ext))
	if k, _ := class(r.Proto); !w.pol.pools[r.Pool].quarantined(k) {
		r.Bits |= conntrack.Reusable
	}
	if w.why != nil {
		return w.rehearseAdd(sh, r)
	}
	if sh.t.Used() == sh.t.Cap() {
		if sh.t.Disinter() {
			w.e.kept.odd.unburied.Add(1)
		} else {
			sh.t.Recycle(w.tick)
			sh.crowds.kept(r)
		}
	}
	if r.Proto == packet.TCP {
		w.e.held.discard(heldKey{r.Ext, r.Rem, r.ExtPort, r.RemPort}) // T-4
	}
	h := sh.t.Add(r)
	if r.Proto == packet.TCP && !r.Has(conntrack.Unknown) {
		sh.books.pools[r.Pool].Attempts++
	}
	sh.noteNow(SessionCreated, r)
	w.account(sh, h, d, f)
	return sh.t.Rec(h)
}

// naptIn is the inbound pass to an address of a pool.
func (w *Worker) naptIn(f *flow, d *pool, dst owner) Verdict {
	v := &f.v
	switch {
	case v.Kind == packet.KindError:
		return w.errorIn(f)
	case v.Kind == packet.KindOther:
		return DropProtocol
	}
	remPort := v.SrcPort
	if v.Proto == packet.ICMP {
		if v.Type != packet.EchoReply && v.Type != packet.TimestampReply {
			return DropNoMapping // NGW-2: we answer nobody's ping
		}
		remPort = 0
	}
	at := endpoint{v.Dst, v.DstPort, v.Proto}
	to, forwarded := w.pol.forwardsIn[at]
	number := 0
	if forwarded {
		number = w.e.shardOf(to.addr, to.port, to.proto)
	} else {
		number = w.e.shardOfPort(v.DstPort)
	}
	sh := w.enter(number)
	h, _ := sh.t.FindIn(sh.t.InTag(v.Dst, v.Src, v.DstPort, v.Proto), v.Dst, v.Src, v.DstPort, remPort, v.Proto)
	if h = w.live(sh, h); h != conntrack.None {
		r := sh.t.Rec(h)
		if w.barred(v, r.In, In, r.InPort, v.Src, r) {
			return DropNotAllowed
		}
		if bad := w.fit(f, Inside); bad != Unset {
			return bad
		}
		if !w.track(f, sh, h, conntrack.In) {
			return DropOutOfWindow
		}
		return w.deliver(f, sh.t.Rec(h))
	}
	if forwarded {
		return w.accept(f, sh, dst, to, conntrack.Forwarded)
	}
	return w.unasked(f, sh, d, dst)
}

// deliver sends f to the inside end of r.
func (w *Worker) deliver(f *flow, r *conntrack.Record) Verdict {
	c := w.inwardOf(f, r)
	w.apply(f, &c)
	return w.finish(f, Inbound, Inside)
}

// unasked is for inbound packets without a session: they may still pass through an endpoint-independent mapping.
func (w *Worker) unasked(f *flow, sh *shard, d *pool, dst owner) Verdict {
	v := &f.v
	syn := v.Proto == packet.TCP && startFlags(v.Flags) == Unset
	k, _ := class(v.Proto)
	h := w.holder(sh, v)
	if h == conntrack.None || sh.t.Rec(h).State == conntrack.Quarantined {
		return w.unwanted(f, d, syn, DropNoMapping)
	}
	w.saw(sh, h, UseMapping)
	switch d.Filtering[k] {
	case FilterAddressAndPortDependent:
		return w.unwanted(f, d, syn, DropFiltered)
	case FilterAddressDependent:
		if !w.talks(sh, v) {
			return w.unwanted(f, d, syn, DropFiltered)
		}
		// Talks may have removed dead sessions, but not the live one that holds the mapping.
		h = w.holder(sh, v)
	}
	r := sh.t.Rec(h)
	if v.Proto == packet.TCP || v.Proto == packet.UDP && w.pol.boundOf(r.In) != nil { // whose answer is to pass
		return w.accept(f, sh, dst, endpoint{r.In, r.InPort, r.Proto}, conntrack.Independent)
	}
	if w.barred(v, r.In, In, r.InPort, v.Src, nil) {
		return DropNotAllowed
	}
	// No session: it is the inside's packets that keep a mapping, and nobody outside can fill the table (U-3, C-3).
	if bad := w.fit(f, Inside); bad != Unset {
		return bad
	}
	return w.deliver(f, r)
}

// unwanted drops an inbound packet, or holds a SYN that the inside may yet ask for.
func (w *Worker) unwanted(f *flow, d *pool, syn bool, why Verdict) Verdict {
	if !syn || !d.HoldSYN {
		return why
	}
	if f.looped {
		return DropFiltered
	}
	return w.hold(f, why)
}

// accept makes the session of an inbound packet, to an endpoint that a forward or a mapping names.
func (w *Worker) accept(f *flow, sh *shard, dst owner, to endpoint, how conntrack.Bits) Verdict {
	v := &f.v
	if w.barred(v, to.addr, In, to.port, v.Src, nil) {
		return DropNotAllowed
	}
	if v.Proto == packet.TCP {
		if bad := startFlags(v.Flags); bad != Unset {
			return bad
		}
	}
	if bad := w.fit(f, Inside); bad != Unset {
		return bad
	}
	r := conntrack.Record{
		In: to.addr, InPort: to.port, Rem: v.Src, RemPort: v.SrcPort, Ext: v.Dst, ExtPort: v.DstPort,
		Proto: v.Proto, Pool: dst.pool, Bits: conntrack.Inbound | how, Attachment: anyAttachment,
	}
	ports := uint32(to.port)<<16 | uint32(v.SrcPort)
	if w.live(sh, sh.t.FindOut(sh.t.OutTag(to.addr, v.Src, ports, v.Proto), to.addr, v.Src, ports, v.Proto)) != conntrack.None {
		return w.noteRefused(sh, DropNoPort, r) // the same two ends already talk through another external endpoint
	}
	tallied, bad := w.tally(to.addr, 0) // nobody outside uses up the rate of a host
	if bad != Unset {
		return w.noteRefused(sh, bad, r)
	}
	if !w.haveRecords(sh, &w.pol.pools[dst.pool], 1) {
		w.untally(to.addr, tallied, 0)
		return w.noteRefused(sh, DropTableFull, r)
	}
	r.Bits |= tallied
	if f.looped {
		r.Bits |= conntrack.Looped
	}
	w.start(f, &r, conntrack.In)
	return w.deliver(f, w.add(f, sh, &r, conntrack.In))
}

// anyAttachment is the attachment of a session whose inside host has not sent anything yet. It is no valid one for a
// record: the first packet from inside is checked on the slow path, and sets the right one.
const anyAttachment = 1<<16 - 1

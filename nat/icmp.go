// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// Theory of operation of ICMP errors.
//
// An error quotes the start of a packet that went the other way, so its quote is translated backwards: what an inbound
// error quotes went out with an external source, which becomes the inside one again, so that the host knows its packet
// (RFC 5508 REQ-4, REQ-5). Only quoted bytes are touched. Every change inside the quote, the quoted checksums
// included, is a change of the outer ICMP checksum too; all of them are summed up and applied once. Quoted transport
// checksums are never verified, only adjusted where they are quoted at all (REQ-3c). Errors refresh and end nothing
// (REQ-6).

// quoted is an ICMP error whose quote has been read.
type quoted struct {
	v  packet.View
	at int // where the quote starts in the packet
}

// readError checks an error and its quote in the order of RFC 5508 REQ-3.
func (w *Worker) readError(f *flow, q *quoted) Verdict {
	b := f.p.Bytes()
	if f.p.Offload.Csum == packet.CsumUnverified && packet.Checksum(b[f.v.L4:]) != 0 {
		return DropICMPChecksum
	}
	q.at = int(f.v.L4) + 8
	headerOK, fault := q.v.ParseQuote(b[q.at:])
	if fault != packet.OK || q.v.Kind == packet.KindError || q.v.Src != f.v.Dst {
		// An error goes to whoever sent the packet it quotes; anything else is made up. Errors about errors do not exist.
		return DropICMPQuote
	}
	if !headerOK && !f.looped { // the outbound pass has judged it
		if w.pol.strictQuotes {
			return DropICMPQuoteChecksum
		}
		if w.why == nil {
			w.e.kept.odd.quoteChecksums.Add(1) // B-9
		}
	}
	return Unset
}

// errorIn is the inbound pass of an error about a packet of a pool's session.
func (w *Worker) errorIn(f *flow) Verdict {
	var q quoted
	if bad := w.readError(f, &q); bad != Unset {
		return bad
	}
	if q.v.Kind != packet.KindFlow || q.v.Proto == packet.ICMP && q.v.Type != packet.Echo && q.v.Type != packet.Timestamp {
		return DropICMPNoMapping
	}
	remPort := q.v.DstPort
	if q.v.Proto == packet.ICMP {
		remPort = 0
	}
	number := w.e.shardOfPort(q.v.SrcPort)
	if to, ok := w.pol.forwardsIn[endpoint{q.v.Src, q.v.SrcPort, q.v.Proto}]; ok {
		number = w.e.shardOf(to.addr, to.port, to.proto)
	}
	sh := w.enter(number)
	tag := sh.t.InTag(q.v.Src, q.v.Dst, q.v.SrcPort, q.v.Proto)
	h, _ := sh.t.FindIn(tag, q.v.Src, q.v.Dst, q.v.SrcPort, remPort, q.v.Proto)
	if h = sh.t.Live(h, w.tick); h == conntrack.None {
		return DropICMPNoMapping // REQ-4
	}
	if bad := w.fit(f, Inside); bad != Unset {
		return bad
	}
	w.saw(sh, h, UseQuoted)
	r := sh.t.Rec(h)
	w.rewriteError(f, &q, In, r.In, r.In, r.InPort, true)
	return w.finish(f, ErrorInbound, Inside)
}

// noPool is the number of no pool.
const noPool = -1

// errorOut is the outbound pass of an error whose sender has no 1:1 mapping: a host about a packet that came in through
// a pool, or a router about one to whomever. Outside, its sender has the address that the quoted packet was sent to: a
// router's own is known to nobody there (I-10).
func (w *Worker) errorOut(f *flow, number int, dst owner) Verdict {
	var q quoted
	if bad := w.readError(f, &q); bad != Unset {
		return bad
	}
	to := Outside
	if dst.kind != remote {
		to = Inside
	}
	if ext := w.pol.outOf.get(q.v.Dst); ext != 0 {
		f.pool = filterPool // it leaves 1:1
		if b := w.pol.boundOf(f.v.Src); b != nil && !w.mayReport(f, b, Out, f.v.Dst) {
			return DropNotAllowed
		}
		return w.sendErrorOut(f, &q, dst, to, ext, ext, 0, false)
	}
	if number == noPool {
		return DropNoPath
	}
	if q.v.Kind != packet.KindFlow || q.v.Proto == packet.ICMP && q.v.Type != packet.EchoReply && q.v.Type != packet.TimestampReply {
		return DropICMPNoMapping
	}
	ext, ok := w.externalOf(&q.v, number)
	if !ok {
		return DropICMPNoMapping // REQ-5
	}
	if b := w.pol.boundOf(f.v.Src); b != nil && !w.mayReport(f, b, Out, f.v.Dst) {
		return DropNotAllowed
	}
	return w.sendErrorOut(f, &q, dst, to, ext.addr, ext.addr, ext.port, true)
}

// sendErrorOut translates an outbound error, from outer and about a packet to inner and port, and sends it on.
func (w *Worker) sendErrorOut(f *flow, q *quoted, dst owner, to Side, outer, inner uint32, port uint16, hasPort bool) Verdict {
	if bad := w.fit(f, to); bad != Unset {
		return bad
	}
	w.rewriteError(f, q, Out, outer, inner, port, hasPort)
	if to == Inside {
		return w.loopError(f, dst)
	}
	return w.finish(f, ErrorOutbound, Outside)
}

// externalOf is the external endpoint under which a packet reached the inside endpoint that it is now quoted for.
func (w *Worker) externalOf(q *packet.View, number int) (endpoint, bool) {
	remPort := q.SrcPort
	if q.Proto == packet.ICMP {
		remPort = 0
	}
	sh := w.enter(w.e.shardOf(q.Dst, q.DstPort, q.Proto))
	ports := uint32(q.DstPort)<<16 | uint32(remPort)
	h := sh.t.Live(sh.t.FindOut(sh.t.OutTag(q.Dst, q.Src, ports, q.Proto), q.Dst, q.Src, ports, q.Proto), w.tick)
	if h != conntrack.None && sh.t.Rec(h).Has(conntrack.Filter) { // it came in 1:1
		h = conntrack.None
	}
	if h == conntrack.None { // it may have passed through a mapping without a session
		h = sh.t.Mapping(q.Dst, q.DstPort, uint16(number), q.Proto, w.tick)
	}
	if h != conntrack.None {
		w.saw(sh, h, UseQuoted)
		r := sh.t.Rec(h)
		return endpoint{r.Ext, r.ExtPort, r.Proto}, true
	}
	if outs := w.pol.forwards[endpoint{q.Dst, q.DstPort, q.Proto}]; len(outs) > 0 {
		return outs[0], true
	}
	return endpoint{}, false
}

// loopError is loop for an error, whose headers have to be read anew.
func (w *Worker) loopError(f *flow, dst owner) Verdict {
	if f.v.Parse(f.p.Bytes()) != packet.OK { // never: what was rewritten is as well-formed as it was
		return DropMalformed
	}
	f.looped = true
	w.arrive(f, dst)
	return w.inbound(f, dst)
}

// staticErrorOut and staticErrorIn translate an error 1:1, whatever it quotes.
func (w *Worker) staticErrorOut(f *flow, ext uint32, dst owner, to Side) Verdict {
	var q quoted
	if bad := w.readError(f, &q); bad != Unset {
		return bad
	}
	if bad := w.filter(f, to, f.v.Src, 0); bad != Unset {
		return bad
	}
	if bad := w.fit(f, to); bad != Unset {
		return bad
	}
	quotedDst := ext
	if q.v.Dst != f.v.Src { // the sender is a router; the quoted packet was for another host
		if quotedDst = w.pol.outOf.get(q.v.Dst); quotedDst == 0 {
			return DropICMPNoMapping
		}
	}
	w.rewriteError(f, &q, Out, ext, quotedDst, 0, false)
	if to == Inside {
		return w.loopError(f, dst)
	}
	return w.finish(f, ErrorOutbound, Outside)
}

func (w *Worker) staticErrorIn(f *flow, in uint32) Verdict {
	var q quoted
	if bad := w.readError(f, &q); bad != Unset {
		return bad
	}
	if bad := w.filter(f, Inside, 0, in); bad != Unset {
		return bad
	}
	if bad := w.fit(f, Inside); bad != Unset {
		return bad
	}
	w.rewriteError(f, &q, In, in, in, 0, false)
	return w.finish(f, ErrorInbound, Inside)
}

// rewriteError translates the headers of an error in direction d, to outer, and its quote backwards, to inner and port.
func (w *Worker) rewriteError(f *flow, q *quoted, d Direction, outer, inner uint32, port uint16, hasPort bool) {
	b := f.p.Bytes()
	sum := rewriteQuote(b[q.at:], &q.v, d, inner, port, hasPort)
	icmp := b[f.v.L4:]
	be.PutUint16(icmp[2:], sum.Apply(be.Uint16(icmp[2:])))
	at, old := 12, f.v.Src
	if d == In {
		at, old = 16, f.v.Dst
	}
	ip := packet.Delta32(old, outer)
	be.PutUint32(b[at:], outer)
	if f.att.router && !f.looped {
		b[8]--
		ip = ip.Plus(ttlStep)
	}
	if d == Out && !f.v.DF && hasPort {
		id := w.newID(outer, f.v.Dst, packet.ICMP, 1)
		ip = ip.Plus(packet.Delta16(f.v.ID, id))
		be.PutUint16(b[4:], id)
	}
	be.PutUint16(b[10:], ip.Apply(be.Uint16(b[10:])))
}

// rewriteQuote changes the end of a quoted packet that is ours: of an inbound error the source, of an outbound one the
// destination. It returns the change of the sum over the quote.
func rewriteQuote(b []byte, v *packet.View, d Direction, addr uint32, port uint16, hasPort bool) packet.Delta {
	at, portAt := 12, 0
	if d == Out {
		at, portAt = 16, 2
	}
	set := func(at int, to uint16) packet.Delta {
		old := be.Uint16(b[at:])
		be.PutUint16(b[at:], to)
		return packet.Delta16(old, to)
	}
	addrD := packet.Delta32(be.Uint32(b[at:]), addr)
	be.PutUint32(b[at:], addr)
	sum := addrD.Plus(set(10, addrD.Apply(be.Uint16(b[10:]))))
	if v.FragOff != 0 {
		return sum
	}
	l4 := int(v.L4)
	n := len(b) - l4
	both := addrD
	if hasPort {
		if v.Proto == packet.ICMP {
			portAt = 4
		}
		portD := set(l4+portAt, port)
		sum, both = sum.Plus(portD), addrD.Plus(portD)
		if v.Proto == packet.ICMP { // no pseudo-header
			both = portD
		}
	}
	switch {
	case v.Proto == packet.TCP && n >= 18:
		sum = sum.Plus(set(l4+16, both.Apply(be.Uint16(b[l4+16:]))))
	case (v.Proto == packet.UDP || v.Proto == packet.UDPLite) && n >= 8:
		sum = sum.Plus(set(l4+6, both.ApplyUDP(be.Uint16(b[l4+6:]))))
	case v.Proto == packet.DCCP && n >= 8:
		sum = sum.Plus(set(l4+6, both.Apply(be.Uint16(b[l4+6:]))))
	case v.Proto == packet.ICMP && hasPort && n >= 4 && both != packet.NoDelta:
		sum = sum.Plus(set(l4+2, both.Apply(be.Uint16(b[l4+2:]))))
	}
	return sum
}

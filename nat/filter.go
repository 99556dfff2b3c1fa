// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// Theory of operation of restrictions.
//
// A restricted host is held to what it may start (Out) and what it may be sent (In), and answers pass whatever the rules
// say: so somebody must know what was started. Where a packet goes through NAPT, its session does, and the rules are asked
// when that is made. Elsewhere (1:1, inside to inside, bypass) the host has a filter session: an ordinary record whose
// translation is the identity, in the shard of the host's own endpoint. Two restricted hosts that talk to each other have
// one each, as each of them would on a machine of its own; both are judged before either is made.
//
// Rules are about the start of a flow, so a live session goes on when they change. A TCP SYN on a session that is past its
// opening is the start of another connection and is judged as one, whichever side it comes from; so is an ICMP query
// against the direction of the first. A session is of its host's restriction by name: who has another one is another
// owner, and nothing of the old one's is left to it (EIP-10, B-40).
//
// Only what can be answered makes a session: no RST, no ICMP reply. Fragments of TCP, UDP
// and ICMP wait for the rest of their datagram, for only the first piece says what it belongs to.

// filterPool is the number of the pool that filter sessions name: it has time-outs and no addresses.
const filterPool = 0

// party is a restricted end of a packet, which sends it (Out) or receives it (In).
type party struct {
	*bound
	d             Direction
	rem           uint32
	port, remPort uint16
	known, makes  bool // it has a session; it is to have one
	tallied       conntrack.Bits
}

// filter lets a packet pass that is not translated by a pool, or drops it: out sends it and in receives it, 0 where that is
// no inside host. Where neither is restricted it does nothing; else the packet then fits the MTU of the side it goes to.
func (w *Worker) filter(f *flow, to Side, out, in uint32) Verdict {
	sends, receives := w.pol.boundOf(out), w.pol.boundOf(in)
	if sends == nil && receives == nil {
		return Unset
	}
	return w.filterBound(f, to, sends, receives)
}

func (w *Worker) filterBound(f *flow, to Side, sends, receives *bound) Verdict {
	var both [2]party
	all := both[:0]
	if sends != nil {
		all = append(all, party{bound: sends, d: Out, rem: f.v.Dst})
	}
	if receives != nil {
		all = append(all, party{bound: receives, d: In, rem: f.v.Src})
	}
	if _, whole := class(f.v.Proto); whole && f.v.Kind == packet.KindFragment {
		if bad := w.gather(f); bad != Unset {
			return bad
		}
	}
	for i := range all {
		if !w.judge(f, &all[i]) {
			return DropNotAllowed
		}
	}
	if f.v.Kind == packet.KindError {
		return Unset
	}
	if bad := w.fit(f, to); bad != Unset {
		return bad
	}
	return w.remember(f, all)
}

// judge says whether a packet may pass as far as p is concerned, and what is to be remembered of it.
func (w *Worker) judge(f *flow, p *party) bool {
	v := &f.v
	if v.Kind == packet.KindError {
		return w.mayReport(f, p.bound, p.d, p.rem)
	}
	if !tracked(v) {
		return p.covers(p.d, v, 0, p.rem) >= 0
	}
	if p.port, p.remPort = portsOf(v); p.d == In {
		p.remPort, p.port = portsOf(v)
	}
	port := p.remPort
	if p.d == In {
		port = p.port
	}
	if v.Proto == packet.ICMP {
		p.remPort = 0
	}
	sh := w.enter(w.e.shardOf(p.host, p.port, v.Proto))
	h := w.sessionOf(sh, p, v.Proto)
	if p.known = h != conntrack.None; p.known && !anew(v, sh.t.Rec(h), p.d) {
		return true
	}
	if p.covers(p.d, v, port, p.rem) < 0 {
		return false
	}
	p.makes = !p.known && answerable(v)
	return true
}

// tracked reports whether a packet can be of a session: all but the ICMP messages that are no queries. Protocols without
// ports that we know have sessions by address alone, and so have their fragments.
func tracked(v *packet.View) bool {
	_, ports := class(v.Proto)
	return v.Kind == packet.KindFlow || !ports
}

// portsOf are the ports of a tracked packet.
func portsOf(v *packet.View) (src, dst uint16) {
	if v.Kind != packet.KindFlow {
		return 0, 0
	}
	return v.SrcPort, v.DstPort
}

// sessionOf is the live session of p's host with the other end, in its shard.
func (w *Worker) sessionOf(sh *shard, p *party, proto uint8) conntrack.Handle {
	ports := uint32(p.port)<<16 | uint32(p.remPort)
	return w.live(sh, sh.t.FindOut(sh.t.OutTag(p.host, p.rem, ports, proto), p.host, p.rem, ports, proto))
}

// anew reports whether a packet in direction d starts something, though r is live.
func anew(v *packet.View, r *conntrack.Record, d Direction) bool {
	switch v.Proto {
	case packet.TCP:
		return v.Flags&(packet.SYN|packet.ACK) == packet.SYN && r.State != conntrack.Opening
	case packet.ICMP:
		return isQuery(v) && (d == In) != r.Has(conntrack.Inbound)
	}
	return false
}

func isQuery(v *packet.View) bool { return v.Type == packet.Echo || v.Type == packet.Timestamp }

// answerable reports whether there can be an answer to a tracked packet.
func answerable(v *packet.View) bool {
	switch v.Proto {
	case packet.TCP:
		return v.Flags&packet.RST == 0
	case packet.ICMP:
		return isQuery(v)
	}
	return true
}

// barred reports whether the rules of a host keep out a packet of its session r in a pool, or one that would make a
// session, or pass without: then r is nil. port is that of the receiving end.
func (w *Worker) barred(v *packet.View, host uint32, d Direction, port uint16, rem uint32, r *conntrack.Record) bool {
	b := w.pol.boundOf(host)
	return b != nil && (r == nil || anew(v, r, d)) && b.covers(d, v, port, rem) < 0
}

// mayReport judges an ICMP error that b's host sends or receives: it may be about what a live session of the host has sent
// the other way, or a rule covers it.
func (w *Worker) mayReport(f *flow, b *bound, d Direction, rem uint32) bool {
	if b.covers(d, &f.v, 0, rem) >= 0 {
		return true
	}
	var q packet.View
	if _, fault := q.ParseQuote(f.p.Bytes()[int(f.v.L4)+8:]); fault != packet.OK || q.Src != f.v.Dst || !tracked(&q) {
		return false
	}
	p := party{bound: b, rem: q.Dst}
	p.port, p.remPort = portsOf(&q)
	if d == Out { // it quotes what came in
		if q.Dst != b.host {
			return false
		}
		p.rem = q.Src
		p.remPort, p.port = portsOf(&q)
	}
	if q.Proto == packet.ICMP {
		p.remPort = 0
	}
	return w.sessionOf(w.enter(w.e.shardOf(p.host, p.port, q.Proto)), &p, q.Proto) != conntrack.None
}

// remember tracks a packet that may pass in the sessions that its ends have, and makes those that they lack. All of those
// can be made, or none is.
func (w *Worker) remember(f *flow, all []party) Verdict {
	proto := f.v.Proto
	d := &w.pol.pools[filterPool]
	for i := range all {
		p := &all[i]
		if !p.makes {
			continue
		}
		sh, n := w.enter(w.e.shardOf(p.host, p.port, proto)), 1
		if i > 0 && all[0].makes && w.e.shardOf(all[0].host, all[0].port, proto) == sh.number {
			n = 2
		}
		var bad Verdict
		if p.tallied, bad = w.tally(p.host, p.rate(w.pol)); bad == Unset && !w.haveRecords(sh, d, n) {
			bad = DropTableFull
		}
		if bad != Unset {
			for _, q := range all[:i+1] {
				w.untally(q.host, q.tallied, q.rate(w.pol))
			}
			return w.noteRefused(sh, bad, p.record(f, w.pol))
		}
	}
	for i := range all { // first, for what is made next may push out what was not answered
		if p := &all[i]; p.known {
			sh := w.enter(w.e.shardOf(p.host, p.port, proto))
			if h := w.sessionOf(sh, p, proto); h != conntrack.None && !w.track(f, sh, h, conntrack.Dir(p.d)) {
				return DropOutOfWindow
			}
		}
	}
	for i := range all {
		if p := &all[i]; p.makes && !w.addFilter(f, p) {
			return DropTableFull
		}
	}
	return Unset
}

// addFilter makes p's session. Between judgement and here its shard may have been left, and another worker there.
func (w *Worker) addFilter(f *flow, p *party) bool {
	sh := w.enter(w.e.shardOf(p.host, p.port, f.v.Proto))
	made := w.sessionOf(sh, p, f.v.Proto) != conntrack.None
	if made || !w.haveRecords(sh, &w.pol.pools[filterPool], 1) {
		w.untally(p.host, p.tallied, p.rate(w.pol))
		return made
	}
	r := p.record(f, w.pol)
	w.start(f, &r, conntrack.Dir(p.d))
	w.add(f, sh, &r, conntrack.Dir(p.d))
	return true
}

// rate is the bound on new sessions that counts for p: nobody else uses up that of a host.
func (p *party) rate(pol *policy) int {
	if p.d == In {
		return 0
	}
	return pol.hostRate
}

// record is p's session before it has a state.
func (p *party) record(f *flow, pol *policy) conntrack.Record {
	r := conntrack.Record{
		In: p.host, InPort: p.port, Ext: p.host, ExtPort: p.port, Rem: p.rem, RemPort: p.remPort, Proto: f.v.Proto,
		Pool: filterPool, Attachment: anyAttachment, Bits: conntrack.Filter | p.tallied,
	}
	if p.d == In {
		r.Bits |= conntrack.Inbound
	}
	if r.Proto == packet.TCP && startFlags(f.v.Flags) != Unset {
		r.Bits |= conntrack.Unknown
	}
	r.SetOwner(p.id)
	return r
}

// start gives a new session its state.
func (w *Worker) start(f *flow, r *conntrack.Record, d conntrack.Dir) {
	switch r.Proto {
	case packet.TCP:
		s := segment(w.first(f).Bytes(), &f.v, f.length)
		r.StartTCP(d, &s)
	case packet.ICMP:
		r.State = conntrack.Query
	default:
		if r.State = conntrack.UDPOpening; r.Proto == packet.UDP && r.RemPort == 53 && d == conntrack.Out {
			r.State = conntrack.DNS
		}
	}
}

// keeps says whether a filter session may go on under the policy: if its host has had the same restriction all the time
// since the session was last looked at, and its packets still go untranslated or 1:1.
func (p *policy) keeps(r *conntrack.Record) bool {
	b := p.boundOf(r.In)
	rem := p.owners.of(r.Rem)
	if b == nil || r.Owner() != b.id || int32(r.Epoch-b.since) < 0 || rem.private {
		return false
	}
	if rem.kind != inside {
		way, _ := p.route(r.In, r.Rem)
		oneToOne := p.outOf.get(r.In) != 0 && (way.static || r.Has(conntrack.Inbound))
		if !way.bypass && !oneToOne {
			return false
		}
	}
	r.Epoch = p.epoch
	return true
}

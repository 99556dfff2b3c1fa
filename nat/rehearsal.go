// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat/internal/reasm"
	"github.com/tidegate/tidegate/packet"
)

// Theory of operation of a rehearsal.
//
// Explain takes a copy of the packet through the very code that Translate runs, with a worker of its own whose why is
// set. So there is no second opinion about what a packet meets, only about what is done about it: the few places where
// a packet changes what others see ask here instead. They are the makers of state (a session, a held SYN, a piece, a
// port, an IP identification), its trackers, and counters. Each answers as if it had done its work, and does not.
//
// What has ended already is given back as always: who looks when is not to be seen in what becomes of packets.
//
// One packet may make two sessions, a hairpin from inside to a forward. The second has to be judged as if the first
// were in the books. That is what a rehearsal remembers: whom it counts for, the record it takes, and which session it
// would push out of a full table.

// rehearsal is what a worker of Explain finds out, and what it would have done so far.
type rehearsal struct {
	x *Explanation

	// made are the sessions that add would have made, n of them: one for each pass.
	made [2]conntrack.Record
	n    int
	// shard is where the first of them would be, nil without. used and buried are what it changes in the number of
	// records in use and of ports that wait; victim is the session that would give way to it.
	shard        *shard
	used, buried int
	victim       conntrack.Handle
	// pushedHost is the inside host that victim counts for, 0 if for none.
	pushedHost uint32
	// unburied is the port in quarantine that the allocator would give up.
	unburied conntrack.Handle
	// crowds are the bitmaps that the allocator would have made.
	crowds crowds
}

// The rest are what the steps of a packet ask where state is about to change. Those of the first group have a real side,
// too; of the others, the real side is next to the call.

// live is h if it is alive.
func (w *Worker) live(sh *shard, h conntrack.Handle) conntrack.Handle {
	if h = sh.t.Live(h, w.tick); w.gone(sh, h) {
		return conntrack.None
	}
	return h
}

// gone reports whether h would have been pushed out by now.
func (w *Worker) gone(sh *shard, h conntrack.Handle) bool {
	return w.why != nil && h != conntrack.None && w.why.shard == sh && w.why.victim == h
}

// holder is who has the external endpoint that the inbound packet v is for.
func (w *Worker) holder(sh *shard, v *packet.View) conntrack.Handle {
	h := sh.t.Holder(v.Dst, v.DstPort, v.Proto, w.tick)
	if w.gone(sh, h) {
		return w.others(sh, h, func(*conntrack.Record) bool { return true })
	}
	return h
}

// talks reports whether its mapping has a session to where it comes from.
func (w *Worker) talks(sh *shard, v *packet.View) bool {
	if !sh.t.Talks(v.Dst, v.Src, v.DstPort, v.Proto, w.tick) {
		return false
	}
	if w.why == nil || w.why.shard != sh || w.why.victim == conntrack.None {
		return true
	}
	same := func(r *conntrack.Record) bool { return r.Rem == v.Src }
	h := sh.t.Holder(v.Dst, v.DstPort, v.Proto, w.tick)
	return !w.gone(sh, h) && same(sh.t.Rec(h)) || w.others(sh, h, same) != conntrack.None
}

// others is a session behind h in its mapping, one that would still be there.
func (w *Worker) others(sh *shard, h conntrack.Handle, want func(*conntrack.Record) bool) conntrack.Handle {
	for {
		h = conntrack.Handle(sh.t.Rec(h).Next)
		if r := sh.t.Rec(h); h == conntrack.None || !w.gone(sh, h) && want(r) && sh.t.Alive(r, w.tick) {
			return h
		}
	}
}

// occupied is how many records are in use, and how many of them by ports that wait.
func (w *Worker) occupied(sh *shard) (used, buried int) {
	used, buried = sh.t.Used(), sh.t.Quarantined()
	if w.why != nil && w.why.shard == sh {
		used, buried = used+w.why.used, buried+w.why.buried
	}
	return used, buried
}

// unanswered is how many sessions would give way to new ones.
func (w *Worker) unanswered(sh *shard) int {
	n := sh.t.Unanswered()
	if w.why != nil && w.why.shard == sh {
		if n++; w.why.victim != conntrack.None {
			n--
		}
	}
	return n
}

// countHost counts one more session of an inside host.
func (w *Worker) countHost(in uint32, limit, rate int) tallied {
	if w.why == nil {
		return w.e.hosts.add(uint64(in), 0, w.second(), limit, rate)
	}
	others := 0
	if y := w.why; y.shard != nil {
		if y.made[0].In == in && y.made[0].Has(conntrack.Tallied) {
			others++
		}
		if y.pushedHost == in {
			others--
		}
	}
	return w.e.hosts.look(uint64(in), 0, w.second(), others, limit, rate)
}

// countDestination counts one more session to a destination.
func (w *Worker) countDestination(a, b uint64, limit int) tallied {
	if w.why == nil {
		return w.e.dests.add(a, b, limit)
	}
	return w.e.dests.look(a, b, limit)
}

// newID takes n IP identifications for packets from ext to dst, in the shard that is held.
func (w *Worker) newID(ext, dst uint32, proto uint8, n int) uint16 {
	if w.why != nil {
		return w.held.peekID(w.e, w.e.idOf(ext, dst, proto), n)
	}
	return w.held.claimID(w.e, w.e.idOf(ext, dst, proto), n)
}

// mayEmit reports whether the engine may make one more ICMP error.
func (w *Worker) mayEmit() bool {
	if w.why != nil {
		return w.e.limit.allows(w.call)
	}
	return w.e.limit.take(w.call)
}

// noteRefused tells of a packet that would have made the session r, and returns why it does not.
func (w *Worker) noteRefused(sh *shard, why Verdict, r conntrack.Record) Verdict {
	if w.why != nil {
		return why
	}
	return sh.noteRefused(why, r)
}

// saw notes a session that the packet meets.
func (w *Worker) saw(sh *shard, h conntrack.Handle, use Use) {
	if w.why != nil {
		w.note(sh, sh.t.Rec(h), use)
	}
}

func (w *Worker) note(sh *shard, r *conntrack.Record, use Use) {
	s := sessionOf(sh.t, r, nil, w.tick, 0)
	w.why.x.Sessions = append(w.why.x.Sessions, SessionUse{
		Use: use, Protocol: ProtocolName(s.Protocol), Inside: s.Inside, External: s.External, Remote: s.Remote,
		State: s.State, Inbound: s.Inbound, Replied: s.Replied, Left: s.Expires.Seconds(),
	})
}

// rehearseTrack is track.
func (w *Worker) rehearseTrack(f *flow, sh *shard, h conntrack.Handle, d conntrack.Dir) bool {
	w.saw(sh, h, UseSession)
	r := sh.t.Rec(h)
	after, ok := r.State, true
	if f.v.Proto == packet.TCP {
		s := segment(w.first(f).Bytes(), &f.v, f.length)
		after, ok = sh.t.JudgeTCP(h, d, &s)
	} else if after == conntrack.UDPOpening && (d == conntrack.In) != r.Has(conntrack.Inbound) {
		after = conntrack.UDP
	}
	if after != r.State {
		w.why.x.Sessions[len(w.why.x.Sessions)-1].Becomes = after.String()
	}
	return ok || !w.pol.dropBadResets
}

// rehearsePort is allocate. The allocator does its work with the numbers that are next, which then are next again: what
// it finds is what the flow would get if no other came before.
func (w *Worker) rehearsePort(sh *shard, q want) (ext uint32, port uint16, ok bool) {
	ext, port, ok = w.allocate(sh, &q)
	if h := w.why.unburied; !ok && h != conntrack.None {
		r := sh.t.Rec(h)
		ext, port, ok = r.Ext, r.ExtPort, true
	}
	if ok {
		w.why.x.Port = &PortChoice{Address: from4(ext), Port: port, Min: uint16(q.span.lo), Max: uint16(q.span.hi), Kept: q.pool.PreservePort && port == q.inPort}
	}
	return ext, port, ok
}

// rehearseAdd is add, but for what it is called with being a copy.
func (w *Worker) rehearseAdd(sh *shard, r *conntrack.Record) *conntrack.Record {
	y := w.why
	used, buried := w.occupied(sh)
	if y.n == 0 {
		y.shard, y.used = sh, 1
		switch full := used == sh.t.Cap(); {
		case y.unburied != conntrack.None, full && buried > 0: // the port that gives way has a record
			y.used, y.buried = 0, -1
		case full:
			y.used, y.victim = 0, sh.t.Oldest()
			if old := sh.t.Rec(y.victim); old.Has(conntrack.Tallied) {
				y.pushedHost = old.In
			}
		}
	}
	made := &y.made[y.n]
	*made = *r
	y.n++
	w.note(sh, made, UseNew)
	return made
}

// rehearsePiece is collect.
func (w *Worker) rehearsePiece(f *flow, key reasm.Key) reasm.Result {
	v, store := &f.v, w.e.frags.store
	b := f.p.Bytes()
	got, set, at := store.Peek(key, w.call, b, int(v.L4), int(v.FragOff), v.MF)
	if got != reasm.Complete {
		return got
	}
	own := w.buffer(len(b))
	copy(own.Bytes(), b)
	w.pieces, f.length = w.pieces[:0], 0
	for i := range store.Len(set) + 1 {
		switch {
		case i < at:
			w.takePiece(set, i)
		case i == at:
			w.pieces = append(w.pieces, own)
		default:
			w.takePiece(set, i-1)
		}
		p := w.pieces[i].Bytes()
		f.length += len(p) - int(p[0]&15)*4
	}
	return got
}

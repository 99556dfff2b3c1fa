// SPDX-License-Identifier: Apache-2.0

package conntrack

import "math/bits"

// Theory of operation of TCP tracking.
//
// Aims: a session lives as long as its connection, and nobody who cannot see the connection can end it or keep it.
// The two ends do the real work: a segment is translated whatever the tracker thinks of it (RFC 5382 REQ-2), and only
// state and timer depend on its judgement.
//
// For each direction the tracker keeps one past the highest sequence number sent (End), the highest acknowledgement
// (Ack) and the largest window (Win). A segment is in the window if it could be accepted by a receiver that saw what
// we saw, give or take a window of at least 64 KB; those outside neither refresh nor change anything (T-15). A
// direction is known from its SYN on; of an unknown one nothing is kept.
//
//	Opening      both SYNs seen, both acknowledged       -> Established (simultaneous open, too: RFC 5382 REQ-2a)
//	Established  a FIN each way                          -> Closing
//	either       RST with exactly the expected number    -> Reset        (RFC 5961, section 3; T-10)
//	Reset        a segment in the window                 -> back         (RFC 7857, section 2.2; T-9)
//	Closing,     SYN from the side that may start        -> Opening, all fresh, on the same ports (T-12)
//	Reset
//	Established  SYN, and then a SYN+ACK from the other  -> Opening      (T-11: the SYN alone changes nothing)
//
// One FIN changes nothing (T-8). In Closing the timer runs from the second FIN and is not refreshed.
//
// A process may die between any two stores, and another one goes on with the record (Rebuild). So a new State is stored
// after all that it rests on, and together with its time; each other word is valid by itself: what an interrupted update
// leaves is what a tracker would know that had missed a packet, and both ends send again what was under way. Of the words
// of a direction that has not answered yet nothing is kept.

// TCP flags, as in the header.
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4
)

// minWindow is the smallest window that segments are held to, unknownWindow that of a side whose scale is not known.
const (
	minWindow        = 65535
	unknownWindowLog = 30
	noScale          = 15
)

// Segment is what tracking wants to know of a TCP segment.
type Segment struct {
	Seq, Ack uint32
	// Len is the length of the payload.
	Len    uint32
	Window uint16
	// Flags is the flags byte of the header.
	Flags uint8
	// Scale is the shift count of the window scale option of a SYN, 255 without.
	Scale uint8
}

// length is what the segment takes of the sequence space.
func (s *Segment) length() uint32 {
	return s.Len + uint32(s.Flags&flagSYN>>1) + uint32(s.Flags&flagFIN)
}

// StartTCP sets r's tracking from the segment that makes the session; with Unknown it is one from the middle.
func (r *Record) StartTCP(d Dir, s *Segment) {
	r.startTracking(d, s)
	if r.Bits&Unknown != 0 {
		r.State = Established
		r.flags |= sawAcked << d
		r.Bits |= Completed
	} else {
		r.State = Opening
	}
}

func (r *Record) startTracking(d Dir, s *Segment) {
	r.scale = noScale<<4 | noScale
	r.flags = 0
	r.begin(d, s)
}

// begin makes direction d known.
func (r *Record) begin(d Dir, s *Segment) {
	r.End[d], r.Ack[d] = s.Seq+s.length(), s.Ack
	r.flags |= sawSYN << d
	if s.Flags&flagSYN != 0 {
		scale := uint8(noScale)
		if s.Scale != 255 {
			scale = min(s.Scale, 14) // RFC 7323, section 2.3: larger shift counts are taken as 14
		}
		r.scale = r.scale&^(15<<(4*d)) | scale<<(4*d)
	}
	r.Win[d] = windowLog(r.window(d, s))
}

// window is the advertised window of s, scaled. Those of SYNs never are (RFC 7323, section 2.2).
func (r *Record) window(d Dir, s *Segment) uint32 {
	if r.Bits&Unknown != 0 {
		return 1 << unknownWindowLog
	}
	out, in := r.scale&15, r.scale>>4
	if s.Flags&flagSYN != 0 || out == noScale || in == noScale {
		return uint32(s.Window)
	}
	if d == In {
		out = in
	}
	return uint32(s.Window) << out
}

func windowLog(w uint32) uint8 {
	if w == 0 {
		return 0
	}
	return uint8(bits.Len32(w - 1))
}

func (r *Record) known(d Dir) bool { return r.flags&(sawSYN<<d) != 0 }
func (r *Record) acked(d Dir) bool { return r.flags&(sawAcked<<d) != 0 }

// tolerance is the window that d advertised, at least minWindow.
func (r *Record) tolerance(d Dir) uint32 {
	if r.Bits&Unknown != 0 {
		return 1 << unknownWindowLog
	}
	return max(uint32(1)<<r.Win[d], minWindow)
}

// inWindow judges a segment from d that is no RST. A test whose terms are not known yet passes.
func (r *Record) inWindow(d Dir, s *Segment) bool {
	o := d ^ 1
	w := r.tolerance(o)
	if r.acked(o) && int32(s.Seq+s.length()-r.Ack[o]-w) > 0 {
		return false
	}
	if r.known(d) && int32(s.Seq-(r.End[d]-w)) < 0 {
		return false
	}
	if s.Flags&flagACK != 0 && r.known(o) {
		if int32(s.Ack-r.End[o]) > 0 || int32(s.Ack-(r.End[o]-r.tolerance(d))) < 0 {
			return false
		}
	}
	return true
}

// expects reports whether a RST from d has exactly the number that its receiver waits for.
func (r *Record) expects(d Dir, s *Segment) bool {
	o := d ^ 1
	switch {
	case r.acked(o):
		return s.Seq == r.Ack[o]
	case r.known(d):
		return s.Seq == r.End[d]
	default: // refuses the SYN (RFC 9293, section 3.10.7.3)
		return s.Flags&flagACK != 0 && s.Ack == r.End[o]
	}
}

// resetInWindow is the looser test for RSTs that may be dropped by policy.
func (r *Record) resetInWindow(d Dir, s *Segment) bool {
	o := d ^ 1
	w := r.tolerance(o)
	return (!r.known(d) || int32(s.Seq-(r.End[d]-w)) >= 0) && (!r.acked(o) || int32(s.Seq-(r.Ack[o]+w)) <= 0)
}

// effect is what a segment does to its session.
type effect uint8

const (
	none    effect = iota
	refresh        // it lives on
	hasten         // it has a new state, whose time-out counts from now, which is in LastSeen
	stray          // a RST outside the window
)

// TrackTCP updates a session for a segment from direction d, which may be the first from there, at the tick now.
// It reports false for a RST outside the window of its connection, which did nothing.
func (t *Table) TrackTCP(h Handle, d Dir, s *Segment, now uint32) bool {
	r := &t.recs[h]
	if r.Bits&Replied == 0 && d == r.replyDir() {
		t.Answered(h)
	}
	switch r.step(d, s, now) {
	case refresh:
		r.LastSeen = now
	case hasten:
		t.Hasten(h)
	case stray:
		return false
	}
	return true
}

// JudgeTCP is what TrackTCP would return, and the State that the session would then have; it changes nothing.
func (t *Table) JudgeTCP(h Handle, d Dir, s *Segment) (after State, ok bool) {
	r := t.recs[h]
	if r.Bits&Replied == 0 && d == r.replyDir() { // as Answered leaves it
		next, prev := r.listLinks()
		*next, *prev = 0, 0
		r.Bits |= Replied
	}
	e := r.step(d, s, r.LastSeen)
	return r.State, e != stray
}

// handshake is the flags of a connection whose handshake was seen to its end.
const handshake = sawSYN*3 | sawAcked*3

// TrackData is TrackTCP for what most segments are: in the window of an established connection, with an ACK and without
// SYN, FIN and RST, as the caller has seen, and with no larger window than before. It returns false, having done
// nothing, if this is not one of them.
func (r *Record) TrackData(d Dir, seq, ack, length uint32, window uint16, now uint32) bool {
	d &= 1
	o := d ^ 1
	if r.State != Established || r.Bits&(Replied|Unknown) != Replied || r.flags&handshake != handshake {
		return false
	}
	wide, own := uint32(window), r.scale>>(4*d)&15
	if r.scale&15 != noScale && r.scale>>4 != noScale {
		wide <<= own
	}
	maxD, maxO := uint32(1)<<(r.Win[d]&31), max(uint32(1)<<(r.Win[o]&31), minWindow)
	end := seq + length
	if wide > maxD || int32(end-r.Ack[o]-maxO) > 0 || int32(seq-(r.End[d]-maxO)) < 0 ||
		int32(ack-r.End[o]) > 0 || int32(ack-(r.End[o]-max(maxD, minWindow))) < 0 {
		return false
	}
	if int32(end-r.End[d]) > 0 {
		r.End[d] = end
	}
	if int32(ack-r.Ack[d]) > 0 {
		r.Ack[d] = ack
	}
	r.LastSeen = now
	return true
}

func (r *Record) step(d Dir, s *Segment, now uint32) effect {
	o := d ^ 1
	if s.Flags&flagRST != 0 {
		if r.expects(d, s) {
			if r.State == Opening || r.State == Established {
				r.commit(Reset, now)
				return hasten
			}
			return none
		}
		if !r.resetInWindow(d, s) {
			return stray
		}
		return none
	}
	if s.Flags&flagSYN != 0 {
		if e, done := r.stepSYN(d, s, now); done {
			return e
		}
	}
	if r.State == Closing || !r.inWindow(d, s) {
		return none
	}
	e := refresh
	if r.State == Reset {
		state := Opening
		if r.Bits&Completed != 0 {
			state = Established
		}
		r.commit(state, now)
		e = hasten
	}
	switch {
	case !r.known(d):
		if s.Flags&flagSYN == 0 && r.Bits&Unknown == 0 {
			return e
		}
		r.begin(d, s)
	default:
		if end := s.Seq + s.length(); int32(end-r.End[d]) > 0 {
			r.End[d] = end
		}
		r.Win[d] = max(r.Win[d], windowLog(r.window(d, s)))
	}
	if s.Flags&flagACK != 0 && r.known(o) {
		if !r.acked(d) || int32(s.Ack-r.Ack[d]) > 0 {
			r.Ack[d] = s.Ack
		}
		r.flags |= sawAcked << d
	}
	if r.State == Opening && r.flags&handshake == handshake {
		r.Bits |= Completed
		crashPoint("handshake")
		r.commit(Established, now)
		e = hasten
	}
	if s.Flags&flagFIN != 0 {
		r.flags |= sawFIN << d
		if r.flags&(sawFIN*3) == sawFIN*3 {
			crashPoint("second FIN")
			r.commit(Closing, now)
			e = hasten
		}
	}
	return e
}

// stepSYN handles what is special about SYNs; done is false if the rest of step applies.
func (r *Record) stepSYN(d Dir, s *Segment, now uint32) (e effect, done bool) {
	o := d ^ 1
	if s.Flags&flagACK != 0 {
		switch r.State {
		case Established:
			if r.flags&(sawReSYN<<o) == 0 {
				return none, false
			}
			// The other end has forgotten the old connection and answers the new SYN.
			r.Bits &^= Completed | Unknown
			r.End[o] = s.Ack
			r.flags = sawSYN << o
			r.begin(d, s)
			r.flags |= sawAcked << d
			crashPoint("answer of a new connection")
			r.commit(Opening, now)
			return hasten, true
		case Closing, Reset:
			return none, true
		}
		return none, false
	}
	switch r.State {
	case Established:
		r.flags |= sawReSYN << d
		return none, true
	case Closing, Reset:
		if d == Out || r.Bits&Inbound != 0 {
			r.restart(d, s, now)
			return hasten, true
		}
		return none, true
	}
	switch {
	case !r.known(d):
		return none, false
	case !r.known(o): // another try
		if s.Seq+s.length() != r.End[d] {
			r.begin(d, s)
		}
		return refresh, true
	case s.Seq+s.length() != r.End[d]:
		return none, true
	}
	return none, false
}

// restart makes a new connection of an ended one.
func (r *Record) restart(d Dir, s *Segment, now uint32) {
	r.Bits &^= Completed | Unknown
	if r.Bits&Replied != 0 { // else the other direction's words are its links
		r.End, r.Ack, r.Win = [2]uint32{}, [2]uint32{}, [2]uint8{}
	}
	r.startTracking(d, s)
	crashPoint("restart")
	r.commit(Opening, now)
}

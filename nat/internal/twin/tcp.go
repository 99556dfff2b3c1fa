// SPDX-License-Identifier: Apache-2.0

package twin

import "github.com/tidegate/tidegate/packet"

// TCP states.
const (
	opening     = "opening"
	established = "established"
	closing     = "closing"
	reset       = "reset"
)

// peer is what was seen of one direction of a connection. It is known from its SYN on (or, picked up in the middle,
// from its first segment); of an unknown one nothing is kept.
type peer struct {
	known bool
	acked bool   // it acknowledged what the other sent
	fin   bool   // it is done
	reSYN bool   // it sent a SYN on the established connection
	end   uint32 // one past the highest sequence number it sent
	ack   uint32 // the highest it acknowledged
	win   uint32 // the largest window it advertised, rounded up to a power of two
	scale int    // its window scale; -1: none
}

// tcp is the connection of a session, the two peers indexed by nat.Direction (RFC 7857, section 2.1; T-1).
type tcp struct {
	state    string
	peers    [2]peer
	complete bool // the handshake was seen to its end
	pickedUp bool // in the middle: scales are not known
	inbound  bool // the outside started it
}

const unknownWindow = 1 << 30

// before and after compare sequence numbers (RFC 9293, section 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
func after(a, b uint32) bool  { return int32(a-b) > 0 }

// start is the connection that a segment from direction d makes. One without SYN is from the middle (T-13).
func (c *tcp) start(d int, s segment, inbound bool) {
	c.begins(d, s, inbound, !s.has(packet.SYN))
}

// begins is start where the segment alone does not say whether it is from the middle.
func (c *tcp) begins(d int, s segment, inbound, pickedUp bool) {
	*c = tcp{state: opening, inbound: inbound, pickedUp: pickedUp}
	for i := range c.peers {
		c.peers[i].scale = -1
	}
	c.begin(d, s)
	if c.pickedUp {
		c.state, c.complete = established, true
		c.peers[d].acked = true
	}
}

// begin makes direction d known.
func (c *tcp) begin(d int, s segment) {
	p := &c.peers[d]
	p.known, p.end, p.ack = true, s.seq+s.len, s.ack
	if s.has(packet.SYN) {
		p.scale = s.scale
	}
	p.win = c.window(d, s)
}

// window is the advertised window in bytes: scaled if both SYNs allow it, but never that of a SYN (RFC 7323, 2.2).
func (c *tcp) window(d int, s segment) uint32 {
	if c.pickedUp {
		return unknownWindow
	}
	w := s.window
	if !s.has(packet.SYN) && c.peers[0].scale >= 0 && c.peers[1].scale >= 0 {
		w <<= c.peers[d].scale
	}
	up := uint32(1)
	for up < w {
		up *= 2
	}
	return up
}

// tolerance is the window that d's receiver is held to.
func (c *tcp) tolerance(d int) uint32 {
	if c.pickedUp {
		return unknownWindow
	}
	return max(c.peers[d].win, 65535)
}

// inWindow judges a segment that is no RST; tests whose terms are not known pass (T-15).
func (c *tcp) inWindow(d int, s segment) bool {
	me, other := &c.peers[d], &c.peers[1-d]
	w := c.tolerance(1 - d)
	if other.acked && after(s.seq+s.len, other.ack+w) {
		return false
	}
	if me.known && before(s.seq, me.end-w) {
		return false
	}
	if s.has(packet.ACK) && other.known {
		if after(s.ack, other.end) || before(s.ack, other.end-c.tolerance(d)) {
			return false
		}
	}
	return true
}

// effect is what a segment did to its session.
type effect struct {
	refresh bool // the time-out counts from now
	stray   bool // a RST outside the window
}

// step follows a segment from direction d.
func (c *tcp) step(d int, s segment) effect {
	if s.has(packet.RST) {
		return c.stepRST(d, s)
	}
	if s.has(packet.SYN) {
		if e, done := c.stepSYN(d, s); done {
			return e
		}
	}
	// RFC 7857, section 2.1: nothing but a new connection prolongs closing.
	if c.state == closing || !c.inWindow(d, s) {
		return effect{}
	}
	if c.state == reset { // T-9: the RST was not believed
		c.state = opening
		if c.complete {
			c.state = established
		}
	}
	me, other := &c.peers[d], &c.peers[1-d]
	if !me.known {
		if !s.has(packet.SYN) && !c.pickedUp {
			return effect{refresh: true}
		}
		c.begin(d, s)
	} else {
		if after(s.seq+s.len, me.end) {
			me.end = s.seq + s.len
		}
		me.win = max(me.win, c.window(d, s))
	}
	if s.has(packet.ACK) && other.known {
		if !me.acked || after(s.ack, me.ack) {
			me.ack = s.ack
		}
		me.acked = true
	}
	if c.state == opening && me.known && me.acked && other.known && other.acked {
		c.state, c.complete = established, true // RFC 5382 REQ-2a: whoever began (T-2)
	}
	if s.has(packet.FIN) {
		if me.fin = true; other.fin { // T-7; one alone changes nothing (T-8)
			c.state = closing
		}
	}
	return effect{refresh: true}
}

// stepRST: only one with exactly the number that its receiver waits for is believed (RFC 5961, section 3; T-10).
func (c *tcp) stepRST(d int, s segment) effect {
	me, other := &c.peers[d], &c.peers[1-d]
	exact := s.has(packet.ACK) && s.ack == other.end // refuses a SYN (RFC 9293, section 3.10.7.3)
	if other.acked {
		exact = s.seq == other.ack
	} else if me.known {
		exact = s.seq == me.end
	}
	if exact {
		if c.state == opening || c.state == established {
			c.state = reset
			return effect{refresh: true}
		}
		return effect{}
	}
	w := c.tolerance(1 - d)
	return effect{stray: me.known && before(s.seq, me.end-w) || other.acked && after(s.seq, other.ack+w)}
}

// stepSYN handles what is special about SYNs; done is false where they are like any segment.
func (c *tcp) stepSYN(d int, s segment) (e effect, done bool) {
	me, other := &c.peers[d], &c.peers[1-d]
	if s.has(packet.ACK) {
		switch {
		case c.state == closing || c.state == reset:
			return effect{}, true
		case c.state == established && other.reSYN:
			// T-11: the other end had forgotten the connection and answers the new SYN.
			c.state, c.complete, c.pickedUp = opening, false, false
			*other = peer{known: true, end: s.ack, ack: other.ack, win: other.win, scale: other.scale}
			*me = peer{}
			c.begin(d, s)
			me.acked = true
			return effect{refresh: true}, true
		}
		return effect{}, false
	}
	switch {
	case c.state == established: // RFC 5961, section 4; T-11
		me.reSYN = true
		return effect{}, true
	case c.state == closing || c.state == reset:
		if d == out || c.inbound { // T-12: who may start may start again
			c.start(d, s, c.inbound)
			return effect{refresh: true}, true
		}
		return effect{}, true
	case !me.known: // simultaneous open
		return effect{}, false
	case !other.known: // another try
		if s.seq+s.len != me.end {
			c.begin(d, s)
		}
		return effect{refresh: true}, true
	case s.seq+s.len != me.end:
		return effect{}, true
	}
	return effect{}, false
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"sync"

	"github.com/tidegate/tidegate/packet"
)

// buffer is scratch space for n bytes behind headroom, valid until the next call to the worker.
func (w *Worker) buffer(n int) packet.Packet {
	i := w.used
	w.used++
	if i == len(w.bufs) {
		w.bufs = append(w.bufs, make([]byte, packet.Headroom+2048))
	}
	if len(w.bufs[i]) < packet.Headroom+n {
		w.bufs[i] = make([]byte, packet.Headroom+n)
	}
	return packet.Packet{Buf: w.bufs[i], Off: packet.Headroom, Len: n}
}

func (w *Worker) emit(p packet.Packet, to Side) {
	w.emitted = append(w.emitted, Emission{Packet: p, Side: to, Cause: w.cause})
}

// limiter bounds the ICMP errors that the engine makes (RFC 1812, section 4.3.2.8; B-11): so many in the second that
// begins with the first of them. A token bucket would let twice as many through in the first second (I-12).
type limiter struct {
	mu    sync.Mutex
	rate  int    // the most there may be in a second; negative: none
	n     int    // how many there were since
	since uint32 // tick
}

func (l *limiter) setRate(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n != l.rate {
		l.rate, l.n = n, 0
	}
}

func (l *limiter) take(tick uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over(tick) {
		l.n, l.since = 0, tick
	}
	if l.n >= l.rate {
		return false
	}
	l.n++
	return true
}

// over reports whether the second is.
func (l *limiter) over(tick uint32) bool {
	const back = 1 << 24 // steps back by less are none
	d := tick - l.since
	return l.n == 0 || d >= 1000 && d < 1<<32-back
}

// allows is what take would say.
func (l *limiter) allows(tick uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate > 0 && (l.n < l.rate || l.over(tick))
}

// errorQuote is how much of a packet an ICMP error quotes: what fits into 576 bytes (RFC 1812, section 4.3.2.3).
const errorQuote = 576 - 20 - 8

// ttlExceeded drops a packet whose time to live ends here and tells the sender.
func (w *Worker) ttlExceeded(f *flow, side Side) Verdict {
	w.icmpError(f, side, packet.TimeExceeded, 0, 0)
	return DropTTL
}

// refuse tells the inside sender that its flow gets no state (I-12).
func (w *Worker) refuse(f *flow, d *pool) {
	switch d.NoPort {
	case RefuseProhibited:
		w.icmpError(f, Inside, packet.Unreachable, 13, 0)
	case RefuseHostUnreachable:
		w.icmpError(f, Inside, packet.Unreachable, 1, 0)
	}
}

// icmpError makes an ICMP error about f, as it came, for its sender, who is on the given side. It makes none about
// errors, fragments but the first, and ICMP that is no query (RFC 1812, section 4.3.2.7; I-16), and not too many.
func (w *Worker) icmpError(f *flow, to Side, typ, code uint8, rest uint32) {
	v := &f.v
	if v.Kind == packet.KindError || v.FragOff != 0 || v.Proto == packet.ICMP && v.Kind == packet.KindOther {
		return
	}
	if v.Kind == packet.KindFragment && v.Proto == packet.ICMP && v.Type != packet.Echo && v.Type != packet.EchoReply &&
		v.Type != packet.Timestamp && v.Type != packet.TimestampReply {
		return
	}
	src := w.pol.router[Outside]
	if to == Inside {
		src = w.pol.insideRouter(v.Src, v.Dst)
	}
	if src == 0 {
		src = v.Dst
	}
	w.icmpMessage(w.first(f).Bytes(), src, v.Src, v.TOS, to, typ, code, rest)
}

// icmpMessage emits an ICMP error that quotes b.
func (w *Worker) icmpMessage(b []byte, src, dst uint32, tos uint8, to Side, typ, code uint8, rest uint32) {
	if !w.mayEmit() {
		w.counters.suppressed.Add(1)
		return
	}
	quote := b[:min(len(b), errorQuote)]
	p := w.buffer(28 + len(quote))
	m := p.Bytes()
	ipHeader(m, len(m), tos&0xfc, packet.ICMP, src, dst) // RFC 5508 section 7.7: the DSCP of the packet in question
	m[20], m[21], m[22], m[23] = typ, code, 0, 0
	be.PutUint32(m[24:], rest)
	copy(m[28:], quote)
	be.PutUint16(m[22:], packet.Checksum(m[20:]))
	w.emit(p, to)
}

// ipHeader writes an IPv4 header without options of a packet that is not to be fragmented, so that its ID may be 0
// (RFC 6864, section 4.1).
func ipHeader(m []byte, total int, tos, proto uint8, src, dst uint32) {
	m[0], m[1] = 0x45, tos
	be.PutUint16(m[2:], uint16(total))
	be.PutUint32(m[4:], 0x4000)
	m[8], m[9] = 64, proto
	be.PutUint16(m[10:], 0)
	be.PutUint32(m[12:], src)
	be.PutUint32(m[16:], dst)
	be.PutUint16(m[10:], packet.Checksum(m[:20]))
}

// reset answers a stray segment from inside with the RST that its destination would send if the connection did not
// exist (RFC 9293, section 3.10.7.1; NGW-6). The caller knows that it is no RST itself (B-49).
func (w *Worker) reset(f *flow) {
	v := &f.v
	s := segment(w.first(f).Bytes(), v, f.length)
	p := w.buffer(40)
	m := p.Bytes()
	ipHeader(m, 40, v.TOS&0xfc, packet.TCP, v.Dst, v.Src)
	t := m[20:]
	be.PutUint16(t, v.DstPort)
	be.PutUint16(t[2:], v.SrcPort)
	seq, ack, flags := s.Ack, uint32(0), uint8(packet.RST)
	if v.Flags&packet.ACK == 0 {
		seq, ack, flags = 0, s.Seq+s.Len+uint32(v.Flags&packet.FIN), packet.RST|packet.ACK
	}
	be.PutUint32(t[4:], seq)
	be.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, flags
	be.PutUint32(t[14:], 0)
	t[18], t[19] = 0, 0
	be.PutUint16(t[16:], ^packet.Fold(packet.Sum(t[:20], packet.PseudoIPv4(v.Dst, v.Src, packet.TCP, 20))))
	w.emit(p, Inside)
}

// cut emits p in pieces of at most mtu bytes (RFC 791, section 3.2; F-2). p may be a fragment itself.
func (w *Worker) cut(p *packet.Packet, mtu int, to Side) {
	b := p.Bytes()
	ihl := int(b[0]&15) * 4
	if p.Offload.Csum == packet.CsumPartial { // the sum goes over all the pieces
		packet.Complete(p)
	}
	flags := be.Uint16(b[6:])
	off, more := int(flags&0x1fff)*8, flags&0x2000
	var short [60]byte // the header of the pieces after the first: options whose copied bit is set
	later := copyOptions(short[:], b[:ihl])
	for at, h := ihl, b[:ihl]; at < len(b); h = short[:later] {
		n := min((mtu-len(h))&^7, len(b)-at)
		if len(b)-at <= mtu-len(h) {
			n = len(b) - at
		}
		q := w.buffer(len(h) + n)
		m := q.Bytes()
		copy(m, h)
		copy(m[len(h):], b[at:at+n])
		be.PutUint16(m[2:], uint16(len(m)))
		fl := uint16(off/8) | flags&0x8000
		if at+n < len(b) {
			fl |= 0x2000
		} else {
			fl |= more
		}
		be.PutUint16(m[6:], fl)
		be.PutUint16(m[10:], 0)
		be.PutUint16(m[10:], packet.Checksum(m[:len(h)]))
		w.emit(q, to)
		at += n
		off += n
	}
}

// copyOptions makes the header of a later fragment and returns its length. The options were read when the packet came, so
// none runs out of the header.
func copyOptions(dst, h []byte) int {
	n := copy(dst, h[:20])
	for o := h[20:]; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if o[0]&0x80 != 0 {
			n += copy(dst[n:], o[:o[1]])
		}
		o = o[o[1]:]
	}
	for ; n%4 != 0; n++ {
		dst[n] = 0
	}
	dst[0] = 0x40 | byte(n/4)
	return n
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// fragmentTime is how long a datagram may take to arrive.
const fragmentTime = 15 * time.Second

// random is n bytes that look like nothing in particular.
func random(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// datagram is a UDP datagram that may be fragmented.
func datagram(src, dst end, id uint16, payload []byte) []byte {
	return craft.UDP(craft.IP{Src: src.Addr(), Dst: dst.Addr(), ID: id}, src.Port(), dst.Port(), payload)
}

// reassembled puts emitted pieces together as a receiver does, and checks that they are in order and share one ID.
func (g *gate) reassembled(es []emitted, side nat.Side) []byte {
	g.Helper()
	if len(es) == 0 {
		g.Fatal("nothing was emitted")
	}
	hlen := int(es[0].b[0]&15) * 4
	whole := bytes.Clone(es[0].b[:hlen])
	for i, e := range es {
		b, last := e.b, i == len(es)-1
		f := be.Uint16(b[6:])
		if int(f&0x1fff)*8 != len(whole)-hlen || f&0x2000 == 0 != last || be.Uint16(b[4:]) != be.Uint16(whole[4:]) || e.side != side {
			g.Fatalf("piece %d of %d, to the %v: %s", i+1, len(es), e.side, craft.Describe(b))
		}
		whole = append(whole, l4(b)...)
	}
	be.PutUint16(whole[2:], uint16(len(whole)))
	be.PutUint16(whole[6:], 0)
	craft.SetTTL(whole, whole[8])
	if err := craft.Verify(whole); err != nil {
		g.Fatalf("reassembled: %v", err)
	}
	return whole
}

// completes sends pieces, of which the last completes the datagram, and returns what is emitted as one.
func (g *gate) completes(from nat.AttachmentID, pieces [][]byte) []byte {
	g.Helper()
	side := nat.Outside
	if from == 1 {
		side = nat.Inside
	}
	for i, p := range pieces {
		r := g.send(from, packet.From(p))[0]
		if i < len(pieces)-1 {
			if g.want(r, nat.HeldFragment); len(r.emitted) > 0 {
				g.Fatal("emitted before the datagram was complete")
			}
			continue
		}
		return g.reassembled(g.want(r, nat.Reassembled).emitted, side)
	}
	return nil
}

func TestF1_TooBig(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), mtu(1300, 1400), static(B, E1))}.run(t, func(g *gate) {
		told := func(r result, side nat.Side, from, to netip.Addr, mtu uint16, quote []byte) {
			g.Helper()
			g.want(r, nat.DropTooBig)
			if len(r.emitted) != 1 || r.emitted[0].side != side {
				g.Fatalf("%d answers", len(r.emitted))
			}
			m := r.emitted[0].b
			if src, dst := addrs(m); src != from || dst != to || l4(m)[0] != 3 || l4(m)[1] != 4 || be.Uint16(l4(m)[6:]) != mtu {
				g.Errorf("answered %x", m[:28])
			}
			if q := craft.Quote(m); !bytes.Equal(q, quote[:len(q)]) || len(q) < 28 {
				g.Error("does not quote what was sent")
			}
		}
		before := g.state()
		b := udp(at(A, 5000), at(R1, 80), string(random(1500-28)))
		told(g.out(bytes.Clone(b)), nat.Inside, G, A, 1400, b)
		b = udp(at(B, 5000), at(R1, 80), string(random(1500-28)))
		told(g.out(bytes.Clone(b)), nat.Inside, G, B, 1400, b)
		if g.state() != before {
			g.Error("left state behind")
		}
		ext := g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		expiry := g.session(packet.UDP, at(A, 5000), at(R1, 80)).Expires
		g.at(sec(1))
		b = udp(at(R1, 80), ext, string(random(1301-28)))
		told(g.in(bytes.Clone(b)), nat.Outside, PA, R1, 1300, b)
		b = udp(at(A, 5000), at(R1, 80), string(random(1401-28)))
		told(g.out(bytes.Clone(b)), nat.Inside, G, A, 1400, b)
		if s := g.session(packet.UDP, at(A, 5000), at(R1, 80)); s.Expires != expiry {
			g.Error("refreshed by what was dropped")
		}
		g.want(g.out(udp(at(A, 5000), at(R1, 80), string(random(1400-28)))), nat.Outbound)
		g.reaches(at(A, 5000), udp(at(R1, 80), ext, string(random(1300-28))))
	})
}

func TestF2_Fragments(t *testing.T) {
	options := []byte{0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0} // router alert is copied, record route is not
	for _, o := range [][]byte{nil, options} {
		trial{policy: policy(nat.RFCProfile(), mtu(0, 1400), static(B, E1))}.run(t, func(g *gate) {
			for _, h := range []netip.Addr{A, B} {
				payload := random(3000 - 28 - len(o))
				b := craft.UDP(craft.IP{Src: h, Dst: R1, ID: 7, Options: o, TOS: 0xb9}, 5000, 80, payload)
				r := g.want(g.out(b), nat.Fragmented)
				if len(r.emitted) != 3 {
					g.Fatalf("%d pieces", len(r.emitted))
				}
				for i, e := range r.emitted {
					if len(e.b) > 1400 || e.b[1] != 0xb9 || e.b[8] != 63 {
						g.Errorf("piece %d: %s", i, craft.Describe(e.b))
					}
					if want := len(o); i > 0 && want > 0 && !bytes.Equal(e.b[20:int(e.b[0]&15)*4], options[:4]) {
						g.Errorf("piece %d has options % x", i, e.b[20:int(e.b[0]&15)*4])
					}
				}
				whole := g.reassembled(r.emitted, nat.Outside)
				if !bytes.Equal(l4(whole)[8:], payload) || dstOf(whole) != at(R1, 80) {
					g.Error("the payload is another")
				}
				if err := craft.Verify(whole); err != nil {
					g.Error(err)
				}
			}
		})
	}
}

// orders calls f with all orders of 0 to n-1.
func orders(n int, f func([]int)) {
	var rec func(done []int)
	rec = func(done []int) {
		if len(done) == n {
			f(done)
			return
		}
		for i := range n {
			if !slices.Contains(done, i) {
				rec(append(slices.Clone(done), i))
			}
		}
	}
	rec(nil)
}

// allOrders sends datagrams in four pieces in each order, both ways.
func allOrders(g *gate) {
	payload := random(1000)
	id := uint16(100)
	orders(4, func(order []int) {
		id++
		pieces := craft.Cut(datagram(at(A, 5000), at(R1, 80), id, payload), 8, 256, 512)
		var sent [][]byte
		for _, i := range order {
			sent = append(sent, pieces[i])
		}
		whole := g.completes(0, sent)
		if !bytes.Equal(l4(whole)[8:], payload) || dstOf(whole) != at(R1, 80) {
			g.Errorf("order %v: R1 has another datagram", order)
		}
		back := craft.Cut(datagram(at(R1, 80), srcOf(whole), id, payload), 64, 128, 200)
		sent = sent[:0]
		for _, i := range order {
			sent = append(sent, back[i])
		}
		whole = g.completes(1, sent)
		if !bytes.Equal(l4(whole)[8:], payload) || dstOf(whole) != at(A, 5000) {
			g.Errorf("order %v: A has another datagram", order)
		}
	})
	if s := g.stats(); s.Mappings != 1 || s.Sessions != 1 || s.FragmentBytes != 0 {
		g.Errorf("%d mappings, %d sessions, %d bytes of fragments", s.Mappings, s.Sessions, s.FragmentBytes)
	}
}

func TestF3_AllOrders(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, allOrders)
	// TCP and ICMP as well.
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for i, b := range [][]byte{
			tcp(at(A, 5000), at(R1, 80), syn, 1, 0, string(random(500))),
			craft.Query(craft.IP{Src: A, Dst: R1}, packet.Echo, 0, 7, 1, random(500)),
		} {
			be.PutUint16(b[4:], uint16(50+i))
			be.PutUint16(b[6:], 0)
			craft.Fix(b)
			pieces := craft.Cut(b, 64, 128)
			whole := g.completes(0, [][]byte{pieces[2], pieces[1], pieces[0]})
			if src, _ := addrs(whole); src != PA || !bytes.Equal(whole[len(whole)-500:], b[len(b)-500:]) {
				g.Error("another datagram arrives")
			}
		}
	})
}

func TestF4_IncompleteSetsEnd(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, func(g *gate) {
		for from, b := range [][]byte{
			datagram(at(A, 5000), at(R1, 80), 9, random(1000)), datagram(at(R1, 80), at(PA, 5000), 9, random(1000)),
		} {
			start := g.now
			for i, p := range craft.Cut(b, 256, 512, 768)[1:] {
				g.at(start + time.Duration(i)*time.Second)
				g.want(g.send(nat.AttachmentID(from), packet.From(p))[0], nat.HeldFragment)
			}
			g.at(start + fragmentTime - time.Millisecond)
			if n := g.stats().FragmentSets; n != 1 {
				g.Errorf("%d sets wait", n)
			}
			g.at(start + fragmentTime)
			if es := g.tick(); len(es) > 0 {
				g.Error("something was emitted")
			}
			if s := g.stats(); s.FragmentBytes != 0 || s.FragmentSets != 0 || s.Emitted != 0 {
				g.Errorf("%d bytes in %d sets, %d packets emitted", s.FragmentBytes, s.FragmentSets, s.Emitted)
			}
		}
		// What comes after that begins anew.
		pieces := craft.Cut(datagram(at(A, 5000), at(R1, 80), 9, random(1000)), 256, 512, 768)
		g.completes(0, pieces)
	})
}

func TestF5_FragmentFlood(t *testing.T) {
	p := policy(nat.RFCProfile())
	// Many small pieces use up a source's sets, large ones its memory.
	trial{policy: p}.run(t, func(g *gate) { fragmentFlood(g, 1400, 20_000) })
	trial{policy: p}.run(t, func(g *gate) { fragmentFlood(g, 16000, 10_000) })
	g := newGate(t, nat.Config{}, p)
	fragmentFlood(g, 1400, 1_000_000)
	g.finish()
	// A single datagram is bounded, too.
	trial{policy: p}.run(t, pieceLimit)
}

// fragmentFlood sends lonely second pieces of datagrams of size bytes from A, and looks ten times whether B is hurt.
func fragmentFlood(g *gate, size, sets int) {
	const cap = 1 << 20 // of memory for fragments, as newGate has it
	memory := g.stats().MemoryBytes
	flood := craft.Cut(datagram(at(A, 5000), at(R1, 80), 0, random(size)), 8)[1]
	const atOnce = 200
	var refused int
	for n := 0; n < sets; n += atOnce {
		var bs [][]byte
		for i := range atOnce {
			// A new identification each, and another destination when they are used up.
			be.PutUint16(flood[4:], uint16(n+i))
			copy(flood[16:], far((n+i)>>16).AsSlice())
			bs = append(bs, craft.SetTTL(bytes.Clone(flood), 64))
		}
		for _, r := range g.outAll(bs) {
			if r.Verdict == nat.DropFragmentLimit {
				refused++
			} else {
				g.want(r, nat.HeldFragment)
			}
		}
		if n%(sets/10) != 0 {
			continue
		}
		if s := g.stats(); s.FragmentBytes > cap/2 || s.MemoryBytes != memory {
			g.Fatalf("%d bytes of fragments in %d bytes in all", s.FragmentBytes, s.MemoryBytes)
		}
		// B is not hurt, whether it sends fragments or not.
		g.opens(packet.UDP, at(B, uint16(1024+n)), at(R1, 80))
		g.completes(0, craft.Cut(datagram(at(B, 5000), at(R1, 80), uint16(n), random(1400)), 512, 1024))
	}
	if s := g.stats(); int(s.Verdicts[nat.DropFragmentLimit]) != refused || refused < sets/2 {
		g.Errorf("%d refused, %d counted", refused, s.Verdicts[nat.DropFragmentLimit])
	}
}

// pieceLimit sends a datagram of 129 pieces, last first: the 129th is one too many.
func pieceLimit(g *gate) {
	for _, n := range []int{128, 129} {
		var cuts []int
		for i := range n - 1 {
			cuts = append(cuts, 8*(i+1))
		}
		pieces := craft.Cut(datagram(at(A, 5000), at(R1, 80), uint16(n), random(8*n)), cuts...)
		slices.Reverse(pieces)
		if n == 128 {
			g.completes(0, pieces)
			continue
		}
		for i, p := range pieces {
			want := nat.HeldFragment
			if i == 128 {
				want = nat.DropFragmentLimit
			}
			g.want(g.out(p), want)
		}
		if s := g.stats(); s.FragmentBytes != 0 || s.Emitted != 128 {
			g.Errorf("%d bytes are left, %d pieces were emitted", s.FragmentBytes, s.Emitted)
		}
	}
}

// overlaps is F-6.
func overlaps(g *gate) {
	piece := func(id uint16, offset int, more bool, body []byte) []byte {
		return craft.IPv4(craft.IP{Src: A, Dst: R1, ID: id, Offset: offset, MF: more}, packet.UDP, body)
	}
	whole := l4(datagram(at(A, 5000), at(R1, 80), 0, random(184))) // 192 bytes
	g.want(g.out(piece(1, 0, true, whole[:64])), nat.HeldFragment)
	g.want(g.out(piece(1, 56, true, whole[56:120])), nat.DropFragmentOverlap)
	for range 2 { // all that is to come, and all that came before and is sent once more
		g.at(g.now + 7*time.Second)
		g.want(g.out(piece(1, 64, true, whole[64:128])), nat.DropFragmentOverlap)
		g.want(g.out(piece(1, 0, true, whole[:64])), nat.DropFragmentOverlap)
		g.want(g.out(piece(1, 128, false, whole[128:])), nat.DropFragmentOverlap)
	}
	g.at(g.now + time.Second)
	g.completes(0, [][]byte{piece(1, 0, true, whole[:64]), piece(1, 64, false, whole[64:])})

	// The same place with other bytes; a second end; a piece behind the end.
	other := bytes.Clone(whole)
	other[70] ^= 1
	g.want(g.out(piece(2, 64, true, whole[64:128])), nat.HeldFragment)
	g.want(g.out(piece(2, 64, true, other[64:128])), nat.DropFragmentOverlap)
	g.want(g.out(piece(3, 64, false, whole[64:128])), nat.HeldFragment)
	g.want(g.out(piece(3, 128, false, whole[128:])), nat.DropFragmentOverlap)

	// A copy of a piece is not an overlap.
	g.want(g.out(piece(4, 0, true, whole[:64])), nat.HeldFragment)
	g.want(g.out(piece(4, 64, true, whole[64:128])), nat.HeldFragment)
	g.want(g.out(piece(4, 64, true, whole[64:128])), nat.DropFragmentDuplicate)
	r := g.want(g.out(piece(4, 128, false, whole[128:])), nat.Reassembled)
	if got := g.reassembled(r.emitted, nat.Outside); !bytes.Equal(l4(got)[8:], whole[8:]) {
		g.Error("another datagram")
	}
}

func TestF6_Overlaps(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, overlaps)
}

// identifications is F-7: hosts that use the same IP ID do not collide outside.
func identifications(g *gate) {
	hosts := []netip.Addr{A, B, C}
	var sets [3][][]byte
	for i, h := range hosts {
		payload := bytes.Repeat([]byte{byte('a' + i)}, 600)
		sets[i] = craft.Cut(datagram(at(h, 5000), at(R1, 80), 7, payload), 200, 400)
	}
	ids := map[uint16]bool{}
	for k := range 3 {
		for i := range hosts {
			r := g.out(sets[i][k])
			if k < 2 {
				g.want(r, nat.HeldFragment)
				continue
			}
			whole := g.reassembled(g.want(r, nat.Reassembled).emitted, nat.Outside)
			for _, c := range l4(whole)[8:] {
				if c != byte('a'+i) {
					g.Fatal("datagrams are mixed")
				}
			}
			ids[be.Uint16(whole[4:])] = true
		}
		g.at(g.now + 300*time.Millisecond)
	}
	if len(ids) != 3 {
		g.Errorf("identifications %v", ids)
	}
	// Whole datagrams that may be fragmented later get one of their own; those that may not keep theirs.
	for range 100 {
		b := g.want(g.out(datagram(at(A, 5000), at(R1, 80), 7, nil)), nat.Outbound).b
		if id := be.Uint16(b[4:]); ids[id] {
			g.Fatalf("identification %d twice", id)
		} else {
			ids[id] = true
		}
	}
	if b := g.want(g.out(udp(at(A, 5000), at(R1, 80), "")), nat.Outbound).b; be.Uint16(b[4:]) != 7 {
		g.Error("with DF: another identification")
	}
}

func TestF7_Identification(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, identifications)
}

// tinyFragments is F-8.
func tinyFragments(g *gate) {
	first := func(proto uint8, n int) []byte {
		body := l4(tcp(at(A, 5000), at(R1, 80), syn, 1, 0, ""))
		return craft.IPv4(craft.IP{Src: A, Dst: R1, ID: uint16(n), MF: true}, proto, body[:n])
	}
	g.drops(nat.DropTinyFragment, 0, first(packet.TCP, 8))
	g.drops(nat.DropTinyFragment, 0, first(packet.TCP, 16))
	at8 := craft.IPv4(craft.IP{Src: A, Dst: R1, ID: 1, Offset: 8}, packet.TCP, make([]byte, 32))
	g.drops(nat.DropTinyFragment, 0, at8)
	at8 = craft.IPv4(craft.IP{Src: R1, Dst: PA, ID: 1, Offset: 8}, packet.TCP, make([]byte, 32))
	g.drops(nat.DropTinyFragment, 1, at8)
	for _, proto := range []uint8{packet.UDP, packet.ICMP} { // the last piece may be of any length
		b := craft.IPv4(craft.IP{Src: A, Dst: R1, ID: 2, MF: true}, proto, make([]byte, 8))
		g.want(g.out(b), nat.HeldFragment)
	}
	// RFC 3128: a second first fragment would overwrite flags and ports.
	body := l4(tcp(at(A, 5000), at(R1, 80), syn, 1, 0, "0123"))
	for _, n := range []int{24, 8} {
		b := craft.IPv4(craft.IP{Src: A, Dst: R1, ID: 3, MF: true}, packet.TCP, body[:n])
		if n == 24 {
			g.want(g.out(b), nat.HeldFragment)
		} else {
			g.drops(nat.DropTinyFragment, 0, b)
		}
	}
	evil := bytes.Clone(body)
	evil[13] = ack
	g.want(g.out(craft.IPv4(craft.IP{Src: A, Dst: R1, ID: 3, MF: true}, packet.TCP, evil)), nat.DropFragmentOverlap)
	g.want(g.out(craft.IPv4(craft.IP{Src: A, Dst: R1, ID: 3, Offset: 24}, packet.TCP, make([]byte, 8))), nat.DropFragmentOverlap)
	if s := g.stats(); s.Sessions != 0 || s.Emitted != 0 {
		g.Errorf("%d sessions, %d packets", s.Sessions, s.Emitted)
	}
}

func TestF8_TinyFragments(t *testing.T) {
	trial{policy: policy(nat.RFCProfile())}.run(t, tinyFragments)
}

// laterPieces is F-9, for NAPT and for a 1:1 mapping.
func laterPieces(g *gate) {
	payload := make([]byte, 600)
	for i := 0; i < len(payload); i += 8 { // wherever a piece begins, it looks like the ports of the flow
		be.PutUint16(payload[i:], 5000)
		be.PutUint16(payload[i+2:], 80)
	}
	for _, h := range []netip.Addr{A, B} {
		sent := datagram(at(h, 5000), at(R1, 80), 7, payload)
		pieces := craft.Cut(sent, 200, 400)
		var got []emitted
		for _, p := range pieces {
			r := g.out(bytes.Clone(p))
			got = append(got, r.emitted...)
			if r.Forward() { // 1:1: each passes by itself
				got = append(got, emitted{side: r.Side(), b: r.b})
			}
		}
		if len(got) != 3 {
			g.Fatalf("%d pieces", len(got))
		}
		for i, e := range got {
			want := bytes.Clone(pieces[i])
			copy(want[4:6], e.b[4:6])
			copy(want[12:16], e.b[12:16])
			if i == 0 { // port and checksum, once
				copy(want[20:22], e.b[20:22])
				copy(want[26:28], e.b[26:28])
			}
			if craft.SetTTL(want, 63); !bytes.Equal(e.b, want) {
				g.Errorf("piece %d: % x, want % x", i, e.b[:32], want[:32])
			}
		}
		g.reassembled(got, nat.Outside)
	}
}

func TestF9_LaterPieces(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), static(B, E1))}.run(t, laterPieces)
}

// forgedMTU is F-10.
func forgedMTU(g *gate) {
	ext := g.want(g.out(flowOf(packet.UDP)), nat.Outbound).b
	big := func() []byte { return udp(at(A, 5000), at(R1, 80), string(random(1400-28))) }
	g.want(g.out(big()), nat.Outbound)
	before := g.state()
	for range 10 {
		r := g.want(g.in(icmp(X, PA, packet.Unreachable, 4, 68, ext)), nat.ErrorInbound)
		if mtu := be.Uint16(l4(r.b)[6:]); mtu != 68 {
			g.Errorf("A hears of an MTU of %d", mtu)
		}
	}
	if g.state() != before {
		g.Error("state was made")
	}
	g.want(g.out(big()), nat.Outbound)
	r := g.want(g.out(udp(at(A, 5000), at(R1, 80), string(random(1401-28)))), nat.DropTooBig)
	if mtu := be.Uint16(l4(r.emitted[0].b)[6:]); mtu != 1400 {
		g.Errorf("the gateway's MTU has become %d", mtu)
	}
}

func TestF10_NoPathMTUOfOurOwn(t *testing.T) {
	trial{policy: policy(nat.RFCProfile(), mtu(1400, 1400))}.run(t, forgedMTU)
}

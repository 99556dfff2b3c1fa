// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var be = binary.BigEndian

// The hosts of all scenarios: A, B and C inside, behind the gateway G; R1 and R2 outside, behind the router X. PA and PB
// are the pool, GX is the gateway's own address outside, E1 and E2 are for 1:1 mappings.
var (
	A, B, C, G    = ip4("10.0.1.10"), ip4("10.0.1.11"), ip4("10.0.1.12"), ip4("10.0.0.1")
	PA, PB, GX    = ip4("198.51.100.1"), ip4("198.51.100.2"), ip4("198.51.100.254")
	E1, E2        = ip4("198.51.100.129"), ip4("198.51.100.130")
	R1, R2, X     = ip4("203.0.113.9"), ip4("203.0.113.10"), ip4("192.0.2.1")
	insideNet     = netip.MustParsePrefix("10.0.0.0/16")
	ip4           = netip.MustParseAddr
	insideRouter7 = ip4("10.0.0.7")
)

// TCP flags.
const (
	fin = packet.FIN
	syn = packet.SYN
	rst = packet.RST
	psh = packet.PSH
	ack = packet.ACK
	urg = packet.URG
)

// end is an endpoint: an address with a port, or with an ICMP identifier.
type end = netip.AddrPort

func at(a netip.Addr, port uint16) end { return netip.AddrPortFrom(a, port) }

// addr10 is inside host number n, 1 to 60,000.
func addr10(n int) netip.Addr {
	n += 0x100
	return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
}

// far is remote host number n.
func far(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{203, byte(n >> 16), byte(n >> 8), byte(n)})
}

// policy is the one of most scenarios: the inside leaves by 1:1 mapping, or through one pool with one address.
func policy(f nat.Profile, changes ...func(*nat.Policy)) nat.Policy {
	p := nat.Policy{
		Attachments:  []nat.Attachment{{ID: 0, Side: nat.Inside, Router: true}, {ID: 1, Side: nat.Outside, Router: true}},
		Inside:       []netip.Prefix{insideNet},
		Routes:       []nat.Route{{Source: insideNet, Static: true, Pool: "pool"}},
		Pools:        []nat.Pool{{Name: "pool", Addresses: []netip.Addr{PA}, Profile: f}},
		InsideRouter: G,
	}
	for _, c := range changes {
		c(&p)
	}
	return p
}

// custom is the rfc profile under another name, so that the floors of the RFCs do not bind it.
func custom(changes ...func(*nat.Profile)) nat.Profile {
	f := nat.RFCProfile()
	f.Name = "custom"
	for _, c := range changes {
		c(&f)
	}
	return f
}

// overlapping has all classes share ports by destination.
func overlapping(f *nat.Profile) {
	for k := range nat.NumClasses {
		f.Mapping[k], f.Filtering[k] = nat.AddressAndPortDependent, nat.FilterAddressAndPortDependent
	}
}

// anyClass maps ports below 1024 to any.
func anyClass(f *nat.Profile) { f.PreserveClass = false }

// filtering sets the filter of all classes.
func filtering(how nat.Filtering) func(*nat.Profile) {
	return func(f *nat.Profile) { f.Filtering = [nat.NumClasses]nat.Filtering{how, how, how} }
}

// ports bounds the range.
func ports(lo, hi uint16) func(*nat.Profile) {
	return func(f *nat.Profile) { f.PortMin, f.PortMax = lo, hi }
}

func twoAddresses(p *nat.Policy) { p.Pools[0].Addresses = []netip.Addr{PA, PB} }

func static(in, out netip.Addr) func(*nat.Policy) {
	return func(p *nat.Policy) { p.Static = append(p.Static, nat.Static{Inside: in, Outside: out}) }
}

// mtu sets that of both sides, 0 for none.
func mtu(in, out int) func(*nat.Policy) {
	return func(p *nat.Policy) { p.Attachments[0].MTU, p.Attachments[1].MTU = in, out }
}

// head is an IP header with DF, so that its ID may stay.
func head(src, dst netip.Addr) craft.IP { return craft.IP{Src: src, Dst: dst, ID: 7, DF: true} }

func udp(src, dst end, payload string) []byte {
	return craft.UDP(head(src.Addr(), dst.Addr()), src.Port(), dst.Port(), []byte(payload))
}

func tcp(src, dst end, flags uint8, seq, ackNo uint32, payload string) []byte {
	s := craft.Segment{Src: src.Port(), Dst: dst.Port(), Flags: flags, Seq: seq, Ack: ackNo, Window: 65535}
	return craft.TCP(head(src.Addr(), dst.Addr()), s, []byte(payload))
}

// ping is an echo request of the identifier that src has for a port; pong is the reply.
func ping(src end, dst netip.Addr) []byte {
	return craft.Query(head(src.Addr(), dst), packet.Echo, 0, src.Port(), 1, []byte("ping"))
}

func pong(src netip.Addr, dst end) []byte {
	return craft.Query(head(src, dst.Addr()), packet.EchoReply, 0, dst.Port(), 1, []byte("ping"))
}

// of is a packet of a protocol between two ends: a datagram, a SYN, an echo request.
func of(proto uint8, src, dst end) []byte {
	switch proto {
	case packet.TCP:
		return tcp(src, dst, syn, 100, 0, "")
	case packet.UDP:
		return udp(src, dst, "data")
	default:
		return ping(src, dst.Addr())
	}
}

// answer is what the far end sends back to an of that reached it from ext.
func answer(proto uint8, rem, ext end) []byte {
	switch proto {
	case packet.TCP:
		return tcp(rem, ext, syn|ack, 900, 101, "")
	case packet.UDP:
		return udp(rem, ext, "data")
	default:
		return pong(rem.Addr(), ext)
	}
}

// icmp is an error about quote.
func icmp(src, dst netip.Addr, typ, code uint8, rest uint32, quote []byte) []byte {
	return craft.Error(head(src, dst), typ, code, rest, quote)
}

func addrs(b []byte) (src, dst netip.Addr) {
	src, _ = netip.AddrFromSlice(b[12:16])
	dst, _ = netip.AddrFromSlice(b[16:20])
	return src, dst
}

// l4 is the transport part of a packet.
func l4(b []byte) []byte { return b[int(b[0]&15)*4:] }

// ends are source and destination; of an ICMP query both have the identifier, of an error none.
func ends(b []byte) (src, dst end) {
	s, d := addrs(b)
	t := l4(b)
	if b[9] == packet.ICMP {
		id := uint16(0)
		if craft.Quote(b) == nil {
			id = be.Uint16(t[4:])
		}
		return at(s, id), at(d, id)
	}
	return at(s, be.Uint16(t)), at(d, be.Uint16(t[2:]))
}

func srcOf(b []byte) end { s, _ := ends(b); return s }
func dstOf(b []byte) end { _, d := ends(b); return d }

// opens sends the first packet of a flow, which must go out, and returns its external endpoint.
func (g *gate) opens(proto uint8, in, rem end) end {
	g.Helper()
	return srcOf(g.want(g.out(of(proto, in, rem)), nat.Outbound).b)
}

// reaches sends b from outside, which must arrive at in.
func (g *gate) reaches(in end, b []byte) result {
	g.Helper()
	r := g.want(g.in(b), nat.Inbound)
	if dst := dstOf(r.b); dst != in {
		g.Fatalf("arrives at %v, want %v", dst, in)
	}
	return r
}

// conn is a TCP connection between a host inside and one outside, as both of them see it.
type conn struct {
	*gate
	in, rem, ext end
	seq, back    uint32 // what inside and outside send next
}

// dial opens a connection from inside.
func (g *gate) dial(in, rem end) *conn {
	g.Helper()
	c := &conn{gate: g, in: in, rem: rem, seq: 1000, back: 5000}
	c.handshake()
	return c
}

func (c *conn) handshake() {
	c.Helper()
	r := c.want(c.out(tcp(c.in, c.rem, syn, c.seq, 0, "")), nat.Outbound)
	c.ext = srcOf(r.b)
	c.seq++
	c.reaches(c.in, tcp(c.rem, c.ext, syn|ack, c.back, c.seq, ""))
	c.back++
	c.want(c.out(tcp(c.in, c.rem, ack, c.seq, c.back, "")), nat.Outbound)
	c.is("established")
}

// segOut and segIn are the next segments.
func (c *conn) segOut(flags uint8, payload string) []byte {
	b := tcp(c.in, c.rem, flags, c.seq, c.back, payload)
	c.seq += uint32(len(payload)) + uint32(flags&fin)
	return b
}

func (c *conn) segIn(flags uint8, payload string) []byte {
	b := tcp(c.rem, c.ext, flags, c.back, c.seq, payload)
	c.back += uint32(len(payload)) + uint32(flags&fin)
	return b
}

// sends and hears pass the next segment, which must come through on the same ports.
func (c *conn) sends(flags uint8, payload string) {
	c.Helper()
	r := c.want(c.out(c.segOut(flags, payload)), nat.Outbound)
	if ext := srcOf(r.b); ext != c.ext {
		c.Fatalf("leaves from %v, before from %v", ext, c.ext)
	}
}

func (c *conn) hears(flags uint8, payload string) {
	c.Helper()
	c.reaches(c.in, c.segIn(flags, payload))
}

func (c *conn) session() nat.Session { c.Helper(); return c.gate.session(packet.TCP, c.in, c.rem) }

// is checks the state.
func (c *conn) is(state string) {
	c.Helper()
	if s := c.session(); s.State != state {
		c.Fatalf("%v: state %q, want %q", c.in, s.State, state)
	}
}

// expires checks when the session ends.
func (c *conn) expires(at time.Duration) {
	c.Helper()
	if s := c.session(); s.Expires != at {
		c.Fatalf("%v: ends at %v, want %v", c.in, s.Expires, at)
	}
}

// closes goes through FIN, ACK, FIN, ACK.
func (c *conn) closes() {
	c.Helper()
	c.sends(fin|ack, "")
	c.hears(ack, "")
	c.hears(fin|ack, "")
	c.sends(ack, "")
	c.is("closing")
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/packet"
)

// Explanation is what would become of a packet, and why. It is a value of its own, with a text for people (String) and
// as JSON.
type Explanation struct {
	// Attachment is where the packet comes from, Side its side; a side of "" is an attachment that the policy lacks.
	Attachment AttachmentID `json:"attachment"`
	Side       string       `json:"side"`
	// Packet is what was read of it.
	Packet Header `json:"packet"`
	// Policy are the lines of the policy that it met, in order: the last one decided.
	Policy []PolicyLine `json:"policy"`
	// Sessions are those that it met or would make: none, one, or one for each pass of a hairpin, and before a new one
	// the mapping that lets it in.
	Sessions []SessionUse `json:"sessions"`
	// Port is what the allocator would give out, if it was asked.
	Port *PortChoice `json:"port,omitempty"`
	// Changes are what is rewritten of a packet that is sent on.
	Changes []Change `json:"changes"`
	// Emits are the packets that are sent beside it: errors, RSTs, pieces. Suppressed says that there would be an error,
	// but for the limit on their rate.
	Emits      []Emits `json:"emits"`
	Suppressed bool    `json:"suppressed"`
	// Verdict is what Translate would return, Reason its text, To the side where a packet that is sent on goes.
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	To      string  `json:"to,omitempty"`
}

// PolicyLine is one line of a Policy.
type PolicyLine struct {
	// Line is its place, such as "Routes[2]"; Text what it says.
	Line string `json:"line"`
	Text string `json:"text"`
}

// Use is what a packet has to do with a session.
type Use string

const (
	// UseSession: it belongs to it. UseNew: it would make it.
	UseSession Use = "session"
	UseNew     Use = "new"
	// UseMapping: it is for the external endpoint of its endpoint-independent mapping.
	UseMapping Use = "mapping"
	// UseQuoted: an ICMP error quotes a packet of it, or of its mapping.
	UseQuoted Use = "quoted"
)

// SessionUse is a session that a packet meets.
type SessionUse struct {
	Use      Use            `json:"use"`
	Protocol string         `json:"protocol"`
	Inside   netip.AddrPort `json:"inside"`
	External netip.AddrPort `json:"external"`
	Remote   netip.AddrPort `json:"remote"`
	State    string         `json:"state"`
	// Becomes is the state that the packet leads to, if that is another one.
	Becomes string `json:"becomes,omitempty"`
	// Inbound says that it was started from outside, Replied that the other side has answered.
	Inbound bool `json:"inbound"`
	Replied bool `json:"replied"`
	// Left is how long it would live without the packet, in seconds.
	Left float64 `json:"left"`
}

// PortChoice is the outcome of the port allocator. Port is the one that it would give out next, one of Min to Max at
// random unless Kept says that it is the inside port; another flow may come first and get it.
type PortChoice struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Min     uint16     `json:"min"`
	Max     uint16     `json:"max"`
	Kept    bool       `json:"kept"`
}

// Change is a field that is rewritten.
type Change struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Emits is a packet that would be sent beside the one in question.
type Emits struct {
	To     string `json:"to"`
	Packet Header `json:"packet"`
}

// Explain says what Translate would do with a packet from an attachment at the time now, and why. It changes nothing:
// not the packet, no session, no counter, and not the ports that are given out next. (As with Stats and Sessions, now is
// a time for Translate too, and what has ended by then may be given back.)
//
// It may run beside traffic, and then says what would have been right at one moment while it ran. It is for people, and
// allocates.
func (e *Engine) Explain(p *packet.Packet, from AttachmentID, now time.Duration) Explanation {
	e.mustBeMade()
	x := Explanation{
		Attachment: from, Packet: ReadHeader(p.Bytes()),
		Policy: []PolicyLine{}, Sessions: []SessionUse{}, Changes: []Change{}, Emits: []Emits{},
	}
	w := &Worker{e: e, counters: new(workerCounters), why: &rehearsal{x: &x, crowds: crowds{max: maxCrowds}}}
	q := p.Clone()
	w.begin(now)
	x.Verdict = w.decide(&flow{p: &q, from: from})
	x.Policy = append(x.Policy, w.pol.explain(p.Bytes(), from, &x)...)
	if int(from) < len(w.pol.atts) && w.pol.atts[from].known {
		x.Side = w.pol.atts[from].side.String()
	}
	for _, m := range w.emitted {
		x.Emits = append(x.Emits, Emits{To: m.Side.String(), Packet: ReadHeader(m.Packet.Bytes())})
	}
	x.Suppressed = w.counters.suppressed.Load() > 0
	w.end()
	x.Reason = x.Verdict.Text()
	if x.Verdict.Forward() {
		x.To = x.Verdict.Side().String()
		x.Changes = append(x.Changes, changes(&x.Packet, ReadHeader(q.Bytes()))...)
	}
	return x
}

// changes compares the headers of a packet before and after.
func changes(before *Header, after Header) (all []Change) {
	add := func(field, b, a string) {
		if b != a {
			all = append(all, Change{field, b, a})
		}
	}
	add("source", before.Source, after.Source)
	add("destination", before.Destination, after.Destination)
	add("ttl", fmt.Sprint(before.TTL), fmt.Sprint(after.TTL))
	add("id", fmt.Sprint(before.ID), fmt.Sprint(after.ID))
	add("icmp id", fmt.Sprint(before.Identifier), fmt.Sprint(after.Identifier))
	add("mss", fmt.Sprint(before.MSS), fmt.Sprint(after.MSS))
	if b, a := before.Quote, after.Quote; b != nil && a != nil {
		add("quoted source", b.Source, a.Source)
		add("quoted destination", b.Destination, a.Destination)
		add("quoted icmp id", fmt.Sprint(b.Identifier), fmt.Sprint(a.Identifier))
	}
	return all
}

// Probe is a plain first packet of a flow, for Explain to be asked about a 5-tuple: a TCP SYN, an empty UDP datagram, or
// an ICMP echo request whose identifier is the port of src.
func Probe(protocol uint8, src, dst netip.AddrPort) (packet.Packet, error) {
	if !src.Addr().Is4() || !dst.Addr().Is4() {
		return packet.Packet{}, errors.New("nat: both addresses must be IPv4")
	}
	n := map[uint8]int{packet.TCP: 20, packet.UDP: 8, packet.ICMP: 8}[protocol]
	if n == 0 {
		return packet.Packet{}, fmt.Errorf("nat: protocol %d has no ports: want %d (TCP), %d (UDP) or %d (ICMP)", protocol, packet.TCP, packet.UDP, packet.ICMP)
	}
	p := packet.From(make([]byte, 20+n))
	b := p.Bytes()
	ipHeader(b, len(b), 0, protocol, to4(src.Addr()), to4(dst.Addr()))
	l4 := b[20:]
	sumAt, pseudo := 2, uint32(0)
	switch protocol {
	case packet.ICMP:
		l4[0] = packet.Echo
		be.PutUint16(l4[4:], src.Port())
		be.PutUint16(l4[6:], 1)
	case packet.TCP:
		l4[12], l4[13] = 5<<4, packet.SYN
		be.PutUint16(l4[14:], 65535)
		sumAt = 16
	default:
		be.PutUint16(l4[4:], uint16(n))
		sumAt = 6
	}
	if protocol != packet.ICMP {
		be.PutUint16(l4, src.Port())
		be.PutUint16(l4[2:], dst.Port())
		pseudo = packet.PseudoIPv4(to4(src.Addr()), to4(dst.Addr()), protocol, n)
	}
	sum := ^packet.Fold(packet.Sum(l4, pseudo))
	if sum == 0 && protocol == packet.UDP {
		sum = 0xffff
	}
	be.PutUint16(l4[sumAt:], sum)
	return p, nil
}

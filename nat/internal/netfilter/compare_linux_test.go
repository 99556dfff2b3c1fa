// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

var (
	be  = binary.BigEndian
	ne  = binary.NativeEndian
	ip4 = netip.MustParseAddr
)

// A and B are inside, and S, which has the address E1 to itself; B is behind the port forwards. G is the NAT's address
// inside, PA the one outside that all share. R1 and R2 are outside, behind the router X.
var (
	A, B, S, G = ip4("10.0.1.10"), ip4("10.0.1.11"), ip4("10.0.1.50"), ip4("10.0.0.1")
	PA, E1     = ip4("198.51.100.1"), ip4("198.51.100.50")
	R1, R2, X  = ip4("203.0.113.9"), ip4("203.0.113.10"), ip4("192.0.2.1")

	insideNet  = netip.MustParsePrefix("10.0.0.0/16")
	everything = netip.MustParsePrefix("0.0.0.0/0")
)

const insideMTU, outsideMTU = 1500, 1400

// output is a packet that a NAT sends.
type output struct {
	side nat.Side
	b    []byte
}

// translator is one of the two NATs.
type translator interface {
	// send returns what becomes of a packet.
	send(from nat.Side, b []byte) []output
}

// engine is ours.
type engine struct {
	w   *nat.Worker
	now time.Duration
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e, err := nat.New(nat.Config{Sessions: 256}, &nat.Policy{
		Attachments: []nat.Attachment{
			{ID: nat.FromInside, Side: nat.Inside, Router: true, MTU: insideMTU},
			{ID: nat.FromOutside, Side: nat.Outside, Router: true, MTU: outsideMTU},
		},
		Inside: []netip.Prefix{insideNet},
		Routes: []nat.Route{{Source: insideNet, Static: true, Pool: "pool"}},
		Pools:  []nat.Pool{{Name: "pool", Addresses: []netip.Addr{PA}}},
		Static: []nat.Static{{Inside: S, Outside: E1}},
		Forwards: []nat.Forward{
			{Protocol: packet.TCP, Outside: at(PA, 8080), Inside: at(B, 80)},
			{Protocol: packet.UDP, Outside: at(PA, 5353), Inside: at(B, 53)},
		},
		InsideRouter: G,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &engine{w: e.Worker()}
}

func (e *engine) send(from nat.Side, b []byte) (left []output) {
	e.now += time.Millisecond
	p := packet.From(b)
	id := nat.FromInside
	if from == nat.Outside {
		id = nat.FromOutside
	}
	if v := e.w.Translate(&p, id, e.now); v.Forward() {
		left = append(left, output{v.Side(), p.Bytes()})
	}
	for _, m := range e.w.Emitted() {
		left = append(left, output{m.Side, bytes.Clone(m.Packet.Bytes())})
	}
	return left
}

// TestKernel sends each scenario through both. With -v it shows what the two do where they differ.
func TestKernel(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	reasons, seen := map[string]string{}, map[string]bool{}
	for _, d := range differences {
		for _, name := range d.scenarios {
			reasons[name] = d.why
		}
	}
	for _, c := range slices.Concat(udpCases, tcpCases, icmpCases, fragmentCases, staticCases, forwardCases, oddCases) {
		if seen[c.name] {
			t.Errorf("two scenarios are called %q", c.name)
		}
		seen[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			k.reset()
			k.t = t
			theirs, ours := play(k, c.script), play(newEngine(t), c.script)
			if leak.MatchString(ours) {
				t.Errorf("Tidegate lets an inside address out:\n%s", ours)
			}
			why, differ := reasons[c.name]
			switch same := theirs == ours; {
			case !same && !differ:
				t.Errorf("the kernel:\n%s\nTidegate:\n%s", theirs, ours)
			case same && differ:
				t.Errorf("they do the same, though they should differ: %s\n%s", why, ours)
			case differ:
				t.Logf("%s\nthe kernel:\n%s\nTidegate:\n%s", why, theirs, ours)
			}
		})
	}
	for name := range reasons {
		if !seen[name] {
			t.Errorf("no scenario is called %q", name)
		}
	}
}

// leak finds inside addresses among what leaves outside.
var leak = regexp.MustCompile(`(?m)^  outside: .*\b10\.0\.`)

// scenario is packets, some of them answers to what came out before.
type scenario struct {
	name   string
	script func(s *stage)
}

// play returns what comes out, in normal form, a line for each packet.
func play(n translator, script func(*stage)) string {
	s := &stage{nat: n}
	script(s)
	return strings.Join(s.lines, "\n")
}

// stage is a scenario on its way through one of the NATs.
type stage struct {
	nat   translator
	names names
	steps int
	lines []string
}

// out and in send packets from inside and from outside; all that comes out of them counts as one result. They return the
// ends of the first packet that comes out on the other side, and if none does some that nobody has.
func (s *stage) out(bs ...[]byte) (src, dst end) { return s.send(nat.Inside, bs) }
func (s *stage) in(bs ...[]byte) (src, dst end)  { return s.send(nat.Outside, bs) }

func (s *stage) send(from nat.Side, bs [][]byte) (src, dst end) {
	var left []output
	answers := !slices.ContainsFunc(bs, func(b []byte) bool { return craft.Quote(b) != nil })
	for _, b := range bs {
		left = append(left, s.nat.send(from, b)...)
	}
	src, dst = at(PA, 9), at(PA, 9)
	for _, o := range slices.Backward(left) {
		if o.side != from {
			src, dst = ends(o.b)
		}
	}
	var lines []string
	for _, side := range []nat.Side{nat.Inside, nat.Outside} {
		for _, d := range reassemble(left, side) {
			// An error that is no translation of one has been made by the NAT.
			lines = append(lines, "  "+side.String()+": "+s.names.describe(d, side, answers))
		}
	}
	if lines == nil {
		lines = []string{"  nothing"}
	}
	s.steps++
	s.lines = append(s.lines, fmt.Sprintf("%d. from %s:", s.steps, from))
	s.lines = append(s.lines, lines...)
	return src, dst
}

// note adds a line about what packets do not tell one by one.
func (s *stage) note(line string) { s.lines = append(s.lines, "  "+line) }

// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// tcpTimeouts are those of RFC 5382 and RFC 7857, in milliseconds.
func tcpTimeouts() []uint32 {
	t := make([]uint32, NumStates)
	t[Opening], t[Established], t[Closing], t[Reset] = 240_000, 7_440_000, 240_000, 240_000
	return t
}

// A script is a connection, a segment a line:
//
//	second direction flags sequence acknowledgement payload [options] : state effect
//
// A direction, out or in, is that of the script's starter; flags are letters of FSRPAU; options are win=W (unscaled,
// else 64240) and ws=S. The effect is * if the segment refreshed the session, . if it did not, ! if it was a RST out of
// the window. A line "second dead" says that the session has ended, one without a colon that it is not looked at.
type script struct {
	name, lines string
	// fromInside: the script depends on who started.
	fromInside bool
	pickup     bool
	timeouts   map[State]uint32
}

func (s script) run(t *testing.T, inbound bool, bases [2]uint32) {
	table, err := New(Config{Sessions: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = tcpTimeouts()
	for state, v := range s.timeouts {
		table.Timeouts[state] = v
	}
	h, first := None, true
	for line := range strings.Lines(s.lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		words, want, _ := strings.Cut(line, ":")
		w := strings.Fields(words)
		second, err := strconv.ParseFloat(w[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		now := uint32(second * 1000)
		if h = table.Live(h, now); w[1] == "dead" {
			if h != None {
				t.Errorf("%s: alive, in %v", line, table.Rec(h).State)
			}
			continue
		}
		dir := map[string]Dir{"out": Out, "in": In}[w[1]]
		seg := parseSegment(t, w[2:])
		seg.Seq += bases[dir]
		if seg.Flags&flagACK != 0 {
			seg.Ack += bases[dir^1]
		}
		if inbound {
			dir ^= 1
		}
		sound := true
		if first {
			r := Record{Proto: tcp, LastSeen: now}
			if inbound {
				r.Bits |= Inbound
			}
			if s.pickup {
				r.Bits |= Unknown
			}
			r.StartTCP(dir, &seg)
			h, first = table.Add(&r), false
		} else if h == None {
			t.Fatalf("%s: the session is gone", line)
		} else {
			before := *table.Rec(h)
			after, ok := table.JudgeTCP(h, dir, &seg)
			if *table.Rec(h) != before {
				t.Errorf("%s\n\tthe judgement changed the session", line)
			}
			sound = table.TrackTCP(h, dir, &seg, now)
			if ok != sound || after != table.Rec(h).State {
				t.Errorf("%s\n\tjudged as %v, %v", line, after, ok)
			}
		}
		r := table.Rec(h)
		got := r.State.String() + " ."
		switch {
		case !sound:
			got = r.State.String() + " !"
		case r.LastSeen == now:
			got = r.State.String() + " *"
		}
		if got != strings.TrimSpace(want) {
			t.Errorf("%s\n\tgot %s, %+v", line, got, *r)
		}
		if err := table.Check(now); err != nil {
			t.Errorf("%s\n\t%v", line, err)
		}
	}
}

func parseSegment(t *testing.T, w []string) Segment {
	number := func(s string) uint32 {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(v)
	}
	s := Segment{Seq: number(w[1]), Ack: number(w[2]), Len: number(w[3]), Window: 64240, Scale: 255}
	for _, c := range w[0] {
		s.Flags |= 1 << strings.IndexRune("FSRPAU", c)
	}
	for _, o := range w[4:] {
		switch k, v, _ := strings.Cut(o, "="); k {
		case "win":
			s.Window = uint16(number(v))
		case "ws":
			s.Scale = uint8(number(v))
		}
	}
	return s
}

// opened is a handshake that ends at second 0.2, with window scaling.
const opened = `
	0   out S  1000 0    0 ws=7 : opening *
	0.1 in  SA 5000 1001 0 ws=7 : opening *
	0.2 out A  1001 5001 0      : established *
`

// closed is a connection that the inside closes first, at second 4.
const closed = opened + `
	1 out FA 1001 5001 0 : established *
	2 in  A  5001 1002 0 : established *
	3 in  FA 5001 1002 0 : closing *
	4 out A  1002 5002 0 : closing .
`

var scripts = []script{
	{name: "T-1 data both ways", lines: opened + `
		1 out PA 1001 5001 100  : established *
		2 in  A  5001 1101 1460 : established *
		3 in  PA 6461 1101 1460 : established *
		4 out A  1101 7921 0    : established *
	`},
	{name: "T-1 data in the SYN", lines: `
		0 out S  1000 0    500 : opening *
		1 in  SA 5000 1501 0   : opening *
		2 out A  1501 5001 0   : established *
		3 out A  1501 5001 9   : established *
	`},
	{name: "T-1 data in the SYN, not taken", lines: `
		0 out S  1000 0    500 : opening *
		1 in  SA 5000 1001 0   : opening *
		2 out A  1001 5001 500 : established *
	`},
	{name: "T-1 zero window and probes", lines: opened + `
		1 out A 1001 5001 100       : established *
		2 in  A 5001 1101 0   win=0 : established *
		3 out A 1101 5001 1         : established *
		4 in  A 5001 1101 0   win=0 : established *
		5 out A 1100 5001 0         : established *
	`},
	{name: "T-1 urgent", lines: opened + `
		1 out PAU 1001 5001 1 : established *
	`},
	{name: "T-1 retransmits", lines: opened + `
		1 out PA 1001 5001 100 : established *
		2 out PA 1001 5001 100 : established *
		3 in  SA 5000 1001 0   : established *
		4 in  A  5001 1101 0   : established *
		5 out PA 1001 5001 100 : established *
	`},
	{name: "T-1 SYN, retransmitted", lines: `
		0 out S  1000 0    0 : opening *
		1 out S  1000 0    0 : opening *
		3 out S  1000 0    0 : opening *
		4 in  SA 5000 1001 0 : opening *
		5 out S  1000 0    0 : opening *
		6 in  SA 5000 1001 0 : opening *
		7 out A  1001 5001 0 : established *
	`},
	{name: "T-1 SYN with another number while nobody has answered", lines: `
		0 out S  1000 0    0 : opening *
		1 out S  9000 0    0 : opening *
		2 in  SA 5000 9001 0 : opening *
		3 out A  9001 5001 0 : established *
	`},
	{name: "T-1 SYN with another number after an answer", lines: `
		0 out S  1000 0    0 : opening *
		1 in  SA 5000 1001 0 : opening *
		2 out S  9000 0    0 : opening .
		3 out A  1001 5001 0 : established *
	`},
	{name: "T-1 FIN before the data", lines: opened + `
		1 out FA 1101 5001 0   : established *
		2 in  A  5001 1001 0   : established *
		3 out PA 1001 5001 100 : established *
		4 in  A  5001 1102 0   : established *
		5 in  FA 5001 1102 0   : closing *
	`},
	{name: "T-1 keepalive", lines: opened + `
		7000  out A 1000 5001 0 : established *
		7001  in  A 5001 1001 0 : established *
		14000 in  A 5000 1001 1 : established *
		21000 out A 1001 5001 0 : established *
	`},
	{name: "T-1 data from the middle of the handshake", lines: `
		0 out S  1000 0    0  : opening *
		1 in  SA 5000 1001 0  : opening *
		2 in  A  5001 1001 10 : opening *
		3 out A  1001 5011 0  : established *
	`},
	{name: "T-1 FIN while opening", lines: `
		0 out S  1000 0    0 : opening *
		1 in  SA 5000 1001 0 : opening *
		2 in  FA 5001 1001 0 : opening *
		3 out FA 1001 5002 0 : closing *
	`},
	{name: "T-2 B-14 SYN out, in, SYN+ACK out, in", lines: `
		0 out S  1000 0    0 : opening *
		1 in  S  5000 0    0 : opening *
		2 out SA 1000 5001 0 : opening *
		3 in  SA 5000 1001 0 : established *
		7442 out A 1001 5001 0 : established *
		14881 in A 5001 1001 0 : established *
		22322 dead
	`},
	{name: "T-2 B-14 SYN out, in, SYN+ACK in, out", lines: `
		0 out S  1000 0    0 : opening *
		1 in  S  5000 0    0 : opening *
		2 in  SA 5000 1001 0 : opening *
		3 out SA 1000 5001 0 : established *
		4 out A  1001 5001 5 : established *
	`},
	{name: "T-2 B-14 SYN out, SYN+ACK in, SYN in, SYN+ACK out", lines: `
		0 out S  1000 0    0 : opening *
		1 in  SA 5000 1001 0 : opening *
		2 in  S  5000 0    0 : opening *
		3 out SA 1000 5001 0 : established *
	`},
	{name: "T-2 B-14 SYN out, in, then plain ACKs", lines: `
		0 out S  1000 0    0 : opening *
		1 in  S  5000 0    0 : opening *
		2 out A  1001 5001 0 : opening *
		3 in  A  5001 1001 0 : established *
	`},
	{name: "T-5 established idle", lines: opened + `
		7439 in  A 5001 1001 0 : established *
		14878 out A 1001 5001 0 : established *
		22317.999 in A 5001 1001 0 : established *
		29757.999 dead
	`},
	{name: "T-6 SYN+ACK in time", lines: `
		0   out S  1000 0    0 : opening *
		239 in  SA 5000 1001 0 : opening *
	`},
	{name: "T-6 SYN+ACK too late", lines: `
		0   out S  1000 0    0 : opening *
		240 dead
	`},
	{name: "T-6 opening alone set", timeouts: map[State]uint32{Opening: 30_000}, lines: `
		0  out S  1000 0    0 : opening *
		29 in  SA 5000 1001 0 : opening *
		59 dead
	`},
	{name: "T-6 opening set, closing as it was", timeouts: map[State]uint32{Opening: 30_000}, lines: closed + `
		242 in FA 5001 1002 0 : closing .
		243 dead
	`},
	{name: "T-7 FIN both ways", lines: closed + `
		63  in  FA 5001 1002 0 : closing .
		64  out A  1002 5002 0 : closing .
		100 out R  1002 0    0 : closing .
		242.999 in FA 5001 1002 0 : closing .
		243 dead
	`},
	{name: "T-7 FIN at the same time", lines: opened + `
		1 out FA 1001 5001 0 : established *
		2 in  FA 5001 1001 0 : closing *
		3 out A  1002 5002 0 : closing .
		4 in  A  5002 1002 0 : closing .
	`},
	{name: "T-8 half closed for three hours", lines: opened + `
		1     out FA 1001 5001 0     : established *
		1001  in  A  5001 1002 1000  : established *
		2001  in  A  6001 1002 1000  : established *
		2002  out A  1002 7001 0     : established *
		9001  in  A  7001 1002 1000  : established *
		16440 in  A  8001 1002 1000  : established *
		16441 out A  1002 9001 0     : established *
		16442 in  FA 9001 1002 0     : closing *
	`},
	{name: "T-9 B-18 restored by data", lines: opened + `
		10  in  R 5001 0    0   : reset *
		11  in  R 5001 0    0   : reset .
		110 out A 1001 5001 10  : established *
		7549 in A 5001 1011 0   : established *
	`},
	{name: "T-9 silent after the RST", lines: opened + `
		10  in  R 5001 0    0   : reset *
		249.999 in R 5001 0 0   : reset .
		250 dead
	`},
	{name: "T-9 RST while opening refuses the SYN", lines: `
		0   out S  1000 0    0 : opening *
		1   in  RA 0    1001 0 : reset *
		241 dead
	`},
	{name: "T-9 RST while opening, restored", lines: `
		0 out S  1000 0    0 : opening *
		1 in  SA 5000 1001 0 : opening *
		2 in  R  5002 0    0 : opening .
		3 out R  1001 0    0 : reset *
		4 in  A  5001 1001 0 : opening *
		5 out A  1001 5001 0 : established *
	`},
	{name: "T-9 the starter gives up", lines: `
		0 out S 1000 0 0 : opening *
		1 out R 1001 0 0 : reset *
	`},
	{name: "T-10 RST not exact", lines: opened + `
		1 in  A 5001 1001 100           : established *
		2 out A 1001 5101 0             : established *
		3 in  R 5100 0    0             : established .
		4 in  R 5102 0    0             : established .
		5 in  R 2147488648 0 0          : established !
		6 in  R 9000000 0 0             : established !
		7 in  RA 5001 1001 0            : established .
		8 out A 1001 5101 1             : established *
		9 in  R 5101 0 0                : reset *
	`},
	{name: "T-10 RST that acknowledges something else while opening", lines: `
		0 out S  1000 0    0 : opening *
		1 in  RA 0    1002 0 : opening .
		2 in  R  0    0    0 : opening .
	`},
	{name: "T-11 SYN, challenge ACK, RST", lines: opened + `
		10 out S 70000 0    0 : established .
		11 in  A 5001  1001 0 : established *
		12 out R 1001  0    0 : reset *
	`},
	{name: "T-11 SYN, and the other end has forgotten", lines: opened + `
		10 out S  90000 0     0 ws=7 : established .
		11 in  SA 7000  90001 0 ws=7 : opening *
		12 out A  90001 7001  0      : established *
		13 out A  90001 7001  9      : established *
		14 in  A  5001  1001  0      : established .
	`},
	{name: "T-11 SYN+ACK that nobody asked for", lines: opened + `
		10 in SA 9000000 1001 0 : established .
		11 in SA 5000    1001 0 : established *
	`},
	{name: "T-12 B-15 after both FINs", lines: closed + `
		9   out S  200000 0      0 ws=2 : opening *
		10  in  SA 90000  200001 0 ws=2 : opening *
		11  out A  200001 90001  0      : established *
		260 out A  200001 90001  9      : established *
	`},
	{name: "T-12 B-15 the other side closes first", lines: opened + `
		1 in  FA 5001 1001 0 : established *
		2 out FA 1001 5002 0 : closing *
		3 in  A  5002 1002 0 : closing .
		9 out S  2000 0    0 : opening *
		248 in SA 7000 2001 0 : opening *
	`},
	{name: "T-12 B-15 after a RST", lines: opened + `
		1 in  R  5001 0    0 : reset *
		2 out S  2000 0    0 : opening *
		3 in  SA 7000 2001 0 : opening *
		4 out A  2001 7001 0 : established *
	`},
	{name: "T-12 B-15 after the SYN was refused", lines: `
		0 out S  1000 0    0 : opening *
		1 in  RA 0    1001 0 : reset *
		2 out S  3000 0    0 : opening *
		3 in  SA 7000 3001 0 : opening *
		4 out A  3001 7001 0 : established *
	`},
	{name: "T-12 B-15 after the starter gave up", lines: `
		0 out S  1000 0    0 : opening *
		1 out R  1001 0    0 : reset *
		2 out S  3000 0    0 : opening *
		3 in  SA 7000 3001 0 : opening *
		4 out A  3001 7001 0 : established *
	`},
	{name: "T-12 not from outside", fromInside: true, lines: closed + `
		9  in S  9000 0    0 : closing .
		10 in SA 9000 1002 0 : closing .
		243 dead
	`},
	{name: "T-12 not from outside after a RST", fromInside: true, lines: opened + `
		1 out R  1001 0    0 : reset *
		2 in  S  9000 0    0 : reset .
		3 in  SA 9000 1001 0 : reset .
	`},
	{name: "T-13 pickup", pickup: true, lines: `
		0 out A  1000      5000       10 : established *
		1 in  A  5000      1010       0  : established *
		2 in  A  1000005000 1010      10 : established *
		3 out A  1010      1000005010 0  : established *
		4 in  A  3005000   1010       0  : established *
		5 in  R  1000005010 0         0  : reset *
		6 out S  77        0          0  : opening *
		7 in  SA 900       78         0  : opening *
		8 out A  78        901        0  : established *
		9 in  A  2000000   78         0  : established .
	`},
	{name: "T-13 pickup, far outside", pickup: true, lines: `
		0 out A 1000       5000 10 : established *
		1 in  A 2000005000 1010 0  : established .
	`},
	{name: "T-15 far behind and far ahead", lines: opened + `
		1 out A 1001        5001 100  : established *
		2 in  A 5001        1101 0    : established *
		3 out A -1073740723 5001 100  : established .
		4 out A 1073742925  5001 100  : established .
		5 in  A -1073736723 1101 10   : established .
		6 out A 1101        1073746825 0 : established .
		7 out A 1101        -1073736823 0 : established .
		7440 in FA -1073736723 1101 10 : established .
		7442 dead
	`},
	{name: "T-15 window scale of both", lines: `
		0   out S  1000 0    0 ws=7 : opening *
		0.1 in  SA 5000 1001 0 ws=7 : opening *
		0.2 out A  1001 5001 0 win=65535   : established *
		1   in  A  5001 1001 0 win=65535   : established *
		2   in  A  8393609 1001 0          : established *
		3   in  A  8393610 1001 0          : established .
	`},
	{name: "T-15 window scale of one", lines: `
		0   out S  1000 0    0 ws=7 : opening *
		0.1 in  SA 5000 1001 0      : opening *
		0.2 out A  1001 5001 0 win=65535   : established *
		1   in  A  5001 1001 0 win=65535   : established *
		2   in  A  70537 1001 0            : established *
		3   in  A  70538 1001 0            : established .
	`},
	{name: "T-15 window scale over 14 is 14", lines: `
		0   out S  1000 0    0 ws=200 : opening *
		0.1 in  SA 5000 1001 0 ws=0   : opening *
		0.2 out A  1001 5001 0 win=65535   : established *
		1   in  A  1073746824 1001 0       : established *
		2   in  A  1073746826 1001 0       : established .
	`},
	{name: "T-15 a SYN's window is not scaled", lines: `
		0   out S  1000 0    0 ws=7 win=65535 : opening *
		0.1 in  SA 5000 1001 0 ws=7 win=65535 : opening *
		0.2 out A  1001 5001 0 win=1          : established *
		1   in  A  70538 1001 0               : established .
		2   in  A  70537 1001 0               : established *
	`},
	{name: "T-15 what comes from a side without a SYN", lines: `
		0 out S 1000 0    0  : opening *
		1 in  A 5000 1001 0  : opening *
		2 in  A 5000 9999 0  : opening .
		3 in FA 5000 1001 10 : opening *
		4 in SA 5000 1001 0  : opening *
		5 out A 1001 5001 0  : established *
	`},
	{name: "T-15 without ACK", lines: opened + `
		1 in P 5001 0 10 : established *
	`},
}

// TestTCP runs each script from either side, and with sequence numbers that wrap around in the middle.
func TestTCP(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			for _, bases := range [][2]uint32{{0, 0}, {-1001 & (1<<32 - 1), 1<<31 - 5001}, {1<<31 - 1050, -5001 & (1<<32 - 1)}} {
				for _, inbound := range []bool{false, true} {
					if inbound && s.fromInside {
						continue
					}
					t.Run(fmt.Sprintf("inbound=%t/base=%d,%d", inbound, bases[0], bases[1]), func(t *testing.T) {
						s.run(t, inbound, bases)
					})
				}
			}
		})
	}
}

// TestInboundRestart is T-12 for a session that was started from outside: either side may start again.
func TestInboundRestart(t *testing.T) {
	script{lines: closed + `
		9  out S 9000 0 0 : opening *
		10 out R 9001 0 0 : reset *
		11 in  S 7000 0 0 : opening *
	`}.run(t, true, [2]uint32{})
}

// TestBlindResets is B-17: RSTs with sequence numbers that somebody guesses end nothing and shorten nothing.
func TestBlindResets(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 17))
	table, err := New(Config{Sessions: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = tcpTimeouts()
	var rec Record
	rec.Proto = tcp
	rec.StartTCP(Out, &Segment{Seq: 1000, Flags: flagSYN, Window: 64240, Scale: 10})
	h := table.Add(&rec)
	table.TrackTCP(h, In, &Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, Scale: 10}, 1)
	table.TrackTCP(h, Out, &Segment{Seq: 1001, Ack: 5001, Flags: flagACK, Window: 64240}, 2)
	before := *table.Rec(h)
	inWindow := 0
	for i := range uint32(1 << 16) {
		s := Segment{Seq: r.Uint32(), Ack: r.Uint32(), Flags: flagRST | uint8(r.IntN(2))*flagACK}
		if s.Seq == 5001 {
			continue // one in 2^32 knows
		}
		if table.TrackTCP(h, In, &s, 3+i) {
			inWindow++
		}
	}
	if *table.Rec(h) != before {
		t.Errorf("%+v\nhas become\n%+v", before, *table.Rec(h))
	}
	if inWindow == 0 || inWindow > 1<<16/10 {
		t.Errorf("%d of the RSTs are said to be in the window", inWindow)
	}
	if due := before.LastSeen + table.Timeouts[Established]; !table.Alive(&before, due-1) || table.Alive(&before, due) {
		t.Error("the time-out has changed")
	}
}

// TestTrackingKeepsLinks throws segments of all kinds at sessions of which many have not been answered, so that the
// words for tracking are links.
func TestTrackingKeepsLinks(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 8))
		table, err := New(Config{Sessions: 6}, nil)
		if err != nil {
			t.Fatal(err)
		}
		table.Timeouts = tcpTimeouts()
		flags := []uint8{0, flagSYN, flagSYN | flagACK, flagACK, flagACK, flagRST, flagRST | flagACK, flagFIN | flagACK, 255}
		segment := func() Segment {
			return Segment{Seq: r.Uint32N(40), Ack: r.Uint32N(40), Len: r.Uint32N(3), Window: uint16(r.Uint32()),
				Flags: flags[r.IntN(len(flags))], Scale: uint8(r.IntN(20))}
		}
		for now := uint32(0); now < 300_000; now += r.Uint32N(1000) {
			var live []Handle
			for h := Handle(1); h <= 6; h++ {
				if table.Rec(h).State != Free {
					live = append(live, h)
				}
			}
			switch n := r.IntN(20); {
			case n == 0:
				table.Recycle(now)
			case n < 4:
				rec := Record{In: now, Ext: now, Proto: tcp, LastSeen: now, Bits: Bits(r.IntN(2))*Inbound | Bits(r.IntN(2))*Unknown}
				s := segment()
				rec.StartTCP(rec.replyDir()^1, &s)
				table.Add(&rec)
			case len(live) > 0:
				s := segment()
				h := live[r.IntN(len(live))]
				d := table.Rec(h).replyDir()
				if r.IntN(10) > 0 {
					d ^= 1
				}
				table.TrackTCP(h, d, &s, now)
			}
			table.Advance(now, 10)
			if err := table.Check(now); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

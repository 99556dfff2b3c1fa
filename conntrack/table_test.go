// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"
)

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(Record{}); n != 64 {
		t.Errorf("a record has %d bytes", n)
	}
	const n = 1 << 20
	plain, counted := Size(Config{Sessions: n}), Size(Config{Sessions: n, Counts: true})
	if plain > 128*n {
		t.Errorf("%.2f bytes a session", float64(plain)/n)
	}
	if d := counted - plain; d != 24*(n+1) {
		t.Errorf("%d bytes more for the counts", d)
	}
}

// TestNew uses memory of the caller's, exactly as much as KeptSize says.
func TestNew(t *testing.T) {
	for _, counts := range []bool{false, true} {
		c := Config{Sessions: 3, Counts: counts}
		words := make([]uint64, KeptSize(c)/8+1)
		mem := bytesOf(words)
		for i := range len(mem) - 8 { // which is not clean
			mem[i] = byte(i)
		}
		table, err := New(c, mem[:KeptSize(c)])
		if err != nil {
			t.Fatal(err)
		}
		table.Timeouts = []uint32{UDP: 100, Quarantined: 0}
		for i := range 3 {
			h := addTimer(table, i, 0, 100)
			if n := table.Count(h); counts != (n != nil) {
				t.Errorf("Count is %v", n)
			} else if counts {
				n.Bytes[In], n.Packets[Out] = 1<<64-1, 1<<32-1
			}
		}
		if err := table.Check(0); err != nil {
			t.Error(err)
		}
		if words[len(words)-1] != 0 {
			t.Error("written past the end")
		}
		table.Advance(100, 3)
		if h := addTimer(table, 1, 100, 100); counts && *table.Count(h) != (Count{}) {
			t.Error("a new session inherits the counts of an old one")
		}
		if table.Cap() != 3 || table.Stats() != (Stats{Created: 4, Expired: 3}) {
			t.Errorf("cap %d, %+v", table.Cap(), table.Stats())
		}
		for name, bad := range map[string][]byte{"short": mem[:KeptSize(c)-1], "unaligned": mem[1 : KeptSize(c)+1]} {
			if _, err := New(c, bad); err == nil {
				t.Errorf("%s memory is taken", name)
			}
		}
	}
	for _, n := range []int{-1, 0, MaxSessions + 1} {
		if _, err := New(Config{Sessions: n}, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint(n)) {
			t.Errorf("%d sessions: %v", n, err)
		}
	}
}

func TestStateString(t *testing.T) {
	seen := map[string]bool{}
	for s := range NumStates {
		if name := s.String(); name == "" || name == "invalid" || seen[name] {
			t.Errorf("state %d is %q", s, name)
		} else {
			seen[name] = true
		}
	}
	if NumStates.String() != "invalid" {
		t.Error("there is one state too many")
	}
}

// TestStagedLookup is the lookup of a batch: tags, lookup, verify.
func TestStagedLookup(t *testing.T) {
	table := newTimers(t, 100)
	for i := range 100 {
		addTimer(table, i, 0, 100)
	}
	var outs, ins []uint32
	for i := range uint32(101) { // the last is not there
		outs, ins = append(outs, table.OutTag(i, i, 0, udp)), append(ins, table.InTag(1, i, 0, udp))
	}
	out, in := make([]Handle, len(outs)), make([]Handle, len(ins))
	touched := table.LookupOut(outs, out) + table.LookupIn(ins, in)
	first := 0 // most are the first candidate, and all are found
	for i := range uint32(100) {
		if out[i] == None || table.CandidateOut(outs[i]) != out[i] || table.FindOut(outs[i], i, i, 0, udp) == None {
			t.Errorf("%d is not found outward", i)
		} else if table.Rec(out[i]).OwnsOut(i, i, 0, udp) {
			first++
		}
		if h, _ := table.FindIn(ins[i], 1, i, 0, 0, udp); in[i] == None || table.CandidateIn(ins[i]) != in[i] || h == None {
			t.Errorf("%d is not found inward", i)
		} else if table.Rec(in[i]).OwnsIn(i, 1, 0, udp) {
			first++
		}
	}
	if first < 190 {
		t.Errorf("%d of 200 are the first candidate", first)
	}
	if h := out[100]; h != None && table.Rec(h).OwnsOut(100, 100, 0, udp) || touched == 0 || table.TouchIn(ins[0]) == 0 {
		t.Errorf("%d is found, %d touched", h, touched)
	}
}

// TestRefreshAtExpiry is B-38: a refresh a tick before the end saves a session, one at the end is too late, and a record
// that somebody else has by then is not the one that a lookup of the old tuple finds.
func TestRefreshAtExpiry(t *testing.T) {
	table := newTimers(t, 1)
	r := rand.New(rand.NewPCG(38, 38))
	now := uint32(1<<32 - 100_000)
	table.Advance(now, 0)
	h := addTimer(table, 1, now, 300)
	for range 1_000_000 {
		rec := table.Rec(h)
		early := r.IntN(3) - 1
		now = rec.LastSeen + 300 - uint32(early)
		found := table.Live(table.FindOut(table.OutTag(1, 1, 0, udp), 1, 1, 0, udp), now)
		if (found != None) != (early > 0) {
			t.Fatalf("%d ticks before the end: found %d", early, found)
		}
		if found != None {
			rec.LastSeen = now
		} else {
			h = addTimer(table, 2, now, 300)
			if table.FindOut(table.OutTag(1, 1, 0, udp), 1, 1, 0, udp) != None {
				t.Fatal("the old tuple finds a new session")
			}
			table.End(h, now)
			h = addTimer(table, 1, now, 300)
		}
		table.Advance(now, r.IntN(2))
		if table.Used() != 1 {
			t.Fatalf("%d records used", table.Used())
		}
	}
	if err := table.Check(now); err != nil {
		t.Error(err)
	}
}

// TestMappingEndsWithLastSession is B-48, in every order.
func TestMappingEndsWithLastSession(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		table := newTimers(t, 8)
		table.Timeouts[UDP] = 1000
		released := 0
		table.Released = func(_ *Record, last bool) {
			if last {
				released++
			}
		}
		var hs [3]Handle
		for i, rem := range []uint32{7, 8, 7} {
			hs[i] = table.Add(&Record{In: 1, InPort: 5000, Ext: 9, ExtPort: 6000, Rem: rem, RemPort: uint16(i), Proto: udp, State: UDP,
				LastSeen: uint32(order[i]), Bits: Independent})
		}
		for at := range uint32(3) {
			now := 1000 + at - 1
			table.Advance(now, 10)
			if table.Mappings() != 1 || table.Used() != int(3-at) || released != 0 {
				t.Errorf("%v: at %d there are %d mappings with %d sessions, %d released", order, now, table.Mappings(), table.Used(), released)
			}
			if table.Mapping(1, 5000, 0, udp, now) == None || table.Holder(9, 6000, udp, now) == None {
				t.Errorf("%v: at %d the mapping is not found", order, now)
			}
			if err := table.Check(now); err != nil {
				t.Error(err)
			}
		}
		if table.Mapping(1, 5000, 0, udp, 1002) != None || table.Holder(9, 6000, udp, 1002) != None {
			t.Errorf("%v: the mapping outlives its sessions", order)
		}
		if table.Mappings() != 0 || table.Used() != 0 || released != 1 {
			t.Errorf("%v: %d mappings are left, %d records, released %d times", order, table.Mappings(), table.Used(), released)
		}
	}
}

// TestNothingLeaks is the rest of B-48: after a million lifecycles there are no entries and no ports left.
func TestNothingLeaks(t *testing.T) {
	const n = 1000
	table := newTimers(t, n)
	table.Timeouts = make([]uint32, 2*NumStates)
	table.Timeouts[UDP], table.Timeouts[Quarantined] = 100, 50
	table.Timeouts[int(NumStates)+int(UDP)] = 100
	r := rand.New(rand.NewPCG(48, 48))
	now := uint32(0)
	for table.Stats().Created < 1_000_000 {
		now += r.Uint32N(3)
		table.Advance(now, 20)
		if table.Used() == n {
			table.Recycle(now)
		}
		in := r.Uint32N(400)
		rec := Record{In: in, Rem: r.Uint32N(4), RemPort: uint16(r.IntN(2)), Ext: in, ExtPort: 1, Proto: udp, State: UDP, LastSeen: now,
			Pool: uint16(in % 2), Bits: Independent}
		ports := uint32(rec.RemPort)
		if h := table.Live(table.FindOut(table.OutTag(in, rec.Rem, ports, udp), in, rec.Rem, ports, udp), now); h != None {
			table.Answered(h)
			continue
		}
		if h := table.Holder(in, 1, udp, now); h != None && table.Rec(h).State == Quarantined {
			table.Bury(h)
		}
		table.Add(&rec)
	}
	for !table.Advance(now+200, 10_000) {
		t.Fatal("more to do than there are records")
	}
	if table.Used() != 0 || table.Mappings() != 0 || table.Quarantined() != 0 {
		t.Errorf("%d records are left, %d mappings, %d ports", table.Used(), table.Mappings(), table.Quarantined())
	}
	for name, x := range map[string]index{"out": table.out, "in": table.in, "ends": table.ends, "exts": table.exts} {
		for _, s := range x {
			if s != (bucket{}) {
				t.Fatalf("an entry is left in %s", name)
			}
		}
	}
	if err := table.Check(now + 200); err != nil {
		t.Error(err)
	}
}

// TestHashIsKeyed is B-41: tuples that collide under one key are nothing special under another.
func TestHashIsKeyed(t *testing.T) {
	const n = 1 << 13
	known, err := New(Config{Sessions: n, Key: [2]uint64{0x0123456789abcdef, 0xfedcba9876543210}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := New(Config{Sessions: n, Key: [2]uint64{0x9e3779b97f4a7c15, 0xd1b54a32d192ed03}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// What an attacker would send to a table whose key he knew: every tuple is at home in the same 64th of the buckets.
	type flow struct{ in, rem, ports uint32 }
	var flows []flow
	for i := uint32(0); len(flows) < n; i++ {
		f := flow{0x0a000000 + i%256, 0xcb007100, i / 256}
		if known.OutTag(f.in, f.rem, f.ports, udp)>>26 == 0 {
			flows = append(flows, f)
		}
	}
	worst := func(table *Table) int {
		for i, f := range flows {
			table.out.insert(table.OutTag(f.in, f.rem, f.ports, udp), Handle(i+1))
		}
		worst := 0
		for i, f := range flows {
			tag := table.OutTag(f.in, f.rem, f.ports, udp)
			pos, ok := table.out.find(tag, Handle(i+1))
			if !ok {
				t.Fatal("not found")
			}
			buckets := uint32(len(table.out))
			worst = max(worst, int((pos/64+buckets-table.out.home(tag))%buckets))
		}
		return worst
	}
	if n := worst(known); n < 1000/bucketSize {
		t.Errorf("the attack is none: at most %d buckets from home", n)
	}
	if n := worst(secret); n > 8 {
		t.Errorf("up to %d buckets from home", n)
	}
}

// TestNoAllocations: nothing that a packet needs takes memory.
func TestNoAllocations(t *testing.T) {
	table, err := New(Config{Sessions: 100, Counts: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = tcpTimeouts()
	table.Timeouts[UDP], table.Timeouts[Quarantined] = 300, 10
	table.Agrees = func(r *Record) bool { r.Epoch = table.Epoch; return true }
	now := uint32(0)
	rec := Record{In: 1, Rem: 2, Ext: 3, InPort: 4, RemPort: 5, ExtPort: 6, Proto: udp, State: UDP, Bits: Independent}
	conn := Record{In: 1, Rem: 2, Ext: 3, InPort: 4, RemPort: 5, ExtPort: 6, Proto: tcp}
	for name, f := range map[string]func(){
		"miss": func() {
			table.FindOut(table.OutTag(9, 9, 9, udp), 9, 9, 9, udp)
			table.FindIn(table.InTag(9, 9, 9, udp), 9, 9, 9, 9, udp)
		},
		"life": func() {
			now++
			table.Epoch++
			rec.LastSeen = now
			h := table.Add(&rec)
			table.Live(table.FindOut(table.OutTag(1, 2, 4<<16|5, udp), 1, 2, 4<<16|5, udp), now)
			if got, _ := table.FindIn(table.InTag(3, 2, 6, udp), 3, 2, 6, 5, udp); got != h || h == None {
				t.Fatal("not found")
			}
			table.Mapping(1, 4, 0, udp, now)
			table.Holder(3, 6, udp, now)
			table.Talks(3, 2, 6, udp, now)
			table.Answered(h)
			table.Count(h).Packets[Out]++
			now += 300
			table.Advance(now, 10)
			table.Disinter()
		},
		"TCP": func() {
			now++
			conn.LastSeen = now
			conn.StartTCP(Out, &Segment{Seq: 1, Flags: flagSYN, Scale: 7})
			h := table.Add(&conn)
			table.TrackTCP(h, In, &Segment{Seq: 1, Ack: 2, Flags: flagSYN | flagACK, Scale: 7}, now)
			table.TrackTCP(h, Out, &Segment{Seq: 2, Ack: 2, Flags: flagACK | flagFIN}, now)
			table.TrackTCP(h, In, &Segment{Seq: 2, Ack: 3, Flags: flagACK | flagFIN}, now)
			if table.Rec(h).State != Closing {
				t.Fatal(table.Rec(h).State)
			}
			now += 240_000
			table.End(h, now)
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if table.Used() != 0 {
		t.Errorf("%d records are left", table.Used())
	}
}

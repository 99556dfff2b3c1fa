// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"strings"
	"testing"
)

// checkable is a Table with a bit of everything: a mapping of three sessions to two remote addresses (records 1 to 3,
// the third answered), a TCP session (4), a port in quarantine (5), a forwarded session (6), and two free records.
func checkable(t *testing.T) *Table {
	table, err := New(Config{Sessions: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = tcpTimeouts()
	table.Timeouts[UDP], table.Timeouts[Query], table.Timeouts[Quarantined] = 300_000, 60_000, 60_000
	table.Advance(1000, 0)
	m := Record{In: 1, InPort: 5000, Ext: 9, ExtPort: 6000, Rem: 7, Proto: udp, State: UDP, LastSeen: 1000, Bits: Independent}
	for _, rem := range []uint32{7, 7, 8} {
		m.Rem = rem
		m.RemPort++
		table.Add(&m)
	}
	table.Answered(3)
	c := Record{In: 1, InPort: 5000, Ext: 9, ExtPort: 6000, Rem: 7, RemPort: 80, Proto: tcp, LastSeen: 1000}
	c.StartTCP(Out, &Segment{Seq: 1, Flags: flagSYN})
	table.Add(&c)
	table.End(table.Add(&Record{In: 2, Ext: 9, ExtPort: 7, Rem: 7, Proto: 1, State: Query, LastSeen: 1000, Bits: Independent}), 1000)
	table.Add(&Record{In: 3, InPort: 1, Ext: 9, ExtPort: 6001, Rem: 7, Proto: udp, State: UDP, LastSeen: 1000, Bits: Inbound | Forwarded})
	if err := table.Check(1000); err != nil {
		t.Fatal(err)
	}
	if table.Rec(5).State != Quarantined || table.free[0][0] != 1<<7|1<<8 {
		t.Fatal("the records are not as expected")
	}
	return table
}

// hundred is an empty Table whose free records take more than one word.
func hundred() *Table {
	table, err := New(Config{Sessions: 100}, nil)
	if err != nil {
		panic(err)
	}
	return table
}

// at is where h is in x.
func at(x index, h Handle) (k *bucket, place int) {
	for n := range x {
		for place := range 64 {
			if x[n].match(0)>>place&1 == 0 && place&7 < 2 && slot(place) < bucketSize && x[n].refs[slot(place)]&handleMask == uint32(h) {
				return &x[n], place
			}
		}
	}
	panic("not in the index")
}

// lose takes h out of x.
func lose(x index, h Handle) {
	k, place := at(x, h)
	k.clear(place)
}

// TestCheckNamesFaults breaks each book in turn.
func TestCheckNamesFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Table)
		want  string
	}{
		{"free record lost", func(t *Table) { t.free[0][0] &^= 1 << 7 }, "free set: has 1 records, but 2 are not used"},
		{"free set without its top", func(t *Table) { *t = *hundred(); t.free[1][0] &^= 2 }, "free set: word 1 of level 0 is 0x1fffffffff, and"},
		{"free set has a session", func(t *Table) { t.free[0][0] |= 1 << 1 }, "record 1 (udp) is in free set"},
		{"handle too large", func(t *Table) { t.free[0][0] |= 1 << 9 }, "free set: names record 9 of 8"},
		{"used", func(t *Table) { t.used++ }, "6 records are used, not 7"},
		{"lost record", func(t *Table) { t.recs[4].State = Free }, "record 4 (free)"},
		{"state", func(t *Table) { t.recs[4].State = NumStates }, "record 4 has state 10"},
		{"state of another protocol", func(t *Table) { t.recs[4].State = UDP }, "record 4 of protocol 6 is in state udp"},
		{"unknown protocol", func(t *Table) { t.recs[6].Proto, t.recs[6].State = 47, DNS }, "record 6 of protocol 47 is in state dns"},
		{"last seen", func(t *Table) { t.recs[4].LastSeen = 1 << 30 }, "record 4 was last seen at tick"},
		{"clock", func(t *Table) { t.wheel.now = 1 << 30 }, "wheel: stands at tick 1073741824, after now"},
		{"quarantine count", func(t *Table) { t.quarantine.n++ }, "quarantine: ends with record 5 after 1, not with 5 after 2"},
		{"quarantine lost", func(t *Table) { t.quarantine = list{} }, "record 5 (quarantined) is in exts, wheel, but belongs in"},
		{"unanswered end", func(t *Table) { t.unanswered.last = 1 }, "unanswered: ends with record 6"},
		{"unanswered link", func(t *Table) { _, p := t.recs[2].listLinks(); *p = 4 }, "unanswered: record 2 has 4 before it, not 1"},
		{"answered, but listed", func(t *Table) { t.recs[4].Bits |= Replied }, "record 4 (opening) is in unanswered, out, in, wheel, but"},
		{"not answered, not listed", func(t *Table) { t.recs[3].Bits &^= Replied }, "record 3 (udp) is in out"},
		{"out tag", func(t *Table) { t.recs[4].RemPort = 81 }, "out: bucket"},
		{"out tag kept", func(t *Table) { k, place := at(t.out, 4); k.tags[place&1] ^= 2 << (place &^ 7) }, "out: bucket"},
		{"out bits kept", func(t *Table) { k, place := at(t.out, 4); k.refs[slot(place)] ^= 1 << 28 }, "for record 4, whose tag is"},
		{"out away", func(t *Table) { k, place := at(t.out, 4); k.refs[slot(place)] |= oneAway }, "for record 4, whose tag is"},
		{"out entry lost", func(t *Table) { lose(t.out, 4) }, "record 4 (opening) is in unanswered, in, wheel, but"},
		{"out entry twice", func(t *Table) { t.out.insert(t.outTag(t.Rec(4)), 4) }, "out: names record 4 twice"},
		{"out entry without a tag", func(t *Table) { k, place := at(t.out, 4); k.tags[place&1] &^= 0xff << (place &^ 7) }, "out: bucket"},
		{"out entry of nobody", func(t *Table) { t.out.insert(7, None) }, "out: names record 0 of 8"},
		{"out search without an end", func(t *Table) { t.out[0].tags[1] += onePassed }, "out: bucket 0 was passed by 0, not 1"},
		{"out of reach", func(t *Table) {
			*t = *hundred()
			t.out.insert(1, 1) // at home in the first
			k, place := at(t.out, 1)
			t.out[1].set(place, low(1), k.refs[slot(place)])
			k.clear(place)
			t.recs[1].State = Opening
			t.Agrees = nil
		}, "out: bucket"},
		{"in entry of no Head", func(t *Table) { t.in.insert(t.inTag(t.Rec(2)), 2) }, "record 2 (udp) is in unanswered, out, in,"},
		{"Head lost", func(t *Table) { t.recs[3].Bits &^= Head }, "mapping: record 3, first to its remote address: true, Head: false"},
		{"Head of nothing", func(t *Table) { t.recs[4].Bits |= Head }, "record 4 has no mapping, but is linked"},
		{"ends lost", func(t *Table) { lose(t.ends, 3) }, "mapping: its first session, record 3, is not in ends and exts"},
		{"ends of another", func(t *Table) { t.ends.insert(t.MappingTag(1, 5000, 0, udp), 2) }, "mapping: record 2 is in ends or exts, but not the first"},
		{"mapping link", func(t *Table) { t.recs[2].Prev = 3 }, "mapping: record 2 has 3 before it, not 1"},
		{"mapping in a circle", func(t *Table) { t.recs[2].Next = 1 }, "mapping: names record 1 twice"},
		{"mapping cut in two", func(t *Table) { t.recs[3].Next, t.recs[1].Prev = 0, 0 }, "the same owner of an external endpoint"},
		{"mapping of two", func(t *Table) { t.recs[2].InPort++ }, "mapping: record 2 is of another one than record 3"},
		{"mapping not side by side", func(t *Table) {
			t.recs[1].Prev, t.recs[1].Next, t.recs[3].Prev = 0, 3, 1
			t.recs[3].Next, t.recs[2].Prev = 2, 3
			t.recs[2].Next = 0
		}, "mapping: record 2 is apart from the others"},
		{"mappings", func(t *Table) { t.mappings-- }, "mapping: there are 1, not 0"},
		{"inside tuple twice", func(t *Table) { t.recs[2].RemPort = 1 }, "records 1 and 2 have the same inside tuple"},
		{"external tuple twice", func(t *Table) { t.recs[6].ExtPort, t.recs[6].RemPort = 6000, 1 }, "records 1 and 6 have the same external tuple"},
		{"wheel slot bit", func(t *Table) { t.wheel.used[0] ^= 1 }, "wheel: slot 0 begins with record 0, but its bit is true"},
		{"wheel link", func(t *Table) { t.wheel.links[1].prev = 4 }, "wheel: record 1 has 0x4 before it"},
		{"wheel without", func(t *Table) { t.wheel.take(4) }, "record 4 (opening) is in unanswered, out, in, but"},
		{"wheel link of none", func(t *Table) { t.wheel.take(4); t.wheel.links[4].next = 1 }, "record 4 is in no slot of the wheel, but linked"},
		{"wheel too late", func(t *Table) { t.recs[4].State, t.Timeouts[Reset] = Reset, 10 }, "record 4 is in slot"},
		{"wheel slot that is past", func(t *Table) { t.wheel.take(4); t.wheel.now = 0; t.wheel.place(4, 100); t.wheel.now = 1000 }, "too late for tick 241000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := checkable(t)
			c.spoil(table)
			err := table.Check(1000)
			if err == nil {
				t.Fatal("nothing is wrong")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant: %s", err, c.want)
			}
		})
	}
}

// TestCheckIsBounded: a Table that is nonsense from end to end is not worth a line for each record.
func TestCheckIsBounded(t *testing.T) {
	table := newTimers(t, 1000)
	for i := range 1000 {
		addTimer(table, i, 0, 100)
	}
	clear(table.out)
	if n := strings.Count(table.Check(0).Error(), "\n") + 1; n != maxFaults {
		t.Errorf("%d lines", n)
	}
}

// TestEqualTags has tuples of which the indexes keep the same, so that only the records can tell them apart.
func TestEqualTags(t *testing.T) {
	table, err := New(Config{Sessions: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = make([]uint32, NumStates)
	table.Timeouts[UDP] = 100
	// collide returns two numbers with the same tag.
	collide := func(tag func(i uint32) uint32) (uint32, uint32) {
		seen := map[uint32]uint32{}
		for i := uint32(1); ; i++ {
			v := tag(i)
			if j, ok := seen[v]; ok {
				return j, i
			}
			seen[v] = i
		}
	}
	base := Record{In: 1, InPort: 1, Rem: 1, RemPort: 1, Ext: 1, ExtPort: 1, Proto: udp, State: UDP}
	for _, bits := range []Bits{0, Independent} {
		for name, vary := range map[string]struct {
			tag func(i uint32) uint32
			set func(r *Record, i uint32)
		}{
			"out":  {func(i uint32) uint32 { return table.OutTag(i, 1, 1<<16|1, udp) }, func(r *Record, i uint32) { r.In, r.Ext = i, i }},
			"in":   {func(i uint32) uint32 { return table.InTag(i, 1, 1, udp) }, func(r *Record, i uint32) { r.In, r.Ext = i, i }},
			"ends": {func(i uint32) uint32 { return table.MappingTag(i, 1, 0, udp) }, func(r *Record, i uint32) { r.In, r.Ext = i, i }},
			"exts": {func(i uint32) uint32 { return table.HolderTag(i, 1, udp) }, func(r *Record, i uint32) { r.In, r.Ext = i, i }},
		} {
			i, j := collide(vary.tag)
			for _, pair := range [][2]uint32{{i, j}, {j, i}} {
				var hs [2]Handle
				for k, v := range pair {
					r := base
					r.Bits = bits
					vary.set(&r, v)
					hs[k] = table.Add(&r)
				}
				second := base
				second.Bits, second.RemPort = bits, 2
				vary.set(&second, pair[1])
				third := table.Add(&second)
				if err := table.Check(0); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				for k, v := range pair {
					if h := table.FindOut(table.OutTag(v, 1, 1<<16|1, udp), v, 1, 1<<16|1, udp); h != hs[k] {
						t.Errorf("%s: FindOut finds %d, not %d", name, h, hs[k])
					}
					if h, _ := table.FindIn(table.InTag(v, 1, 1, udp), v, 1, 1, 1, udp); h != hs[k] {
						t.Errorf("%s: FindIn finds %d, not %d", name, h, hs[k])
					}
					owns := bits&Independent != 0
					if h := table.Mapping(v, 1, 0, udp, 0); (h != None) != owns || owns && table.Rec(h).In != v {
						t.Errorf("%s: Mapping finds %d", name, h)
					}
					if h := table.Holder(v, 1, udp, 0); (h != None) != owns || owns && table.Rec(h).Ext != v {
						t.Errorf("%s: Holder finds %d", name, h)
					}
					if table.Talks(v, 1, 1, udp, 0) != owns {
						t.Errorf("%s: Talks is %t", name, !owns)
					}
				}
				if h, _ := table.FindIn(table.InTag(pair[1], 1, 1, udp), pair[1], 1, 1, 2, udp); h != third {
					t.Errorf("%s: FindIn finds %d, not %d", name, h, third)
				}
				for _, h := range []Handle{hs[0], third, hs[1]} {
					table.End(h, 0)
					if err := table.Check(0); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		}
	}
}

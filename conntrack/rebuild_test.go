// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"slices"
	"testing"
)

// TestRebuild: what a Table keeps of records that cannot all be right, and of those that are half changed.
func TestRebuild(t *testing.T) {
	is := func(changes ...func(*Record)) Record {
		r := Record{In: 1, InPort: 10, Ext: 9, ExtPort: 90, Rem: 7, RemPort: 70, Proto: udp, State: UDP, LastSeen: 500, Epoch: 3, Bits: Replied}
		for _, f := range changes {
			f(&r)
		}
		return r
	}
	host := func(n uint32) func(*Record) { return func(r *Record) { r.In = n } }
	remote := func(n uint32) func(*Record) { return func(r *Record) { r.Rem = n } }
	port := func(n uint16) func(*Record) { return func(r *Record) { r.ExtPort = n } }
	seen := func(n uint32) func(*Record) { return func(r *Record) { r.LastSeen = n } }
	epoch := func(n uint32) func(*Record) { return func(r *Record) { r.Epoch = n } }
	state := func(s State) func(*Record) { return func(r *Record) { r.State = s } }
	mapping := func(r *Record) { r.Bits |= Independent }
	silent := func(r *Record) { r.Bits &^= Replied }
	over := func(r *Record) { r.State, r.Bits = Quarantined, 0 }
	for _, c := range []struct {
		name string
		recs []Record
		want []Handle // that are left
	}{
		{"none", nil, nil},
		{"two hosts", []Record{is(), is(host(2), port(91))}, []Handle{1, 2}},
		{"an inside tuple twice", []Record{is(seen(400)), is(port(91)), is(port(92), seen(300))}, []Handle{2}},
		{"of two policies", []Record{is(port(91), epoch(2)), is(seen(100))}, []Handle{2}},
		{"of two policies, the other way round", []Record{is(seen(100)), is(port(91), epoch(2))}, []Handle{1}},
		{"an external tuple twice", []Record{is(), is(host(2), seen(501))}, []Handle{2}},
		{"as good as each other", []Record{is(), is(host(2))}, []Handle{1}},
		{"one beats two", []Record{is(seen(1)), is(host(2), port(91), seen(1)), is(host(2))}, []Handle{3}},
		{"a mapping of three", []Record{is(mapping), is(mapping, remote(8)), is(mapping, func(r *Record) { r.RemPort++ })}, []Handle{1, 2, 3}},
		{"a port of two mappings", []Record{is(mapping), is(mapping, host(2), remote(8))}, []Handle{1}},
		{"an endpoint with two mappings", []Record{is(mapping), is(mapping, port(91), remote(8))}, []Handle{1}},
		{"an external tuple in a mapping and out of it", []Record{is(mapping), is(host(2))}, []Handle{2}},
		{"a mapping whose port waits", []Record{is(over, seen(600)), is(mapping)}, []Handle{2}},
		{"a port that waits twice", []Record{is(over, seen(600)), is(over)}, []Handle{1}},
		{"more ports than may wait", []Record{is(over, seen(3)), is(over, port(91), seen(1)), is(over, port(92), seen(2)), is(over, port(93), seen(4))}, []Handle{1, 3, 4}},
		{"no such state", []Record{is(state(NumStates)), is(state(200), host(2))}, nil},
		{"a state of another protocol", []Record{is(state(Established))}, nil},
		{"no such bits", []Record{is(func(r *Record) { r.Bits |= 2 * Filter })}, nil},
		{"a mapping and a forward", []Record{is(mapping, func(r *Record) { r.Bits |= Forwarded })}, nil},
		{"a window that no TCP has", []Record{is(func(r *Record) { r.Proto, r.State, r.Win[In] = tcp, Established, 31 })}, nil},
		{"not for vet", []Record{is(func(r *Record) { r.Attachment = 99 }), is(host(2), port(91))}, []Handle{2}},
		{"answered in part", []Record{is(state(UDPOpening))}, []Handle{1}},
		{"not answered, with words of another time", []Record{is(silent, func(r *Record) {
			r.Proto, r.State, r.End, r.Ack, r.Win, r.flags = tcp, Opening, [2]uint32{1, 77}, [2]uint32{2, 78}, [2]uint8{3, 4}, 0xff
		})}, []Handle{1}},
		{"links of another time", []Record{is(mapping, func(r *Record) { r.Next, r.Prev, r.Bits = 77, 78, r.Bits|Head }), is(mapping, remote(8), func(r *Record) { r.Next = 1 })}, []Handle{1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Sessions: 8, Quarantined: 3}
			kept := bytesOf(make([]uint64, KeptSize(cfg)/8))
			table, err := Open(cfg, kept)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.recs {
				if !table.Deposit(&c.recs[i], nil) {
					t.Fatal("no room")
				}
			}
			table.Epoch, table.Timeouts = 3, slices.Repeat([]uint32{1000}, int(NumStates))
			table.Agrees = func(r *Record) bool { r.Epoch = 3; return true }
			dropped := table.Rebuild(600, func(r *Record) bool { return r.Attachment != 99 })
			var left []Handle
			for h := Handle(1); int(h) <= table.Cap(); h++ {
				if table.Rec(h).State != Free {
					left = append(left, h)
				}
			}
			displaced := int(table.Stats().Displaced)
			if !slices.Equal(left, c.want) || dropped+displaced != len(c.recs)-len(c.want) || table.Used() != len(left) {
				t.Errorf("%v left, %d dropped, %d displaced, %d used; want %v", left, dropped, displaced, table.Used(), c.want)
			}
			if err := table.Check(600); err != nil {
				t.Error(err)
			}
			for _, h := range left {
				r := table.Rec(h)
				if r.State == UDPOpening && r.Has(Replied) {
					t.Errorf("%d was answered, and is %v", h, r.State)
				}
				if r.State == Opening && (r.known(In) || r.acked(In) || !r.known(Out) || r.Win != [2]uint8{3, 0} || r.End[Out] != 1) {
					t.Errorf("%d knows of a direction that nothing came from: %+v", h, r)
				}
			}
			// And it is a Table like others.
			for i := uint32(0); table.Used() < table.Cap(); i++ {
				table.Add(&Record{In: 100 + i, Ext: 100 + i, Rem: 1, Proto: udp, State: UDP, LastSeen: 600, Epoch: 3})
			}
			table.Advance(5000, 100)
			if err := table.Check(5000); err != nil || table.Used() != 0 {
				t.Errorf("%d used: %v", table.Used(), err)
			}
		})
	}
}

// TestRebuildTwice: an interrupted rebuild can be repeated, and one that found all in order changes nothing.
func TestRebuildTwice(t *testing.T) {
	cfg := Config{Sessions: 8}
	kept := bytesOf(make([]uint64, KeptSize(cfg)/8))
	table, err := New(cfg, kept)
	if err != nil {
		t.Fatal(err)
	}
	table.Timeouts = slices.Repeat([]uint32{1000}, int(NumStates))
	for i := range uint32(3) {
		h := table.Add(&Record{In: i, Ext: 9, ExtPort: uint16(i), Rem: 7, Proto: udp, State: UDPOpening, LastSeen: i, Bits: Independent})
		if i == 1 {
			table.Answered(h)
		}
	}
	table.Recycle(5)
	var was []byte
	for i := range 3 {
		next, err := Open(cfg, kept)
		if err != nil {
			t.Fatal(err)
		}
		next.Timeouts = table.Timeouts
		if n := next.Rebuild(5, func(*Record) bool { return true }); n != 0 {
			t.Errorf("%d dropped", n)
		}
		if err := next.Check(5); err != nil {
			t.Error(err)
		}
		if i > 0 && !slices.Equal(kept, was) {
			t.Error("the second time it is another")
		}
		was = slices.Clone(kept)
	}
}

// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// filled is a Table with n overlapping TCP sessions from 2^12 hosts, at a load of one, and their inside tuples.
func filled(b *testing.B, n int) (*Table, []Record) {
	table, err := New(Config{Sessions: n, Key: [2]uint64{1, 2}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	table.Timeouts = tcpTimeouts()
	recs := make([]Record, n)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range recs {
		recs[i] = Record{
			In: 10<<24 + uint32(i)%4096, InPort: uint16(1024 + i/4096), Rem: 203<<24 + r.Uint32N(1<<16), RemPort: 443,
			Ext: 198<<24 + uint32(i)/60000, ExtPort: uint16(1024 + i%60000), Proto: tcp, State: Opening,
		}
		table.Add(&recs[i])
	}
	r.Shuffle(n, func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	b.ResetTimer()
	return table, recs
}

var sessionCounts = []int{1 << 10, 1 << 16, 1 << 20}

func bySessions(b *testing.B, f func(b *testing.B, n int)) {
	for _, n := range sessionCounts {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) { f(b, n) })
	}
}

func BenchmarkFindOutHit(b *testing.B) {
	bySessions(b, func(b *testing.B, n int) {
		table, recs := filled(b, n)
		for i := range b.N {
			r := &recs[i&(n-1)]
			ports := uint32(r.InPort)<<16 | uint32(r.RemPort)
			if table.FindOut(table.OutTag(r.In, r.Rem, ports, r.Proto), r.In, r.Rem, ports, r.Proto) == None {
				b.Fatal("a miss")
			}
		}
	})
}

func BenchmarkFindInHit(b *testing.B) {
	bySessions(b, func(b *testing.B, n int) {
		table, recs := filled(b, n)
		for i := range b.N {
			r := &recs[i&(n-1)]
			if h, _ := table.FindIn(table.inTag(r), r.Ext, r.Rem, r.ExtPort, r.RemPort, r.Proto); h == None {
				b.Fatal("a miss")
			}
		}
	})
}

func BenchmarkFindOutMiss(b *testing.B) {
	bySessions(b, func(b *testing.B, n int) {
		table, recs := filled(b, n)
		for i := range b.N {
			r := &recs[i&(n-1)]
			ports := uint32(r.InPort)<<16 | 80
			if table.FindOut(table.OutTag(r.In, r.Rem, ports, r.Proto), r.In, r.Rem, ports, r.Proto) != None {
				b.Fatal("a hit")
			}
		}
	})
}

// BenchmarkRemoveAdd replaces the oldest session of a full Table.
func BenchmarkRemoveAdd(b *testing.B) {
	bySessions(b, func(b *testing.B, n int) {
		table, _ := filled(b, n)
		r := Record{In: 11 << 24, Rem: 1, Ext: 1, RemPort: 443, Proto: tcp, State: Opening}
		for range b.N {
			table.Recycle(0)
			r.In++
			r.Ext++
			table.Add(&r)
		}
	})
}

func BenchmarkTrackTCP(b *testing.B) {
	table, _ := filled(b, 1024)
	s := [2]Segment{
		{Seq: 1, Flags: flagSYN, Window: 65535, Scale: 7},
		{Seq: 1, Ack: 2, Flags: flagSYN | flagACK, Window: 65535, Scale: 7},
	}
	var r Record
	r.Proto = tcp
	r.StartTCP(Out, &s[Out])
	table.Recycle(0)
	h := table.Add(&r)
	table.TrackTCP(h, In, &s[In], 0)
	s = [2]Segment{{Seq: 2, Ack: 2, Flags: flagACK, Window: 500}, {Seq: 2, Ack: 2, Flags: flagACK, Window: 500, Len: 1448}}
	for i := range b.N {
		d := Dir(i & 1)
		table.TrackTCP(h, d, &s[d], uint32(i))
		if d == In {
			s[In].Seq += 1448
		} else {
			s[Out].Ack = s[In].Seq
		}
	}
	if table.Rec(h).State != Established {
		b.Fatal(table.Rec(h).State)
	}
}

// BenchmarkAdvance is a step of 1024 records, while a million sessions end that were all made at the same time: in the
// one tick, the worst case, or within a minute.
func BenchmarkAdvance(b *testing.B) {
	const n, budget = 1 << 20, 1024
	for _, spread := range []uint32{1, 60_000} {
		b.Run(fmt.Sprintf("sessions=%d/budget=%d/ticks=%d", n, budget, spread), func(b *testing.B) {
			table, err := New(Config{Sessions: n, Key: [2]uint64{1, 2}}, nil)
			if err != nil {
				b.Fatal(err)
			}
			table.Timeouts = tcpTimeouts()
			now := uint32(0)
			for b.Loop() {
				if table.Used() == 0 {
					b.StopTimer()
					for i := range uint32(n) {
						table.Add(&Record{In: i, Rem: i, Ext: i, Proto: tcp, State: Opening, LastSeen: now + i%spread})
					}
					now += 240_000 + spread
					b.StartTimer()
				}
				table.Advance(now, budget)
			}
		})
	}
}

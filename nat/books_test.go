// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

func booksEngine(t *testing.T, name string) (*Engine, *Worker, *Policy) {
	t.Helper()
	f := AWSProfile()
	f.PortMin, f.PortMax, f.PortsPerDestination = 1024, 4095, 0
	p := &Policy{
		Inside: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Routes: []Route{{Source: netip.MustParsePrefix("10.0.0.0/16"), Pool: name}},
		Pools:  []Pool{{Name: name, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Profile: f}},
	}
	e, err := New(Config{Sessions: 2000, Seed: 1, FlowCounters: true}, p)
	if err != nil {
		t.Fatal(err)
	}
	return e, e.Worker(), p
}

func sendUDP(w *Worker, port uint16, now time.Duration) Verdict {
	src, dst := netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("203.0.113.9")
	q := packet.From(craft.UDP(craft.IP{Src: src, Dst: dst}, port, 80, nil))
	return w.Translate(&q, FromInside, now)
}

// TestPoolStatsMissesNothing: sessions that end while PoolStats is half through its records are counted once, before where it
// is and behind.
func TestPoolStatsMissesNothing(t *testing.T) {
	e, w, _ := booksEngine(t, "pool")
	const all = 1500
	for i := range all {
		if v := sendUDP(w, uint16(1000+i), time.Duration(i)*time.Millisecond); v != Outbound {
			t.Fatal(v)
		}
	}
	sh := &e.shards[0]
	for _, at := range []time.Duration{0, 350 * time.Second, 350*time.Second + 200*time.Millisecond, 351 * time.Second} {
		sums := make([]PoolStats, len(e.pol.pools))
		next := e.addUp(sh, 1, uint64(e.kept.clock.Load()), sums)
		if next != poolsAtOnce+1 {
			t.Fatal("it has added up to ", next)
		}
		before := sh.t.Used()
		w.Tick(at + 1) // those that were made first are the first records
		w.Tick(at + 1)
		for next != conntrack.None {
			next = e.addUp(sh, next, e.kept.clock.Load(), sums)
		}
		if got := sums[1].Sent[Out].Packets; got != all {
			t.Errorf("%v: %d packets of %d, while %d sessions ended", at, got, all, before-sh.t.Used())
		}
	}
	if sh.t.Used() > all-2*poolsAtOnce+400 {
		t.Errorf("%d sessions are left", sh.t.Used())
	}
}

// TestPoolCountersWrap: a session counts 32 bits of packets, its pool 64.
func TestPoolCountersWrap(t *testing.T) {
	e, w, _ := booksEngine(t, "pool")
	sendUDP(w, 1000, 0)
	for s := range e.Sessions(0) { // it is answered, as those are that batches pass
		q := packet.From(craft.UDP(craft.IP{Src: s.Remote.Addr(), Dst: s.External.Addr()}, s.Remote.Port(), s.External.Port(), nil))
		if v := w.Translate(&q, FromOutside, 0); v != Inbound {
			t.Fatal(v)
		}
	}
	sh := &e.shards[0]
	sh.t.Count(1).Packets[Out] = 1<<32 - 2
	for i, want := range []uint64{1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<32 + 2} {
		if v := sendUDP(w, 1000, 0); v != Outbound {
			t.Fatal(v)
		}
		if i == 2 { // the other place that counts
			src, dst := netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("203.0.113.9")
			ps := []packet.Packet{packet.From(craft.UDP(craft.IP{Src: src, Dst: dst}, 1000, 80, nil))}
			sh.t.Count(1).Packets[Out], sh.books.pools[1] = 1<<32-1, PoolCounters{}
			w.Batch(ps, FromInside, 0, make([]Verdict, 1))
			want = 1 << 32
		} else if i == 3 {
			want = 1<<32 + 1
		}
		if got := e.PoolStats(0)[0].Sent[Out].Packets; got != want {
			t.Errorf("%d packets, want %d", got, want)
		}
	}
}

// TestPoolCountersOfAnotherPool: the sessions of a pool that is gone leave nothing to the one that has its number.
func TestPoolCountersOfAnotherPool(t *testing.T) {
	e, w, p := booksEngine(t, "old")
	sendUDP(w, 1000, 0)
	q := *p
	q.Pools = []Pool{{Name: "new", Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.2")}}}
	q.Routes = []Route{{Source: p.Routes[0].Source, Pool: "new"}}
	if _, err := e.Apply(&q, 0); err != nil {
		t.Fatal(err)
	}
	if e.numbers["new"] != 1 {
		t.Fatal("it has a number of its own")
	}
	if got := e.PoolStats(0)[0]; got.PoolCounters != (PoolCounters{}) {
		t.Errorf("%+v", got)
	}
}

// TestPoolCountersAllocateNothing: not for packets that pass, nor for those that are dropped.
func TestPoolCountersAllocateNothing(t *testing.T) {
	_, w, p := booksEngine(t, "pool")
	pass := craft.UDP(craft.IP{Src: netip.MustParseAddr("10.0.1.10"), Dst: netip.MustParseAddr("203.0.113.9")}, 1000, 80, nil)
	drop := craft.UDP(craft.IP{Src: netip.MustParseAddr("203.0.113.9"), Dst: p.Pools[0].Addresses[0]}, 80, 999, nil)
	q := packet.From(make([]byte, 64))
	send := func(b []byte, from AttachmentID) Verdict {
		q.Len = copy(q.Buf[q.Off:], b)
		return w.Translate(&q, from, 0)
	}
	send(pass, FromInside)
	if n := testing.AllocsPerRun(100, func() {
		if a, b := send(pass, FromInside), send(drop, FromOutside); a != Outbound || b != DropNoMapping {
			t.Fatal(a, b)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

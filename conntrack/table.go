// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"fmt"
	"math/bits"
)

// MaxSessions is the largest Config.Sessions: the indexes keep Handles of 28 bits.
const MaxSessions = 1<<28 - 1

// Config sizes a Table.
type Config struct {
	// Sessions is the number of records, 1 to MaxSessions.
	Sessions int
	// Quarantined bounds the ports that wait; one more ends the wait of the first. 0 is no bound but that of the records.
	Quarantined int
	// Counts adds a Count for each record.
	Counts bool
	// Key makes the hashes unpredictable (B-41). Tables with equal keys behave alike.
	Key [2]uint64
}

// Table is the sessions of one shard, made by New. It is not safe for concurrent use.
//
// Its books, and what each is the only one for: recs, what a session is; out, in, ends and exts, how it is found;
// the lists in the records, which sessions share a mapping, which never saw an answer and which ports wait; the wheel,
// when a record has to be looked at. All but records, counts and stats can be made anew from the records (Rebuild); Check
// compares them.
type Table struct {
	recs []Record
	// out and in are keyed by what does not change with the direction's sender: out by the whole inside tuple; in by
	// external endpoint and remote address, without the remote port, so that the sessions of a mapping to one remote
	// address share a key, and address-dependent filtering is a lookup. Only the Head of those is in it.
	out, in index
	// ends and exts name the first session of a mapping, by inside endpoint and pool, and by external endpoint.
	ends, exts index
	counts     []Count
	wheel      wheel
	stats      *Stats

	free       freeSet
	used       int // records in use, tombstones too
	quarantine list
	unanswered list
	mappings   int
	key        [2]uint64

	// Epoch is the current policy. A record of another one is shown to Agrees before anybody relies on it.
	Epoch uint32
	// Agrees says whether the session may go on under the current policy; if so it sets the record's Epoch.
	// That of New says no.
	Agrees func(*Record) bool
	// Timeouts has NumStates ticks for each pool, each less than 2^30, that of UDPOpening no more than that of UDP. Where
	// one gets shorter, Reconsider must follow, or Advance is late (Alive is not). Those of New are zeros for pool 0: until
	// its owner has set them, what is added is dead at once.
	Timeouts []uint32
	// Released, if set, is told of each session that ends, before its record is gone; with last, its external endpoint
	// is free again (a mapping that is put into quarantine says so when that is over, as a record in that State).
	Released func(r *Record, last bool)
	// Ended, if set, is told of each session that ends, before Released and with its record and Count still whole: why, and
	// at which tick it died, which may be long before anybody noticed.
	Ended func(h Handle, r *Record, why Reason, at uint32)

	maxQuarantined int
	touched        uint64
}

// Stats counts what happened to sessions.
type Stats struct {
	Created, Expired, Recycled, Cut uint64
	// Displaced counts ports whose quarantine ended early since too many waited.
	Displaced uint64
	_         [3]uint64
}

// Reason is why a session ended.
type Reason uint8

const (
	// TimedOut: nothing refreshed it in time.
	TimedOut Reason = iota + 1
	// GaveWay: its record was wanted, and it had never seen an answer.
	GaveWay
	// Disagreed: the policy would not make it any more.
	Disagreed
)

// list is a queue of records through their unused tracking words, oldest first.
type list struct {
	first, last Handle
	n           int
}

// KeptSize is how many bytes New wants for c, a multiple of 8: for what outlives a Table.
func KeptSize(c Config) int {
	n := c.Sessions + 1
	size := 64 + 64*n
	if c.Counts {
		size += 24 * n
	}
	return size
}

// Size is how many bytes a Table takes in all, with those that are on the heap in any case.
func Size(c Config) int {
	return KeptSize(c) + 4*64*bucketsFor(c.Sessions) + 8*(c.Sessions+1) + 8*freeWords(c.Sessions+1)
}

// New makes an empty Table. Its records are in kept, of at least KeptSize(c) bytes and aligned to 8, which is cleared
// and the Table's from then on; a nil kept is taken from the heap, as all the rest is.
func New(c Config, kept []byte) (*Table, error) {
	fresh := kept == nil
	if fresh && c.Sessions >= 1 && c.Sessions <= MaxSessions {
		kept = bytesOf(make([]uint64, KeptSize(c)/8))
	}
	t, err := Open(c, kept)
	if err != nil {
		return nil, err
	}
	if !fresh {
		clear(kept[:KeptSize(c)])
	}
	t.index()
	for h := 1; h <= c.Sessions; h++ {
		t.free.put(Handle(h))
	}
	return t, nil
}

// Open makes a Table of the records that one of the same Config has left in kept. It can be asked for Rec, Count, Cap and
// Stats, and nothing else before Rebuild. What the records say is not to be trusted until then.
func Open(c Config, kept []byte) (*Table, error) {
	if c.Sessions < 1 || c.Sessions > MaxSessions {
		return nil, fmt.Errorf("conntrack: %d sessions: must be 1 to %d", c.Sessions, MaxSessions)
	}
	if len(kept) < KeptSize(c) || !aligned(kept) {
		return nil, errors.New("conntrack: memory is too small or not aligned to 8 bytes")
	}
	// Random words: with a key of zeros, products of small numbers would never reach the upper half.
	t := &Table{
		key:      [2]uint64{c.Key[0] ^ 0x8d1a6c0f5b3e9472, c.Key[1] ^ 0x37c94ed20a6bf185},
		Timeouts: make([]uint32, NumStates),
		Agrees:   func(*Record) bool { return false },

		maxQuarantined: c.Quarantined,
	}
	if c.Quarantined == 0 {
		t.maxQuarantined = c.Sessions
	}
	var head []Stats
	head, kept = carve[Stats](kept, 1)
	t.stats = &head[0]
	t.recs, kept = carve[Record](kept, c.Sessions+1)
	if c.Counts {
		t.counts, _ = carve[Count](kept, c.Sessions+1)
	}
	return t, nil
}

// index takes the memory for what can be rebuilt, in one piece.
func (t *Table) index() {
	n := len(t.recs)
	buckets := bucketsFor(n - 1)
	mem := bytesOf(make([]uint64, 4*8*buckets+n+freeWords(n))) // what is large begins with a page
	t.out, mem = carve[bucket](mem, buckets)
	t.in, mem = carve[bucket](mem, buckets)
	t.ends, mem = carve[bucket](mem, buckets)
	t.exts, mem = carve[bucket](mem, buckets)
	t.wheel.links, mem = carve[link](mem, n)
	t.free, _ = carveFree(mem, n)
}

// Rec is the record of h. Callers may change LastSeen (to later ticks), Attachment, and what the functions of this
// package that take a Record change; all else is bound up with the indexes.
func (t *Table) Rec(h Handle) *Record { return &t.recs[h] }

// Count is the counter of h, nil without Config.Counts.
func (t *Table) Count(h Handle) *Count {
	if t.counts == nil {
		return nil
	}
	return &t.counts[h]
}

// Cap is the number of records, Used how many are taken, by tombstones too.
func (t *Table) Cap() int  { return len(t.recs) - 1 }
func (t *Table) Used() int { return t.used }

// Mappings is the number of endpoint-independent mappings, Quarantined that of the ports which wait.
func (t *Table) Mappings() int    { return t.mappings }
func (t *Table) Quarantined() int { return t.quarantine.n }

// Stats is a copy of the counters.
func (t *Table) Stats() Stats { return *t.stats }

// SetStats sets the counters, for a Table that goes on where another one was.
func (t *Table) SetStats(s Stats) { *t.stats = s }

// Hashes. One multiplication of two keyed words, folded (the core of wyhash); the fixed word keeps the indexes apart.

func (t *Table) mix(a, b uint64) uint32 {
	hi, lo := bits.Mul64(a^t.key[0], b^t.key[1])
	x := hi ^ lo
	return uint32(x>>32) ^ uint32(x)
}

// OutTag is the hash of an inside tuple; ports is the inside port << 16 | the remote one.
func (t *Table) OutTag(in, rem, ports uint32, proto uint8) uint32 {
	return t.mix(uint64(in)<<32|uint64(rem), uint64(ports)<<8|uint64(proto))
}

// InTag is the hash of an external endpoint and a remote address.
func (t *Table) InTag(ext, rem uint32, extPort uint16, proto uint8) uint32 {
	return t.mix(uint64(rem)<<32|uint64(ext), uint64(extPort)<<8|uint64(proto)|1<<40)
}

// The staged lookup of a batch: tags, lookup, verify. What a lookup returns keeps its loads; the caller has to keep that.

// LookupOut sets hs to the first candidates for tags of OutTag, None where there is none, and loads their records and
// counts; all at a time, so that cache misses overlap. hs is as long as tags.
func (t *Table) LookupOut(tags []uint32, hs []Handle) uint64 { return t.lookup(t.out, tags, hs) }

// LookupIn is LookupOut for tags of InTag, LookupMapping for those of MappingTag, LookupHolder for those of HolderTag.
func (t *Table) LookupIn(tags []uint32, hs []Handle) uint64      { return t.lookup(t.in, tags, hs) }
func (t *Table) LookupMapping(tags []uint32, hs []Handle) uint64 { return t.lookup(t.ends, tags, hs) }
func (t *Table) LookupHolder(tags []uint32, hs []Handle) uint64  { return t.lookup(t.exts, tags, hs) }

func (t *Table) lookup(x index, tags []uint32, hs []Handle) uint64 {
	touched := x.lookup(tags, hs)
	for _, h := range hs {
		touched += uint64(t.recs[h].Proto)
	}
	if t.counts != nil {
		for _, h := range hs {
			touched += uint64(t.counts[h].Packets[0])
		}
	}
	return touched
}

// CandidateOut is the first candidate for one tag of OutTag, CandidateIn for one of InTag.
func (t *Table) CandidateOut(tag uint32) Handle { _, h := t.out.first(tag); return h }
func (t *Table) CandidateIn(tag uint32) Handle  { _, h := t.in.first(tag); return h }

// TouchIn loads the line where a lookup of a tag of InTag will start.
func (t *Table) TouchIn(tag uint32) uint64 { return t.in.touch(tag) }

// FindOut returns the session of an inside tuple, dead or alive.
func (t *Table) FindOut(tag, in, rem, ports uint32, proto uint8) Handle {
	pos, h := t.out.first(tag)
	for h != None && !t.recs[h].OwnsOut(in, rem, ports, proto) {
		pos, h = t.out.next(tag, pos+1)
	}
	return h
}

// FindIn returns the session of an external tuple, dead or alive, and one of its mapping to the same remote address.
func (t *Table) FindIn(tag, ext, rem uint32, extPort, remPort uint16, proto uint8) (h, group Handle) {
	pos, h := t.in.first(tag)
	for h != None {
		r := &t.recs[h]
		if r.Ext == ext && r.Rem == rem && r.ExtPort == extPort && r.Proto == proto {
			if r.RemPort == remPort {
				return h, h
			}
			if r.Bits&Independent != 0 {
				// The mapping has one inside endpoint, so the session is where that one's packets would find it.
				ports := uint32(r.InPort)<<16 | uint32(remPort)
				m := t.FindOut(t.OutTag(r.In, rem, ports, proto), r.In, rem, ports, proto)
				if m != None && (t.recs[m].Ext != ext || t.recs[m].ExtPort != extPort) {
					m = None
				}
				return m, h
			}
		}
		pos, h = t.in.next(tag, pos+1)
	}
	return None, None
}

// MappingTag is the hash of an inside endpoint in a pool, HolderTag that of an external endpoint, for what Mapping and Holder
// look for.
func (t *Table) MappingTag(in uint32, inPort, pool uint16, proto uint8) uint32 {
	return t.mix(uint64(in)<<32|uint64(pool), uint64(inPort)<<8|uint64(proto)|2<<40)
}

func (t *Table) HolderTag(ext uint32, extPort uint16, proto uint8) uint32 {
	return t.mix(uint64(ext), uint64(extPort)<<8|uint64(proto)|3<<40)
}

// OwnsOut verifies the whole inside tuple.
func (r *Record) OwnsOut(in, rem, ports uint32, proto uint8) bool {
	return r.In == in && r.Rem == rem && uint32(r.InPort)<<16|uint32(r.RemPort) == ports && r.Proto == proto
}

// OwnsIn verifies the whole external tuple; ports is the remote port << 16 | the external one.
func (r *Record) OwnsIn(rem, ext, ports uint32, proto uint8) bool {
	return r.Rem == rem && r.Ext == ext && uint32(r.RemPort)<<16|uint32(r.ExtPort) == ports && r.Proto == proto
}

// Timeout is how many ticks r lives from LastSeen on.
func (t *Table) Timeout(r *Record) uint32 {
	return t.Timeouts[int(r.Pool)*int(NumStates)+int(r.State)]
}

// slack is by how many ticks time may seem to go back, 4.6 hours: callers with clocks of their own take turns.
const slack = 1 << 24

// expired reports whether r has timed out. One that was last seen after now has not.
func (t *Table) expired(r *Record, now uint32) bool {
	return now-r.LastSeen+slack >= t.Timeout(r)+slack
}

// Alive is the one predicate for whether a session exists: it has not timed out and agrees with the policy.
func (t *Table) Alive(r *Record, now uint32) bool {
	return !t.expired(r, now) && (r.Epoch == t.Epoch || t.Agrees(r))
}

// Live returns h if it is alive; a dead one is removed, and None returned.
func (t *Table) Live(h Handle, now uint32) Handle {
	if h != None && !t.Alive(&t.recs[h], now) {
		t.End(h, now)
		return None
	}
	return h
}

// Mapping returns a live session of the endpoint-independent mapping of an inside endpoint in a pool: of the newest, if
// there are several, because the caller did not like the external endpoint of an older one any more.
func (t *Table) Mapping(in uint32, inPort, pool uint16, proto uint8, now uint32) Handle {
	tag := t.MappingTag(in, inPort, pool, proto)
	for {
		pos, h := t.ends.first(tag)
		for h != None && !t.recs[h].ownsEnd(in, inPort, pool, proto) {
			pos, h = t.ends.next(tag, pos+1)
		}
		// Each dead session met on the way is removed for good, so this is constant time in the long run.
		if h == None || t.Live(h, now) != None {
			return h
		}
	}
}

func (r *Record) ownsEnd(in uint32, inPort, pool uint16, proto uint8) bool {
	return r.In == in && r.InPort == inPort && r.Pool == pool && r.Proto == proto
}

// Holder returns who has an external endpoint: a live session of an endpoint-independent mapping, or a tombstone whose
// quarantine is not over.
func (t *Table) Holder(ext uint32, extPort uint16, proto uint8, now uint32) Handle {
	tag := t.HolderTag(ext, extPort, proto)
	for {
		pos, h := t.exts.first(tag)
		for h != None && !t.recs[h].ownsExt(ext, extPort, proto) {
			pos, h = t.exts.next(tag, pos+1)
		}
		switch {
		case h == None:
			return None
		case t.recs[h].State != Quarantined:
			if t.Live(h, now) != None {
				return h
			}
		case !t.expired(&t.recs[h], now):
			return h
		default:
			t.bury(h)
		}
	}
}

func (r *Record) ownsExt(ext uint32, extPort uint16, proto uint8) bool {
	return r.Ext == ext && r.ExtPort == extPort && r.Proto == proto
}

// Talks reports whether the mapping that holds an external endpoint has a live session to a remote address.
func (t *Table) Talks(ext, rem uint32, extPort uint16, proto uint8, now uint32) bool {
	tag := t.InTag(ext, rem, extPort, proto)
	for {
		pos, h := t.in.first(tag)
		for h != None {
			r := &t.recs[h]
			if r.Ext == ext && r.Rem == rem && r.ExtPort == extPort && r.Proto == proto && r.Bits&Independent != 0 {
				break
			}
			pos, h = t.in.next(tag, pos+1)
		}
		if h == None {
			return false
		}
		if t.Live(h, now) != None {
			return true
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"

	"github.com/tidegate/tidegate/conntrack"
)

// What Adopt finds wrong with records (errors.Is).
var (
	// ErrNotRecords: the memory is not an engine's, or formatting it was never finished.
	ErrNotRecords = errors.New("not the records of an engine")
	// ErrRecordsVersion: they are of a version of this package that writes others.
	ErrRecordsVersion = errors.New("records of another version")
	// ErrRecordsLayout: there is less memory than the records say, or they cannot go on where they are with this Config.
	ErrRecordsLayout = errors.New("records of another layout")
	// ErrRecordsDamaged: they contradict themselves.
	ErrRecordsDamaged = errors.New("damaged records")
)

const (
	recordsMagic = 0x6574_6167_6564_6974 // "tidegate" in memory, with the byte order of the usual machines
	// recordsVersion is that of kept. Whoever changes what is in it, or what the engine writes into a conntrack.Record,
	// gives another one.
	recordsVersion = 2

	// keptPools is up to which number the names of pools outlive the engine.
	keptPools = 1024
	// keptWorkers is how many workers have counters of their own.
	keptWorkers = 64
)

// RecordsSize is how many bytes Config.Records needs, 0 for a Config that New refuses.
func (c Config) RecordsSize() int {
	c = c.withDefaults()
	if len(c.sizeFaults()) > 0 {
		return 0
	}
	return keptBytes + c.Shards*c.shardBytes()
}

// table is the Config of each shard's table.
func (c *Config) table() conntrack.Config {
	return conntrack.Config{
		Sessions:    (c.Sessions + c.Shards - 1) / c.Shards,
		Quarantined: (c.QuarantinedPorts + c.Shards - 1) / c.Shards, Counts: c.FlowCounters,
	}
}

// shardBytes is what the records of a shard take, in whole cache lines.
func (c *Config) shardBytes() int { return (conntrack.KeptSize(c.table()) + 63) &^ 63 }

// shardRecords is the part of a shard in records with the layout of c.
func (c *Config) shardRecords(mem []byte, i int) []byte {
	n := c.shardBytes()
	return mem[keptBytes+i*n:][:n]
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// format makes mem empty records of the layout of c. They are nobody's until finish.
func (c *Config) format(mem []byte, seed [32]byte) *kept {
	k := keptIn(mem)
	k.head.commit(0)
	clear(mem[:c.RecordsSize()])
	t := c.table()
	k.head = keptHead{
		version: recordsVersion, format: conntrack.Format, size: uint64(c.RecordsSize()),
		sessions: uint64(t.Sessions), shards: uint32(c.Shards), seed: seed,
	}
	if c.FlowCounters {
		k.head.counts = 1
	}
	k.odd.verdicts.Store(verdictsID())
	return k
}

// finish says that the records are whole.
func (k *kept) finish() {
	h := k.head
	h.magic = recordsMagic
	k.head.sum = crc64.Checksum(h.summed(), crcTable)
	k.head.commit(recordsMagic)
}

// publish writes down what sessions refer to of a policy, before any session does.
func (k *kept) publish(generation uint32, p *policy, numbers map[string]int) {
	at, last := k.policy()
	next := &k.policies[1-at]
	next.sum = ^next.sum // whatever is written from here on is not whole
	crashPoint("publish")
	clear(next.pools[:])
	for name, n := range numbers {
		if n < keptPools {
			next.pools[n] = nameID(name)
		}
		crashPoint("publish")
	}
	next.generation, next.epoch, next.unbroken = generation, p.epoch, p.unbroken
	next.serial = 1
	if last != nil {
		next.serial = last.serial + 1
	}
	crashPoint("publish")
	next.sum = crc64.Checksum(next.summed(), crcTable)
	crashPoint("published")
}

// policy is the one that counts, and its place; nil if neither is whole.
func (k *kept) policy() (at int, p *keptPolicy) {
	for i := range k.policies {
		q := &k.policies[i]
		if q.serial != 0 && q.sum == crc64.Checksum(q.summed(), crcTable) && (p == nil || q.serial > p.serial) {
			at, p = i, q
		}
	}
	return at, p
}

// nameID stands for the name of a pool or a restriction in records: equal names have equal ones, and others by all
// likelihood not. It is never 0.
func nameID(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.LittleEndian.Uint64(sum[:]) | 1
}

// verdictsID tells whether two engines count the same verdicts under the same numbers.
func verdictsID() uint64 {
	names := ""
	for v := range NumVerdicts {
		names += Verdict(v).String() + "\n"
	}
	return nameID(names)
}

// left is what an engine has left behind.
type left struct {
	*kept
	cfg    Config // its sizes
	policy *keptPolicy
	tables []*conntrack.Table // opened, to be looked at
}

// readRecords looks whether mem is the records of an engine that these sources can read.
func readRecords(mem []byte) (*left, error) {
	if len(mem) < keptBytes {
		return nil, fmt.Errorf("nat: %d bytes: %w", len(mem), ErrNotRecords)
	}
	if !aligned(mem) {
		return nil, fmt.Errorf("nat: memory is not aligned to 8 bytes: %w", ErrRecordsLayout)
	}
	k := keptIn(mem)
	h := k.head
	switch {
	case h.magic != recordsMagic:
		return nil, fmt.Errorf("nat: they begin with %#x: %w", h.magic, ErrNotRecords)
	case h.version != recordsVersion || h.format != conntrack.Format:
		return nil, fmt.Errorf("nat: version %d.%d, and this is %d.%d: %w", h.version, h.format, recordsVersion, conntrack.Format, ErrRecordsVersion)
	case h.sum != crc64.Checksum(h.summed(), crcTable):
		return nil, fmt.Errorf("nat: the checksum of the header is wrong: %w", ErrRecordsDamaged)
	}
	l := &left{kept: k}
	if h.shards < 1 || h.shards > maxShards || h.sessions < 1 || h.sessions > conntrack.MaxSessions {
		return nil, fmt.Errorf("nat: %d shards of %d sessions: %w", h.shards, h.sessions, ErrRecordsDamaged)
	}
	l.cfg = Config{Sessions: int(h.sessions) * int(h.shards), Shards: int(h.shards), FlowCounters: h.counts == 1}
	if want := l.cfg.RecordsSize(); uint64(want) != h.size {
		return nil, fmt.Errorf("nat: %d bytes for %d sessions in %d shards, which are %d: %w", h.size, l.cfg.Sessions, h.shards, want, ErrRecordsDamaged)
	}
	if uint64(len(mem)) < h.size {
		return nil, fmt.Errorf("nat: cut off: %d bytes of %d: %w", len(mem), h.size, ErrRecordsLayout)
	}
	if _, l.policy = k.policy(); l.policy == nil {
		return nil, fmt.Errorf("nat: neither of the two policies is whole: %w", ErrRecordsDamaged)
	}
	for i := range l.cfg.Shards {
		t, err := conntrack.Open(l.cfg.table(), l.cfg.shardRecords(mem, i))
		if err != nil {
			return nil, err
		}
		l.tables = append(l.tables, t)
	}
	return l, nil
}

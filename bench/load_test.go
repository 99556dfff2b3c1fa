// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tidegate/tidegate/packet"
)

// The load is that of the frozen floor: flows are visited in random order, each direction in an order of its own, from
// a list of small keys; the packets stand in a hot ring of 256 cache lines, refilled whole with valid packets before
// each pass; "both" alternates the direction batch by batch.

const (
	ringSize  = 256
	batchSize = 64
	length    = 60 // IPv4 total length of all packets
)

var be = binary.BigEndian

// key is what makes a ring packet one of a flow.
type key struct {
	src, dst, ports uint32
	ipSum, l4Sum    uint16
}

func sumAt(proto uint8) int {
	if proto == packet.TCP {
		return 36
	}
	return 26
}

// blank makes a packet but for what a key holds.
func blank(p []byte, proto uint8) {
	clear(p)
	p[0], p[3], p[8], p[9] = 0x45, length, 64, proto
	if proto == packet.TCP {
		p[32], p[33] = 5<<4, packet.ACK
	} else {
		p[25] = length - 20
	}
}

func (k *key) put(p []byte, at int) {
	p[8] = 64
	be.PutUint32(p[4:], 0) // the engine gives packets without DF an identification
	be.PutUint16(p[10:], k.ipSum)
	be.PutUint32(p[12:], k.src)
	be.PutUint32(p[16:], k.dst)
	be.PutUint32(p[20:], k.ports)
	be.PutUint16(p[at:], k.l4Sum)
}

// sums recomputes both sums in full: 0xffff each for a valid packet.
func sums(p []byte) (ip, l4 uint16) {
	for i := 0; i < 20; i += 2 {
		ip = fold(uint32(ip) + uint32(be.Uint16(p[i:])))
	}
	l4 = uint16(p[9]) + length - 20
	for i := 12; i < length; i += 2 {
		l4 = fold(uint32(l4) + uint32(be.Uint16(p[i:])))
	}
	return ip, l4
}

func fold(x uint32) uint16 { return uint16(x>>16 + x) }

func (k *key) seal(p []byte) {
	k.ipSum, k.l4Sum = 0, 0
	k.put(p, sumAt(p[9]))
	ip, l4 := sums(p)
	if k.ipSum, k.l4Sum = ^ip, ^l4; k.l4Sum == 0 {
		k.l4Sum = 0xffff
	}
}

// outKeys are n outbound tuples in random order: hosts with 64 flows each, port 443 of many servers.
func outKeys(n int, proto uint8) []key {
	ks := make([]key, n)
	var p [64]byte
	blank(p[:], proto)
	for i := range ks {
		ks[i] = outKey(i)
		ks[i].seal(p[:])
	}
	rand.Shuffle(n, func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	return ks
}

// outKey is the tuple of flow i.
func outKey(i int) key {
	return key{src: 10<<24 + uint32(i>>6), dst: 93<<24 | uint32(i)*2654435761>>8, ports: uint32(1024+i%60000)<<16 | 443}
}

// ring is the packets of a pass, and the flows that they are filled from.
type ring struct {
	proto  uint8
	keys   [2][]key // by direction
	pos    [2]int
	buf    [ringSize][64]byte
	inside [ringSize]bool
}

func newRing(proto uint8) *ring {
	r := &ring{proto: proto}
	for i := range r.buf {
		blank(r.buf[i][:], proto)
	}
	return r
}

// setInbound makes the keys of the answers, in an order of their own.
func (r *ring) setInbound(ks []key) {
	var p [64]byte
	blank(p[:], r.proto)
	for i := range ks {
		ks[i].seal(p[:])
	}
	r.keys[1] = ks
	for _, ks := range r.keys { // neither is the order in which the sessions were made, which is that of their records
		rand.Shuffle(len(ks), func(i, j int) { ks[i], ks[j] = ks[j], ks[i] })
	}
}

func (r *ring) direct(dir string) {
	for i := range r.inside {
		switch dir {
		case "out":
			r.inside[i] = true
		case "in":
			r.inside[i] = false
		default:
			r.inside[i] = i/batchSize&1 == 0
		}
	}
}

func (r *ring) refill() {
	at := sumAt(r.proto)
	for i := range r.buf {
		d := 1
		if r.inside[i] {
			d = 0
		}
		ks, pos := r.keys[d], r.pos[d]
		ks[pos].put(r.buf[i][:], at)
		if pos++; pos == len(ks) {
			pos = 0
		}
		r.pos[d] = pos
	}
}

// valid recomputes the checksums of the last pass.
func (r *ring) valid(tb testing.TB) {
	for i := range r.buf {
		if ip, l4 := sums(r.buf[i][:]); ip != 0xffff || l4 != 0xffff {
			tb.Fatalf("checksum: %x", r.buf[i])
		}
	}
}

// pass times one pass over the ring and its refilling, in nanoseconds a packet.
func (r *ring) pass(n int, translate func(inside bool, i int, now time.Duration) int) (ns float64, done int) {
	start := time.Now()
	for range n {
		r.refill()
		for i := 0; i < ringSize; i += batchSize {
			done += translate(r.inside[i], i, benchNow)
		}
	}
	return float64(time.Since(start).Nanoseconds()) / float64(n*ringSize), done
}

// benchNow is the time of all packets of a benchmark: one read of a clock a batch is not what is measured.
const benchNow = time.Second

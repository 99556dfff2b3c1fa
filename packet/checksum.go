// SPDX-License-Identifier: Apache-2.0

package packet

import "encoding/binary"

var be = binary.BigEndian

// A Delta is what a change of some 16-bit words adds to a one's-complement sum: the folded sum of ~m + m' over all
// words m that become m' (RFC 1624, section 3). It is computed once for a flow and applied to each of its packets.
//
// A Delta is never zero: "no change" is 0xffff, the other zero of one's-complement arithmetic. That keeps Apply from
// ever producing the 0xffff that a full recomputation would write as 0x0000.
type Delta uint16

// NoDelta changes nothing.
const NoDelta Delta = 0xffff

// Delta16 is the change of one word.
func Delta16(from, to uint16) Delta { return foldDelta(uint32(^from) + uint32(to)) }

// Delta32 is the change of two words that are one 32-bit field, aligned to 16 bits.
func Delta32(from, to uint32) Delta {
	return foldDelta((^from>>16 + ^from&0xffff) + (to>>16 + to&0xffff))
}

// Plus is both changes together.
func (d Delta) Plus(e Delta) Delta { return foldDelta(uint32(d) + uint32(e)) }

// Reverse is the change back.
func (d Delta) Reverse() Delta {
	if d == 0xffff {
		return NoDelta
	}
	return ^d
}

func foldDelta(x uint32) Delta {
	x = x>>16 + x&0xffff
	x = x>>16 + x&0xffff
	if x == 0 {
		return NoDelta
	}
	return Delta(x)
}

// Apply is HC' = ~(~HC + ~m + m') of RFC 1624 for a complete checksum.
func (d Delta) Apply(sum uint16) uint16 {
	x := uint32(^sum) + uint32(d)
	return ^uint16(x + x>>16)
}

// ApplyUDP is Apply for the checksum of a UDP datagram. See Deltas.ApplyUDP.
func (d Delta) ApplyUDP(sum uint16) uint16 { return Deltas(d).ApplyUDP(sum) }

// ApplyPartial changes the pseudo-header sum of a CsumPartial packet, which is not complemented. Only changes of
// addresses apply: the ports are not part of that sum.
func (d Delta) ApplyPartial(sum uint16) uint16 {
	x := uint32(sum) + uint32(d)
	return uint16(x + x>>16)
}

// Sum adds the 16-bit words of b to sum, an odd last byte as the high half of a word. The result is not folded further
// than to fit 32 bits.
func Sum(b []byte, sum uint32) uint32 {
	x := uint64(sum)
	for len(b) >= 8 {
		v := be.Uint64(b)
		x += v>>32 + v&0xffffffff
		b = b[8:]
	}
	if len(b) >= 4 {
		x += uint64(be.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		x += uint64(be.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		x += uint64(b[0]) << 8
	}
	x = x>>32 + x&0xffffffff
	x = x>>32 + x&0xffffffff
	x = x>>16 + x&0xffff
	return uint32(x)
}

// Fold brings a sum to 16 bits with end-around carry.
func Fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}

// Checksum is the internet checksum of b (RFC 1071): 0 when b contains its own checksum and it is right.
func Checksum(b []byte) uint16 { return ^Fold(Sum(b, 0)) }

// PseudoIPv4 is the sum of the IPv4 pseudo-header (RFC 768, RFC 9293 section 3.1), to be passed to Sum.
func PseudoIPv4(src, dst uint32, proto uint8, length int) uint32 {
	return src>>16 + src&0xffff + dst>>16 + dst&0xffff + uint32(proto) + uint32(length)
}

// Deltas is the sum of up to 2^14 changes, not folded: for a checksum over several words that change at once. It starts as
// NoDeltas, which changes nothing and keeps the sum from ever being zero, as a Delta is.
type Deltas uint32

// NoDeltas is no change yet.
const NoDeltas Deltas = 0xffff

// Plus adds the change d, Minus the way back of it.
func (s Deltas) Plus(d Delta) Deltas  { return s + Deltas(d) }
func (s Deltas) Minus(d Delta) Deltas { return s + Deltas(^d) }

// Word adds the change of one word.
func (s Deltas) Word(from, to uint16) Deltas { return s + Deltas(^from) + Deltas(to) }

// Long adds the change of two words that are one 32-bit field, aligned to 16 bits.
func (s Deltas) Long(from, to uint32) Deltas {
	return s + Deltas(^from>>16) + Deltas(^from&0xffff) + Deltas(to>>16) + Deltas(to&0xffff)
}

// Delta is all of the changes as one.
func (s Deltas) Delta() Delta { return foldDelta(uint32(s)) }

// Apply is Delta.Apply with all of the changes.
func (s Deltas) Apply(sum uint16) uint16 {
	x := uint32(^sum) + uint32(s)
	x = x>>16 + x&0xffff
	return ^uint16(x + x>>16)
}

// ApplyUDP is Apply with the two rules of RFC 768: a checksum of 0 says that there is none and stays, and one that
// computes to 0 is sent as 0xffff. All UDP checksums of the module go through here or through Delta.ApplyPartial.
func (s Deltas) ApplyUDP(sum uint16) uint16 {
	if sum == 0 {
		return 0
	}
	if sum = s.Apply(sum); sum == 0 {
		return 0xffff
	}
	return sum
}

// SPDX-License-Identifier: Apache-2.0

package pcapng

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/bits"
)

// Block types.
const (
	blockInterface = 1
	blockPacket    = 2 // obsolete, but there are files
	blockSimple    = 3
	blockEnhanced  = 6
)

// Options of an interface.
const (
	optEnd     = 0
	optComment = 1
	optName    = 2
	optRes     = 9
	optOffset  = 14
)

// block reads one block, which may be a packet.
func (c *Reader) block(p *Packet) error {
	if err := c.begin(8); err != nil {
		return err
	}
	typ := c.order.Uint32(c.buf)
	if typ == magicSection { // the same in either order, which the next word tells
		if err := c.fill(4); err != nil {
			return err
		}
		switch uint32(magicOrder) {
		case binary.LittleEndian.Uint32(c.buf[8:]):
			c.order = binary.LittleEndian
		case binary.BigEndian.Uint32(c.buf[8:]):
			c.order = binary.BigEndian
		default:
			return c.fault(nil, "a section header without a byte order")
		}
	}
	total := c.order.Uint32(c.buf[4:])
	if total < 12 || total%4 != 0 {
		return c.fault(nil, "a block cannot be %d bytes long", total)
	}
	switch typ {
	case magicSection:
		return c.section(total)
	case blockInterface, blockPacket, blockSimple, blockEnhanced:
	default:
		return c.skip(total)
	}
	if total > maxBlock {
		return c.fault(nil, "a block of %d bytes, and %d are the most", total, maxBlock)
	}
	if err := c.fill(int(total) - 8); err != nil {
		return err
	}
	if again := c.order.Uint32(c.buf[total-4:]); again != total {
		return c.fault(nil, "a block is %d bytes long by its head, and %d by its end", total, again)
	}
	body := c.buf[8 : total-4]
	switch typ {
	case blockInterface:
		return c.addInterface(body)
	case blockSimple:
		return c.simple(p, body)
	}
	return c.enhanced(p, body, typ == blockPacket)
}

// skip reads the rest of a block of total bytes and looks at its end alone.
func (c *Reader) skip(total uint32) error {
	n, err := io.CopyN(io.Discard, c.r, int64(total)-4-int64(len(c.buf)))
	c.at += n
	if err := c.unreadable(err); err != nil {
		return err
	}
	at := len(c.buf)
	if err := c.fill(4); err != nil {
		return err
	}
	if again := c.order.Uint32(c.buf[at:]); again != total {
		return c.fault(nil, "a block is %d bytes long by its head, and %d by its end", total, again)
	}
	return errNoPacket
}

// section begins a section: the interfaces of the one before are forgotten.
func (c *Reader) section(total uint32) error {
	if total < 28 {
		return c.fault(nil, "a section header cannot be %d bytes long", total)
	}
	if err := c.fill(12); err != nil {
		return err
	}
	if major := c.order.Uint16(c.buf[12:]); major != 1 {
		return c.fault(nil, "version %d of pcapng is not known: want 1", major)
	}
	c.ifs = nil
	return c.skip(total)
}

func (c *Reader) addInterface(b []byte) error {
	if len(b) < 8 {
		return c.fault(nil, "an interface of %d bytes", len(b))
	}
	if len(c.ifs) == maxInterfaces {
		return c.fault(nil, "more than %d interfaces", maxInterfaces)
	}
	in := &Interface{Link: int(c.order.Uint16(b)), snap: c.order.Uint32(b[4:]), res: resolution{digits: 6}}
	for o := b[8:]; len(o) >= 4; {
		code, n := c.order.Uint16(o), int(c.order.Uint16(o[2:]))
		if code == optEnd {
			break
		}
		if 4+n > len(o) {
			return c.fault(nil, "an option of an interface runs out of its block")
		}
		v := o[4 : 4+n]
		switch {
		case code == optName:
			in.Name = string(v[:min(n, 255)])
		case code == optRes && n == 1:
			in.res = resolution{digits: v[0] & 0x7f, binary: v[0]&0x80 != 0}
		case code == optOffset && n == 8:
			in.offset = int64(c.order.Uint64(v))
		case code == optRes, code == optOffset:
			return c.fault(nil, "an option of an interface, about its time stamps, has %d bytes", n)
		}
		o = o[min(4+(n+3)&^3, len(o)):]
	}
	c.ifs = append(c.ifs, in)
	return errNoPacket
}

func (c *Reader) simple(p *Packet, b []byte) error {
	if len(c.ifs) == 0 {
		return c.fault(nil, "a packet before any interface")
	}
	if len(b) < 4 {
		return c.fault(nil, "a packet of %d bytes", len(b))
	}
	in, length := c.ifs[0], c.order.Uint32(b)
	have := length
	if in.snap != 0 {
		have = min(have, in.snap)
	}
	if int64(have) > int64(len(b)-4) {
		return c.fault(nil, "a packet of %d bytes in a block that has %d", have, len(b)-4)
	}
	return c.deliver(p, in, c.last, b[4:4+have], int(min(length, math.MaxInt32)))
}

// enhanced reads a packet block of today, or the one before it.
func (c *Reader) enhanced(p *Packet, b []byte, old bool) error {
	if len(b) < 20 {
		return c.fault(nil, "a packet block of %d bytes", len(b))
	}
	id := c.order.Uint32(b)
	if old {
		id = uint32(c.order.Uint16(b))
	}
	if int64(id) >= int64(len(c.ifs)) {
		return c.fault(nil, "it names interface %d, and there are %d", id, len(c.ifs))
	}
	in := c.ifs[id]
	stamp := uint64(c.order.Uint32(b[4:]))<<32 | uint64(c.order.Uint32(b[8:]))
	have, length := c.order.Uint32(b[12:]), c.order.Uint32(b[16:])
	if int64(have) > int64(len(b)-20) {
		return c.fault(nil, "a packet of %d bytes in a block that has %d", have, len(b)-20)
	}
	at, err := in.res.nanoseconds(stamp, in.offset)
	if err != nil {
		return c.fault(nil, "%v", err)
	}
	return c.deliver(p, in, at, b[20:20+have], int(min(length, math.MaxInt32)))
}

// resolution is what a unit of a time stamp is: 10^-digits of a second, or 2^-digits.
type resolution struct {
	digits uint8
	binary bool
}

var errTime = errors.New("its time stamp is before 1970 or after 2262")

// nanoseconds is the time of a stamp, to which offset, in seconds, is added.
func (r resolution) nanoseconds(stamp uint64, offset int64) (int64, error) {
	var hi, lo uint64 // nanoseconds, in 128 bits
	switch d := uint(r.digits); {
	case r.binary:
		hi, lo = bits.Mul64(stamp, 1e9)
		if d >= 64 {
			hi, lo, d = 0, hi, d-64
		}
		hi, lo = hi>>d, lo>>d|hi<<(64-d)
	case d <= 9:
		hi, lo = bits.Mul64(stamp, pow10(9-d))
	case d-9 <= 19:
		lo = stamp / pow10(d-9)
	}
	if hi != 0 || lo > math.MaxInt64 {
		return 0, errTime
	}
	const most = math.MaxInt64 / 1_000_000_000
	if offset > most || offset < -most {
		return 0, errTime
	}
	at := int64(lo) + offset*1e9
	if at < 0 { // by overflow, too: both terms fit, so a sum that does not is negative
		return 0, errTime
	}
	return at, nil
}

func pow10(n uint) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}

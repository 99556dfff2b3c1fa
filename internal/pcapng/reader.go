// SPDX-License-Identifier: Apache-2.0

package pcapng

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Packet is one packet of a capture.
type Packet struct {
	// Number counts the packets of the file from 1; Offset is where its block or record starts in the file, in bytes.
	Number int
	Offset int64
	// Interface is where it was captured.
	Interface *Interface
	// Time is nanoseconds since 1970, UTC. A simple packet block has no time: it gets that of the packet before.
	Time int64
	// Data is the captured bytes, the link layer's first. They may be changed, and are valid until the next call.
	Data []byte
	// Length is how long the packet was; with more than Data has it was cut by the snap length.
	Length int
}

// Interface is an interface of a capture.
type Interface struct {
	// Name is what if_name says; classic pcap has none.
	Name string
	// Link is the LINKTYPE_ number.
	Link int
	// snap is the snap length, 0 for none; res and offset are those of the time stamps.
	snap   uint32
	res    resolution
	offset int64
}

// Error is why a capture cannot be read on.
type Error struct {
	// Packet is the number of the packet that would have been next, Offset where its block or record starts in the file.
	Packet int
	Offset int64
	// Text says what is wrong there.
	Text string
	// Err is what the underlying reader said, or nil.
	Err error
}

// Error is a sentence with all of that.
func (e *Error) Error() string {
	return fmt.Sprintf("packet %d, at byte %d: %s", e.Packet, e.Offset, e.Text)
}

// Unwrap is Err.
func (e *Error) Unwrap() error { return e.Err }

const (
	// maxBlock bounds the blocks that are read as a whole: packets and interfaces. The largest link layers have packets
	// of 128 MiB (USB); those that carry IP stay below 256 KiB.
	maxBlock = 1 << 20
	// maxInterfaces bounds those of a section.
	maxInterfaces = 1 << 16
)

// Reader reads a capture of either format. It is not safe for concurrent use.
type Reader struct {
	r       *bufio.Reader
	order   binary.ByteOrder
	classic bool
	ifs     []*Interface // of the section
	buf     []byte       // the block
	at      int64        // bytes read
	start   int64        // where the block in hand starts
	packets int
	last    int64
}

// The first word of each format, as read in little-endian order.
const (
	magicSection = 0x0a0d0d0a
	magicOrder   = 0x1a2b3c4d
	magicMicro   = 0xa1b2c3d4
	magicNano    = 0xa1b23c4d
	magicGzip    = 0x8b1f
)

// NewReader reads the head of a capture. It reads ahead.
func NewReader(r io.Reader) (*Reader, error) {
	c := &Reader{r: bufio.NewReaderSize(r, 1<<16), order: binary.LittleEndian, buf: make([]byte, 0, 1<<12)}
	head, err := c.r.Peek(4)
	if err != nil {
		return nil, c.fault(err, "the file is no capture: it is empty, or nearly so")
	}
	switch magic := binary.LittleEndian.Uint32(head); {
	case magic == magicSection:
		return c, nil
	case magic == magicMicro, magic == magicNano:
		return c, c.openClassic(magic == magicNano)
	case magic&0xffff == magicGzip:
		return nil, c.fault(nil, "the file is compressed: unpack it with gunzip first")
	}
	c.order = binary.BigEndian
	switch magic := c.order.Uint32(head); magic {
	case magicMicro, magicNano:
		return c, c.openClassic(magic == magicNano)
	}
	return nil, c.fault(nil, "the file is no capture: neither pcapng nor pcap")
}

// Classic reports whether the file is a classic pcap, which knows one interface and no name for it.
func (c *Reader) Classic() bool { return c.classic }

// Next reads the next packet, and returns io.EOF after the last one. After an *Error there is no going on.
func (c *Reader) Next(p *Packet) error {
	if c.classic {
		return c.nextClassic(p)
	}
	for {
		if err := c.block(p); !errors.Is(err, errNoPacket) {
			return err
		}
	}
}

// errNoPacket is what a block that is none says.
var errNoPacket = errors.New("not a packet")

func (c *Reader) fault(err error, format string, args ...any) *Error {
	return &Error{Packet: c.packets + 1, Offset: c.start, Text: fmt.Sprintf(format, args...), Err: err}
}

// fill reads n more bytes of the block into buf.
func (c *Reader) fill(n int) error {
	old := len(c.buf)
	if cap(c.buf) < old+n {
		c.buf = append(make([]byte, 0, 2*(old+n)), c.buf...)
	}
	c.buf = c.buf[:old+n]
	got, err := io.ReadFull(c.r, c.buf[old:])
	c.at += int64(got)
	return c.unreadable(err)
}

func (c *Reader) unreadable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return c.fault(io.ErrUnexpectedEOF, "the file ends in the middle of it")
	}
	return c.fault(err, "%v", err)
}

// begin starts a block or record, whose first n bytes it reads. At the end of the file it is io.EOF.
func (c *Reader) begin(n int) error {
	c.start, c.buf = c.at, c.buf[:0]
	if _, err := c.r.Peek(1); errors.Is(err, io.EOF) {
		return io.EOF
	}
	return c.fill(n)
}

// deliver makes data the next packet.
func (c *Reader) deliver(p *Packet, in *Interface, at int64, data []byte, length int) error {
	c.packets++
	c.last = at
	*p = Packet{Number: c.packets, Offset: c.start, Interface: in, Time: at, Data: data, Length: max(length, len(data))}
	return nil
}

// openClassic reads the header of a classic pcap.
func (c *Reader) openClassic(nano bool) error {
	if err := c.begin(24); err != nil {
		return err
	}
	c.classic = true
	if major := c.order.Uint16(c.buf[4:]); major != 2 {
		return c.fault(nil, "version %d of pcap is not known: want 2", major)
	}
	res := resolution{digits: 6}
	if nano {
		res.digits = 9
	}
	c.ifs = []*Interface{{Link: int(c.order.Uint32(c.buf[20:]) & 0xffff), res: res}} // the upper bits are about the FCS
	return nil
}

func (c *Reader) nextClassic(p *Packet) error {
	if err := c.begin(16); err != nil {
		return err
	}
	in := c.ifs[0]
	unit := int64(1000)
	if in.res.digits == 9 {
		unit = 1
	}
	at := int64(c.order.Uint32(c.buf))*1e9 + int64(c.order.Uint32(c.buf[4:]))*unit
	have, length := c.order.Uint32(c.buf[8:]), c.order.Uint32(c.buf[12:])
	if have > maxBlock {
		return c.fault(nil, "it claims to have %d bytes, and %d are the most", have, maxBlock)
	}
	if err := c.fill(int(have)); err != nil {
		return err
	}
	return c.deliver(p, in, at, c.buf[16:], int(length))
}

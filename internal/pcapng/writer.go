// SPDX-License-Identifier: Apache-2.0

package pcapng

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Writer writes a pcapng file of bare IPv4 packets: little-endian, nanoseconds, nothing that tells where or when it was
// written. Its methods return the first error of the underlying writer, from then on. It is not safe for concurrent use.
type Writer struct {
	w   *bufio.Writer
	buf []byte
	ifs int
}

// NewWriter starts a file.
func NewWriter(w io.Writer) *Writer {
	c := &Writer{w: bufio.NewWriterSize(w, 1<<16)}
	c.start(magicSection)
	c.u32(magicOrder)
	c.u16(1, 0) // version
	c.u32(1<<32-1, 1<<32-1)
	_ = c.end() // kept by the bufio.Writer
	return c
}

// Interface adds an interface and returns its number. An empty comment is none.
func (c *Writer) Interface(name, comment string) (int, error) {
	c.start(blockInterface)
	c.u16(LinkIPv4, 0)
	c.u32(0) // no snap length
	c.option(optName, name)
	if comment != "" {
		c.option(optComment, comment)
	}
	c.option(optRes, "\x09")
	c.u32(optEnd)
	c.ifs++
	return c.ifs - 1, c.end()
}

// Packet writes an IPv4 packet of an interface; at is in nanoseconds since 1970.
func (c *Writer) Packet(in int, at int64, b []byte) error {
	c.start(blockEnhanced)
	c.u32(uint32(in), uint32(uint64(at)>>32), uint32(at), uint32(len(b)), uint32(len(b)))
	c.bytes(b)
	return c.end()
}

// Flush writes what is buffered, whole blocks all of it.
func (c *Writer) Flush() error { return c.w.Flush() }

func (c *Writer) start(typ uint32) {
	c.buf = c.buf[:0]
	c.u32(typ, 0)
}

func (c *Writer) u16(vs ...uint16) {
	for _, v := range vs {
		c.buf = binary.LittleEndian.AppendUint16(c.buf, v)
	}
}

func (c *Writer) u32(vs ...uint32) {
	for _, v := range vs {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, v)
	}
}

// bytes adds b and fills up to the next word.
func (c *Writer) bytes(b []byte) {
	c.buf = append(c.buf, b...)
	for len(c.buf)%4 != 0 {
		c.buf = append(c.buf, 0)
	}
}

func (c *Writer) option(code uint16, v string) {
	c.u16(code, uint16(len(v)))
	c.bytes([]byte(v))
}

// end sets both lengths and writes the block.
func (c *Writer) end() error {
	n := uint32(len(c.buf) + 4)
	c.u32(n)
	binary.LittleEndian.PutUint32(c.buf[4:], n)
	_, err := c.w.Write(c.buf)
	return err
}

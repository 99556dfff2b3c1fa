// SPDX-License-Identifier: Apache-2.0

// Package wirecheck judges a gateway from what it sends on the wire outside: no packet may have a source that is not
// external, show an inside address in what it quotes, or have a checksum that is wrong. It shares no code with the
// engine that it judges.
package wirecheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

var be = binary.BigEndian

// maxFindings bounds Report.Findings.
const maxFindings = 20

// Checker judges packets. It is not safe for concurrent use.
type Checker struct {
	// Allowed are the sources that may be seen, Inside the addresses that may not be seen anywhere.
	Allowed, Inside []netip.Prefix
	// Report is what was found so far.
	Report Report
}

// Report counts what was found.
type Report struct {
	// Packets is how many were judged, Fragments how many of them have no checksum of their own to judge.
	Packets, Fragments int
	// Leaks have an address that is not to be seen, BadSums a wrong checksum, Malformed contradict themselves.
	Leaks, BadSums, Malformed int
	// Findings describe the first of them.
	Findings []string
}

// Err is nil if nothing was found.
func (r *Report) Err() error {
	if r.Leaks+r.BadSums+r.Malformed == 0 {
		return nil
	}
	return fmt.Errorf("of %d packets %d leak, %d have a wrong checksum, %d are malformed: %q", r.Packets, r.Leaks, r.BadSums,
		r.Malformed, r.Findings)
}

func (c *Checker) find(counter *int, format string, args ...any) {
	*counter++
	if len(c.Report.Findings) < maxFindings {
		c.Report.Findings = append(c.Report.Findings, fmt.Sprintf("packet %d: ", c.Report.Packets)+fmt.Sprintf(format, args...))
	}
}

// Packet judges one IPv4 packet.
func (c *Checker) Packet(b []byte) {
	r := &c.Report
	r.Packets++
	if len(b) < 20 || b[0]>>4 != 4 {
		c.find(&r.Malformed, "not IPv4: % x", b[:min(len(b), 20)])
		return
	}
	ihl, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if ihl < 20 || total < ihl || total > len(b) {
		c.find(&r.Malformed, "header of %d bytes, length %d, in %d bytes", ihl, total, len(b))
		return
	}
	b = b[:total]
	src, dst := addr(b[12:]), addr(b[16:])
	if !in(c.Allowed, src) || in(c.Inside, src) {
		c.find(&r.Leaks, "source %s, to %s, protocol %d", src, dst, b[9])
	}
	if in(c.Inside, dst) {
		c.find(&r.Leaks, "destination %s, from %s", dst, src)
	}
	if sum(b[:ihl], 0) != 0xffff {
		c.find(&r.BadSums, "IP header, %s > %s", src, dst)
	}
	if be.Uint16(b[6:])&0x3fff != 0 {
		r.Fragments++
		return
	}
	c.transport(b, b[ihl:])
}

// transport judges what is in the whole packet b; p is its payload.
func (c *Checker) transport(b, p []byte) {
	r := &c.Report
	pseudo := uint32(b[9]) + uint32(len(p))
	for i := 12; i < 20; i += 2 {
		pseudo += uint32(be.Uint16(b[i:]))
	}
	switch b[9] {
	case 6:
		if len(p) < 20 {
			c.find(&r.Malformed, "TCP of %d bytes", len(p))
		} else if sum(p, pseudo) != 0xffff {
			c.find(&r.BadSums, "TCP %s:%d > %s:%d", addr(b[12:]), be.Uint16(p), addr(b[16:]), be.Uint16(p[2:]))
		}
	case 17:
		if len(p) < 8 || int(be.Uint16(p[4:])) != len(p) {
			c.find(&r.Malformed, "UDP of %d bytes", len(p))
		} else if be.Uint16(p[6:]) != 0 && sum(p, pseudo) != 0xffff { // RFC 768: 0 is none
			c.find(&r.BadSums, "UDP %s:%d > %s:%d", addr(b[12:]), be.Uint16(p), addr(b[16:]), be.Uint16(p[2:]))
		}
	case 1:
		c.icmp(p)
	}
}

func (c *Checker) icmp(p []byte) {
	r := &c.Report
	if len(p) < 8 {
		c.find(&r.Malformed, "ICMP of %d bytes", len(p))
		return
	}
	if sum(p, 0) != 0xffff {
		c.find(&r.BadSums, "ICMP type %d", p[0])
	}
	switch p[0] {
	case 3, 4, 5, 11, 12: // quote what they are about
		q := p[8:]
		if len(q) < 20 {
			c.find(&r.Malformed, "ICMP type %d that quotes %d bytes", p[0], len(q))
			return
		}
		for _, a := range []netip.Addr{addr(q[12:]), addr(q[16:])} {
			if in(c.Inside, a) {
				c.find(&r.Leaks, "ICMP type %d quotes %s", p[0], a)
			}
		}
	}
}

// Pcap judges the IPv4 packets of a capture, pcap or pcapng, of Ethernet or raw IP.
func (c *Checker) Pcap(rd io.ReadSeeker) error {
	var next func() ([]byte, error)
	var link layers.LinkType
	if r, err := pcapgo.NewReader(rd); err == nil {
		link = r.LinkType()
		next = func() ([]byte, error) { b, _, err := r.ReadPacketData(); return b, err }
	} else {
		if _, err := rd.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r, err := pcapgo.NewNgReader(rd, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			return fmt.Errorf("neither pcap nor pcapng: %w", err)
		}
		link = r.LinkType()
		next = func() ([]byte, error) { b, _, err := r.ReadPacketData(); return b, err }
	}
	for {
		b, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if link == layers.LinkTypeEthernet {
			if len(b) < 14 || be.Uint16(b[12:]) != 0x0800 {
				continue
			}
			b = b[14:]
		}
		c.Packet(b)
	}
}

func addr(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

func in(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// sum is the one's-complement sum of 16-bit words: 0xffff over data with its right checksum (RFC 1071).
func sum(b []byte, s uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(be.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// What follows, and judge_test.go, is the second opinion: a program that sees nothing of the story but its two captures,
// and uses nothing of this module to read them.

// frame is one packet of a capture.
type frame struct {
	at      time.Time
	step    int    // the step that was on
	outside bool   // of the two captures
	port    string // the interface
	proto   layers.IPProtocol
	// src and dst have the ports of TCP and UDP, else 0.
	src, dst netip.AddrPort
	tcp      layers.TCP
	icmp     layers.ICMPv4
	payload  []byte
	sums     bool // all checksums are right
}

func (f *frame) syn() bool    { return f.tcp.SYN && !f.tcp.ACK }
func (f *frame) synAck() bool { return f.tcp.SYN && f.tcp.ACK }

// quoted are the addresses of the packet that an ICMP error is about.
func (f *frame) quoted() (src, dst netip.Addr) {
	if len(f.payload) < 20 {
		return src, dst
	}
	return netip.AddrFrom4([4]byte(f.payload[12:16])), netip.AddrFrom4([4]byte(f.payload[16:20]))
}

func (f *frame) String() string {
	return fmt.Sprintf("%s %v to %v on %s", f.proto, f.src, f.dst, f.port)
}

// readCaptures reads both captures of a directory, merged by time.
func readCaptures(dir string) ([]*frame, error) {
	var all []*frame
	for _, name := range []string{"inside", "outside"} {
		f, err := os.Open(filepath.Join(dir, name+".pcapng"))
		if err != nil {
			return nil, err
		}
		frames, err := readCapture(f, name == "outside")
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, frames...)
	}
	slices.SortStableFunc(all, func(a, b *frame) int { return a.at.Compare(b.at) })
	return all, nil
}

func readCapture(r io.Reader, outside bool) ([]*frame, error) {
	ng, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		return nil, err
	}
	var frames []*frame
	step := 0
	for {
		data, ci, err := ng.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return nil, err
		}
		in, err := ng.Interface(ci.InterfaceIndex)
		if err != nil {
			return nil, err
		}
		f, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("packet at %v: %w", ci.Timestamp, err)
		}
		if in.Name == "story" {
			// "step N: ...", or "end".
			if _, err := fmt.Sscanf(string(f.payload), "step %d:", &step); err != nil {
				step = 0
			}
			continue
		}
		f.at, f.port, f.outside, f.step = ci.Timestamp, in.Name, outside, step
		frames = append(frames, f)
	}
}

func decode(data []byte) (*frame, error) {
	var ip layers.IPv4
	if err := ip.DecodeFromBytes(data, gopacket.NilDecodeFeedback); err != nil {
		return nil, err
	}
	f := &frame{proto: ip.Protocol, payload: ip.Payload}
	src, dst := netip.AddrFrom4([4]byte(ip.SrcIP)), netip.AddrFrom4([4]byte(ip.DstIP))
	f.src, f.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	f.sums = sum(ip.Contents, 0) == 0xffff
	if ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0 {
		return nil, errors.New("a fragment: the story has none")
	}
	pseudo := sum(data[12:20], uint32(ip.Protocol)+uint32(len(ip.Payload)))
	switch ip.Protocol {
	case layers.IPProtocolTCP:
		if err := f.tcp.DecodeFromBytes(ip.Payload, gopacket.NilDecodeFeedback); err != nil {
			return nil, err
		}
		f.src, f.dst = netip.AddrPortFrom(src, uint16(f.tcp.SrcPort)), netip.AddrPortFrom(dst, uint16(f.tcp.DstPort))
		f.payload = f.tcp.Payload
		f.sums = f.sums && sum(ip.Payload, uint32(pseudo)) == 0xffff
	case layers.IPProtocolUDP:
		var udp layers.UDP
		if err := udp.DecodeFromBytes(ip.Payload, gopacket.NilDecodeFeedback); err != nil {
			return nil, err
		}
		f.src, f.dst = netip.AddrPortFrom(src, uint16(udp.SrcPort)), netip.AddrPortFrom(dst, uint16(udp.DstPort))
		f.payload = udp.Payload
		f.sums = f.sums && (udp.Checksum == 0 || sum(ip.Payload, uint32(pseudo)) == 0xffff)
	case layers.IPProtocolICMPv4:
		if err := f.icmp.DecodeFromBytes(ip.Payload, gopacket.NilDecodeFeedback); err != nil {
			return nil, err
		}
		f.payload = f.icmp.Payload
		f.sums = f.sums && sum(ip.Payload, 0) == 0xffff
	default:
		return nil, fmt.Errorf("protocol %v: the story has none", ip.Protocol)
	}
	return f, nil
}

// sum is the internet's sum of b and start, folded, in the plainest way.
func sum(b []byte, start uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		if i+1 == len(b) {
			start += uint32(b[i]) << 8
		} else {
			start += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		start = start&0xffff + start>>16
	}
	return uint16(start&0xffff + start>>16)
}

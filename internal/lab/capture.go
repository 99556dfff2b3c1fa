// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/tidegate/tidegate/internal/pcapng"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// MarkerInterface is the name of the first interface of each capture. Its packets were never on a wire: UDP from and to
// MarkerEndpoint, they carry the text given to Capture.Mark.
const MarkerInterface = "story"

// markerAddr is of RFC 5737's 192.0.2.0/24, as is all that no host of a lab may have.
var markerAddr = [4]byte{192, 0, 2, 255}

// Capture writes what an edge reads and writes to inside.pcapng and outside.pcapng, an interface a port. Packets are
// as a wire would have them, but super-packets are whole. It is safe for concurrent use.
type Capture struct {
	mu    sync.Mutex
	sides [2]captureFile
	buf   []byte
	err   error
}

type captureFile struct {
	file  *os.File
	w     *pcapng.Writer
	ports map[string]int
}

// NewCapture makes the two files in dir, which it makes too; files of those names are replaced.
func NewCapture(dir string) (*Capture, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &Capture{}
	for i := range c.sides {
		f, err := os.Create(filepath.Join(dir, nat.Side(i).String()+".pcapng"))
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.sides[i] = captureFile{file: f, w: pcapng.NewWriter(f), ports: map[string]int{}}
		if _, err := c.sides[i].w.Interface(MarkerInterface, "not an interface: its packets say what begins"); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Tap is to be one of an edge's taps.
func (c *Capture) Tap(port *Port, _ bool, p *packet.Packet, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.sides[port.Side]
	id, ok := f.ports[port.Name]
	if !ok {
		var err error
		id, err = f.w.Interface(port.Name, "")
		c.err = errors.Join(c.err, err)
		f.ports[port.Name] = id
	}
	c.buf = append(c.buf[:0], p.Bytes()...)
	CompleteChecksum(c.buf, &p.Offload)
	c.write(f, id, c.buf, at)
}

func (c *Capture) write(f *captureFile, id int, b []byte, at time.Time) {
	c.err = errors.Join(c.err, f.w.Packet(id, at.UnixNano(), b))
}

// Mark puts a packet that carries text into both captures.
func (c *Capture) Mark(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf := gopacket.NewSerializeBuffer()
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 1, Protocol: layers.IPProtocolUDP, SrcIP: markerAddr[:], DstIP: markerAddr[:]}
	udp := &layers.UDP{SrcPort: 9, DstPort: 9}
	err := errors.Join(udp.SetNetworkLayerForChecksum(ip), gopacket.SerializeLayers(buf,
		gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, udp, gopacket.Payload(text)))
	c.err = errors.Join(c.err, err)
	at := time.Now()
	for i := range c.sides {
		c.write(&c.sides[i], 0, buf.Bytes(), at)
		c.err = errors.Join(c.err, c.sides[i].w.Flush())
	}
}

// Close completes the files and returns the first thing that went wrong with them.
func (c *Capture) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.sides {
		f := &c.sides[i]
		if f.w != nil {
			c.err = errors.Join(c.err, f.w.Flush())
		}
		if f.file != nil {
			c.err = errors.Join(c.err, f.file.Close())
		}
	}
	return c.err
}

// CompleteChecksum does to the packet in b what an interface card does with a partial checksum; others it leaves alone.
func CompleteChecksum(b []byte, o *packet.Offload) {
	at := int(o.CsumStart) + int(o.CsumOffset)
	if o.Csum != packet.CsumPartial || at+2 > len(b) {
		return
	}
	sum := packet.Checksum(b[o.CsumStart:])
	if sum == 0 && b[9] == packet.UDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}

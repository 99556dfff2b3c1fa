// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// capture writes the packets of some links to a pcapng file.
type capture struct {
	mu    sync.Mutex
	w     *pcapgo.NgWriter
	ports map[*port]int // to interface
	err   error
}

// Capture writes every packet on the links of some hosts and NATs to w, as pcapng with an interface for each, from now to
// the end of the test; a NAT's link is the one on its outside. Packets are seen at the host or NAT: those it sends before
// the link does anything to them, those it receives afterwards.
func (n *Network) Capture(w io.Writer, of ...Linked) {
	n.tb.Helper()
	c := &capture{ports: map[*port]int{}}
	for i, o := range of {
		p := o.linked()
		face := pcapgo.NgInterface{
			Name: p.name, LinkType: layers.LinkTypeRaw, SnapLength: 65535, TimestampResolution: 9,
		}
		var err error
		if i == 0 {
			c.w, err = pcapgo.NewNgWriterInterface(w, face, pcapgo.DefaultNgWriterOptions)
		} else {
			_, err = c.w.AddInterface(face)
		}
		if err != nil {
			n.tb.Fatalf("nattest: capture: %v", err)
		}
		c.ports[p] = i
	}
	if len(of) == 0 {
		n.tb.Fatal("nattest: a capture needs a host or a NAT")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.captures = append(n.captures, c)
}

// Linked is a Host or a NAT.
type Linked interface{ linked() *port }

func (h *Host) linked() *port { return h.port }
func (x *NAT) linked() *port  { return x.port }

// capture shows a packet on a link to whoever captures that.
func (n *Network) capture(p *port, b []byte) {
	n.mu.Lock()
	all := n.captures
	n.mu.Unlock()
	for _, c := range all {
		if i, ok := c.ports[p]; ok {
			c.write(i, b)
		}
	}
}

func (c *capture) write(i int, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		info := gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(b), Length: len(b), InterfaceIndex: i}
		c.err = c.w.WritePacket(info, b)
	}
}

func (c *capture) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = c.w.Flush()
	}
	if c.err != nil {
		return fmt.Errorf("capture: %w", c.err)
	}
	return nil
}

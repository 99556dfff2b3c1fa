// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"

	"github.com/tidegate/tidegate/internal/pcapng"
)

// reason is why a packet of the capture is not given to the engine.
type reason int

const (
	otherInterface reason = iota
	notIPv4
	snapped
	badFrame
	numReasons
)

// reasonTexts are a name for programs and a sentence for people.
var reasonTexts = [numReasons]struct{ name, text string }{
	otherInterface: {"other_interface", "from an interface named neither inside nor outside"},
	notIPv4:        {"not_ipv4", "not an IPv4 packet"},
	snapped:        {"snaplen", "cut by the snap length of the capture"},
	badFrame:       {"bad_frame", "a frame without its header"},
}

// skip is a reason, and what there is to say of the single packet.
type skip struct {
	reason
	detail string
}

func (s *skip) String() string { return reasonTexts[s.reason].text + ": " + s.detail }

func skipped(why reason, format string, args ...any) *skip {
	return &skip{why, fmt.Sprintf(format, args...)}
}

// knownLink reports whether packets can be had from frames of a link type.
func knownLink(link int) bool {
	switch link {
	case pcapng.LinkEthernet, pcapng.LinkRaw, pcapng.LinkRaw12, pcapng.LinkRaw14, pcapng.LinkIPv4:
		return true
	}
	return false
}

// Ethernet types.
const (
	etherIPv4   = 0x0800
	etherLowest = 0x0600 // below are lengths (IEEE 802.3)
)

// vlan are the types of tags: 802.1Q, 802.1ad, and what came before that.
func vlan(typ uint16) bool { return typ == 0x8100 || typ == 0x88a8 || typ == 0x9100 }

// ipv4 is the IP packet in a frame. It aliases the frame.
func ipv4(p *pcapng.Packet) ([]byte, *skip) {
	b := p.Data
	if p.Interface.Link == pcapng.LinkEthernet {
		at := 12
		for at+4 < len(b) && vlan(binary.BigEndian.Uint16(b[at:])) {
			at += 4
		}
		if at+2 > len(b) {
			return nil, skipped(badFrame, "%d bytes are no Ethernet frame", len(b))
		}
		switch typ := binary.BigEndian.Uint16(b[at:]); {
		case typ < etherLowest:
			return nil, skipped(notIPv4, "an IEEE 802.3 frame")
		case typ != etherIPv4:
			return nil, skipped(notIPv4, "Ethernet type %#04x", typ)
		}
		b = b[at+2:]
	}
	if cut := p.Length - len(p.Data); cut > 0 {
		// What was cut may have been the padding of the frame alone.
		if len(b) < 20 || int(binary.BigEndian.Uint16(b[2:])) > len(b) {
			return nil, skipped(snapped, "the capture has %d of its %d bytes", len(p.Data), p.Length)
		}
	}
	return b, nil
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tidegate/tidegate/packet"
)

// Header is what the headers of a packet say, for people: verdict logs, explanations. Fields that a packet does not have
// are zero.
type Header struct {
	// Fault says why the packet cannot be read; what was read until then is in the other fields.
	Fault string `json:"fault,omitempty"`
	// Protocol is "tcp", "udp", "icmp", or the number.
	Protocol string `json:"protocol,omitempty"`
	// Source and Destination are addresses, with the ports of TCP and UDP where they are at hand.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	// Flags are those of TCP, such as "SYN ACK".
	Flags string `json:"flags,omitempty"`
	// MSS is the option of a SYN.
	MSS int `json:"mss,omitempty"`
	// ICMP is type and code, such as "echo request" or "type 3 code 4"; Identifier that of a query.
	ICMP       string `json:"icmp,omitempty"`
	Identifier int    `json:"identifier,omitempty"`
	// Fragment is where a piece belongs, such as "bytes 0-1479, more follow".
	Fragment string `json:"fragment,omitempty"`
	// Length, TTL and ID are those of the IP header, DF its "don't fragment".
	Length int  `json:"length,omitempty"`
	TTL    int  `json:"ttl,omitempty"`
	ID     int  `json:"id,omitempty"`
	DF     bool `json:"df,omitempty"`
	// Quote is the packet that an ICMP error is about.
	Quote *Header `json:"quote,omitempty"`
}

// faultTexts say what each packet.Fault is.
var faultTexts = [...]string{
	packet.OK: "", packet.ShortPacket: "shorter than an IPv4 header", packet.NotIPv4: "not version 4",
	packet.BadIHL: "a header length below 20 bytes", packet.BadTotal: "a total length below that of the header",
	packet.BadLength:         "shorter than its total length says",
	packet.BadHeaderChecksum: "a wrong header checksum", packet.SourceRoute: "a source route option",
	packet.BadOption: "an option that runs out of the header", packet.BadTransport: "a transport header that contradicts the packet",
	packet.TinyFragment: "a fragment without its transport header, or over it", packet.BadFragment: "a fragment that cannot be one",
}

// ReadHeader reads the headers of the IP packet b, of which it keeps nothing.
func ReadHeader(b []byte) Header {
	var v packet.View
	fault := v.Parse(b)
	h := Header{Fault: faultTexts[fault]}
	if fault == packet.ShortPacket || fault == packet.NotIPv4 {
		h.Length = len(b)
		return h
	}
	h.of(&v)
	if fault != packet.OK {
		return h
	}
	h.l4(&v, b[v.L4:v.Total])
	if v.Kind == packet.KindError {
		h.Quote = new(Header)
		if _, fault := v.ParseQuote(b[v.L4+8:]); fault != packet.OK {
			h.Quote.Fault = faultTexts[fault]
			return h
		}
		h.Quote.of(&v)
		h.Quote.l4(&v, nil)
	}
	return h
}

// of is the IP header.
func (h *Header) of(v *packet.View) {
	if h.Protocol = ProtocolName(v.Proto); h.Protocol == "" {
		h.Protocol = fmt.Sprint(v.Proto)
	}
	h.Source, h.Destination = from4(v.Src).String(), from4(v.Dst).String()
	h.Length, h.TTL, h.ID, h.DF = int(v.Total), int(v.TTL), int(v.ID), v.DF
}

// l4 is the rest; b is the transport header and payload, if they are whole.
func (h *Header) l4(v *packet.View, b []byte) {
	if v.Kind == packet.KindFragment {
		h.Fragment = fmt.Sprintf("from byte %d on", v.FragOff)
		if b != nil {
			h.Fragment = fmt.Sprintf("bytes %d-%d", v.FragOff, int(v.FragOff)+len(b)-1)
		}
		if v.MF {
			h.Fragment += ", more follow"
		}
	}
	if v.FragOff != 0 {
		return
	}
	switch v.Proto {
	case packet.TCP, packet.UDP:
		h.Source = netip.AddrPortFrom(from4(v.Src), v.SrcPort).String()
		h.Destination = netip.AddrPortFrom(from4(v.Dst), v.DstPort).String()
		if v.Proto == packet.TCP && b != nil {
			h.Flags = flagNames(v.Flags)
			if v.Flags&packet.SYN != 0 {
				h.MSS = int(mss(b))
			}
		}
	case packet.ICMP:
		h.ICMP = icmpName(v.Type, v.Code)
		if v.Kind == packet.KindFlow || v.Kind == packet.KindFragment {
			h.Identifier = int(v.SrcPort)
		}
	}
}

func flagNames(f uint8) string {
	var names []string
	for i, n := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if f>>i&1 != 0 {
			names = append(names, n)
		}
	}
	if names == nil {
		return "no flags"
	}
	return strings.Join(names, " ")
}

func icmpName(typ, code uint8) string {
	switch typ {
	case packet.Echo:
		return "echo request"
	case packet.EchoReply:
		return "echo reply"
	case packet.Timestamp:
		return "timestamp request"
	case packet.TimestampReply:
		return "timestamp reply"
	}
	return fmt.Sprintf("type %d code %d", typ, code)
}

// mss is the option of the SYN tcp, or 0.
func mss(tcp []byte) uint16 {
	o := tcp[20:min(len(tcp), int(tcp[12]>>4)*4)]
	for len(o) > 0 && o[0] != 0 {
		switch {
		case o[0] == 1:
			o = o[1:]
			continue
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return 0
		case o[0] == 2 && o[1] == 4:
			return be.Uint16(o[2:])
		}
		o = o[o[1]:]
	}
	return 0
}

// Flow is the protocol and the two ends: "udp 10.0.1.10:5000 > 198.51.100.7:53", or why the packet cannot be read.
func (h *Header) Flow() string {
	if h.Source == "" {
		return fmt.Sprintf("unreadable (%s)", h.Fault)
	}
	s := fmt.Sprintf("%s %s > %s", h.Protocol, h.Source, h.Destination)
	if h.ICMP != "" && h.Quote == nil {
		s += fmt.Sprintf(" id %d", h.Identifier)
	}
	return s
}

// String is all of it in a line.
func (h *Header) String() string {
	s := h.Flow()
	if h.Source == "" {
		return fmt.Sprintf("%s, %d bytes", s, h.Length)
	}
	for _, t := range []string{h.ICMP, h.Flags, h.Fragment} {
		if t != "" {
			s += ", " + t
		}
	}
	s += fmt.Sprintf(", %d bytes, TTL %d", h.Length, h.TTL)
	if h.MSS != 0 {
		s += fmt.Sprintf(", MSS %d", h.MSS)
	}
	if h.DF {
		s += ", DF"
	}
	if h.Fault != "" {
		s += ", " + h.Fault
	}
	if h.Quote != nil {
		s += "; about " + h.Quote.Flow()
	}
	return s
}

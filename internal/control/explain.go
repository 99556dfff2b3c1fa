// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// Question is a packet that Explain is asked about.
type Question struct {
	Packet packet.Packet
	// From is the side that it comes from: "inside", "outside", or "" to take the one that its source belongs to.
	From string
}

// Explanation is what the library says, in its JSON.
type Explanation struct{ nat.Explanation }

// Print writes it for people.
func (x *Explanation) Print(w io.Writer) error {
	_, err := fmt.Fprintln(w, x.Explanation)
	return err
}

// MaxHex bounds a packet that is given byte by byte.
const MaxHex = 4096

// asked is a question as it is put.
type asked struct {
	proto        uint8
	src, dst     netip.Addr
	sport, dport int
	flags        uint8
	size         int
	hex          []byte
	from         string
}

// questions are the names that ParseQuestion knows, and what each does with its value.
var questions = map[string]func(*asked, string) error{
	"proto": func(a *asked, s string) error {
		if a.proto = uint8(numbers[strings.ToLower(s)]); a.proto == 0 {
			return errors.New("write tcp, udp or icmp, or the whole packet as hex")
		}
		return nil
	},
	"src":   func(a *asked, s string) error { return parseAddr(s, &a.src) },
	"dst":   func(a *asked, s string) error { return parseAddr(s, &a.dst) },
	"sport": func(a *asked, s string) error { return parsePort(s, &a.sport) },
	"dport": func(a *asked, s string) error { return parsePort(s, &a.dport) },
	"flags": func(a *asked, s string) error {
		for _, c := range strings.ToUpper(s) {
			i := strings.IndexRune(flagLetters, c)
			if i < 0 {
				return fmt.Errorf("write letters of %s, such as S, SA or A", flagLetters)
			}
			a.flags |= 1 << i
		}
		return nil
	},
	"size": func(a *asked, s string) (err error) {
		if a.size, err = strconv.Atoi(s); err != nil || a.size <= 0 || a.size > maxSize {
			return fmt.Errorf("write the length of the packet, up to %d bytes", maxSize)
		}
		return nil
	},
	"hex": func(a *asked, s string) (err error) {
		digits := strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return -1
			}
			return r
		}, s)
		if a.hex, err = hex.DecodeString(digits); err != nil || len(a.hex) == 0 || len(a.hex) > MaxHex {
			return fmt.Errorf("write the bytes of an IPv4 packet, its header first, up to %d of them", MaxHex)
		}
		return nil
	},
	"from": func(a *asked, s string) error {
		if a.from = s; !slices.Contains(sides, s) {
			return fmt.Errorf("write %s", strings.Join(sides, " or "))
		}
		return nil
	},
}

// flagLetters are the flags of TCP from the lowest bit on.
const flagLetters = "FSRPAU"

// maxSize is the longest IPv4 packet.
const maxSize = 1<<16 - 1

var sides = []string{nat.Inside.String(), nat.Outside.String()}

func parseAddr(s string, to *netip.Addr) (err error) {
	if *to, err = netip.ParseAddr(s); err != nil || !to.Is4() {
		return errors.New("write an IPv4 address, such as 10.0.1.10")
	}
	return nil
}

// ParseQuestion reads the parameters of a question. The packet is given by proto, src, dst, sport and dport, with the flags of
// TCP (a SYN without) and its size if they matter: a 5-tuple. That of ICMP is an echo request, and sport its
// identifier. Or it is given whole, in hex. from is the side that it comes from. The error names all that is wrong.
func ParseQuestion(q url.Values) (Question, error) {
	var a asked
	if err := parse(q, questions, &a); err != nil {
		return Question{}, err
	}
	var p packet.Packet
	var err error
	if q.Has("hex") {
		p, err = a.raw(q)
	} else {
		p, err = a.probe(q)
	}
	return Question{p, a.from}, err
}

// raw is the packet of hex.
func (a *asked) raw(q url.Values) (packet.Packet, error) {
	for name := range q {
		if name != "hex" && name != "from" {
			return packet.Packet{}, errors.New("hex is the whole packet: only from goes with it")
		}
	}
	return packet.From(a.hex), nil
}

// probe is the packet of a 5-tuple.
func (a *asked) probe(q url.Values) (packet.Packet, error) {
	needed, icmp := []string{"proto", "src", "dst", "sport", "dport"}, a.proto == packet.ICMP
	if icmp {
		needed = needed[:3]
	}
	var errs []error
	if missing := slices.DeleteFunc(needed, q.Has); len(missing) > 0 {
		errs = append(errs, fmt.Errorf("missing: %s; or the whole packet as hex", strings.Join(missing, ", ")))
	}
	if icmp && q.Has("dport") {
		errs = append(errs, errors.New("dport: icmp has none; sport is its identifier"))
	}
	if q.Has("flags") && a.proto != packet.TCP {
		errs = append(errs, errors.New("flags are those of tcp"))
	}
	if len(errs) > 0 {
		return packet.Packet{}, errors.Join(errs...)
	}
	p, err := nat.Probe(a.proto, netip.AddrPortFrom(a.src, uint16(a.sport)), netip.AddrPortFrom(a.dst, uint16(a.dport)))
	if err != nil {
		return packet.Packet{}, err
	}
	if q.Has("flags") {
		setFlags(p.Bytes(), a.flags)
	}
	if !q.Has("size") {
		return p, nil
	}
	if a.size < p.Len {
		return packet.Packet{}, fmt.Errorf("size: %d: the headers alone are %d bytes", a.size, p.Len)
	}
	return packet.From(lengthen(p.Bytes(), a.size)), nil
}

// The packets of nat.Probe have a header of 20 bytes and whole checksums.

var be = binary.BigEndian

func setFlags(b []byte, flags uint8) {
	word, sum := b[20+12:], b[20+16:]
	old := be.Uint16(word)
	word[1] = flags
	be.PutUint16(sum, packet.Delta16(old, be.Uint16(word)).Apply(be.Uint16(sum)))
}

// lengthen appends zeros, which change no checksum but by the lengths that are summed.
func lengthen(b []byte, size int) []byte {
	longer := packet.Delta16(uint16(len(b)), uint16(size))
	b = append(b, make([]byte, size-len(b))...)
	be.PutUint16(b[2:], uint16(size))
	be.PutUint16(b[10:], longer.Apply(be.Uint16(b[10:])))
	switch l4 := b[20:]; b[9] {
	case packet.TCP:
		be.PutUint16(l4[16:], longer.Apply(be.Uint16(l4[16:])))
	case packet.UDP: // once in the pseudo-header, once in its own
		be.PutUint16(l4[4:], uint16(len(l4)))
		be.PutUint16(l4[6:], longer.Plus(longer).ApplyUDP(be.Uint16(l4[6:])))
	}
	return b
}

// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	hostA = netip.MustParseAddr("10.0.1.10")
	hostR = netip.MustParseAddr("203.0.113.9")
)

func addr(a netip.Addr) uint32 {
	b := a.As4()
	return be.Uint32(b[:])
}

// header is an IPv4 header from hostA to hostR for the independent encoder, which fills in lengths and checksums.
func header(proto layers.IPProtocol, options ...layers.IPv4Option) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TOS: 0xb8, Id: 0x1234, Flags: layers.IPv4DontFragment, TTL: 64, Protocol: proto,
		SrcIP: hostA.AsSlice(), DstIP: hostR.AsSlice(), Options: options,
	}
}

func encode(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	for _, l := range ls {
		var err error
		switch l := l.(type) {
		case *layers.TCP:
			err = l.SetNetworkLayerForChecksum(ls[0].(gopacket.NetworkLayer))
		case *layers.UDP:
			err = l.SetNetworkLayerForChecksum(ls[0].(gopacket.NetworkLayer))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func udpPacket(t testing.TB, n int, options ...layers.IPv4Option) []byte {
	return encode(t, header(layers.IPProtocolUDP, options...),
		&layers.UDP{SrcPort: 5000, DstPort: 53}, gopacket.Payload(make([]byte, n)))
}

func tcpPacket(t testing.TB, n int, options ...layers.IPv4Option) []byte {
	return encode(t, header(layers.IPProtocolTCP, options...),
		&layers.TCP{SrcPort: 5000, DstPort: 80, SYN: true, ECE: true, CWR: true, Window: 1000}, gopacket.Payload(make([]byte, n)))
}

func icmpPacket(t testing.TB, kind, code uint8) []byte {
	return encode(t, header(layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: 0x1234, Seq: 7}, gopacket.Payload("ping"))
}

// with changes a packet and makes its header checksum right again.
func with(b []byte, change func(b []byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	if n := int(b[0]&15) * 4; n >= 20 && n <= len(b) {
		b[10], b[11] = 0, 0
		be.PutUint16(b[10:], slowChecksum(b[:n]))
	}
	return b
}

// set is a change of the bytes from at on.
func set(at int, v ...byte) func([]byte) { return func(b []byte) { copy(b[at:], v) } }

func TestParse(t *testing.T) {
	base := View{
		Src: addr(hostA), Dst: addr(hostR), ID: 0x1234, L4: 20, TTL: 64, TOS: 0xb8, DF: true,
	}
	for _, c := range []struct {
		name string
		b    []byte
		want View
	}{
		{"TCP", tcpPacket(t, 3), View{Proto: TCP, SrcPort: 5000, DstPort: 80, Total: 43, Flags: SYN}},
		{"UDP", udpPacket(t, 5), View{Proto: UDP, SrcPort: 5000, DstPort: 53, Total: 33}},
		{"echo", icmpPacket(t, Echo, 0), View{Proto: ICMP, SrcPort: 0x1234, DstPort: 0x1234, Total: 32, Type: Echo}},
		{"echo reply", icmpPacket(t, EchoReply, 0), View{Proto: ICMP, SrcPort: 0x1234, DstPort: 0x1234, Total: 32}},
		{"timestamp", icmpPacket(t, Timestamp, 0), View{Proto: ICMP, SrcPort: 0x1234, DstPort: 0x1234, Total: 32, Type: Timestamp}},
		{"unreachable", icmpPacket(t, Unreachable, 4), View{Proto: ICMP, Kind: KindError, Total: 32, Type: Unreachable, Code: 4}},
		{"time exceeded", icmpPacket(t, TimeExceeded, 1), View{Proto: ICMP, Kind: KindError, Total: 32, Type: TimeExceeded, Code: 1}},
		{"parameter problem", icmpPacket(t, ParameterProblem, 0), View{Proto: ICMP, Kind: KindError, Total: 32, Type: ParameterProblem}},
		{"source quench", icmpPacket(t, SourceQuench, 0), View{Proto: ICMP, Kind: KindOther, Total: 32, Type: SourceQuench}},
		{"redirect", icmpPacket(t, Redirect, 1), View{Proto: ICMP, Kind: KindOther, Total: 32, Type: Redirect, Code: 1}},
		{"GRE", encode(t, header(layers.IPProtocolGRE), gopacket.Payload("x")), View{Proto: 47, Kind: KindOther, Total: 21}},
		{"nothing behind the header", encode(t, header(253)), View{Proto: 253, Kind: KindOther, Total: 20}},
		{"a tail, which is no part of it", append(udpPacket(t, 5), 1, 2, 3), View{Proto: UDP, SrcPort: 5000, DstPort: 53, Total: 33}},
		{"UDP shorter than its IP packet (U-7)", with(udpPacket(t, 6), set(25, 12)), View{Proto: UDP, SrcPort: 5000, DstPort: 53, Total: 34}},
		{"UDP of nothing", udpPacket(t, 0), View{Proto: UDP, SrcPort: 5000, DstPort: 53, Total: 28}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := base
			want.Proto, want.Kind, want.Total = c.want.Proto, c.want.Kind, c.want.Total
			want.SrcPort, want.DstPort = c.want.SrcPort, c.want.DstPort
			want.Flags, want.Type, want.Code = c.want.Flags, c.want.Type, c.want.Code
			var got View
			if fault := got.Parse(c.b); fault != OK || got != want {
				t.Errorf("fault %d, %+v\nwant %+v", fault, got, want)
			}
		})
	}
}

// TestParseFragments checks what is known of pieces; a first one has ports, the others have none.
func TestParseFragments(t *testing.T) {
	whole := tcpPacket(t, 20)
	for _, c := range []struct {
		name  string
		frag  []byte // flags and offset
		off   uint16
		mf    bool
		ports bool
	}{
		{"first", []byte{0x20, 0}, 0, true, true},
		{"middle", []byte{0x20, 100}, 800, true, false},
		{"last", []byte{0x00, 100}, 800, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v View
			if fault := v.Parse(with(whole, set(6, c.frag...))); fault != OK {
				t.Fatalf("fault %d", fault)
			}
			if v.Kind != KindFragment || v.FragOff != c.off || v.MF != c.mf || v.DF {
				t.Errorf("%+v", v)
			}
			if c.ports && (v.SrcPort != 5000 || v.DstPort != 80 || v.Flags != SYN) {
				t.Errorf("%+v", v)
			}
		})
	}
}

// TestParseOptions is K-5: the transport header is found by the header length, and only source routes are refused.
func TestParseOptions(t *testing.T) {
	for ihl := 6; ihl <= 15; ihl++ {
		// A record route fills all the options but the last, which is a no-operation and the end of the list.
		n := (ihl - 5) * 4
		option := layers.IPv4Option{OptionType: 7, OptionLength: uint8(n - 1), OptionData: make([]byte, n-3)}
		for name, b := range map[string][]byte{"TCP": tcpPacket(t, 1, option), "UDP": udpPacket(t, 1, option)} {
			var v View
			if fault := v.Parse(b); fault != OK || int(v.L4) != ihl*4 || v.SrcPort != 5000 || v.Kind != KindFlow {
				t.Errorf("IHL %d, %s: fault %d, %+v", ihl, name, fault, v)
			}
		}
	}
	for _, c := range []struct {
		name    string
		options []byte // 8 of them
		want    Fault
	}{
		{"none but no-operations", []byte{1, 1, 1, 1, 1, 1, 1, 1}, OK},
		{"the end, and what is behind it", []byte{0, 131, 137, 7, 0, 1, 255, 3}, OK},
		{"router alert", []byte{148, 4, 0, 0, 0, 0, 0, 0}, OK},
		{"loose source route", []byte{131, 7, 4, 192, 0, 2, 1, 0}, SourceRoute},
		{"strict source route", []byte{137, 7, 4, 192, 0, 2, 1, 0}, SourceRoute},
		{"source route behind others", []byte{1, 148, 4, 0, 0, 131, 3, 4}, SourceRoute},
		{"source route in the last byte", []byte{1, 1, 1, 1, 1, 1, 1, 137}, SourceRoute},
		{"no length", []byte{1, 1, 1, 1, 1, 1, 1, 148}, BadOption},
		{"length 0", []byte{148, 0, 0, 0, 0, 0, 0, 0}, BadOption},
		{"length 1", []byte{148, 1, 0, 0, 0, 0, 0, 0}, BadOption},
		{"length to the end", []byte{148, 8, 0, 0, 0, 0, 0, 0}, OK},
		{"length past the end", []byte{148, 9, 0, 0, 0, 0, 0, 0}, BadOption},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := udpPacket(t, 1, layers.IPv4Option{OptionType: 7, OptionLength: 8, OptionData: make([]byte, 6)})
			var v View
			if fault := v.Parse(with(b, set(20, c.options...))); fault != c.want {
				t.Errorf("fault %d, want %d", fault, c.want)
			}
		})
	}
}

func TestParseFaults(t *testing.T) {
	udp, tcp, ping := udpPacket(t, 32), tcpPacket(t, 32), icmpPacket(t, Echo, 0)
	cut := func(b []byte, n int) []byte { return with(b[:n], set(2, byte(n>>8), byte(n))) }
	for _, c := range []struct {
		name string
		b    []byte
		want Fault
	}{
		// K-6
		{"nothing", nil, ShortPacket},
		{"19 bytes", udp[:19], ShortPacket},
		{"version 0", with(udp, set(0, 0x05)), NotIPv4},
		{"version 6", with(udp, set(0, 0x65)), NotIPv4},
		{"IHL 0", with(udp, set(0, 0x40)), BadIHL},
		{"IHL 4", with(udp, set(0, 0x44)), BadIHL},
		{"total 0", with(udp, set(2, 0, 0)), BadTotal},
		{"total 19", with(udp, set(2, 0, 19)), BadTotal},
		{"total less than the header", with(with(udp, set(0, 0x46)), set(2, 0, 23)), BadTotal},
		{"total one more than the buffer", with(udp, set(2, 0, byte(len(udp)+1))), BadLength},
		{"total 65535", with(udp, set(2, 0xff, 0xff)), BadLength},
		{"header past the buffer", with(cut(udp, 24), set(0, 0x4f)), BadTotal},
		{"checksum off by one", damaged(udp, 11, udp[11]+1), BadHeaderChecksum},
		{"checksum 0", damaged(udp, 10, 0, 0), BadHeaderChecksum},
		{"checksum off by one, with options", damaged(udpPacket(t, 1, layers.IPv4Option{OptionType: 1}), 11, 0xee), BadHeaderChecksum},

		// U-7
		{"UDP length 9000", with(udp, set(24, 0x23, 0x28)), BadTransport},
		{"UDP length one too many", with(udp, set(24, 0, 41)), BadTransport},
		{"UDP length 7", with(udp, set(24, 0, 7)), BadTransport},
		{"UDP length 0", with(udp, set(24, 0, 0)), BadTransport},
		{"UDP of 7 bytes", cut(udp, 27), BadTransport},
		{"UDP of no bytes", cut(udp, 20), BadTransport},

		{"TCP of 19 bytes", cut(tcp, 39), BadTransport},
		{"TCP data offset 4", with(tcp, set(32, 0x40)), BadTransport},
		{"TCP data offset 0", with(tcp, set(32, 0)), BadTransport},
		{"TCP data offset past the end", with(cut(tcp, 40), set(32, 0x60)), BadTransport},
		{"ICMP of 7 bytes", cut(ping, 27), BadTransport},

		// F-8
		{"first TCP fragment of 8 bytes", with(cut(tcp, 28), set(6, 0x20, 0)), TinyFragment},
		{"first TCP fragment of 16 bytes", with(cut(tcp, 36), set(6, 0x20, 0)), TinyFragment},
		{"first TCP fragment of 24 bytes", with(cut(tcp, 44), set(6, 0x20, 0)), OK},
		{"first UDP fragment of 8 bytes", with(cut(udp, 28), set(6, 0x20, 0)), OK},
		{"TCP fragment at offset 8", with(tcp, set(6, 0, 1)), TinyFragment},
		{"TCP fragment at offset 8, more to come", with(cut(tcp, 44), set(6, 0x20, 1)), TinyFragment},
		{"UDP fragment at offset 8", with(udp, set(6, 0, 1)), OK},

		{"fragment of nothing", with(cut(udp, 20), set(6, 0x20, 0)), BadFragment},
		{"last fragment of nothing", with(cut(udp, 20), set(6, 0, 9)), BadFragment},
		{"more to come, not a multiple of 8", with(cut(udp, 27), set(6, 0x20, 9)), BadFragment},
		{"past 65535", with(udp, set(6, 0x1f, 0xff)), BadFragment},
		{"up to 65535", with(cut(udp, 31), set(6, 0x1f, 0xfc)), OK},
		{"up to 65536", with(cut(udp, 32), set(6, 0x1f, 0xfc)), BadFragment},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v View
			if fault := v.Parse(c.b); fault != c.want {
				t.Errorf("fault %d, want %d", fault, c.want)
			}
		})
	}
}

// damaged changes a packet and leaves the checksum as it is.
func damaged(b []byte, at int, v ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], v)
	return b
}

// TestParseQuote is I-5 and I-7: quotes of every length, with every header length.
func TestParseQuote(t *testing.T) {
	for ihl := 5; ihl <= 15; ihl++ {
		var options []layers.IPv4Option
		if n := (ihl - 5) * 4; n > 0 {
			options = []layers.IPv4Option{{OptionType: 7, OptionLength: uint8(n), OptionData: make([]byte, n-2)}}
		}
		ping := encode(t, header(layers.IPProtocolICMPv4, options...),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(Echo, 0), Id: 5000}, gopacket.Payload(make([]byte, 20)))
		for _, c := range []struct {
			name string
			b    []byte
			need int
		}{
			{"TCP", tcpPacket(t, 20, options...), 4}, {"UDP", udpPacket(t, 20, options...), 4}, {"echo", ping, 6},
		} {
			for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 18, 20, 28} {
				t.Run(fmt.Sprintf("IHL %d, %s, %d bytes", ihl, c.name, n), func(t *testing.T) {
					b := c.b[: ihl*4+n : ihl*4+n]
					var v View
					ok, fault := v.ParseQuote(b)
					want := OK
					if n < c.need {
						want = BadTransport
					}
					if !ok || fault != want {
						t.Fatalf("header %t, fault %d; want %d", ok, fault, want)
					}
					if want != OK {
						return
					}
					if v.Kind != KindFlow || v.SrcPort != 5000 || int(v.L4) != ihl*4 || int(v.Total) != len(c.b) ||
						v.Src != addr(hostA) || v.Dst != addr(hostR) {
						t.Errorf("%+v", v)
					}
				})
			}
		}
	}
}

func TestParseQuoteCases(t *testing.T) {
	udp := udpPacket(t, 32)[:28]
	for _, c := range []struct {
		name  string
		b     []byte
		ok    bool
		fault Fault
		kind  Kind
	}{
		{"as sent", udp, true, OK, KindFlow},
		{"wrong header checksum", damaged(udp, 8, 63), false, OK, KindFlow},
		{"19 bytes", udp[:19], false, ShortPacket, 0},
		{"nothing", nil, false, ShortPacket, 0},
		{"version 6", damaged(udp, 0, 0x65), false, NotIPv4, 0},
		{"IHL 4", damaged(udp, 0, 0x44), false, BadIHL, 0},
		{"IHL past the quote", damaged(udp, 0, 0x48), false, BadIHL, 0},
		{"total less than the header", with(udp, set(2, 0, 19)), true, BadTotal, 0},
		{"source route", with(udpPacket(t, 1, layers.IPv4Option{OptionType: 7, OptionLength: 4, OptionData: []byte{0, 0}}),
			set(20, 131)), true, OK, KindFlow},
		{"first fragment", with(udp, set(6, 0x20, 0)), true, OK, KindFlow},
		{"later fragment", with(udp, set(6, 0x20, 9)), true, OK, KindFragment},
		{"wrong UDP length and checksum", damaged(udp, 24, 1, 2, 3, 4), true, OK, KindFlow},
		{"an ICMP error", icmpPacket(t, Unreachable, 1), true, OK, KindError},
		{"another ICMP message", icmpPacket(t, Redirect, 1), true, OK, KindOther},
		{"another protocol", encode(t, header(47), gopacket.Payload("x")), true, OK, KindOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v View
			ok, fault := v.ParseQuote(c.b)
			if ok != c.ok || fault != c.fault || fault == OK && v.Kind != c.kind {
				t.Errorf("header %t, fault %d, kind %d; want %t, %d, %d", ok, fault, v.Kind, c.ok, c.fault, c.kind)
			}
		})
	}
}

// TestWhole: what a first piece alone cannot tell.
func TestWhole(t *testing.T) {
	for _, c := range []struct {
		name   string
		b      []byte
		length int
		want   Fault
		kind   Kind
	}{
		{"TCP", tcpPacket(t, 12), 100, OK, KindFlow},
		{"TCP, an offset below its header", with(tcpPacket(t, 12), set(32, 0x40)), 100, BadTransport, 0},
		{"TCP, an offset beyond the datagram", with(tcpPacket(t, 12), set(32, 0xf0)), 40, BadTransport, 0},
		{"UDP", udpPacket(t, 8), 16, OK, KindFlow},
		{"UDP, longer than the datagram", with(udpPacket(t, 8), set(24, 0, 17)), 16, BadTransport, 0},
		{"ICMP error", with(icmpPacket(t, Unreachable, 0)[:28], set(2, 0, 28)), 64, OK, KindError},
		{"another protocol", with(udpPacket(t, 8), set(9, 47)), 64, OK, KindOther},
	} {
		b := with(c.b, set(6, 0x20, 0))
		var v View
		if fault := v.Parse(b); fault != OK {
			t.Fatalf("%s: fault %d", c.name, fault)
		}
		if fault := v.Whole(b, c.length); fault != c.want || fault == OK && v.Kind != c.kind {
			t.Errorf("%s: fault %d, kind %d; want %d, %d", c.name, fault, v.Kind, c.want, c.kind)
		}
	}
}

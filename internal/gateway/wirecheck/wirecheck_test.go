// SPDX-License-Identifier: Apache-2.0

package wirecheck

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

var (
	external = net.IP{203, 0, 113, 1}
	inside   = net.IP{10, 0, 1, 10}
	remote   = net.IP{198, 51, 100, 1}
)

func checker() *Checker {
	return &Checker{
		Allowed: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")},
		Inside:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
	}
}

func serialize(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func ip(proto layers.IPProtocol, src net.IP) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 60, Protocol: proto, SrcIP: src, DstIP: remote}
}

func tcp(t *testing.T, src net.IP) []byte {
	h, seg := ip(layers.IPProtocolTCP, src), &layers.TCP{SrcPort: 40000, DstPort: 80, SYN: true}
	_ = seg.SetNetworkLayerForChecksum(h)
	return serialize(t, h, seg, gopacket.Payload("odd"))
}

func udp(t *testing.T, src net.IP) []byte {
	h, dgram := ip(layers.IPProtocolUDP, src), &layers.UDP{SrcPort: 40000, DstPort: 53}
	_ = dgram.SetNetworkLayerForChecksum(h)
	return serialize(t, h, dgram, gopacket.Payload("query"))
}

// unreachable quotes a packet to dst.
func unreachable(t *testing.T, dst net.IP) []byte {
	quoted := &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: remote, DstIP: dst}
	dgram := &layers.UDP{SrcPort: 53, DstPort: 40000}
	_ = dgram.SetNetworkLayerForChecksum(quoted)
	q := serialize(t, quoted, dgram)
	return serialize(t, ip(layers.IPProtocolICMPv4, external),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(q))
}

func flip(b []byte, at int) []byte {
	b[at] ^= 0x10
	return b
}

// TestPlanted: what is right passes, and each planted fault is found as what it is.
func TestPlanted(t *testing.T) {
	noSum := udp(t, external)
	noSum[26], noSum[27] = 0, 0
	fragment := udp(t, external)
	fragment[6] = 0x20 // more fragments; the header's sum is fixed for it, that of the datagram is not in it
	copy(fragment[10:], []byte{0, 0})
	be.PutUint16(fragment[10:], ^sum(fragment[:20], 0))

	for _, tt := range []struct {
		name                      string
		b                         []byte
		leaks, badSums, malformed int
	}{
		{"TCP", tcp(t, external), 0, 0, 0},
		{"UDP", udp(t, external), 0, 0, 0},
		{"UDP without checksum", noSum, 0, 0, 0},
		{"ICMP error", unreachable(t, external), 0, 0, 0},
		{"fragment", fragment, 0, 0, 0},
		{"padded", append(tcp(t, external), 0, 0, 0), 0, 0, 0},
		{"leak, TCP", tcp(t, inside), 1, 0, 0},
		{"leak, not inside", udp(t, net.IP{192, 0, 2, 1}), 1, 0, 0},
		{"leak in a quote", unreachable(t, inside), 1, 0, 0},
		{"IP checksum", flip(tcp(t, external), 8), 0, 1, 0},
		{"TCP checksum", flip(tcp(t, external), 36), 0, 1, 0},
		{"TCP payload", flip(tcp(t, external), 42), 0, 1, 0},
		{"UDP checksum", flip(udp(t, external), 26), 0, 1, 0},
		{"ICMP checksum", flip(unreachable(t, external), 22), 0, 1, 0},
		{"short", tcp(t, external)[:19], 0, 0, 1},
		{"cut", tcp(t, external)[:30], 0, 0, 1},
		{"IPv6", append([]byte{0x60}, make([]byte, 39)...), 0, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := checker()
			c.Packet(tt.b)
			r := c.Report
			if r.Packets != 1 || r.Leaks != tt.leaks || r.BadSums != tt.badSums || r.Malformed != tt.malformed {
				t.Errorf("%+v", r)
			}
			if n := tt.leaks + tt.badSums + tt.malformed; len(r.Findings) != n || (r.Err() != nil) != (n > 0) {
				t.Errorf("findings %q, error %v", r.Findings, r.Err())
			}
		})
	}
}

// TestPcap: the same through a file, in both formats; other protocols of Ethernet are passed over.
func TestPcap(t *testing.T) {
	ether := func(b []byte) []byte { return append([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 0}, b...) }
	arp := append([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 6}, make([]byte, 28)...)
	packets := [][]byte{ether(tcp(t, external)), arp, ether(tcp(t, inside)), ether(flip(udp(t, external), 26))}
	info := func(b []byte) gopacket.CaptureInfo {
		return gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(b), Length: len(b)}
	}

	var plain bytes.Buffer
	w := pcapgo.NewWriter(&plain)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	var ng bytes.Buffer
	nw, err := pcapgo.NewNgWriter(&ng, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if err := w.WritePacket(info(p), p); err != nil {
			t.Fatal(err)
		}
		if err := nw.WritePacket(info(p), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := nw.Flush(); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{"pcap": plain.Bytes(), "pcapng": ng.Bytes()} {
		c := checker()
		if err := c.Pcap(bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
		if r := c.Report; r.Packets != 3 || r.Leaks != 1 || r.BadSums != 1 || r.Malformed != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if err := checker().Pcap(bytes.NewReader([]byte("no capture at all, whatever it says"))); err == nil {
		t.Error("a text passed as a capture")
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

var update = flag.Bool("update", false, "write testdata anew")

// frame is a packet of a capture: all of it is made, and what comes out is read, by gopacket.
type frame struct {
	outside bool
	at      time.Duration
	data    []byte
	length  int // 0: that of data
}

var began = time.Date(2024, 2, 29, 23, 59, 59, 999999999, time.UTC)

func serialize(ls ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		panic(err) // of the test's own making
	}
	return slices.Clone(buf.Bytes())
}

func ip(src, dst string, ttl uint8, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: ttl, Id: 77, Flags: layers.IPv4DontFragment, Protocol: proto,
		SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
}

func udp(src string, sport uint16, dst string, dport uint16, ttl uint8, payload string) []byte {
	i := ip(src, dst, ttl, layers.IPProtocolUDP)
	u := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	if err := u.SetNetworkLayerForChecksum(i); err != nil {
		panic(err)
	}
	return serialize(i, u, gopacket.Payload(payload))
}

func tcp(src string, sport uint16, dst string, dport uint16, ttl uint8, seq, ack uint32) []byte {
	i := ip(src, dst, ttl, layers.IPProtocolTCP)
	t := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Seq: seq, Ack: ack, SYN: seq%1000 == 0, ACK: ack != 0, Window: 64240}
	if err := t.SetNetworkLayerForChecksum(i); err != nil {
		panic(err)
	}
	return serialize(i, t)
}

// unreachable is an error about a packet, echo a query.
func unreachable(src, dst string, about []byte) []byte {
	return serialize(ip(src, dst, 64, layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort)}, gopacket.Payload(about))
}

func echo(src, dst string, id uint16) []byte {
	return serialize(ip(src, dst, 64, layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id, Seq: 1}, gopacket.Payload("ping"))
}

// ethernet puts a packet into a frame, with VLAN tags; padded to what Ethernet wants.
func ethernet(typ layers.EthernetType, body []byte, vlans ...uint16) []byte {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	ls := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: typ}}
	if len(vlans) > 0 {
		ls[0].(*layers.Ethernet).EthernetType = layers.EthernetTypeDot1Q
	}
	for i, v := range vlans {
		t := layers.EthernetTypeDot1Q
		if i == len(vlans)-1 {
			t = typ
		}
		ls = append(ls, &layers.Dot1Q{VLANIdentifier: v, Type: t})
	}
	b := serialize(append(ls, gopacket.Payload(body))...)
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

// story is the worked example; port is where the query has its mapping.
func story(port uint16) []frame {
	arp := []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 1, 10, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1}
	const host, web, server, client, public = "10.0.1.10", "10.0.1.20", "198.51.100.53", "198.51.100.7", "203.0.113.1"
	return []frame{
		{false, 0, ethernet(layers.EthernetTypeIPv4, udp(host, 40000, server, 7, 64, "anybody there?"), 7, 8), 0},
		{true, 20 * time.Millisecond, udp(server, 7, public, port, 57, "nobody"), 0},
		{true, time.Second, tcp(client, 41000, public, 8080, 63, 1000, 0), 0},
		{false, time.Second + time.Nanosecond, ethernet(layers.EthernetTypeIPv4, tcp(web, 80, client, 41000, 64, 5000, 1001)), 0},
		{true, 900 * time.Millisecond, tcp(client, 41000, public, 8080, 63, 1001, 5001), 0}, // stamped too early
		{true, 1500 * time.Millisecond, tcp(client, 41000, public, 22, 63, 1000, 0), 0},
		{false, 2 * time.Second, ethernet(layers.EthernetTypeIPv4, udp(host, 40001, server, 7, 1, "")), 0},
		{false, 2500 * time.Millisecond, ethernet(layers.EthernetTypeARP, arp), 0},
	}
}

// captureOf is a capture of frames: Ethernet inside, raw IP outside.
func captureOf(t testing.TB, frames []frame) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: "inside", LinkType: layers.LinkTypeEthernet}, pcapgo.NgWriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(pcapgo.NgInterface{Name: "outside", LinkType: layers.LinkTypeRaw}); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		ci := gopacket.CaptureInfo{Timestamp: began.Add(f.at), CaptureLength: len(f.data), Length: max(f.length, len(f.data))}
		if f.outside {
			ci.InterfaceIndex = 1
		}
		if err := w.WritePacket(ci, f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// got is a packet of an output.
type got struct {
	at      time.Duration
	outside bool
	text    string // ends, and what else is told
	ttl     uint8
}

// readOutput reads a capture and checks each packet's checksums.
func readOutput(t testing.TB, b []byte) (all []got) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(data, layers.LayerTypeIPv4, gopacket.DecodeOptions{})
		if p.ErrorLayer() != nil {
			t.Fatal(p.ErrorLayer().Error())
		}
		v4 := p.NetworkLayer().(*layers.IPv4)
		g := got{at: ci.Timestamp.Sub(began), outside: in.Name == "outside", ttl: v4.TTL}
		if l := p.TransportLayer(); l != nil {
			f := l.TransportFlow()
			g.text = v4.Protocol.String() + " " + v4.SrcIP.String() + ":" + f.Src().String() + " > " + v4.DstIP.String() + ":" + f.Dst().String()
		} else if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
			g.text = "ICMP " + v4.SrcIP.String() + " > " + v4.DstIP.String() + " " + icmp.TypeCode.String()
		}
		again := gopacket.NewSerializeBuffer() // the same with its checksums made anew
		var ls []gopacket.SerializableLayer
		for _, l := range p.Layers() {
			switch l := l.(type) {
			case *layers.TCP:
				_ = l.SetNetworkLayerForChecksum(v4)
				ls = append(ls, l)
			case *layers.UDP:
				_ = l.SetNetworkLayerForChecksum(v4)
				ls = append(ls, l)
			case gopacket.SerializableLayer:
				ls = append(ls, l)
			}
		}
		if err := gopacket.SerializeLayers(again, gopacket.SerializeOptions{ComputeChecksums: true}, ls...); err != nil || !bytes.Equal(again.Bytes(), data) {
			t.Errorf("%s: % x, with its checksums made anew % x (%v)", g.text, data, again.Bytes(), err)
		}
		all = append(all, g)
	}
}

// replayed is the result of a run.
type replayed struct {
	exit     int
	out, err string
	file     []byte
}

// runOn runs on a capture with further arguments; those with a % have the directory in place of it.
func runOn(t testing.TB, capture []byte, args ...string) replayed {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, capture, 0o600); err != nil {
		t.Fatal(err)
	}
	all := []string{"--config", "testdata/replay.yaml", "--seed", "1"}
	for _, a := range args {
		all = append(all, strings.ReplaceAll(a, "%", dir))
	}
	var stdout, stderr bytes.Buffer
	r := replayed{exit: run(append(all, in, out), &stdout, &stderr)}
	r.out, r.err = stdout.String(), stderr.String()
	if b, err := os.ReadFile(out); err == nil {
		r.file = b
	}
	return r
}

// mapped is the external port of the first query of the story.
func mapped(t testing.TB) uint16 {
	t.Helper()
	r := runOn(t, captureOf(t, story(1)[:1]))
	all := readOutput(t, r.file)
	if r.exit != 0 || len(all) != 1 {
		t.Fatalf("%+v", r)
	}
	src, _, _ := strings.Cut(all[0].text, " > ")
	_, port, _ := strings.Cut(src, ":")
	n, err := net.LookupPort("udp", port)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// TestStory is the worked example: what is in testdata, and in the documentation.
func TestStory(t *testing.T) {
	capture := captureOf(t, story(mapped(t)))
	r := runOn(t, capture, "--drain", "10s", "--verdicts", "%/verdicts")
	if r.exit != 0 || r.err != "" {
		t.Fatalf("%+v", r)
	}
	if *update {
		for name, b := range map[string][]byte{"in.pcapng": capture, "out.pcapng": r.file} {
			if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, b := range map[string][]byte{"in.pcapng": capture, "out.pcapng": r.file} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil || !bytes.Equal(want, b) {
			t.Errorf("not the same as testdata/%s (%v): go test -update writes it anew", name, err)
		}
	}
	want := []got{
		{0, true, "UDP 203.0.113.1:P > 198.51.100.53:7", 63},
		{20 * time.Millisecond, false, "UDP 198.51.100.53:7 > 10.0.1.10:40000", 56},
		{time.Second, false, "TCP 198.51.100.7:41000 > 10.0.1.20:80", 62},
		{time.Second + 1, true, "TCP 203.0.113.1:8080 > 198.51.100.7:41000", 63},
		{time.Second + 1, false, "TCP 198.51.100.7:41000 > 10.0.1.20:80", 62},
		{2 * time.Second, false, "ICMP 198.51.100.53 > 10.0.1.10 TimeExceeded(TTLExceeded)", 64},
		{7500 * time.Millisecond, true, "ICMP 203.0.113.1 > 198.51.100.7 DestinationUnreachable(Port)", 64},
	}
	for i, g := range readOutput(t, r.file) {
		if i == 0 {
			want[0].text = g.text
		}
		if i >= len(want) || g != want[i] {
			t.Errorf("packet %d of the output is %+v", i+1, g)
		}
	}
	doc, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	x := runOn(t, capture, "--explain", "6")
	explained, _, _ := strings.Cut(x.out, "\n8 packets")
	for _, text := range []string{r.out, explained} {
		for l := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			if !strings.Contains(string(doc), "//\t"+l+"\n") {
				t.Errorf("the documentation lacks %q", l)
			}
		}
	}
}

// TestDeterminism: the same input and seed make the same bytes; another seed makes others; 0 is a seed.
func TestDeterminism(t *testing.T) {
	capture := captureOf(t, story(2000))
	for _, seed := range []string{"0", "1", "18446744073709551615"} {
		one, two := runOn(t, capture, "--seed", seed), runOn(t, capture, "--seed", seed, "--explain", "3")
		if one.exit != 0 || !bytes.Equal(one.file, two.file) {
			t.Errorf("seed %s: two runs differ", seed)
		}
		if other := runOn(t, capture, "--seed", "2"); bytes.Equal(one.file, other.file) {
			t.Errorf("seeds %s and 2 make the same", seed)
		}
	}
}

// TestVerdicts: a line for each packet.
func TestVerdicts(t *testing.T) {
	port := mapped(t)
	frames := story(port)
	frames = append(frames,
		frame{false, 3 * time.Second, ethernet(layers.EthernetTypeIPv6, make([]byte, 40)), 0},
		frame{false, 3 * time.Second, ethernet(0x05dc, make([]byte, 40)), 0},
		frame{false, 3 * time.Second, []byte{1, 2, 3}, 0},
		frame{true, 3 * time.Second, udp("198.51.100.53", 7, "203.0.113.1", port, 57, "a long answer")[:30], 41},
		frame{false, 3 * time.Second, ethernet(layers.EthernetTypeIPv4, udp("10.0.1.10", 40000, "198.51.100.54", 53, 9, ""))[:44], 60}, // padding was cut
		frame{true, 3 * time.Second, []byte{0x60, 0, 0, 0}, 0},
		frame{true, 3 * time.Second, unreachable("198.51.100.1", "203.0.113.1", udp("203.0.113.1", port, "198.51.100.53", 7, 9, "")), 0},
		frame{false, 3 * time.Second, ethernet(layers.EthernetTypeIPv4, unreachable("10.0.1.10", "198.51.100.53", udp("198.51.100.53", 7, "10.0.1.10", 40000, 9, ""))), 0},
		frame{false, 3 * time.Second, ethernet(layers.EthernetTypeIPv4, echo("10.0.1.10", "198.51.100.53", 4321)), 0},
	)
	r := runOn(t, captureOf(t, frames), "--verdicts", "-")
	if r.exit != 0 || !strings.Contains(r.err, "17 packets in 3s: 10 from inside, 7 from outside") {
		t.Fatalf("%+v", r)
	}
	var all []line
	for d := json.NewDecoder(strings.NewReader(r.out)); d.More(); {
		var l line
		if err := d.Decode(&l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	want := []struct {
		side, verdict, in string // in is part of the line's other texts
		emitted           int
	}{
		{"inside", "outbound", "udp 10.0.1.10:40000 > 198.51.100.53:7", 0},
		{"outside", "inbound", "10.0.1.10:40000 = 203.0.113.1:", 0},
		{"outside", "inbound", "10.0.1.20:80 = 203.0.113.1:8080", 0},
		{"inside", "outbound", "10.0.1.20:80 = 203.0.113.1:8080", 0},
		{"outside", "inbound", "2024-03-01T00:00:01Z late", 0},
		{"outside", "held_syn", "six seconds", 0},
		{"inside", "ttl", "the time to live ended here", 1},
		{"inside", "not_ipv4", "Ethernet type 0x0806", 0},
		{"inside", "not_ipv4", "Ethernet type 0x86dd", 0},
		{"inside", "not_ipv4", "IEEE 802.3", 0},
		{"inside", "bad_frame", "3 bytes are no Ethernet frame", 0},
		{"outside", "snaplen", "the capture has 30 of its 41 bytes", 0},
		{"inside", "outbound", "outside udp 203.0.113.1:", 0},
		{"outside", "malformed", "less than a header", 0},
		{"outside", "icmp_error_inbound", "10.0.1.10:40000 = 203.0.113.1:", 0},
		{"inside", "icmp_error_outbound", "10.0.1.10:40000 = 203.0.113.1:", 0},
		{"inside", "outbound", "10.0.1.10 id 4321 = 203.0.113.1 id ", 0},
	}
	if len(all) != len(want) {
		t.Fatalf("%d lines:\n%s", len(all), r.out)
	}
	for i, l := range all {
		late := ""
		if l.Late {
			late = " late"
		}
		texts := strings.Join([]string{l.Time + late, l.Flow, l.Mapping, l.Reason, l.To, l.Became}, " ")
		w := want[i]
		if l.Packet != i+1 || l.Side != w.side || l.Verdict != w.verdict || l.Emitted != w.emitted || !strings.Contains(texts, w.in) {
			t.Errorf("line %d is %+v", i+1, l)
		}
	}
}

// TestClassic: a classic pcap of one side, in any of its link types.
func TestClassic(t *testing.T) {
	query := udp("10.0.1.10", 40000, "198.51.100.53", 7, 64, "")
	for link, data := range map[layers.LinkType][]byte{
		layers.LinkTypeRaw: query, 12: query, 14: query, layers.LinkTypeIPv4: query,
		layers.LinkTypeEthernet: ethernet(layers.EthernetTypeIPv4, query),
	} {
		var b bytes.Buffer
		w := pcapgo.NewWriter(&b)
		if err := errors.Join(w.WriteFileHeader(65535, link), w.WritePacket(gopacket.CaptureInfo{Timestamp: began, CaptureLength: len(data), Length: len(data)}, data)); err != nil {
			t.Fatal(err)
		}
		r := runOn(t, b.Bytes(), "--side", "inside")
		if r.exit != 0 || len(readOutput(t, r.file)) != 1 {
			t.Errorf("link type %d: %+v", link, r)
		}
		if link == layers.LinkTypeRaw {
			if r := runOn(t, b.Bytes()); r.exit != 2 || !strings.Contains(r.err, "add --side inside or --side outside") {
				t.Errorf("without a side: %+v", r)
			}
			if r := runOn(t, b.Bytes(), "--side", "outside"); r.exit != 0 || !strings.Contains(r.out, "martian") {
				t.Errorf("on the wrong side: %+v", r)
			}
		}
	}
}

// TestTruncated: of a file cut anywhere, what was read is written, and the error says where it ends.
func TestTruncated(t *testing.T) {
	capture := captureOf(t, story(2000)[:4])
	whole := readOutput(t, runOn(t, capture).file)
	for n := range len(capture) {
		r := runOn(t, capture[:n])
		if r.exit == 0 {
			if r.err != "" || len(r.file) == 0 {
				t.Fatalf("%d bytes: %+v", n, r)
			}
			continue
		}
		if r.exit != 2 || !strings.Contains(r.err, ": packet ") || !strings.Contains(r.err, ", at byte ") {
			t.Fatalf("%d bytes: %+v", n, r)
		}
		if len(r.file) == 0 { // not even a header was read
			continue
		}
		for i, g := range readOutput(t, r.file) {
			if g != whole[i] {
				t.Fatalf("%d bytes: packet %d of the output is %+v", n, i+1, g)
			}
		}
	}
}

// TestDrain: after the last packet the clock stops, or goes on for as long as is said.
func TestDrain(t *testing.T) {
	capture := captureOf(t, story(2000)[5:6])
	for drain, want := range map[string]int{"0s": 0, "5.999s": 0, "6s": 1, "1000h": 1, "2562047h": 1} {
		r := runOn(t, capture, "--drain", drain)
		all := readOutput(t, r.file)
		if r.exit != 0 || len(all) != want {
			t.Errorf("%s: %+v, %+v", drain, r, all)
		}
		// The engine counts milliseconds from the first packet, which this one is.
		if want == 1 && all[0].at != 7500*time.Millisecond {
			t.Errorf("%s: the timer fired at %v", drain, all[0].at)
		}
	}
}

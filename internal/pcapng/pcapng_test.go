// SPDX-License-Identifier: Apache-2.0

package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// all reads a whole capture.
func all(b []byte) (ps []Packet, err error) {
	r, err := NewReader(bytes.NewReader(b))
	for err == nil {
		var p Packet
		if err = r.Next(&p); err == nil {
			p.Data = bytes.Clone(p.Data)
			ps = append(ps, p)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return ps, err
}

// block makes one of any content.
func block(order binary.AppendByteOrder, typ uint32, body ...byte) []byte {
	n := uint32(12 + len(body))
	b := order.AppendUint32(order.AppendUint32(nil, typ), n)
	return order.AppendUint32(append(b, body...), n)
}

func words(order binary.AppendByteOrder, vs ...uint32) (b []byte) {
	for _, v := range vs {
		b = order.AppendUint32(b, v)
	}
	return b
}

func section(order binary.AppendByteOrder) []byte {
	b := order.AppendUint32(nil, magicOrder)
	b = order.AppendUint16(order.AppendUint16(b, 1), 0)
	return block(order, magicSection, append(b, words(order, math.MaxUint32, math.MaxUint32)...)...)
}

func iface(order binary.AppendByteOrder, link uint16, snap uint32, options ...byte) []byte {
	b := order.AppendUint16(order.AppendUint16(nil, link), 0)
	return block(order, blockInterface, append(order.AppendUint32(b, snap), options...)...)
}

var at0 = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// TestReadsPcapgo: what gopacket writes is read, byte for byte, nanosecond for nanosecond.
func TestReadsPcapgo(t *testing.T) {
	var ng, classic bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&ng, pcapgo.NgInterface{Name: "inside", LinkType: layers.LinkTypeEthernet, Comment: "one"}, pcapgo.DefaultNgWriterOptions)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(pcapgo.NgInterface{Name: "outside", LinkType: layers.LinkTypeRaw, Filter: "ip"}); err != nil {
		t.Fatal(err)
	}
	old := pcapgo.NewWriterNanos(&classic)
	if err := old.WriteFileHeader(1000, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for i := range 9 {
		b := bytes.Repeat([]byte{byte(i)}, 20+i)
		ci := gopacket.CaptureInfo{Timestamp: at0.Add(time.Duration(i) * time.Millisecond), CaptureLength: len(b), Length: len(b) + i, InterfaceIndex: i % 2}
		if err := errors.Join(w.WritePacket(ci, b), old.WritePacket(ci, b)); err != nil {
			t.Fatal(err)
		}
		if i == 4 { // a block in between that is no packet
			if err := w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{LastUpdate: at0}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []*bytes.Buffer{&ng, &classic} {
		ps, err := all(file.Bytes())
		if err != nil || len(ps) != 9 {
			t.Fatalf("%d packets, %v", len(ps), err)
		}
		for i, p := range ps {
			if p.Number != i+1 || p.Time != at0.Add(time.Duration(i)*time.Millisecond).UnixNano() || !bytes.Equal(p.Data, bytes.Repeat([]byte{byte(i)}, 20+i)) || p.Length != 20+2*i {
				t.Errorf("packet %d is %+v", i+1, p)
			}
			want := Interface{Link: LinkRaw}
			if file == &ng {
				want = [2]Interface{{Name: "inside", Link: LinkEthernet}, {Name: "outside", Link: LinkRaw}}[i%2]
			}
			if p.Interface.Name != want.Name || p.Interface.Link != want.Link {
				t.Errorf("packet %d is of %+v", i+1, *p.Interface)
			}
		}
	}
}

// written is a file of a Writer.
func written(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	in, err1 := w.Interface("inside", "a comment")
	out, err2 := w.Interface("outside", "")
	err := errors.Join(err1, err2, w.Packet(out, at0.UnixNano(), []byte("12345")), w.Packet(in, at0.UnixNano()+1, []byte("12345678")), w.Flush())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPcapgoReads: what a Writer writes is read by gopacket and by us.
func TestPcapgoReads(t *testing.T) {
	b := written(t)
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	ps, err := all(b)
	if err != nil || len(ps) != 2 {
		t.Fatalf("%d packets, %v", len(ps), err)
	}
	for i, name := range []string{"outside", "inside"} {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		in, err := r.Interface(ci.InterfaceIndex)
		if err != nil || in.Name != name || in.LinkType != layers.LinkTypeIPv4 || in.OS != "" {
			t.Errorf("%v, %+v", err, in)
		}
		p := ps[i]
		if !bytes.Equal(data, p.Data) || p.Interface.Name != name || ci.Timestamp.UnixNano() != p.Time || p.Length != len(data) {
			t.Errorf("%+v is %+v for pcapgo", p, ci)
		}
	}
	if s := r.SectionInfo(); s != (pcapgo.NgSectionInfo{}) {
		t.Errorf("the section header says %+v", s)
	}
}

// TestTruncated: of a file that ends early, all whole packets are read, and the error names the next one and its place.
func TestTruncated(t *testing.T) {
	ng := written(t)
	var c bytes.Buffer
	w := pcapgo.NewWriter(&c)
	if err := w.WriteFileHeader(1000, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: at0, CaptureLength: 5, Length: 5}, []byte("12345")); err != nil {
			t.Fatal(err)
		}
	}
	for _, whole := range [][]byte{ng, c.Bytes()} {
		ps, err := all(whole)
		if err != nil {
			t.Fatal(err)
		}
		ends := map[int64]bool{} // of blocks
		for at := int64(0); at < int64(len(whole)); {
			switch {
			case &whole[0] == &ng[0]:
				at += int64(binary.LittleEndian.Uint32(whole[at+4:]))
			case at == 0:
				at = 24
			default:
				at += 16 + 5
			}
			ends[at] = true
		}
		for n := range len(whole) {
			got, err := all(whole[:n])
			want := 0
			for _, p := range ps {
				if end := nextEnd(ends, p.Offset); end <= int64(n) {
					want++
				}
			}
			if len(got) != want {
				t.Fatalf("%d bytes: %d packets, want %d", n, len(got), want)
			}
			if ends[int64(n)] {
				if err != nil {
					t.Errorf("%d bytes, at the end of a block: %v", n, err)
				}
				continue
			}
			var e *Error
			if !errors.As(err, &e) || e.Packet != want+1 || e.Offset > int64(n) || n > 4 && !errors.Is(err, io.ErrUnexpectedEOF) || e.Offset > 0 && !ends[e.Offset] {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
}

// nextEnd is the first of ends after at.
func nextEnd(ends map[int64]bool, at int64) int64 {
	best := int64(math.MaxInt64)
	for e := range ends {
		if e > at {
			best = min(best, e)
		}
	}
	return best
}

// TestBlocks are files of blocks that pcapgo does not write, in both byte orders.
func TestBlocks(t *testing.T) {
	for _, o := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		cat := func(bs ...[]byte) []byte { return bytes.Join(bs, nil) }
		opt := func(code uint16, v string) []byte {
			b := append(o.AppendUint16(o.AppendUint16(nil, code), uint16(len(v))), v...)
			return append(b, make([]byte, (4-len(v)%4)%4)...)
		}
		other := binary.AppendByteOrder(binary.BigEndian)
		if o == other {
			other = binary.LittleEndian
		}
		packet := func(id uint32, data string) []byte {
			n := uint32(len(data))
			return block(o, blockEnhanced, append(words(o, id, 0, 7, n, n), data...)...)
		}
		for _, c := range []struct {
			name string
			file []byte
			want string // what is read: the data of packets
			err  string
		}{
			{"unknown blocks", cat(section(o), block(o, 0x80001234, words(o, 1, 2, 3)...), iface(o, 228, 0), block(o, 11), packet(0, "data")), "data", ""},
			{"a large unknown block", cat(section(o), block(o, 0x99, make([]byte, 2*maxBlock)...), iface(o, 228, 0), packet(0, "data")), "data", ""},
			{"two sections in both orders", cat(section(other), iface(other, 1, 0), section(o), iface(o, 228, 0), packet(0, "data")), "data", ""},
			{"an interface of the section before", cat(section(o), iface(o, 228, 0), section(o), packet(0, "data")), "", "packet 1, at byte 76: it names interface 0, and there are 0"},
			{"a simple packet", cat(section(o), iface(o, 228, 0), block(o, blockSimple, append(words(o, 3), "abc\x00"...)...)), "abc", ""},
			{"a simple packet, cut", cat(section(o), iface(o, 228, 2), block(o, blockSimple, append(words(o, 3), "ab\x00\x00"...)...)), "ab", ""},
			{"a simple packet, first", cat(section(o), block(o, blockSimple, words(o, 0)...)), "", "before any interface"},
			{"an obsolete packet", cat(section(o), iface(o, 228, 0), block(o, blockPacket, append(cat(o.AppendUint16(o.AppendUint16(nil, 0), 5), words(o, 0, 7, 4, 4)), "data"...)...)), "data", ""},
			{"more than its block has", cat(section(o), iface(o, 228, 0), block(o, blockEnhanced, words(o, 0, 0, 7, 5, 5, 0)...)), "", "a packet of 5 bytes in a block that has 4"},
			{"4 GiB", cat(section(o), words(o, blockEnhanced, math.MaxUint32-3)), "", "a block of 4294967292 bytes"},
			{"no length", cat(section(o), words(o, 5, 8, 8, 8)), "", "a block cannot be 8 bytes long"},
			{"two lengths", cat(section(o), words(o, 5, 16, 0, 20)), "", "16 bytes long by its head, and 20 by its end"},
			{"two lengths of a packet", cat(section(o), words(o, blockEnhanced, 16, 0, 20)), "", "16 bytes long by its head, and 20 by its end"},
			{"an order of no kind", words(o, magicSection, 28, 5, 5, 5, 5, 28), "", "a section header without a byte order"},
			{"version 2", block(o, magicSection, words(o, magicOrder, 0x00020002, 0, 0)...), "", "version 2 of pcapng is not known"},
			{"an option too long", cat(section(o), iface(o, 228, 0, opt(optName, "x")[:4]...)), "", "an option of an interface runs out"},
			{"a resolution of nothing", cat(section(o), iface(o, 228, 0, opt(optRes, "")...)), "", "has 0 bytes"},
			{"an offset of a word", cat(section(o), iface(o, 228, 0, opt(optOffset, "abcd")...)), "", "has 4 bytes"},
			{"options and no end", cat(section(o), iface(o, 228, 0, opt(optName, "x")...), packet(0, "data")), "data", ""},
			{"a time before all", cat(section(o), iface(o, 228, 0, opt(optOffset, string(append(words(o, math.MaxUint32), words(o, math.MaxUint32)...)))...), packet(0, "data")), "", "before 1970 or after 2262"},
			{"nothing", nil, "", "no capture"},
			{"text", []byte("inside,outside\n"), "", "neither pcapng nor pcap"},
			{"gzip", []byte("\x1f\x8b\x08\x00data"), "", "gunzip"},
			{"pcap of version 7", cat(words(o, magicMicro), o.AppendUint16(nil, 7), make([]byte, 18)), "", "version 7 of pcap"},
			{"pcap, 4 GiB", cat(words(o, magicMicro), o.AppendUint16(nil, 2), make([]byte, 18), words(o, 0, 0, math.MaxUint32, 0)), "", "packet 1, at byte 24: it claims to have 4294967295 bytes"},
		} {
			ps, err := all(c.file)
			got := ""
			for _, p := range ps {
				got += string(p.Data)
			}
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, %s: read %q, %v", o, c.name, got, err)
			}
		}
	}
}

// TestResolution: if_tsresol and if_tsoffset.
func TestResolution(t *testing.T) {
	const bad = -1
	for _, c := range []struct {
		digits uint8
		binary bool
		stamp  uint64
		offset int64
		want   int64
	}{
		{6, false, 1_500_000, 0, 1_500_000_000},
		{9, false, 1_500_000, 0, 1_500_000},
		{0, false, 3, 0, 3_000_000_000},
		{3, false, 3, 10, 10_003_000_000},
		{12, false, 1_999, 0, 1},
		{28, false, math.MaxUint64, 0, 1},
		{29, false, math.MaxUint64, 0, 0},
		{127, false, math.MaxUint64, 0, 0},
		{0, true, 3, 0, 3_000_000_000},
		{10, true, 1<<10 + 1<<9, 0, 1_500_000_000},
		{32, true, 7<<32 | 1<<31, -7, 500_000_000},
		{64, true, 1 << 63, 0, 500_000_000},
		{100, true, math.MaxUint64, 0, 0},
		{9, false, math.MaxInt64, 0, math.MaxInt64},
		{9, false, math.MaxInt64 + 1, 0, bad},
		{9, false, math.MaxInt64, 1, bad},
		{0, false, math.MaxUint64, 0, bad},
		{9, false, 5, -1, bad},
		{9, false, 5, math.MinInt64, bad},
		{9, false, 5, math.MaxInt64, bad},
	} {
		got, err := resolution{c.digits, c.binary}.nanoseconds(c.stamp, c.offset)
		if err != nil {
			got = bad
		}
		if got != c.want {
			t.Errorf("%+v: %d, %v", c, got, err)
		}
	}
}

// TestUnreadable: what the disk says is passed on.
func TestUnreadable(t *testing.T) {
	broken := errors.New("the disk is broken")
	r, err := NewReader(io.MultiReader(bytes.NewReader(written(t)[:40]), errReader{broken}))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Next(new(Packet)); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "packet 1, at byte 28: ") {
		t.Errorf("%v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// FuzzReader: any bytes are read or refused, in order, without a panic and within bounds.
func FuzzReader(f *testing.F) {
	f.Add(written(f))
	f.Add([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x65\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x45"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ps, err := all(b)
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Packet != len(ps)+1 || e.Offset > int64(len(b))) {
			t.Errorf("%d packets of %d bytes, and %v", len(ps), len(b), err)
		}
		var before int64
		for i, p := range ps {
			if p.Number != i+1 || p.Offset < before || p.Offset+int64(len(p.Data)) > int64(len(b)) || p.Length < len(p.Data) || p.Time < 0 || p.Interface == nil {
				t.Fatalf("packet %d: %+v", i+1, p)
			}
			before = p.Offset + 1
		}
	})
}

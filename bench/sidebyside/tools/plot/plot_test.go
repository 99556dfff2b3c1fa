// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// drawn says whether both files of a plot are what their names say, and returns the text of the vector one.
func drawn(t *testing.T, out string) (text string) {
	t.Helper()
	f, err := os.Open(out + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	colours := map[any]bool{}
	for x := range img.Bounds().Dx() {
		for y := range img.Bounds().Dy() {
			colours[img.At(x, y)] = true
		}
	}
	if len(colours) < 4 {
		t.Errorf("%d colours in the picture", len(colours))
	}
	v, err := os.Open(out + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for d := xml.NewDecoder(v); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return text
		}
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := token.(xml.CharData); ok {
			text += string(c)
		}
	}
}

func write(t *testing.T, text string) (file, out string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "in")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, filepath.Join(dir, "out")
}

func TestGateway(t *testing.T) {
	file, out := write(t, `{"format":1,"peers":[{"name":"nft"},{"name":"tidegate"}],"samples":[
		{"peer":"nft","row":"tcp1-up","value":10},{"peer":"tidegate","row":"tcp1-up","value":5},
		{"peer":"nft","row":"rtt-idle","value":60,"p90":80,"p99":200},{"peer":"tidegate","row":"rtt-idle","value":120,"p90":150,"p99":400},
		{"peer":"tidegate","row":"rtt-load","error":"lost"}]}`)
	if err := run([]string{"gateway", file, out}); err != nil {
		t.Fatal(err)
	}
	text := drawn(t, out)
	for _, want := range []string{"tidegate", "tcp1-up", "load p99", "nft masquerade = 1.00"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
}

func TestMedian(t *testing.T) {
	r := results{}
	for _, v := range []float64{9, 1, 4, 2} {
		r.Samples = append(r.Samples, struct {
			Peer, Row, Error string
			Value, P90, P99  float64
		}{Peer: "a", Row: "b", Value: v, P99: 10 * v})
	}
	r.Samples[0].Error = "lost"
	if p50, p99, none := r.median("a", "b", "p50"), r.median("a", "b", "p99"), r.median("a", "c", "p50"); p50 != 2 || p99 != 20 || none != 0 {
		t.Error(p50, p99, none)
	}
}

const bench = `goos: linux
BenchmarkEstablished/profile=gateway/proto=tcp/flows=1/dir=both/batch=64-2  	 100	 0 ns/op	 30.5 ns/packet	 18.0 floor-ns/packet	 1.694 x-floor	 0 B/op
BenchmarkEstablished/profile=gateway/proto=tcp/flows=1/dir=both/batch=64-2  	 100	 0 ns/op	 32.5 ns/packet	 19.0 floor-ns/packet	 1.694 x-floor	 0 B/op
BenchmarkEstablished/profile=gateway/proto=tcp/flows=65536/dir=both/batch=64  	 100	 0 ns/op	 90 ns/packet	 40 floor-ns/packet
BenchmarkEstablished/profile=gateway/proto=tcp/flows=65536/dir=out/batch=64  	 100	 0 ns/op	 1 ns/packet
BenchmarkEstablished/profile=gateway/proto=udp/flows=65536/dir=both/batch=64  	 100	 0 ns/op	 1 ns/packet
BenchmarkGVisor/proto=tcp/flows=1/dir=both/batch=1-2  	 100	 0 ns/op	 5700 ns/packet
`

func TestEngine(t *testing.T) {
	found := parseEngine(bench)
	if us := found["tidegate"]; len(us) != 2 || len(us[1]) != 2 || us[65536][0] != 90 {
		t.Errorf("%v", found)
	}
	if found["frozen floor"][65536][0] != 40 || found["gVisor netstack"][1][0] != 5700 {
		t.Errorf("%v", found)
	}
	file, out := write(t, bench)
	if err := run([]string{"engine", file, out}); err != nil {
		t.Fatal(err)
	}
	if text := drawn(t, out); !strings.Contains(text, "gVisor netstack") || !strings.Contains(text, "ns/packet") {
		t.Errorf("%q", text)
	}
}

func TestBad(t *testing.T) {
	file, out := write(t, `{"format":2}`)
	for _, args := range [][]string{nil, {"gateway", file, out}, {"engine", file, out}, {"other", file, out}, {"gateway", out, out}} {
		if err := run(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
	if _, err := os.Stat(out + ".svg"); err == nil {
		t.Error("a plot of nothing")
	}
}

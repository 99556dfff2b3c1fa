// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// TestCommand: exit codes, and what is said.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	other := func(name string, link layers.LinkType) string {
		var b bytes.Buffer
		w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: name, LinkType: link}, pcapgo.NgWriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		data := story(1)[0].data
		err = errors.Join(w.WritePacket(gopacket.CaptureInfo{Timestamp: began, CaptureLength: len(data), Length: len(data)}, data), w.Flush())
		if err != nil {
			t.Fatal(err)
		}
		return file(name+".pcapng", b.String())
	}
	in, out, config := "testdata/in.pcapng", filepath.Join(dir, "out"), "testdata/replay.yaml"
	same := file("same.pcapng", string(captureOf(t, story(1))))
	bad := file("bad.yaml", "inside: {prefix: 10.0.0.0/8}\n")
	for _, c := range []struct {
		name        string
		args        []string
		exit        int
		out, errOut string
	}{
		{"help", []string{"--help"}, 0, "replay --config gateway.yaml --seed 1 in.pcapng out.pcapng", ""},
		{"version", []string{"--version"}, 0, "tidegate replay ", ""},
		{"nothing", nil, 2, "", "see replay --help"},
		{"no configuration", []string{in, out}, 2, "", "--config"},
		{"a run", []string{"-c", config, in, out}, 0, "8 packets in 2.5s", ""},
		{"no output", []string{"-c", config, in}, 2, "", "name a file OUT to write, or --explain N"},
		{"bad configuration", []string{"-c", bad, in, out}, 2, "", `bad.yaml:1: inside.prefix: unknown key`},
		{"no such configuration", []string{"-c", "none.yaml", in, out}, 2, "", "none.yaml"},
		{"no such input", []string{"-c", config, "none.pcapng", out}, 2, "", "none.pcapng"},
		{"no capture", []string{"-c", config, config, out}, 2, "", "packet 1, at byte 0: the file is no capture"},
		{"output over input", []string{"-c", config, same, same}, 2, "", "is the capture to read"},
		{"verdicts over input", []string{"-c", config, "--verdicts", same, same, out}, 2, "", "is the capture to read"},
		{"output nowhere", []string{"-c", config, in, filepath.Join(dir, "none", "out")}, 2, "", "no such file"},
		{"a side of pcapng", []string{"-c", config, "--side", "inside", in, out}, 2, "", "leave out --side"},
		{"a side of no kind", []string{"-c", config, "--side", "left", in, out}, 2, "", "--side"},
		{"back in time", []string{"-c", config, "--drain=-1s", in, out}, 2, "", "cannot be negative"},
		{"other interfaces", []string{"-c", config, other("eth0", layers.LinkTypeEthernet), out}, 2, "1 other_interface: from an interface named neither", `its interfaces are named ["eth0"]`},
		{"another link type", []string{"-c", config, other("inside", layers.LinkTypeLinuxSLL), out}, 2, "", `packet 1, at byte 72: interface "inside" has link type 113`},
		{"explain", []string{"-c", config, "--explain", "6", in}, 0, "verdict   held_syn", ""},
		{"explain a query, after the others", []string{"-c", config, "--explain", "2", "--seed", "1", in}, 0, "udp 10.0.1.10:40000 = 203.0.113.1:", ""},
		{"explain in JSON", []string{"-c", config, "--explain", "6", "--json", in}, 0, `"verdict": "held_syn"`, ""},
		{"explain what is none", []string{"-c", config, "--explain", "8", in}, 0, "packet 8 was not for the engine: not an IPv4 packet: Ethernet type 0x0806", ""},
		{"explain what is not there", []string{"-c", config, "--explain", "9", in}, 2, "", "has 8 packets, so there is no packet 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := run(c.args, &stdout, &stderr)
			if exit != c.exit || !strings.Contains(stdout.String(), c.out) || !strings.Contains(stderr.String(), c.errOut) {
				t.Errorf("exit %d, want %d\n%s%s", exit, c.exit, stdout.String(), stderr.String())
			}
			if exit == 0 && stderr.Len() > 0 || exit != 0 && stderr.Len() == 0 {
				t.Errorf("on standard error: %q", stderr.String())
			}
		})
	}
	if b, err := os.ReadFile(same); err != nil || !bytes.Equal(b, captureOf(t, story(1))) {
		t.Errorf("the input was written to: %v", err)
	}
}

// TestFullDisk: what cannot be written is a failure while running, and said.
func TestFullDisk(t *testing.T) {
	const full = "/dev/full" // takes nothing, where there is such a thing
	if _, err := os.Stat(full); err != nil {
		t.Logf("no %s here: %v", full, err)
		return
	}
	for _, args := range [][]string{{"testdata/in.pcapng", full}, {"--verdicts", full, "testdata/in.pcapng", filepath.Join(t.TempDir(), "out")}} {
		var stdout, stderr bytes.Buffer
		if exit := run(append([]string{"-c", "testdata/replay.yaml"}, args...), &stdout, &stderr); exit != exitFailed || !strings.Contains(stderr.String(), "no space") {
			t.Errorf("%v: exit %d, %s", args, exit, stderr.String())
		}
	}
}

// BenchmarkReplay is a capture of 100,000 packets of 1,000 flows, both ways, without and with verdicts.
func BenchmarkReplay(b *testing.B) {
	const packets, flows = 100_000, 1000
	frames := make([]frame, packets)
	for i := range frames {
		frames[i] = frame{false, time.Duration(i) * 50 * time.Microsecond, ethernet(layers.EthernetTypeIPv4, udp("10.0.1.10", uint16(20000+i%flows), "198.51.100.53", 443, 64, "some payload")), 0}
	}
	dir := b.TempDir()
	in := filepath.Join(dir, "in")
	if err := os.WriteFile(in, captureOf(b, frames), 0o600); err != nil {
		b.Fatal(err)
	}
	for name, args := range map[string][]string{"verdicts=no": nil, "verdicts=yes": {"--verdicts", filepath.Join(dir, "verdicts")}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				var out bytes.Buffer
				if exit := run(append(args, "-c", "testdata/replay.yaml", in, filepath.Join(dir, "out")), &out, &out); exit != 0 {
					b.Fatal(out.String())
				}
			}
			b.ReportMetric(float64(b.N)*packets/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/nat/internal/invariants"
	"github.com/tidegate/tidegate/nat/internal/twin/sim"
	"github.com/tidegate/tidegate/packet"
)

// sequences are the scripts that a fuzzer starts from. Together they reach every verdict.
func sequences() (scripts [][]byte) {
	for seed := range uint64(8) {
		scripts = append(scripts, sim.Script(seed, 40))
	}
	for _, seed := range []uint64{178, 179, 264, 0, 24, 78} {
		scripts = append(scripts, sim.Script(seed, 120))
	}
	return scripts
}

// TestSequencesReachEveryVerdict: if not, there is a seed too few among sequences.
func TestSequencesReachEveryVerdict(t *testing.T) {
	var all [nat.NumVerdicts]uint64
	for _, s := range sequences() {
		counts, err := sim.Play(s)
		if err != nil {
			t.Fatal(err)
		}
		for v, n := range counts {
			all[v] += n
		}
	}
	if missing := sim.Missing(all); len(missing) > 0 {
		t.Errorf("never reached: %v", missing)
	}
}

// FuzzSequence plays scripts of packets, times and policies that the fuzzer writes: no crash, no leak, no invalid output
// from valid input, nothing that the twin would not do. The verdicts that each process reaches are added to the file that
// TIDEGATE_VERDICTS names.
func FuzzSequence(f *testing.F) {
	for _, s := range sequences() {
		f.Add(s)
	}
	var reached [nat.NumVerdicts]bool
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), sim.HeadSize+400*sim.OpSize)] // longer ones find nothing more
		counts, err := sim.Play(script)
		if err != nil {
			t.Error(err)
		}
		for v, n := range counts {
			if n > 0 && !reached[v] {
				reached[v] = true
				report(t, nat.Verdict(v))
			}
		}
	})
}

func report(t *testing.T, v nat.Verdict) {
	name := os.Getenv("TIDEGATE_VERDICTS")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f, v); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// FuzzPacket sends one packet, which may be anything, from either side through an engine with sessions, mappings, forwards
// and 1:1 mappings: as it is, and with the header checksum made right, without which little is reached.
func FuzzPacket(f *testing.F) {
	p := policy(custom(func(f *nat.Profile) { f.Stray = nat.StrayPickup }), forwardTo, static(C, E1), mtu(700, 700), func(p *nat.Policy) { p.MSSClamp = 500 })
	start := func(t testing.TB) (*nat.Engine, [][]byte) {
		e, err := nat.New(nat.Config{Seed: 1, Sessions: 16, FragmentBytes: 1, HeldSYNs: 4}, &p)
		if err != nil {
			t.Fatal(err)
		}
		w := e.Worker()
		var packets [][]byte
		for _, proto := range allProtocols {
			b := of(proto, at(A, 5000), at(R1, 80))
			packets = append(packets, b)
			out := packet.From(b)
			if v := w.Translate(&out, 0, 0); v != nat.Outbound {
				t.Fatal(v)
			}
			ext := out.Bytes()
			packets = append(packets, answer(proto, at(R1, 80), srcOf(ext)), icmp(X, PA, packet.TimeExceeded, 0, 0, ext),
				icmp(A, R1, packet.Unreachable, 3, 0, answer(proto, at(R1, 80), at(A, 5000))), withOptions(b, 8))
		}
		return e, packets
	}
	_, seeds := start(f)
	seeds = append(seeds, tcp(at(R1, 9), at(PA, 8080), syn, 1, 0, ""), udp(at(C, 9), at(R1, 9), ""), craft.IPv4(head(C, R1), packet.DCCP, make([]byte, 16)),
		datagram(at(A, 5000), at(R1, 80), 7, make([]byte, 900)), craft.Cut(datagram(at(C, 5000), at(R1, 80), 7, make([]byte, 900)), 400)[0])
	for _, b := range seeds {
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, outside bool) {
		e, _ := start(t)
		w, laws := e.Worker(), invariants.New(&p)
		from := nat.AttachmentID(0)
		if outside {
			from = 1
		}
		send := func(b []byte) {
			in := packet.From(b)
			out := in.Clone()
			v := w.Translate(&out, from, 0)
			if err := laws.Packet(from, in, out, v, w.Emitted()); err != nil {
				t.Fatalf("%v: %v, of %s", v, err, craft.Describe(b))
			}
		}
		if len(b) > 65535 {
			return
		}
		send(b)
		if len(b) >= 20 {
			if hlen := int(b[0]&15) * 4; hlen >= 20 && hlen <= len(b) {
				send(craft.SetTTL(bytes.Clone(b), b[8]))
			}
		}
		if err := e.Check(0); err != nil {
			t.Fatal(err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
)

// The same worlds and operations as in scripts, as a state machine whose every choice rapid makes: what fails is shrunk to
// a few steps with small numbers. -rapid.checks=N runs N of them.

// TestMachine holds engine and twin against each other. In half of the runs the engine plays batches and the twin packet
// by packet.
func TestMachine(t *testing.T) { rapid.Check(t, machine(together, nil)) }

// TestMachineShards is about several shards, where the twin cannot know what a short supply has for whom: batches and
// workers that take turns, and only the laws and the engine's own books.
func TestMachineShards(t *testing.T) { rapid.Check(t, machine(alone, nil)) }

const (
	together = false
	alone    = true
)

func machine(alone bool, fault tamper) func(*rapid.T) {
	return func(t *rapid.T) {
		numbers := map[int]*rapid.Generator[int]{}
		d := &dice{draw: func(k int) int {
			if numbers[k] == nil {
				numbers[k] = rapid.IntRange(0, k-1)
			}
			return numbers[k].Draw(t, "choice")
		}}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		w := newWorld(d, alone)
		s, err := newSim(w)
		must(err)
		s.trace = func(line string) { t.Log(line) }
		s.note("world %+v", w)
		s.tamper, s.batches, s.explain = fault, d.one(2), d.one(4)
		if alone {
			s.twin = nil
		}
		does := func(first, last kind) func(*rapid.T) {
			return func(*rapid.T) { must(s.op(first+kind(d.n(int(last-first))), d)) }
		}
		t.Repeat(map[string]func(*rapid.T){
			"":                   func(*rapid.T) { must(s.check()) },
			"time passes":        does(passTime, changePolicy-1),
			"the policy changes": does(changePolicy-1, changePolicy),
			"a batch":            does(changePolicy, sendBatch),
			"fragments":          does(sendBatch, sendPieces),
			"a flood":            does(sendPieces, flood),
			"a host starts":      does(flood, start+1),
			"outside answers":    does(start+1, answerIn+1),
			"inside answers":     does(answerIn+1, answerOut+1),
			"somebody goes on":   does(answerOut+1, goOn+1),
			"somebody knocks":    does(goOn+1, tryIn+1),
			"outside complains":  does(tryIn+1, complainIn+1),
			"inside complains":   does(complainIn+1, complainOut+1),
			"a hairpin":          does(complainOut+1, hairpin+1),
			"a late fragment":    does(hairpin+1, kinds),
			"another worker":     func(*rapid.T) { s.worker = s.engine.Worker() },
		})
		must(s.end())
	}
}

// TestMachineShrinks plants faults in what the engine returns: each is found, and told in a few steps.
func TestMachineShrinks(t *testing.T) {
	write := flag.Lookup("rapid.nofailfile")
	was := write.Value.String()
	if err := write.Value.Set("true"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = write.Value.Set(was) }()
	for name, c := range map[string]struct {
		alone bool
		fault tamper
		want  string
	}{
		"a byte of payload": {together, func(p *packet.Packet, v nat.Verdict) {
			if v == nat.Inbound && p.Len > 40 {
				p.Bytes()[p.Len-1] ^= 1
			}
		}, "differs from byte"},
		"a leak": {alone, func(p *packet.Packet, v nat.Verdict) {
			if v == nat.Outbound && p.Bytes()[9] == packet.UDP {
				copy(p.Bytes()[12:], hosts[0].AsSlice())
				craft.SetTTL(p.Bytes(), p.Bytes()[8])
			}
		}, "leak"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() { // which FailNow may end
				defer close(done)
				rapid.Check(r, machine(c.alone, c.fault))
			}()
			<-done
			told := r.text.String()
			if !r.failed || !strings.Contains(told, c.want) {
				t.Fatalf("not found: %s", told)
			}
			// The last run is the shrunk one; each operation begins with the choice of an action.
			if n := strings.Count(told, "draw action"); n > 6 {
				t.Errorf("%d actions: %s", n, told)
			}
		})
	}
}

// recorder is a test that may fail.
type recorder struct {
	rapid.TB
	text   strings.Builder
	failed bool
}

func (r *recorder) Logf(format string, args ...any) { fmt.Fprintf(&r.text, format+"\n", args...) }
func (r *recorder) Log(args ...any)                 { fmt.Fprintln(&r.text, args...) }
func (r *recorder) Fail()                           { r.failed = true }
func (r *recorder) FailNow()                        { r.failed = true; runtime.Goexit() }
func (r *recorder) Failed() bool                    { return r.failed }
func (r *recorder) Error(args ...any)               { r.Log(args...); r.Fail() }
func (r *recorder) Errorf(f string, args ...any)    { r.Logf(f, args...); r.Fail() }
func (r *recorder) Fatal(args ...any)               { r.Log(args...); r.FailNow() }
func (r *recorder) Fatalf(f string, args ...any)    { r.Logf(f, args...); r.FailNow() }

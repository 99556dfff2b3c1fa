// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// Check is one thing that was expected of a step, and what was seen.
type Check struct {
	What     string `json:"what"`
	Expected string `json:"expected"`
	Seen     string `json:"seen"`
	OK       bool   `json:"ok"`
}

// Step is one step of the story, as it went.
type Step struct {
	Number   int           `json:"step"`
	Title    string        `json:"title"`
	OK       bool          `json:"ok"`
	Duration time.Duration `json:"duration_ns"`
	Checks   []Check       `json:"checks"`
}

// Report is the whole story, as it went.
type Report struct {
	OK bool `json:"ok"`
	// Mode and Fault are for the maker of the World to fill in: what kind it is, and what was planted in it.
	Mode  string `json:"mode,omitempty"`
	Fault string `json:"fault,omitempty"`
	Tools Tools  `json:"tools"`
	Steps []Step `json:"steps"`
}

// Differing are the numbers of the steps that did not go as expected.
func (r *Report) Differing() []int {
	var n []int
	for _, s := range r.Steps {
		if !s.OK {
			n = append(n, s.Number)
		}
	}
	return n
}

// Options are what Run may be told. The zero value is usable.
type Options struct {
	// Mark is told the beginning of each step, "step 1: ...", and the end of the last.
	Mark func(text string)
	// Progress is told each step when it is over.
	Progress func(Step)
}

// stepTimeout bounds a step, whatever hangs.
const stepTimeout = 30 * time.Second

// Story is a world with its servers running, ready to be told. It is for one goroutine.
type Story struct {
	World
	net      *Network
	tools    Tools
	keys     *keys
	services services
	cancel   context.CancelFunc
	step     *Step
}

// steps are the story. Each goes on from where the one before it ended.
var steps = []struct {
	title string
	run   func(*Story, context.Context)
}{
	{"was and db talk directly", (*Story).privateTalk},
	{"a client on the internet loads a page from web, which asks was, which asks db", (*Story).page},
	{"ssh from the internet to bastion, and through it to was", (*Story).jump},
	{"a package update on was gets no answer", (*Story).noPath},
	{"Elastic IPs on was and db: the update works, and both are exposed", (*Story).elastic},
	{"the Elastic IPs are disassociated: both ways are shut, and nobody else notices", (*Story).disassociated},
	{"a NAT gateway: out works, in is refused", (*Story).natGateway},
	{"web stops and starts: its lent address goes back, a fresh one comes", (*Story).restart},
}

// New starts the servers in w, whose edge has the policy of n already. Programs among them end with ctx at the latest;
// Close ends all.
func New(ctx context.Context, n *Network, w World, t Tools) (_ *Story, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Story{World: w, net: n, tools: t, cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start servers: %w", err), s.Close())
		}
	}()
	if s.keys, err = newKeys(); err != nil {
		return nil, err
	}
	if err := s.services.start(w); err != nil {
		return nil, err
	}
	for _, h := range insideHosts {
		if err := s.services.serveSSH(ctx, t, w.Host(h.name), s.keys); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Close ends the servers. The World goes on, and is for its maker to close.
func (s *Story) Close() error {
	s.cancel()
	return s.services.close()
}

// Run tells the story, once. What went otherwise than expected is in the Report; a story that ctx ends is incomplete,
// and its Report is not OK.
func (s *Story) Run(ctx context.Context, o Options) *Report {
	r := &Report{OK: true, Tools: s.tools}
	for i := range steps {
		if ctx.Err() != nil {
			r.OK = false
			break
		}
		st := s.runStep(ctx, i, o)
		r.Steps = append(r.Steps, st)
		r.OK = r.OK && st.OK
		if o.Progress != nil {
			o.Progress(st)
		}
	}
	if o.Mark != nil {
		o.Mark("end")
	}
	return r
}

func (s *Story) runStep(ctx context.Context, i int, o Options) Step {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	st := Step{Number: i + 1, Title: steps[i].title, OK: true}
	s.step = &st
	if o.Mark != nil {
		o.Mark(fmt.Sprintf("step %d: %s", st.Number, st.Title))
	}
	start := time.Now()
	mark := s.Log().Mark()
	wrong, err := s.ChecksumErrors()
	if err != nil {
		s.failed("checksum errors before the step", err)
	}
	steps[i].run(s, ctx)
	s.always(mark, wrong)
	st.Duration = time.Since(start)
	return st
}

// always are the checks that hold in every step.
func (s *Story) always(mark int, wrong uint64) {
	leaks := s.Log().Find(mark, func(p *lab.Seen) bool {
		return p.Outside && p.Sent && !publicPool.Contains(p.Src.Addr())
	})
	seen := "none"
	if len(leaks) > 0 {
		seen = fmt.Sprintf("%d, the first from %s to %s", len(leaks), leaks[0].Src.Addr(), leaks[0].Dst.Addr())
	}
	s.equal("packets that left with a source that is not public", "none", seen)
	now, err := s.ChecksumErrors()
	if err != nil {
		s.failed("checksum errors at the hosts", err)
		return
	}
	s.equal("checksum errors at the hosts", 0, int(now-wrong))
	if err := s.Err(); err != nil {
		s.failed("the edge itself", err)
	}
	if s.Log().Full() {
		s.failed("the log of the edge", errors.New("it is full, so what was seen is not all there was"))
	}
}

// equal checks that something is as expected.
func (s *Story) equal(what string, expected, seen any) {
	e, g := fmt.Sprint(expected), fmt.Sprint(seen)
	s.check(what, e == g, e, g)
}

// check is for expectations that are not one value.
func (s *Story) check(what string, ok bool, expected, seen string) {
	s.step.Checks = append(s.step.Checks, Check{What: what, Expected: expected, Seen: seen, OK: ok})
	s.step.OK = s.step.OK && ok
}

// works checks that something did not fail.
func (s *Story) works(what string, err error) bool {
	seen := "works"
	if err != nil {
		seen = err.Error()
	}
	s.check(what, err == nil, "works", seen)
	return err == nil
}

// fails checks that something did.
func (s *Story) fails(what string, err error) {
	seen := "works"
	if err != nil {
		seen = "fails: " + err.Error()
	}
	s.check(what, err != nil, "fails", seen)
}

// failed is for what should not be able to.
func (s *Story) failed(what string, err error) { s.check(what, false, "no error", err.Error()) }

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// A reload is all or nothing. The new file is read by the running process, checked whole, held against what the engine
// and the interfaces cannot change, and against the machine; until then nothing has been touched. Then the machine
// withdraws the addresses that go, the engine changes its policy between two packets, and the machine publishes what is
// new. A machine that refuses on the way is brought back, and the engine, too.
//
// The process has only CAP_NET_ADMIN by then. So it reads the file as its user, without the rights over files that root
// has otherwise: a file of another user has to be readable for it.

// errNoFile: there is nothing to read again.
var errNoFile = errors.New("the gateway was started with flags and has no file to read again: start it with --config")

// errFrozen: somebody else has the configuration by now.
var errFrozen = errors.New("another process is taking over from this one: ask that")

// reloader has the configuration in force.
type reloader struct {
	path    string // "": from flags
	l       *loop
	m       machine
	log     *slog.Logger
	compile func(*config.Config) *nat.Policy

	// one is held during a reload: one comes after the other.
	one sync.Mutex
	// mu is of what follows.
	mu      sync.Mutex
	cfg     *config.Config
	pol     *nat.Policy
	loaded  time.Time
	refused bool // the last reload was

	frozen bool // one: there are to be no more reloads
	// announce is told when a reload begins, and when it has ended; nil for nobody.
	announce func(begins bool)
}

func newReloader(path string, c *config.Config, l *loop, m machine, log *slog.Logger, compile func(*config.Config) *nat.Policy) *reloader {
	return &reloader{path: path, l: l, m: m, log: log, compile: compile, cfg: c, pol: compile(c), loaded: time.Now()}
}

// config and policy are what is in force; nobody writes to them.
func (r *reloader) config() *config.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cfg
}

func (r *reloader) policy() *nat.Policy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pol
}

// source is where the configuration in force is from, and of when.
func (r *reloader) source() (name string, loaded time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.path == "" {
		return "command line", r.loaded
	}
	return r.path, r.loaded
}

// state is when a configuration was last taken, and whether the last reload, if any, was.
func (r *reloader) state() (loaded time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded, !r.refused
}

// reload reads the file and puts it in force; with dry it says what that would do and changes nothing. The error is
// config.Faults, ErrRefused or errNoFile if the old configuration goes on as if nothing had been.
func (r *reloader) reload(dry bool) (control.Reload, error) {
	r.one.Lock()
	defer r.one.Unlock()
	if r.frozen {
		return control.Reload{Source: r.path}, errFrozen
	}
	if !dry && r.announce != nil {
		r.announce(true)
		defer r.announce(false)
	}
	next, pol, result, err := r.preview()
	if err == nil && !dry {
		err = r.put(next, pol, &result)
	}
	if dry {
		result.DryRun = true
		return result, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused = err != nil; r.refused {
		r.log.Error("reload refused, the old configuration goes on", "error", err)
		return result, err
	}
	r.cfg, r.pol, r.loaded = next, pol, time.Now()
	r.log.Info("reloaded", "changed", strings.Join(result.Changed, " "), "kept", result.Kept, "draining", result.Draining, "cut", result.Cut)
	return result, nil
}

// freeze waits for a reload that is under way, and lets no other begin.
func (r *reloader) freeze() {
	r.one.Lock()
	defer r.one.Unlock()
	r.frozen = true
}

// follow reloads whenever signals has something, until the returned function is called.
func (r *reloader) follow(signals <-chan os.Signal) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-signals:
				_, _ = r.reload(false) // it says itself in the log how it went
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-done }
}

// preview reads the file and looks at everything that could be wrong with it.
func (r *reloader) preview() (next *config.Config, pol *nat.Policy, result control.Reload, err error) {
	result.Source = r.path
	if r.path == "" {
		return nil, nil, result, errNoFile
	}
	if next, err = config.LoadNext(r.path, r.cfg); err != nil {
		if !errors.As(err, new(config.Faults)) {
			err = refuse("the configuration cannot be read (as the gateway's user, without special rights): %w", err)
		}
		return nil, nil, result, err
	}
	if err := r.m.fits(next); err != nil {
		return nil, nil, result, err
	}
	pol = r.compile(next)
	impact, err := r.l.engine.Preview(pol, r.l.now())
	if err != nil {
		return nil, nil, result, refusal{err}
	}
	result.Changed = config.Changes(r.cfg, next)
	result.Kept, result.Draining, result.Cut = impact.Kept, impact.Draining, impact.Cut
	return next, pol, result, nil
}

// put brings machine and engine to next.
func (r *reloader) put(next *config.Config, pol *nat.Policy, result *control.Reload) error {
	swapped := false
	err := r.m.become(next, func() error {
		impact, err := r.l.engine.Apply(pol, r.l.now())
		if err != nil {
			return err
		}
		swapped = true
		result.Kept, result.Draining, result.Cut = impact.Kept, impact.Draining, impact.Cut
		return nil
	})
	if err == nil {
		return nil
	}
	if swapped {
		if _, back := r.l.engine.Apply(r.pol, r.l.now()); back != nil {
			return errors.Join(err, back)
		}
		return fmt.Errorf("the old configuration is in force again, without the %d sessions that the new one cut: %w", result.Cut, err)
	}
	return err
}

// missing are the elements of all that are not among some.
func missing[T comparable](all, some []T) []T {
	return slices.DeleteFunc(slices.Clone(all), func(v T) bool { return slices.Contains(some, v) })
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/recordfile"
	"github.com/tidegate/tidegate/nat"
)

// A gateway that starts finds what the one before it left in three ways: in the file at the path of the configuration, in
// a memfd that the service manager kept, or in what the one that runs hands over. It is looked at when nothing has been
// touched yet, and adopted at the last moment before the machine is changed. Where the tables have other sizes now, the
// records go over to a new file, which takes the place of the old one when it is complete.

// memory is where the records of the engine are.
type memory struct {
	path     string // of the configuration: config.Memfd, or "" for the heap
	unusable config.Unusable
	isGiven  bool // the path was written down, and is no default
	log      *slog.Logger

	file    *recordfile.File // what the engine writes to; nil: the heap
	old     *recordfile.File // what is there, until it becomes file or is dropped
	inPlace bool             // file was there
	// note is what the file says to the next owner.
	note note
}

// note is left in the file for the next owner, as JSON.
type note struct {
	// Configuration is a digest of the configuration; Namespace the network namespace.
	Configuration, Namespace string
	// Restore are names and values of sysctls that were set and are to be set back, by whoever comes to that.
	Restore [][2]string `json:",omitempty"`
}

// newMemory is for a configuration; it opens nothing.
func newMemory(c *config.Config, log *slog.Logger) (*memory, error) {
	text, err := c.YAML()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	m := &memory{path: c.StatePath(), unusable: c.State.Unusable, isGiven: c.State.File != "", log: log}
	m.note.Configuration = hex.EncodeToString(sum[:8])
	m.note.Namespace, err = namespace()
	return m, err
}

// namespace names the network namespace of the process.
func namespace() (string, error) { return os.Readlink("/proc/self/ns/net") }

// noteOf is what the last owner of f left; nothing if that cannot be read.
func noteOf(f *recordfile.File) (n note) {
	if err := json.Unmarshal(f.Notes(), &n); err != nil {
		return note{}
	}
	return n
}

// find looks for what a gateway that runs no more has left, and makes this process the owner. kept is a descriptor that the
// service manager kept, or nil.
func (m *memory) find(kept *os.File) error {
	if m.path == "" {
		return nil
	}
	var err error
	switch {
	case kept != nil:
		if m.old, err = recordfile.FromFD(kept, m.path); err == nil {
			err = m.old.Lock()
		}
	case m.path != config.Memfd:
		m.old, err = recordfile.Open(m.path)
	}
	var owned *recordfile.Owned
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.As(err, &owned):
		return fmt.Errorf("%w: %w", ErrRunning, err)
	case errors.Is(err, recordfile.ErrNoTmpfs):
		return m.without(err)
	case errors.Is(err, recordfile.ErrUnusable):
		return m.spoilt(err)
	case err != nil:
		return refusal{err}
	}
	return nil
}

// look looks at what a gateway that runs has, which is at path if that is not "". It is owned later.
func (m *memory) look(state *os.File, path string) (err error) {
	m.old, err = recordfile.FromFD(state, path)
	if errors.Is(err, recordfile.ErrUnusable) {
		return m.spoilt(err)
	}
	return err
}

// own makes this process the owner of what it has looked at.
func (m *memory) own() error {
	if m.old == nil {
		return nil
	}
	return m.old.Lock()
}

// reserve makes sure that there is room for a file of another size, or elsewhere.
func (m *memory) reserve(size int) error {
	if m.path == "" || m.usable() && m.samePlace() && len(m.old.Records()) == size {
		return nil
	}
	return m.create(size)
}

// spoilt is the configured choice about what is there and cannot be used. What was found stays owned.
func (m *memory) spoilt(err error) error {
	where := m.path
	if where == config.Memfd {
		where = "the memory that the service manager kept"
	}
	if m.unusable == config.Refuse {
		return refuse("the state in %s cannot be used: %w (remove it, or write state.unusable: empty, which starts without sessions)", where, err)
	}
	m.log.Warn("the state of the last run cannot be used: starting without sessions", "state", where, "error", err)
	return nil
}

// without is the choice about a place that nothing can be kept in: by default the gateway does without.
func (m *memory) without(err error) error {
	if m.isGiven {
		return refusal{err}
	}
	m.log.Warn("connections will not survive this process: write another path as state.file, or none", "error", err)
	m.path = ""
	return nil
}

// usable reports whether there is something to adopt.
func (m *memory) usable() bool { return m.old != nil && m.old.Usable() }

// engine is an engine with what is there, or an empty one. With what goes on it says so, in one line.
func (m *memory) engine(sizes nat.Config, p *nat.Policy, now time.Duration) (e *nat.Engine, err error) {
	if m.path == "" && !m.usable() {
		e, err := nat.New(sizes, p)
		return e, refused(err)
	}
	var a nat.Adoption
	if m.usable() {
		e, a, err = m.goOn(sizes, p, now)
		if isUnusable(err) {
			if err := m.spoilt(err); err != nil {
				return nil, err
			}
		} else if err != nil {
			return nil, refused(err)
		} else {
			m.tell(&a, sizes.Shards)
			return e, nil
		}
	}
	if err := m.create(sizes.RecordsSize()); err != nil {
		return nil, err
	}
	sizes.Records = m.records()
	e, err = nat.New(sizes, p)
	return e, refused(err)
}

// goOn adopts what is there: in its place, or in a new one if the tables have other sizes or are to be somewhere else.
func (m *memory) goOn(sizes nat.Config, p *nat.Policy, now time.Duration) (e *nat.Engine, a nat.Adoption, err error) {
	was := m.old.Records()
	if m.samePlace() && len(was) == sizes.RecordsSize() {
		sizes.Records = was
		e, a, err = nat.Adopt(sizes, was, p, now)
		if !errors.Is(err, nat.ErrRecordsLayout) {
			if err == nil {
				m.file, m.old, m.inPlace = m.old, nil, true
			}
			return e, a, err
		}
	}
	if err := m.create(sizes.RecordsSize()); err != nil {
		return nil, a, err
	}
	sizes.Records = m.records()
	e, a, err = nat.Adopt(sizes, was, p, now)
	if err != nil && m.file != nil {
		_ = m.file.Close() // it has no name yet
		m.file = nil
	}
	return e, a, err
}

// samePlace reports whether what is there is where it is to be.
func (m *memory) samePlace() bool {
	switch m.path {
	case "":
		return false
	case config.Memfd:
		return m.old.Path() == ""
	}
	return m.old.Path() == m.path
}

// create makes the file; with no room for it there is none, if the configuration lets that pass.
func (m *memory) create(size int) error {
	path := m.path
	switch path {
	case "":
		return nil
	case config.Memfd:
		path = ""
	}
	if m.file != nil { // by reserve
		return nil
	}
	f, err := recordfile.Create(path, size)
	switch {
	case errors.Is(err, recordfile.ErrNoTmpfs):
		return m.without(err)
	case errors.Is(err, recordfile.ErrNoRoom) && m.unusable == config.StartEmpty:
		m.log.Warn("connections will not survive this process", "error", err)
		return nil
	case err != nil:
		return refusal{err}
	}
	m.file = f
	return nil
}

// records are the memory for the engine; nil is the heap.
func (m *memory) records() []byte {
	if m.file == nil {
		return nil
	}
	return m.file.Records()
}

// isUnusable reports whether an engine can do nothing with the records that it was given.
func isUnusable(err error) bool {
	for _, e := range []error{nat.ErrNotRecords, nat.ErrRecordsVersion, nat.ErrRecordsLayout, nat.ErrRecordsDamaged} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// refused is an error of the engine about a configuration.
func refused(err error) error {
	if err == nil || errors.Is(err, ErrRefused) {
		return err
	}
	return refusal{err}
}

func (m *memory) tell(a *nat.Adoption, shards int) {
	from := m.old
	if from == nil {
		from = m.file
	}
	configuration := "another"
	if noteOf(from).Configuration == m.note.Configuration {
		configuration = "the same"
	}
	m.log.Info("adopted", "sessions", a.Sessions, "quarantined", a.Quarantined, "expired", a.Expired, "cut", a.Cut, "torn", a.Torn,
		"no_room", a.NoRoom, "age", a.Age.Round(time.Millisecond).String(), "configuration", configuration)
	if a.Shards < shards {
		m.log.Info("the tables stay in as few parts as those of the last run, so that the workers of several queues wait for each other more often; "+
			"gateway teardown before a start ends that, and the connections", "parts", a.Shards, "wanted", shards)
	}
}

// settle puts a new file in its place, gives up the old one, and has the loop count where the records are. From here on a
// start finds what this process writes. restore is what the last owner has left to set back.
func (m *memory) settle(l *loop) (restore []sysctl, err error) {
	last := m.old
	if m.inPlace {
		last = m.file
	}
	if last != nil && last.Usable() {
		m.note.Restore = noteOf(last).Restore
	}
	if m.file != nil {
		t := tallies(m.file.Counters())
		if m.usable() {
			copyTally(t, tallies(m.old.Counters()))
		}
		l.count(t)
		if err := m.write(); err != nil {
			return nil, err
		}
		if err := m.publish(); err != nil {
			return nil, err
		}
	}
	return restorable(m.note.Restore), m.drop()
}

// publish puts a new file in its place.
func (m *memory) publish() error {
	switch {
	case m.inPlace:
		return nil
	case m.old != nil && m.old.Path() == m.file.Path():
		return m.file.Publish(m.old)
	}
	// There may be one of other times, from when the configuration named this place before.
	var owned *recordfile.Owned
	stale, err := recordfile.Open(m.file.Path())
	switch {
	case errors.As(err, &owned):
		return fmt.Errorf("%w: %w", ErrRunning, err)
	case stale == nil:
		return m.file.Publish(nil) // there is none, or nothing that can be replaced, which it will say
	}
	return errors.Join(m.file.Publish(stale), stale.Close())
}

// drop gives the old file up, wherever it is.
func (m *memory) drop() error {
	if m.old == nil {
		return nil
	}
	old := m.old
	m.old = nil
	return errors.Join(old.Remove(), old.Close())
}

// remember leaves for the next owner what is to be set back at the end.
func (m *memory) remember(restore []sysctl) error {
	m.note.Restore = nil
	for _, v := range restore {
		m.note.Restore = append(m.note.Restore, [2]string{v.name, v.value})
	}
	return m.write()
}

func (m *memory) write() error {
	if m.file == nil {
		return nil
	}
	b, err := json.Marshal(&m.note)
	if err != nil {
		return err
	}
	return m.file.SetNotes(b)
}

// close gives up whatever there is, and leaves it in its place.
func (m *memory) close() error {
	var errs []error
	for _, f := range []**recordfile.File{&m.file, &m.old} {
		if *f != nil {
			errs = append(errs, (*f).Release())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// restorable are the sysctls of a note that a gateway sets.
func restorable(all [][2]string) (restore []sysctl) {
	for _, v := range all {
		in := strings.Split(v[0], "/")
		if (in[0] == "ipv4" || in[0] == "ipv6") && !slices.Contains(in, "..") && !slices.Contains(in, "") {
			restore = append(restore, sysctl{v[0], v[1]})
		}
	}
	return restore
}

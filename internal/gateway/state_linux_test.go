// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/recordfile"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// life is the part of a process that has to do with memory: what it finds, its engine, and its counters.
func life(t *testing.T, text string) (m *memory, l *loop, log string, err error) {
	t.Helper()
	c, err := config.Parse("f.yaml", []byte("inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if m, err = newMemory(c, slog.New(slog.NewTextHandler(&b, nil))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.close() })
	if err := m.find(nil); err != nil {
		return m, nil, b.String(), err
	}
	p, sizes := c.Compile()
	e, err := m.engine(sizes, p, uptime())
	if err != nil {
		return m, nil, b.String(), err
	}
	l = newLoop(e)
	l.base = 0
	if _, err := m.settle(l); err != nil {
		t.Fatal(err)
	}
	return m, l, b.String(), nil
}

// session makes one in the engine of a life.
func (l *loop) session(t *testing.T, from string) {
	t.Helper()
	ps, vs := []packet.Packet{datagram(t, from, "198.51.100.1:53")}, make([]nat.Verdict, 1)
	if l.engine.Worker().Batch(ps, nat.AttachmentID(nat.Inside), l.now(), vs); !vs[0].Forward() {
		t.Fatalf("%s: %v", from, vs[0])
	}
}

func (l *loop) sessions() (ends []netip.AddrPort) {
	for s := range l.engine.Sessions(l.now()) {
		ends = append(ends, s.Inside)
	}
	return ends
}

// smallTmpfs has room for size bytes.
func smallTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("a tmpfs needs root: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestMemory: sessions, counters and what is to be restored go on from life to life, in place or in tables of another size.
func TestMemory(t *testing.T) {
	path := filepath.Join(smallTmpfs(t, "16m"), "gw.state")
	text := func(sessions string) string {
		return "limits: {sessions: " + sessions + "}\nstate: {file: " + path + "}\n"
	}
	m, l, log, err := life(t, text("2048"))
	if err != nil || strings.Contains(log, "adopted") {
		t.Fatalf("%v\n%s", err, log)
	}
	l.session(t, "10.0.0.1:1000")
	l.sides[nat.Inside].readPackets.Add(7)
	if err := m.remember([]sysctl{{"ipv4/ip_forward", "0"}, {"../kernel/x", "1"}}); err != nil {
		t.Fatal(err)
	}
	var owned *recordfile.Owned
	if _, _, _, err := life(t, text("2048")); !errors.As(err, &owned) || owned.PID != os.Getpid() || !errors.Is(err, ErrRunning) {
		t.Errorf("with a living owner: %v", err)
	}
	for i, tt := range []struct{ sessions, configuration string }{{"2048", `"the same"`}, {"4096", "another"}, {"4096", `"the same"`}} {
		if err := m.close(); err != nil { // as when a process dies
			t.Fatal(err)
		}
		if m, l, log, err = life(t, text(tt.sessions)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log, "msg=adopted sessions=1 quarantined=0 expired=0 cut=0 torn=0 no_room=0 ") ||
			!strings.Contains(log, "configuration="+tt.configuration) {
			t.Errorf("life %d: %s", i, log)
		}
		if got := l.sessions(); len(got) != 1 || got[0].String() != "10.0.0.1:1000" {
			t.Errorf("life %d has sessions %v", i, got)
		}
		if n := l.sides[nat.Inside].readPackets.Load(); n != 7 {
			t.Errorf("life %d has read %d packets", i, n)
		}
		if got := restorable(m.note.Restore); len(got) != 1 || got[0] != (sysctl{"ipv4/ip_forward", "0"}) {
			t.Errorf("life %d is to restore %v", i, got)
		}
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// TestMemoryRoom: a file system without room is told of, and the configuration chooses what becomes of it.
func TestMemoryRoom(t *testing.T) {
	dir := smallTmpfs(t, "256k")
	text := "limits: {sessions: 65536}\nstate: {file: " + dir + "/gw.state, unusable: "
	_, _, log, err := life(t, text+"refuse}\n")
	if !errors.Is(err, ErrRefused) || !errors.Is(err, recordfile.ErrNoRoom) {
		t.Errorf("refuse: %v\n%s", err, log)
	}
	m, l, log, err := life(t, text+"empty}\n")
	if err != nil || m.file != nil || !strings.Contains(log, "connections will not survive this process") || !strings.Contains(log, "has 0.2 MiB") {
		t.Fatalf("empty: %v\n%s", err, log)
	}
	l.session(t, "10.0.0.1:1000")
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// TestStuck: a goroutine of the loop in the middle of something twice is stuck, one that waits is not.
func TestStuck(t *testing.T) {
	l := newLoop(nil).join(nil, nil).join(nil, nil)
	first, second := &l.sides[nat.Inside].queues[0].turns, &l.sides[nat.Outside].queues[1].turns
	seen := map[*turns]uint64{}
	for i, step := range []struct {
		do   func()
		want bool
	}{
		{func() {}, false},
		{func() { second.begin() }, false}, // it has only just begun
		{func() {}, true},
		{func() { second.end() }, false},
		{func() { second.begin(); second.end(); second.begin() }, false},
		{func() { second.end(); second.begin() }, false}, // another one
		{func() {}, true},
		{func() { first.begin(); first.end() }, true}, // of others is not its
		{func() { second.end() }, false},
		{func() { l.timers.begin() }, false},
		{func() {}, true},
	} {
		step.do()
		if got := l.stuck(seen); got != step.want {
			t.Errorf("step %d: stuck %v", i, got)
		}
	}
}

// TestMemoryUnusable: each choice about a file that cannot be gone on with, each with the reason. What is refused stays as it is.
func TestMemoryUnusable(t *testing.T) {
	write := func(at int64, b ...byte) func(string) error {
		return func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(b, at)
			return errors.Join(err, f.Close())
		}
	}
	for name, tt := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"older file":        {write(8, 0), "it has version 0"},
		"older records":     {write(8192+8, 1), "records of another version"},
		"head":              {write(16, 1), "the check sum is wrong"},
		"head of records":   {write(8192+24, 99), "damaged records"},
		"something else":    {write(0, 'x'), "it is no state file of a gateway"},
		"truncated":         {func(p string) error { return os.Truncate(p, 100_000) }, "it was truncated"},
		"empty":             {func(p string) error { return os.Truncate(p, 0) }, "it was truncated"},
		"of another user":   {func(p string) error { return os.Chown(p, 65534, 65534) }, "it belongs to user 65534"},
		"open to others":    {func(p string) error { return os.Chmod(p, 0o644) }, "others than its owner may open it"},
		"never formatted":   {write(8192, make([]byte, 4096)...), "not the records of an engine"},
		"of another clock":  {write(8192+128+7, 1), "on another clock"},
		"without a policy":  {write(8192+256, make([]byte, 17<<10)...), "neither of the two policies is whole"},
		"with other shards": {write(8192+32, 3), "damaged records"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(smallTmpfs(t, "16m"), "gw.state")
			text := func(choice string) string {
				return "limits: {sessions: 2048}\nstate: {file: " + path + ", unusable: " + choice + "}\n"
			}
			m, l, log, err := life(t, text("refuse"))
			if err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			l.session(t, "10.0.0.1:1000")
			if err := errors.Join(m.close(), tt.spoil(path)); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m, _, _, err = life(t, text("refuse"))
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("refuse: %v", err)
			}
			_ = m.close()
			after, err := os.ReadFile(path)
			const pid, owned = 72, 80 // who owned it last is written down
			if err != nil || len(before) != len(after) || len(after) > owned && (!bytes.Equal(before[:pid], after[:pid]) || !bytes.Equal(before[owned:], after[owned:])) {
				t.Errorf("it was written to, %v", err)
			}
			_, l, log, err = life(t, text("empty"))
			if err != nil || !strings.Contains(log, "starting without sessions") || !strings.Contains(log, tt.want) || len(l.sessions()) != 0 {
				t.Fatalf("empty: %v\n%s", err, log)
			}
			l.session(t, "10.0.0.1:1000")
		})
	}
}

// TestMemoryFull: the file system fills up while the gateway runs. What it has it has: sessions are made up to the last, and
// the next process goes on with them; larger tables, for which there is no room, are refused, or there is no state.
func TestMemoryFull(t *testing.T) {
	dir := smallTmpfs(t, "1m")
	text := func(sessions, choice string) string {
		return "limits: {sessions: " + sessions + "}\nprofile: aws\nstate: {file: " + dir + "/gw.state, unusable: " + choice + "}\n"
	}
	m, l, log, err := life(t, text("4096", "refuse"))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 4<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	const n = 2000
	for i := range n {
		l.session(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1000).String())
	}
	if err := errors.Join(m.remember([]sysctl{{"ipv4/ip_forward", "0"}}), m.close()); err != nil {
		t.Fatal(err)
	}
	if m, l, log, err = life(t, text("4096", "refuse")); err != nil || len(l.sessions()) != n {
		t.Fatalf("%d sessions, %v\n%s", len(l.sessions()), err, log)
	}
	_ = m.close()
	if m, _, log, err = life(t, text("65536", "refuse")); !errors.Is(err, ErrRefused) || !errors.Is(err, recordfile.ErrNoRoom) {
		t.Errorf("larger tables, refuse: %v\n%s", err, log)
	}
	_ = m.close()
	if m, l, log, err = life(t, text("4096", "refuse")); err != nil || len(l.sessions()) != n {
		t.Fatalf("after that: %d sessions, %v\n%s", len(l.sessions()), err, log)
	}
	_ = m.close()
	if _, l, log, err = life(t, text("65536", "empty")); err != nil || len(l.sessions()) != n || !strings.Contains(log, "connections will not survive this process") {
		t.Errorf("larger tables, empty: %v\n%s", err, log)
	}
}

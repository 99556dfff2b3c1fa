// SPDX-License-Identifier: Apache-2.0

package recordfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("TIDEGATE_TEST_OWN"); path != "" {
		own(path)
		return
	}
	os.Exit(m.Run())
}

// own is another process: it owns a file, writes to it, says so and waits to be killed.
func own(path string) {
	f, err := Create(path, 4096)
	if err == nil {
		copy(f.Records(), "a record")
		copy(f.Counters(), "a count")
		err = errors.Join(f.SetNotes([]byte("a note")), f.Publish(nil))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("mine")
	_, _ = os.Stdin.Read(make([]byte, 1)) // for ever: the other end is open
	runtime.KeepAlive(f)
}

// tmpfs is a directory on a tmpfs, of size bytes if the process may mount one; otherwise what the machine has.
func tmpfs(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
	if err == nil {
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	dir, err = os.MkdirTemp("/dev/shm", "recordfile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func make1(t *testing.T, path string) *File {
	t.Helper()
	f, err := Create(path, 8192)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestKilled: what a process that was killed had written is there, and its lock is not.
func TestKilled(t *testing.T) {
	path := filepath.Join(tmpfs(t, 1<<20), "new", "gw.state")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TIDEGATE_TEST_OWN="+path)
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := out.Read(line)
	if string(line[:n]) != "mine\n" {
		t.Fatalf("the other process says: %s", line[:n])
	}
	var owned *Owned
	if _, err := Open(path); !errors.As(err, &owned) || owned.PID != cmd.Process.Pid {
		t.Errorf("a file that process %d owns: %v", cmd.Process.Pid, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !bytes.HasPrefix(f.Records(), []byte("a record")) || !bytes.HasPrefix(f.Counters(), []byte("a count")) ||
		string(f.Notes()) != "a note" || len(f.Records()) != 4096 {
		t.Errorf("records %q, counters %q, notes %q", f.Records()[:10], f.Counters()[:10], f.Notes())
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestUnusable: each way in which a file can be wrong is told, and another file can be put in its place.
func TestUnusable(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"empty":       {func(p string) error { return os.Truncate(p, 0) }, "less than its head"},
		"truncated":   {func(p string) error { return os.Truncate(p, pageSize*3) }, "12288 bytes long and was made with 16384"},
		"longer":      {func(p string) error { return os.Truncate(p, pageSize*5) }, "20480 bytes long and was made with 16384"},
		"foreign":     {at(atMagic, []byte("tidegatf")), "no state file of a gateway"},
		"other order": {at(atMagic, []byte("etagedit")), "no state file of a gateway"},
		"version":     {at(atVersion, binary.NativeEndian.AppendUint32(nil, 7)), "has version 7"},
		"size":        {at(atSize, []byte{1}), "check sum is wrong"},
		"mode":        {func(p string) error { return os.Chmod(p, 0o640) }, "mode 0640"},
		"boot": {func(p string) error {
			f, err := Open(p)
			if err != nil {
				return err
			}
			copy(f.data[atBoot:], "0")
			copy(f.data[atBoot+1:], "0")
			binary.NativeEndian.PutUint32(f.data[atSum:], f.sum())
			return f.Close()
		}, "another boot"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(tmpfs(t, 1<<20), "gw.state")
			first := make1(t, path)
			if err := errors.Join(first.Publish(nil), first.Close()); err != nil {
				t.Fatal(err)
			}
			if err := tt.spoil(path); err != nil {
				t.Fatal(err)
			}
			f, err := Open(path)
			if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Open: %v", err)
			}
			if _, err := Open(path); !errors.As(err, new(*Owned)) {
				t.Errorf("it is not owned meanwhile: %v", err)
			}
			next := make1(t, path)
			if err := errors.Join(next.Publish(f), f.Close(), next.Close()); err != nil {
				t.Fatal(err)
			}
			again, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			_ = again.Close()
		})
	}
}

// at writes into a file.
func at(offset int64, b []byte) func(string) error {
	return func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, offset)
		return errors.Join(err, f.Close())
	}
}

func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("to give a file away needs root")
	}
	path := filepath.Join(tmpfs(t, 1<<20), "gw.state")
	f := make1(t, path)
	if err := errors.Join(f.Publish(nil), f.Close(), os.Chown(path, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("a file of somebody else: %v", err)
	}
	_ = f.Close()
}

// TestPlace: where a file cannot be, and what is there already.
func TestPlace(t *testing.T) {
	dir := tmpfs(t, 1<<20)
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "no file") {
		t.Errorf("a directory: %v", err)
	}
	if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "link")); err == nil || !strings.Contains(err.Error(), "no file") {
		t.Errorf("a symbolic link: %v", err)
	}
	if _, err := Create("/proc/gw.state", 4096); !errors.Is(err, ErrNoTmpfs) {
		t.Errorf("on /proc: %v", err)
	}
	if _, err := Open("/proc/version"); err == nil {
		t.Error("a file of /proc was opened for writing")
	}
	path := filepath.Join(dir, "gw.state")
	a, b := make1(t, path), make1(t, path)
	if err := a.Publish(nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(nil); !errors.As(err, new(*Owned)) {
		t.Errorf("two made the file: %v", err)
	}
	if err := errors.Join(b.Publish(a), a.Remove()); err != nil { // a is there no more
		t.Fatal(err)
	}
	_ = a.Close()
	if _, err := Open(path); !errors.As(err, new(*Owned)) {
		t.Errorf("the second file is not there: %v", err)
	}
	if err := b.Remove(); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// TestNoRoom: the file system is full, which is found out when the file is made and not at a store.
func TestNoRoom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a small tmpfs needs root")
	}
	dir := tmpfs(t, 1<<20)
	_, err := Create(filepath.Join(dir, "gw.state"), 4<<20)
	if !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), "takes 4.0 MiB") || !strings.Contains(err.Error(), "has 1.0 MiB") {
		t.Errorf("4 MiB in 1 MiB: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bavail != st.Blocks {
		t.Errorf("%d of %d blocks are free afterwards, %v", st.Bavail, st.Blocks, err)
	}
}

// TestMemfd: one that somebody keeps has no owner once its owner has let go, and cannot be shortened.
func TestMemfd(t *testing.T) {
	f, err := Create("", 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Publish(nil), f.Remove()); err != nil {
		t.Fatal(err)
	}
	copy(f.Records(), "a record")
	kept, err := f.Share()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if err := kept.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate: %v", err)
	}
	look, err := FromFD(kept, "")
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	if !bytes.HasPrefix(look.Records(), []byte("a record")) {
		t.Error("the mapping is another")
	}
	var owned *Owned
	if err := look.Lock(); !errors.As(err, &owned) || owned.PID != os.Getpid() {
		t.Errorf("the owner lives: %v", err)
	}
	if err := f.Release(); err != nil {
		t.Fatal(err)
	}
	if err := look.Lock(); err != nil {
		t.Errorf("what is kept, or mapped, has the lock of the owner: %v", err)
	}
	if !bytes.HasPrefix(f.Records(), []byte("a record")) {
		t.Error("the mapping has gone with the ownership")
	}
}

func TestNotes(t *testing.T) {
	f := make1(t, "")
	if n := f.Notes(); n != nil {
		t.Errorf("a new file has notes %q", n)
	}
	long := bytes.Repeat([]byte("n"), MaxNotes)
	if err := f.SetNotes(long); err != nil || !bytes.Equal(f.Notes(), long) {
		t.Errorf("%d bytes of notes: %v", len(long), err)
	}
	if err := f.SetNotes(append(long, 'x')); err == nil {
		t.Error("more notes than there is room for")
	}
	f.data[atNotes]++
	if n := f.Notes(); n != nil {
		t.Errorf("half written notes are %d bytes", len(n))
	}
	binary.NativeEndian.PutUint32(f.data[atNoteLen:], 1<<31)
	if n := f.Notes(); n != nil {
		t.Errorf("notes of any length are %d bytes", len(n))
	}
}

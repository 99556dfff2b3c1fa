// SPDX-License-Identifier: Apache-2.0

package recordfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of this package; test with errors.Is.
var (
	// ErrUnusable: there is a file, and nothing can be read from it. The text says why.
	ErrUnusable = errors.New("the state file cannot be used")
	// ErrNoTmpfs: the place is on a file system of another kind.
	ErrNoTmpfs = errors.New("not on a tmpfs")
	// ErrNoRoom: the file system has no room for the file.
	ErrNoRoom = errors.New("no room")
)

// Owned is the error of a file that a living process owns.
type Owned struct {
	// PID is the process; 0 if that is not known.
	PID int
}

// Error names the process.
func (o *Owned) Error() string {
	if o.PID == 0 {
		return "a process that runs owns the state file"
	}
	return fmt.Sprintf("process %d, which runs, owns the state file", o.PID)
}

// unusable is an ErrUnusable with a text of its own.
type unusable string

func (u unusable) Error() string      { return string(u) }
func (unusable) Is(target error) bool { return target == ErrUnusable }

func refuse(format string, args ...any) error { return unusable(fmt.Sprintf(format, args...)) }

const (
	pageSize = 4096
	// CountersSize is how many bytes there are for counters.
	CountersSize = pageSize
	recordsAt    = pageSize + CountersSize

	version = 1

	// The head, by offset. What is sealed by the check sum never changes.
	atMagic   = 0
	atVersion = 8
	atSum     = 12
	atSize    = 16
	atMade    = 24
	atBoot    = 32 // bootLen bytes
	sealedEnd = 72
	atPID     = sealedEnd
	atNoteLen = atPID + 8
	atNoteSum = atNoteLen + 4
	atNotes   = atNoteSum + 4
	bootLen   = 36

	// MaxNotes is how many bytes of notes there may be.
	MaxNotes = pageSize - atNotes
)

var magic = [8]byte{'t', 'i', 'd', 'e', 'g', 'a', 't', 'e'}

// File is the mapping of one file. Its methods may be called by one goroutine at a time; the slices that they return are
// the mapping itself, valid until Close.
type File struct {
	f    *os.File // whose lock it is: shared with nobody
	path string   // "" has no name
	data []byte   // nil: unusable
}

// Open opens the file at path and makes this process its owner. With an error that is ErrUnusable there is a File, too: it
// is owned and has nothing, and another can be put in its place. The error is fs.ErrNotExist if there is none.
func Open(path string) (*File, error) {
	// Whoever owned it may put another in its place before we have the lock.
	for range 10 {
		f, err := openFile(path)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		have, err1 := f.Stat()
		there, err2 := os.Lstat(path)
		if err1 == nil && err2 == nil && os.SameFile(have, there) {
			return adopt(f, path)
		}
		_ = f.Close() // another is at that place now
	}
	return nil, fmt.Errorf("the state file %s: other processes put new ones there all the time", path)
}

func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR):
		return nil, fmt.Errorf("the state file %s: there is something that is no file", path)
	case err != nil:
		return nil, fmt.Errorf("the state file: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Type != unix.TMPFS_MAGIC {
		return nil, errors.Join(noTmpfs(path), f.Close())
	}
	return f, nil
}

func noTmpfs(path string) error {
	return fmt.Errorf("the state file %s is %w: on a disk, write-back would stall packets", path, ErrNoTmpfs)
}

// adopt maps what is in f, whose lock is ours.
func adopt(f *os.File, path string) (*File, error) {
	file := &File{f: f, path: path}
	err := file.mapIn()
	if err != nil && !errors.Is(err, ErrUnusable) {
		return nil, errors.Join(err, f.Close())
	}
	if err == nil {
		file.own(os.Getpid())
	}
	return file, err
}

// FromFD is the file behind a descriptor of Share, which stays the caller's. It is for looking, until Lock. path is where it
// may be; it is "" or another's for a memfd. With an error that is ErrUnusable there is a File, as with Open.
func FromFD(f *os.File, path string) (*File, error) {
	own, err := reopen(f)
	if err != nil {
		return nil, err
	}
	file := &File{f: own}
	have, err1 := own.Stat()
	if there, err2 := os.Lstat(path); err1 == nil && err2 == nil && os.SameFile(have, there) {
		file.path = path
	}
	err = file.mapIn()
	if err != nil && !errors.Is(err, ErrUnusable) {
		return nil, errors.Join(err, own.Close())
	}
	return file, err
}

// Share is another descriptor of the file, for somebody who is to keep it, or to own it next; ownership is not with it.
func (f *File) Share() (*os.File, error) { return reopen(f.f) }

// reopen opens the file behind a descriptor again: with a copy of the descriptor, the lock would be shared.
func reopen(f *os.File) (again *os.File, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := conn.Control(func(fd uintptr) {
		again, err = os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(fd)), os.O_RDWR, 0)
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("open the state again: %w", err)
	}
	return again, nil
}

// Lock makes this process the owner. The error is Owned if another is.
func (f *File) Lock() error {
	if err := lock(f.f); err != nil {
		return err
	}
	if f.Usable() {
		f.own(os.Getpid())
	}
	return nil
}

// Usable reports whether there is something in f.
func (f *File) Usable() bool { return f.data != nil }

// Create makes a file with room for size bytes of records, all zero, owned by this process; it has no name until Publish.
// Missing directories are made, for the user of the process alone. path is "" for a memfd.
func Create(path string, size int) (*File, error) {
	f, err := create(path)
	if err != nil {
		return nil, err
	}
	file := &File{f: f, path: path}
	if err := file.format(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

func create(path string) (*os.File, error) {
	if path == "" {
		fd, err := unix.MemfdCreate("tidegate-state", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
		if errors.Is(err, unix.EINVAL) { // Linux before 6.3
			fd, err = unix.MemfdCreate("tidegate-state", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		}
		if err != nil {
			return nil, fmt.Errorf("make a memfd: %w", err)
		}
		return os.NewFile(uintptr(fd), "memfd"), nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the state file %s: %w", path, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("the state file %s: %w", path, err)
	}
	if st.Type != unix.TMPFS_MAGIC {
		return nil, noTmpfs(path)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the state file %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (f *File) format(size int) error {
	if err := lock(f.f); err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	fd, all := int(f.f.Fd()), int64(recordsAt+size)
	if err := unix.Fallocate(fd, 0, 0, all); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
			return fmt.Errorf("there is %w for the state, which takes %s%s: make the file system larger, or lower limits.sessions",
				ErrNoRoom, mib(all), f.free())
		}
		return fmt.Errorf("take memory for the state: %w", err)
	}
	if f.path == "" {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
			return fmt.Errorf("seal the memfd: %w", err)
		}
	}
	if err := f.mmap(all); err != nil {
		return err
	}
	copy(f.data[atMagic:], magic[:])
	binary.NativeEndian.PutUint32(f.data[atVersion:], version)
	binary.NativeEndian.PutUint64(f.data[atSize:], uint64(all))
	binary.NativeEndian.PutUint64(f.data[atMade:], uint64(time.Now().Unix()))
	copy(f.data[atBoot:atBoot+bootLen], boot)
	binary.NativeEndian.PutUint32(f.data[atSum:], f.sum())
	f.own(os.Getpid())
	return nil
}

// free says how much room there is where the file would be.
func (f *File) free() string {
	var st unix.Statfs_t
	if f.path == "" || unix.Statfs(filepath.Dir(f.path), &st) != nil {
		return ""
	}
	return fmt.Sprintf(", and %s has %s", filepath.Dir(f.path), mib(int64(st.Bavail)*st.Bsize))
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Publish puts f, made with a path, at that place: instead of old, which this process owns and which is there, or, with
// nil, where nothing is. The error is Owned if somebody was faster. A memfd has no place, and this does nothing.
func (f *File) Publish(old *File) error {
	if f.path == "" {
		return nil
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(f.f.Fd()))
	link := func(to string) error {
		return unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
	}
	var err error
	if old == nil || old.path != f.path {
		err = link(f.path)
		if errors.Is(err, fs.ErrExist) {
			return &Owned{}
		}
	} else {
		made := f.path + ".new"
		_ = os.Remove(made) // of a process that was killed right here
		if err = link(made); err == nil {
			err = os.Rename(made, f.path)
		}
	}
	if err != nil {
		return fmt.Errorf("put the state file at %s: %w", f.path, err)
	}
	return nil
}

// Path is where it is, "" for a memfd.
func (f *File) Path() string { return f.path }

// Remove takes the file away from its place, if it is there. Whoever has it keeps it.
func (f *File) Remove() error {
	if f.path == "" {
		return nil
	}
	have, err := f.f.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Lstat(f.path); err != nil || !os.SameFile(have, there) {
		return nil // gone, or another's
	}
	return os.Remove(f.path)
}

// Records are the bytes of the records, aligned to a page.
func (f *File) Records() []byte { return f.data[recordsAt:len(f.data):len(f.data)] }

// Counters are CountersSize bytes, aligned to a page.
func (f *File) Counters() []byte { return f.data[pageSize:recordsAt:recordsAt] }

// Made is when f was made, in whole seconds.
func (f *File) Made() time.Time {
	return time.Unix(int64(binary.NativeEndian.Uint64(f.data[atMade:])), 0)
}

// Notes are what the owner left with SetNotes; a copy, nil if there are none or if it died while it wrote them.
func (f *File) Notes() []byte {
	n := binary.NativeEndian.Uint32(f.data[atNoteLen:])
	if n == 0 || n > MaxNotes {
		return nil
	}
	b := append([]byte(nil), f.data[atNotes:atNotes+n]...)
	if crc32.ChecksumIEEE(b) != binary.NativeEndian.Uint32(f.data[atNoteSum:]) {
		return nil
	}
	return b
}

// SetNotes leaves up to MaxNotes bytes for the next owner.
func (f *File) SetNotes(b []byte) error {
	if len(b) > MaxNotes {
		return fmt.Errorf("%d bytes of notes are too many for the state file", len(b))
	}
	binary.NativeEndian.PutUint32(f.data[atNoteLen:], 0)
	copy(f.data[atNotes:], b)
	binary.NativeEndian.PutUint32(f.data[atNoteSum:], crc32.ChecksumIEEE(b))
	binary.NativeEndian.PutUint32(f.data[atNoteLen:], uint32(len(b)))
	return nil
}

// Release gives the file up for another owner. The mapping stays until the process ends, for whoever in it still looks.
func (f *File) Release() error {
	if f.data != nil {
		f.own(0)
	}
	return errors.Join(unix.Flock(int(f.f.Fd()), unix.LOCK_UN), f.f.Close()) // the mapping would keep the lock
}

// Close gives the file up and unmaps it.
func (f *File) Close() error {
	data := f.data
	err := f.Release()
	f.data = nil
	if data != nil {
		err = errors.Join(err, unix.Munmap(data))
	}
	return err
}

func (f *File) own(pid int) { atomic.StoreUint64(word(f.data, atPID), uint64(pid)) }

// lock takes the lock of f, or says who has it.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			return fmt.Errorf("lock the state file: %w", err)
		}
		return nil
	}
	var head [atPID + 8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || [8]byte(head[:8]) != magic {
		return &Owned{}
	}
	return &Owned{PID: int(binary.NativeEndian.Uint64(head[atPID:]))}
}

// mapIn maps the file, after it has looked at it. The error is ErrUnusable for what is wrong with the file itself.
func (f *File) mapIn() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.f.Fd()), &st); err != nil {
		return fmt.Errorf("the state file: %w", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("the state file is no regular file")
	case int(st.Uid) != os.Geteuid():
		return refuse("it belongs to user %d, and may have been planted", st.Uid)
	case f.path != "" && st.Mode&0o077 != 0:
		return refuse("others than its owner may open it (mode %04o)", st.Mode&0o7777)
	}
	var head [pageSize]byte
	n, err := f.f.ReadAt(head[:], 0)
	if n < pageSize {
		return refuse("it is %d bytes long, which is less than its head: it was truncated (%v)", n, err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	look := File{data: head[:]}
	size := binary.NativeEndian.Uint64(head[atSize:])
	v := binary.NativeEndian.Uint32(head[atVersion:])
	switch made := strings.TrimRight(string(head[atBoot:atBoot+bootLen]), "\x00"); {
	case [8]byte(head[:8]) != magic:
		return refuse("it is no state file of a gateway")
	case v != version:
		return refuse("it has version %d, and this gateway writes version %d", v, version)
	case binary.NativeEndian.Uint32(head[atSum:]) != look.sum():
		return refuse("its head is damaged: the check sum is wrong")
	case made != boot:
		return refuse("it is of another boot of the machine, whose clock it has")
	case size < recordsAt || int64(size) != st.Size:
		return refuse("it is %d bytes long and was made with %d: it was truncated", st.Size, size)
	}
	return f.mmap(st.Size)
}

// mmap maps all of the file, with the page tables filled, so that no packet has to wait for that.
func (f *File) mmap(size int64) (err error) {
	f.data, err = unix.Mmap(int(f.f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map the state file, %s: %w", mib(size), err)
	}
	return nil
}

// sum is the check sum of what never changes in the head.
func (f *File) sum() uint32 { return crc32.ChecksumIEEE(f.data[atSize:sealedEnd]) }

// bootID changes with each boot of the machine.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("which boot this is: %w", err)
	}
	s := strings.TrimSpace(string(b))
	return s[:min(len(s), bootLen)], nil
}

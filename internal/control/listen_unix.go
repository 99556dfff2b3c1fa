// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Socket is a listening unix socket for the user of the process alone; Close removes it.
type Socket struct {
	*net.UnixListener
	path string
	file os.FileInfo
	left atomic.Bool
}

// Listen listens at path. A socket that nobody listens at is replaced, one that is in use is refused. Directories that it
// makes are for the user of the process alone, too.
func Listen(path string) (*Socket, error) {
	fail := func(err error) (*Socket, error) { return nil, fmt.Errorf("the control socket %s: %w", path, err) }
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	// One at a time looks who is there and takes the place of the dead.
	lock, err := os.Open(dir)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fail(err)
	}
	switch conn, err := net.Dial("unix", path); {
	case err == nil:
		_ = conn.Close() // that it was opened is all
		return fail(errors.New("another process listens there"))
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, unix.ECONNREFUSED):
		if st, err := os.Lstat(path); err != nil || st.Mode().Type() != fs.ModeSocket {
			return fail(errors.New("there is a file that is no socket"))
		}
	default:
		return fail(err)
	}
	// Nobody is to find it before it has its permissions.
	made := fmt.Sprintf("%s.%d", path, os.Getpid())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return fail(err)
	}
	l.SetUnlinkOnClose(false)
	s := &Socket{UnixListener: l, path: path}
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return fail(errors.Join(err, os.Remove(made), l.Close()))
	}
	if s.file, err = os.Lstat(path); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return s, nil
}

// Inherit is a socket at path that another process listens at, so that Close leaves it; see Leave. f is a descriptor of it,
// which stays the caller's.
func Inherit(f *os.File, path string) (*Socket, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the control socket %s: %w", path, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the control socket %s: what was handed over is none", path), l.Close())
	}
	u.SetUnlinkOnClose(false)
	s := &Socket{UnixListener: u, path: path}
	s.Leave(true)
	if s.file, err = os.Lstat(path); err != nil {
		return nil, errors.Join(fmt.Errorf("the control socket: %w", err), u.Close())
	}
	return s, nil
}

// Leave has Close not remove the socket, since another process listens at it, too; or remove it after all.
func (s *Socket) Leave(on bool) { s.left.Store(on) }

// Path is where it listens.
func (s *Socket) Path() string { return s.path }

// Close may be called again.
func (s *Socket) Close() error {
	// Unless it is another's by now.
	if now, err := os.Lstat(s.path); !s.left.Load() && err == nil && os.SameFile(now, s.file) {
		_ = os.Remove(s.path) // without its listener it is as good as gone, and the next start replaces it
	}
	return s.UnixListener.Close()
}

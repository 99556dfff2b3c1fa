// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// controlSocket is a listening unix socket for the user of the process alone; Close removes it.
type controlSocket struct {
	*net.UnixListener
	path string
	file os.FileInfo
}

// listenControl listens at path; "" is nothing and no error. A socket that nobody listens at is replaced, one that is in
// use is refused. Directories that it makes are for the user of the process alone, too.
func listenControl(path string) (*controlSocket, error) {
	if path == "" {
		return nil, nil
	}
	fail := func(err error) (*controlSocket, error) {
		return nil, refuse("the control socket %s: %w (write another path with --socket, or none)", path, err)
	}
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
		return fail(errors.New("another gateway listens there"))
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
	s := &controlSocket{UnixListener: l, path: path}
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return fail(errors.Join(err, os.Remove(made), l.Close()))
	}
	if s.file, err = os.Lstat(path); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return s, nil
}

// Close may be called again.
func (s *controlSocket) Close() error {
	// Unless it is another's by now.
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.file) {
		_ = os.Remove(s.path) // without its listener it is as good as gone, and the next start replaces it
	}
	return s.UnixListener.Close()
}

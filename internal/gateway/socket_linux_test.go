// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSocket: for its user alone, refused where somebody listens, taken over from the dead, gone in the end.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "tidegate", "gw.sock")
	s, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{path: 0o600 | fs.ModeSocket, filepath.Dir(path): 0o700 | fs.ModeDir} {
		if st, err := os.Stat(name); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, want)
		}
	}
	if _, err := listenControl(path); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("where one listens: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	_ = s.UnixListener.Close() // as by SIGKILL
	again, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil {
		t.Error("closed twice without an error")
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the other's socket is gone with ours: %v", err)
	} else {
		_ = conn.Close()
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}

	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenControl(path); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("where a file is: %v", err)
	}
	if s, err := listenControl(""); s != nil || err != nil {
		t.Errorf("none: %v, %v", s, err)
	}
}

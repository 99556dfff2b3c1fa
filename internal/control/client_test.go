// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// socket is a path that is short enough for one.
func socket(t *testing.T, dir, name string) (string, net.Listener) {
	t.Helper()
	path := filepath.Join(dir, name)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return path, l
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := Find(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no directory: %v", err)
	}
	dead, l := socket(t, dir, "dead.sock")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	if _, err := os.Stat(dead); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("the socket of a dead one: %v", err)
	}
	first, _ := socket(t, dir, "a.sock")
	if got, err := Find(t.Context(), dir); err != nil || got != first {
		t.Errorf("%q, %v, want %s", got, err, first)
	}
	second, _ := socket(t, dir, "b.sock")
	if _, err := Find(t.Context(), dir); err == nil || !strings.Contains(err.Error(), first+" or "+second) {
		t.Errorf("two: %v", err)
	}
}

// TestClientErrors: nobody there, an answer that is none of ours, and one that breaks off.
func TestClientErrors(t *testing.T) {
	dir := t.TempDir()
	c := NewClient(filepath.Join(dir, "none.sock"))
	if _, err := c.Stats(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("nobody: %v", err)
	}
	path, l := socket(t, dir, "a.sock")
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/stats", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "what?", http.StatusTeapot) })
	mux.HandleFunc("/v1/flows", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"protocol":"tcp"}` + "\n"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	c = NewClient(path)
	defer c.Close()
	var refused *Refused
	if _, err := c.Stats(t.Context()); !errors.As(err, &refused) || refused.Status != http.StatusTeapot {
		t.Errorf("another server: %v", err)
	}
	n := 0
	err := c.Flows(t.Context(), nil, func(*Flow) error { n++; return nil })
	if err == nil || !strings.HasPrefix(err.Error(), "the gateway broke off: ") || n != 1 {
		t.Errorf("broken off: %v after %d flows", err, n)
	}
}

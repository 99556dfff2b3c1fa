// SPDX-License-Identifier: Apache-2.0

package debrepo

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var hello = Package{Name: "tide-hello", Version: "1.0", Description: "says hello",
	Files: map[string][]byte{"/usr/share/tide/hello": []byte("hello\n"), "/usr/share/tide/odd": []byte("odd")}}

func TestClient(t *testing.T) {
	repo := New("amd64", time.Unix(1700000000, 0), hello)
	broken := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken && strings.HasSuffix(r.URL.Path, ".deb") {
			_, _ = w.Write([]byte("not it"))
			return
		}
		repo.ServeHTTP(w, r)
	}))
	defer srv.Close()
	c := &Client{HTTP: srv.Client(), Base: srv.URL, Arch: "amd64"}
	ctx := context.Background()
	if _, err := c.Download(ctx, hello.Name); err == nil {
		t.Error("a package was found before the index was read")
	}
	if err := c.Update(ctx); err != nil {
		t.Fatal(err)
	}
	deb, err := c.Download(ctx, hello.Name)
	if err != nil || !bytes.Equal(deb, hello.Deb(time.Unix(1700000000, 0))) {
		t.Errorf("Download: %d bytes, %v", len(deb), err)
	}
	broken = true
	if _, err := c.Download(ctx, hello.Name); err == nil || !strings.Contains(err.Error(), "hash sum mismatch") {
		t.Errorf("a changed package: %v", err)
	}
	c.Arch = "arm64"
	if err := c.Update(ctx); err == nil {
		t.Error("the index of an architecture that is not there was found")
	}
}

// dpkg-deb is the judge of the format, where it is installed.
func TestDebFormat(t *testing.T) {
	deb := hello.Deb(time.Unix(1700000000, 0))
	if !bytes.HasPrefix(deb, []byte("!<arch>\ndebian-binary   1700000000  0     0     100644  4         `\n2.0\n")) {
		t.Errorf("ar header: %q", deb[:80])
	}
	dpkg, err := exec.LookPath("dpkg-deb")
	if err != nil {
		return
	}
	file := filepath.Join(t.TempDir(), "hello.deb")
	if err := os.WriteFile(file, deb, 0o644); err != nil {
		t.Fatal(err)
	}
	for arg, want := range map[string]string{"--info": "Package: tide-hello", "--contents": "./usr/share/tide/hello"} {
		out, err := exec.Command(dpkg, arg, file).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("dpkg-deb %s: %v\n%s", arg, err, out)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package sdnotify

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("TIDEGATE_TEST_KEPT") != "" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // which the parent cannot know
		if os.Getenv("TIDEGATE_TEST_KEPT") == "other" {
			os.Setenv("LISTEN_PID", "1")
		}
		kept := Kept()
		for _, name := range []string{"one", "two", ""} {
			if fd, ok := kept[name]; ok {
				buf := make([]byte, 10)
				n, _ := unix.Read(fd, buf)
				fmt.Printf("%s=%s ", name, buf[:n])
			}
		}
		fmt.Print(len(kept), " ", os.Getenv("LISTEN_FDS"), len(Kept()))
		return
	}
	os.Exit(m.Run())
}

// manager is the other end.
func manager(t *testing.T, env map[string]string) (*net.UnixConn, *Notifier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	for k, v := range env {
		t.Setenv(k, v)
	}
	n, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("children would believe that they are to notify")
	}
	return c, n
}

// hear is one message and the descriptors that came with it.
func hear(t *testing.T, c *net.UnixConn) (text string, fds []int) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf, oob := make([]byte, 1000), make([]byte, 100)
	n, m, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	if m > 0 {
		all, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		if fds, err = unix.ParseUnixRights(&all[0]); err != nil {
			t.Fatal(err)
		}
	}
	return string(buf[:n]), fds
}

func TestNotify(t *testing.T) {
	c, n := manager(t, map[string]string{"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())})
	if n.Watchdog != 3*time.Second {
		t.Errorf("the watchdog waits %s", n.Watchdog)
	}
	for want, say := range map[string]func() error{
		"READY=1\nSTATUS=fine": func() error { return n.Ready("fine") },
		"STOPPING=1":           n.Stopping,
		"WATCHDOG=1":           n.Alive,
		"STATUS=tired":         func() error { return n.Status("tired") },
	} {
		if err := say(); err != nil {
			t.Fatal(err)
		}
		if got, _ := hear(t, c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := n.Reloading(); err != nil {
		t.Fatal(err)
	}
	got, _ := hear(t, c)
	var usec int64
	if _, err := fmt.Sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%d", &usec); err != nil || usec == 0 {
		t.Errorf("%q: %v", got, err)
	}
}

// TestKeep: the descriptor arrives, under its name, after what had that name is forgotten.
func TestKeep(t *testing.T) {
	c, n := manager(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := n.Keep("queue", int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if got, _ := hear(t, c); got != "FDSTOREREMOVE=1\nFDNAME=queue" {
		t.Errorf("first %q", got)
	}
	got, fds := hear(t, c)
	if got != "FDSTORE=1\nFDNAME=queue" || len(fds) != 1 {
		t.Fatalf("%q with %d descriptors", got, len(fds))
	}
	if _, err := unix.Write(fds[0], []byte("alive")); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fds[0])
	buf := make([]byte, 10)
	if k, err := r.Read(buf); err != nil || string(buf[:k]) != "alive" {
		t.Errorf("%q, %v", buf[:k], err)
	}
}

// TestNobody: without a service manager, or with one that keeps nothing, nothing is said and nothing fails.
func TestNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := FromEnvironment()
	if n != nil || err != nil {
		t.Fatalf("%v, %v", n, err)
	}
	if n.Keeps() || n.Ready("") != nil || n.Keep("x", 0) != nil || n.Forget("x") != nil || n.Close() != nil {
		t.Error("nobody does something")
	}
	c, n := manager(t, map[string]string{"FDSTORE": "0", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
	if n.Keeps() || n.Watchdog != 0 {
		t.Errorf("keeps %v, watchdog %s of another process", n.Keeps(), n.Watchdog)
	}
	if err := n.Keep("x", 0); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if k, err := c.Read(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes for somebody who keeps nothing", k)
	}
	for _, bad := range []string{"vsock:2:1", filepath.Join(t.TempDir(), "nobody")} {
		t.Setenv("NOTIFY_SOCKET", bad)
		if n, err := FromEnvironment(); n != nil || err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestKept(t *testing.T) {
	for mode, want := range map[string]string{"mine": "one=1 two=2 2 0", "other": "0 0"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TIDEGATE_TEST_KEPT="+mode, "LISTEN_FDS=4", "LISTEN_FDNAMES=one:two:two")
		for _, text := range []string{"1", "2", "3", "4"} {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, _ = w.WriteString(text)
			_ = w.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, r)
		}
		out, err := cmd.Output()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %q, %v; want %q", mode, out, err, want)
		}
	}
}

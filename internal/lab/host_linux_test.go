// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/packet"
)

// pair is two hosts with a cable between them, or nil where the process may not make any; then it has checked that the
// error says so.
func pair(t *testing.T) (a, b *Host) {
	t.Helper()
	a, err := NewHost("a", HostOptions{Hosts: map[string]netip.Addr{"b.example": netip.MustParseAddr("10.9.0.2")},
		Files: map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/etc/no-such-file": "nothing"}})
	if os.Geteuid() != 0 {
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("without root: %v", err)
		}
		return nil, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err = NewHost("b", HostOptions{Forward: true})
	if err != nil {
		t.Fatal(err)
	}
	err = Connect(
		a, Link{Name: "eth0", Addr: netip.MustParsePrefix("10.9.0.1/24"), Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Via: netip.MustParseAddr("10.9.0.2")},
		b, Link{Name: "to-a", Addr: netip.MustParsePrefix("10.9.0.2/24"), MTU: 1400, Routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestHostSockets(t *testing.T) {
	defer goleak.VerifyNone(t)
	a, b := pair(t)
	if a == nil {
		return
	}
	defer b.Close()
	defer a.Close()
	l, err := b.Listen("tcp4", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr())
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := a.DialFrom(ctx, "tcp", 4000, netip.MustParseAddrPort("10.9.0.2:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "10.9.0.1:4000" || err != nil {
		t.Errorf("seen as %q, %v", got, err)
	}
	if _, err := a.Dial(ctx, "tcp", "10.9.0.2:81"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: %v", err)
	}
	// Nobody has this address; the end of the context is the end of the wait.
	gone, stop := context.WithCancel(ctx)
	time.AfterFunc(10*time.Millisecond, stop)
	if _, err := a.Dial(gone, "tcp", "10.9.0.3:80"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a dial that is given up: %v", err)
	}
	// The sockets of one host are not those of another, nor the machine's.
	if _, err := b.Dial(ctx, "tcp", "127.0.0.1:4000"); err == nil {
		t.Error("b has a socket of a")
	}
}

func TestHostProbe(t *testing.T) {
	a, b := pair(t)
	if a == nil {
		return
	}
	defer b.Close()
	defer a.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := a.Probe(ctx, Probe{To: netip.MustParseAddrPort("10.9.0.2:33434"), Size: 60})
	if want := (ProbeReply{From: netip.MustParseAddr("10.9.0.2"), Type: packet.Unreachable, Code: 3}); err != nil || r != want {
		t.Errorf("a closed port: %+v, %v", r, err)
	}
	r, err = a.Probe(ctx, Probe{To: netip.MustParseAddrPort("192.0.2.1:33434"), TTL: 1, Size: 60})
	if want := (ProbeReply{From: netip.MustParseAddr("10.9.0.2"), Type: packet.TimeExceeded}); err != nil || r != want {
		t.Errorf("one hop: %+v, %v", r, err)
	}
	if _, err = a.Probe(ctx, Probe{To: netip.MustParseAddrPort("10.9.0.2:33434"), Size: 1501}); err == nil {
		t.Error("a packet larger than the interface takes was sent")
	}
}

func TestHostPrograms(t *testing.T) {
	a, b := pair(t)
	if a == nil {
		return
	}
	defer b.Close()
	defer a.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.WriteFile(Dir+"/d/mine", []byte("a's own"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := a.ReadFile(Dir + "/d/mine"); string(data) != "a's own" || err != nil {
		t.Errorf("read back: %q, %v", data, err)
	}
	if _, err := b.ReadFile(Dir + "/d/mine"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("b reads a's file: %v", err)
	}
	if _, err := os.Stat(Dir + "/d/mine"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine has a's file: %v", err)
	}
	t.Setenv("http_proxy", "http://192.0.2.1:1")
	hosts := "10.9.0.2 b.example\n"
	if _, err := os.Stat("/etc/hosts"); errors.Is(err, os.ErrNotExist) {
		hosts = "" // where the machine has none, a host has none
	}
	var out bytes.Buffer
	cmd := a.Command(ctx, "/bin/sh", "-c", "uname -n; pwd; cat d/mine; echo $http_proxy; grep -s b.example /etc/hosts; ls /root | wc -l; cat /etc/passwd")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := a.Run(cmd); err != nil || out.String() != "a\n"+Dir+"\na's own\n"+hosts+"0\nroot:x:0:0::/:/bin/sh\n" {
		t.Errorf("%v: %q", err, out.String())
	}
	if self, err := os.Hostname(); self == "a" || err != nil {
		t.Errorf("the machine is called %q, %v", self, err)
	}
}

// With a host end the programs in it, and what they have started.
func TestHostCloseEndsPrograms(t *testing.T) {
	a, b := pair(t)
	if a == nil {
		return
	}
	defer b.Close()
	cmd := a.Command(context.Background(), "/bin/sh", "-c", "sleep 60 & echo started; sleep 60")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := a.Do(func() error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a call to a host that is closed: %v", err)
	}
	// The pipe ends when the last of them is gone.
	if rest, err := io.ReadAll(out); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("the program ended with %v", err)
	}
}

func TestHostLink(t *testing.T) {
	a, b := pair(t)
	if a == nil {
		return
	}
	defer b.Close()
	defer a.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	link := Link{Name: "eth0", Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Via: netip.MustParseAddr("10.9.0.2")}
	if err := a.Down(link); err != nil {
		t.Fatal(err)
	}
	far := Probe{To: netip.MustParseAddrPort("192.0.2.1:33434"), TTL: 1, Size: 60}
	if _, err := a.Probe(ctx, far); err == nil {
		t.Error("a host that is unplugged sends")
	}
	if err := a.Up(link); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Probe(ctx, far); err != nil {
		t.Error(err)
	}
	if n, err := a.Counter("Udp", "InCsumErrors"); n != 0 || err != nil {
		t.Errorf("Counter: %d, %v", n, err)
	}
	if _, err := a.Counter("Udp", "Nonsense"); err == nil {
		t.Error("a counter that does not exist was read")
	}
	if err := a.Down(Link{Name: "eth9"}); err == nil {
		t.Error("an interface that does not exist was set down")
	}
}

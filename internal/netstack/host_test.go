// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair is two hosts with a wire between them that takes a millisecond.
func pair(t *testing.T) (a, b *Host) {
	t.Helper()
	var hosts [2]*Host
	for i := range hosts {
		h, err := New(Config{
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})},
			Seed:  uint64(i),
			Output: func(p []byte) {
				time.AfterFunc(time.Millisecond, func() { hosts[1-i].Inject(p) })
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		hosts[i] = h
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return hosts[0], hosts[1]
}

func at(h *Host, port uint16) netip.AddrPort { return netip.AddrPortFrom(h.Addr(), port) }

func TestTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		l, err := b.ListenTCP(netip.AddrPortFrom(netip.Addr{}, 80))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := io.Copy(c, c); err != nil {
				t.Error(err)
			}
		}()
		start := time.Now()
		c, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 2*time.Millisecond {
			t.Errorf("a handshake took %v", d)
		}
		data := make([]byte, 1<<20)
		go func() {
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
			if err := c.(*TCPConn).CloseWrite(); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(c)
		if err != nil || len(got) != len(data) {
			t.Fatalf("%d bytes came back: %v", len(got), err)
		}
		// An idle hour costs nothing.
		time.Sleep(time.Hour)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := a.DialContext(ctx, "tcp", "10.0.0.3:81"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody there, with a context: %v", err)
		}
		start := time.Now()
		if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.3:81"); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("nobody there: %v", err)
		}
		t.Logf("a dial to nobody took %v", time.Since(start))
		u, err := a.ListenUDP(netip.AddrPortFrom(netip.Addr{}, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := u.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		if _, _, err := u.ReadFrom(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("a read with a deadline of a minute: %v after %v", err, time.Since(start))
		}
		if _, err := a.ListenUDP(u.LocalAddr().(*net.UDPAddr).AddrPort()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("the port is in use: %v", err)
		}
		d, err := a.DialUDP(netip.AddrPort{}, at(b, 99))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Write([]byte("knock")); err != nil {
			t.Error(err)
		}
		if _, err := d.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port unreachable: %v", err)
		}
		l, err := b.ListenTCP(at(b, 80))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second)
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed listener: %v", err)
		}
	})
}

func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		l, err := b.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		s := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "hello "+r.RemoteAddr)
		})}
		go func() { _ = s.Serve(l) }()
		tr := &http.Transport{DialContext: a.DialContext}
		for range 3 {
			r, err := (&http.Client{Transport: tr}).Get("http://10.0.0.2/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			t.Logf("%s", body)
			time.Sleep(10 * time.Second)
		}
		tr.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		heard := 0
		defer b.Tap(func([]byte) { heard++ })()
		if rtt, err := a.Ping(t.Context(), b.Addr(), 3000); err != nil || rtt != 2*time.Millisecond {
			t.Errorf("a ping took %v: %v", rtt, err)
		}
		if heard != 3 {
			t.Errorf("3,000 bytes came in %d packets", heard)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Ping(ctx, netip.MustParseAddr("10.0.0.9"), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a ping to nobody: %v", err)
		}
	})
}

// TestClose: every call that waits comes back.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		l, err := b.ListenTCP(at(b, 80))
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error, 2)
		go func() {
			c, err := l.Accept()
			if err != nil {
				accepted <- err
				return
			}
			_, err = c.Read(make([]byte, 1))
			accepted <- err
			_, err = l.Accept()
			accepted <- err
		}()
		c, err := a.DialTCP(t.Context(), netip.AddrPort{}, at(b, 80))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-accepted; !errors.Is(err, net.ErrClosed) {
				t.Errorf("a call on a closed host: %v", err)
			}
		}
		if _, err := b.ListenUDP(at(b, 1)); err == nil {
			t.Error("a closed host opens sockets")
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection to a closed host goes on")
		}
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{},
		{Addrs: []netip.Addr{{}}},
		{Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::1")}},
		{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MTU: 67},
	} {
		if h, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
			_ = h.Close()
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// connected is both ends of a connection, and the listener it came by.
func connected(t *testing.T, a, b *Host) (from, to *TCPConn, l *TCPListener) {
	t.Helper()
	l, err := b.ListenTCP(at(b, 80))
	if err != nil {
		t.Fatal(err)
	}
	if from, err = a.DialTCP(t.Context(), netip.AddrPort{}, at(b, 80)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return from, c.(*TCPConn), l
}

// TestDeadline: one that has passed counts until there is another, also for calls that wait.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		from, to, _ := connected(t, a, b)
		buf := make([]byte, 10)
		set := func(d time.Duration) {
			t.Helper()
			if err := from.SetReadDeadline(time.Now().Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		set(-time.Second)
		if _, err := from.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline in the past: %v", err)
		}
		set(time.Second)
		start := time.Now()
		for range 2 {
			if _, err := from.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("a deadline that passes: %v after %v", err, time.Since(start))
			}
		}
		if _, err := from.Write([]byte("x")); err != nil {
			t.Errorf("a write, with the deadline of reads passed: %v", err)
		}
		if _, err := to.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		set(time.Second)
		if n, err := from.Read(buf); err != nil || n != 5 {
			t.Errorf("a deadline to come: %d, %v", n, err)
		}
		set(time.Second)
		go func() {
			time.Sleep(500 * time.Millisecond)
			set(10 * time.Second)
		}()
		start = time.Now()
		if _, err := from.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 10500*time.Millisecond {
			t.Errorf("a deadline that is moved: %v after %v", err, time.Since(start))
		}
		if err := from.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Hour)
			_, _ = to.Write([]byte("late"))
		}()
		if n, err := from.Read(buf); err != nil || n != 4 {
			t.Errorf("no deadline: %d, %v", n, err)
		}
	})
}

// TestFullBuffer: a Write that waits for a peer who does not read is ended by its deadline, by Close, by the end of its
// host; and goes on when the peer reads.
func TestFullBuffer(t *testing.T) {
	for name, tt := range map[string]struct {
		act  func(a *Host, from, to *TCPConn)
		want error
	}{
		"deadline":    {func(_ *Host, from, _ *TCPConn) { _ = from.SetWriteDeadline(time.Now().Add(time.Second)) }, os.ErrDeadlineExceeded},
		"close":       {func(_ *Host, from, _ *TCPConn) { _ = from.Close() }, net.ErrClosed},
		"host":        {func(a *Host, _, _ *TCPConn) { _ = a.Close() }, net.ErrClosed},
		"peer reads":  {func(_ *Host, _, to *TCPConn) { _, _ = io.Copy(io.Discard, to) }, nil},
		"peer aborts": {func(_ *Host, _, to *TCPConn) { _ = to.Abort() }, syscall.ECONNRESET},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := pair(t)
			from, to, _ := connected(t, a, b)
			var group sync.WaitGroup
			group.Go(func() {
				time.Sleep(time.Hour)
				tt.act(a, from, to)
			})
			n, err := from.Write(make([]byte, 32<<20))
			if !errors.Is(err, tt.want) || (err == nil) != (n == 32<<20) {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
			_ = from.Close()
			group.Wait()
		})
	}
}

// TestCloseWhileDialing: a Dial that nobody answers ends with its host.
func TestCloseWhileDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := pair(t)
		failed := make(chan error)
		go func() {
			_, err := a.DialContext(context.Background(), "tcp", "10.0.0.9:80")
			failed <- err
		}()
		time.Sleep(time.Second)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// TestNotAccepted: who waits in the queue of a listener that closes is reset.
func TestNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		_, _, l := connected(t, a, b)
		c, err := a.DialTCP(t.Context(), netip.AddrPort{}, at(b, 80))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that nobody accepted: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
	})
}

// TestAtOnce: any method at any time. It is for the race detector.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		from, to, l := connected(t, a, b)
		var group sync.WaitGroup
		for _, c := range []*TCPConn{from, to} {
			for range 3 {
				group.Go(func() { _, _ = c.Write(make([]byte, 1<<20)) })
				group.Go(func() { _, _ = io.Copy(io.Discard, c) })
				group.Go(func() { _ = c.SetDeadline(time.Now().Add(time.Minute)) })
				group.Go(func() {
					time.Sleep(20 * time.Millisecond)
					_ = c.CloseWrite()
					_ = c.SetKeepAlivePeriod(time.Second)
					_ = c.SetKeepAlive(true)
					time.Sleep(20 * time.Millisecond)
					_ = c.Close()
				})
			}
		}
		group.Go(func() { _, _ = l.Accept() })
		group.Go(func() {
			time.Sleep(30 * time.Millisecond)
			_ = b.Close()
		})
		group.Wait()
	})
}

// TestKeepAlive: a connection with it finds out that its peer has gone.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		from, _, _ := connected(t, a, b)
		if err := errors.Join(from.SetKeepAlivePeriod(15*time.Second), from.SetKeepAlive(true)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := from.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) || time.Since(start) > 5*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestAddresses: a host's own, one in use, everybody's, and those of another family.
func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		l, err := a.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		for _, self := range []string{"10.0.0.1:80", ":80", "0.0.0.0:80"} {
			c, err := a.DialContext(t.Context(), "tcp", self)
			if err != nil {
				t.Fatalf("a host to itself at %s: %v", self, err)
			}
			d, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("me")); err != nil {
				t.Error(err)
			}
			if n, err := d.Read(make([]byte, 10)); n != 2 {
				t.Errorf("a host to itself at %s: %d, %v", self, n, err)
			}
		}
		if _, err := a.DialFrom(t.Context(), "tcp", 80, "10.0.0.2:80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("from a port in use: %v", err)
		}
		if _, err := a.Listen("tcp", "10.0.0.2:81"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("at the address of somebody else: %v", err)
		}
		u, err := b.ListenUDP(netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.WriteTo([]byte("all of you"), &net.UDPAddr{IP: net.IPv4bcast, Port: 9}); err != nil {
			t.Errorf("to everybody: %v", err)
		}
		if _, err := u.WriteTo(make([]byte, 70_000), &net.UDPAddr{IP: net.IPv4bcast, Port: 9}); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("too long: %v", err)
		}
		six := netip.MustParseAddrPort("[2001:db8::1]:80")
		_, err1 := a.DialTCP(t.Context(), netip.AddrPort{}, six)
		_, err2 := a.DialUDP(netip.AddrPort{}, six)
		_, err3 := a.ListenTCP(six)
		_, err4 := u.WriteToAddrPort(nil, six)
		_, err5 := a.Ping(t.Context(), six.Addr(), 0)
		_, err6 := u.WriteTo(nil, net.UDPAddrFromAddrPort(six))
		_, err7 := a.Ping(t.Context(), netip.Addr{}, 0)
		_, err8 := u.WriteTo(nil, &net.TCPAddr{})
		for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
			if err == nil {
				t.Errorf("case %d: no error", i+1)
			}
		}
	})
}

// TestPorts: ports of the host's choice are no news to a host with the same seed, and do not run out before they do.
func TestPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first []netip.AddrPort
		for range 2 {
			h, err := New(Config{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Seed: 7})
			if err != nil {
				t.Fatal(err)
			}
			var ports []netip.AddrPort
			for i := range 20 {
				c, err := h.DialUDP(netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1+i%2)))
				if err != nil {
					t.Fatal(err)
				}
				ports = append(ports, c.LocalAddr().(*net.UDPAddr).AddrPort())
			}
			if first == nil {
				first = ports
			}
			for i := range ports {
				if ports[i] != first[i] {
					t.Errorf("socket %d: %v, then %v", i, first[i], ports[i])
				}
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestHalves: what was written before CloseWrite arrives, and the other direction goes on.
func TestHalves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t)
		from, to, _ := connected(t, a, b)
		if _, err := from.Write([]byte("a question")); err != nil {
			t.Fatal(err)
		}
		if err := from.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, []byte("a question")) {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := from.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after CloseWrite: %v", err)
		}
		if _, err := to.Write([]byte("an answer")); err != nil {
			t.Error(err)
		}
		if err := to.Close(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(from); err != nil || !bytes.Equal(got, []byte("an answer")) {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

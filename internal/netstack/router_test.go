// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// path is two hosts with two routers between them; a link with an MTU of 1,400 joins the routers. Each link takes a
// millisecond.
//
//	10.0.0.1 - 10.0.0.254 (near) 10.0.1.1 - 10.0.1.2 (far) 10.0.2.254 - 10.0.2.1
type path struct {
	a, b      *Host
	near, far *Router
	change    func(b []byte) // what a sends, if not nil
}

func newPath(t *testing.T) *path {
	t.Helper()
	p := &path{}
	later := func(f func(b []byte)) func([]byte) {
		return func(b []byte) { time.AfterFunc(time.Millisecond, func() { f(b) }) }
	}
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	addr := netip.MustParseAddr
	var err error
	p.near, err = NewRouter(
		Interface{Addr: addr("10.0.0.254"), Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
			Output: later(func(b []byte) { p.a.Inject(b) })},
		Interface{Addr: addr("10.0.1.1"), MTU: 1400, Routes: everywhere, Output: later(func(b []byte) { p.far.Inject(b) })})
	if err != nil {
		t.Fatal(err)
	}
	p.far, err = NewRouter(
		Interface{Addr: addr("10.0.1.2"), MTU: 1400, Routes: everywhere, Output: later(func(b []byte) { p.near.Inject(b) })},
		Interface{Addr: addr("10.0.2.254"), Routes: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")},
			Output: later(func(b []byte) { p.b.Inject(b) })})
	if err != nil {
		t.Fatal(err)
	}
	out := later(func(b []byte) { p.near.Inject(b) })
	p.a, err = New(Config{Addrs: []netip.Addr{addr("10.0.0.1")}, Output: func(b []byte) {
		if p.change != nil {
			p.change(b)
		}
		out(b)
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.b, err = New(Config{Addrs: []netip.Addr{addr("10.0.2.1")}, Output: later(func(b []byte) { p.far.Inject(b) })})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []*Host{p.a, p.b} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

// TestRouterErrors: the routers and the host behind them say why a datagram does not arrive.
func TestRouterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(t)
		for _, c := range []struct {
			name string
			to   netip.AddrPort
			ttl  uint8
			size int // of the IP packet
			want ICMPError
		}{
			{"first hop", at(p.b, 9), 1, 60, ICMPError{From: netip.MustParseAddr("10.0.0.254"), Type: 11}},
			{"second hop", at(p.b, 9), 2, 60, ICMPError{From: netip.MustParseAddr("10.0.1.2"), Type: 11}},
			{"the host", at(p.b, 9), 3, 60, ICMPError{From: p.b.Addr(), Type: 3, Code: 3}},
			{"too big", at(p.b, 9), 0, 1401, ICMPError{From: netip.MustParseAddr("10.0.0.254"), Type: 3, Code: 4, MTU: 1400}},
			{"just not too big", at(p.b, 9), 0, 1400, ICMPError{From: p.b.Addr(), Type: 3, Code: 3}},
			{"a loop", netip.MustParseAddrPort("192.0.2.1:9"), 0, 60, ICMPError{From: netip.MustParseAddr("10.0.1.2"), Type: 11}},
		} {
			got := make(chan ICMPError, 1)
			remove := p.a.Tap(func(b []byte) {
				if e, ok := ParseICMPError(b); ok {
					got <- e
				}
			})
			u, err := p.a.DialUDP(netip.AddrPort{}, c.to)
			if err != nil {
				t.Fatal(err)
			}
			if err := u.DontFragment(); err != nil {
				t.Error(err)
			}
			if err := u.SetTTL(c.ttl); err != nil {
				t.Error(err)
			}
			if _, err := u.Write(make([]byte, c.size-28)); err != nil {
				t.Error(err)
			}
			c.want.Proto, c.want.Dst = 17, c.to
			c.want.Src = netip.MustParseAddrPort(u.LocalAddr().String())
			select {
			case e := <-got:
				if e != c.want {
					t.Errorf("%s: %+v, want %+v", c.name, e, c.want)
				}
			case <-time.After(time.Second):
				t.Errorf("%s: no error came", c.name)
			}
			remove()
			if err := u.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, to := range []string{"10.0.0.254", "10.0.1.2", "10.0.2.254"} {
			if _, err := p.a.Ping(t.Context(), netip.MustParseAddr(to), 0); err != nil {
				t.Errorf("ping %s: %v", to, err)
			}
		}
		if n := p.near.ChecksumErrors() + p.far.ChecksumErrors() + p.a.ChecksumErrors() + p.b.ChecksumErrors(); n != 0 {
			t.Errorf("%d checksum errors", n)
		}
	})
}

// TestRouterForwards: what fits not is found out by TCP, and cut to pieces for others.
func TestRouterForwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(t)
		p.change = func(b []byte) { // may be fragmented
			h := header.IPv4(b)
			h.SetFlagsFragmentOffset(0, 0)
			h.SetChecksum(0)
			h.SetChecksum(^h.CalculateChecksum())
		}
		pieces := 0
		remove := p.b.Tap(func([]byte) { pieces++ })
		u, err := p.b.ListenUDP(at(p.b, 9))
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.a.DialUDP(netip.AddrPort{}, at(p.b, 9))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 1472)); err != nil {
			t.Error(err)
		}
		if n, _, err := u.ReadFrom(make([]byte, 1500)); n != 1472 || err != nil {
			t.Errorf("%d bytes came: %v", n, err)
		}
		if remove(); pieces != 2 {
			t.Errorf("in %d pieces", pieces)
		}
		p.change = nil
		l, err := p.b.ListenTCP(at(p.b, 80))
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte("tide"), 1<<15)
		go func() {
			c, err := p.a.DialTCP(t.Context(), netip.AddrPort{}, at(p.b, 80))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d of %d bytes came: %v", len(got), len(data), err)
		}
	})
}

// TestRouterChecksums: a router mends nothing.
func TestRouterChecksums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPath(t)
		u, err := p.b.ListenUDP(at(p.b, 9))
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.a.DialUDP(netip.AddrPort{}, at(p.b, 9))
		if err != nil {
			t.Fatal(err)
		}
		p.change = func(b []byte) { b[len(b)-1] ^= 1 }
		if _, err := c.Write([]byte("wrong")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		p.change = nil
		if _, err := c.Write([]byte("right")); err != nil {
			t.Error(err)
		}
		b := make([]byte, 8)
		if n, _, err := u.ReadFrom(b); string(b[:n]) != "right" || err != nil {
			t.Errorf("%q came: %v", b[:n], err)
		}
		if n := p.b.ChecksumErrors(); n != 1 {
			t.Errorf("%d checksum errors, want 1", n)
		}
		// A wrong sum of the IP header: nobody behind the router sees it.
		p.near.Inject([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 1, 17, 0x12, 0x34, 10, 0, 0, 1, 10, 0, 2, 1})
		if n := p.near.ChecksumErrors(); n != 1 {
			t.Errorf("%d checksum errors at the router, want 1", n)
		}
	})
}

func TestRouterConfig(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for _, in := range []Interface{
		{},
		{Addr: netip.MustParseAddr("2001:db8::1")},
		{Addr: addr, MTU: 67},
		{Addr: addr, Routes: []netip.Prefix{{}}},
		{Addr: addr, Routes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}},
	} {
		if _, err := NewRouter(in); err == nil {
			t.Errorf("%+v was taken", in)
		}
	}
}

// TestParseICMPError: what is no whole and right error is none.
func TestParseICMPError(t *testing.T) {
	good := []byte{
		0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 10, 0, 0, 1,
		3, 4, 0, 0, 0, 0, 0x05, 0x78,
		0x45, 0, 0, 28, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1, 10, 0, 2, 1, 0x30, 0x39, 0, 9, 0, 8, 0, 0,
	}
	sums := func(b []byte) []byte {
		b[10], b[11], b[22], b[23] = 0, 0, 0, 0
		header.IPv4(b).SetChecksum(^header.IPv4(b).CalculateChecksum())
		header.ICMPv4(b[20:]).SetChecksum(^checksum.Checksum(b[20:], 0))
		return b
	}
	sums(good)
	want := ICMPError{From: netip.MustParseAddr("192.0.2.1"), Type: 3, Code: 4, MTU: 1400, Proto: 17,
		Src: netip.MustParseAddrPort("10.0.0.1:12345"), Dst: netip.MustParseAddrPort("10.0.2.1:9")}
	if e, ok := ParseICMPError(good); !ok || e != want {
		t.Errorf("%+v, %v", e, ok)
	}
	for n := range good {
		if e, ok := ParseICMPError(good[:n:n]); ok {
			t.Errorf("%d bytes: %+v", n, e)
		}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"bad IP sum":         func(b []byte) []byte { b[10] ^= 1; return b },
		"bad ICMP sum":       func(b []byte) []byte { b[22] ^= 1; return b },
		"an echo":            func(b []byte) []byte { b[20] = 8; return sums(b) },
		"a fragment":         func(b []byte) []byte { b[6] = 0x20; return sums(b) },
		"UDP":                func(b []byte) []byte { b[9] = 17; return sums(b) },
		"no room for ports":  func(b []byte) []byte { b[28] = 0x4f; return sums(b) },
		"a header too short": func(b []byte) []byte { b[28] = 0x44; return sums(b) },
		"too little quoted":  func(b []byte) []byte { b[3] = 51; return sums(b[:51]) },
	} {
		if e, ok := ParseICMPError(change(bytes.Clone(good))); ok {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// FuzzRouter: whatever comes, the router stands, and what it sends is right.
func FuzzRouter(f *testing.F) {
	for _, proto := range []byte{1, 17} {
		b := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 2, proto, 0, 0, 10, 0, 0, 1, 10, 0, 2, 1, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := func(a string) Interface {
			return Interface{Addr: netip.MustParseAddr(a), MTU: 68, Routes: []netip.Prefix{netip.MustParsePrefix(a + "/24")},
				Output: func(b []byte) {
					h := header.IPv4(b)
					if !h.IsValid(len(b)) || !h.IsChecksumValid() || len(b) > 68 || h.TTL() == 0 {
						t.Errorf("sent %x", b)
					}
				}}
		}
		r, err := NewRouter(in("10.0.0.254"), in("10.0.2.254"))
		if err != nil {
			t.Fatal(err)
		}
		if len(b) >= header.IPv4MinimumSize && int(b[0]&15)*4 <= len(b) { // or nothing gets past the checksum
			seal(b)
		}
		r.Inject(b)
	})
}

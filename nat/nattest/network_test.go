// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/nattest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers TCP and UDP on a port with what comes, as long as the host lives.
func echo(t *testing.T, h *nattest.Host, port string) {
	t.Helper()
	l, err := h.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	u, err := h.ListenPacket("udp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	go func() {
		for b := make([]byte, 1<<16); ; {
			m, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:m], from)
		}
	}()
}

// exchange sends something and reads it back.
func exchange(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 10)
	m, err := c.Read(b)
	if err == nil && string(b[:m]) != "hello" {
		err = fmt.Errorf("%q came back", b[:m])
	}
	return err
}

// connect is a connection to an address that is known to work.
func connect(t *testing.T, h *nattest.Host, network, to string) net.Conn {
	t.Helper()
	c, err := h.Dial(network, to)
	if err == nil {
		err = exchange(c)
	}
	if err != nil {
		t.Fatalf("%s to %s: %v", h.Name(), to, err)
	}
	return c
}

// at is the external address of a NAT with a port.
func at(x *nattest.NAT, port string) string { return net.JoinHostPort(x.Public().String(), port) }

func TestPresets(t *testing.T) {
	for _, b := range nattest.Presets() {
		t.Run(b.Name, func(t *testing.T) {
			if same, ok := nattest.Preset(b.Name); !ok || same.Name != b.Name || same.Profile != b.Profile {
				t.Errorf("the preset of that name is %+v, %v", same, ok)
			}
			nattest.Run(t, nattest.Config{Seed: 7}, func(t *testing.T, n *nattest.Network) {
				server := n.Host("server")
				echo(t, server, "7")
				x := n.NAT(b)
				laptop := x.Host("laptop")
				for _, network := range []string{"tcp", "udp"} {
					c := connect(t, laptop, network, "server:7")
					port := netip.MustParseAddrPort(c.LocalAddr().String()).Port()
					if got := x.Mapped(network, netip.AddrPortFrom(laptop.Addr(), port)); len(got) != 1 {
						t.Errorf("%s: %v has the mappings %v", network, c.LocalAddr(), got)
					}
				}
				if rtt, err := laptop.Ping(server.Addr()); err != nil {
					t.Errorf("ping: %v after %v", err, rtt)
				}
				if _, err := server.Dial("tcp", at(x, "80")); err == nil {
					t.Error("a stranger got in")
				}
			})
		})
	}
	if b, ok := nattest.Preset("full-clone"); ok {
		t.Errorf("there is no such preset: %+v", b)
	}
}

// TestHairpin: two hosts behind one NAT, by its external address; and, without the NAT's doing, by their own.
func TestHairpin(t *testing.T) {
	for _, off := range []bool{false, true} {
		nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
			b := nattest.FullCone()
			b.HairpinOff = off
			x := n.NAT(b)
			server, client := x.Host("server"), x.Host("client")
			echo(t, server, "7")
			x.Forward("tcp", 7, server, 7)
			c, err := client.Dial("tcp", at(x, "7"))
			if err == nil {
				err = exchange(c)
			}
			if (err == nil) == off || (x.Count(nat.DropHairpin) > 0) != off || (x.Count(nat.Hairpin) > 0) == off {
				t.Errorf("hairpin off %v: %v", off, err)
			}
			time.Sleep(time.Second) // what is on the way arrives
			seen := len(x.Log())
			connect(t, client, "tcp", "server:7")
			if len(x.Log()) != seen {
				t.Error("hosts of one network talk through the NAT")
			}
		})
	}
}

// TestForwardAndStatic: what is opened on purpose.
func TestForwardAndStatic(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		outside := n.Host("outside")
		echo(t, outside, "7")
		x := n.NAT(nattest.Symmetric())
		inside := x.Host("inside")
		echo(t, inside, "7")
		for _, network := range []string{"tcp", "udp"} {
			x.Forward(network, 80, inside, 7)
			connect(t, outside, network, at(x, "80"))
		}
		public := x.Static(inside)
		connect(t, outside, "tcp", net.JoinHostPort(public.String(), "7"))
		if rtt, err := outside.Ping(public); err != nil {
			t.Errorf("ping: %v, %v", rtt, err)
		}
		connect(t, inside, "udp", "outside:7")
		if last := x.Log()[len(x.Log())-1]; last.Destination.Addr() != public || last.Verdict != nat.StaticInbound {
			t.Errorf("a host with an address of its own is seen as %v", last)
		}
		// By hand, and taken back.
		other := netip.MustParseAddr("198.51.100.77")
		static := x.Policy().Static
		x.Update(func(p *nat.Policy) { p.Static = []nat.Static{{Inside: inside.Addr(), Outside: other}} })
		if _, err := outside.Ping(other); err != nil {
			t.Errorf("ping: %v", err)
		}
		x.Update(func(p *nat.Policy) { p.Static = static })
		if _, err := outside.Ping(other); err == nil {
			t.Error("an address that was given back answers")
		}
		if _, err := outside.Ping(public); err != nil {
			t.Errorf("ping: %v", err)
		}
	})
}

// TestNames: a name is as good as an address, and no address.
func TestNames(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := n.Host("server")
		client := n.NAT(nattest.FullCone()).Host("client")
		echo(t, server, "80")
		connect(t, client, "tcp4", "server:80")
		connect(t, client, "udp4", server.Addr().String()+":80")
		if l, err := server.Listen("tcp", "server:81"); err != nil || l.Addr().String() != server.Addr().String()+":81" {
			t.Errorf("%v, %v", l, err)
		}
		for _, bad := range []string{"nobody:80", "server", "server:http", "[::1]:80", ""} {
			if _, err := client.Dial("tcp", bad); err == nil || !strings.HasPrefix(err.Error(), "dial tcp") {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if _, err := client.Dial("unix", "server:80"); err == nil {
			t.Error("a Unix socket")
		}
		if _, err := client.Dial("tcp", "server:81"); err != nil {
			t.Error(err)
		}
		if _, err := client.Dial("tcp", "server:82"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
	})
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	text string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// TestWrongUse: what makes no sense fails the test, and says why.
func TestWrongUse(t *testing.T) {
	for want, use := range map[string]func(n *nattest.Network){
		`there are two hosts with the name "a"`:   func(n *nattest.Network) { n.Host("a"); n.NAT(nattest.FullCone()).Host("a") },
		`"" is no name for a host`:                func(n *nattest.Network) { n.Host("") },
		`"10.0.0.1" is no name for a host`:        func(n *nattest.Network) { n.Host("10.0.0.1") },
		`"a:b" is no name for a host`:             func(n *nattest.Network) { n.Host("a:b") },
		"Loss is 2, which is not between 0 and 1": func(n *nattest.Network) { n.Host("a", nattest.Link{Loss: 2}) },
		"an MTU of 67 is not between":             func(n *nattest.Network) { n.NAT(nattest.FullCone(), nattest.Link{MTU: 67}) },
		"a value is negative":                     func(n *nattest.Network) { n.Host("a").SetLink(nattest.Link{Latency: -1}) },
		"has one link":                            func(n *nattest.Network) { n.Host("a", nattest.Link{}, nattest.Link{}) },
		"a network has room for 255 NATs":         nest(256),
		"203.0.113.0/24 is full":                  func(n *nattest.Network) { many(n.Host) },
		"10.1.0.0/24 is full":                     func(n *nattest.Network) { many(n.NAT(nattest.FullCone()).Host) },
		"no address is left in 198.51.100.0/24":   func(n *nattest.Network) { b := nattest.FullCone(); b.Addresses = 255; n.NAT(b) },
		"a limit of 0 ports is not between 1 and": func(n *nattest.Network) { n.NAT(nattest.FullCone()).LimitPorts(0) },
		"a limit of 99999 ports is not between 1": func(n *nattest.Network) { n.NAT(nattest.Behaviour{}).LimitPorts(99999) },
		`a forward of "sctp"`:                     func(n *nattest.Network) { n.NAT(nattest.FullCone()).Forward("sctp", 1, n.Host("a"), 1) },
		"203.0.113.1 is not inside":               func(n *nattest.Network) { n.NAT(nattest.FullCone()).Forward("tcp", 1, n.Host("a"), 1) },
		"198.51.100.1 is the address of nat 1":    func(n *nattest.Network) { take(n.NAT(nattest.FullCone()), n.NAT(nattest.FullCone())) },
		"a capture needs a host or a NAT":         func(n *nattest.Network) { n.Capture(io.Discard) },
		"ports 9 to 8":                            func(n *nattest.Network) { n.NAT(nattest.Behaviour{Profile: nat.Profile{PortMin: 9, PortMax: 8}}) },
	} {
		nattest.Run(t, nattest.Config{}, func(t *testing.T, _ *nattest.Network) {
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				use(nattest.New(r, nattest.Config{}))
			}()
			<-done
			if !strings.Contains(r.text, want) {
				t.Errorf("got %q, want %q", r.text, want)
			}
		})
	}
}

// many makes more hosts than there are addresses in a network.
func many(host func(string, ...nattest.Link) *nattest.Host) {
	for i := range 300 {
		host(fmt.Sprint("host", i))
	}
}

// nest puts so many NATs one behind the other.
func nest(depth int) func(n *nattest.Network) {
	return func(n *nattest.Network) {
		x := n.NAT(nattest.FullCone())
		for range depth - 1 {
			b := nattest.FullCone()
			b.Sessions = 64
			x = x.NAT(b)
		}
	}
}

// take gives a NAT the address of another.
func take(from, to *nattest.NAT) {
	to.Update(func(p *nat.Policy) { p.Pools[0].Addresses = append(p.Pools[0].Addresses, from.Public()) })
}

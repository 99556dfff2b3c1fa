// SPDX-License-Identifier: Apache-2.0

package stuntest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate/internal/stuntest"
)

var (
	serverAddrs = [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.1")}
	serverPorts = [2]uint16{3478, 3479}
)

// run is for a client behind a NAT, in a bubble: goroutines that are left behind fail the test.
func run(t *testing.T, n *network, f func(t *testing.T, c *stuntest.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := stuntest.Listen(n.listen, serverAddrs, serverPorts)
		if err != nil {
			t.Fatal(err)
		}
		f(t, &stuntest.Client{Open: n.open, Server: s.Addr()})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if len(n.sockets) > 0 {
			t.Errorf("%d sockets are still open", len(n.sockets))
		}
	})
}

// TestDiscover: every kind of NAT is recognized, with and without loss.
func TestDiscover(t *testing.T) {
	losses := map[string]func(int) bool{"none": nil, "every third": func(n int) bool { return n%3 == 0 }}
	for m := stuntest.EndpointIndependent; m <= stuntest.AddressAndPortDependent; m++ {
		for f := stuntest.FilterEndpointIndependent; f <= stuntest.FilterAddressAndPortDependent; f++ {
			for _, hairpin := range []bool{true, false} {
				for name, lose := range losses {
					t.Run(fmt.Sprintf("%v, %v, hairpin %v, loss %s", m, f, hairpin, name), func(t *testing.T) {
						n := &network{mapping: m, filtering: f, hairpin: hairpin, lose: lose}
						run(t, n, func(t *testing.T, c *stuntest.Client) {
							c.Tries = 7
							b, err := c.Discover(t.Context())
							if err != nil {
								t.Fatal(err)
							}
							// What was sent to open the filter has done so only if the mapping is the one the server saw.
							reached := hairpin && (m == stuntest.EndpointIndependent || f == stuntest.FilterEndpointIndependent)
							want := stuntest.Behaviour{Mapping: m, Filtering: f, Hairpin: reached, Mapped: b.Mapped}
							if b != want || b.Mapped.Addr() != public {
								t.Errorf("got %+v, want %+v", b, want)
							}
						})
					})
				}
			}
		}
	}
}

// TestHairpinInternal: a NAT that leaves the inside source does not hairpin as it should.
func TestHairpinInternal(t *testing.T) {
	n := &network{mapping: stuntest.EndpointIndependent, filtering: stuntest.FilterEndpointIndependent, hairpin: true, internal: true}
	run(t, n, func(t *testing.T, c *stuntest.Client) {
		if b, err := c.Discover(t.Context()); err != nil || b.Hairpin {
			t.Errorf("%+v, %v", b, err)
		}
	})
}

func TestLifetime(t *testing.T) {
	for _, tt := range []struct{ lives, want time.Duration }{
		{300 * time.Second, 300 * time.Second}, {20 * time.Second, 20 * time.Second}, {0, time.Hour}, {time.Millisecond, 0},
	} {
		n := &network{mapping: stuntest.EndpointIndependent, filtering: stuntest.FilterAddressAndPortDependent, lifetime: tt.lives}
		run(t, n, func(t *testing.T, c *stuntest.Client) {
			slept := time.Duration(0)
			c.Sleep = func(d time.Duration) { slept += d; time.Sleep(d) }
			got, err := c.Lifetime(t.Context(), time.Hour, time.Second)
			if err != nil || got > tt.want || got < tt.want-time.Second || slept < time.Hour {
				t.Errorf("a mapping that lives %v: %v, %v, after %v of sleep", tt.lives, got, err, slept)
			}
		})
	}
}

func TestAlive(t *testing.T) {
	n := &network{mapping: stuntest.AddressAndPortDependent, filtering: stuntest.FilterAddressAndPortDependent, lifetime: 60 * time.Second}
	run(t, n, func(t *testing.T, c *stuntest.Client) {
		for idle, want := range map[time.Duration]bool{59 * time.Second: true, 60 * time.Second: false} {
			if got, err := c.Alive(t.Context(), idle); err != nil || got != want {
				t.Errorf("after %v: %v, %v", idle, got, err)
			}
		}
	})
}

// TestUnreachable: the errors say that nothing answers, after all tries; or that it is too late to try.
func TestUnreachable(t *testing.T) {
	run(t, &network{lose: func(int) bool { return true }}, func(t *testing.T, c *stuntest.Client) {
		c.Wait, c.Tries = time.Second, 4
		start := time.Now()
		if _, err := c.Discover(t.Context()); !errors.Is(err, stuntest.ErrNoAnswer) {
			t.Errorf("discover: %v", err)
		}
		if _, err := c.Alive(t.Context(), 0); !errors.Is(err, stuntest.ErrNoAnswer) {
			t.Errorf("alive: %v", err)
		}
		if d := time.Since(start); d != 2*15*time.Second {
			t.Errorf("gave up after %v", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Discover(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// TestListen: a server that cannot have all its sockets has none.
func TestListen(t *testing.T) {
	n := &network{}
	if _, err := stuntest.Listen(n.listen, [2]netip.Addr{serverAddrs[0], serverAddrs[0]}, serverPorts); !errors.Is(err, os.ErrExist) {
		t.Errorf("one address twice: %v", err)
	}
	if len(n.sockets) > 0 {
		t.Errorf("%d sockets are still open", len(n.sockets))
	}
}

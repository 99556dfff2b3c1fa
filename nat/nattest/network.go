// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Network is an internet with hosts and NATs on it. Its methods fail the test rather than return errors, and may be
// called from any goroutine of the test, except that the topology is for one goroutine at a time.
type Network struct {
	tb       testing.TB
	seed     uint64
	start    time.Time
	clock    *clock
	router   netip.Addr
	internet *site
	publics  netip.Addr // the next one for a NAT

	mu       sync.Mutex
	numbers  int
	hosts    map[string]*Host
	nats     []*NAT
	captures []*capture
}

// Documentation addresses (RFC 5737): hosts on the internet have the first, NATs the second, the internet's router is
// in the third.
var (
	hostPrefix = netip.MustParsePrefix("203.0.113.0/24")
	natPrefix  = netip.MustParsePrefix("198.51.100.0/24")
	routerAddr = netip.MustParseAddr("192.0.2.1")
)

// Config is what a Network is made of. The zero value is usable.
type Config struct {
	// Seed makes every random choice: of the links, the NATs and the hosts. Equal seeds, equal runs.
	Seed uint64
}

// Run runs f as a test of its own time: in a bubble of testing/synctest, with a network.
func Run(t *testing.T, c Config, f func(t *testing.T, n *Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, New(t, c)) })
}

// New makes an internet with nothing on it. When the test ends, all its hosts and NATs end, too, and the tables of every
// NAT are checked; what the NATs have done last is logged if the test has failed.
//
// Within a bubble of testing/synctest time is virtual: it moves when everybody waits. Elsewhere it is what it is.
func New(tb testing.TB, c Config) *Network {
	tb.Helper()
	n := &Network{tb: tb, seed: c.Seed, start: time.Now(), clock: newClock(), router: routerAddr, hosts: map[string]*Host{}}
	n.internet = &site{net: n, prefix: hostPrefix, ports: map[netip.Addr]*port{}, next: hostPrefix.Addr().Next()}
	n.publics = natPrefix.Addr().Next()
	tb.Cleanup(n.close)
	return n
}

// close ends everything, and says what has gone wrong inside.
func (n *Network) close() {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, h := range n.hosts {
		errs = append(errs, h.close())
	}
	n.clock.close()
	for _, x := range n.nats {
		if err := x.engine.Check(n.Elapsed()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", x.name, err))
		}
	}
	for _, c := range n.captures {
		errs = append(errs, c.close())
	}
	if err := errors.Join(errs...); err != nil {
		n.tb.Error(err)
	}
	if n.tb.Failed() {
		n.tb.Log(n.history())
	}
}

// history is the last lines of the log of each NAT.
func (n *Network) history() string {
	const lines = 30
	var b strings.Builder
	for _, x := range n.nats {
		log := x.Log()
		if len(log) == 0 {
			fmt.Fprintf(&b, "%s has seen no packet\n", x.name)
			continue
		}
		fmt.Fprintf(&b, "%s has seen %d packets; the last of them:\n", x.name, len(log))
		for _, r := range log[max(0, len(log)-lines):] {
			fmt.Fprintf(&b, "  %v\n", r)
		}
	}
	return b.String()
}

// Elapsed is how long the network has been there. It is the time in records and captures.
func (n *Network) Elapsed() time.Duration { return time.Since(n.start) }

// number gives everything in the network a place in the order.
func (n *Network) number() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.numbers++
	return n.numbers
}

// Host puts a host on the internet, with an address of 203.0.113.0/24 and a link that is DefaultLink unless one is given.
func (n *Network) Host(name string, link ...Link) *Host {
	n.tb.Helper()
	return n.internet.host(name, link)
}

// NAT puts a NAT on the internet, with addresses of 198.51.100.0/24.
func (n *Network) NAT(b Behaviour, link ...Link) *NAT {
	n.tb.Helper()
	return n.internet.nat(b, link)
}

// NATs are the NATs of the network, in the order in which they were made; those of Behaviour.Behind, too.
func (n *Network) NATs() []*NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.nats)
}

// link is the one that was given, if it makes sense, or the default.
func (n *Network) link(given []Link) Link {
	n.tb.Helper()
	switch len(given) {
	case 0:
		return DefaultLink
	case 1:
		if err := given[0].validate(); err != nil {
			n.tb.Fatalf("nattest: %v", err)
		}
		return given[0]
	}
	n.tb.Fatal("nattest: a host or NAT has one link")
	return Link{}
}

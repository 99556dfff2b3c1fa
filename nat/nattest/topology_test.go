// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/nattest"
)

// anything does random things in a random network: NATs in NATs, links of all kinds, faults at any time. It returns what
// came of it.
func anything(t *testing.T, seed uint64) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	link := func() nattest.Link {
		return nattest.Link{
			Latency: time.Duration(r.IntN(50)) * time.Millisecond, Jitter: time.Duration(r.IntN(5)) * time.Millisecond,
			Loss: r.Float64() / 10, Duplicate: r.Float64() / 10, Reorder: r.Float64() / 10,
			Bandwidth: int64(r.IntN(2)) * 1e6, Queue: 10_000 + r.IntN(100_000), MTU: 576 + r.IntN(1000),
		}
	}
	var out strings.Builder
	nattest.Run(t, nattest.Config{Seed: seed}, func(t *testing.T, n *nattest.Network) {
		hosts := []*nattest.Host{n.Host("public", link())}
		presets := nattest.Presets()
		for range 1 + r.IntN(6) {
			b := presets[r.IntN(len(presets))]
			if all := n.NATs(); len(all) > 0 && r.IntN(2) == 0 {
				all[r.IntN(len(all))].NAT(b, link())
			} else {
				n.NAT(b, link())
			}
		}
		nats := n.NATs()
		for i := range 2 + r.IntN(4) {
			hosts = append(hosts, nats[r.IntN(len(nats))].Host(fmt.Sprint("host", i), link()))
		}
		n.Capture(io.Discard, nats[0], hosts[0])
		for _, h := range hosts {
			echo(t, h, "7")
		}
		time.Sleep(time.Millisecond) // until all listen: a host that dials itself does not wait for a packet
		for range 40 {
			x, h, to := nats[r.IntN(len(nats))], hosts[r.IntN(len(hosts))], hosts[r.IntN(len(hosts))].Name()+":7"
			switch r.IntN(4) {
			case 0:
				to = at(x, "7")
			case 1:
				to = "public:7"
			}
			var err error
			switch r.IntN(12) {
			case 0:
				x.Reboot()
			case 1:
				x.Renumber()
			case 2:
				x.LimitPorts(2 + r.IntN(500))
			case 3:
				x.EatICMPErrors(r.IntN(2) == 0)
			case 4:
				x.Block(netip.PrefixFrom(h.Addr(), 32))
			case 5:
				x.Unblock(netip.PrefixFrom(h.Addr(), 32))
			case 6:
				h.SetLink(link())
			case 7:
				if x.Inside().Contains(h.Addr()) && len(x.Policy().Static) == 0 {
					x.Forward("tcp", 7, h, 7)
					x.Static(h)
				}
			case 8:
				_, err = h.Ping(x.Public())
			default:
				protocol := []string{"tcp", "udp"}[r.IntN(2)]
				c, dialed := h.Dial(protocol, to)
				if err = dialed; err == nil {
					_, err = c.Write(bytes.Repeat([]byte("x"), r.IntN(5000)))
					_ = c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(3000)) * time.Millisecond))
					_, again := c.Read(make([]byte, 5000))
					err = errors.Join(err, again)
					if r.IntN(2) == 0 {
						_ = c.Close()
					}
				}
			}
			fmt.Fprintln(&out, n.Elapsed(), h.Name(), to, err)
		}
		for _, x := range nats {
			if leaks := x.Count(nat.DropLeak); leaks > 0 {
				t.Errorf("%s: %d packets nearly left untranslated", x.Name(), leaks)
			}
			for _, record := range x.Log() {
				fmt.Fprintln(&out, record)
			}
		}
	})
	return out.String()
}

// TestAnything: nothing breaks, and everything is the same the second time. Networks run at the same time as others.
func TestAnything(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			first, again := anything(t, seed), anything(t, seed)
			a, b := strings.Split(first, "\n"), strings.Split(again, "\n")
			for i := range min(len(a), len(b)) {
				if a[i] != b[i] {
					t.Fatalf("line %d differs:\n%s\n%s", i, a[i], b[i])
				}
			}
			if len(a) != len(b) || len(a) < 50 {
				t.Errorf("%d lines, then %d", len(a), len(b))
			}
		})
	}
}

// TestRealTime: without a bubble the same network runs on the clock of the machine.
func TestRealTime(t *testing.T) {
	t.Parallel()
	n := nattest.New(t, nattest.Config{})
	echo(t, n.Host("server"), "7")
	x := n.NAT(nattest.Symmetric(), nattest.Link{Latency: time.Millisecond, Bandwidth: 1e9})
	client := x.Host("client")
	n.Capture(io.Discard, client)
	start := time.Now()
	c := connect(t, client, "tcp", "server:7")
	if d := time.Since(start); d < 4*11*time.Millisecond {
		t.Errorf("two round trips took %v", d)
	}
	if rtt, err := client.Ping(netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()); err != nil || rtt < 22*time.Millisecond {
		t.Errorf("ping: %v, %v", rtt, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a deadline that does not pass")
	}
	if len(x.Log()) < 6 {
		t.Errorf("the NAT has seen %d packets", len(x.Log()))
	}
}

// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/nattest"
)

// faults are what happens to a NAT between two exchanges of one connection.
var faults = map[string]func(x *nattest.NAT, server netip.Addr){
	"reboot":   func(x *nattest.NAT, _ netip.Addr) { x.Reboot() },
	"renumber": func(x *nattest.NAT, _ netip.Addr) { x.Renumber() },
	"block":    func(x *nattest.NAT, server netip.Addr) { x.Block(netip.PrefixFrom(server, 32)) },
	"bad link": func(x *nattest.NAT, _ netip.Addr) {
		x.SetLink(nattest.Link{
			Latency: 80 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.05, Duplicate: 0.05, Reorder: 0.05, Bandwidth: 1e6,
		})
	},
	"idle": func(x *nattest.NAT, _ netip.Addr) {
		t := x.Policy().Pools[0].Profile.Timeouts
		time.Sleep(max(t.TCPEstablished, t.UDP) + time.Minute)
	},
}

// outcome is what comes of the second exchange.
func outcome(preset, protocol, fault string) error {
	switch {
	case fault == "block":
		return os.ErrDeadlineExceeded
	case protocol == "udp" || fault == "bad link":
		return nil // a datagram makes a mapping whenever there is none
	case preset == "aws-nat-gateway":
		return syscall.ECONNRESET // by the NAT
	case preset == "linux-masquerade" && fault == "renumber":
		return syscall.ECONNRESET // by the server, to which the connection comes from a stranger
	case preset == "linux-masquerade":
		return nil // it takes connections up in the middle
	}
	return os.ErrDeadlineExceeded
}

// TestSuite: every preset, protocol and fault.
func TestSuite(t *testing.T) {
	scenarios := 0
	for _, b := range nattest.Presets() {
		for _, protocol := range []string{"tcp", "udp"} {
			for fault, happen := range faults {
				scenarios++
				t.Run(b.Name+"/"+protocol+"/"+fault, func(t *testing.T) {
					t.Parallel()
					nattest.Run(t, nattest.Config{Seed: 5}, func(t *testing.T, n *nattest.Network) {
						server := n.Host("server")
						echo(t, server, "7")
						x := n.NAT(b)
						client := x.Host("client")
						c := connect(t, client, protocol, "server:7")
						happen(x, server.Addr())
						want := outcome(b.Name, protocol, fault)
						if err := persist(c); !errors.Is(err, want) {
							t.Errorf("the connection from before: %v, want %v", err, want)
						}
						c, err := client.Dial(protocol, "server:7")
						if err == nil {
							err = persist(c)
						}
						if (err != nil) != (fault == "block") {
							t.Errorf("a new connection: %v", err)
						}
						if leaks := x.Count(nat.DropLeak); leaks > 0 {
							t.Errorf("%d packets nearly left untranslated", leaks)
						}
					})
				})
			}
		}
	}
	if scenarios != 100 {
		t.Errorf("%d scenarios", scenarios)
	}
}

// persist tries an exchange again if it is one of datagrams.
func persist(c net.Conn) (err error) {
	for range 5 {
		err = exchange(c)
		if c.LocalAddr().Network() == "tcp" || err == nil {
			return err
		}
	}
	return err
}

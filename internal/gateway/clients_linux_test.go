// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/tidegate/tidegate/internal/gateway/wirecheck"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/stuntest"
)

var profiles = []string{"gateway", "rfc", "aws"}

// startProfile starts a gateway with a profile and one public address.
func (b *bed) startProfile(name string) {
	b.t.Helper()
	config := filepath.Join(b.t.TempDir(), "gateway.yaml")
	text := "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\nprofile: " + name + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.start("--config", config)
}

// TestDiscovery: what RFC 5780 finds out from inside is what the profiles promise for UDP.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	const (
		mapEIM, mapAPDM     = stuntest.EndpointIndependent, stuntest.AddressAndPortDependent
		passAny, passAddr   = stuntest.FilterEndpointIndependent, stuntest.FilterAddressDependent
		passAddrPort        = stuntest.FilterAddressAndPortDependent
		stunPort, otherPort = 3478, 3479
	)
	for name, want := range map[string]stuntest.Behaviour{
		"gateway": {Mapping: mapEIM, Filtering: passAddr, Hairpin: true},
		"rfc":     {Mapping: mapEIM, Filtering: passAny, Hairpin: true},
		"aws":     {Mapping: mapAPDM, Filtering: passAddrPort}, // its filter refuses what hairpins
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.startProfile(name)
			other := netip.MustParseAddr("198.51.100.3")
			err := onLink(b.net, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
				return nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet("198.51.100.3/24")})
			})
			if err != nil {
				t.Fatal(err)
			}
			listen := func(at netip.AddrPort) (net.PacketConn, error) { return b.net.ListenPacket("udp4", at.String()) }
			s, err := stuntest.Listen(listen, [2]netip.Addr{netAddr, other}, [2]uint16{stunPort, otherPort})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			c := &stuntest.Client{
				Open:   func() (net.PacketConn, error) { return b.pc.ListenPacket("udp4", "10.0.1.10:0") },
				Server: s.Addr(), Wait: 200 * time.Millisecond, Tries: 4,
			}
			got, err := c.Discover(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want.Mapped = got.Mapped; got != want || got.Mapped.Addr() != public {
				t.Errorf("found %+v, want %+v", got, want)
			}
			if alive, err := c.Alive(t.Context(), 0); err != nil || !alive {
				t.Errorf("a mapping just made is alive: %v, %v", alive, err)
			}
		})
	}
}

// TestTraceroute: programs find both hops of the gateway and the path MTU. TestProbes does so without any.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	kinds := [][]string{
		{},     // UDP, a port a probe
		{"-U"}, // UDP, to port 53
		{"-I"}, // ICMP echo
		{"-T"}, // TCP SYN, to port 80
	}
	if out, _ := b.tool(b.pc, "traceroute", "--version"); !strings.Contains(out, "Modern traceroute for Linux") {
		t.Log("traceroute is not the one that Debian has: the probes of TestProbes stand for it")
		kinds = nil
	}
	for _, kind := range kinds {
		out, exit := b.run(b.pc, "traceroute", append(kind, "-n", "-q", "1", "-w", "5", "198.51.100.1")...)
		if exit != 0 || !inOrder(out, " 1  10.0.1.1 ", " 2  198.51.100.2 ", " 3  198.51.100.1 ") {
			t.Errorf("traceroute %v: exit %d\n%s", kind, exit, out)
		}
	}
	if err := b.gw.Do(func() error { return setMTU("eth0", 1400) }); err != nil {
		t.Fatal(err)
	}
	out, exit := b.tool(b.pc, "tracepath", "-n", "198.51.100.1")
	if exit != 0 || out != "" && !inOrder(out, "pmtu 1500", "1:  10.0.1.1 ", "2:  198.51.100.2 ", "pmtu 1400", "3:  198.51.100.1 ", "reached",
		"Resume: pmtu 1400 hops 3 back 3") {
		t.Errorf("tracepath: exit %d\n%s", exit, out)
	}
}

// TestLargeDatagrams: 8 KB datagrams, six pieces each, go out and come back: through NAPT, 1:1, and a port forward.
func TestLargeDatagrams(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start("--inside", "10.0.0.0/16", "--public", "203.0.113.1", "--static", "10.0.2.10=203.0.113.10",
		"--forward", "udp:203.0.113.1:5353=10.0.1.10:53")
	for _, tt := range []struct {
		name   string
		client *lab.Host
		to     string
		server *lab.Host
		listen string
		source netip.Addr
	}{
		{"NAPT", b.pc, "198.51.100.1:9000", b.net, "198.51.100.1:9000", public},
		{"1:1 from outside", b.net, "203.0.113.10:9001", b.srv, "10.0.2.10:9001", netAddr},
		{"1:1 from inside", b.srv, "198.51.100.1:9002", b.net, "198.51.100.1:9002", eip},
		{"port forward", b.net, "203.0.113.1:5353", b.pc, "10.0.1.10:53", netAddr},
	} {
		server, err := tt.server.ListenPacket("udp4", tt.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := tt.client.Dial(t.Context(), "udp", tt.to)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		deadline := time.Now().Add(20 * time.Second)
		_ = server.SetDeadline(deadline)
		_ = client.SetDeadline(deadline)
		sent, buf := make([]byte, 8192), make([]byte, 1<<16)
		_, _ = rand.NewChaCha8([32]byte{8}).Read(sent)
		if _, err := client.Write(sent); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) || netip.MustParseAddrPort(from.String()).Addr() != tt.source {
			t.Errorf("%s: %d bytes arrived, from %v: %v", tt.name, n, from, err)
			continue
		}
		if _, err := server.WriteTo(sent, from); err != nil {
			t.Fatal(err)
		}
		if n, err := client.Read(buf); err != nil || !bytes.Equal(buf[:n], sent) {
			t.Errorf("%s: %d bytes came back: %v", tt.name, n, err)
		}
	}
}

// TestSimultaneousOpen: two hosts that connect to each other, with nobody listening, have a connection (RFC 5382 REQ-2a),
// with every profile: the other end sends to where the first SYN came from, and that much every filter lets in.
func TestSimultaneousOpen(t *testing.T) {
	t.Parallel()
	const port = 6000
	for _, name := range profiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			b.startProfile(name)
			// The SYN from inside gets no further than this; otherwise it would be refused before the other end connects.
			if err := b.net.Do(func() error { return dropSYN(port) }); err != nil {
				t.Fatal(err)
			}
			syn := b.firstPacketTo(port)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			type dialed struct {
				net.Conn
				error
			}
			inside := make(chan dialed, 1)
			go func() {
				c, err := b.pc.DialFrom(ctx, "tcp", 5000, netip.AddrPortFrom(netAddr, port))
				inside <- dialed{c, err}
			}()
			outer, err := b.net.DialFrom(ctx, "tcp", port, syn())
			if err != nil {
				t.Fatal(err)
			}
			defer outer.Close()
			inner := <-inside
			if inner.error != nil {
				t.Fatal(inner.error)
			}
			defer inner.Close()
			for _, way := range [][2]net.Conn{{inner, outer}, {outer, inner}} {
				_ = way[1].SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := io.WriteString(way[0], "hello"); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 5)
				if _, err := io.ReadFull(way[1], buf); err != nil || string(buf) != "hello" {
					t.Errorf("%q arrived, %v", buf, err)
				}
			}
		})
	}
}

// firstPacketTo returns a function that waits for a packet to a TCP port of the internet and returns its source.
func (b *bed) firstPacketTo(port uint16) func() netip.AddrPort {
	b.t.Helper()
	var s *wirecheck.Sniffer
	err := b.net.Do(func() (err error) {
		s, err = wirecheck.Sniff("eth0")
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	found := make(chan netip.AddrPort, 1)
	done := make(chan error, 1)
	go func() {
		done <- s.Run(func(p []byte) {
			if t := p[int(p[0]&15)*4:]; p[9] == 6 && t[2] == byte(port>>8) && t[3] == byte(port) {
				select {
				case found <- netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:16])), uint16(t[0])<<8|uint16(t[1])):
				default: // it is not the first
				}
			}
		})
	}()
	return func() netip.AddrPort {
		b.t.Helper()
		defer func() {
			_ = s.Stop()
			<-done
			_ = s.Close()
		}()
		select {
		case a := <-found:
			return a
		case <-time.After(20 * time.Second):
			b.t.Fatal("no packet has come")
			return netip.AddrPort{}
		}
	}
}

// dropSYN has the calling thread's namespace receive no SYN to a port, but SYN with ACK.
func dropSYN(port uint16) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "fw", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{6}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("drop SYNs: %w", err)
	}
	return nil
}

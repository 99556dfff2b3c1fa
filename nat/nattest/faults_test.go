// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/nattest"
)

// behind is a client behind a NAT, with an echo server at server:7.
func behind(t *testing.T, b nattest.Behaviour, f func(t *testing.T, n *nattest.Network, x *nattest.NAT, client *nattest.Host)) {
	t.Helper()
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		echo(t, n.Host("server"), "7")
		x := n.NAT(b)
		f(t, n, x, x.Host("client"))
	})
}

// TestReboot: a NAT that has forgotten a connection drops it, resets it or takes it up again, as its profile says.
func TestReboot(t *testing.T) {
	for name, want := range map[string]error{
		"symmetric": os.ErrDeadlineExceeded, "aws-nat-gateway": syscall.ECONNRESET, "linux-masquerade": nil,
	} {
		b, _ := nattest.Preset(name)
		behind(t, b, func(t *testing.T, n *nattest.Network, x *nattest.NAT, client *nattest.Host) {
			c := connect(t, client, "tcp", "server:7")
			x.Reboot()
			if len(x.Mapped("tcp", netip.MustParseAddrPort(c.LocalAddr().String()))) != 0 {
				t.Errorf("%s: a mapping has lived on", name)
			}
			if err := exchange(c); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			connect(t, client, "tcp", "server:7")
		})
	}
}

// TestNoPort: a port limit holds for what is new.
func TestNoPort(t *testing.T) {
	behind(t, nattest.Symmetric(), func(t *testing.T, n *nattest.Network, x *nattest.NAT, client *nattest.Host) {
		first := connect(t, client, "tcp", "server:7")
		second := connect(t, client, "tcp", "server:7")
		x.LimitPorts(2)
		connect(t, client, "tcp", "server:7")
		connect(t, client, "tcp", "server:7")
		// The engine answers with ICMP that it is prohibited.
		if _, err := client.Dial("tcp", "server:7"); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("without a port: %v", err)
		}
		if x.Count(nat.DropNoPort) == 0 {
			t.Error("no packet was without a port")
		}
		for _, c := range []net.Conn{first, second} {
			if err := exchange(c); err != nil {
				t.Errorf("a connection from before: %v", err)
			}
		}
	})
}

// TestRenumber: old connections are cut, new ones come from the new address, the old one leads nowhere.
func TestRenumber(t *testing.T) {
	behind(t, nattest.FullCone(), func(t *testing.T, n *nattest.Network, x *nattest.NAT, client *nattest.Host) {
		listener := n.Host("listener")
		u, err := listener.ListenPacket("udp", ":9")
		if err != nil {
			t.Fatal(err)
		}
		from := func() net.Addr {
			t.Helper()
			c, err := client.DialFrom(t.Context(), "udp", 5000, "listener:9")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			_, a, err := u.ReadFrom(make([]byte, 10))
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		c := connect(t, client, "tcp", "server:7")
		before, old := from(), x.Public()
		if impact := x.Renumber(); impact.Cut != 2 || impact.Kept != 0 {
			t.Errorf("%+v", impact)
		}
		if err := exchange(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection from before: %v", err)
		}
		after := netip.MustParseAddrPort(from().String())
		if after.Addr() != x.Public() || after.Addr() == old {
			t.Errorf("first %v, then %v", before, after)
		}
		seen := len(x.Log())
		if _, err := u.WriteTo([]byte("are you there?"), before); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if len(x.Log()) != seen {
			t.Error("the old address still reaches the NAT")
		}
		for range 300 { // more than there are addresses, one after the other
			x.Renumber()
		}
		from()
	})
}

// TestBlock: a rule cuts a flow in the middle, and one that is taken back lets it go on.
func TestBlock(t *testing.T) {
	behind(t, nattest.Symmetric(), func(t *testing.T, n *nattest.Network, x *nattest.NAT, client *nattest.Host) {
		echo(t, n.Host("another"), "7")
		c, d := connect(t, client, "tcp", "server:7"), connect(t, client, "tcp", "another:7")
		server := netip.PrefixFrom(netip.MustParseAddrPort(c.RemoteAddr().String()).Addr(), 32)
		x.Block(server)
		if err := exchange(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("blocked: %v", err)
		}
		if err := exchange(d); err != nil {
			t.Errorf("not blocked: %v", err)
		}
		x.Unblock(server)
		if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Errorf("what waited to be sent: %q, %v", b, err)
		}
	})
}

// TestEatICMPErrors: an upload to where a smaller MTU is on the way finds it, or hangs where nobody may tell it.
func TestEatICMPErrors(t *testing.T) {
	for _, eaten := range []bool{false, true} {
		nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
			server := n.Host("server")
			echo(t, server, "7")
			server.SetLink(nattest.Link{MTU: 1000, Latency: time.Millisecond}) // its interface does not know
			x := n.NAT(nattest.FullCone())
			x.EatICMPErrors(eaten)
			c := connect(t, x.Host("client"), "tcp", "server:7") // small packets pass
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			data := bytes.Repeat([]byte("0123456789"), 1000)
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(data))
			_, err := io.ReadFull(c, got)
			if eaten && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("with ICMP eaten: %v", err)
			}
			if !eaten && (err != nil || !bytes.Equal(got, data)) {
				t.Errorf("with ICMP: %v", err)
			}
		})
	}
}

// TestTTL: each router on the way answers for its step, through all NATs before it; and a capture shows it.
func TestTTL(t *testing.T) {
	var file bytes.Buffer
	var want []string
	var start time.Time
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := n.Host("server")
		x := n.NAT(nattest.DoubleNAT())
		client := x.Host("client")
		n.Capture(&file, client, x)
		start = time.Now()
		c, err := client.ListenPacket("udp", ":5000")
		if err != nil {
			t.Fatal(err)
		}
		for ttl := range uint8(4) {
			if err := c.(interface{ SetTTL(uint8) error }).SetTTL(ttl + 1); err != nil {
				t.Fatal(err)
			}
			if _, err := c.WriteTo([]byte("who?"), &net.UDPAddr{IP: server.Addr().AsSlice(), Port: 33434}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		want = []string{
			x.Inside().Addr().Next().String() + " TimeExceeded(TTLExceeded)",
			x.Upstream().Inside().Addr().Next().String() + " TimeExceeded(TTLExceeded)",
			"192.0.2.1 TimeExceeded(TTLExceeded)", // the internet's
			server.Addr().String() + " DestinationUnreachable(Port)",
		}
	})
	packets := decode(t, &file)
	var got []string
	for _, p := range packets["client"] {
		ip := p.NetworkLayer().(*layers.IPv4)
		if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
			got = append(got, ip.SrcIP.String()+" "+icmp.TypeCode.String())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if first := packets["client"][0]; len(packets["client"]) != 8 || !first.Metadata().Timestamp.Equal(start.Add(1)) {
		t.Errorf("%d packets from %v on, and not 8 from %v on", len(packets["client"]), first.Metadata().Timestamp, start)
	}
	if len(packets) != 2 || len(packets) == len(packets["client"]) {
		t.Errorf("links: %d", len(packets))
	}
}

// decode is the packets of a capture, by interface.
func decode(t *testing.T, r io.Reader) (byLink map[string][]gopacket.Packet) {
	t.Helper()
	f, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	byLink = map[string][]gopacket.Packet{}
	for {
		b, info, err := f.ReadPacketData()
		if err == io.EOF {
			return byLink
		}
		if err != nil {
			t.Fatal(err)
		}
		face, err := f.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.Default)
		if p.ErrorLayer() != nil {
			t.Fatal(p.ErrorLayer().Error())
		}
		p.Metadata().CaptureInfo = info
		byLink[face.Name] = append(byLink[face.Name], p)
	}
}

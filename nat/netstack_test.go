// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	gicmp "gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	gtcp "gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	gudp "gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/invariants"
	"github.com/tidegate/tidegate/packet"
)

// netstackHost is a host with gVisor's network stack: it did not learn TCP, checksums or ICMP from us.
type netstackHost struct {
	addr  netip.Addr
	stack *stack.Stack
	link  *channel.Endpoint
}

func newNetstackHost(t *testing.T, addr netip.Addr) *netstackHost {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{gtcp.NewProtocol, gudp.NewProtocol, gicmp.NewProtocol4},
	})
	link := channel.New(1024, 1500, "")
	if err := s.CreateNIC(1, link); err != nil {
		t.Fatal(err)
	}
	own := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddrFromSlice(addr.AsSlice()).WithPrefix()}
	if err := s.AddProtocolAddress(1, own, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	t.Cleanup(func() { s.Close(); s.Wait() })
	return &netstackHost{addr, s, link}
}

func (h *netstackHost) at(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(h.addr.AsSlice()), Port: port}
}

// netstackNAT connects hosts on both sides of an engine until the test ends.
type netstackNAT struct {
	engine *nat.Engine
	start  time.Time
	mu     sync.Mutex // turns at the worker
	worker *nat.Worker
	laws   *invariants.Laws
	hosts  map[netip.Addr]*netstackHost
}

func newNetstackNAT(t *testing.T, p *nat.Policy, inside, outside []*netstackHost) *netstackNAT {
	t.Helper()
	e, err := nat.New(nat.Config{Sessions: 1024}, p)
	if err != nil {
		t.Fatal(err)
	}
	n := &netstackNAT{engine: e, worker: e.Worker(), laws: invariants.New(p), start: time.Now(), hosts: map[netip.Addr]*netstackHost{}}
	ctx, cancel := context.WithCancel(context.Background())
	var pumps sync.WaitGroup
	for from, hosts := range [][]*netstackHost{nat.Inside: inside, nat.Outside: outside} {
		for _, h := range hosts {
			n.hosts[h.addr] = h
			pumps.Go(func() { n.pump(t, ctx, h, nat.AttachmentID(from)) })
		}
	}
	t.Cleanup(func() {
		cancel()
		pumps.Wait()
		if err := e.Check(time.Since(n.start)); err != nil {
			t.Error(err)
		}
	})
	return n
}

// pump takes what a host sends through the engine.
func (n *netstackNAT) pump(t *testing.T, ctx context.Context, h *netstackHost, from nat.AttachmentID) {
	for {
		pkt := h.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		p := packet.From(pkt.ToView().AsSlice())
		pkt.DecRef()
		n.mu.Lock()
		was, now := p.Clone(), time.Since(n.start)
		v := n.worker.Translate(&p, from, now)
		if err := n.laws.Packet(from, was, p, v, n.worker.Emitted()); err != nil {
			t.Error(err)
		}
		if err := n.laws.Settle(n.engine.Sessions(now)); err != nil {
			t.Error(err)
		}
		if v.Forward() {
			n.deliver(p.Bytes())
		}
		for _, e := range n.worker.Emitted() {
			n.deliver(e.Packet.Bytes())
		}
		n.mu.Unlock()
	}
}

// deliver hands a packet to the host whose address it has; there is nobody else on either side.
func (n *netstackNAT) deliver(b []byte) {
	if h := n.hosts[netip.AddrFrom4([4]byte(b[16:20]))]; h != nil {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(bytes.Clone(b))})
		h.link.InjectInbound(ipv4.ProtocolNumber, pkt)
		pkt.DecRef()
	}
}

// TestNetstack has gVisor's stack on both sides of the engine: two inside hosts with one source port send and receive a
// megabyte over TCP at the same time, behind one address; and nobody outside gets in.
func TestNetstack(t *testing.T) {
	public := netip.MustParseAddr("198.51.100.1")
	for _, profile := range []nat.Profile{nat.GatewayProfile(), nat.RFCProfile(), nat.AWSProfile()} {
		t.Run(profile.Name, func(t *testing.T) {
			t.Parallel()
			a := newNetstackHost(t, netip.MustParseAddr("10.0.1.10"))
			b := newNetstackHost(t, netip.MustParseAddr("10.0.1.11"))
			server := newNetstackHost(t, netip.MustParseAddr("203.0.113.9"))
			in := netip.MustParsePrefix("10.0.0.0/16")
			n := newNetstackNAT(t, &nat.Policy{
				Inside: []netip.Prefix{in},
				Pools:  []nat.Pool{{Name: "pool", Addresses: []netip.Addr{public}, Profile: profile}},
				Routes: []nat.Route{{Source: in, Pool: "pool"}},
			}, []*netstackHost{a, b}, []*netstackHost{server})

			l, err := gonet.ListenTCP(server.stack, server.at(80), ipv4.ProtocolNumber)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			peers := make(chan netip.AddrPort, 2)
			go echo(l, peers)
			var wg sync.WaitGroup
			for _, h := range []*netstackHost{a, b} {
				wg.Go(func() {
					if err := megabyte(h, server.at(80)); err != nil {
						t.Errorf("%v: %v", h.addr, err)
					}
				})
			}
			wg.Wait()
			first, second := <-peers, <-peers
			if first.Addr() != public || second.Addr() != public || first.Port() == second.Port() {
				t.Errorf("the server sees %v and %v", first, second)
			}
			pingPong(t, a, server)
			knock(t, n, server, public)
		})
	}
}

// echo answers each connection with what it sends.
func echo(l *gonet.TCPListener, peers chan<- netip.AddrPort) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		peers <- netip.MustParseAddrPort(c.RemoteAddr().String())
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// megabyte sends a megabyte and wants it back.
func megabyte(h *netstackHost, to tcpip.FullAddress) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := gonet.DialTCPWithBind(ctx, h.stack, h.at(40000), to, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	defer c.Close()
	data := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{h.addr.As4()[3]})
	_, _ = r.Read(data) // never fails
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		failed <- errors.Join(err, c.CloseWrite())
	}()
	sum := sha256.New()
	if _, err := io.Copy(sum, c); err != nil {
		return err
	}
	if err := <-failed; err != nil {
		return err
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		return errors.New("other bytes came back")
	}
	return nil
}

// pingPong sends a datagram larger than the MTU each way: the stacks cut and reassemble it.
func pingPong(t *testing.T, h, server *netstackHost) {
	t.Helper()
	at := server.at(53)
	s, err := gonet.DialUDP(server.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := gonet.DialUDP(h.stack, nil, &at, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(30 * time.Second)
	if err := errors.Join(s.SetDeadline(deadline), c.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("tide"), 1000)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8000)
	m, from, err := s.ReadFrom(buf)
	if err != nil || !bytes.Equal(buf[:m], data) {
		t.Fatalf("the server got %d bytes: %v", m, err)
	}
	if _, err := s.WriteTo(buf[:m], from); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Read(buf); err != nil || !bytes.Equal(buf[:m], data) {
		t.Fatalf("the client got %d bytes: %v", m, err)
	}
}

// knock dials the public address from outside until the engine has refused it.
func knock(t *testing.T, n *netstackNAT, server *netstackHost, public netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	dialed := make(chan error, 1)
	go func() {
		to := tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(public.AsSlice()), Port: 80}
		_, err := gonet.DialContextTCP(ctx, server.stack, to, ipv4.ProtocolNumber)
		dialed <- err
	}()
	for ctx.Err() == nil {
		v := n.engine.Stats(time.Since(n.start)).Verdicts
		if v[nat.DropNoMapping]+v[nat.HeldSYN] > 0 {
			cancel()
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	if err := <-dialed; !errors.Is(err, context.Canceled) {
		t.Errorf("a SYN from outside: %v", err)
	}
}

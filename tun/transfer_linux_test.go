// SPDX-License-Identifier: Apache-2.0

package tun_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// TestTransfer joins the kernels of two namespaces by two TUN interfaces and sends a few megabytes of TCP through, each
// way. With offloads at both ends super-packets cross whole; with one end plain, packet.Segment cuts them, and the
// kernel there must find every checksum right.
func TestTransfer(t *testing.T) {
	for _, far := range kinds {
		t.Run("linux to "+far.name, func(t *testing.T) {
			for _, network := range []struct{ name, here, there string }{
				{"tcp4", "10.9.0.1", "10.9.0.2"}, {"tcp6", "fd00:9::1", "fd00:9::2"},
			} {
				t.Run(network.name, func(t *testing.T) {
					transfer(t, network.name, network.here, network.there, far.options)
				})
			}
		})
	}
}

func transfer(t *testing.T, network, here, there string, o tun.Options) {
	bits := map[string]string{"tcp4": "/24", "tcp6": "/64"}[network]
	enter(t)
	ipv6(t, network == "tcp6")
	a := open(t, tun.Options{}, here+bits)
	listener, err := net.Listen(network, net.JoinHostPort(here, "80"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()

	var pumps sync.WaitGroup
	var whole, back pump
	t.Run("the other end", func(t *testing.T) {
		enter(t)
		ipv6(t, network == "tcp6")
		b := open(t, o, there+bits)
		pumps.Go(func() { whole.run(t, a, b) })
		pumps.Go(func() { back.run(t, b, a) })
		defer func() { // before Cleanup, which closes them too: the pumps must not outlive the test
			if err := errors.Join(a.Close(), b.Close()); err != nil {
				t.Error(err)
			}
			pumps.Wait()
		}()

		want := make([]byte, 4<<20)
		chacha := rand.NewChaCha8([32]byte{1})
		_, _ = chacha.Read(want) // never fails
		served := make(chan error, 1)
		go func() { served <- serve(listener, want) }()

		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(here, "80"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("received %d bytes, which are not those sent", len(got))
		}
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		noChecksumErrors(t)
	})
	noChecksumErrors(t)
	if whole.largest <= 1500 {
		t.Errorf("no super-packet among %d packets of the kernel: the largest has %d bytes", whole.packets, whole.largest)
	}
	if o.NoOffload || o.Backend == tun.BackendWater {
		if back.largest > 1500 {
			t.Errorf("a packet of %d bytes from a device without offloads", back.largest)
		}
	} else if back.largest <= 1500 {
		t.Errorf("no super-packet on the way back")
	}
}

// serve sends data on the first connection, then expects it back.
func serve(l net.Listener, data []byte) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, data) {
		err = errors.New("what came back is not what was sent")
	}
	return err
}

// pump moves packets from one device to another until one is closed.
type pump struct{ packets, largest int }

func (p *pump) run(t *testing.T, from, to tun.Device) {
	ps := buffers(from)
	for {
		n, err := from.Read(ps)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		p.packets += n
		for i := range ps[:n] {
			p.largest = max(p.largest, ps[i].Len)
		}
		if _, err := to.Write(ps[:n]); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
			return
		}
	}
}

// noChecksumErrors asks the kernel of the test's namespace.
func noChecksumErrors(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if name == "InCsumErrors" && f[i] != "0" {
				t.Errorf("%s TCP segments with a wrong checksum", f[i])
			}
		}
	}
	if names == nil {
		t.Error("the kernel has no TCP counters")
	}
}

// BenchmarkLinuxReadWrite moves batches through the kernel: written to one TUN interface, forwarded, read from another.
func BenchmarkLinuxReadWrite(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
		gso  packet.Offload
	}{
		{name: "64B", size: 64 - 28},
		{name: "1500B", size: 1472},
		{name: "64KB-super", size: 64000, gso: packet.Offload{
			Csum: packet.CsumPartial, CsumStart: 20, CsumOffset: 6, GSO: packet.GSOUDP, GSOSize: 1472, HdrLen: 28,
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			enter(b)
			ipv6(b, false)
			in := open(b, tun.Options{Name: "in"}, "10.9.0.1/24")
			out := open(b, tun.Options{Name: "out"}, "198.51.100.1/24")
			if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
				b.Fatal(err)
			}
			p := udp(5000, c.size)
			p.Offload = c.gso
			batch := make([]packet.Packet, 32)
			for i := range batch {
				batch[i] = p.Clone()
			}
			ps := buffers(out)
			b.SetBytes(int64(p.Len))
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += len(batch) {
				if _, err := in.Write(batch); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < len(batch); {
					n, err := out.Read(ps)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
		})
	}
}

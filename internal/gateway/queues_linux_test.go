// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tidegate/tidegate/internal/gateway/wirecheck"
	"github.com/tidegate/tidegate/internal/lab"
)

// withQueues is plainFile with so many queues, and more.
func withQueues(n int, more string) string {
	return fmt.Sprintf("%sdevices: {queues: %d}\n%s", plainFile, n, more)
}

// startQueues starts a gateway with so many queues, and more in its configuration.
func (b *bed) startQueues(n int, more string) *instance {
	b.t.Helper()
	return b.start("--metrics", metricsAddr, "--config", configFile(b.t, withQueues(n, more)))
}

// hasQueues checks what the kernel says of both interfaces.
func (b *bed) hasQueues(n int, when string) {
	b.t.Helper()
	for _, name := range []string{"tg-in", "tg-out"} {
		err := onLink(b.gw, name, func(_ *netlink.Handle, l netlink.Link) error {
			tun, ok := l.(*netlink.Tuntap)
			if !ok {
				return fmt.Errorf("%s is a %s", name, l.Type())
			}
			// Of an interface of one queue the kernel does not count.
			if multi := tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0; multi != (n > 1) || multi && (tun.Queues != n || tun.DisabledQueues != 0) {
				b.t.Errorf("%s %s has %d queues, several possible: %v; want %d", when, name, tun.Queues, multi, n)
			}
			return nil
		})
		if err != nil {
			b.t.Errorf("%s: %v", when, err)
		}
	}
}

// queues is how many packets of a side each queue has seen, by the metrics.
func (b *bed) queues(n int, side, op string) (packets []int) {
	b.t.Helper()
	for i := range n {
		packets = append(packets, b.number(fmt.Sprintf(`nat_device_queue_packets_total{device="%s",op="%s",queue="%d"}`, side, op, i)))
	}
	return packets
}

// used are the queues that have seen packets since before.
func used(before, now []int) (all []int) {
	for i := range now {
		if now[i] > before[i] {
			all = append(all, i)
		}
	}
	return all
}

// TestQueues: with four queues many flows from inside and from outside pass, every byte and every checksum right, and are spread
// over the queues. Both directions of a flow meet at the workers of one number.
func TestQueues(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"io_uring", "plain"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			if backend == "io_uring" {
				b.needsIOURing()
			}
			for _, device := range []string{"eth0", "eth1", "eth2"} {
				if err := txOffloadOff(b.gw, device); err != nil {
					t.Fatal(err)
				}
			}
			echoTCP(t, b.net, "198.51.100.1:7")
			echoUDP(t, b.net, "198.51.100.1:7")
			echoTCP(t, b.srv, "10.0.2.10:7")
			echoUDP(t, b.srv, "10.0.2.10:7")
			b.mirror()
			g := b.start("--metrics", metricsAddr, "--config", configFile(t, plainFile+
				"devices: {queues: 4, backend: "+backend+"}\nstatic: [{inside: 10.0.2.10, outside: 203.0.113.10}]\n"))
			b.reads(g, backend, 4)
			b.hasQueues(4, "at the start")
			b.healthy()
			out := b.watch()
			in := b.watchAt(b.pc, &wirecheck.Checker{Allowed: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}})
			f := b.startTraffic(64, 50*time.Millisecond)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { b.exchange(b.net, "tcp", "203.0.113.10:7", 8) })
				wg.Go(func() { b.exchange(b.net, "udp", "203.0.113.10:7", 8) })
			}
			b.transfer(8)
			wg.Wait()
			f.progress("all flows to go on", 5)
			f.stop()
			f.check()
			for _, stop := range []func() *wirecheck.Checker{out, in} {
				if r := stop().Report; r.Err() != nil || r.Packets < 1000 {
					t.Errorf("%v, %d packets", r.Err(), r.Packets)
				}
			}
			for _, side := range []string{"inside", "outside"} {
				for _, op := range []string{"read", "write"} {
					n := b.queues(4, side, op)
					if len(used(make([]int, 4), n)) < 3 {
						t.Errorf("%s, %s: packets by queue %v", side, op, n)
					}
					total, sum := b.number(fmt.Sprintf(`nat_device_packets_total{device="%s",op="%s"}`, side, op)), 0
					for _, v := range b.queues(4, side, op) {
						sum += v
					}
					if sum < total {
						t.Errorf("%s, %s: %d packets of %d are of a queue", side, op, sum, total)
					}
				}
			}
			met := map[int]bool{}
			// By chance all would meet once in 4^16 times. Not TCP: the answers to its packets are made while they are delivered, since both
			// hosts are on this machine, and that is before the kernel notes where the flow was written to.
			for i := range 16 {
				insideWas, outsideWas := b.queues(4, "inside", "read"), b.queues(4, "outside", "read")
				from, to := b.pc, "198.51.100.1:7"
				if i >= 8 {
					from, to = b.net, "203.0.113.10:7"
				}
				b.exchange(from, "udp", to, 10)
				inside, outside := used(insideWas, b.queues(4, "inside", "read")), used(outsideWas, b.queues(4, "outside", "read"))
				if len(inside) != 1 || len(outside) != 1 || inside[0] != outside[0] {
					t.Errorf("a flow from %s: queues %v of the inside, %v of the outside", from.Name(), inside, outside)
				}
				if len(inside) > 0 {
					met[inside[0]] = true
				}
			}
			if len(met) < 2 {
				t.Errorf("16 flows met at %v", met)
			}
			b.healthy()
			if out, exit := b.command("doctor"); exit != 0 || strings.Contains(out, "queue") {
				t.Errorf("doctor: exit %d\n%s", exit, out)
			}
			if err := g.stop(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		})
	}
}

// exchange has an echo of n words from a server of echoTCP or echoUDP, in one flow.
func (b *bed) exchange(h *lab.Host, network, addr string, n int) {
	c, err := h.Dial(b.t.Context(), network, addr)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 100)
	for i := range n {
		_, err := c.Write([]byte("word"))
		if err == nil {
			_, err = c.Read(buf)
		}
		if err != nil {
			b.t.Errorf("%s %s from %s, word %d: %v", network, addr, h.Name(), i, err)
			return
		}
	}
}

// TestQueuesUpgrade: while datagrams go both ways in many flows the gateway is replaced, again and again. Not one is lost.
func TestQueuesUpgrade(t *testing.T) {
	t.Parallel()
	for _, queues := range []int{1, 4} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			server, err := b.net.ListenPacket("udp", "198.51.100.1:7")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			_ = server.(*net.UDPConn).SetReadBuffer(8 << 20)
			go func() {
				for buf := make([]byte, 100); ; {
					n, from, err := server.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = server.WriteTo(buf[:n], from)
				}
			}()
			g := b.startQueues(queues, "")
			var sent, answered atomic.Int64
			quit := make(chan struct{})
			var wg sync.WaitGroup
			for range 32 {
				c, err := b.pc.Dial(t.Context(), "udp", "198.51.100.1:7")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.(*net.UDPConn).SetReadBuffer(1 << 20)
				wg.Go(func() {
					for {
						select {
						case <-quit:
							return
						case <-time.After(16 * time.Millisecond): // what waits meanwhile has to fit into the queues of the veths, of 1,000 packets
						}
						if _, err := c.Write([]byte("datagram")); err == nil {
							sent.Add(1)
						}
					}
				})
				go func() {
					for buf := make([]byte, 100); ; {
						if _, err := c.Read(buf); err != nil {
							return
						}
						answered.Add(1)
					}
				}()
			}
			for i := range 3 {
				more := answered.Load() + 500
				until(t, "datagrams before the next upgrade", func() bool { return answered.Load() >= more })
				next := b.startQueues(queues, "")
				if err := g.wait(); err != nil || !strings.Contains(g.text(), `"msg":"handed over"`) {
					t.Errorf("upgrade %d: the old process ended with %v\n%s", i, err, g.text())
				}
				g = next
				b.hasQueues(queues, "after an upgrade")
			}
			more := answered.Load() + 500
			until(t, "datagrams after the last upgrade", func() bool { return answered.Load() >= more })
			close(quit)
			wg.Wait()
			for _, metric := range []string{`dropped_total{device="inside",op="read"}`, `dropped_total{device="outside",op="read"}`,
				`refused_total{device="inside"}`, `refused_total{device="outside"}`} {
				if n := b.number("nat_device_" + metric); n != 0 {
					t.Errorf("%s is %d", metric, n)
				}
			}
			until(t, fmt.Sprintf("answers to all %d datagrams", sent.Load()), func() bool { return answered.Load() == sent.Load() })
			b.healthy()
		})
	}
}

// TestQueuesRefused: who has another number of queues does not take over, is told what to do, and the gateway that runs goes on.
func TestQueuesRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	for has, others := range map[int][]int{1: {2}, 4: {1, 2, 8}} {
		g := b.startQueues(has, "")
		conn := b.hold()
		for _, n := range others {
			out, exit := b.command("run", "--socket", b.socket, "--config", configFile(t, withQueues(n, "")))
			want := fmt.Sprintf("devices.queues: %d, which cannot become %d while it runs: stop it and start again", has, n)
			if exit != 1 || !strings.Contains(out, want) {
				t.Errorf("%d queues after %d: exit %d\n%s", n, has, exit, out)
			}
			conn.alive("after a start that was refused")
		}
		if has > 1 { // an older one has one queue, and does not say so
			if _, _, status := b.ask(); !strings.Contains(status, " 409 ") {
				t.Errorf("one that says nothing of queues: %q", status)
			}
		}
		b.hasQueues(has, "after all")
		b.healthy()
		if err := g.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	b.startQueues(2, "").stop(syscall.SIGTERM)
	out, exit := b.command("check", "--config", configFile(t, withQueues(17, "")))
	if exit != 2 || !strings.Contains(out, "3: devices.queues: 17 is out of range") {
		t.Errorf("check: exit %d\n%s", exit, out)
	}
}

// TestQueuesChange: after a stop of whatever kind the next start may have another number of queues, and connections go on.
func TestQueuesChange(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	echoTCP(t, b.net, "198.51.100.1:7")
	g := b.startQueues(1, "")
	conn := b.hold()
	for _, tt := range []struct {
		stop syscall.Signal
		next int
		anew bool // interfaces that were there are made anew
	}{
		{syscall.SIGKILL, 4, true},
		{syscall.SIGUSR2, 2, false},
		{syscall.SIGKILL, 16, false},
		{syscall.SIGUSR2, 1, true},
		{syscall.SIGTERM, 3, false},
	} {
		when := fmt.Sprintf("after %v and a start with %d queues", tt.stop, tt.next)
		g.stop(tt.stop)
		g = b.startQueues(tt.next, "")
		conn.alive(when)
		b.hasQueues(tt.next, when)
		if n := g.lines(`"msg":"an interface of the last run is made anew`); (n == 2) != tt.anew || n%2 != 0 {
			t.Errorf("%s it is said %d times that an interface is made anew\n%s", when, n, g.text())
		}
		if !strings.Contains(g.text(), `"msg":"adopted","sessions":1,`) {
			t.Errorf("%s:\n%s", when, g.text())
		}
		b.healthy()
	}
	if n := g.lines(`"msg":"the tables stay in as few parts`); n != 1 {
		t.Errorf("the log:\n%s", g.text())
	}
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if out, exit := b.command("teardown"); exit != 0 {
		t.Errorf("teardown: exit %d\n%s", exit, out)
	}

	// One of the same name that is no gateway's stays.
	err := onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error {
		return nl.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tg-out"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_DEFAULTS})
	})
	if err != nil {
		t.Fatal(err)
	}
	out, exit := b.command("run", "--socket", b.socket, "--config", configFile(t, withQueues(2, "")))
	if exit != 1 || !strings.Contains(out, "made with another kind of queues") {
		t.Errorf("with an interface of somebody else's: exit %d\n%s", exit, out)
	}
	if err := onLink(b.gw, "tg-out", func(*netlink.Handle, netlink.Link) error { return nil }); err != nil {
		t.Errorf("the interface of somebody else: %v", err)
	}
	if err := onLink(b.gw, "tg-in", func(*netlink.Handle, netlink.Link) error { return nil }); err == nil {
		t.Error("the other interface is left over")
	}
}

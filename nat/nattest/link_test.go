// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat/nattest"
)

// datagrams sends so many of a size over a link, apart in time, and returns which ones arrived and how long each took.
func datagrams(t *testing.T, l nattest.Link, count, size int, apart time.Duration) (order []int, took []time.Duration) {
	t.Helper()
	nattest.Run(t, nattest.Config{Seed: 3}, func(t *testing.T, n *nattest.Network) {
		receiver, err := n.Host("receiver", l).ListenPacket("udp", ":9")
		if err != nil {
			t.Fatal(err)
		}
		sender, err := n.Host("sender", nattest.Link{}).Dial("udp", "receiver:9")
		if err != nil {
			t.Fatal(err)
		}
		sent := make([]time.Time, count)
		go func() {
			b := make([]byte, size-28)
			for i := range sent {
				sent[i] = time.Now()
				binary.BigEndian.PutUint32(b, uint32(i))
				if _, err := sender.Write(b); err != nil {
					t.Error(err)
				}
				time.Sleep(apart)
			}
		}()
		_ = receiver.SetReadDeadline(time.Now().Add(time.Duration(count)*apart + time.Minute))
		for b := make([]byte, size); ; {
			if _, _, err := receiver.ReadFrom(b); err != nil {
				return
			}
			i := int(binary.BigEndian.Uint32(b))
			order = append(order, i)
			took = append(took, time.Since(sent[i]))
		}
	})
	return order, took
}

// within is a time but for the nanoseconds in which the test and the network take turns.
func within(d, low, high time.Duration) bool {
	d = d.Round(time.Microsecond)
	return d >= low && d <= high
}

// late is how many came after one that was sent later.
func late(order []int) (count int) {
	highest := -1
	for _, i := range order {
		if i < highest {
			count++
		}
		highest = max(highest, i)
	}
	return count
}

func TestLink(t *testing.T) {
	const count = 600
	ms := time.Millisecond
	for _, tt := range []struct {
		name                 string
		link                 nattest.Link
		fewest, most         int // that arrive
		shortest, longest    time.Duration
		fewestLate, mostLate int
		size                 int
		apart                time.Duration
	}{
		{name: "a perfect wire"},
		{name: "latency", link: nattest.Link{Latency: 20 * ms}, shortest: 20 * ms, longest: 20 * ms},
		{name: "jitter", link: nattest.Link{Latency: 20 * ms, Jitter: 10 * ms}, shortest: 20 * ms, longest: 30 * ms},
		{name: "loss", link: nattest.Link{Loss: 0.1}, fewest: 510, most: 570},
		{name: "all lost", link: nattest.Link{Loss: 1}, fewest: 0, most: -1},
		{name: "duplicates", link: nattest.Link{Duplicate: 0.1}, fewest: 630, most: 690},
		{name: "reordering", link: nattest.Link{Reorder: 0.1}, longest: 10 * ms, fewestLate: 30, mostLate: 90},
		{name: "late by far", link: nattest.Link{Reorder: 0.1, ReorderDelay: time.Second}, longest: time.Second, fewestLate: 30, mostLate: 90},
		// 1,000 bytes take 8 ms at 1 Mbit/s.
		{name: "bandwidth", link: nattest.Link{Bandwidth: 1e6}, size: 1000, apart: 8 * ms, shortest: 8 * ms, longest: 8 * ms},
		// Half of what comes finds the queue of 5,000 bytes full, and what does not waits for up to 40 ms.
		{name: "a full queue", link: nattest.Link{Bandwidth: 1e6, Queue: 5000}, size: 1000, apart: 4 * ms, fewest: 300, most: 310, shortest: 8 * ms, longest: 40 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.size, tt.apart = max(tt.size, 100), max(tt.apart, ms)
			switch tt.most {
			case 0:
				tt.fewest, tt.most = count, count
			case -1:
				tt.most = 0
			}
			order, took := datagrams(t, tt.link, count, tt.size, tt.apart)
			if len(order) < tt.fewest || len(order) > tt.most {
				t.Errorf("%d of %d arrived, want %d to %d", len(order), count, tt.fewest, tt.most)
			}
			if l := late(order); l < tt.fewestLate || l > tt.mostLate {
				t.Errorf("%d were late, want %d to %d", l, tt.fewestLate, tt.mostLate)
			}
			for i, d := range took {
				if !within(d, tt.shortest, tt.longest) {
					t.Fatalf("datagram %d took %v, want %v to %v", order[i], d, tt.shortest, tt.longest)
				}
			}
		})
	}
}

// TestRoundTrip: the latencies of all links on the way, there and back, and nothing else.
func TestRoundTrip(t *testing.T) {
	ms := time.Millisecond
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := n.Host("server", nattest.Link{Latency: 3 * ms})
		echo(t, server, "7")
		x := n.NAT(nattest.DoubleNAT(), nattest.Link{Latency: 20 * ms}) // the carrier's link; the one between is the default
		client := x.Host("client", nattest.Link{Latency: 2 * ms})
		want := 2 * (3 + 20 + 5 + 2) * ms
		if rtt, err := client.Ping(server.Addr()); err != nil || !within(rtt, want, want) {
			t.Errorf("ping: %v, %v; want %v", rtt, err, want)
		}
		start := time.Now()
		c, err := client.Dial("tcp", "server:7")
		if d := time.Since(start); err != nil || !within(d, want, want) {
			t.Errorf("dial: %v, %v; want %v", d, err, want)
		}
		start = time.Now()
		if err := exchange(c); err != nil || !within(time.Since(start), want, want) {
			t.Errorf("echo: %v, %v; want %v", time.Since(start), err, want)
		}
		client.SetLink(nattest.Link{Latency: 1002 * ms})
		x.Upstream().SetLink(nattest.Link{})
		want += 2 * (1000 - 20) * ms
		if rtt, err := client.Ping(server.Addr()); err != nil || !within(rtt, want, want) {
			t.Errorf("ping after the change: %v, %v; want %v", rtt, err, want)
		}
	})
}

// TestTransfer: TCP gets every byte across whatever a link does, and as much as the link has room for.
func TestTransfer(t *testing.T) {
	const size = 1 << 19
	for name, tt := range map[string]struct {
		link             nattest.Link
		fastest, slowest time.Duration
	}{
		// 512 KiB and 52 bytes of headers for each 1,448 at least, and some of it twice where the queue was full.
		"1 Mbit/s":  {nattest.Link{Latency: 10 * time.Millisecond, Bandwidth: 1e6}, 4300 * time.Millisecond, 6 * time.Second},
		"10 Mbit/s": {nattest.Link{Latency: 10 * time.Millisecond, Bandwidth: 10e6}, 430 * time.Millisecond, 900 * time.Millisecond},
		"loss":      {nattest.Link{Loss: 0.02}, 0, time.Minute},
		"everything": {nattest.Link{
			Latency: 5 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.01, Duplicate: 0.05, Reorder: 0.05, Bandwidth: 50e6, MTU: 1000,
		}, 0, time.Minute},
		"a small MTU": {nattest.Link{MTU: 576}, 0, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
				l, err := n.Host("server").Listen("tcp", ":9")
				if err != nil {
					t.Fatal(err)
				}
				client := n.NAT(nattest.Symmetric(), tt.link).Host("client")
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(i ^ i>>8 ^ i>>16)
				}
				go func() {
					c, err := client.Dial("tcp", "server:9")
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					if _, err := c.Write(data); err != nil {
						t.Error(err)
					}
				}()
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes of %d arrived: %v", len(got), size, err)
				}
				if d := time.Since(start); d < tt.fastest || d > tt.slowest {
					t.Errorf("it took %v, want %v to %v", d, tt.fastest, tt.slowest)
				}
			})
		})
	}
}

// TestFragments: a datagram that is larger than a link's MTU arrives whole: fragmented by its host, by the internet's router
// and by the NAT.
func TestFragments(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		server := n.Host("server")
		server.SetLink(nattest.Link{MTU: 600, Latency: time.Millisecond})
		echo(t, server, "7")
		x := n.NAT(nattest.FullCone(), nattest.Link{MTU: 1000, Latency: time.Millisecond})
		c, err := x.Host("client").Dial("udp", "server:7")
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{900, 1400, 5000, 20_000} {
			data := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			got := make([]byte, size+1)
			if m, err := c.Read(got); err != nil || !bytes.Equal(got[:m], data) {
				t.Errorf("%d bytes: %d came back, %v", size, m, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

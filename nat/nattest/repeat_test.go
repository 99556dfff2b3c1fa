// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat/nattest"
)

// play is a network with much going on at once, and all that can be told of it afterwards: outcomes with their times, and
// the log and the events of every NAT.
func play(t *testing.T, seed uint64) (transcript string) {
	t.Helper()
	bad := nattest.Link{
		Latency: 7 * time.Millisecond, Jitter: 3 * time.Millisecond, Loss: 0.02, Duplicate: 0.01, Reorder: 0.05, Bandwidth: 20e6,
	}
	nattest.Run(t, nattest.Config{Seed: seed}, func(t *testing.T, n *nattest.Network) {
		echo(t, n.Host("server"), "7")
		echo(t, n.Host("another", bad), "7")
		nats := []*nattest.NAT{
			n.NAT(nattest.Symmetric(), bad), n.NAT(nattest.PortRestrictedCone()), n.NAT(nattest.DoubleNAT(), bad),
		}
		nats = append(nats, nats[2].Upstream())
		start := time.Now()
		var outcomes []*string
		var group sync.WaitGroup
		for i, x := range nats[:3] {
			for j := range 2 {
				h := x.Host(fmt.Sprintf("host%d-%d", i, j), bad)
				for k, to := range []string{"server:7", "another:7"} {
					tcp, udp := new(string), new(string)
					outcomes = append(outcomes, tcp, udp)
					group.Go(func() { *tcp = fmt.Sprintf("%d %d %d tcp %s", i, j, k, transfer(h, to, start)) })
					group.Go(func() { *udp = fmt.Sprintf("%d %d %d udp %s", i, j, k, ask(h, to, start)) })
				}
			}
		}
		time.Sleep(500 * time.Millisecond)
		nats[0].Reboot()
		time.Sleep(100 * time.Millisecond)
		nats[1].Renumber()
		group.Wait()
		var b strings.Builder
		for _, o := range outcomes {
			fmt.Fprintln(&b, *o)
		}
		for _, x := range nats {
			fmt.Fprintln(&b, x.Name(), x.Stats().Created)
			for _, r := range x.Log() {
				fmt.Fprintln(&b, r)
			}
			for _, v := range x.Events() {
				fmt.Fprintf(&b, "%+v\n", v)
			}
			if n := x.Stats().EventsLost; n > 0 {
				t.Errorf("%s has lost %d events", x.Name(), n)
			}
		}
		transcript = b.String()
	})
	return transcript
}

// transfer sends 40 KB there and back within a minute.
func transfer(h *nattest.Host, to string, start time.Time) string {
	c, err := h.Dial("tcp", to)
	if err != nil {
		return fmt.Sprintf("%v: %v", time.Since(start), err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	data := bytes.Repeat([]byte("0123456789"), 4000)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	return fmt.Sprintf("%v from %v: %d bytes %x, %v, %v", time.Since(start), c.LocalAddr(), len(got), sha256.Sum256(got), err, <-sent)
}

// ask sends ten datagrams, each up to five times until it is answered.
func ask(h *nattest.Host, to string, start time.Time) string {
	c, err := h.Dial("udp", to)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	var times []time.Duration
	b := make([]byte, 100)
	for i := range 10 {
		for range 5 {
			if _, err := fmt.Fprintf(c, "%d", i); err != nil && !errors.Is(err, net.ErrClosed) {
				return err.Error()
			}
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
		}
		times = append(times, time.Since(start))
	}
	return fmt.Sprint(times)
}

// TestRepeat: equal seeds give equal runs, packet for packet and to the nanosecond; another seed gives other ports.
func TestRepeat(t *testing.T) {
	first := play(t, 1)
	again := play(t, 1)
	if first != again {
		a, b := strings.Split(first, "\n"), strings.Split(again, "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("%d and %d lines; line %d differs:\n%s\n%s", len(a), len(b), i, a[i], b[i])
			}
		}
		t.Fatalf("%d and %d lines", len(a), len(b))
	}
	if len(first) < 100_000 || !strings.Contains(first, "40000 bytes") {
		t.Errorf("little happened:\n%s", first)
	}
	if other := play(t, 2); other == first {
		t.Error("two seeds, one run")
	}
}

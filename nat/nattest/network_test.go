// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// echo answers every connection to a port of a host with what it sends.
func echo(t *testing.T, h *Host, address string) {
	t.Helper()
	l, err := h.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func TestThreeLines(t *testing.T) {
	Run(t, Config{}, func(t *testing.T, n *Network) {
		server := n.Host("server")
		x := n.NAT(Symmetric())
		laptop := x.Host("laptop")
		echo(t, server, ":7")
		start := time.Now()
		c, err := laptop.Dial("tcp", "server:7")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("connected after %v", time.Since(start))
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		m, err := c.Read(b)
		if err != nil || string(b[:m]) != "hello" {
			t.Fatalf("%q, %v", b[:m], err)
		}
		t.Log(time.Since(start))
		for _, r := range x.Log() {
			t.Log(r)
		}
		// Nobody comes in.
		_, err = server.Dial("tcp", net.JoinHostPort(x.Public().String(), "80"))
		if !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("a dial from outside: %v", err)
		}
		if x.Count(nat.DropNoMapping) == 0 {
			t.Error("nothing was refused")
		}
		u, err := laptop.ListenPacket("udp", ":5000")
		if err != nil {
			t.Fatal(err)
		}
		_ = u.SetReadDeadline(time.Now().Add(time.Hour))
		if _, _, err := u.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if rtt, err := laptop.Ping(server.Addr()); err != nil {
			t.Error(err)
		} else {
			t.Log("ping", rtt)
		}
	})
}

func TestPresetsWork(t *testing.T) {
	for _, b := range Presets() {
		t.Run(b.Name, func(t *testing.T) {
			Run(t, Config{Seed: 7}, func(t *testing.T, n *Network) {
				server := n.Host("server")
				x := n.NAT(b)
				laptop := x.Host("laptop")
				echo(t, server, ":7")
				c, err := laptop.Dial("tcp", "server:7")
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				var inside nat.Session
				for s := range x.Sessions() {
					inside = s
				}
				if len(x.Mapped("tcp", inside.Inside)) != 1 {
					t.Errorf("mapped: %+v", inside)
				}
				// A held SYN is answered after six seconds where the profile holds them.
				start := time.Now()
				_, err = server.Dial("tcp", net.JoinHostPort(x.Public().String(), "80"))
				t.Log(time.Since(start), err)
			})
		})
	}
}

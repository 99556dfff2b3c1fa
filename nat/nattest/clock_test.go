// SPDX-License-Identifier: Apache-2.0

package nattest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockOrder: by time, then owner, then in the order of the owner, whoever has asked when.
func TestClockOrder(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := newClock()
			var got []string
			var group sync.WaitGroup
			for number := range 5 {
				group.Go(func() {
					o := &owner{number: number}
					for i := range 3 {
						c.after(o, time.Second, func() { got = append(got, fmt.Sprint(number, i)) })
					}
					c.after(o, time.Duration(9-number)*time.Millisecond, func() { got = append(got, fmt.Sprint(number)) })
				})
			}
			group.Wait()
			time.Sleep(2 * time.Second)
			c.close()
			want := []string{"4", "3", "2", "1", "0"}
			for number := range 5 {
				for i := range 3 {
					want = append(want, fmt.Sprint(number, i))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestClockTurns: an event and a goroutine that wakes in the same nanosecond do not meet, nor do two that events wake.
func TestClockTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		defer c.close()
		var busy, turns atomic.Int32
		turn := func() {
			if busy.Add(1) > 1 {
				t.Error("two at a time")
			}
			for range 1000 {
				runtime.Gosched()
			}
			busy.Add(-1)
			turns.Add(1)
		}
		o := &owner{}
		for range 3 {
			awake := make(chan struct{})
			c.after(o, time.Second, func() {
				turn()
				c.release(func() { close(awake) })
			})
			go func() {
				<-awake
				turn()
				c.after(o, 0, turn)
			}()
		}
		time.Sleep(time.Second)
		turn()
		time.Sleep(time.Second)
		if n := turns.Load(); n != 10 {
			t.Errorf("%d turns of 10", n)
		}
	})
}

// TestClockTimers: Stop and Reset say what those of package time say, before and after.
func TestClockTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		var fired atomic.Int32
		timer := c.timers(&owner{})(time.Second, func() { fired.Add(1) })
		if !timer.Reset(2 * time.Second) {
			t.Error("it was not pending")
		}
		time.Sleep(1500 * time.Millisecond)
		if !timer.Stop() || timer.Stop() || fired.Load() != 0 {
			t.Errorf("stopped twice, or fired %d times", fired.Load())
		}
		time.Sleep(time.Second)
		if timer.Reset(time.Second) || fired.Load() != 0 {
			t.Errorf("it was pending, or fired %d times", fired.Load())
		}
		time.Sleep(2 * time.Second)
		if timer.Stop() || timer.Reset(time.Second) || fired.Load() != 1 {
			t.Errorf("it was pending, or fired %d times", fired.Load())
		}
		c.close() // with an event to come
		time.Sleep(2 * time.Second)
		if fired.Load() != 1 {
			t.Error("an event ran after the end")
		}
	})
}

// events is how many have been asked for on a network.
func events(n *Network) (count uint64) {
	n.clock.mu.Lock()
	defer n.clock.mu.Unlock()
	for _, h := range n.hosts {
		count += h.port.owner.seq
	}
	for _, x := range n.nats {
		count += x.port.owner.seq
	}
	return count
}

// TestHour: an hour costs what its packets cost, and without packets nothing.
func TestHour(t *testing.T) {
	Run(t, Config{}, func(t *testing.T, n *Network) {
		server := n.Host("server")
		l, err := server.Listen("tcp", ":7")
		if err != nil {
			t.Fatal(err)
		}
		u, err := server.ListenPacket("udp", ":7")
		if err != nil {
			t.Fatal(err)
		}
		x := n.NAT(Symmetric())
		client := x.Host("client")
		idle, err := client.Dial("tcp", "server:7")
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.Dial("udp", "server:7")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		before := events(n)
		time.Sleep(time.Hour)
		if after := events(n); after != before {
			t.Errorf("an hour in which nothing happens costs %d events", after-before)
		}
		seen := len(x.Log())
		for range 240 {
			if _, err := c.Write([]byte("still here")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := u.ReadFrom(make([]byte, 20)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Second)
		}
		// The host lets go, the links of the host, the NAT and the server deliver.
		if after, packets := events(n), len(x.Log())-seen; packets != 240 || after-before != 4*240 {
			t.Errorf("240 keep-alives cost %d packets and %d events", packets, after-before)
		}
		if err := idle.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

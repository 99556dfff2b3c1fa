// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// watching calls f with the events from the time when it returns on; stop ends that.
func (c *controlled) watching(t *testing.T, q url.Values, f func(*control.Event) error) (stop func() error) {
	t.Helper()
	before := c.watchers()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Events(ctx, q, f) }()
	eventually(t, "it watches", func() bool { return c.watchers() > before })
	return func() error { cancel(); return <-done }
}

func (c *controlled) watchers() int {
	c.c.hub.mu.Lock()
	defer c.c.hub.mu.Unlock()
	return len(c.c.hub.watchers)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited for: %s", what)
		}
	}
}

// TestControlEvents: a session from beginning to end, and a packet that was refused, for two who watch.
func TestControlEvents(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("", func(t *testing.T) {
		c := newControlled(t)
		reload := func(text string) {
			t.Helper()
			c.write(t, text)
			if _, err := c.Reload(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		reload(controlledFile + "limits: {sessions_per_host: 1}\n")
		old := c.open(t, "10.0.1.9:5000", "198.51.100.1:123") // before anybody watches
		all, some := make(chan control.Event, 16), make(chan control.Event, 16)
		stop := c.watching(t, nil, func(e *control.Event) error { all <- *e; return nil })
		stopSome := c.watching(t, url.Values{"dport": {"53"}}, func(e *control.Event) error { some <- *e; return nil })
		next := func(from chan control.Event) string {
			t.Helper()
			select {
			case e := <-from:
				if d := time.Since(e.Time); d < 0 || d > time.Minute {
					t.Errorf("at %v", e.Time)
				}
				return string(e.AppendText(nil))
			case <-time.After(20 * time.Second):
				t.Fatal("no event")
				return ""
			}
		}
		want := func(from chan control.Event, text string) {
			t.Helper()
			if d := cmp.Diff(text, next(from)); d != "" {
				t.Error(d)
			}
		}
		ext := c.open(t, "10.0.1.10:5000", "198.51.100.1:53")
		head := "src=10.0.1.10 dst=198.51.100.1 sport=5000 dport=53 "
		tail := "src=198.51.100.1 dst=203.0.113.1 sport=53 dport=" + portOf(ext)
		want(all, "    [NEW] udp      17 20 "+head+"[UNREPLIED] "+tail)
		if err := c.outside.Send(datagram(t, "198.51.100.1:53", ext.String())); err != nil {
			t.Fatal(err)
		}
		receive(t, c.inside)
		want(all, " [UPDATE] udp      17 20 "+head+tail+" [ASSURED]")

		if err := c.inside.Send(datagram(t, "10.0.1.10:5001", "198.51.100.1:53")); err != nil {
			t.Fatal(err)
		}
		want(all, "[REFUSED] udp      17 src=10.0.1.10 dst=198.51.100.1 sport=5001 dport=53 reason=host_limit")
		reload("inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.2]}\n")
		ends := []string{next(all), next(all)}
		if ends[0] > ends[1] { // of two shards at one time
			ends[0], ends[1] = ends[1], ends[0]
		}
		if d := cmp.Diff([]string{"[DESTROY] udp      17 " + head + tail + " [ASSURED] reason=cut",
			"[DESTROY] udp      17 src=10.0.1.9 dst=198.51.100.1 sport=5000 dport=123 [UNREPLIED] src=198.51.100.1 dst=203.0.113.1 sport=123 dport=" +
				portOf(old) + " reason=cut"}, ends); d != "" {
			t.Error(d)
		}
		for _, kind := range []string{"    [NEW] ", " [UPDATE] ", "[REFUSED] ", "[DESTROY] "} {
			if got := next(some); got[:len(kind)] != kind {
				t.Errorf("%s, want %s", got, kind)
			}
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := stopSome(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		eventually(t, "nobody watches", func() bool { return c.watchers() == 0 })
		c.c.hub.wait()
	})
}

// TestControlEventsSlow: one who does not take what there is holds up nobody, and is told exactly how much he has missed.
func TestControlEventsSlow(t *testing.T) {
	c := newControlled(t)
	var got, lost uint64
	gate, told := make(chan struct{}), make(chan uint64, 1)
	stop := c.watching(t, nil, func(e *control.Event) error {
		<-gate
		if e.Kind == "lost" {
			lost += e.Lost
		} else {
			got++
		}
		if lost > 0 {
			select {
			case <-told:
			default:
			}
			told <- got + lost
		}
		return nil
	})
	w := c.engine.Worker()
	for i := range 4 * watcherRoom {
		p := datagram(t, fmt.Sprintf("10.0.1.10:%d", 1024+i), "198.51.100.1:123")
		w.Translate(&p, nat.FromInside, c.now())
	}
	st := c.engine.Stats(c.now())
	if st.EventsLost > 0 {
		t.Fatalf("the engine lost %d events: the watcher is to be who does", st.EventsLost)
	}
	total := st.Created + st.Recycled
	eventually(t, "the watcher misses something", func() bool {
		c.c.hub.mu.Lock()
		defer c.c.hub.mu.Unlock()
		for w := range c.c.hub.watchers {
			return w.lost.Load() > 0
		}
		return false
	})
	close(gate)
	for sum := uint64(0); sum < total; {
		select {
		case sum = <-told:
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d events are accounted for", sum, total)
		}
	}
	if err := stop(); !errors.Is(err, context.Canceled) || got+lost != total {
		t.Errorf("%v: got %d and lost %d of %d", err, got, lost, total)
	}
}

// TestControlWatchers: one more than may watch hears so.
func TestControlWatchers(t *testing.T) {
	c := newControlled(t)
	for range control.MaxWatchers {
		w, ok := c.c.hub.watch(control.Filter{})
		if !ok {
			t.Fatal("refused")
		}
		defer c.c.hub.leave(w)
	}
	var refused *control.Refused
	err := c.Events(t.Context(), nil, nil)
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
		t.Errorf("%v", err)
	}
}

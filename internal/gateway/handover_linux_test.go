// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/config"
)

// TestOfferOfQueues: a process that looks at another number of queues than it is to have, of a gateway that does not know
// what that is, leaves it alone. The message says what to do.
func TestOfferOfQueues(t *testing.T) {
	for _, tt := range []struct {
		offered []string
		wants   int
		has     int
	}{
		{[]string{fdState, fdInside, fdOutside, fdControl}, 4, 1},
		{[]string{fdState, fdInside, fdOutside, "tidegate-inside-1", "tidegate-outside-1"}, 1, 2},
		{[]string{fdState, fdInside, fdOutside, "tidegate-inside-1"}, 2, 1},
		{[]string{fdState}, 1, 0},
	} {
		g := &process{taker: &taker{fds: map[string]int{}}}
		g.named.Devices.Queues = tt.wants
		for _, name := range tt.offered {
			g.taker.fds[name] = -1
		}
		if n := g.taker.queues(); n != tt.has {
			t.Errorf("%v: %d queues", tt.offered, n)
		}
		err := g.rehearse()
		if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), "stop it and start again") {
			t.Errorf("%v for %d: %v", tt.offered, tt.wants, err)
		}
	}
}

// TestQueueNames: with one queue the names are those of before there were several.
func TestQueueNames(t *testing.T) {
	for want, q := range map[string][2]int{"tidegate-inside": {0, 0}, "tidegate-outside": {1, 0}, "tidegate-inside-15": {0, 15}} {
		if got := queueName(q[0], q[1]); got != want {
			t.Errorf("queue %d of side %d is %s, want %s", q[1], q[0], got, want)
		}
	}
}

// TestShards: one queue has as many parts of the tables as before there were several; a block of ports can be dealt to all of them.
func TestShards(t *testing.T) {
	for _, tt := range []struct{ queues, block, want int }{
		{1, 0, 4}, {2, 0, 8}, {3, 0, 8}, {4, 0, 16}, {config.MaxQueues, 0, 64},
		{1, 16, 4}, {4, 16, 4}, {4, 32, 8}, {4, 33, 8}, {4, 252, 16}, {config.MaxQueues, 255, 32},
	} {
		c := config.Default("gateway")
		c.Devices.Queues, c.Outside.PortBlock = tt.queues, tt.block
		if got := shards(c); got != tt.want {
			t.Errorf("%d queues, blocks of %d: %d, want %d", tt.queues, tt.block, got, tt.want)
		}
	}
}

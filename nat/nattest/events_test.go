// SPDX-License-Identifier: Apache-2.0

package nattest_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/nattest"
	"github.com/tidegate/tidegate/packet"
)

// told are the events of a NAT with a session that expires, one that is refused a port, those that a new address cuts,
// and a reboot between two more.
func told(t *testing.T, seed uint64) (events []nat.Event) {
	t.Helper()
	nattest.Run(t, nattest.Config{Seed: seed}, func(t *testing.T, n *nattest.Network) {
		echo(t, n.Host("server"), "7")
		b := nattest.Symmetric()
		b.Sessions = 16 // which leaves little room for events
		x := n.NAT(b)
		client := x.Host("client")
		udp := connect(t, client, "udp", "server:7")
		time.Sleep(time.Hour)
		if err := exchange(udp); err != nil { // the first session is over
			t.Error(err)
		}
		for range 10 {
			connect(t, client, "tcp", "server:7")
		}
		x.LimitPorts(1)
		connect(t, client, "tcp", "server:7")
		if c, err := client.Dial("tcp", "server:7"); err == nil {
			t.Errorf("there was a port for %v", c.LocalAddr())
		}
		x.Renumber()
		before := x.Events()
		x.Reboot()
		if after := x.Events(); !slices.Equal(before, after) {
			t.Errorf("%d events, and after a reboot %d", len(before), len(after))
		}
		if err := exchange(udp); err != nil {
			t.Error(err)
		}
		events = x.Events()
		if lost := x.Stats().EventsLost; lost > 0 || !slices.Equal(before, events[:len(before)]) {
			t.Errorf("%d events are lost; at the reboot\n%+v\nand now\n%+v", lost, before, events)
		}
	})
	return events
}

// TestEvents: they tell what there was to tell, and the same in each run with one seed.
func TestEvents(t *testing.T) {
	events := told(t, 1)
	got := map[string]int{}
	for _, v := range events {
		what := fmt.Sprintf("%s %v", nat.ProtocolName(v.Protocol), v.Kind)
		switch v.Kind {
		case nat.SessionEnded:
			what += " " + v.Reason.String()
		case nat.Refused:
			what += " " + v.Verdict.String()
		}
		got[what]++
		if v.Reason == nat.EndExpired && v.At > 10*time.Minute {
			t.Errorf("it ended when it was noticed, %v", v.At)
		}
	}
	want := map[string]int{
		"udp session_created": 3, "udp session_established": 3, "udp session_ended expired": 1, "udp session_ended cut": 1,
		"tcp session_created": 11, "tcp session_established": 11, "tcp session_ended cut": 11, "tcp refused no_port": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if again := told(t, 1); !slices.Equal(events, again) {
		t.Errorf("the first time\n%+v\nand the second\n%+v", events, again)
	}
	if other := told(t, 2); slices.Equal(events, other) {
		t.Error("two seeds, and the same ports")
	}
}

// TestExplain: the network's NATs answer as their engines do.
func TestExplain(t *testing.T) {
	nattest.Run(t, nattest.Config{}, func(t *testing.T, n *nattest.Network) {
		x := n.NAT(nattest.Symmetric())
		p, err := nat.Probe(packet.UDP, netip.MustParseAddrPort("192.0.2.1:53"), netip.AddrPortFrom(x.Public(), 5000))
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Explain(&p, nat.Outside); got.Verdict != nat.DropNoMapping || got.Side != "outside" {
			t.Errorf("%v", got)
		}
		if got := x.Explain(&p, nat.Inside); got.Verdict != nat.DropSpoof || got.Side != "inside" {
			t.Errorf("%v", got)
		}
		if st := x.Stats(); st.Verdicts != (nat.Stats{}).Verdicts {
			t.Errorf("the questions count as packets: %v", st.Verdicts)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// TestZeroValues: each type that a caller fills in works as its zero value, or is refused in words.
func TestZeroValues(t *testing.T) {
	public := []netip.Addr{PA}
	for _, c := range []struct {
		name    string
		policy  *nat.Policy
		refused string // a part of the error; "" if it works
	}{
		{"no Policy", nil, "no policy"},
		{"Policy", &nat.Policy{}, ""},
		{"Attachment", &nat.Policy{Attachments: []nat.Attachment{{}}}, ""},
		{"Profile, Timeouts", &nat.Policy{Pools: []nat.Pool{{Name: "pool", Addresses: public}}}, ""},
		{"Route", &nat.Policy{Routes: []nat.Route{{}}}, "route 1, source: invalid Prefix is not an IPv4 prefix"},
		{"Pool", &nat.Policy{Pools: []nat.Pool{{}}}, "pool 1: has no name"},
		{"Static", &nat.Policy{Static: []nat.Static{{}}}, "invalid IP is not an IPv4 address"},
		{"Forward", &nat.Policy{Forwards: []nat.Forward{{}}}, "protocol 0 is neither TCP nor UDP"},
		{"Service", &nat.Policy{Services: []nat.Service{{}}}, "protocol 0 is neither TCP nor UDP"},
		{"a prefix inside", &nat.Policy{Inside: []netip.Prefix{{}}}, "inside 1: invalid Prefix"},
		{"an unlent prefix", &nat.Policy{Unlent: []netip.Prefix{{}}}, "unlent 1: invalid Prefix"},
	} {
		e, err := nat.New(nat.Config{}, c.policy)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %v, want %q", c.name, err, c.refused)
		}
		if e == nil {
			continue
		}
		w := e.Worker()
		w.Batch(nil, nat.FromInside, 0, nil)
		if v := w.Translate(new(packet.Packet), nat.FromInside, 0); v != nat.DropMalformed {
			t.Errorf("%s: an empty packet is %v", c.name, v)
		}
		if _, err := e.Apply(nil, 0); err == nil || !strings.Contains(err.Error(), "no policy") {
			t.Errorf("%s: no policy after it: %v", c.name, err)
		}
		if n := e.Events(nil) + e.Events(make([]nat.Event, 1)); n != 0 {
			t.Errorf("%s: %d events, though none are kept", c.name, n)
		}
	}
}

// TestZeroProfile: the zero Profile is GatewayProfile.
func TestZeroProfile(t *testing.T) {
	trial{policy: policy(nat.Profile{})}.run(t, func(g *gate) {
		c := g.dial(at(A, 80), at(R1, 443))
		if c.ext.Port() < 1024 {
			g.Errorf("port %d", c.ext.Port())
		}
		c.expires(nat.GatewayProfile().Timeouts.TCPEstablished)
	})
}

// TestNotMade: what only a function of the package can make says so.
func TestNotMade(t *testing.T) {
	for name, use := range map[string]func(){
		"Engine.Worker":    func() { new(nat.Engine).Worker() },
		"Engine.Stats":     func() { new(nat.Engine).Stats(0) },
		"Engine.Check":     func() { _ = new(nat.Engine).Check(0) },
		"Engine.Apply":     func() { _, _ = new(nat.Engine).Apply(&nat.Policy{}, 0) },
		"Engine.Preview":   func() { _, _ = new(nat.Engine).Preview(&nat.Policy{}, 0) },
		"Worker.Translate": func() { new(nat.Worker).Translate(new(packet.Packet), 0, 0) },
		"Worker.Batch":     func() { new(nat.Worker).Batch(nil, 0, 0, nil) },
		"Worker.Tick":      func() { new(nat.Worker).Tick(0) },
	} {
		func() {
			defer func() {
				if s, _ := recover().(string); !strings.HasPrefix(s, "nat: this ") || !strings.Contains(s, " was not made by ") {
					t.Errorf("%s: %q", name, s)
				}
			}()
			use()
		}()
	}
	e := new(nat.Engine)
	for range e.Sessions(0) {
		t.Error("a session of nothing")
	}
	if _, ok := e.NextTimer(); ok || e.Events(make([]nat.Event, 1)) != 0 {
		t.Error("a timer or event of nothing")
	}
}

// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// TestPreview: it says what Apply would do, shorter time-outs included, refuses what Apply refuses, and changes nothing.
func TestPreview(t *testing.T) {
	trial{policy: policy(nat.GatewayProfile())}.run(t, func(g *gate) {
		g.opens(packet.UDP, at(A, 5000), at(R1, 80))
		g.opens(packet.TCP, at(A, 5000), at(R1, 80))
		g.at(sec(100))
		kept := g.opens(packet.UDP, at(B, 5000), at(R1, 80))

		short := nat.GatewayProfile()
		short.Timeouts.UDP = sec(60)
		next := policy(short)
		said, err := g.e.Preview(&next, g.now)
		if want := (nat.Impact{Kept: 2}); err != nil || said != want {
			g.Errorf("with a shorter time-out: %+v, %v, want %+v", said, err, want)
		}
		gone := policy(nat.GatewayProfile())
		gone.Routes = nil
		said, err = g.e.Preview(&gone, g.now)
		if want := (nat.Impact{Cut: 3}); err != nil || said != want {
			g.Errorf("without routes: %+v, %v, want %+v", said, err, want)
		}
		bad := policy(nat.GatewayProfile())
		bad.Routes[0].Pool = "nowhere"
		if _, err := g.e.Preview(&bad, g.now); err == nil {
			g.Error("a policy with faults was not refused")
		}
		narrow := policy(nat.GatewayProfile()) // what the engine itself has no room for
		narrow.Pools[0].Profile.PortBlock = 1
		if _, err := g.e.Preview(&narrow, g.now); err == nil {
			g.Error("blocks of one port were not refused")
		}
		if n := len(g.sessions()); n != 3 {
			g.Errorf("%d sessions are left, want 3", n)
		}
		g.want(g.in(answer(packet.UDP, at(R1, 80), kept)), nat.Inbound)
		g.apply(next) // compares
	})
}

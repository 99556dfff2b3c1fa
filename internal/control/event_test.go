// SPDX-License-Identifier: Apache-2.0

package control

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/nat"
)

func TestEvent(t *testing.T) {
	s := samples["tcp"].session
	f := FlowOf(&s, 10*time.Second, false)
	counted := FlowOf(&s, 0, true)
	refused := FlowOf(&nat.Session{Protocol: 1, Inside: at("10.0.1.10:7"), Remote: at("198.51.100.1:0")}, 0, false)
	tuples := "src=10.0.1.10 dst=198.51.100.1 sport=40000 dport=443 src=198.51.100.1 dst=203.0.113.1 sport=443 dport=50000 [ASSURED]"
	for _, tt := range []struct {
		e    Event
		want string
	}{
		{Event{Kind: "session_created", Flow: &f}, "    [NEW] tcp      6 7431 ESTABLISHED " + tuples},
		{Event{Kind: "session_established", Flow: &f}, " [UPDATE] tcp      6 7431 ESTABLISHED " + tuples},
		{Event{Kind: "session_ended", Reason: "expired", Flow: &f}, "[DESTROY] tcp      6 " + tuples + " reason=expired"},
		{Event{Kind: "session_ended", Reason: "cut", Flow: &counted},
			"[DESTROY] tcp      6 src=10.0.1.10 dst=198.51.100.1 sport=40000 dport=443 packets=0 bytes=0 " +
				"src=198.51.100.1 dst=203.0.113.1 sport=443 dport=50000 packets=0 bytes=0 [ASSURED] reason=cut"},
		{Event{Kind: "refused", Reason: "no_port", Flow: &refused}, "[REFUSED] icmp     1 src=10.0.1.10 dst=198.51.100.1 type=8 code=0 id=7 reason=no_port"},
		{Event{Kind: "lost", Lost: 7}, "   [LOST] 7 events"},
	} {
		if d := cmp.Diff(tt.want, string(tt.e.AppendText(nil))); d != "" {
			t.Error(d)
		}
	}
}

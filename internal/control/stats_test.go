// SPDX-License-Identifier: Apache-2.0

package control

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestPrint is what people read.
func TestPrint(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := netip.MustParseAddr("203.0.113.1")
	for name, tt := range map[string]struct {
		v    interface{ Print(io.Writer) error }
		want string
	}{
		"stats": {&Stats{
			Version: "v1", Started: start, Loaded: start.Add(time.Hour), Source: "/etc/gateway.yaml", Health: "ok",
			Sessions: Sessions{Now: 12, Limit: 1024, Created: 40, Expired: 20, Recycled: 5, Cut: 3}, Mappings: 7, TableBytes: 3 << 20,
			Verdicts: []Verdict{{"outbound", "translated", false, 100}, {"inbound", "translated back", false, 0}, {"no_mapping", "nobody holds it", true, 5}},
			Devices:  []Device{{Side: "inside", Name: "tg-in", ReadPackets: 100, ReadBytes: 1536}},
		}, `version        v1, started 2026-03-01 12:00:00 UTC
configuration  /etc/gateway.yaml, of 2026-03-01 13:00:00 UTC
health         ok
sessions       12 of 1024 (1.2 %); 40 made, 20 timed out, 5 recycled, 3 cut
mappings       7 external ports held, 0 in quarantine
waiting        0 datagrams in pieces (0 B), 0 SYNs
memory         3.0 MiB of tables
made here      0 packets: ICMP errors, resets, fragments; 0 ICMP errors kept back by the rate limit
inside         tg-in: 100 packets (1.5 KiB) read, 0 (0 B) written, 0 refused, 0 dropped by the kernel

Packets that went on
         100  outbound  translated

Packets that were dropped
           5  no_mapping  nobody holds it
`},
		"ports": {&Ports{
			Addresses:    []AddressPorts{{a, "tcp", "address-and-port-dependent", false, 2, 64512, 0}, {a, "udp", "endpoint-independent", true, 32256, 64512, .5}},
			Destinations: []DestinationPorts{{a, "tcp", at("198.51.100.1:443"), 64512, 64512, 1}},
		}, `ADDRESS      PROTO  USED   OF     FULL    MAPPING
203.0.113.1  tcp    2      64512  0.0 %   address-and-port-dependent
203.0.113.1  udp    32256  64512  50.0 %  endpoint-independent, draining

ADDRESS      PROTO  USED   OF     FULL     DESTINATION
203.0.113.1  tcp    64512  64512  100.0 %  198.51.100.1:443
`},
		"before": {&Reload{DryRun: true, Source: "g.yaml", Changed: []string{"static", "timeouts.udp"}, Kept: 5, Draining: 1, Cut: 2},
			"g.yaml: changes static, timeouts.udp\nsessions: 5 to keep, 1 of them on draining addresses, 2 to cut\n"},
		"same":  {&Reload{DryRun: true, Source: "g.yaml"}, "g.yaml: nothing changes\nsessions: 0 to keep, 0 of them on draining addresses, 0 to cut\n"},
		"after": {&Reload{Kept: 5, Cut: 2}, "sessions: 5 kept, 0 of them on draining addresses, 2 cut\n"},
	} {
		var b strings.Builder
		if err := tt.v.Print(&b); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(tt.want, b.String()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestExplain: of a gateway with traffic, the session of a live flow, both ways, and why an inbound packet is refused. The
// questions leave no trace.
func TestExplain(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.start()
	echoTCP(t, b.net, "198.51.100.1:7")
	c := dial(t, b.pc, "198.51.100.1:7")
	if !c.echo("hello", 20*time.Second) {
		t.Fatal("no echo")
	}
	_, local, _ := net.SplitHostPort(c.LocalAddr().String())
	session := fmt.Sprintf("session   tcp 10.0.1.10:%s = %s, with 198.51.100.1:7, established, started from inside", local, c.seen)
	explain := func(args string) []string { return append([]string{"explain"}, strings.Fields(args)...) }
	counters := []string{"nat_sessions", "nat_sessions_created_total", `nat_drops_total{reason="no_mapping"}`}
	read := func() (values []string) {
		for _, name := range counters {
			values = append(values, name+" "+b.metric(name))
		}
		return values
	}
	before := read()

	b.wants(0, explain("-p tcp -s 10.0.1.10 --sport "+local+" -d 198.51.100.1 --dport 7 --flags A"), "from      inside", session,
		"change    source 10.0.1.10:"+local+" -> "+c.seen.String(), "verdict   outbound: translated, inside to outside; to the outside")
	answer := fmt.Sprintf("-p tcp -s 198.51.100.1 --sport 7 -d %s --dport %d --flags A", c.seen.Addr(), c.seen.Port())
	b.wants(0, explain(answer), "from      outside", session,
		"change    destination "+c.seen.String()+" -> 10.0.1.10:"+local, "verdict   inbound: translated, outside to inside; to the inside")
	refused := "-p tcp -s 198.51.100.1 --sport 7 -d 203.0.113.1 --dport 22"
	b.wants(0, explain(refused), "from      outside", "session   none", "verdict   no_mapping: nobody holds this external port")
	var x struct{ Side, Verdict, Reason string }
	out := b.wants(0, explain(refused+" -o json"))
	if err := json.Unmarshal([]byte(out), &x); err != nil || x.Side != "outside" || x.Verdict != "no_mapping" || x.Reason != "nobody holds this external port" {
		t.Errorf("%+v, %v, of\n%s", x, err, out)
	}
	b.wants(0, explain("-p udp -s 10.0.1.11 --sport 5000 -d 198.51.100.1 --dport 53"), "session   new: udp 10.0.1.11:5000 = 203.0.113.1:", "verdict   outbound")
	b.wants(2, explain("-p tcp -s 10.0.1.10"), "gateway: missing: dst, sport, dport")

	if after := read(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the questions have changed something: %v, were %v", after, before)
	}
	b.wants(0, []string{"flows"}, "1 flow entries have been shown", "sport="+local)
	if !c.echo("still here", 20*time.Second) {
		t.Error("the connection is gone")
	}
}

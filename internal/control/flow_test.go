// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/nat"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// samples are one flow of each shape, and what conntrack would print for it.
var samples = map[string]struct {
	session  nat.Session
	counters bool
	text     string
	json     string
}{
	"tcp": {nat.Session{Protocol: 6, Inside: at("10.0.1.10:40000"), External: at("203.0.113.1:50000"), Remote: at("198.51.100.1:443"),
		State: "established", Replied: true, Expires: 7441500 * time.Millisecond}, false,
		"tcp      6 7431 ESTABLISHED src=10.0.1.10 dst=198.51.100.1 sport=40000 dport=443 src=198.51.100.1 dst=203.0.113.1 sport=443 dport=50000 [ASSURED]",
		`{"protocol":"tcp","state":"established","from":"inside","inside":"10.0.1.10:40000","external":"203.0.113.1:50000","remote":"198.51.100.1:443","replied":true,"expires":7431.5}`},
	"syn": {nat.Session{Protocol: 6, Inside: at("10.0.1.10:40001"), External: at("203.0.113.1:50001"), Remote: at("198.51.100.2:80"),
		State: "opening", Expires: 250 * time.Second}, false,
		"tcp      6 240 SYN_SENT src=10.0.1.10 dst=198.51.100.2 sport=40001 dport=80 [UNREPLIED] src=198.51.100.2 dst=203.0.113.1 sport=80 dport=50001",
		`{"protocol":"tcp","state":"opening","from":"inside","inside":"10.0.1.10:40001","external":"203.0.113.1:50001","remote":"198.51.100.2:80","replied":false,"expires":240}`},
	"forward": {nat.Session{Protocol: 6, Inside: at("10.0.1.20:80"), External: at("203.0.113.1:8080"), Remote: at("198.51.100.9:33000"),
		State: "opening", Inbound: true, Replied: true, Expires: 250 * time.Second, Packets: [2]uint64{1, 2}, Bytes: [2]uint64{60, 100}}, true,
		"tcp      6 240 SYN_RECV src=198.51.100.9 dst=203.0.113.1 sport=33000 dport=8080 packets=2 bytes=100 src=10.0.1.20 dst=198.51.100.9 sport=80 dport=33000 packets=1 bytes=60",
		`{"protocol":"tcp","state":"opening","from":"outside","inside":"10.0.1.20:80","external":"203.0.113.1:8080","remote":"198.51.100.9:33000","replied":true,"expires":240,"packets":{"out":1,"in":2},"bytes":{"out":60,"in":100}}`},
	"dns": {nat.Session{Protocol: 17, Inside: at("10.0.2.10:5353"), External: at("203.0.113.2:50002"), Remote: at("198.51.100.1:53"),
		State: "dns", Expires: 30 * time.Second}, true,
		"udp      17 20 src=10.0.2.10 dst=198.51.100.1 sport=5353 dport=53 packets=0 bytes=0 [UNREPLIED] src=198.51.100.1 dst=203.0.113.2 sport=53 dport=50002 packets=0 bytes=0",
		`{"protocol":"udp","state":"dns","from":"inside","inside":"10.0.2.10:5353","external":"203.0.113.2:50002","remote":"198.51.100.1:53","replied":false,"expires":20,"packets":{"out":0,"in":0},"bytes":{"out":0,"in":0}}`},
	"ping": {nat.Session{Protocol: 1, Inside: at("10.0.1.10:7"), External: at("203.0.113.1:4711"), Remote: at("198.51.100.1:0"),
		State: "query", Replied: true, Expires: 70 * time.Second}, false,
		"icmp     1 60 src=10.0.1.10 dst=198.51.100.1 type=8 code=0 id=7 src=198.51.100.1 dst=203.0.113.1 type=0 code=0 id=4711 [ASSURED]",
		`{"protocol":"icmp","state":"query","from":"inside","inside":"10.0.1.10:7","external":"203.0.113.1:4711","remote":"198.51.100.1:0","replied":true,"expires":60}`},
}

func TestFlow(t *testing.T) {
	for name, s := range samples {
		f := FlowOf(&s.session, 10*time.Second, s.counters)
		if d := cmp.Diff(s.text, string(f.AppendText(nil))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		b, err := json.Marshal(&f)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s.json, string(b)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestFilter(t *testing.T) {
	for query, want := range map[string]string{
		"":                     "dns forward ping syn tcp",
		"proto=tcp":            "forward syn tcp",
		"proto=ICMP":           "ping",
		"orig-src=10.0.0.0/16": "dns ping syn tcp",
		"orig-src=10.0.1.10&orig-dst=198.51.100.1": "ping tcp",
		"orig-dst=203.0.113.1":                     "forward",
		"reply-src=10.0.1.20":                      "forward",
		"reply-dst=203.0.113.0/24":                 "dns ping syn tcp",
		"reply-dst=198.51.100.9":                   "forward",
		"sport=40000":                              "tcp",
		"sport=7":                                  "",
		"dport=8080":                               "forward",
		"state=ESTABLISHED":                        "tcp",
		"state=syn_recv":                           "forward",
		"state=opening":                            "forward syn",
		"state=time_wait":                          "",
		"src-nat=":                                 "dns ping syn tcp",
		"src-nat=203.0.113.2":                      "dns",
		"dst-nat=":                                 "forward",
		"dst-nat=10.0.1.0/24":                      "forward",
		"dst-nat=10.0.2.0/24":                      "",
		"proto=tcp&state=opening&src-nat=":         "syn",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		filter, err := ParseFilter(q)
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		var got []string
		for name, s := range samples {
			if f := FlowOf(&s.session, 0, s.counters); filter.Match(&f) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q, want %q", query, s, want)
		}
	}
}

func TestBadFilter(t *testing.T) {
	q, err := url.ParseQuery("proto=gre&orig-src=ten&sport=0&dport=70000&state=OPEN&src-nat=::1&zone=1&reply-dst=10.0.0.1&reply-dst=10.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseFilter(q)
	if err == nil {
		t.Fatal("no error")
	}
	want := `dport: "70000": write a port from 1 to 65535
orig-src: "ten": write an IPv4 address or prefix, such as 10.0.0.0/16
proto: "gre": write tcp, udp or icmp
reply-dst is given 2 times: once is enough
sport: "0": write a port from 1 to 65535
src-nat: "::1": write an IPv4 address or prefix, such as 10.0.0.0/16
state: "OPEN": write one of SYN_SENT, SYN_RECV, ESTABLISHED, TIME_WAIT, CLOSE
zone is no parameter: there are dport, dst-nat, orig-dst, orig-src, proto, reply-dst, reply-src, sport, src-nat, state`
	if d := cmp.Diff(want, err.Error()); d != "" {
		t.Error(d)
	}
}

// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// bad are files that are refused, each with all of its faults. schema says that the JSON Schema finds it, too: what one
// value says about another is beyond it.
var bad = []struct {
	name, file string
	schema     bool
	want       []string
}{
	{"empty", "", true, []string{
		"f.yaml: inside.prefixes: is missing: write the address space of the inside hosts, such as [10.0.0.0/16]",
		"f.yaml: outside.addresses: is missing: write the public addresses that inside hosts share, such as [203.0.113.1]",
	}},
	{"not YAML", "inside: [", false, []string{"f.yaml:1: not YAML: did not find expected node content"}},
	{"two documents", minimal + "---\n" + minimal, false, []string{"f.yaml:3: a second document starts here: one file is one configuration"}},
	{"a list", "- 1\n", true, []string{"f.yaml:1: the file must be keys and values"}},
	{"unknown keys", minimal + "timeout: {}\nmss-clamp: 0\nlimits:\n  session: 5\n  frobnicate: 1\n", true, []string{
		`f.yaml:3: timeout: unknown key: did you mean "timeouts"?`,
		`f.yaml:4: mss-clamp: unknown key: did you mean "mss_clamp"?`,
		`f.yaml:6: limits.session: unknown key: did you mean "sessions"?`,
		`f.yaml:7: limits.frobnicate: unknown key: there are sessions, sessions_per_host, new_per_second_per_host`,
	}},
	{"key twice", minimal + "hairpin: true\nprofile: gateway\nhairpin: false\n", false, []string{
		"f.yaml:5: hairpin: is also on line 3: keep one of them",
	}},
	{"alias", "inside: &a {prefixes: [10.0.0.0/16]}\noutside: *a\n", true, []string{
		"f.yaml:2: outside: aliases are not understood here: write the value out",
		"f.yaml:2: outside.addresses: is missing",
	}},
	{"kinds", "inside: [10.0.0.0/16]\noutside: {addresses: 203.0.113.1}\nstatic: {}\nhairpin: [1]\nprofile:\n", true, []string{
		"f.yaml:1: inside: must have keys: prefixes",
		"f.yaml:1: inside.prefixes: is missing",
		"f.yaml:2: outside.addresses: must be a list: write [an address such as 203.0.113.1]",
		"f.yaml:2: outside.addresses: is missing",
		"f.yaml:3: static: must be a list: write [{inside: ..., outside: ...}]",
		"f.yaml:4: hairpin: must be true or false",
		"f.yaml:5: profile: must be gateway or rfc or aws",
	}},
	{"scalars", minimal + "hairpin: yes\nmss_clamp: \"1400\"\nprofile: home\ntimeouts: {udp: 300, dns: soon}\ndevices: {mtu: 1.5}\n", true, []string{
		`f.yaml:3: hairpin: "yes" is not a yes or no: write true or false`,
		`f.yaml:4: mss_clamp: "1400" is not a whole number: write digits only, without quotes`,
		`f.yaml:5: profile: "home" is none of its values: write gateway or rfc or aws`,
		`f.yaml:6: timeouts.udp: 300 has no unit: write 300s for seconds`,
		`f.yaml:6: timeouts.dns: "soon" is not a time: write a number and its unit, such as 300s, 5m or 2h4m`,
		`f.yaml:7: devices.mtu: "1.5" is not a whole number`,
	}},
	{"draining", "inside: {prefixes: [10.0.0.0/16]}\noutside:\n  addresses: [203.0.113.1]\n  draining: [203.0.113.0/31, 203.0.113.9]\n" +
		"static: [{inside: 10.0.0.1, outside: 203.0.113.9}]\n", false, []string{
		"f.yaml:4: outside.draining[0]: 203.0.113.0-203.0.113.1 overlaps 203.0.113.1 (outside.addresses[0]): name each address once",
		"f.yaml:5: static[0].outside: 203.0.113.9 has sessions of the pool yet (outside.draining[1])",
	}},
	{"control", minimal + "control: {socket: gw.sock}\n", true, []string{
		`f.yaml:3: control.socket: "gw.sock" is no path for a socket: write an absolute one of at most 96 bytes, such as /run/tidegate/office.sock, or none`,
	}},
	{"backend", minimal + "devices:\n  backend: uring\n", true, []string{
		`f.yaml:4: devices.backend: "uring" is none of its values: write auto or io_uring or plain`,
	}},
	{"no queues", minimal + "devices:\n  queues: 0\n", true, []string{
		"f.yaml:4: devices.queues: 0 is out of range: write 1, or for more readers a number up to 16",
	}},
	{"fewer queues", minimal + "devices:\n  queues: -2\n", true, []string{"f.yaml:4: devices.queues: -2 is out of range"}},
	{"too many queues", minimal + "devices:\n  queues: 17\n", true, []string{"f.yaml:4: devices.queues: 17 is out of range"}},
	{"queues in words", minimal + "devices:\n  queues: two\n", true, []string{`f.yaml:4: devices.queues: "two" is not a whole number`}},
	{"half a queue", minimal + "devices: {queues: 1.5}\n", true, []string{`f.yaml:3: devices.queues: "1.5" is not a whole number`}},
	{"spin", minimal + "devices:\n  busy_poll: 2ms\n", false, []string{
		"f.yaml:4: devices.busy_poll: 2ms is out of range: write 0s for off, or a time up to 1ms, such as 50us",
	}},
	{"state", minimal + "state:\n  file: gw.state\n  unusable: ignore\n", true, []string{
		`f.yaml:4: state.file: "gw.state" is no path for a file: write an absolute one on a tmpfs, such as /run/tidegate/office.state, or memfd or none`,
		`f.yaml:5: state.unusable: "ignore" is none of its values: write empty or refuse`,
	}},
	{"one path", minimal + "state: {file: /run/tidegate/tg-in.sock}\n", false, []string{
		"f.yaml:3: state.file: /run/tidegate/tg-in.sock is the control socket, too: write another path",
	}},
	{"addresses", `
inside:
  prefixes: [10.0.0.1/16, 2001:db8::/32, ten]
outside:
  addresses: [203.0.113.9-203.0.113.2, 203.0.113.1/24, "::1", 203.0.113.1-x]
static:
  - {inside: a, outside: b}
forwards:
  - {proto: tcp, outside: "203.0.113.1", inside: "10.0.1.20:0"}
`, true, []string{
		`f.yaml:3: inside.prefixes[0]: 10.0.0.1/16 has bits beyond its length: write 10.0.0.0/16, or 10.0.0.1/32 for the one address`,
		`f.yaml:3: inside.prefixes[1]: "2001:db8::/32" is not an IPv4 prefix: write one such as 10.0.0.0/16`,
		`f.yaml:3: inside.prefixes[2]: "ten" is not an IPv4 prefix`,
		`f.yaml:5: outside.addresses[0]: the range 203.0.113.9-203.0.113.2 is empty: write 203.0.113.2-203.0.113.9`,
		`f.yaml:5: outside.addresses[1]: 203.0.113.1/24 has bits beyond its length: write 203.0.113.0/24`,
		`f.yaml:5: outside.addresses[2]: "::1" is not an IPv4 address: write an address (203.0.113.1), a range`,
		`f.yaml:5: outside.addresses[3]: "203.0.113.1-x" is not a range of IPv4 addresses`,
		`f.yaml:7: static[0].inside: "a" is not an IPv4 address: write one such as 203.0.113.1`,
		`f.yaml:7: static[0].outside: "b" is not an IPv4 address`,
		`f.yaml:9: forwards[0].outside: "203.0.113.1" is not an IPv4 address and a port from 1 to 65535: write one such as 203.0.113.1:8080`,
		`f.yaml:9: forwards[0].inside: "10.0.1.20:0" is not an IPv4 address and a port`,
	}},
	{"M-16 inside and outside overlap", "inside: {prefixes: [10.0.0.0/16]}\noutside:\n  addresses: [10.0.0.0/24, 10.0.255.255-10.1.0.1]\n", false, []string{
		"f.yaml:3: outside.addresses[0]: 10.0.0.0-10.0.0.255 overlaps the inside prefix 10.0.0.0/16: an address is either inside or outside",
		"f.yaml:3: outside.addresses[1]: 10.0.255.255-10.1.0.1 overlaps the inside prefix 10.0.0.0/16",
	}},
	{"overlaps", `
inside: {prefixes: [10.0.0.0/8, 10.1.0.0/16, 127.0.0.0/8]}
outside: {addresses: [203.0.113.0/30, 203.0.113.2, 224.0.0.1]}
`, false, []string{
		"f.yaml:2: inside.prefixes[1]: 10.1.0.0/16 overlaps 10.0.0.0/8 (inside.prefixes[0]): keep the larger one",
		"f.yaml:2: inside.prefixes[2]: 127.0.0.0/8 overlaps 127.0.0.0/8, which no host can have",
		"f.yaml:3: outside.addresses[1]: 203.0.113.2 overlaps 203.0.113.0-203.0.113.3 (outside.addresses[0]): name each address once",
		"f.yaml:3: outside.addresses[2]: 224.0.0.1 overlaps 224.0.0.0/4, which may not be on a wire",
	}},
	{"too many", "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.0.0/16]}\n", false, []string{
		"f.yaml:2: outside.addresses: has 65536 addresses, more than 4096, with",
	}},
	{"ports", "inside: {prefixes: [10.0.0.0/16]}\noutside:\n  addresses: [203.0.113.1]\n  ports: {min: 5000, max: 4000}\n", false, []string{
		"f.yaml:4: outside.ports: 5000 to 4000 is no range of ports: write {min: 1024, max: 65535}, both from 1 to 65535",
	}},
	{"ports beyond", "inside: {prefixes: [10.0.0.0/16]}\noutside:\n  addresses: [203.0.113.1]\n  ports: {max: 70000}\n", true, []string{
		"f.yaml:4: outside.ports: 1024 to 70000 is no range of ports",
	}},
	{"static", minimal + `
static:
  - {inside: 10.1.0.1, outside: 203.0.113.1}
  - {inside: 10.0.0.1, outside: 10.0.0.2}
  - {inside: 10.0.0.1, outside: 203.0.113.9}
  - {inside: 10.0.0.3, outside: 203.0.113.9}
  - {inside: 10.0.0.4, outside: 127.0.0.1}
`, false, []string{
		"f.yaml:5: static[0].inside: 10.1.0.1 is in none of inside.prefixes: add its prefix there, or use another address",
		"f.yaml:5: static[0].outside: 203.0.113.1 is shared by all (outside.addresses[0]): take it out there, or use another",
		"f.yaml:6: static[1].outside: 10.0.0.2 is in the inside prefix 10.0.0.0/16",
		"f.yaml:7: static[2].inside: 10.0.0.1 is also in static[1]: keep one of them",
		"f.yaml:8: static[3].outside: 203.0.113.9 is also in static[2]: keep one of them",
		"f.yaml:9: static[4].outside: 127.0.0.1 is in 127.0.0.0/8, which may not be on a wire",
	}},
	{"half a static", minimal + "static: [{inside: 10.0.0.1}]\nforwards:\n  - {}\n", true, []string{
		"f.yaml:3: static[0]: has no outside: write it",
		"f.yaml:5: forwards[0]: has no proto: write it",
		"f.yaml:5: forwards[0]: has no outside: write it",
		"f.yaml:5: forwards[0]: has no inside: write it",
	}},
	{"forwards", minimal + `
static: [{inside: 10.0.0.9, outside: 203.0.113.9}]
forwards:
  - {proto: tcp, outside: "203.0.113.1:80", inside: "10.1.0.1:80"}
  - {proto: tcp, outside: "203.0.113.1:80", inside: "10.0.0.1:80"}
  - {proto: udp, outside: "203.0.113.1:80", inside: "10.0.0.1:80"}
  - {proto: tcp, outside: "203.0.113.2:80", inside: "10.0.0.1:80"}
  - {proto: tcp, outside: "203.0.113.9:80", inside: "10.0.0.1:80"}
  - {proto: tcp, outside: "203.0.113.1:81", inside: "10.0.0.9:80"}
`, false, []string{
		"f.yaml:6: forwards[0].inside: 10.1.0.1 is in none of inside.prefixes",
		"f.yaml:7: forwards[1].outside: tcp 203.0.113.1:80 is also in forwards[0]: keep one of them",
		"f.yaml:9: forwards[3].outside: 203.0.113.2 is not in outside.addresses: add it there, or use an address that is",
		"f.yaml:11: forwards[5].inside: 10.0.0.9 answers from its own outside address (static[0]), where all its ports are open already: forward to another address",
		"f.yaml:10: forwards[4].outside: 203.0.113.9 is mapped 1:1 by static[0], with all its ports: use an address of outside.addresses",
	}},
	{"modes", minimal + "mapping: {udp: address-and-port-dependent}\nfiltering:\n  tcp: endpoint-independent\n", false, []string{
		"f.yaml:4: filtering.udp: address-dependent does not go with mapping.udp address-and-port-dependent: write address-and-port-dependent",
		"f.yaml:5: filtering.tcp: endpoint-independent does not go with mapping.tcp address-and-port-dependent",
	}},
	{"timeouts", minimal + "timeouts:\n  udp: 0s\n  icmp: 721h\n  dns: -5s\n", true, []string{
		"f.yaml:4: timeouts.udp: 0s is out of range: write a time from 1s to 168h",
		"f.yaml:5: timeouts.icmp: 2595600s is out of range",
		"f.yaml:6: timeouts.dns: -5s is out of range",
	}},
	{"below the floors of profile rfc", minimal + "profile: rfc\ntimeouts:\n  udp: 119s\n  tcp_established: 1h\n  tcp_closing: 60s\n  icmp: 30s\n", false, []string{
		"f.yaml:5: timeouts.udp: 119s is below the 120s of RFC 4787 REQ-5: raise it, or use another profile",
		"f.yaml:6: timeouts.tcp_established: 3600s is below the 7440s of RFC 5382 REQ-5",
		"f.yaml:7: timeouts.tcp_closing: 60s is below the 240s of RFC 5382 REQ-5",
		"f.yaml:8: timeouts.icmp: 30s is below the 60s of RFC 5508 REQ-2",
	}},
	{"numbers", minimal + "mss_clamp: 100\nlimits: {sessions: 0, sessions_per_host: -1}\ndevices: {mtu: 100}\n", true, []string{
		"f.yaml:3: mss_clamp: 100 is out of range: write 0 for off, or bytes from 536 to 65495",
		"f.yaml:4: limits.sessions: 0 is out of range: write a number from 1024 to 67108864",
		"f.yaml:4: limits.sessions_per_host: -1 is out of range: write a number from 0 to 67108864",
		"f.yaml:5: devices.mtu: 100 is out of range",
	}},
	{"small port block", "inside: {prefixes: [10.0.0.0/24]}\noutside:\n  addresses: [203.0.113.1]\n  port_block: 8\n", true, []string{
		"f.yaml:4: outside.port_block: 8 is out of range: write 0 for off, or ports from 16 to 65535",
	}},
	{"port block and pooling", "inside: {prefixes: [10.0.0.0/24]}\noutside:\n  addresses: [203.0.113.1]\n  port_block: 252\n  pooling: arbitrary\n", false, []string{
		"f.yaml:4: outside.port_block: a block is on one address, so it does not go with outside.pooling arbitrary: write paired there",
	}},
	{"port block and classes", "inside: {prefixes: [10.0.0.0/24]}\noutside:\n  addresses: [203.0.113.1]\n  port_block: 252\nprofile: rfc\n", false, []string{
		"f.yaml:4: outside.port_block: does not go with profile rfc",
	}},
	{"too few port blocks", "inside: {prefixes: [10.0.0.0/24]}\noutside:\n  addresses: [203.0.113.1]\n  port_block: 253\n", false, []string{
		`f.yaml: pool "outside": 256 inside addresses are routed to it, and it has 254 blocks of 253 ports: add addresses, or make the blocks smaller`,
	}},
	{"UDP opening", minimal + "timeouts: {udp: 60s, udp_opening: 61s}\n", false, []string{
		"f.yaml:3: timeouts.udp_opening: 61s is longer than the 60s of timeouts.udp: write 0s for the same",
	}},
	{"UDP opening of profile rfc", minimal + "profile: rfc\ntimeouts: {udp_opening: 30s}\n", false, []string{
		"f.yaml:4: timeouts.udp_opening: 30s is below the 120s of RFC 4787 REQ-5: raise it, or use another profile",
	}},
	{"devices", minimal + "devices:\n  inside: a/b\n  outside: 0123456789abcdef\n", true, []string{
		`f.yaml:4: devices.inside: "a/b" is no name for an interface: write up to 15 letters, digits and dashes`,
		`f.yaml:5: devices.outside: "0123456789abcdef" is no name`,
	}},
	{"one device", minimal + "devices: {outside: tg-in}\n", false, []string{
		"f.yaml:3: devices.outside: tg-in is the inside device, too: write another name",
	}},
}

func TestBad(t *testing.T) {
	for _, b := range bad {
		t.Run(b.name, func(t *testing.T) {
			c, err := Parse("f.yaml", []byte(b.file))
			if c != nil {
				t.Error("a configuration was returned")
			}
			wantFaults(t, err, b.want...)
			if n := len(faultsOf(t, err)); n != len(b.want) {
				t.Errorf("%d faults, want %d:\n%v", n, len(b.want), err)
			}
		})
	}
}

// FuzzParse: whatever the file, there is a Config or there are faults, and a Config prints as itself.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	for _, b := range bad {
		f.Add([]byte(b.file))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f.yaml", b)
		if (c == nil) != (err != nil) {
			t.Fatalf("Parse = %v, %v", c, err)
		}
		if err != nil {
			if err.Error() == "" {
				t.Fatal("no text")
			}
			return
		}
		once, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("printed.yaml", once)
		if err != nil {
			t.Fatalf("%v\n%s", err, once)
		}
		if twice, err := again.YAML(); err != nil || !strings.EqualFold(string(once), string(twice)) {
			t.Fatalf("%s\n%s %v", once, twice, err)
		}
	})
}

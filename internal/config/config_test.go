// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

const (
	exampleFile = "../../examples/gateway/gateway.yaml"
	schemaFile  = "../../examples/gateway/gateway.schema.json"
)

// compare looks at netip values by what they mean; a list with nothing in it is none.
var compare = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

const minimal = "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\n"

func TestDefaults(t *testing.T) {
	got, err := Parse("f.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := Default("gateway")
	want.Inside.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	a := netip.MustParseAddr("203.0.113.1")
	want.Outside.Addresses = []Range{{a, a}}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Error(d)
	}
}

func TestBool(t *testing.T) {
	for text, want := range map[string]bool{"true": true, "True": true, "TRUE": true, "false": false, "False": false} {
		c, err := Parse("f.yaml", []byte(minimal+"hairpin: "+text+"\n"))
		if err != nil || c.Hairpin != want {
			t.Errorf("hairpin: %s is read as %v, %v", text, c, err)
		}
	}
}

// TestExample holds the shipped file to what its head says: every key, with its default.
func TestExample(t *testing.T) {
	b, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("gateway.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	want := Default("gateway")
	want.Inside, want.Static, want.Forwards = got.Inside, got.Static, got.Forwards
	want.Outside.Addresses = got.Outside.Addresses
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Errorf("the example differs from the defaults:\n%s", d)
	}
	d := decoder{faults{source: "gateway.yaml", places: map[string]place{}}}
	written := map[string]bool{}
	collect(d.document(b), "", written)
	if d := cmp.Diff(allKeys(reflect.TypeFor[Config](), ""), written); d != "" {
		t.Errorf("keys of Config and of the example differ:\n%s", d)
	}
}

// TestPrint: what is printed is the same configuration again, in every profile.
func TestPrint(t *testing.T) {
	example, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"minimal": minimal,
		"rfc":     minimal + "profile: rfc\n",
		"aws":     minimal + "profile: aws\nhairpin: false\n",
		"example": string(example),
		"ranges":  "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1-203.0.113.3, 203.0.113.8/29]}\ntimeouts: {udp: 1500ms}",
		"blocks":  "inside: {prefixes: [10.0.0.0/24]}\noutside: {addresses: [203.0.113.1], port_block: 252}\ntimeouts: {udp_opening: 30s}",
		"static":  "inside: {prefixes: [10.0.0.0/16]}\nstatic: [{inside: 10.0.0.1, outside: 203.0.113.1}]",
	} {
		t.Run(name, func(t *testing.T) {
			want, err := Parse("f.yaml", []byte(file))
			if err != nil {
				t.Fatal(err)
			}
			b, err := want.YAML()
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse("printed.yaml", b)
			if err != nil {
				t.Fatalf("%v\n%s", err, b)
			}
			if d := cmp.Diff(want, got, compare); d != "" {
				t.Errorf("%s\n%s", d, b)
			}
		})
	}
}

func TestProfileDefaults(t *testing.T) {
	c, err := Parse("f.yaml", []byte(minimal+"profile: aws\ntimeouts: {udp: 60s, udp_opening: 30s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := nat.AWSProfile()
	want.Timeouts.UDP, want.Timeouts.UDPOpening = 60*time.Second, 30*time.Second
	p, _ := c.Compile()
	if d := cmp.Diff(want, p.Pools[0].Profile); d != "" {
		t.Error(d)
	}
}

func TestCompile(t *testing.T) {
	c, err := Load(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	got, engine := c.Compile()
	in := netip.MustParsePrefix("10.0.0.0/16")
	want := &nat.Policy{
		Inside: []netip.Prefix{in},
		Routes: []nat.Route{{Source: in, Static: true, Pool: "outside"}},
		Pools: []nat.Pool{{
			Name: "outside", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, Profile: nat.GatewayProfile(),
		}},
		Static: []nat.Static{{Inside: netip.MustParseAddr("10.0.1.10"), Outside: netip.MustParseAddr("203.0.113.10")}},
		Forwards: []nat.Forward{{
			Protocol: packet.TCP,
			Outside:  netip.MustParseAddrPort("203.0.113.1:8080"), Inside: netip.MustParseAddrPort("10.0.1.20:80"),
		}},
	}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Error(d)
	}
	if engine.Sessions != 1048576 {
		t.Errorf("Sessions = %d", engine.Sessions)
	}
}

func TestPlain(t *testing.T) {
	got, err := Plain(Flags{
		Inside: []string{"10.0.0.0/16"}, Public: []string{"203.0.113.1"},
		Static:  []string{"10.0.1.10=203.0.113.10"},
		Forward: []string{"tcp:203.0.113.1:8080=10.0.1.20:80"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want, err := Load(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Error(d)
	}

	_, err = Plain(Flags{
		Inside: []string{"10.0.0.1/16"}, Public: []string{"::1"}, Static: []string{"10.0.1.10"},
		Forward: []string{"sctp:203.0.113.1:1=10.0.0.1:1", "x"},
	})
	wantFaults(t, err,
		`--inside: inside.prefixes[0]: 10.0.0.1/16 has bits beyond its length: write 10.0.0.0/16`,
		`--public: outside.addresses[0]: "::1" is not an IPv4 address`,
		`--static: static[0]: "10.0.1.10" has no =: write INSIDE=OUTSIDE`,
		`--forward: forwards[0].proto: "sctp" is none of its values: write tcp or udp`,
		`--forward: forwards[1]: "x" is no forward: write PROTO:OUTSIDE:PORT=INSIDE:PORT`,
	)
	_, err = Plain(Flags{})
	wantFaults(t, err, "--inside: inside.prefixes: is missing", "--public: outside.addresses: is missing")
}

func faultsOf(t *testing.T, err error) Faults {
	t.Helper()
	var fs Faults
	if !errors.As(err, &fs) {
		t.Fatalf("error is %v, want Faults", err)
	}
	return fs
}

// wantFaults checks that err has faults that begin so.
func wantFaults(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		found := false
		for _, f := range faultsOf(t, err) {
			found = found || strings.HasPrefix(f.String(), w)
		}
		if !found {
			t.Errorf("no fault %q in\n%v", w, err)
		}
	}
}

func TestRangePrefixes(t *testing.T) {
	for in, want := range map[string]string{
		"203.0.113.1":               "203.0.113.1/32",
		"203.0.113.0/29":            "203.0.113.0/29",
		"203.0.113.1-203.0.113.6":   "203.0.113.1/32 203.0.113.2/31 203.0.113.4/31 203.0.113.6/32",
		"203.0.113.0-203.0.113.4":   "203.0.113.0/30 203.0.113.4/32",
		"0.0.0.0/0":                 "0.0.0.0/0",
		"223.255.255.254-224.0.0.1": "223.255.255.254/31 224.0.0.0/31",
	} {
		r, err := ParseRange(in)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range r.Prefixes() {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", in, got, want)
		}
	}
}

func TestSocketPath(t *testing.T) {
	for socket, want := range map[string]string{"": "/run/tidegate/lan.sock", NoSocket: "", "/run/x.sock": "/run/x.sock"} {
		c := Default("gateway")
		c.Devices.Inside, c.Control.Socket = "lan", socket
		if got := c.SocketPath(); got != want {
			t.Errorf("%q: %q, want %q", socket, got, want)
		}
	}
}

// TestDraining: the addresses stay external, and ours to route, and nothing new gets one.
func TestDraining(t *testing.T) {
	c, err := Parse("f.yaml", []byte("inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1], draining: [203.0.113.2/31]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := c.Compile()
	drained := []netip.Addr{netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.3")}
	if d := cmp.Diff(drained, p.Pools[0].Draining, compare); d != "" {
		t.Error(d)
	}
	if got := c.External(); len(got) != 3 || len(c.ExternalPrefixes()) != 2 {
		t.Errorf("external: %v, %v", got, c.ExternalPrefixes())
	}
}

// TestChanges: what differs is named, and what needs a restart is a fault of the new file, with its line.
func TestChanges(t *testing.T) {
	from, err := Parse("f.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "next.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	next, err := LoadNext(write(minimal+"static: []\nforwards: [{proto: udp, outside: \"203.0.113.1:1\", inside: \"10.0.0.1:1\"}]\n"+
		"timeouts: {udp: 200s}\nlimits: {sessions_per_host: 5}\n"), from)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"forwards", "timeouts.udp", "limits.sessions_per_host"}, Changes(from, next)); d != "" {
		t.Error(d)
	}
	name := write(minimal + "timeouts: {fragment: 5s}\nlimits:\n  sessions: 2048\nflow_counters: true\ndevices: {mtu: 1400}\n" +
		"control: {socket: none}\nhairpin: 1\n")
	_, err = LoadNext(name, from)
	wantFaults(t, err,
		name+":3: timeouts.fragment: cannot change while the gateway runs, since ",
		name+":5: limits.sessions: cannot change while the gateway runs, since the tables have their size from the start: restart it, or",
		name+":6: flow_counters: cannot", name+":7: devices.mtu: cannot", name+":8: control.socket: cannot", name+":9: hairpin: ")
	if n := len(faultsOf(t, err)); n != 6 {
		t.Errorf("%d faults, want 6:\n%v", n, err)
	}
}

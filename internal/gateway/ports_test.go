// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// TestPortsByDestination: where flows compete by destination, the fullest pairs; sessions of forwards take no ports.
func TestPortsByDestination(t *testing.T) {
	c, err := config.Parse("f.yaml", []byte("inside: {prefixes: [10.0.0.0/16]}\n"+
		"outside: {addresses: [203.0.113.1], ports: {min: 2000, max: 2063}}\nprofile: aws\n"+
		"forwards: [{proto: udp, outside: \"203.0.113.1:2000\", inside: \"10.0.0.9:53\"}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	policy, sizes := c.Compile()
	sizes.Sessions = 8192
	e, err := nat.New(sizes, policy)
	if err != nil {
		t.Fatal(err)
	}
	w, now := e.Worker(), time.Second
	send := func(from nat.AttachmentID, src, dst string) {
		t.Helper()
		p := datagram(t, src, dst)
		if v := w.Translate(&p, from, now); !v.Forward() {
			t.Fatalf("%s > %s: %s", src, dst, v)
		}
	}
	for i := range 32 {
		send(nat.FromInside, fmt.Sprintf("10.0.0.1:%d", 1000+i), "198.51.100.1:443")
	}
	for i := range 8 {
		send(nat.FromInside, fmt.Sprintf("10.0.0.2:%d", 1000+i), "198.51.100.2:443")
	}
	// More destinations than are counted, once each.
	for i := range maxCandidates + 100 {
		send(nat.FromInside, "10.0.0.3:1000", fmt.Sprintf("192.0.2.1:%d", 1+i))
	}
	send(nat.FromOutside, "198.51.100.3:53", "203.0.113.1:2000")

	got := portsOf(e, policy, now, 2)
	a := netip.MustParseAddr("203.0.113.1")
	want := control.AddressPorts{Address: a, Protocol: "udp", Mapping: "address-and-port-dependent", Used: got.Addresses[1].Used, Total: 63,
		Ratio: got.Addresses[1].Ratio}
	if u := want.Used; got.Addresses[1] != want || u < 32 || u > 63 {
		t.Errorf("%+v, want %+v with 32 to 63 used", got.Addresses[1], want)
	}
	if n := 32 + 8 + maxCandidates + 100 + 1; got.Sessions != n {
		t.Errorf("%d sessions, want %d", got.Sessions, n)
	}
	fullestTwo := []control.DestinationPorts{
		{Address: a, Protocol: "udp", Remote: netip.MustParseAddrPort("198.51.100.1:443"), Used: 32, Total: 63, Ratio: 32. / 63},
		{Address: a, Protocol: "udp", Remote: netip.MustParseAddrPort("198.51.100.2:443"), Used: 8, Total: 63, Ratio: 8. / 63},
	}
	if !slices.Equal(got.Destinations, fullestTwo) {
		t.Errorf("%+v, want %+v", got.Destinations, fullestTwo)
	}
	if full := fullest(&got); full != 32./63 {
		t.Errorf("the fullest is %v", full)
	}
}

// TestPortsPerAddress: as many as the allocator has.
func TestPortsPerAddress(t *testing.T) {
	blocks := nat.GatewayProfile()
	blocks.PortBlock = 1000
	for _, tt := range []struct {
		nat.Profile
		class, want int
	}{
		{nat.GatewayProfile(), nat.ClassTCP, 64512},
		{nat.GatewayProfile(), nat.ClassICMP, 65536},
		{nat.RFCProfile(), nat.ClassUDP, 65024},
		{blocks, nat.ClassUDP, 64000},
		{blocks, nat.ClassICMP, 64000},
	} {
		if got := portsPerAddress(&tt.Profile, tt.class); got != tt.want {
			t.Errorf("%s, class %d: %d, want %d", tt.Name, tt.class, got, tt.want)
		}
	}
}

// TestFrequent: what makes up more than its part is found, in bounded memory, whatever the order.
func TestFrequent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 200).Draw(t, "keys")
		f := frequent[int]{most: rapid.IntRange(1, 8).Draw(t, "most")}
		want := map[int]int{}
		for _, k := range keys {
			f.add(k)
			want[k]++
			if len(f.counts) > f.most {
				t.Fatalf("%d keys are kept", len(f.counts))
			}
		}
		for k, n := range want {
			if n*(f.most+1) > len(keys) && f.counts[k] == 0 {
				t.Fatalf("%d is %d of %d, and not found", k, n, len(keys))
			}
			if f.counts[k] > n {
				t.Fatalf("%d is counted %d times, and there are %d", k, f.counts[k], n)
			}
		}
	})
}

// TestMetricNames: a name that is gone breaks somebody's alarm, so it goes on purpose only.
func TestMetricNames(t *testing.T) {
	want := strings.Fields(`nat_bytes_total nat_checksum_errors_total nat_config_last_reload_successful
		nat_config_reload_success_timestamp_seconds nat_device_backend_info nat_device_bytes_total nat_device_dropped_total
		nat_device_exhausted_total nat_device_packets_total nat_device_queue_packets_total nat_device_read_errors_total nat_device_refused_total nat_device_sleeps_total nat_drops_total nat_emitted_total nat_endpoint_port_saturation_ratio nat_fault_active
		nat_fault_repairs_total nat_faults_total nat_fragments_total nat_healthy
		nat_icmp_errors_translated_total nat_icmp_suppressed_total nat_mappings nat_monitor_resyncs_total nat_packets_total nat_pool_ports_limit
		nat_pool_ports_used nat_port_alloc_failures_total nat_ports_quarantined nat_sessions nat_sessions_created_total
		nat_sessions_ended_total nat_sessions_limit nat_subscriber_quota_hits_total nat_table_bytes
		nat_tcp_attempts_total nat_tcp_connections nat_tcp_established_total nat_tcp_idle_timeouts_total`)
	var got []string
	for _, m := range metrics {
		got = append(got, m.name)
		if !strings.HasSuffix(m.help, ".") {
			t.Errorf("%s: %q is no sentence", m.name, m.help)
		}
		for _, l := range m.labels {
			if !slices.Contains([]string{"reason", "proto", "dir", "verdict", "result", "checksum", "limit", "device", "op", "fault", "pool", "backend", "queue"}, l) {
				t.Errorf("%s: label %s: are its values few words of the code?", m.name, l)
			}
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

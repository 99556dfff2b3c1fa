// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// metered is an edge with two NAT gateways, each for an instance, whose counters are told to a Meter.
type metered struct {
	*edge
	meter    Meter
	gateways [2]NATGateway
	hosts    [2]Instance
}

func newMetered(t *testing.T) *metered {
	t.Helper()
	w := newWorld(t, "198.51.100.128/28")
	m := &metered{edge: &edge{world: w}}
	for i := range m.hosts {
		s := m.private
		if i == 1 {
			s = must(m.CreateSubnet(CreateSubnetInput{VPCID: m.vpc.ID, CIDR: prefix("10.0.7.0/24")}))(t)
		}
		table := must(m.CreateRouteTable(m.vpc.ID))(t)
		must(m.AssociateRouteTable(table.ID, s.ID))(t)
		m.gateways[i] = m.natGateway(m.public, m.allocate())
		m.ok(m.CreateRoute(table.ID, everything, m.gateways[i].ID))
		m.hosts[i] = m.run(s)
	}
	m.engine = must(nat.New(nat.Config{Seed: 1, Sessions: 1 << 17, FlowCounters: true}, m.compiled()))(t)
	m.worker = m.engine.Worker()
	return m
}

// sample takes the clock to the next multiple of SampleInterval and tells the meter.
func (m *metered) sample() {
	m.now = m.now.Truncate(SampleInterval).Add(SampleInterval)
	m.meter.Sample(m.now, m.engine.PoolStats(m.now.Sub(t0)))
}

// is holds the metrics of a gateway in the minute of begin against those that are not 0, all of them.
func (m *metered) is(what string, gateway int, begin time.Time, want map[string]float64) {
	m.t.Helper()
	for _, name := range MetricNames() {
		points := must(m.meter.Statistics(m.gateways[gateway].ID, name, begin, begin.Add(time.Minute), time.Minute))(m.t)
		got := 0.0
		if len(points) > 0 {
			if got = points[0].Sum; points[0].Maximum != got || points[0].Minimum != got || points[0].Average != got || points[0].SampleCount != 1 {
				m.t.Errorf("%s: %s: %+v", what, name, points[0])
			}
		}
		if got != want[name] {
			m.t.Errorf("%s: %s is %v, want %v", what, name, got, want[name])
		}
	}
}

// TestNGW9_Metrics: by the names and meanings of CloudWatch, for each gateway, from flows whose packets are counted here.
func TestNGW9_Metrics(t *testing.T) {
	m := newMetered(t)
	t1 := m.now.Truncate(time.Minute).Add(time.Minute)
	m.now = t1
	g, i := m.gateways[0], m.hosts[0]
	ext := g.Addresses[0].PublicIP

	// A connection: two packets out, one in.
	f := tcp(i.PrivateIP, 5000, r1, 443)
	b, _ := m.send(i.Attachment, f.build(t))
	size := float64(len(f.build(t)))
	equal(t, "as", read(t, b).src, ext)
	out := read(t, b)
	m.passes("answer", OutsideAttachment, out.reply(), nat.Inbound, f.reply())
	f.syn, f.ack, out.syn, out.ack = false, true, false, true
	m.passes("established", i.Attachment, f, nat.Outbound, out)
	// A SYN without an answer, sent again.
	again := tcp(i.PrivateIP, 5001, r1, 443)
	for range 2 {
		_, v := m.send(i.Attachment, again.build(t))
		equal(t, "without an answer", v, nat.Outbound)
	}
	// Dropped: another protocol, pieces of TCP, and what nobody asked for. None of the other gateway's business.
	esp := flow{proto: layers.IPProtocolESP, src: i.PrivateIP, dst: r1, ttl: 64}.build(t)
	m.send(i.Attachment, esp)
	pieces := fragments(t, i.PrivateIP, r1, layers.IPProtocolTCP)
	dropped := float64(len(esp))
	for _, p := range pieces {
		dropped += float64(len(p))
		m.send(i.Attachment, p)
	}
	unasked := udp(r1, 53, ext, 5000)
	m.stops("unasked", OutsideAttachment, unasked, nat.DropNoMapping)
	u := udp(m.hosts[1].PrivateIP, 6000, r2, 53)
	_, v := m.send(m.hosts[1].Attachment, u.build(t))
	equal(t, "by the other", v, nat.Outbound)
	m.sample()
	packets, lost := 4.0, float64(1+len(pieces))
	in := float64(len(out.reply().build(t)))
	stray := float64(len(unasked.build(t)))
	m.is("the first minute", 0, t1, map[string]float64{
		"ActiveConnectionCount": 1, "ConnectionAttemptCount": 2, "ConnectionEstablishedCount": 1,
		"PacketsInFromSource": packets + lost, "BytesInFromSource": 4*size + dropped,
		"PacketsOutToDestination": packets, "BytesOutToDestination": 4 * size,
		"PacketsInFromDestination": 2, "BytesInFromDestination": in + stray,
		"PacketsOutToSource": 1, "BytesOutToSource": in,
		"PacketsDropCount":     lost + 1,
		"PeakPacketsPerSecond": (packets + lost + 2) / 10, "PeakBytesPerSecond": (4*size + dropped + in + stray) / 10,
	})
	udpSize := float64(len(u.build(t)))
	m.is("the other gateway", 1, t1, map[string]float64{
		"PacketsInFromSource": 1, "BytesInFromSource": udpSize, "PacketsOutToDestination": 1, "BytesOutToDestination": udpSize,
		"PeakPacketsPerSecond": 0.1, "PeakBytesPerSecond": udpSize / 10,
	})

	// Two bursts in the next minute: the peak is the higher, and not their sum.
	m.now = t1.Add(59 * time.Second)
	m.sample() // at the end of the first minute
	for _, n := range []int{3, 5} {
		for range n {
			m.passes("data", i.Attachment, f, nat.Outbound, out)
		}
		m.sample()
	}
	m.is("bursts", 0, t1.Add(time.Minute), map[string]float64{
		"ActiveConnectionCount": 1, "PacketsInFromSource": 8, "BytesInFromSource": 8 * size, "PacketsOutToDestination": 8, "BytesOutToDestination": 8 * size,
		"PeakPacketsPerSecond": 0.5, "PeakBytesPerSecond": size / 2,
	})

	// 350 s later it is idle, and its next packet is answered with a RST, which goes to the source.
	idle := m.now.Add(350 * time.Second).Truncate(time.Minute).Add(time.Minute)
	for m.now.Before(idle) {
		m.sample()
	}
	_, v = m.send(i.Attachment, f.build(t))
	equal(t, "after its time-out", v, nat.DropReset)
	m.sample()
	points := must(m.meter.Statistics(g.ID, "IdleTimeoutCount", t1, idle.Add(time.Minute), time.Hour))(t)
	if len(points) != 1 || points[0].Sum != 1 || points[0].Unit != "Count" {
		t.Errorf("idle: %+v", points)
	}
	m.is("a stale connection", 0, idle, map[string]float64{
		"PacketsInFromSource": 1, "BytesInFromSource": size, "PacketsOutToSource": 1, "BytesOutToSource": 40, "PacketsDropCount": 1,
		"PeakPacketsPerSecond": 0.1, "PeakBytesPerSecond": size / 10,
	})
}

// NGW-9: a packet that finds no port is counted as that.
func TestNGW9_PortErrors(t *testing.T) {
	m := newMetered(t)
	t1 := m.now.Truncate(time.Minute).Add(time.Minute)
	m.now = t1
	i, refused := m.hosts[0], 0.0
	now := m.now.Sub(t0)
	for port := 1; port <= 55_003; port++ {
		p := packet.From(udp(i.PrivateIP, uint16(port), r1, 53).build(t))
		if v := m.worker.Translate(&p, i.Attachment, now); v == nat.DropNoPort {
			refused++
		} else if v != nat.Outbound {
			t.Fatal(v)
		}
	}
	m.sample()
	points := must(m.meter.Statistics(m.gateways[0].ID, "ErrorPortAllocation", t1, t1.Add(time.Minute), time.Minute))(t)
	if len(points) != 1 || points[0].Sum != 3 || refused != 3 {
		t.Errorf("%v refused, %+v", refused, points)
	}
}

// TestMeter: periods of several minutes, what is refused, and what is forgotten.
func TestMeter(t *testing.T) {
	var m Meter
	pool := nat.PoolStats{Name: "nat-1"}
	for n := range 12 { // two minutes
		pool.ActiveConnections = n
		pool.Attempts += uint64(n)
		m.Sample(t0.Add(time.Duration(n)*SampleInterval), []nat.PoolStats{pool})
		m.Sample(t0.Add(time.Duration(n)*SampleInterval+time.Second), []nat.PoolStats{{Name: "nat-1"}}) // too early
	}
	at := func(name string, period time.Duration) string {
		points, err := m.Statistics("nat-1", name, t0.Add(-time.Hour), t0.Add(5*time.Hour), period)
		if err != nil {
			return err.Error()
		}
		s := ""
		for _, p := range points {
			s += fmt.Sprintf("%v: %v of %v, %v to %v, on average %v\n", p.Start.Sub(t0), p.Sum, p.SampleCount, p.Minimum, p.Maximum, p.Average)
		}
		return s
	}
	// t0 is the start of a minute: what is told then is of the minute before.
	equal(t, "by minute", at("ConnectionAttemptCount", time.Minute),
		"-1m0s: 0 of 1, 0 to 0, on average 0\n0s: 21 of 1, 21 to 21, on average 21\n1m0s: 45 of 1, 45 to 45, on average 45\n")
	equal(t, "by hour", at("ConnectionAttemptCount", time.Hour), "-1h0m0s: 0 of 1, 0 to 0, on average 0\n0s: 66 of 2, 21 to 45, on average 33\n")
	equal(t, "a gauge", at("ActiveConnectionCount", 2*time.Minute), "-2m0s: 0 of 1, 0 to 0, on average 0\n0s: 17 of 2, 6 to 11, on average 8.5\n")
	equal(t, "a period", at("ActiveConnectionCount", 90*time.Second), "InvalidParameterValue: a period of 1m30s; use a multiple of 60 seconds")
	equal(t, "a name", at("Connections", time.Minute), `InvalidParameterValue: a NAT gateway has no metric "Connections"`)
	if _, err := m.Statistics("nat-1", "ActiveConnectionCount", t0, t0, time.Minute); err == nil {
		t.Error("no time at all")
	}
	pool.PoolCounters = nat.PoolCounters{Attempts: 7} // another engine
	m.Sample(t0.Add(150*time.Second), []nat.PoolStats{pool})
	equal(t, "anew", at("ConnectionAttemptCount", 3*time.Minute), "-3m0s: 0 of 1, 0 to 0, on average 0\n0s: 73 of 3, 7 to 45, on average 24.333333333333332\n")
	m.Sample(t0.Add(metricsKept+61*time.Second), nil)
	equal(t, "after three hours", at("ConnectionAttemptCount", time.Minute), "1m0s: 45 of 1, 45 to 45, on average 45\n2m0s: 7 of 1, 7 to 7, on average 7\n")
	m.Sample(t0.Add(24*time.Hour), nil)
	if len(m.gateways) != 0 {
		t.Error("a gateway that is gone is remembered for ever")
	}
}

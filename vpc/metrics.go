// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// MetricNamespace is where CloudWatch has the metrics of NAT gateways.
const MetricNamespace = "AWS/NATGateway"

// metric is one of the metrics of a NAT gateway.
type metric struct {
	name, unit string
	// total is its counter; nil for what is measured and not counted.
	total func(c *nat.PoolCounters) uint64
}

// metrics are what CloudWatch has. In comes to the gateway, Out leaves it; the source is the side of the VPC, the destination
// the other. Bytes are those of the IP packets as they leave or come.
//
// ActiveConnectionCount is the most TCP connections that were established at one time, PeakBytesPerSecond and
// PeakPacketsPerSecond are the highest rates of what came from both sides, each over one SampleInterval. The rest is how many
// or how much there was.
var metrics = []metric{
	{"ActiveConnectionCount", "Count", nil},
	{"BytesInFromDestination", "Bytes", func(c *nat.PoolCounters) uint64 { return c.Received[nat.In].Bytes }},
	{"BytesInFromSource", "Bytes", func(c *nat.PoolCounters) uint64 { return c.Received[nat.Out].Bytes }},
	{"BytesOutToDestination", "Bytes", func(c *nat.PoolCounters) uint64 { return c.Sent[nat.Out].Bytes }},
	{"BytesOutToSource", "Bytes", func(c *nat.PoolCounters) uint64 { return c.Sent[nat.In].Bytes }},
	{"ConnectionAttemptCount", "Count", func(c *nat.PoolCounters) uint64 { return c.Attempts }},
	{"ConnectionEstablishedCount", "Count", func(c *nat.PoolCounters) uint64 { return c.Established }},
	{"ErrorPortAllocation", "Count", func(c *nat.PoolCounters) uint64 { return c.PortErrors }},
	{"IdleTimeoutCount", "Count", func(c *nat.PoolCounters) uint64 { return c.IdleTimeouts }},
	{"PacketsDropCount", "Count", func(c *nat.PoolCounters) uint64 { return c.Dropped[nat.Out].Packets + c.Dropped[nat.In].Packets }},
	{"PacketsInFromDestination", "Count", func(c *nat.PoolCounters) uint64 { return c.Received[nat.In].Packets }},
	{"PacketsInFromSource", "Count", func(c *nat.PoolCounters) uint64 { return c.Received[nat.Out].Packets }},
	{"PacketsOutToDestination", "Count", func(c *nat.PoolCounters) uint64 { return c.Sent[nat.Out].Packets }},
	{"PacketsOutToSource", "Count", func(c *nat.PoolCounters) uint64 { return c.Sent[nat.In].Packets }},
	{"PeakBytesPerSecond", "Bytes/Second", nil},
	{"PeakPacketsPerSecond", "Count/Second", nil},
}

// The places of those that are not counted.
const (
	activePlace  = 0
	bytesPlace   = 14
	packetsPlace = 15
	numMetrics   = 16
)

// MetricNames are the metrics of a NAT gateway.
func MetricNames() (names []string) {
	for _, m := range metrics {
		names = append(names, m.name)
	}
	return names
}

// How a Meter measures.
const (
	// SampleInterval is how often it wants to be told.
	SampleInterval = 10 * time.Second
	// metricPeriod is what it keeps a value for, metricsKept for how long.
	metricPeriod = time.Minute
	metricsKept  = 3 * time.Hour
)

// Meter keeps the metrics of NAT gateways, by minute, for three hours. The zero value is one. It is not safe for concurrent
// use.
type Meter struct {
	last     time.Time // when it was told last, a multiple of SampleInterval
	gateways map[string]*gatewayMeter
}

type gatewayMeter struct {
	before  nat.PoolCounters
	minutes []meterMinute // ascending
}

type meterMinute struct {
	start  time.Time
	values [numMetrics]float64
}

// Sample tells the pools of NAT gateways (nat.Engine.PoolStats) as they are at the time now. More often than each
// SampleInterval does nothing, and a clock that was set back is waited for.
func (m *Meter) Sample(now time.Time, pools []nat.PoolStats) {
	now = now.Truncate(SampleInterval)
	if !now.After(m.last) {
		return
	}
	took := SampleInterval
	if !m.last.IsZero() {
		took = now.Sub(m.last)
	}
	m.last = now
	if m.gateways == nil {
		m.gateways = map[string]*gatewayMeter{}
	}
	start := now.Add(-time.Nanosecond).Truncate(metricPeriod) // of the minute that ends with now, at the latest
	for i := range pools {
		p := &pools[i]
		g := m.gateways[p.Name]
		if g == nil {
			g = new(gatewayMeter)
			m.gateways[p.Name] = g
		}
		g.sample(start, took, p)
	}
	for id, g := range m.gateways {
		g.minutes = slices.DeleteFunc(g.minutes, func(v meterMinute) bool { return now.Sub(v.start) > metricsKept })
		if len(g.minutes) == 0 {
			delete(m.gateways, id)
		}
	}
}

func (g *gatewayMeter) sample(start time.Time, took time.Duration, p *nat.PoolStats) {
	if n := len(g.minutes); n == 0 || !g.minutes[n-1].start.Equal(start) {
		g.minutes = append(g.minutes, meterMinute{start: start})
	}
	v := &g.minutes[len(g.minutes)-1].values
	more := func(total func(*nat.PoolCounters) uint64) float64 {
		now, before := total(&p.PoolCounters), total(&g.before)
		if now < before { // another engine, which began anew
			before = 0
		}
		return float64(now - before)
	}
	for i := range metrics {
		if metrics[i].total != nil {
			v[i] += more(metrics[i].total)
		}
	}
	v[activePlace] = max(v[activePlace], float64(p.ActiveConnections))
	came := func(c *nat.PoolCounters) nat.Traffic {
		out, in := c.Received[nat.Out], c.Received[nat.In]
		return nat.Traffic{Packets: out.Packets + in.Packets, Bytes: out.Bytes + in.Bytes}
	}
	v[bytesPlace] = max(v[bytesPlace], more(func(c *nat.PoolCounters) uint64 { return came(c).Bytes })/took.Seconds())
	v[packetsPlace] = max(v[packetsPlace], more(func(c *nat.PoolCounters) uint64 { return came(c).Packets })/took.Seconds())
	g.before = p.PoolCounters
}

// Datapoint is what a metric was in one period.
type Datapoint struct {
	// Start is that of the period.
	Start time.Time
	// SampleCount is of how many minutes there is a value; the rest is of those values.
	SampleCount, Average, Sum, Minimum, Maximum float64
	Unit                                        string
}

// Statistics are those of a metric of a NAT gateway, by period, in the order of time. The periods begin with start, rounded
// down to the minute, and end before end; one without a value is left out. The last minute is not over yet.
func (m *Meter) Statistics(natGatewayID, name string, start, end time.Time, period time.Duration) ([]Datapoint, error) {
	place := slices.IndexFunc(metrics, func(m metric) bool { return m.name == name })
	switch {
	case place < 0:
		return nil, refuse(InvalidParameterValue, "a NAT gateway has no metric %q", name)
	case period < metricPeriod || period%metricPeriod != 0:
		return nil, refuse(InvalidParameterValue, "a period of %v; use a multiple of 60 seconds", period)
	case !start.Before(end):
		return nil, refuse(InvalidParameterValue, "the start time must be before the end time")
	}
	start = start.Truncate(metricPeriod)
	var points []Datapoint
	g := m.gateways[natGatewayID]
	if g == nil {
		return nil, nil
	}
	for _, v := range g.minutes {
		if v.start.Before(start) || !v.start.Before(end) {
			continue
		}
		at := start.Add(v.start.Sub(start) / period * period)
		x := v.values[place]
		if n := len(points); n == 0 || !points[n-1].Start.Equal(at) {
			points = append(points, Datapoint{Start: at, Minimum: x, Maximum: x, Unit: metrics[place].unit})
		}
		p := &points[len(points)-1]
		p.SampleCount++
		p.Sum += x
		p.Minimum, p.Maximum = min(p.Minimum, x), max(p.Maximum, x)
		p.Average = p.Sum / p.SampleCount
	}
	return points, nil
}

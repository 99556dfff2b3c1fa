// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/vpc"
)

// metricCalls are those of CloudWatch that are about NAT gateways.
var metricCalls = []Call{{
	Name: "GetMetricStatistics", Reads: true,
	Help: "What a NAT gateway did, by period, as aws cloudwatch has it: for three hours, to the minute.",
	New:  func() any { return new(statisticsIn) },
	measure: func(r *region.Region, in any) (any, error) {
		return in.(*statisticsIn).ask(r)
	},
}}

// statisticsIn are the parameters of GetMetricStatistics.
type statisticsIn struct {
	Namespace  string    `help:"AWS/NATGateway, if it is said at all."`
	MetricName string    `required:"" help:"ActiveConnectionCount, ConnectionAttemptCount, ConnectionEstablishedCount, ErrorPortAllocation, IdleTimeoutCount, PacketsDropCount, PeakBytesPerSecond, PeakPacketsPerSecond, or Bytes or Packets before InFromSource, InFromDestination, OutToSource or OutToDestination."`
	Dimensions []string  `required:"" sep:"none" help:"The NAT gateway: Name=NatGatewayId,Value=nat-0..."`
	StartTime  time.Time `required:"" help:"The first moment, such as 2026-01-31T09:00:00Z."`
	EndTime    time.Time `required:"" help:"The first moment after."`
	Period     int       `required:"" help:"Seconds, a multiple of 60."`
	Statistics []string  `help:"Of SampleCount, Average, Sum, Minimum and Maximum; all of them if this is not said."`
}

// datapoint is one in the shape of the API.
type datapoint struct {
	Timestamp                                   time.Time
	SampleCount, Average, Sum, Minimum, Maximum *float64 `json:",omitempty"`
	Unit                                        string
}

func (in *statisticsIn) ask(r *region.Region) (any, error) {
	if in.Namespace != "" && in.Namespace != vpc.MetricNamespace {
		return nil, refuse(vpc.InvalidParameterValue, "there is no namespace %q; use %s", in.Namespace, vpc.MetricNamespace)
	}
	const name, value = "Name=NatGatewayId", "Value="
	gateway := ""
	for _, d := range in.Dimensions { // a command line may have split it
		for _, part := range strings.Split(d, ",") {
			if v, ok := strings.CutPrefix(part, value); ok && gateway == "" {
				gateway = v
			} else if part != name {
				return nil, refuse(vpc.InvalidParameterValue, "the dimension %q: use %s,%snat-0...", d, name, value)
			}
		}
	}
	if gateway == "" {
		return nil, refuse(vpc.InvalidParameterValue, "the dimension has no value: use %s,%snat-0...", name, value)
	}
	points, err := r.Statistics(gateway, in.MetricName, in.StartTime, in.EndTime, time.Duration(in.Period)*time.Second)
	if err != nil {
		return nil, err
	}
	out := []datapoint{}
	for i := range points {
		p := &points[i]
		d := datapoint{Timestamp: p.Start, Unit: p.Unit}
		all := []struct {
			name string
			to   **float64
			from *float64
		}{
			{"SampleCount", &d.SampleCount, &p.SampleCount}, {"Average", &d.Average, &p.Average}, {"Sum", &d.Sum, &p.Sum},
			{"Minimum", &d.Minimum, &p.Minimum}, {"Maximum", &d.Maximum, &p.Maximum},
		}
		for _, s := range all {
			if len(in.Statistics) == 0 || slices.Contains(in.Statistics, s.name) {
				*s.to = s.from
			}
		}
		out = append(out, d)
	}
	for _, s := range in.Statistics {
		if !slices.Contains([]string{"SampleCount", "Average", "Sum", "Minimum", "Maximum"}, s) {
			return nil, refuse(vpc.InvalidParameterValue, "there is no statistic %q; use SampleCount, Average, Sum, Minimum or Maximum", s)
		}
	}
	return struct {
		Label      string
		Datapoints []datapoint
	}{in.MetricName, out}, nil
}

// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/vpc"
)

// A NAT gateway's packets are asked for in the words of aws cloudwatch.
func TestMetricStatistics(t *testing.T) {
	engines := region.NewEngineSet(nat.Config{Sessions: 64, FlowCounters: true}, nil)
	now := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	r, err := region.Open(region.Options{
		Config:  vpc.Config{Seed: 1, PublicPool: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}},
		Engines: engines, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	var gateway vpc.NATGateway
	var host vpc.Instance
	_, err = r.Change(func(m *vpc.Model, now time.Time) (any, error) {
		everything := netip.MustParsePrefix("0.0.0.0/0")
		v, err := m.CreateVPC(netip.MustParsePrefix("10.0.0.0/16"))
		igw := m.CreateInternetGateway()
		err2 := m.AttachInternetGateway(igw.ID, v.ID)
		public, err3 := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")})
		private, err4 := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: netip.MustParsePrefix("10.0.2.0/24")})
		table, err5 := m.CreateRouteTable(v.ID)
		_, err6 := m.AssociateRouteTable(table.ID, private.ID)
		a, err7 := m.AllocateAddress(now)
		var err8, err9 error
		gateway, err8 = m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: public.ID, AllocationID: a.ID})
		host, err9 = m.RunInstance(now, vpc.RunInstanceInput{SubnetID: private.ID})
		return nil, errors.Join(err, err2, err3, err4, err5, err6, err7, err8, err9,
			m.CreateRoute(v.MainRouteTableID, everything, igw.ID), m.CreateRoute(table.ID, everything, gateway.ID))
	})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 28) // an empty datagram
	b[0], b[3], b[8], b[9], b[25] = 0x45, 28, 64, packet.UDP, 8
	copy(b[12:], host.PrivateIP.AsSlice())
	copy(b[16:], []byte{203, 0, 113, 9})
	b[21], b[23] = 99, 53
	sum := packet.Checksum(b[:20])
	b[10], b[11] = byte(sum>>8), byte(sum)
	w := engines.Engine(host.VPCID).Worker()
	for range 3 {
		p := packet.From(b)
		if v := w.Translate(&p, host.Attachment, 0); v != nat.Outbound {
			t.Fatal(v)
		}
	}
	now = now.Add(10 * time.Second)
	r.Measure()

	c := Find("GetMetricStatistics")
	ask := func(parameters string) string {
		t.Helper()
		in := c.New()
		if err := json.Unmarshal([]byte(strings.ReplaceAll(parameters, "@nat", gateway.ID)), in); err != nil {
			t.Fatal(err)
		}
		response, err := c.Ask(r, in, false)
		if err != nil {
			return err.Error()
		}
		out, err := json.Marshal(response.Result)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const when = `"StartTime":"2026-01-31T08:00:00Z","EndTime":"2026-01-31T10:00:00Z","Period":60`
	const of = `"Dimensions":["Name=NatGatewayId,Value=@nat"]`
	for _, q := range []struct{ parameters, want string }{
		{`{"Namespace":"AWS/NATGateway","MetricName":"BytesOutToDestination",` + of + `,` + when + `,"Statistics":["Sum","SampleCount"]}`,
			`{"Label":"BytesOutToDestination","Datapoints":[{"Timestamp":"2026-01-31T09:00:00Z","SampleCount":1,"Sum":84,"Unit":"Bytes"}]}`},
		{`{"MetricName":"PacketsOutToDestination","Dimensions":["Name=NatGatewayId","Value=@nat"],` + when + `}`,
			`{"Label":"PacketsOutToDestination","Datapoints":[{"Timestamp":"2026-01-31T09:00:00Z","SampleCount":1,"Average":3,"Sum":3,"Minimum":3,"Maximum":3,"Unit":"Count"}]}`},
		{`{"MetricName":"PacketsOutToDestination","Dimensions":["Name=NatGatewayId,Value=nat-0"],` + when + `}`, `{"Label":"PacketsOutToDestination","Datapoints":[]}`},
		{`{"MetricName":"Packets",` + of + `,` + when + `}`, `InvalidParameterValue: a NAT gateway has no metric "Packets"`},
		{`{"Namespace":"AWS/EC2","MetricName":"Packets",` + of + `,` + when + `}`, `InvalidParameterValue: there is no namespace "AWS/EC2"; use AWS/NATGateway`},
		{`{"MetricName":"Packets","Dimensions":["VpcId=vpc-0"],` + when + `}`, `InvalidParameterValue: the dimension "VpcId=vpc-0": use Name=NatGatewayId,Value=nat-0...`},
		{`{"MetricName":"Packets","Dimensions":["Name=NatGatewayId"],` + when + `}`, `InvalidParameterValue: the dimension has no value: use Name=NatGatewayId,Value=nat-0...`},
		{`{"MetricName":"PacketsDropCount",` + of + `,` + when + `,"Statistics":["Median"]}`, `InvalidParameterValue: there is no statistic "Median"; use SampleCount, Average, Sum, Minimum or Maximum`},
		{`{"MetricName":"PacketsDropCount",` + of + `}`, `MissingParameter: the request must have the parameter StartTime`},
	} {
		if d := cmp.Diff(strings.ReplaceAll(q.want, "@nat", gateway.ID), ask(q.parameters)); d != "" {
			t.Errorf("%s: (-want +got)\n%s", q.parameters, d)
		}
	}
}

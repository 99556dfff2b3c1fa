// SPDX-License-Identifier: Apache-2.0

package vpc_test

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/vpc"
)

// A database in a private subnet has no way to its package mirror. An Elastic IP would open it to the internet; a NAT
// gateway lets it out, and nobody in.
func Example() {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	prefix := netip.MustParsePrefix
	everything := prefix("0.0.0.0/0")

	m := must(vpc.New(vpc.Config{PublicPool: []netip.Prefix{prefix("198.51.100.128/28")}}))
	v := must(m.CreateVPC(prefix("10.0.0.0/16")))
	igw := m.CreateInternetGateway()
	check(m.AttachInternetGateway(igw.ID, v.ID))

	public := must(m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.1.0/24"), MapPublicIPOnLaunch: true}))
	outward := must(m.CreateRouteTable(v.ID))
	must(m.AssociateRouteTable(outward.ID, public.ID))
	check(m.CreateRoute(outward.ID, everything, igw.ID))
	private := must(m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.2.0/24")}))

	web := must(m.RunInstance(now, vpc.RunInstanceInput{SubnetID: public.ID}))
	db := must(m.RunInstance(now, vpc.RunInstanceInput{SubnetID: private.ID}))
	fmt.Println("web is", web.PrivateIP, "and", web.PublicIP)
	fmt.Println("db is", db.PrivateIP, "and nothing else")

	eip := must(m.AllocateAddress(now))
	gateway := must(m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: public.ID, AllocationID: eip.ID}))
	check(m.CreateRoute(v.MainRouteTableID, everything, gateway.ID))
	policy := must(m.Policy(v.ID)) // what the engine of package nat runs on
	for _, r := range policy.Routes {
		fmt.Println("from", r.Source, "1:1:", r.Static, "through the gateway:", r.Pool == gateway.ID)
	}

	err := m.ReleaseAddress(now, eip.ID)
	fmt.Println(errors.Is(err, vpc.IPAddressInUse), vpc.IPAddressInUse)
	// Output:
	// web is 10.0.1.4 and 198.51.100.128
	// db is 10.0.2.4 and nothing else
	// from 10.0.1.0/24 1:1: true through the gateway: false
	// from 10.0.2.0/24 1:1: false through the gateway: true
	// true InvalidIPAddress.InUse
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

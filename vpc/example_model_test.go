// SPDX-License-Identifier: Apache-2.0

package vpc_test

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/vpc"
)

// region is a VPC with an internet gateway and one public subnet, whose instances are lent no addresses.
func region() (m *vpc.Model, vpcID, subnetID string) {
	m = must(vpc.New(vpc.Config{PublicPool: []netip.Prefix{netip.MustParsePrefix("198.51.100.128/28")}}))
	v := must(m.CreateVPC(netip.MustParsePrefix("10.0.0.0/16")))
	igw := m.CreateInternetGateway()
	check(m.AttachInternetGateway(igw.ID, v.ID))
	check(m.CreateRoute(v.MainRouteTableID, netip.MustParsePrefix("0.0.0.0/0"), igw.ID))
	s := must(m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")}))
	return m, v.ID, s.ID
}

// A Model has no packets and an Engine no instances: after each change, the policy goes from one to the other.
func ExampleModel_Policy() {
	m, vpcID, subnetID := region()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	host := must(m.RunInstance(now, vpc.RunInstanceInput{SubnetID: subnetID}))
	engine := must(nat.New(nat.Config{}, must(m.Policy(vpcID))))
	worker := engine.Worker()
	try := func() {
		p := packet.From([]byte{ // UDP, 10.0.1.4:5000 > 192.0.2.1:53
			0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0x6d, 0xcb, 10, 0, 1, 4, 192, 0, 2, 1, 0x13, 0x88, 0, 53, 0, 8, 0, 0})
		v := worker.Translate(&p, host.Attachment, 0)
		fmt.Println(v, "from", netip.AddrFrom4([4]byte(p.Bytes()[12:16])))
	}
	try()
	eip := must(m.AllocateAddress(now))
	must(m.AssociateAddress(now, vpc.AssociateAddressInput{AllocationID: eip.ID, InstanceID: host.ID}))
	must(engine.Apply(must(m.Policy(vpcID)), 0))
	try()
	// Output:
	// no_public_path from 10.0.1.4
	// static_outbound from 198.51.100.128
}

// An Elastic IP moves from one host to another, and stays the account's.
func ExampleModel_AssociateAddress() {
	m, _, subnetID := region()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	old := must(m.RunInstance(now, vpc.RunInstanceInput{SubnetID: subnetID}))
	fresh := must(m.RunInstance(now, vpc.RunInstanceInput{SubnetID: subnetID}))
	eip := must(m.AllocateAddress(now))
	for _, host := range []string{old.ID, fresh.ID} {
		must(m.AssociateAddress(now, vpc.AssociateAddressInput{AllocationID: eip.ID, InstanceID: host}))
	}
	fmt.Println("old:", must(m.Instance(old.ID)).PublicIP, "new:", must(m.Instance(fresh.ID)).PublicIP)
	must(m.TerminateInstance(now, fresh.ID))
	fmt.Println(must(m.Address(eip.ID)).PublicIP, "is on", must(m.Address(eip.ID)).InstanceID == fresh.ID)
	// Output:
	// old: invalid IP new: 198.51.100.128
	// 198.51.100.128 is on false
}

// A refusal has the code of EC2 for programs, and says what to do for people.
func ExampleError() {
	m, _, _ := region()
	_, err := m.CreateVPC(netip.MustParsePrefix("10.0.0.0/8"))
	var refusal *vpc.Error
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Code)
		fmt.Println(refusal.Message)
	}
	fmt.Println(errors.Is(err, vpc.VPCRange))
	// Output:
	// InvalidVpc.Range
	// 10.0.0.0/8 is no IPv4 block between /16 and /28
	// true
}

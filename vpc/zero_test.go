// SPDX-License-Identifier: Apache-2.0

package vpc_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/vpc"
)

// TestZeroValues: an empty Config makes a region without public addresses, and empty inputs are refused by the code for
// what they lack.
func TestZeroValues(t *testing.T) {
	m, err := vpc.New(vpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Time{}
	for _, c := range []struct {
		name string
		call func() error
		code vpc.Code
	}{
		{"CreateVPC", func() error { _, err := m.CreateVPC(netip.Prefix{}); return err }, vpc.VPCRange},
		{"CreateSubnet", func() error { _, err := m.CreateSubnet(vpc.CreateSubnetInput{}); return err }, vpc.VPCNotFound},
		{"RunInstance", func() error { _, err := m.RunInstance(now, vpc.RunInstanceInput{}); return err }, vpc.SubnetNotFound},
		{"CreateNATGateway", func() error { _, err := m.CreateNATGateway(vpc.CreateNATGatewayInput{}); return err }, vpc.SubnetNotFound},
		{"AssociateAddress", func() error { _, err := m.AssociateAddress(now, vpc.AssociateAddressInput{}); return err }, vpc.AllocationNotFound},
		{"CreateRoute", func() error { return m.CreateRoute("", netip.Prefix{}, "") }, vpc.RouteTableNotFound},
		{"AllocateAddress", func() error { _, err := m.AllocateAddress(now); return err }, vpc.InsufficientAddressCapacity},
		{"Policy", func() error { _, err := m.Policy(""); return err }, vpc.VPCNotFound},
	} {
		if err := c.call(); !errors.Is(err, c.code) {
			t.Errorf("%s: %v, want %v", c.name, err, c.code)
		}
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
	defer func() {
		if s, _ := recover().(string); !strings.Contains(s, "not made by New") {
			t.Errorf("a Model that New did not make: %q", s)
		}
	}()
	new(vpc.Model).CreateInternetGateway()
}

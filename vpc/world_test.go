// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	t0         = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	everything = netip.MustParsePrefix("0.0.0.0/0")
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// world is a VPC 10.0.0.0/16 with an internet gateway, a public subnet 10.0.1.0/24 that lends addresses, and a private
// one, 10.0.2.0/24, on the main route table, which leads nowhere. Its instances are in a security group that allows
// everything.
type world struct {
	*Model
	t               *testing.T
	now             time.Time
	vpc             VPC
	igw             InternetGateway
	public, private Subnet
	outward         RouteTable // of the public subnet: everything to the internet gateway
	open            SecurityGroup
}

// newWorld makes one with a pool of public addresses, whose books must agree at the end.
func newWorld(t *testing.T, pool ...string) *world {
	t.Helper()
	w := newUncheckedWorld(t, pool...)
	t.Cleanup(func() { w.ok(w.Check()) })
	return w
}

func newUncheckedWorld(t *testing.T, pool ...string) *world {
	t.Helper()
	cfg := Config{Seed: 1}
	for _, p := range pool {
		cfg.PublicPool = append(cfg.PublicPool, prefix(p))
	}
	m, err := New(cfg)
	w := &world{Model: m, t: t, now: t0}
	w.ok(err)
	w.vpc = must(m.CreateVPC(prefix("10.0.0.0/16")))(t)
	w.igw = m.CreateInternetGateway()
	w.ok(m.AttachInternetGateway(w.igw.ID, w.vpc.ID))
	w.public = must(m.CreateSubnet(CreateSubnetInput{VPCID: w.vpc.ID, CIDR: prefix("10.0.1.0/24"), MapPublicIPOnLaunch: true}))(t)
	w.private = must(m.CreateSubnet(CreateSubnetInput{VPCID: w.vpc.ID, CIDR: prefix("10.0.2.0/24")}))(t)
	w.outward = must(m.CreateRouteTable(w.vpc.ID))(t)
	must(m.AssociateRouteTable(w.outward.ID, w.public.ID))(t)
	w.ok(m.CreateRoute(w.outward.ID, everything, w.igw.ID))
	w.open = must(m.CreateSecurityGroup(w.vpc.ID, "open", "everything"))(t)
	w.open = must(m.AuthorizeSecurityGroupIngress(w.open.ID, []SecurityGroupRule{{Protocol: AllProtocols, CIDR: everything}}))(t)
	return w
}

// must is the value of a call that has to succeed.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) run(s Subnet) Instance {
	w.t.Helper()
	in := RunInstanceInput{SubnetID: s.ID}
	if s.VPCID == w.vpc.ID {
		in.GroupIDs = []string{w.open.ID}
	}
	return must(w.RunInstance(w.now, in))(w.t)
}

func (w *world) allocate() Address {
	w.t.Helper()
	return must(w.AllocateAddress(w.now))(w.t)
}

func (w *world) associate(a Address, i Instance) Address {
	w.t.Helper()
	return must(w.AssociateAddress(w.now, AssociateAddressInput{AllocationID: a.ID, InstanceID: i.ID}))(w.t)
}

func (w *world) instance(i Instance) Instance {
	w.t.Helper()
	return must(w.Instance(i.ID))(w.t)
}

func (w *world) address(a Address) Address {
	w.t.Helper()
	return must(w.Address(a.ID))(w.t)
}

func (w *world) natGateway(s Subnet, a Address) NATGateway {
	w.t.Helper()
	return must(w.CreateNATGateway(CreateNATGatewayInput{SubnetID: s.ID, AllocationID: a.ID}))(w.t)
}

// refused asserts that a call fails with the code and leaves no trace.
func (w *world) refused(want Code, call func() error) {
	w.t.Helper()
	before := w.snapshot()
	err := call()
	if !errors.Is(err, want) {
		w.t.Errorf("got %v, want %s", err, want)
	}
	var e *Error
	if !errors.As(err, &e) || e.Message == "" {
		w.t.Errorf("%v is no *Error with a message", err)
	}
	if after := w.snapshot(); after != before {
		w.t.Errorf("the refused call left a trace:\n%s\n%s", before, after)
	}
}

// snapshot is everything in the model: its fields are values, and maps are printed in the order of their keys.
func (m *Model) snapshot() string { return fmt.Sprintf("%+v", *m) }

// second drops the first result of a call.
func second[T any](_ T, err error) error { return err }

// equal asserts equality, and says of what.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	pool     = netip.MustParsePrefix("198.51.100.0/28")
	internet = netip.MustParseAddr("203.0.113.9")
)

// bed is a region with a cloud.
type bed struct {
	*testing.T
	path  string
	store *region.Store
	r     *region.Region
	c     *Cloud
}

// newBed makes one, or returns nil where the process may not; then it has checked that the error says so.
func newBed(t *testing.T) *bed {
	b := &bed{T: t, path: filepath.Join(t.TempDir(), "state")}
	if os.Geteuid() != 0 {
		if _, err := New(Options{Internet: internet}); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without root: %v", err)
		}
		return nil
	}
	b.open()
	t.Cleanup(func() { b.close() })
	return b
}

func (b *bed) open() {
	b.Helper()
	var err error
	if b.store, err = region.OpenStore(b.path); err != nil {
		b.Fatal(err)
	}
	if b.c, err = New(Options{Engine: nat.Config{Sessions: 1024, FragmentBytes: 1 << 20}, Internet: internet, InsideMTU: 9001, OutsideMTU: 1500}); err != nil {
		b.Fatal(err)
	}
	b.r, err = region.Open(region.Options{
		Config:  vpc.Config{Seed: 7, PublicPool: []netip.Prefix{pool}, InsideMTU: 9001, OutsideMTU: 1500},
		Journal: b.store, Engines: b.c, Observe: b.c.Observe,
	})
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) close() {
	b.Helper()
	if err := errors.Join(b.c.Err(), b.c.Close(), b.store.Close()); err != nil {
		b.Error(err)
	}
}

// do makes a change.
func do[T any](b *bed, f func(m *vpc.Model, now time.Time) (T, error)) T {
	b.Helper()
	r, err := b.r.Change(func(m *vpc.Model, now time.Time) (any, error) { return f(m, now) })
	if err != nil {
		b.Fatal(err)
	}
	return r.Value.(T)
}

func (b *bed) ok(f func(m *vpc.Model, now time.Time) error) {
	b.Helper()
	do(b, func(m *vpc.Model, now time.Time) (struct{}, error) { return struct{}{}, f(m, now) })
}

var all = netip.MustParsePrefix("0.0.0.0/0")

// site is a VPC with a public and a private subnet.
type site struct {
	vpc             vpc.VPC
	public, private vpc.Subnet
	open            vpc.SecurityGroup
	privateTable    string
}

func (b *bed) network(cidr string) (n site) {
	b.Helper()
	b.ok(func(m *vpc.Model, _ time.Time) (err error) {
		p := netip.MustParsePrefix(cidr)
		four := p.Addr().As4()
		sub := func(third byte) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{four[0], four[1], third, 0}), 24)
		}
		if n.vpc, err = m.CreateVPC(p); err != nil {
			return err
		}
		g := m.CreateInternetGateway()
		t, err := m.CreateRouteTable(n.vpc.ID)
		if err != nil {
			return err
		}
		n.privateTable = t.ID
		var err1, err2, err3, err4, err5 error
		n.public, err1 = m.CreateSubnet(vpc.CreateSubnetInput{VPCID: n.vpc.ID, CIDR: sub(1), MapPublicIPOnLaunch: true})
		n.private, err2 = m.CreateSubnet(vpc.CreateSubnetInput{VPCID: n.vpc.ID, CIDR: sub(2)})
		n.open, err3 = m.CreateSecurityGroup(n.vpc.ID, "open", "all")
		_, err4 = m.AuthorizeSecurityGroupIngress(n.open.ID, []vpc.SecurityGroupRule{{Protocol: vpc.AllProtocols, CIDR: all}})
		_, err5 = m.AssociateRouteTable(t.ID, n.private.ID)
		return errors.Join(err1, err2, err3, err4, err5, m.AttachInternetGateway(g.ID, n.vpc.ID), m.CreateRoute(n.vpc.MainRouteTableID, all, g.ID))
	})
	return n
}

func (b *bed) run(s vpc.Subnet, groups ...string) vpc.Instance {
	b.Helper()
	return do(b, func(m *vpc.Model, now time.Time) (vpc.Instance, error) {
		return m.RunInstance(now, vpc.RunInstanceInput{SubnetID: s.ID, GroupIDs: groups})
	})
}

func (b *bed) instance(i vpc.Instance) (now vpc.Instance) {
	b.Helper()
	b.r.View(func(m *vpc.Model) {
		var err error
		if now, err = m.Instance(i.ID); err != nil {
			b.Fatal(err)
		}
	})
	return now
}

func (b *bed) host(i vpc.Instance) *lab.Host {
	b.Helper()
	h, _ := b.c.Host(i.ID)
	if h == nil {
		b.Fatalf("%s is no machine", i.ID)
	}
	return h
}

// serve has a host tell everybody at a TCP port who they are.
func (b *bed) serve(h *lab.Host, port int) {
	b.Helper()
	l, err := h.Listen("tcp4", fmt.Sprint(":", port))
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	b.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			who, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, who)
			c.Close()
		}
	}()
}

// asks is who h is to a server, or why it gets no answer.
func asks(h *lab.Host, to netip.Addr, port uint16, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(to, port).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(c)
	return string(answer), err
}

func (b *bed) is(h *lab.Host, to netip.Addr, want netip.Addr) {
	b.Helper()
	if got, err := asks(h, to, 80, 5*time.Second); err != nil || got != want.String() {
		b.Errorf("%s to %v: is %q, %v; want %v", h.Name(), to, got, err, want)
	}
}

// silence is a request that gets no answer: what would come has come by then, since all is on one machine.
func (b *bed) silence(h *lab.Host, to netip.Addr) {
	b.Helper()
	if got, err := asks(h, to, 80, 300*time.Millisecond); err == nil {
		b.Errorf("%s to %v: is %q; want no answer", h.Name(), to, got)
	}
}

func TestCloudStory(t *testing.T) {
	b := newBed(t)
	if b == nil {
		return
	}
	n := b.network("10.0.0.0/16")
	web, db := b.run(n.public, n.open.ID), b.run(n.private, n.open.ID)
	around := b.c.InternetHost()
	b.serve(around, 80)
	b.serve(b.host(web), 80)
	b.serve(b.host(db), 80)

	if got, err := b.host(web).ReadFile("/proc/sys/kernel/hostname"); err != nil || strings.TrimSpace(string(got)) != "ip-10-0-1-4" {
		t.Errorf("it calls itself %q, %v", got, err)
	}
	b.is(b.host(web), internet, web.PublicIP)
	b.is(around, web.PublicIP, internet)
	b.is(b.host(db), web.PrivateIP, db.PrivateIP)
	b.is(b.host(db), db.PrivateIP, db.PrivateIP) // loopback
	b.silence(b.host(db), internet)              // apt update hangs
	b.silence(around, db.PrivateIP)

	// An Elastic IP lets it out, and everybody in.
	eip := do(b, func(m *vpc.Model, now time.Time) (vpc.Address, error) { return m.AllocateAddress(now) })
	b.ok(func(m *vpc.Model, now time.Time) error {
		var igw string
		for _, g := range m.DescribeInternetGateways() {
			igw = g.ID
		}
		return m.CreateRoute(n.privateTable, all, igw)
	})
	attach := func(i vpc.Instance) vpc.Address {
		return do(b, func(m *vpc.Model, now time.Time) (vpc.Address, error) {
			return m.AssociateAddress(now, vpc.AssociateAddressInput{AllocationID: eip.ID, InstanceID: i.ID})
		})
	}
	a := attach(db)
	b.is(b.host(db), internet, a.PublicIP)
	b.is(around, a.PublicIP, internet)
	attach(web) // it moves
	b.silence(b.host(db), internet)
	b.is(b.host(web), internet, a.PublicIP)

	// A NAT gateway lets it out, and nobody in.
	second := do(b, func(m *vpc.Model, now time.Time) (vpc.Address, error) { return m.AllocateAddress(now) })
	gateway := do(b, func(m *vpc.Model, now time.Time) (vpc.NATGateway, error) {
		g, err := m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: n.public.ID, AllocationID: second.ID})
		if err != nil {
			return g, err
		}
		return g, m.ReplaceRoute(n.privateTable, all, g.ID)
	})
	b.is(b.host(db), internet, gateway.Addresses[0].PublicIP)
	b.silence(around, gateway.Addresses[0].PublicIP)
	b.is(b.host(db), a.PublicIP, gateway.Addresses[0].PublicIP) // out, and in again to its neighbour

	// A security group at run time.
	closed := do(b, func(m *vpc.Model, now time.Time) (vpc.SecurityGroup, error) {
		g, err := m.CreateSecurityGroup(n.vpc.ID, "closed", "nothing comes in")
		if err != nil {
			return g, err
		}
		return g, m.ModifyNetworkInterfaceAttribute(web.NetworkInterfaceID, []string{g.ID})
	})
	b.silence(around, a.PublicIP)
	b.is(b.host(web), internet, a.PublicIP)
	do(b, func(m *vpc.Model, now time.Time) (vpc.SecurityGroup, error) {
		return m.AuthorizeSecurityGroupIngress(closed.ID, []vpc.SecurityGroupRule{{Protocol: 6, FromPort: 80, ToPort: 80, CIDR: netip.PrefixFrom(internet, 32)}})
	})
	b.is(around, a.PublicIP, internet)
	b.silence(b.host(db), web.PrivateIP)
}

func TestCloudComesAndGoes(t *testing.T) {
	b := newBed(t)
	if b == nil {
		return
	}
	n := b.network("10.0.0.0/16")
	i := b.run(n.public, n.open.ID)
	around := b.c.InternetHost()
	b.serve(around, 80)
	b.is(b.host(i), internet, i.PublicIP)

	do(b, func(m *vpc.Model, now time.Time) (vpc.Instance, error) { return m.StopInstance(now, i.ID) })
	if _, runs := b.c.Host(i.ID); runs || b.instance(i).PublicIP.IsValid() {
		t.Error("it is stopped, and runs or has its address")
	}
	b.silence(b.host(i), internet)
	do(b, func(m *vpc.Model, now time.Time) (vpc.Instance, error) { return m.StartInstance(now, i.ID) })
	again := b.instance(i).PublicIP
	if again == i.PublicIP || !again.IsValid() {
		t.Errorf("it has %v, and had %v", again, i.PublicIP)
	}
	b.is(b.host(i), internet, again)

	// More addresses, and a second network interface.
	more := do(b, func(m *vpc.Model, now time.Time) (vpc.NetworkInterface, error) {
		return m.AssignPrivateIPAddresses(i.NetworkInterfaceID, nil, 1)
	})
	card := do(b, func(m *vpc.Model, now time.Time) (vpc.NetworkInterface, error) {
		c, err := m.CreateNetworkInterface(vpc.CreateNetworkInterfaceInput{SubnetID: n.private.ID, GroupIDs: []string{n.open.ID}})
		if err != nil {
			return c, err
		}
		return m.AttachNetworkInterface(vpc.AttachNetworkInterfaceInput{NetworkInterfaceID: c.ID, InstanceID: i.ID, DeviceIndex: 1})
	})
	other := b.run(n.public, n.open.ID)
	b.serve(b.host(i), 80)
	for _, ip := range []netip.Addr{i.PrivateIP, more.Addresses[1].PrivateIP, card.Addresses[0].PrivateIP} {
		b.is(b.host(other), ip, other.PrivateIP)
	}
	b.ok(func(m *vpc.Model, now time.Time) error {
		return m.UnassignPrivateIPAddresses(i.NetworkInterfaceID, []netip.Addr{more.Addresses[1].PrivateIP})
	})
	b.silence(b.host(other), more.Addresses[1].PrivateIP)

	// Two VPCs with the same addresses, each with its own.
	n2 := b.network("10.0.0.0/16")
	twin := b.run(n2.public, n2.open.ID)
	if twin.PrivateIP != i.PrivateIP {
		t.Fatalf("%v and %v", twin.PrivateIP, i.PrivateIP)
	}
	b.is(b.host(twin), internet, twin.PublicIP)
	b.is(b.host(twin), again, twin.PublicIP) // from one VPC to a public address of the other
	b.is(b.host(i), internet, again)

	// The end of an instance, and of the process.
	do(b, func(m *vpc.Model, now time.Time) (vpc.Instance, error) { return m.TerminateInstance(now, other.ID) })
	if h, _ := b.c.Host(other.ID); h != nil {
		t.Error("a terminated instance is a machine")
	}
	stopped := do(b, func(m *vpc.Model, now time.Time) (vpc.Instance, error) { return m.StopInstance(now, twin.ID) })
	b.close()
	b.open()
	b.serve(b.c.InternetHost(), 80)
	if now := b.instance(i); now.PublicIP != again {
		t.Errorf("after a restart it has %v", now.PublicIP)
	}
	b.is(b.host(i), internet, again)
	if _, runs := b.c.Host(stopped.ID); runs {
		t.Error("a stopped instance runs after a restart")
	}
	b.silence(b.host(stopped), internet)
}

// Two VPCs that share a transit gateway reach one another by private addresses; a private NAT gateway hides one of them.
func TestCloudTransit(t *testing.T) {
	b := newBed(t)
	if b == nil {
		return
	}
	n, peer := b.network("10.0.0.0/16"), b.network("10.1.0.0/16")
	i, p := b.run(n.private, n.open.ID), b.run(peer.private, peer.open.ID)
	b.serve(b.host(p), 80)
	b.serve(b.host(i), 80)
	b.silence(b.host(i), p.PrivateIP)
	var tgw vpc.TransitGateway
	b.ok(func(m *vpc.Model, now time.Time) error {
		tgw = m.CreateTransitGateway()
		_, err1 := m.CreateTransitGatewayVPCAttachment(tgw.ID, n.vpc.ID)
		_, err2 := m.CreateTransitGatewayVPCAttachment(tgw.ID, peer.vpc.ID)
		return errors.Join(err1, err2, m.CreateRoute(n.privateTable, peer.vpc.CIDRs[0], tgw.ID), m.CreateRoute(peer.privateTable, n.vpc.CIDRs[0], tgw.ID),
			m.CreateRoute(n.vpc.MainRouteTableID, peer.vpc.CIDRs[0], tgw.ID))
	})
	b.is(b.host(i), p.PrivateIP, i.PrivateIP)
	b.is(b.host(p), i.PrivateIP, p.PrivateIP)
	g := do(b, func(m *vpc.Model, now time.Time) (vpc.NATGateway, error) {
		g, err := m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: n.public.ID, ConnectivityType: vpc.PrivateNAT})
		if err != nil {
			return g, err
		}
		return g, m.ReplaceRoute(n.privateTable, peer.vpc.CIDRs[0], g.ID)
	})
	b.is(b.host(i), p.PrivateIP, g.Addresses[0].PrivateIP)
	// The internet is not the way in, with whatever source.
	b.silence(b.c.InternetHost(), p.PrivateIP)
}

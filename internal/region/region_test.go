// SPDX-License-Identifier: Apache-2.0

package region

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/vpctest"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/vpc"
)

var everything = netip.MustParsePrefix("0.0.0.0/0")

// faulty is a journal and engines that fail when they are told to, and write down what they are asked.
type faulty struct {
	*EngineSet
	Journal
	commit, preview, apply, remove error
	log                            []string
}

func (f *faulty) Commit(records []vpc.Record) error {
	f.log = append(f.log, "commit")
	if f.commit != nil {
		return f.commit
	}
	return f.Journal.Commit(records)
}

func (f *faulty) Preview(id string, p *nat.Policy) (nat.Impact, error) {
	if f.preview != nil {
		return nat.Impact{}, f.preview
	}
	return f.EngineSet.Preview(id, p)
}

func (f *faulty) Apply(id string, p *nat.Policy) (nat.Impact, error) {
	if f.apply != nil {
		return nat.Impact{}, f.apply
	}
	var has []string
	for _, s := range p.Static {
		has = append(has, s.Outside.String())
	}
	f.log = append(f.log, fmt.Sprintf("%s has %v", id, has))
	return f.EngineSet.Apply(id, p)
}

func (f *faulty) Remove(id string) (nat.Impact, error) {
	if f.remove != nil {
		return nat.Impact{}, f.remove
	}
	f.log = append(f.log, id+" is gone")
	return f.EngineSet.Remove(id)
}

// bed is a region in a file, with two VPCs of the same addresses, an internet gateway and a running instance each.
type bed struct {
	*Region
	t        *testing.T
	f        *faulty
	path     string
	now      time.Time
	vpcs     [2]vpc.VPC
	hosts    [2]vpc.Instance
	subnets  [2]vpc.Subnet
	gateways [2]vpc.InternetGateway
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, f: &faulty{EngineSet: small()}, path: filepath.Join(t.TempDir(), "state"), now: start}
	b.open()
	for i := range b.vpcs {
		b.must(func(m *vpc.Model, now time.Time) (any, error) {
			v, err := m.CreateVPC(netip.MustParsePrefix("10.0.0.0/16"))
			b.vpcs[i], b.gateways[i] = v, m.CreateInternetGateway()
			err = errors.Join(err, m.AttachInternetGateway(b.gateways[i].ID, v.ID), m.CreateRoute(v.MainRouteTableID, everything, b.gateways[i].ID))
			s, err2 := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: netip.MustParsePrefix("10.0.1.0/24")})
			b.subnets[i] = s
			var err3 error
			b.hosts[i], err3 = m.RunInstance(now, vpc.RunInstanceInput{SubnetID: s.ID})
			return nil, errors.Join(err, err2, err3)
		})
	}
	return b
}

// open opens the file, as at the first start or at a later one.
func (b *bed) open() {
	b.t.Helper()
	s, err := OpenStore(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = s.Close() }) // it may have been closed before
	b.f.Journal = s
	if b.Region, err = Open(Options{Config: testConfig(), Journal: b.f, Engines: b.f, Now: func() time.Time { return b.now }}); err != nil {
		b.t.Fatal(err)
	}
}

// reopen closes the file and opens it again, with engines that know nothing.
func (b *bed) reopen() {
	b.t.Helper()
	if err := b.f.Journal.(*Store).Close(); err != nil {
		b.t.Fatal(err)
	}
	b.f = &faulty{EngineSet: small()}
	b.open()
}

func (b *bed) must(call Call) Result {
	b.t.Helper()
	r, err := b.Change(call)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bed) print() (s string) {
	b.View(func(m *vpc.Model) { s = vpctest.Print(m) + vpctest.Future(m, b.now, 1) })
	return s
}

func allocate(m *vpc.Model, now time.Time) (any, error) { return m.AllocateAddress(now) }

func associate(a vpc.Address, i vpc.Instance) Call {
	return func(m *vpc.Model, now time.Time) (any, error) {
		return m.AssociateAddress(now, vpc.AssociateAddressInput{AllocationID: a.ID, InstanceID: i.ID})
	}
}

// datagram is a UDP packet from port 5000 to port 53, with a checksum of 0, which is none.
func datagram(src, dst netip.Addr) []byte {
	raw := make([]byte, 28)
	copy(raw, []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17})
	copy(raw[12:], src.AsSlice())
	copy(raw[16:], dst.AsSlice())
	copy(raw[20:], []byte{0x13, 0x88, 0, 53, 0, 8, 0, 0})
	binary.BigEndian.PutUint16(raw[10:], packet.Checksum(raw[:20]))
	return raw
}

// remote is a host on the internet.
var remote = netip.MustParseAddr("192.0.2.9")

// leaves is the source that a packet of a host has outside, invalid if it does not get there.
func (b *bed) leaves(i int) netip.Addr {
	p := packet.From(datagram(b.hosts[i].PrivateIP, remote))
	e := b.f.Engine(b.vpcs[i].ID)
	if v := e.Worker().Translate(&p, b.hosts[i].Attachment, 0); !v.Forward() {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(p.Bytes()[12:]))
}

// Whatever the reason for which a change does not come about, there is no trace of it: not in what the region says, nor
// in its file, nor in its engines.
func TestChange_RefusedLeavesNoTrace(t *testing.T) {
	b := newBed(t)
	disk := errors.New("no space left on device")
	for _, c := range []struct {
		name string
		plan func()
		call Call
		want error
	}{
		{"by the model", func() {}, func(m *vpc.Model, now time.Time) (any, error) { return nil, m.ReleaseAddress(now, "eipalloc-0") }, vpc.AllocationNotFound},
		{"by the model, half way", func() {}, func(m *vpc.Model, now time.Time) (any, error) {
			if _, err := m.AllocateAddress(now); err != nil {
				return nil, err
			}
			return nil, m.DeleteVPC("vpc-0")
		}, vpc.VPCNotFound},
		{"by an engine", func() { b.f.preview = errors.New("no") }, func(m *vpc.Model, now time.Time) (any, error) {
			return m.StopInstance(now, b.hosts[0].ID)
		}, ErrPolicy},
		{"by the disk", func() { b.f.commit = disk }, allocate, ErrNotSaved},
		{"by the disk, which says why", func() { b.f.commit = disk }, allocate, disk},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := b.print()
			b.f.log = nil
			c.plan()
			_, err := b.Change(c.call)
			b.f.preview, b.f.commit = nil, nil
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if b.print() != before {
				t.Error("the region is another one")
			}
			if b.f.log = slices.DeleteFunc(b.f.log, func(s string) bool { return s == "commit" }); len(b.f.log) > 0 {
				t.Errorf("the engines were asked: %v", b.f.log)
			}
			b.reopen()
			if b.print() != before {
				t.Error("the file has another one")
			}
		})
	}
}

// A dry run answers as the change would, and changes nothing.
func TestChange_DryRun(t *testing.T) {
	b := newBed(t)
	before := b.print()
	b.f.log = nil
	dry, err := b.DryRun(allocate)
	if err != nil || b.print() != before || len(b.f.log) > 0 {
		t.Fatalf("%v, %v, or the region is another one", err, b.f.log)
	}
	if got := b.must(allocate); got.Value != dry.Value || len(got.Impact) != len(dry.Impact) {
		t.Errorf("the change gives %+v, its dry run gave %+v", got, dry)
	}
	if _, err := b.DryRun(func(m *vpc.Model, now time.Time) (any, error) { return nil, m.ReleaseAddress(now, "") }); !errors.Is(err, vpc.AllocationNotFound) {
		t.Errorf("a dry run of what is refused: %v", err)
	}
}

// EIP-8: an address that moves from one VPC to another is withdrawn before it is published, both ways at once if need be.
func TestEIP8_WithdrawnThenPublished(t *testing.T) {
	b := newBed(t)
	one := b.must(allocate).Value.(vpc.Address)
	two := b.must(allocate).Value.(vpc.Address)
	b.must(associate(one, b.hosts[0]))
	b.must(associate(two, b.hosts[1]))
	for i, want := range []netip.Addr{one.PublicIP, two.PublicIP} {
		if got := b.leaves(i); got != want {
			t.Errorf("host %d leaves as %v, want %v", i, got, want)
		}
	}
	has := func(i int, ips ...netip.Addr) string { return fmt.Sprintf("%s has %v", b.vpcs[i].ID, ips) }
	// Two moves in one change.
	swap := func(m *vpc.Model, now time.Time) (any, error) {
		_, err := associate(one, b.hosts[1])(m, now)
		if err != nil {
			return nil, err
		}
		return associate(two, b.hosts[0])(m, now)
	}
	b.f.log = nil
	b.must(swap)
	want := []string{"commit", has(0), has(1), has(0, two.PublicIP), has(1, one.PublicIP)}
	if slices.Sort(want[1:3]); b.vpcs[0].ID > b.vpcs[1].ID {
		want[3], want[4] = want[4], want[3]
	}
	if !slices.Equal(b.f.log, want) {
		t.Errorf("the swap was\n%s\nwant\n%s", strings.Join(b.f.log, "\n"), strings.Join(want, "\n"))
	}
	b.f.log = nil
	b.must(associate(one, b.hosts[0]))
	want = []string{"commit", has(1), has(0, one.PublicIP)}
	if !slices.Equal(b.f.log, want) {
		t.Errorf("the move was\n%s\nwant\n%s", strings.Join(b.f.log, "\n"), strings.Join(want, "\n"))
	}
	if b.leaves(0) != one.PublicIP || b.leaves(1).IsValid() {
		t.Errorf("the hosts leave as %v and %v", b.leaves(0), b.leaves(1))
	}
}

// An engine that fails after the change was saved: that is said, nobody gets what could not be withdrawn, and the next
// change puts it right.
func TestChange_NotInForce(t *testing.T) {
	b := newBed(t)
	a := b.must(allocate).Value.(vpc.Address)
	b.must(associate(a, b.hosts[0]))
	b.f.apply = errors.New("the device is gone")
	_, err := b.Change(associate(a, b.hosts[1]))
	b.f.apply = nil
	if !errors.Is(err, ErrNotInForce) {
		t.Errorf("got %v, want %v", err, ErrNotInForce)
	}
	if b.leaves(0) != a.PublicIP || b.leaves(1).IsValid() {
		t.Errorf("the hosts leave as %v and %v", b.leaves(0), b.leaves(1))
	}
	b.must(func(*vpc.Model, time.Time) (any, error) { return nil, nil })
	if b.leaves(0).IsValid() || b.leaves(1) != a.PublicIP {
		t.Errorf("then the hosts leave as %v and %v", b.leaves(0), b.leaves(1))
	}
}

// What a change does to sessions is in its result, and in that of its dry run; a VPC that goes ends all it has.
func TestChange_Impact(t *testing.T) {
	b := newBed(t)
	a := b.must(allocate).Value.(vpc.Address)
	var gateway vpc.NATGateway
	b.must(func(m *vpc.Model, now time.Time) (any, error) {
		s, err := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: b.vpcs[0].ID, CIDR: netip.MustParsePrefix("10.0.2.0/24")})
		if err != nil {
			return nil, err
		}
		t, err := m.CreateRouteTable(b.vpcs[0].ID)
		if err != nil {
			return nil, err
		}
		if gateway, err = m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: s.ID, AllocationID: a.ID}); err != nil {
			return nil, err
		}
		_, err = m.AssociateRouteTable(t.ID, s.ID)
		return nil, errors.Join(err, m.CreateRoute(t.ID, everything, b.gateways[0].ID), m.ReplaceRoute(b.vpcs[0].MainRouteTableID, everything, gateway.ID))
	})
	if got := b.leaves(0); got != a.PublicIP {
		t.Fatalf("the host leaves as %v", got)
	}
	remove := func(m *vpc.Model, now time.Time) (any, error) { return nil, m.DeleteNATGateway(gateway.ID) }
	for _, f := range []func(Call) (Result, error){b.DryRun, b.Change} {
		r, err := f(remove)
		if got := r.Impact[b.vpcs[0].ID]; err != nil || got != (nat.Impact{Cut: 1}) {
			t.Errorf("%v, %+v", err, r.Impact)
		}
	}
	b.f.log = nil
	b.must(func(m *vpc.Model, now time.Time) (any, error) {
		_, err := m.TerminateInstance(now, b.hosts[1].ID)
		return nil, errors.Join(err, m.DeleteSubnet(b.subnets[1].ID), m.DetachInternetGateway(b.gateways[1].ID, b.vpcs[1].ID), m.DeleteVPC(b.vpcs[1].ID))
	})
	if want := []string{"commit", b.vpcs[1].ID + " is gone"}; !slices.Equal(b.f.log, want) || b.f.Engine(b.vpcs[1].ID) != nil {
		t.Errorf("%v, want %v", b.f.log, want)
	}
	before := b.print()
	b.reopen()
	if b.print() != before || b.f.Engine(b.vpcs[0].ID) == nil || b.f.Engine(b.vpcs[1].ID) != nil {
		t.Error("after a restart it is another region")
	}
}

// NGW-8: a drain that is over ends with Advance, or with any change; a refused one does not end it for good.
func TestNGW8_DrainsEnd(t *testing.T) {
	b := newBed(t)
	one, two := b.must(allocate).Value.(vpc.Address), b.must(allocate).Value.(vpc.Address)
	g := b.must(func(m *vpc.Model, _ time.Time) (any, error) {
		return m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: b.subnets[0].ID, AllocationID: one.ID, SecondaryAllocationIDs: []string{two.ID}})
	}).Value.(vpc.NATGateway)
	if next, err := b.Advance(); err != nil || !next.IsZero() {
		t.Errorf("nothing drains: %v, %v", next, err)
	}
	drain := func(m *vpc.Model, now time.Time) (any, error) {
		return m.DisassociateNATGatewayAddress(now, g.ID, []string{g.Addresses[1].AssociationID}, time.Minute)
	}
	release := func(m *vpc.Model, now time.Time) (any, error) { return nil, m.ReleaseAddress(now, two.ID) }
	b.must(drain)
	if next, err := b.Advance(); err != nil || !next.Equal(start.Add(time.Minute)) {
		t.Errorf("the drain ends at %v, %v", next, err)
	}
	if _, err := b.Change(release); !errors.Is(err, vpc.IPAddressInUse) {
		t.Errorf("released while it drains: %v", err)
	}
	b.reopen() // it goes on
	b.now = start.Add(time.Minute)
	if _, err := b.Change(func(m *vpc.Model, now time.Time) (any, error) { return nil, m.DeleteVPC("") }); !errors.Is(err, vpc.VPCNotFound) {
		t.Error(err)
	}
	if next, err := b.Advance(); err != nil || !next.IsZero() {
		t.Errorf("it is over: %v, %v", next, err)
	}
	b.must(release)
}

// The model never sees time step back.
func TestChange_TimeDoesNotStepBack(t *testing.T) {
	b := newBed(t)
	var seen []time.Time
	look := func(_ *vpc.Model, now time.Time) (any, error) { seen = append(seen, now); return nil, nil }
	b.must(look)
	b.now = start.Add(-time.Hour)
	b.must(look)
	if !seen[0].Equal(start) || !seen[1].Equal(start) {
		t.Error(seen)
	}
}

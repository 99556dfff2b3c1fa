// SPDX-License-Identifier: Apache-2.0

package region

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/vpctest"
	"github.com/tidegate/tidegate/vpc"
)

// goldenTime is when golden files are begun to be written, as far as they know; they are read a year later.
var (
	goldenTime = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	readTime   = goldenTime.AddDate(1, 0, 0)
)

// said is what a golden file says, apart from policies, which later versions may make better: all objects, and the id and
// the address that come next.
func said(t *testing.T, m *vpc.Model) []byte {
	t.Helper()
	next := m.Clone()
	v, err := next.CreateVPC(m.DescribeVPCs()[0].CIDRs[0])
	nextVPC := fmt.Sprint(v.ID, err)
	a, err := next.AllocateAddress(readTime)
	nextAddress := fmt.Sprint(a.PublicIP, err)
	b, err := json.MarshalIndent(map[string]any{
		"VPCs": m.DescribeVPCs(), "Subnets": m.DescribeSubnets(), "RouteTables": m.DescribeRouteTables(), "InternetGateways": m.DescribeInternetGateways(),
		"Instances": m.DescribeInstances(), "NetworkInterfaces": m.DescribeNetworkInterfaces(), "Addresses": m.DescribeAddresses(),
		"NATGateways": m.DescribeNATGateways(), "TransitGateways": m.DescribeTransitGateways(),
		"TransitGatewayVPCAttachments": m.DescribeTransitGatewayVPCAttachments(), "SecurityGroups": m.DescribeSecurityGroups(),
		"NextVPC": nextVPC, "NextAddress": nextAddress,
	}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// lost names what is in want and not in got, or is different there. What got has beyond is of a later version.
func lost(path string, want, got any) []string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: %v, was an object", path, got)}
		}
		var faults []string
		for k, v := range w {
			if now, ok := g[k]; ok {
				faults = append(faults, lost(path+"."+k, v, now)...)
			} else {
				faults = append(faults, path+"."+k+" is gone")
			}
		}
		return faults
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return []string{fmt.Sprintf("%s: %v, were %d", path, got, len(w))}
		}
		var faults []string
		for i := range w {
			faults = append(faults, lost(fmt.Sprintf("%s[%d]", path, i), w[i], g[i])...)
		}
		return faults
	}
	if want != got {
		return []string{fmt.Sprintf("%s: %v, was %v", path, got, want)}
	}
	return nil
}

func parsed(t *testing.T, b []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// openCopy opens a copy of a golden file as a region; the caller closes the store.
func openCopy(t *testing.T, file []byte) (*Region, *Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it may have been closed before
	r, err := Open(Options{Config: testConfig(), Journal: s, Engines: small(), Now: func() time.Time { return readTime }})
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

// TestState_OfEarlierVersions: what any version has written says the same in this one, and can be changed. See
// testdata/README.md for how a file is added.
func TestState_OfEarlierVersions(t *testing.T) {
	current := filepath.Join("testdata", fmt.Sprintf("state-v%d.db", storeVersion))
	if os.Getenv("TIDEGATE_GOLDEN") == "write" {
		writeGolden(t, current)
	}
	files, err := filepath.Glob("testdata/state-v*.db")
	if err != nil || !slices.Contains(files, current) {
		t.Fatalf("there is no %s, only %v (%v)", current, files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			file, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			golden, err := os.ReadFile(strings.TrimSuffix(name, ".db") + ".json")
			if err != nil {
				t.Fatal(err)
			}
			r, s := openCopy(t, file)
			r.View(func(m *vpc.Model) {
				for _, fault := range lost("", parsed(t, golden), parsed(t, said(t, m))) {
					t.Error(fault)
				}
			})
			if _, err := r.Change(allocate); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if file, err = os.ReadFile(s.path); err != nil {
				t.Fatal(err)
			}
			again, _ := openCopy(t, file)
			var before, after string
			r.View(func(m *vpc.Model) { before = vpctest.Print(m) + vpctest.Future(m, readTime, 1) })
			again.View(func(m *vpc.Model) { after = vpctest.Print(m) + vpctest.Future(m, readTime, 1) })
			if before != after {
				t.Error("it is another one after a change")
			}
		})
	}
	// A fault would be found.
	a, b := parsed(t, []byte(`{"A":[{"ID":"1","N":[1]}]}`)), parsed(t, []byte(`{"A":[{"ID":"1","N":[1],"New":true}],"B":[]}`))
	if f := lost("", a, b); len(f) != 0 {
		t.Error(f)
	}
	for _, s := range []string{`{"A":[{"ID":"2","N":[1]}]}`, `{"A":[{"ID":"1"}]}`, `{"A":[]}`, `{"A":[{"ID":"1","N":null}]}`, `[]`} {
		if len(lost("", a, parsed(t, []byte(s)))) != 1 {
			t.Errorf("%s: not found", s)
		}
	}
}

// goldenKinds is how many kinds of records there are.
const goldenKinds = 13

// oneOfEach makes objects of all kinds, in more than one state.
func oneOfEach(m *vpc.Model, now time.Time) (_ any, err error) {
	p := netip.MustParsePrefix
	check := func(more ...error) { err = errors.Join(append(more, err)...) }
	v, e := m.CreateVPC(p("10.0.0.0/16"))
	_, e2 := m.AssociateVPCCIDRBlock(v.ID, p("10.1.0.0/16"))
	igw, transit := m.CreateInternetGateway(), m.CreateTransitGateway()
	_, e3 := m.CreateTransitGatewayVPCAttachment(transit.ID, v.ID)
	check(e, e2, m.AttachInternetGateway(igw.ID, v.ID), e3)
	public, e := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: p("10.0.1.0/24"), MapPublicIPOnLaunch: true})
	private, e2 := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: p("10.0.2.0/24")})
	table, e3 := m.CreateRouteTable(v.ID)
	_, e4 := m.AssociateRouteTable(table.ID, private.ID)
	check(e, e2, e3, e4, m.CreateRoute(v.MainRouteTableID, everything, igw.ID), m.CreateRoute(table.ID, p("192.168.0.0/16"), transit.ID))

	var eips []vpc.Address
	for range 5 {
		a, e := m.AllocateAddress(now)
		check(e)
		eips = append(eips, a)
	}
	check(m.ReleaseAddress(now, eips[4].ID))
	g, e := m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: public.ID, AllocationID: eips[0].ID, SecondaryAllocationIDs: []string{eips[1].ID}})
	check(e)
	_, e = m.DisassociateNATGatewayAddress(now, g.ID, []string{g.Addresses[1].AssociationID}, time.Hour)
	_, e2 = m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: private.ID, ConnectivityType: vpc.PrivateNAT})
	check(e, e2, m.CreateRoute(table.ID, everything, g.ID))

	group, e := m.CreateSecurityGroup(v.ID, "web", "what the internet may ask for")
	_, e2 = m.AuthorizeSecurityGroupIngress(group.ID, []vpc.SecurityGroupRule{
		{Protocol: 6, FromPort: 80, ToPort: 443, CIDR: everything}, {Protocol: 1, FromPort: 8, ToPort: vpc.AnyICMP, GroupID: group.ID},
	})
	web, e3 := m.RunInstance(now, vpc.RunInstanceInput{SubnetID: public.ID, GroupIDs: []string{group.ID}})
	_, e4 = m.AssociateAddress(now, vpc.AssociateAddressInput{AllocationID: eips[2].ID, InstanceID: web.ID})
	check(e, e2, e3, e4)
	for _, end := range []func(time.Time, string) (vpc.Instance, error){m.StopInstance, m.TerminateInstance} {
		i, e := m.RunInstance(now, vpc.RunInstanceInput{SubnetID: public.ID})
		_, e2 := end(now, i.ID)
		check(e, e2)
	}
	n, e := m.CreateNetworkInterface(vpc.CreateNetworkInterfaceInput{SubnetID: private.ID, SecondaryCount: 2})
	_, e2 = m.AttachNetworkInterface(vpc.AttachNetworkInterfaceInput{NetworkInterfaceID: n.ID, InstanceID: web.ID, DeviceIndex: 1})
	_, e3 = m.CreateVPC(p("10.0.0.0/16"))
	check(e, e2, e3)
	return nil, err
}

// writeGolden makes the golden file of this version, if there is none yet.
func writeGolden(t *testing.T, name string) {
	t.Helper()
	if _, err := os.Stat(name); err == nil {
		t.Fatalf("%s is there; it is for ever what its version wrote", name)
	}
	path := filepath.Join(t.TempDir(), "state")
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(Options{Config: testConfig(), Journal: s, Engines: small(), Now: func() time.Time { return goldenTime }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Change(oneOfEach); err != nil {
		t.Fatal(err)
	}
	records, err := s.Records()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, r := range records {
		kinds[r.Kind] = true
	}
	if len(kinds) != goldenKinds {
		t.Fatalf("%d kinds of records: %v", len(kinds), kinds)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	r.View(func(m *vpc.Model) { text = said(t, m) })
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(strings.TrimSuffix(name, ".db")+".json", text, 0o644); err != nil {
		t.Fatal(err)
	}
}

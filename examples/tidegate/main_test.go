// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/calls"
)

// With this in its environment the test binary is the program.
const asProgram = "TIDEGATE_TEST_IS_THE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// bed is a region that is served.
type bed struct {
	t      *testing.T
	socket string
	state  string
	names  map[string]string // what stands for ids that are not known before
	done   map[string]bool   // commands that succeeded
}

func newBed(t *testing.T) *bed {
	dir := t.TempDir()
	return &bed{t: t, socket: filepath.Join(dir, "s.sock"), state: filepath.Join(dir, "state"), names: map[string]string{}, done: map[string]bool{}}
}

// serve starts a server, and returns how to stop it. It answers when serve returns.
func (b *bed) serve(args ...string) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"serve", "--socket", b.socket, "--state", b.state}, args...), io.Discard, w)
		_ = w.Close() // never fails (io.PipeWriter)
	}()
	lines := bufio.NewScanner(r)
	if !lines.Scan() || !strings.Contains(lines.Text(), "holding a region") {
		cancel()
		b.t.Fatalf("it says %q and ends with %d", lines.Text(), <-code)
	}
	return func() {
		b.t.Helper()
		cancel()
		for lines.Scan() {
		}
		if c := <-code; c != exitOK {
			b.t.Errorf("the server ends with %d", c)
		}
	}
}

// run runs a command line, in which words like @eip stand for ids.
func (b *bed) run(line string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	args := strings.Fields(line)
	for i, a := range args {
		if strings.HasPrefix(a, "@") {
			args[i] = b.names[a[1:]]
		}
	}
	code = run(context.Background(), append([]string{"--socket", b.socket}, args...), &o, &e)
	if code == exitOK {
		b.done[args[0]] = true
	}
	return code, o.String(), e.String()
}

// get runs a command line, and gives what is at a path of its JSON a name.
func (b *bed) get(line string, paths ...string) {
	b.t.Helper()
	code, out, errOut := b.run(line)
	if code != exitOK || errOut != "" {
		b.t.Fatalf("%s: %d\n%s%s", line, code, out, errOut)
	}
	var v any
	if err := json.Unmarshal([]byte(out), &v); err != nil && (out != "" || len(paths) > 0) {
		b.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	for _, p := range paths {
		name, path, _ := strings.Cut(p, "=")
		at := v
		for _, key := range strings.Split(path, ".") {
			if list, ok := at.([]any); ok {
				at = list[0]
			}
			o, ok := at.(map[string]any)
			if at, ok = o[key]; !ok {
				b.t.Fatalf("%s: no %s in\n%s", line, path, out)
			}
		}
		b.names[name] = at.(string)
	}
}

// story does what each command is for.
func (b *bed) story() {
	b.get("create-vpc --cidr-block 10.0.0.0/16", "vpc=Vpc.VpcId")
	b.get("associate-vpc-cidr-block --vpc-id @vpc --cidr-block 10.1.0.0/16")
	b.get("create-internet-gateway", "igw=InternetGateway.InternetGatewayId")
	b.get("attach-internet-gateway --internet-gateway-id @igw --vpc-id @vpc")
	b.get("create-subnet --vpc-id @vpc --cidr-block 10.0.1.0/24", "public=Subnet.SubnetId")
	b.get("create-subnet --vpc-id @vpc --cidr-block 10.0.2.0/24", "private=Subnet.SubnetId")
	b.get("modify-subnet-attribute --subnet-id @public --map-public-ip-on-launch")
	b.get("describe-route-tables", "main=RouteTables.RouteTableId", "mainassoc=RouteTables.Associations.RouteTableAssociationId")
	b.get("create-route --route-table-id @main --destination-cidr-block 0.0.0.0/0 --gateway-id @igw")
	b.get("create-route-table --vpc-id @vpc", "rtb=RouteTable.RouteTableId")
	b.get("associate-route-table --route-table-id @rtb --subnet-id @private", "rtbassoc=AssociationId")
	b.get("run-instances --subnet-id @public", "web=Instances.InstanceId")
	b.get("run-instances --subnet-id @private --count 2", "was=Instances.InstanceId")
	b.get("allocate-address", "eip=AllocationId", "ip=PublicIp")
	b.get("associate-address --allocation-id @eip --instance-id @web", "assoc=AssociationId")
	b.get("describe-addresses", "eni=Addresses.NetworkInterfaceId")
	b.get("allocate-address", "ngwip=AllocationId")
	b.get("create-nat-gateway --subnet-id @public --allocation-id @ngwip", "nat=NatGateway.NatGatewayId")
	b.get("create-route --route-table-id @rtb --destination-cidr-block 0.0.0.0/0 --nat-gateway-id @nat")
	b.get("replace-route --route-table-id @rtb --destination-cidr-block 0.0.0.0/0 --nat-gateway-id @nat")
}

// Every call of the table can be made, and answers in the shape and with the keys of the aws command line.
func TestEveryCommand(t *testing.T) {
	b := newBed(t)
	defer b.serve("--pool", "198.51.100.0/28")()
	b.story()
	b.get("describe-addresses --allocation-ids @eip", "x=Addresses.PublicIp", "x=Addresses.AllocationId", "x=Addresses.AssociationId",
		"x=Addresses.InstanceId", "x=Addresses.PrivateIpAddress", "x=Addresses.Domain")
	b.get("describe-vpcs --vpc-ids @vpc", "x=Vpcs.VpcId", "x=Vpcs.CidrBlockAssociationSet.CidrBlock")
	b.get("describe-subnets --subnet-ids @public @private", "x=Subnets.SubnetId")
	b.get("describe-route-tables --route-table-ids @rtb", "x=RouteTables.Routes.DestinationCidrBlock", "x=RouteTables.Associations.SubnetId")
	b.get("describe-internet-gateways", "x=InternetGateways.Attachments.VpcId")
	b.get("describe-nat-gateways", "x=NatGateways.NatGatewayAddresses.PublicIp")
	b.get("describe-instances --instance-ids @web", "x=Reservations.Instances.PublicIpAddress", "x=Reservations.Instances.State.Name")
	b.get("reboot-instances --instance-ids @web @was")
	b.get("stop-instances --instance-ids @web @was", "x=StoppingInstances.CurrentState.Name")
	b.get("start-instances --instance-ids @web @was", "x=StartingInstances.PreviousState.Name")
	b.get("associate-address --allocation-id @eip --instance-id @was --allow-reassociation", "assoc=AssociationId")
	b.get("disassociate-address --association-id @assoc")
	b.get("associate-nat-gateway-address --nat-gateway-id @nat --allocation-ids @eip", "natassoc=NatGatewayAddresses.AssociationId")
	b.get("describe-addresses --allocation-ids @eip", "natassoc=Addresses.AssociationId")
	b.get("disassociate-nat-gateway-address --nat-gateway-id @nat --association-ids @natassoc --max-drain-duration-seconds 1", "x=NatGatewayAddresses.Status")
	b.get("allocate-address", "eip=AllocationId")
	b.get("release-address --allocation-id @eip")
	b.get("create-security-group --vpc-id @vpc --group-name web --description web", "sg=GroupId")
	b.get("authorize-security-group-ingress --group-id @sg --protocol tcp --port 80-81 --cidr 0.0.0.0/0")
	b.get("authorize-security-group-egress --group-id @sg --protocol icmp --port 8 --source-group @sg")
	b.get("describe-security-groups --group-ids @sg", "x=SecurityGroups.IpPermissions.IpProtocol", "x=SecurityGroups.IpPermissions.IpRanges.CidrIp")
	b.get("create-network-interface --subnet-id @private --groups @sg", "eni=NetworkInterface.NetworkInterfaceId")
	b.get("attach-network-interface --network-interface-id @eni --instance-id @was --device-index 1", "attachment=AttachmentId")
	b.get("assign-private-ip-addresses --network-interface-id @eni --private-ip-addresses 10.0.2.100 10.0.2.101")
	b.get("unassign-private-ip-addresses --network-interface-id @eni --private-ip-addresses 10.0.2.100 10.0.2.101")
	b.get("describe-network-interfaces --network-interface-ids @eni", "x=NetworkInterfaces.PrivateIpAddresses.PrivateIpAddress", "x=NetworkInterfaces.Attachment.InstanceId")
	b.get("describe-security-groups", "default=SecurityGroups.GroupId")
	b.get("modify-network-interface-attribute --network-interface-id @eni --groups @default")
	b.get("detach-network-interface --attachment-id @attachment")
	b.get("delete-network-interface --network-interface-id @eni")
	b.get("revoke-security-group-ingress --group-id @sg --protocol tcp --port 80-81 --cidr 0.0.0.0/0")
	b.get("revoke-security-group-egress --group-id @sg --protocol icmp --port 8 --source-group @sg")
	b.get("delete-security-group --group-id @sg")
	b.get("create-transit-gateway", "tgw=TransitGateway.TransitGatewayId")
	b.get("create-transit-gateway-vpc-attachment --transit-gateway-id @tgw --vpc-id @vpc", "tgwa=TransitGatewayVpcAttachment.TransitGatewayAttachmentId")
	b.get("create-route --route-table-id @rtb --destination-cidr-block 10.9.0.0/16 --transit-gateway-id @tgw")
	b.get("describe-transit-gateways", "x=TransitGateways.TransitGatewayId")
	b.get("describe-transit-gateway-vpc-attachments", "x=TransitGatewayVpcAttachments.VpcId")
	b.get("create-nat-gateway --subnet-id @private --connectivity-type private", "pnat=NatGateway.NatGatewayId")
	b.get("assign-private-nat-gateway-address --nat-gateway-id @pnat --private-ip-address-count 1")
	b.get("unassign-private-nat-gateway-address --nat-gateway-id @pnat --private-ip-addresses 10.0.2.7")
	b.get("delete-nat-gateway --nat-gateway-id @pnat")
	b.get("delete-transit-gateway-vpc-attachment --transit-gateway-attachment-id @tgwa")
	b.get("delete-transit-gateway --transit-gateway-id @tgw")
	b.get("disassociate-vpc-cidr-block --vpc-id @vpc --cidr-block 10.1.0.0/16")
	b.get("replace-route-table-association --association-id @rtbassoc --route-table-id @main", "rtbassoc=NewAssociationId")
	b.get("disassociate-route-table --association-id @rtbassoc")
	b.get("delete-route --route-table-id @rtb --destination-cidr-block 0.0.0.0/0")
	b.get("delete-route-table --route-table-id @rtb")
	b.get("delete-nat-gateway --nat-gateway-id @nat", "x=NatGatewayId")
	b.get("describe-instances", "x=Reservations.Instances.InstanceId")
	var all struct {
		Reservations []struct{ Instances []struct{ InstanceId string } }
	}
	_, out, _ := b.run("describe-instances")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range all.Reservations {
		ids = append(ids, r.Instances[0].InstanceId)
	}
	b.get("terminate-instances --instance-ids "+strings.Join(ids, " "), "x=TerminatingInstances.CurrentState.Name")
	b.get("delete-subnet --subnet-id @public")
	b.get("delete-subnet --subnet-id @private")
	b.get("detach-internet-gateway --internet-gateway-id @igw --vpc-id @vpc")
	b.get("delete-internet-gateway --internet-gateway-id @igw")
	b.get("delete-vpc --vpc-id @vpc")
	b.get("get-metric-statistics --namespace AWS/NATGateway --metric-name ErrorPortAllocation --dimensions Name=NatGatewayId,Value=@nat"+
		" --start-time 2026-01-31T09:00:00Z --end-time 2026-01-31T10:00:00Z --period 60 --statistics Sum Maximum", "x=Label")
	for i := range calls.Table {
		if c := calls.Table[i].Command(); !b.done[c] {
			t.Errorf("%s was not made", c)
		}
	}
}

// Refusals are printed as aws prints them, and end with 2, as does a command line that cannot be followed; neither
// prints anything else.
func TestRefusals(t *testing.T) {
	b := newBed(t)
	defer b.serve("--pool", "198.51.100.0/28")()
	b.story()
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"associate-address --allocation-id @eip --instance-id @was --no-allow-reassociation",
			"An error occurred (Resource.AlreadyAssociated) when calling the AssociateAddress operation: ", exitInput},
		{"release-address --allocation-id eipalloc-0", "An error occurred (InvalidAllocationID.NotFound) when calling the ReleaseAddress operation: ", exitInput},
		{"describe-addresses --allocation-ids @eip eipalloc-0", "(InvalidAllocationID.NotFound) when calling the DescribeAddresses", exitInput},
		{"start-instances --instance-ids @web i-0", "(InvalidInstanceID.NotFound)", exitInput},
		{"create-route --route-table-id @rtb --destination-cidr-block 192.0.2.0/24", "(MissingParameter)", exitInput},
		{"run-instances --subnet-id @public --count 2 --private-ip-address 10.0.1.9", "(InvalidParameterValue)", exitInput},
		{"release-address", "missing flags: --allocation-id", exitInput},
		{"create-vpc --cidr-block ten", "--cidr-block", exitInput},
		{"create-moon", "create-moon", exitInput},
		{"describe-vpcs --output yaml", "--output", exitInput},
		{"serve --dry-run --state x", "--dry-run is for calls", exitInput},
		{"serve --state " + b.state, "another process has it open", exitInput},
		{"describe-vpcs --socket " + b.state + ".none", "no region is served at", exitFailed},
	} {
		code, out, errOut := b.run(c.line)
		if code != c.code || out != "" || !strings.Contains(errOut, c.want) {
			t.Errorf("%s: %d, want %d\n%s%s", c.line, code, c.code, out, errOut)
		}
	}
}

// A dry run prints what the call would, says that it was one, and changes nothing.
func TestDryRun(t *testing.T) {
	b := newBed(t)
	defer b.serve("--pool", "198.51.100.0/28")()
	b.story()
	_, before, _ := b.run("describe-addresses")
	code, out, errOut := b.run("associate-address --dry-run --allocation-id @eip --instance-id @was")
	if code != exitOK || !strings.Contains(out, "eipassoc-") || !strings.Contains(errOut, "DryRunOperation") || !strings.Contains(errOut, "sessions kept 0, cut 0") {
		t.Errorf("%d\n%s%s", code, out, errOut)
	}
	if _, after, _ := b.run("describe-addresses"); after != before {
		t.Errorf("after a dry run:\n%s\nbefore:\n%s", after, before)
	}
}

func TestOutput(t *testing.T) {
	b := newBed(t)
	defer b.serve("--pool", "198.51.100.0/28")()
	b.story()
	for _, c := range []struct {
		line string
		want []string
	}{
		{"describe-addresses --output table", []string{"Addresses\n", "  PublicIp      AllocationId", "  198.51.100.1  ${eip}"}},
		{"describe-route-tables --output table", []string{"RouteTables\n", "\nRoutes\n  RouteTableId", "  ${rtb}  0.0.0.0/0             -", "${nat}"}},
		{"describe-addresses --output text --allocation-ids @eip", []string{"ADDRESSES\t${eip}\t${assoc}\tvpc\t${web}\t${eni}\t10.0.1.4\t198.51.100.1\n"}},
		{"describe-route-tables --output text", []string{"ASSOCIATIONS\tTrue\t${mainassoc}\t${main}\n", "ROUTES\t0.0.0.0/0\t${igw}\tCreateRoute\tactive\n"}},
		{"describe-addresses", []string{"{\n    \"Addresses\": [\n        {\n            \"PublicIp\": \"198.51.100.1\",\n            \"AllocationId\": \"${eip}\",\n"}},
	} {
		code, out, errOut := b.run(c.line)
		for _, want := range c.want {
			want = os.Expand(want, func(name string) string { return b.names[name] })
			if code != exitOK || !strings.Contains(out, want) {
				t.Errorf("%s: %d, want\n%s\ngot\n%s%s", c.line, code, want, out, errOut)
			}
		}
	}
}

// What was there is there after a restart; the pool can grow and not change.
func TestRestart(t *testing.T) {
	b := newBed(t)
	stop := b.serve("--pool", "198.51.100.0/28")
	b.story()
	_, before, _ := b.run("describe-addresses")
	stop()
	if _, err := os.Lstat(b.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
	for _, args := range [][]string{nil, {"--pool", "198.51.100.0/28,192.0.2.0/28"}} {
		stop = b.serve(args...)
		if _, after, _ := b.run("describe-addresses"); after != before {
			t.Errorf("after a restart with %v:\n%s\nbefore:\n%s", args, after, before)
		}
		stop()
	}
	if code, _, errOut := b.run("serve --state " + b.state + " --pool 203.0.113.0/28"); code != exitInput || !strings.Contains(errOut, "can be added to") {
		t.Errorf("with another pool: %d, %s", code, errOut)
	}
}

func TestHelp(t *testing.T) {
	b := newBed(t)
	if code, out, _ := b.run("--help"); code != exitOK || !strings.Contains(out, "allocate-address") || !strings.Contains(out, "Exit codes") {
		t.Errorf("%d\n%s", code, out)
	}
	if code, out, _ := b.run("--version"); code != exitOK || !strings.HasPrefix(out, "tidegate ") {
		t.Errorf("%d\n%s", code, out)
	}
}

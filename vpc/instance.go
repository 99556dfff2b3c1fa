// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Instance is a host of a VPC.
type Instance struct {
	ID, VPCID, SubnetID string
	// NetworkInterfaceID is its primary network interface, its own until it is terminated. What follows is said of that.
	NetworkInterfaceID string
	// PrivateIP is its primary private address.
	PrivateIP netip.Addr
	// PublicIP is the public address that the internet gateway maps to PrivateIP: an Elastic IP if AllocationID is set,
	// else one that is lent until the instance stops, or none.
	PublicIP netip.Addr
	// AllocationID is the Elastic IP behind PublicIP.
	AllocationID string
	// Attachment is where its packets enter the engine.
	Attachment nat.AttachmentID
	// AutoAssign is MapPublicIPOnLaunch of the subnet when the instance was launched: whenever it starts to run, or loses
	// the Elastic IP of its primary address, with one network interface and no Elastic IP, it is lent an address.
	AutoAssign bool
	// State is what it does, Since when it began to.
	State InstanceState
	Since time.Time
}

// InstanceState is the run state of an instance.
type InstanceState string

// The states that last.
const (
	Running    InstanceState = "running"
	Stopped    InstanceState = "stopped"
	Terminated InstanceState = "terminated"
)

// terminatedFor is how long a terminated instance can still be looked up.
const terminatedFor = time.Hour

// RunInstanceInput is what an instance is made of.
type RunInstanceInput struct {
	SubnetID string
	// PrivateIP is its address in the subnet; the lowest free one if not valid.
	PrivateIP netip.Addr
	// GroupIDs are the security groups of its network interface; with none it has the default group of the VPC.
	GroupIDs []string
}

// RunInstance launches an instance. Where the subnet says so it gets a public address, and without one to lend the
// launch is refused.
func (m *Model) RunInstance(now time.Time, in RunInstanceInput) (Instance, error) {
	n, err := m.planInterface(CreateNetworkInterfaceInput{SubnetID: in.SubnetID, PrivateIPs: []netip.Addr{in.PrivateIP}, GroupIDs: in.GroupIDs})
	if err != nil {
		return Instance{}, err
	}
	i := Instance{
		VPCID: n.VPCID, SubnetID: n.SubnetID, AutoAssign: m.subnets.byID[n.SubnetID].MapPublicIPOnLaunch, State: Running, Since: now,
	}
	if i.AutoAssign && !m.canLend(now) {
		return Instance{}, m.noPublicAddress()
	}
	m.forgetTerminated(now)
	i.ID, n.AttachmentID = m.newID("i"), m.newID("eni-attach")
	n.InstanceID = i.ID
	i.NetworkInterfaceID = m.addInterface(n).ID
	m.instances.put(i.ID, i)
	m.lend(now, i)
	return m.describeInstance(i, nil), nil
}

// StartInstance starts a stopped instance. It gets a public address as when it was launched, usually another one, unless
// it has another network interface or an Elastic IP by now; its Elastic IPs work again. A running instance is left alone.
func (m *Model) StartInstance(now time.Time, instanceID string) (Instance, error) {
	i, err := m.liveInstance(instanceID)
	if err != nil {
		return Instance{}, err
	}
	if i.State == Stopped {
		i.State, i.Since = Running, now
		if m.wantsAddress(i) && !m.canLend(now) {
			return Instance{}, m.noPublicAddress()
		}
		m.instances.put(i.ID, i)
		m.lend(now, i)
	}
	return m.describeInstance(i, m.elasticIPs()), nil
}

// StopInstance stops an instance. A lent address goes back to the pool at once; Elastic IPs stay. A stopped instance
// is left alone.
func (m *Model) StopInstance(now time.Time, instanceID string) (Instance, error) {
	i, err := m.liveInstance(instanceID)
	if err != nil {
		return Instance{}, err
	}
	if i.State == Running {
		m.withdraw(now, i.NetworkInterfaceID)
		i.State, i.Since = Stopped, now
		m.instances.put(i.ID, i)
	}
	return m.describeInstance(i, m.elasticIPs()), nil
}

// RebootInstance reboots a running instance: for the edge, nothing changes.
func (m *Model) RebootInstance(instanceID string) (Instance, error) {
	i, err := m.liveInstance(instanceID)
	if err != nil {
		return Instance{}, err
	}
	if i.State != Running {
		return Instance{}, refuse(IncorrectInstanceState, "%s is %s; start it instead", i.ID, i.State)
	}
	return m.describeInstance(i, m.elasticIPs()), nil
}

// TerminateInstance ends an instance for good, and its primary network interface: a lent address goes back to the pool,
// Elastic IPs stay allocated, private addresses are free. Other interfaces are detached. The instance can be looked up
// for an hour. A terminated instance is left alone.
func (m *Model) TerminateInstance(now time.Time, instanceID string) (Instance, error) {
	i, err := m.instances.find(instanceID, InstanceNotFound)
	if err != nil || i.State == Terminated {
		return i, err
	}
	m.withdraw(now, i.NetworkInterfaceID)
	for _, n := range m.interfacesOf(i.ID) {
		if n.ID == i.NetworkInterfaceID {
			m.removeInterface(n)
		} else {
			m.interfaces.put(n.ID, n.detached())
		}
	}
	i.State, i.Since, i.NetworkInterfaceID = Terminated, now, ""
	m.instances.put(i.ID, i)
	m.terminated = append(m.terminated, i.ID)
	return i, nil
}

// Instance looks one up.
func (m *Model) Instance(instanceID string) (Instance, error) {
	i, err := m.instances.find(instanceID, InstanceNotFound)
	if err != nil {
		return i, err
	}
	return m.describeInstance(i, m.elasticIPs()), nil
}

// DescribeInstances lists all instances in the order in which they were launched.
func (m *Model) DescribeInstances() []Instance {
	elastic := m.elasticIPs()
	return collect(m.instances.all(), func(i Instance) Instance { return m.describeInstance(i, elastic) })
}

// describeInstance fills in what the primary network interface says.
func (m *Model) describeInstance(i Instance, elastic map[interfaceIP]Address) Instance {
	if n, ok := m.interfaces.byID[i.NetworkInterfaceID]; ok {
		n = m.describeInterface(n, elastic)
		i.PrivateIP, i.PublicIP, i.AllocationID = n.Addresses[0].PrivateIP, n.Addresses[0].PublicIP, n.Addresses[0].AllocationID
		i.Attachment = n.Attachment
	}
	return i
}

// liveInstance is the instance as it is stored, unless it is terminated.
func (m *Model) liveInstance(id string) (Instance, error) {
	i, err := m.instances.find(id, InstanceNotFound)
	if err == nil && i.State == Terminated {
		return Instance{}, refuse(IncorrectInstanceState, "%s is terminated; run another one", i.ID)
	}
	return i, err
}

// wantsAddress reports whether i must have a public address lent to it: not beside another interface, nor beside an
// Elastic IP at any of its addresses.
func (m *Model) wantsAddress(i Instance) bool {
	if i.State != Running || !i.AutoAssign || m.interfaces.byID[i.NetworkInterfaceID].lent().IsValid() {
		return false
	}
	for a := range m.addresses.all() {
		if a.NetworkInterfaceID == i.NetworkInterfaceID {
			return false
		}
	}
	return len(m.interfacesOf(i.ID)) == 1
}

// canLend reports whether lend will give an instance what it wants.
func (m *Model) canLend(now time.Time) bool {
	_, ok := m.pool.next(now)
	return ok
}

func (m *Model) noPublicAddress() error {
	return refuse(InsufficientAddressCapacity, "no public address is free; wait up to %v for returned ones, or enlarge the pool", m.cfg.CoolDown)
}

// pickAttachment is the next number that no instance has. They go round, so that one is not used again soon.
func (m *Model) pickAttachment() (nat.AttachmentID, error) {
	id := m.lastAttachment
	for range 1 << 16 {
		id++
		if _, taken := m.attachments[id]; !taken && id != OutsideAttachment {
			return id, nil
		}
	}
	return 0, refuse(InterfaceLimitExceeded, "there are %d network interfaces; delete one first", len(m.attachments))
}

// forgetTerminated removes the instances whose hour is over.
func (m *Model) forgetTerminated(now time.Time) {
	for len(m.terminated) > 0 && now.Sub(m.instances.byID[m.terminated[0]].Since) >= terminatedFor {
		m.instances.del(m.terminated[0])
		m.terminated = m.terminated[1:]
	}
}

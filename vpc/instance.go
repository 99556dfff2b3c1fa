// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Instance is a host of a VPC.
type Instance struct {
	ID, VPCID, SubnetID string
	// PrivateIP is its primary private address, its own until it is terminated.
	PrivateIP netip.Addr
	// PublicIP is the public address that the internet gateway maps to PrivateIP: an Elastic IP if AllocationID is set,
	// else one that is lent until the instance stops, or none.
	PublicIP netip.Addr
	// AllocationID is the Elastic IP behind PublicIP.
	AllocationID string
	// AutoAssign is MapPublicIPOnLaunch of the subnet when the instance was launched: whenever it runs without an
	// Elastic IP it has a lent address.
	AutoAssign bool
	// State is what it does, Since when it began to.
	State InstanceState
	Since time.Time
	// Attachment is where its packets enter the engine, its own until it is terminated.
	Attachment nat.AttachmentID
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
}

// RunInstance launches an instance. Where the subnet says so it gets a public address, and without one to lend the
// launch is refused.
func (m *Model) RunInstance(now time.Time, in RunInstanceInput) (Instance, error) {
	s, err := m.subnets.find(in.SubnetID, SubnetNotFound)
	if err != nil {
		return Instance{}, err
	}
	ip, err := m.pickPrivate(s, in.PrivateIP)
	if err != nil {
		return Instance{}, err
	}
	attachment, err := m.pickAttachment()
	if err != nil {
		return Instance{}, err
	}
	i := Instance{
		VPCID: s.VPCID, SubnetID: s.ID, PrivateIP: ip,
		AutoAssign: s.MapPublicIPOnLaunch, State: Running, Since: now, Attachment: attachment,
	}
	if err := m.canLend(now, i); err != nil {
		return Instance{}, err
	}
	m.forgetTerminated(now)
	i.ID = m.newID("i")
	m.private[privateKey{i.VPCID, ip}] = i.ID
	m.attachments[attachment], m.lastAttachment = i.ID, attachment
	i = m.lend(now, i)
	m.instances.put(i.ID, i)
	return i, nil
}

// StartInstance starts a stopped instance. It gets a public address as when it was launched, usually another one; its
// Elastic IP works again. A running instance is left alone.
func (m *Model) StartInstance(now time.Time, instanceID string) (Instance, error) {
	i, err := m.liveInstance(instanceID)
	if err != nil || i.State == Running {
		return i, err
	}
	i.State, i.Since = Running, now
	if err := m.canLend(now, i); err != nil {
		return Instance{}, err
	}
	i = m.lend(now, i)
	m.instances.put(i.ID, i)
	return i, nil
}

// StopInstance stops an instance. A lent address goes back to the pool at once; an Elastic IP stays. A stopped instance
// is left alone.
func (m *Model) StopInstance(now time.Time, instanceID string) (Instance, error) {
	i, err := m.liveInstance(instanceID)
	if err != nil || i.State == Stopped {
		return i, err
	}
	i = m.withdraw(now, i)
	i.State, i.Since = Stopped, now
	m.instances.put(i.ID, i)
	return i, nil
}

// RebootInstance reboots a running instance: for the edge, nothing changes.
func (m *Model) RebootInstance(instanceID string) (Instance, error) {
	i, err := m.liveInstance(instanceID)
	if err == nil && i.State != Running {
		return Instance{}, refuse(IncorrectInstanceState, "%s is %s; start it instead", i.ID, i.State)
	}
	return i, err
}

// TerminateInstance ends an instance for good. A lent address goes back to the pool, an Elastic IP stays allocated, the
// private address is free. The instance can be looked up for an hour. A terminated instance is left alone.
func (m *Model) TerminateInstance(now time.Time, instanceID string) (Instance, error) {
	i, err := m.instances.find(instanceID, InstanceNotFound)
	if err != nil || i.State == Terminated {
		return i, err
	}
	if i.AllocationID != "" {
		m.addresses.put(i.AllocationID, m.addresses.byID[i.AllocationID].free())
	}
	i = m.withdraw(now, i)
	delete(m.private, privateKey{i.VPCID, i.PrivateIP})
	delete(m.attachments, i.Attachment)
	i = Instance{ID: i.ID, VPCID: i.VPCID, SubnetID: i.SubnetID, AutoAssign: i.AutoAssign, State: Terminated, Since: now}
	m.instances.put(i.ID, i)
	m.terminated = append(m.terminated, i.ID)
	return i, nil
}

// Instance looks one up.
func (m *Model) Instance(instanceID string) (Instance, error) {
	return m.instances.find(instanceID, InstanceNotFound)
}

// DescribeInstances lists all instances in the order in which they were launched.
func (m *Model) DescribeInstances() []Instance { return slices.Collect(m.instances.all()) }

// liveInstance is the instance, unless it is terminated.
func (m *Model) liveInstance(id string) (Instance, error) {
	i, err := m.instances.find(id, InstanceNotFound)
	if err == nil && i.State == Terminated {
		return Instance{}, refuse(IncorrectInstanceState, "%s is terminated; run another one", i.ID)
	}
	return i, err
}

// wantsAddress reports whether i must have a public address lent to it.
func (i Instance) wantsAddress() bool {
	return i.State == Running && i.AutoAssign && !i.PublicIP.IsValid()
}

// canLend says whether lend will give i what it wants.
func (m *Model) canLend(now time.Time, i Instance) error {
	if _, ok := m.pool.next(now); i.wantsAddress() && !ok {
		return refuse(InsufficientAddressCapacity, "no public address is free; wait up to %v for returned ones, or enlarge the pool", m.cfg.CoolDown)
	}
	return nil
}

// lend gives i a public address if it wants one and there is one.
func (m *Model) lend(now time.Time, i Instance) Instance {
	if n, ok := m.pool.next(now); ok && i.wantsAddress() {
		i.PublicIP = m.pool.take(n)
	}
	return i
}

// withdraw takes a lent address from i, back to the pool; it leaves an Elastic IP.
func (m *Model) withdraw(now time.Time, i Instance) Instance {
	if i.PublicIP.IsValid() && i.AllocationID == "" {
		m.pool.giveBack(i.PublicIP, now)
		i.PublicIP = netip.Addr{}
	}
	return i
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
	return 0, refuse(InstanceLimitExceeded, "there are %d instances; terminate one first", len(m.attachments))
}

// forgetTerminated removes the instances whose hour is over.
func (m *Model) forgetTerminated(now time.Time) {
	for len(m.terminated) > 0 && now.Sub(m.instances.byID[m.terminated[0]].Since) >= terminatedFor {
		m.instances.del(m.terminated[0])
		m.terminated = m.terminated[1:]
	}
}

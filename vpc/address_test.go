// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"testing"
	"time"
)

// count is how many public addresses can be had at this moment, and how many rest.
func (w *world) count() (ready, resting int) {
	for a := range w.pool.idle.all() {
		if a.Ready.After(w.now) {
			resting++
		}
	}
	return len(w.pool.all()) - resting, resting
}

func TestAUTO1_StartInPublicSubnetLendsAnAddress(t *testing.T) {
	w := newWorld(t, "198.51.100.0/30")
	i := w.run(w.public)
	equal(t, "lent", i.PublicIP, addr("198.51.100.0"))
	equal(t, "allocation", i.AllocationID, "")
	equal(t, "in a private subnet", w.run(w.private).PublicIP, netip.Addr{})

	w.ok(w.ModifySubnetAttribute(w.public.ID, false))
	equal(t, "with the attribute off", w.run(w.public).PublicIP, netip.Addr{})
	equal(t, "launched before", w.instance(i), i)
	w.ok(w.ModifySubnetAttribute(w.public.ID, true))

	for range 3 {
		w.run(w.public)
	}
	w.refused(InsufficientAddressCapacity, func() error {
		return second(w.RunInstance(w.now, RunInstanceInput{SubnetID: w.public.ID}))
	})
	w.run(w.private) // needs none
}

func TestAUTO2_StopReturnsTheAddress(t *testing.T) {
	w := newWorld(t, "198.51.100.0/30")
	i := w.run(w.public)
	equal(t, "rebooted", must(w.RebootInstance(i.ID))(t), i)
	equal(t, "started while it runs", must(w.StartInstance(w.now, i.ID))(t), i)

	w.now = w.now.Add(time.Second)
	stopped := must(w.StopInstance(w.now, i.ID))(t)
	equal(t, "state", stopped.State, Stopped)
	equal(t, "since", stopped.Since, w.now)
	equal(t, "address while stopped", stopped.PublicIP, netip.Addr{})
	equal(t, "stopped again", must(w.StopInstance(w.now.Add(time.Hour), i.ID))(t), stopped)
	ready, resting := w.count()
	equal(t, "ready", ready, 3)
	equal(t, "resting", resting, 1)

	again := must(w.StartInstance(w.now, i.ID))(t)
	equal(t, "address after the next start", again.PublicIP, addr("198.51.100.1"))
	equal(t, "private address", again.PrivateIP, i.PrivateIP)
	equal(t, "attachment", again.Attachment, i.Attachment)

	must(w.TerminateInstance(w.now, i.ID))(t)
	ready, resting = w.count()
	equal(t, "ready after termination", ready, 2)
	equal(t, "resting after termination", resting, 2)
}

func TestAUTO2_StartWithoutAFreeAddressIsRefused(t *testing.T) {
	w := newWorld(t, "198.51.100.0/32")
	i := w.run(w.public)
	must(w.StopInstance(w.now, i.ID))(t)
	w.refused(InsufficientAddressCapacity, func() error { return second(w.StartInstance(w.now, i.ID)) })
	w.now = w.now.Add(defaultCoolDown)
	equal(t, "after the cool-down", must(w.StartInstance(w.now, i.ID))(t).PublicIP, i.PublicIP)
}

func TestAUTO3_DisassociationLendsAgain(t *testing.T) {
	w := newWorld(t, "198.51.100.0/29")
	auto, manual, stopped := w.run(w.public), w.run(w.private), w.run(w.public)
	must(w.StopInstance(w.now, stopped.ID))(t)
	for _, c := range []struct {
		name string
		i    Instance
		want bool
	}{{"launched with a lent address", auto, true}, {"launched without", manual, false}, {"stopped", stopped, false}} {
		a := w.associate(w.allocate(), c.i)
		w.ok(w.DisassociateAddress(w.now, a.AssociationID))
		now := w.instance(c.i)
		equal(t, c.name+": has an address", now.PublicIP.IsValid(), c.want)
		equal(t, c.name+": allocation", now.AllocationID, "")
		if now.PublicIP == a.PublicIP || c.want && now.PublicIP == c.i.PublicIP {
			t.Errorf("%s: %v is not fresh", c.name, now.PublicIP)
		}
	}
}

func TestAUTO3_DisassociationNeedsNoFreeAddress(t *testing.T) {
	w := newWorld(t, "198.51.100.0/31")
	i := w.run(w.public)
	a := w.associate(w.allocate(), i)
	w.ok(w.DisassociateAddress(w.now, a.AssociationID)) // the other address rests
	equal(t, "address", w.instance(i).PublicIP, netip.Addr{})
}

func TestEIP1_AllocatedUntilReleased(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	a := w.allocate()
	on := w.associate(a, i)
	w.ok(w.DisassociateAddress(w.now, on.AssociationID))
	equal(t, "still allocated", w.DescribeAddresses()[0], a)
	for range 4 {
		if b := w.allocate(); b.PublicIP == a.PublicIP {
			t.Errorf("%v was given to somebody else", b.PublicIP)
		}
	}
	w.refused(AddressLimitExceeded, func() error { return second(w.AllocateAddress(w.now)) })
	w.ok(w.ReleaseAddress(w.now, a.ID))
	w.allocate()
}

func TestEIP1_QuotaAndPoolBoundAllocation(t *testing.T) {
	m := must(New(Config{PublicPool: []netip.Prefix{prefix("198.51.100.0/31")}, AddressQuota: 3}))(t)
	w := &world{Model: m, t: t, now: t0}
	w.allocate()
	w.allocate()
	w.refused(InsufficientAddressCapacity, func() error { return second(w.AllocateAddress(w.now)) })
}

func TestEIP3_AssociationReturnsTheLentAddress(t *testing.T) {
	w := newWorld(t, "198.51.100.0/31")
	i := w.run(w.public)
	a := w.associate(w.allocate(), i)
	now := w.instance(i)
	equal(t, "address", now.PublicIP, a.PublicIP)
	equal(t, "allocation", now.AllocationID, a.ID)
	_, resting := w.count()
	equal(t, "resting", resting, 1)
	w.now = w.now.Add(defaultCoolDown)
	equal(t, "next owner of the lent address", w.allocate().PublicIP, i.PublicIP)
}

func TestEIP4_DisassociationAtAnyTime(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.private)
	a := w.associate(w.allocate(), i)
	must(w.StopInstance(w.now, i.ID))(t)
	w.ok(w.DisassociateAddress(w.now, a.AssociationID))
	equal(t, "address", w.address(a), a.free())
	equal(t, "instance", w.instance(i).PublicIP, netip.Addr{})
	w.refused(AssociationNotFound, func() error { return w.DisassociateAddress(w.now, a.AssociationID) })
}

func TestEIP5_Reassociation(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	a, b := w.run(w.private), w.run(w.private)
	e := w.associate(w.allocate(), a)
	w.refused(AlreadyAssociated, func() error {
		return second(w.AssociateAddress(w.now, AssociateAddressInput{AllocationID: e.ID, InstanceID: b.ID, NoReassociation: true}))
	})
	moved := w.associate(e, b)
	equal(t, "on", moved.InstanceID, b.ID)
	equal(t, "at", moved.PrivateIP, b.PrivateIP)
	if moved.AssociationID == e.AssociationID {
		t.Error("the association kept its id")
	}
	equal(t, "the one that lost it", w.instance(a).PublicIP, netip.Addr{})
	equal(t, "the one that has it", w.instance(b).PublicIP, e.PublicIP)
}

func TestEIP6_IdempotentAndDisplacing(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	one := w.associate(w.allocate(), i)
	before := w.snapshot()
	equal(t, "again", w.associate(one, i), one)
	again := must(w.AssociateAddress(w.now, AssociateAddressInput{AllocationID: one.ID, InstanceID: i.ID, NoReassociation: true}))(t)
	equal(t, "again, not to be moved", again, one)
	equal(t, "model", w.snapshot(), before)

	idle := len(w.pool.all())
	two := w.associate(w.allocate(), i)
	equal(t, "the first", w.address(one), one.free())
	equal(t, "instance", w.instance(i).AllocationID, two.ID)
	equal(t, "idle addresses", len(w.pool.all()), idle-1) // none was lent and returned on the way
}

func TestEIP7_Release(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.private)
	a := w.associate(w.allocate(), i)
	w.refused(IPAddressInUse, func() error { return w.ReleaseAddress(w.now, a.ID) })
	w.ok(w.DisassociateAddress(w.now, a.AssociationID))
	w.ok(w.ReleaseAddress(w.now, a.ID))
	w.refused(AllocationNotFound, func() error { return w.ReleaseAddress(w.now, a.ID) })
	w.refused(AllocationNotFound, func() error {
		return second(w.AssociateAddress(w.now, AssociateAddressInput{AllocationID: a.ID, InstanceID: i.ID}))
	})
}

func TestEIP8_MoveGivesTheLoserAnotherAddress(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	a, b := w.run(w.public), w.run(w.public)
	e := w.associate(w.allocate(), a)
	w.associate(e, b)
	loser := w.instance(a)
	if !loser.PublicIP.IsValid() || loser.PublicIP == e.PublicIP || loser.PublicIP == a.PublicIP || loser.PublicIP == b.PublicIP {
		t.Errorf("%v is not a fresh address", loser.PublicIP)
	}
	equal(t, "its allocation", loser.AllocationID, "")
}

func TestEIP9_SurvivesStopAndTermination(t *testing.T) {
	w := newWorld(t, "198.51.100.0/28")
	i := w.run(w.public)
	a := w.associate(w.allocate(), i)
	must(w.StopInstance(w.now, i.ID))(t)
	equal(t, "association while stopped", w.address(a), a)
	started := must(w.StartInstance(w.now, i.ID))(t)
	equal(t, "address after the start", started.PublicIP, a.PublicIP)
	equal(t, "association after the start", w.address(a), a)
	must(w.TerminateInstance(w.now, i.ID))(t)
	equal(t, "after termination", w.address(a), a.free())
}

func TestEIP10_CoolDown(t *testing.T) {
	w := newWorld(t, "198.51.100.0/29")
	i := w.run(w.public)
	must(w.TerminateInstance(w.now, i.ID))(t)
	for range defaultAddressQuota {
		if a := w.allocate(); a.PublicIP == i.PublicIP {
			t.Errorf("%v was given away before its cool-down", a.PublicIP)
		}
	}
	w.run(w.public)
	w.run(w.public) // the last of the eight that do not rest
	w.now = w.now.Add(defaultCoolDown - 1)
	w.refused(InsufficientAddressCapacity, func() error {
		return second(w.RunInstance(w.now, RunInstanceInput{SubnetID: w.public.ID}))
	})
	w.now = w.now.Add(1)
	equal(t, "after the cool-down", w.run(w.public).PublicIP, i.PublicIP)
}

// A clock that is set back makes nobody wait for addresses that are ready.
func TestEIP10_ClockSetBack(t *testing.T) {
	w := newWorld(t, "198.51.100.0/31")
	one, two := w.run(w.public), w.run(w.public)
	must(w.TerminateInstance(w.now.Add(24*time.Hour), one.ID))(t)
	must(w.TerminateInstance(w.now, two.ID))(t)
	w.now = w.now.Add(defaultCoolDown)
	equal(t, "lent", w.run(w.public).PublicIP, two.PublicIP)
}

// SPDX-License-Identifier: Apache-2.0

package region

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// The faults of a change that is not refused by the model.
var (
	// ErrPolicy: the model takes the change, and the engines do not. It is undone.
	ErrPolicy = errors.New("the change makes a policy that cannot be put in force, and is undone")
	// ErrNotSaved: the journal failed. The change is undone.
	ErrNotSaved = errors.New("the change could not be saved, and is undone")
	// ErrNotInForce: the change is saved, but not or not everywhere in force. The next change tries again.
	ErrNotInForce = errors.New("the change is saved, but not in force everywhere; the next change tries again")
)

// Journal is where state lasts. Store is one.
type Journal interface {
	// Records are all there are.
	Records() ([]vpc.Record, error)
	// Commit saves all of these or none: when it returns nil they are on the disk, and otherwise nothing has changed.
	Commit([]vpc.Record) error
}

// Options are what a Region is made of.
type Options struct {
	// Config is that of the model; see vpc.Restore for what a journal with records makes of it.
	Config vpc.Config
	// Journal keeps the state; nil keeps it in memory alone.
	Journal Journal
	// Engines are where policies go.
	Engines Engines
	// Observe, if set, is shown the model once its policies are in force: when the region opens and after each change, one
	// call at a time. It must not keep m. An error of it is one of being in force (ErrNotInForce), and fails Open.
	Observe func(m *vpc.Model) error
	// Now is the time; nil is time.Now. The model never sees it step back.
	Now func() time.Time
}

// Region is one region. Its methods are safe for concurrent use; changes come one after the other.
type Region struct {
	journal Journal
	engines Engines
	observe func(*vpc.Model) error
	clock   func() time.Time
	model   atomic.Pointer[vpc.Model] // never written to once it is here

	mu      sync.Mutex // held by a change
	last    time.Time
	applied map[string]*nat.Policy // by VPC: what its engine has

	meterMu sync.Mutex
	meter   vpc.Meter
}

// Call is something that is done to a model at a time. It must touch nothing else, since it may be undone.
type Call func(m *vpc.Model, now time.Time) (any, error)

// Result is what a change did, or would do.
type Result struct {
	// Value is what the call returned.
	Value any
	// Impact says by VPC what the change does to sessions. VPCs whose policy stays as it is are left out.
	Impact map[string]nat.Impact
}

// Open makes a region of what the journal has, or an empty one, and puts it in force.
func Open(o Options) (*Region, error) {
	r := &Region{journal: o.Journal, engines: o.Engines, observe: o.Observe, clock: o.Now, applied: map[string]*nat.Policy{}}
	if r.clock == nil {
		r.clock = time.Now
	}
	if r.observe == nil {
		r.observe = func(*vpc.Model) error { return nil }
	}
	m, err := restore(o.Config, o.Journal)
	if err != nil {
		return nil, err
	}
	if err := r.save(m); err != nil { // the first time, or with a larger pool
		return nil, err
	}
	p, err := r.plan(m)
	if err != nil {
		return nil, err
	}
	if _, err := r.preview(p); err != nil {
		return nil, err
	}
	if _, err := r.carryOut(p); err != nil {
		return nil, err
	}
	if err := r.observe(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInForce, err)
	}
	r.model.Store(m)
	return r, nil
}

func restore(cfg vpc.Config, j Journal) (*vpc.Model, error) {
	if j == nil {
		return vpc.New(cfg)
	}
	records, err := j.Records()
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return vpc.New(cfg)
	}
	return vpc.Restore(cfg, slices.Values(records))
}

// View calls f with the model as the last change left it. f may only look, and not keep it.
func (r *Region) View(f func(*vpc.Model)) { f(r.model.Load()) }

// Change makes a change. When it returns without an error the change is saved and in force; with any error but
// ErrNotInForce nothing has changed.
func (r *Region) Change(call Call) (Result, error) { return r.change(call, false) }

// DryRun says what Change would return, and changes nothing. (Ids in the value are those of the next change, whichever
// that is.)
func (r *Region) DryRun(call Call) (Result, error) { return r.change(call, true) }

func (r *Region) change(call Call, dry bool) (Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, now := r.model.Load().Clone(), r.now()
	next.Advance(now) // what is due is over before the call, and done again if that is refused
	value, err := call(next, now)
	if err != nil {
		return Result{}, err
	}
	p, err := r.plan(next)
	if err != nil {
		return Result{}, err
	}
	impact, err := r.preview(p)
	if err != nil || dry {
		return Result{value, impact}, err
	}
	if err := r.save(next); err != nil {
		return Result{}, err
	}
	impact, err = r.carryOut(p)
	r.model.Store(next)
	if seen := r.observe(next); seen != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", ErrNotInForce, seen))
	}
	return Result{value, impact}, err
}

// Advance ends the drains that are over, as any change does on its way; next is when the next one ends, zero if none is
// under way. Whoever serves a region calls it now and then.
func (r *Region) Advance() (next time.Time, err error) {
	draining := false
	r.View(func(m *vpc.Model) {
		for _, g := range m.DescribeNATGateways() {
			draining = draining || slices.ContainsFunc(g.Addresses, vpc.NATGatewayAddress.Draining)
		}
	})
	if !draining {
		return next, nil
	}
	_, err = r.Change(func(m *vpc.Model, now time.Time) (any, error) {
		next, _ = m.Advance(now)
		return nil, nil
	})
	return next, err
}

// Measure tells the meter what the NAT gateways have counted so far, if the engines count. Whoever serves a region calls it
// now and then, each vpc.SampleInterval or more often. It waits for no change.
func (r *Region) Measure() {
	engines, ok := r.engines.(Meters)
	if !ok {
		return
	}
	var pools []nat.PoolStats
	r.View(func(m *vpc.Model) {
		for _, v := range m.DescribeVPCs() {
			pools = append(pools, engines.PoolStats(v.ID)...)
		}
	})
	r.meterMu.Lock()
	defer r.meterMu.Unlock()
	r.meter.Sample(r.clock(), pools)
}

// Statistics are those of a metric of a NAT gateway, one that is gone too: see vpc.Meter.
func (r *Region) Statistics(natGatewayID, metric string, start, end time.Time, period time.Duration) ([]vpc.Datapoint, error) {
	r.meterMu.Lock()
	defer r.meterMu.Unlock()
	return r.meter.Statistics(natGatewayID, metric, start, end, period)
}

// now is the time, which does not step back, as text would have it.
func (r *Region) now() time.Time {
	if t := r.clock().Round(0).UTC(); t.After(r.last) {
		r.last = t
	}
	return r.last
}

// save journals what has changed in m.
func (r *Region) save(m *vpc.Model) error {
	records, err := m.Changes()
	if err == nil && len(records) > 0 && r.journal != nil {
		err = r.journal.Commit(records)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSaved, err)
	}
	return nil
}

// plan is the policies of m that the engines do not have; nil for a VPC that is gone.
func (r *Region) plan(m *vpc.Model) (map[string]*nat.Policy, error) {
	p := map[string]*nat.Policy{}
	for id := range r.applied {
		p[id] = nil
	}
	for _, v := range m.DescribeVPCs() {
		policy, err := m.Policy(v.ID)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPolicy, v.ID, err)
		}
		if reflect.DeepEqual(policy, r.applied[v.ID]) {
			delete(p, v.ID)
		} else {
			p[v.ID] = policy
		}
	}
	return p, nil
}

// preview is what the plan would do.
func (r *Region) preview(p map[string]*nat.Policy) (map[string]nat.Impact, error) {
	impact := map[string]nat.Impact{}
	for _, id := range slices.Sorted(maps.Keys(p)) {
		policy := p[id]
		if policy == nil { // all that it has ends, as with a policy that lets nobody out
			policy = &nat.Policy{}
		}
		i, err := r.engines.Preview(id, policy)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPolicy, id, err)
		}
		impact[id] = i
	}
	return impact, nil
}

// carryOut gives the engines their policies. No address ever has two owners: who is to lose one to another VPC has lost
// it before that gets it, and if that fails nobody gets it.
func (r *Region) carryOut(p map[string]*nat.Policy) (map[string]nat.Impact, error) {
	impact := map[string]nat.Impact{}
	apply := func(id string, policy *nat.Policy) error {
		i, err := r.put(id, policy)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNotInForce, id, err)
		}
		i.Cut += impact[id].Cut
		impact[id] = i
		return nil
	}
	moving := r.moving(p)
	ids := slices.Sorted(maps.Keys(p))
	for _, id := range ids {
		if policy := p[id]; policy == nil || loses(r.applied[id], moving) {
			if err := apply(id, without(policy, moving)); err != nil {
				return impact, err
			}
		}
	}
	var faults []error
	for _, id := range ids {
		if !reflect.DeepEqual(p[id], r.applied[id]) {
			faults = append(faults, apply(id, p[id]))
		}
	}
	return impact, errors.Join(faults...)
}

// put gives one engine its policy, or ends it.
func (r *Region) put(id string, policy *nat.Policy) (nat.Impact, error) {
	if policy == nil {
		i, err := r.engines.Remove(id)
		if err == nil {
			delete(r.applied, id)
		}
		return i, err
	}
	i, err := r.engines.Apply(id, policy)
	if err == nil {
		r.applied[id] = policy
	}
	return i, err
}

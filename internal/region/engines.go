// SPDX-License-Identifier: Apache-2.0

package region

import (
	"sync"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Engines are where the policies of a region are put in force, an engine for each VPC. A Region makes one call at a time.
type Engines interface {
	// Preview says what Apply would do, and refuses what it would refuse. For a VPC that is not there yet, too.
	Preview(vpcID string, p *nat.Policy) (nat.Impact, error)
	// Apply puts a policy in force: when it returns, no packet goes by an older one. A VPC that is not there yet gets
	// its engine. With an error the old one stays.
	Apply(vpcID string, p *nat.Policy) (nat.Impact, error)
	// Remove ends the engine of a VPC; when it returns no packet goes through it.
	Remove(vpcID string) (nat.Impact, error)
}

// Meters are Engines that count. Those that do not have nothing to tell of their NAT gateways.
type Meters interface {
	// PoolStats are the counters of the NAT gateways of a VPC; none without an engine.
	PoolStats(vpcID string) []nat.PoolStats
}

// EngineSet is Engines in this process, without devices: whoever has packets takes them to Engine(vpcID). Its methods are
// safe for concurrent use.
type EngineSet struct {
	cfg   nat.Config
	now   func() time.Duration
	mu    sync.RWMutex
	byVPC map[string]*nat.Engine
}

// NewEngineSet makes an empty set. Each engine gets the configuration, and the time from now; nil is the time since the
// set was made.
func NewEngineSet(cfg nat.Config, now func() time.Duration) *EngineSet {
	if now == nil {
		start := time.Now()
		now = func() time.Duration { return time.Since(start) }
	}
	return &EngineSet{cfg: cfg, now: now, byVPC: map[string]*nat.Engine{}}
}

// Engine is that of a VPC, or nil.
func (s *EngineSet) Engine(vpcID string) *nat.Engine {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byVPC[vpcID]
}

// PoolStats implements Meters. Traffic is counted if the configuration has nat.Config.FlowCounters.
func (s *EngineSet) PoolStats(vpcID string) []nat.PoolStats {
	if e := s.Engine(vpcID); e != nil {
		return e.PoolStats(s.now())
	}
	return nil
}

// Preview implements Engines.
func (s *EngineSet) Preview(vpcID string, p *nat.Policy) (nat.Impact, error) {
	if e := s.Engine(vpcID); e != nil {
		return e.Preview(p, s.now())
	}
	return nat.Impact{}, p.Validate()
}

// Apply implements Engines.
func (s *EngineSet) Apply(vpcID string, p *nat.Policy) (nat.Impact, error) {
	if e := s.Engine(vpcID); e != nil {
		return e.Apply(p, s.now())
	}
	e, err := nat.New(s.cfg, p)
	if err != nil {
		return nat.Impact{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byVPC[vpcID] = e
	return nat.Impact{}, nil
}

// Remove implements Engines. An engine that somebody still has lets nobody through.
func (s *EngineSet) Remove(vpcID string) (nat.Impact, error) {
	e := s.Engine(vpcID)
	if e == nil {
		return nat.Impact{}, nil
	}
	impact, err := e.Apply(&nat.Policy{}, s.now())
	if err != nil {
		return impact, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byVPC, vpcID)
	return impact, nil
}

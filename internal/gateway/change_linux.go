// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
)

// do has f done by the goroutine that follows the machine, between two changes of it.
func (s *system) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case s.calls <- func() { result <- f() }:
		return <-result
	case <-s.stopped:
		return errors.New("the gateway is about to stop")
	}
}

// fits looks at the external addresses that c would add.
func (s *system) fits(c *config.Config) error {
	return s.do(func() error {
		added := missing(c.External(), s.external)
		if err := s.checkAddresses(added); err != nil {
			return err
		}
		return s.checkInUse(added)
	})
}

// become is machine.become.
func (s *system) become(c *config.Config, swap func() error) error {
	return s.do(func() error { return s.changeOrNot(c, swap) })
}

// changeOrNot is change, and after an error what there was before.
func (s *system) changeOrNot(c *config.Config, swap func() error) error {
	was, external := s.plan, s.external
	err := s.change(c, swap)
	if err == nil {
		s.forget()
		return nil
	}
	s.set(was, external)
	return errors.Join(err, s.publish())
}

// change takes the machine to c. First there is what old and new need, which harms nobody: what is for a new address goes
// to the engine, which refuses it. Then what goes is withdrawn, then the engine changes, and at last what is new is
// published and what nobody needs any more deleted.
func (s *system) change(c *config.Config, swap func() error) error {
	next := s.plan
	next.inside, next.external = c.Inside.Prefixes, c.ExternalPrefixes()
	external := c.External()
	if err := next.add(s.nl); err != nil {
		return err
	}
	was := s.plan.ways(s.index[0], s.index[1], s.self)
	is := next.ways(s.index[0], s.index[1], s.self)
	if err := s.addWays(is); err != nil {
		return err
	}
	var gone []netip.Prefix
	for _, a := range missing(s.external, external) {
		gone = append(gone, netip.PrefixFrom(a, 32))
	}
	if _, err := deleteProxies(s.nl, gone); err != nil {
		return err
	}
	for _, dst := range missing(destinations(was), destinations(is)) {
		r := route(outsideTable, dst, unix.RTN_UNICAST, 0)
		r.LinkIndex, r.Scope = s.index[1], netlink.SCOPE_LINK
		if err := s.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete the route %s: %w", dst, err)
		}
	}
	if err := swap(); err != nil {
		return err
	}
	s.set(next, external)
	return s.publish()
}

func (s *system) set(p plan, external []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan, s.external = p, external
}

// publish brings the machine to what the plan says, whatever is there.
func (s *system) publish() error {
	if err := s.plan.apply(s.nl); err != nil {
		return err
	}
	if err := s.reroute(); err != nil { // with other inside prefixes there may be other uplinks
		return err
	}
	return s.answer()
}

// destinations are those of the routes to the outside TUN.
func destinations(ways []netlink.Route) (all []netip.Prefix) {
	for _, r := range ways {
		if r.Table == outsideTable {
			all = append(all, prefixOf(r.Dst))
		}
	}
	return all
}

// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Config is what a Model is made of. It cannot change later.
type Config struct {
	// Seed makes the ids. Models with equal configurations and calls have equal ids; 0 is a seed like any other.
	Seed uint64
	// PublicPool are the public IPv4 addresses of the region, first and last of each prefix included; 65,536 at most.
	// They are lent and allocated in this order, and returned ones queue up at the end.
	PublicPool []netip.Prefix
	// AddressQuota bounds the Elastic IPs that are allocated at one time; 0 means 5.
	AddressQuota int
	// Quotas bound the rest.
	Quotas Quotas
	// CoolDown is how long a returned public address rests before anybody gets it; 0 means 2 minutes.
	CoolDown time.Duration
	// InsideMTU and OutsideMTU are the largest IP packets, in bytes, that the edge sends to instances and to the
	// internet; 0 means that somebody else answers for that. (In Amazon VPC they are 9001 and 1500.)
	InsideMTU, OutsideMTU int
}

const (
	defaultAddressQuota = 5
	defaultCoolDown     = 2 * time.Minute
	maxPool             = 1 << 16
	minMTU              = 68 // RFC 791
)

// reserved addresses belong to no host on a network, public or private (RFC 6890).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

func isReserved(p netip.Prefix) bool { return slices.ContainsFunc(reserved, p.Overlaps) }

// Model is a region of one account: its VPCs and all that is in them, and the public addresses. It is made by New, and not
// safe for concurrent use: whoever owns it holds one lock over a change, its Policy and the engine that takes it, or the
// order of changes and the order of policies could differ.
type Model struct {
	cfg  Config
	seq  uint64 // ids made so far
	pool pool

	vpcs        store[VPC]
	subnets     store[Subnet]
	tables      store[RouteTable]
	igws        store[InternetGateway]
	instances   store[Instance]
	interfaces  store[NetworkInterface]
	addresses   store[Address]
	natGateways store[NATGateway]
	transits    store[TransitGateway]
	transitVPCs store[TransitGatewayVPCAttachment]
	groups      store[SecurityGroup]

	terminated     []string                    // instances, in that order
	private        map[privateKey]string       // owner of each private address that is in use
	attachments    map[nat.AttachmentID]string // the network interface of each number
	lastAttachment nat.AttachmentID

	saved string // the record of the region, as Changes last gave it
}

// privateKey is a private address; those of different VPCs may be equal.
type privateKey struct {
	vpc string
	ip  netip.Addr
}

// New makes an empty region. The error names every fault of the configuration.
func New(cfg Config) (*Model, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("vpc: "+format, args...)) }
	if cfg.AddressQuota == 0 {
		cfg.AddressQuota = defaultAddressQuota
	}
	if cfg.AddressQuota < 0 {
		fault("AddressQuota is %d; use 0 for the default of %d, or more", cfg.AddressQuota, defaultAddressQuota)
	}
	if cfg.CoolDown == 0 {
		cfg.CoolDown = defaultCoolDown
	}
	if cfg.CoolDown < 0 {
		fault("CoolDown is %v; use 0 for the default of %v, or more", cfg.CoolDown, defaultCoolDown)
	}
	cfg.Quotas = cfg.Quotas.orDefault(fault)
	for _, mtu := range []int{cfg.InsideMTU, cfg.OutsideMTU} {
		if mtu != 0 && mtu < minMTU {
			fault("an MTU is %d; use 0 for none, or at least %d", mtu, minMTU)
		}
	}
	size := 0
	for i, p := range cfg.PublicPool {
		switch {
		case !p.IsValid() || !p.Addr().Is4():
			fault("PublicPool has %v, which is no IPv4 prefix", p)
			continue
		case p != p.Masked():
			fault("PublicPool has %v, which has host bits set; did you mean %v?", p, p.Masked())
		case isReserved(p):
			fault("PublicPool has %v, which has addresses that no host can have", p)
		}
		for _, q := range cfg.PublicPool[:i] {
			if p.Overlaps(q) {
				fault("PublicPool has %v and %v, which overlap", q, p)
			}
		}
		size += 1 << (32 - p.Bits())
	}
	if size > maxPool {
		fault("PublicPool has %d addresses; %d is the limit", size, maxPool)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	cfg.PublicPool = slices.Clone(cfg.PublicPool)
	return &Model{
		cfg:         cfg,
		pool:        newPool(cfg.PublicPool, cfg.CoolDown),
		private:     map[privateKey]string{},
		attachments: map[nat.AttachmentID]string{},
	}, nil
}

// newID makes the next id, in the form of EC2: a prefix and 17 hexadecimal digits. It is part of the change: only a
// call that is certain to succeed makes one.
func (m *Model) newID(prefix string) string {
	if m.private == nil {
		panic("vpc: this Model was not made by New")
	}
	m.seq++
	// SplitMix64 is a bijection, so no two ids of a model are equal.
	x := m.cfg.Seed + m.seq*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return fmt.Sprintf("%s-0%016x", prefix, x^x>>31)
}

// store holds objects of one kind by id, and remembers the order in which they were made, and which have changed since
// the model was last asked. Its values are plain, and slices in them are replaced, never written to, so that what comes
// out stays as it is while the model goes on.
type store[T any] struct {
	byID    map[string]T
	ids     []string
	order   map[string]uint64 // by id: greater than that of the ids before it
	changed map[string]bool
}

func (s *store[T]) put(id string, v T) {
	if s.byID == nil {
		s.byID, s.order = map[string]T{}, map[string]uint64{}
	}
	if _, ok := s.byID[id]; !ok {
		s.order[id] = 1
		if n := len(s.ids); n > 0 {
			s.order[id] = s.order[s.ids[n-1]] + 1
		}
		s.ids = append(s.ids, id)
	}
	s.byID[id] = v
	s.note(id)
}

func (s *store[T]) del(id string) {
	if i := slices.Index(s.ids, id); i >= 0 {
		s.ids = slices.Delete(s.ids, i, i+1)
		delete(s.byID, id)
		delete(s.order, id)
		s.note(id)
	}
}

func (s *store[T]) note(id string) {
	if s.changed == nil {
		s.changed = map[string]bool{}
	}
	s.changed[id] = true
}

// find is the object with this id, or the error that says there is none.
func (s *store[T]) find(id string, notFound Code) (T, error) {
	v, ok := s.byID[id]
	if !ok {
		return v, refuse(notFound, "the ID %q does not exist", id)
	}
	return v, nil
}

// all are the objects in the order in which they were made.
func (s *store[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, id := range s.ids {
			if !yield(s.byID[id]) {
				return
			}
		}
	}
}

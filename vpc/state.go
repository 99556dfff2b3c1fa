// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/nat"
)

// Record is a part of the state of a model as plain data: what Changes gives, and Restore takes. One with the same Kind
// and ID replaces an earlier one. Whoever keeps records need not know what is in them.
type Record struct {
	Kind, ID string
	// Order is the place among the records of its kind.
	Order uint64
	// Value is JSON; nil says that the record is no more.
	Value []byte
}

// book is a store, whatever it holds.
type book interface {
	changes(kind string) ([]Record, error)
	load(Record) error
	sort()
	detach()
}

// books are the stores by the kind of their records. The kinds and what is in their values are what lasts: a new field
// needs a zero value that means what was before it.
func (m *Model) books() map[string]book {
	return map[string]book{
		"vpc": &m.vpcs, "subnet": &m.subnets, "route-table": &m.tables, "internet-gateway": &m.igws,
		"instance": &m.instances, "network-interface": &m.interfaces, "address": &m.addresses, "nat-gateway": &m.natGateways,
		"transit-gateway": &m.transits, "transit-gateway-attachment": &m.transitVPCs, "security-group": &m.groups,
		"idle": &m.pool.idle,
	}
}

// region is the record of all that is in no store. Its kind is "region".
type region struct {
	Seed           uint64
	PublicPool     []netip.Prefix
	Fresh          int // addresses of the pool that nobody has had
	Seq            uint64
	LastAttachment nat.AttachmentID
}

const regionKind = "region"

// Changes is what has changed since it was last called, or since New or Restore. All records that it has ever given,
// in their order, make the model again.
func (m *Model) Changes() ([]Record, error) {
	var out []Record
	books := m.books()
	for _, kind := range slices.Sorted(maps.Keys(books)) {
		records, err := books[kind].changes(kind)
		if err != nil {
			return nil, err
		}
		out = append(out, records...)
	}
	value, err := json.Marshal(region{m.cfg.Seed, m.cfg.PublicPool, len(m.pool.fresh), m.seq, m.lastAttachment})
	if err != nil {
		return nil, fmt.Errorf("vpc: %w", err)
	}
	if string(value) != m.saved {
		m.saved = string(value)
		out = append(out, Record{Kind: regionKind, Value: value})
	}
	return out, nil
}

// Restore makes the model that has given these records, each the latest of its kind and id. The seed is that of the
// records. So is the public pool, if cfg has none; else cfg's must begin with it, and may go on. The other settings are
// those of cfg. The error says what is wrong with the records, or what they contradict.
func Restore(cfg Config, records iter.Seq[Record]) (*Model, error) {
	var objects []Record
	var last *region
	for r := range records {
		if r.Kind != regionKind {
			objects = append(objects, r)
			continue
		}
		last = &region{}
		if err := json.Unmarshal(r.Value, last); err != nil {
			return nil, fmt.Errorf("vpc: the record of the region: %w", err)
		}
	}
	if last == nil {
		return nil, errors.New("vpc: there is no record of the region")
	}
	had := last.PublicPool
	if len(cfg.PublicPool) == 0 {
		cfg.PublicPool = had
	}
	if n := len(had); n > len(cfg.PublicPool) || !slices.Equal(cfg.PublicPool[:n], had) {
		return nil, fmt.Errorf("vpc: the public pool is %v so far; it can be added to, behind those, and otherwise not changed to %v", had, cfg.PublicPool)
	}
	cfg.Seed = last.Seed
	m, err := New(cfg)
	if err != nil {
		return nil, err
	}
	taken := sizeOf(had) - last.Fresh
	if last.Fresh < 0 || taken < 0 {
		return nil, fmt.Errorf("vpc: %d fresh addresses are not in %v", last.Fresh, had)
	}
	m.pool.fresh = m.pool.fresh[taken:]
	m.seq, m.lastAttachment = last.Seq, last.LastAttachment
	books := m.books()
	for _, r := range objects {
		b, ok := books[r.Kind]
		if !ok {
			return nil, fmt.Errorf("vpc: there are records of the kind %q, which this version does not know", r.Kind)
		}
		if err := b.load(r); err != nil {
			return nil, fmt.Errorf("vpc: the record of %s: %w", r.ID, err)
		}
	}
	for _, b := range books {
		b.sort()
	}
	for n := range m.interfaces.all() {
		if len(n.Addresses) == 0 {
			return nil, fmt.Errorf("vpc: %s has no address", n.ID)
		}
	}
	m.restoreBooks()
	for v := range m.vpcs.all() { // the pool may have grown
		for _, cidr := range v.CIDRs {
			if err := m.checkCIDR(cidr); err != nil {
				return nil, fmt.Errorf("vpc: %s: %w", v.ID, err)
			}
		}
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	if _, err := m.Changes(); err != nil { // it is as it was recorded
		return nil, err
	}
	return m, nil
}

// restoreBooks makes anew what follows from the objects.
func (m *Model) restoreBooks() {
	for i := range m.instances.all() {
		if i.State == Terminated {
			m.terminated = append(m.terminated, i.ID)
		}
	}
	slices.SortStableFunc(m.terminated, func(a, b string) int {
		return m.instances.byID[a].Since.Compare(m.instances.byID[b].Since)
	})
	c := newChecker(m) // what it does not like, Check says
	c.interfaces()
	c.natGateways()
	m.private, m.attachments = c.private, c.attachments
}

// Clone is a copy that lives a life of its own: for trying a change that may have to be undone. Its cost grows with the
// number of objects in use, not with the public pool.
func (m *Model) Clone() *Model {
	c := *m
	for _, b := range c.books() {
		b.detach()
	}
	c.terminated = slices.Clone(m.terminated)
	c.private, c.attachments = maps.Clone(m.private), maps.Clone(m.attachments)
	return &c
}

// changes are the records of what has changed, by id.
func (s *store[T]) changes(kind string) ([]Record, error) {
	var out []Record
	for _, id := range slices.Sorted(maps.Keys(s.changed)) {
		r := Record{Kind: kind, ID: id, Order: s.order[id]}
		if v, ok := s.byID[id]; ok {
			value, err := json.Marshal(v)
			if err != nil {
				return nil, fmt.Errorf("vpc: %s: %w", id, err)
			}
			r.Value = value
		}
		out = append(out, r)
	}
	s.changed = nil
	return out, nil
}

// load puts a record where put would; the order of the ids has to be made with sort.
func (s *store[T]) load(r Record) error {
	var v T
	if err := json.Unmarshal(r.Value, &v); err != nil {
		return err
	}
	if _, ok := s.byID[r.ID]; ok {
		return errors.New("it is there twice")
	}
	s.put(r.ID, v)
	s.order[r.ID] = r.Order
	return nil
}

func (s *store[T]) sort() {
	slices.SortFunc(s.ids, func(a, b string) int { return cmp.Compare(s.order[a], s.order[b]) })
}

// detach makes s, a copy of another store, share nothing with that one.
func (s *store[T]) detach() {
	s.byID, s.ids, s.order, s.changed = maps.Clone(s.byID), slices.Clone(s.ids), maps.Clone(s.order), maps.Clone(s.changed)
}

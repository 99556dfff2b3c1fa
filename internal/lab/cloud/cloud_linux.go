// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/region"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// Options are what a Cloud is made of.
type Options struct {
	// Engine configures the engine of each VPC.
	Engine nat.Config
	// Internet is the address of the internet host, outside of the region's public pool.
	Internet netip.Addr
	// Private are prefixes that the internet routes to the VPCs, too, so that the edge of the one that has them is seen to
	// refuse what comes. It is for regions without transit gateways, whose peers could be imitated.
	Private []netip.Prefix
	// InsideMTU is that of the interfaces of instances, OutsideMTU that of the internet's, in bytes.
	InsideMTU, OutsideMTU int
	// Name is the host name of an instance; nil is that of EC2, such as ip-10-0-1-4.
	Name func(vpc.Instance) string
	// Host is what each host is made of.
	Host lab.HostOptions
	// Taps see the packets of each edge, Fault is for tests.
	Taps  []lab.Tap
	Fault lab.Fault
}

// Internet is the name of the host that is around the VPCs.
const Internet = "internet"

// Cloud is a region's data path. Its methods are safe for concurrent use.
type Cloud struct {
	o        Options
	x        *exchange
	internet *lab.Host
	wg       sync.WaitGroup

	mu       sync.Mutex
	edges    map[string]*lab.Edge
	machines map[string]*machine // by instance
	err      error               // of the exchange
}

var (
	_ region.Engines = (*Cloud)(nil)
	_ region.Meters  = (*Cloud)(nil)
)

// machine is an instance.
type machine struct {
	host  *lab.Host
	runs  bool
	cards map[string]*card // by network interface
}

// card is a network interface of a machine.
type card struct {
	link      lab.Link
	addresses []netip.Addr
	at        nat.AttachmentID
	vpc       string
}

// queue is how many packets may wait in an interface: all that a scanner sends at once, on a busy machine.
const queue = 4096

var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// New makes a cloud without instances: the internet is there.
func New(o Options) (*Cloud, error) {
	c := &Cloud{o: o, edges: map[string]*lab.Edge{}, machines: map[string]*machine{}}
	if c.o.Name == nil {
		c.o.Name = func(i vpc.Instance) string { return "ip-" + strings.ReplaceAll(i.PrivateIP.String(), ".", "-") }
	}
	around := o.Host
	around.Forward = true
	host, err := lab.NewHost(Internet, around)
	if err != nil {
		return nil, err
	}
	c.internet = host
	dev, err := host.OpenTUN(c.uplink(nil))
	if err != nil {
		host.Close()
		return nil, err
	}
	c.x = newExchange(dev)
	c.x.private = o.Private
	c.wg.Go(func() {
		if err := c.x.listen(); !errors.Is(err, os.ErrClosed) {
			c.mu.Lock()
			c.err = fmt.Errorf("the internet: %w", err)
			c.mu.Unlock()
		}
	})
	return c, nil
}

// uplink is the interface of the internet to the VPCs.
func (c *Cloud) uplink(pool []netip.Prefix) lab.Link {
	return lab.Link{Name: "edge", Addr: netip.PrefixFrom(c.o.Internet, 32), MTU: c.o.OutsideMTU, Queue: queue, Routes: slices.Concat(pool, c.o.Private)}
}

// InternetHost is the host around the VPCs, a router: whoever connects others to it gives them their addresses.
func (c *Cloud) InternetHost() *lab.Host { return c.internet }

// Edge is that of a VPC, or nil.
func (c *Cloud) Edge(vpcID string) *lab.Edge {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.edges[vpcID]
}

// Preview implements region.Engines.
func (c *Cloud) Preview(vpcID string, p *nat.Policy) (nat.Impact, error) {
	if e := c.Edge(vpcID); e != nil {
		return e.Preview(p)
	}
	return nat.Impact{}, p.Validate()
}

// Apply implements region.Engines.
func (c *Cloud) Apply(vpcID string, p *nat.Policy) (nat.Impact, error) {
	if e := c.Edge(vpcID); e != nil {
		impact, err := e.Apply(p)
		if err == nil {
			c.x.steer(vpcID, p)
		}
		return impact, err
	}
	e, err := lab.NewEdge(lab.EdgeOptions{
		Engine: c.o.Engine, Policy: p, Taps: c.o.Taps, Fault: c.o.Fault,
		Ports: []lab.Port{{Name: Internet, Device: c.x.plug(vpcID), ID: vpc.OutsideAttachment, Side: nat.Outside}},
	})
	if err != nil {
		return nat.Impact{}, err
	}
	c.x.steer(vpcID, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.edges[vpcID] = e
	return nat.Impact{}, nil
}

// Remove implements region.Engines.
func (c *Cloud) Remove(vpcID string) (nat.Impact, error) {
	e := c.Edge(vpcID)
	if e == nil {
		return nat.Impact{}, nil
	}
	impact, err := e.Apply(&nat.Policy{})
	c.x.steer(vpcID, nil)
	c.mu.Lock()
	delete(c.edges, vpcID)
	c.mu.Unlock()
	return impact, errors.Join(err, e.Close())
}

// PoolStats implements region.Meters.
func (c *Cloud) PoolStats(vpcID string) []nat.PoolStats {
	if e := c.Edge(vpcID); e != nil {
		return e.PoolStats()
	}
	return nil
}

// Observe makes the machines those of the model: region.Options.Observe. What fails does not stop the rest, and is tried
// again the next time.
func (c *Cloud) Observe(m *vpc.Model) error {
	pool := m.PublicPool()
	if slices.ContainsFunc(pool, func(p netip.Prefix) bool { return p.Contains(c.o.Internet) }) {
		return fmt.Errorf("the internet's own address %v is in the public pool", c.o.Internet)
	}
	if c.x.serve(pool, transits(m)) {
		if err := c.internet.Up(c.uplink(pool)); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cards := map[string][]vpc.NetworkInterface{}
	for _, n := range m.DescribeNetworkInterfaces() {
		if n.InstanceID != "" {
			cards[n.InstanceID] = append(cards[n.InstanceID], n)
		}
	}
	var faults []error
	there := map[string]bool{}
	for _, i := range m.DescribeInstances() {
		if i.State == vpc.Terminated {
			continue
		}
		there[i.ID] = true
		if err := c.build(i, cards[i.ID]); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", i.ID, err))
		}
	}
	for id, k := range c.machines {
		if !there[id] {
			faults = append(faults, c.tearDown(k))
			delete(c.machines, id)
		}
	}
	return errors.Join(faults...)
}

// transits are what VPCs reach through the transit gateways that they share.
func transits(m *vpc.Model) map[string][]network {
	members := map[string][]string{} // of a transit gateway
	for _, a := range m.DescribeTransitGatewayVPCAttachments() {
		members[a.TransitGatewayID] = append(members[a.TransitGatewayID], a.VPCID)
	}
	out := map[string][]network{}
	for _, g := range m.DescribeTransitGateways() {
		for _, from := range members[g.ID] {
			for _, v := range m.DescribeVPCs() {
				if v.ID == from || !slices.Contains(members[g.ID], v.ID) {
					continue
				}
				for _, p := range v.CIDRs {
					out[from] = append(out[from], network{p, v.ID})
				}
			}
		}
	}
	return out
}

// build makes a machine what its instance is.
func (c *Cloud) build(i vpc.Instance, cards []vpc.NetworkInterface) error {
	k := c.machines[i.ID]
	if k == nil {
		h, err := lab.NewHost(c.o.Name(i), c.o.Host)
		if err != nil {
			return err
		}
		k = &machine{host: h, cards: map[string]*card{}}
		c.machines[i.ID] = k
	}
	wanted := map[string]bool{}
	for _, n := range cards {
		wanted[n.ID] = true
	}
	for id, d := range k.cards {
		if !wanted[id] {
			if err := c.unplug(k, id, d); err != nil {
				return err
			}
		}
	}
	runs := i.State == vpc.Running
	slices.SortFunc(cards, func(a, b vpc.NetworkInterface) int { return cmp.Compare(a.DeviceIndex, b.DeviceIndex) })
	for _, n := range cards {
		if err := c.plug(k, n, runs); err != nil {
			return err
		}
	}
	k.runs = runs
	return nil
}

// plug makes a card of a machine what its network interface is.
func (c *Cloud) plug(k *machine, n vpc.NetworkInterface, runs bool) error {
	var ips []netip.Addr
	for _, a := range n.Addresses {
		ips = append(ips, a.PrivateIP)
	}
	d := k.cards[n.ID]
	fresh := d == nil
	if fresh {
		e := c.edges[n.VPCID]
		if e == nil {
			return fmt.Errorf("%s has no edge", n.VPCID)
		}
		d = &card{at: n.Attachment, vpc: n.VPCID, link: lab.Link{
			Name: fmt.Sprintf("eth%d", n.DeviceIndex), MTU: c.o.InsideMTU, Queue: queue, Routes: []netip.Prefix{everywhere},
		}}
		if n.DeviceIndex > 0 { // what is sent from its addresses leaves by it; all else by the primary one
			d.link.Table = 100 + n.DeviceIndex
		}
		dev, err := k.host.OpenTUN(d.link)
		if err != nil {
			return err
		}
		if err := e.Attach(lab.Port{Name: k.host.Name(), Device: dev, ID: n.Attachment, Side: nat.Inside}); err != nil {
			return errors.Join(err, dev.Close())
		}
		k.cards[n.ID] = d
	}
	if fresh || !slices.Equal(d.addresses, ips) {
		if err := k.host.SetAddresses(d.link, ips); err != nil {
			return err
		}
		d.addresses = ips
	}
	switch {
	case runs && (fresh || !k.runs):
		return k.host.Up(d.link)
	case !runs && (fresh || k.runs):
		return k.host.Down(d.link)
	}
	return nil
}

// unplug removes a card.
func (c *Cloud) unplug(k *machine, id string, d *card) error {
	delete(k.cards, id)
	err := k.host.SetAddresses(d.link, nil)
	if e := c.edges[d.vpc]; e != nil {
		err = errors.Join(err, e.Detach(d.at))
	}
	return err
}

func (c *Cloud) tearDown(k *machine) error {
	var faults []error
	for id, d := range k.cards {
		faults = append(faults, c.unplug(k, id, d))
	}
	k.host.Close()
	return errors.Join(faults...)
}

// Host is the host of an instance, or of the internet by that name, whether the instance runs or is stopped; nil if there
// is none.
func (c *Cloud) Host(name string) (h *lab.Host, runs bool) {
	if name == Internet {
		return c.internet, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.machines[name]; k != nil {
		return k.host, k.runs
	}
	return nil, false
}

// Err is what has gone wrong in the edges and between them so far, or nil.
func (c *Cloud) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	faults := []error{c.err}
	for _, id := range slices.Sorted(maps.Keys(c.edges)) {
		faults = append(faults, c.edges[id].Err())
	}
	return errors.Join(faults...)
}

// Dropped is how many packets between the VPCs and the internet went nowhere: no engine is asked about those.
func (c *Cloud) Dropped() uint64 { return c.x.dropped.Load() }

// Close ends everything. It may be called once, when the region makes no more changes.
func (c *Cloud) Close() error {
	c.mu.Lock()
	edges, machines := c.edges, c.machines
	c.edges, c.machines = map[string]*lab.Edge{}, map[string]*machine{}
	c.mu.Unlock()
	var faults []error
	for _, e := range edges {
		faults = append(faults, e.Close())
	}
	for _, k := range machines {
		k.host.Close()
	}
	faults = append(faults, c.x.internet.Close())
	c.wg.Wait()
	c.internet.Close()
	return errors.Join(faults...)
}

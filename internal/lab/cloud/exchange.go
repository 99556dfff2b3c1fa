// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// exchange is where the outsides of all VPCs meet one another and the internet. A packet goes to the VPC that has its
// destination: a public address, or, between VPCs that share a transit gateway, a private one. Everything else is the
// internet's, if its source is public; and so that it is the engines that refuse, and count, packets for public addresses
// that nobody has go to one of them.
type exchange struct {
	internet tun.Device
	private  []netip.Prefix // Options.Private
	dropped  atomic.Uint64
	writing  sync.Mutex // of internet

	mu      sync.RWMutex
	pool    []netip.Prefix // of the region
	outlets map[string]*outlet
	owner   map[netip.Addr]string
	transit map[string][]network // what a VPC reaches through transit gateways
}

// network is a prefix of a VPC.
type network struct {
	prefix netip.Prefix
	vpc    string
}

// outletQueue is how many packets wait for an edge. One more is lost, as on a wire.
const (
	outletQueue = 4096
	outletBatch = 64
)

// outlet is the outside port of a VPC's edge.
type outlet struct {
	x      *exchange
	vpc    string
	mtu    int
	in     chan packet.Packet
	closed chan struct{}
	once   sync.Once
}

var _ tun.Device = (*outlet)(nil)

func newExchange(internet tun.Device) *exchange {
	return &exchange{internet: internet, outlets: map[string]*outlet{}, owner: map[netip.Addr]string{}}
}

// plug makes the outlet of a VPC; it goes with its Close.
func (x *exchange) plug(vpcID string) *outlet {
	mtu, err := x.internet.MTU()
	if err != nil {
		mtu = 0
	}
	o := &outlet{x: x, vpc: vpcID, mtu: mtu, in: make(chan packet.Packet, outletQueue), closed: make(chan struct{})}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.outlets[vpcID] = o
	return o
}

// steer says which public addresses a VPC has, by its policy; nil is none.
func (x *exchange) steer(vpcID string, p *nat.Policy) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for a, id := range x.owner {
		if id == vpcID {
			delete(x.owner, a)
		}
	}
	if p == nil {
		return
	}
	for _, s := range p.Static {
		x.owner[s.Outside] = vpcID
	}
	for _, q := range p.Pools {
		if !q.Private {
			for _, a := range slices.Concat(q.Addresses, q.Draining) {
				x.owner[a] = vpcID
			}
		}
	}
}

// serve says which public addresses there are, and what each VPC reaches through transit gateways. It reports whether the
// addresses are others than before.
func (x *exchange) serve(pool []netip.Prefix, transit map[string][]network) (changed bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	changed = !slices.Equal(pool, x.pool)
	x.pool, x.transit = pool, transit
	return changed
}

// isPublic reports whether an address is of the region's pool.
func (x *exchange) isPublic(a netip.Addr) bool { return contains(x.pool, a) }

func contains(all []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) })
}

// way is where a packet from a VPC, "" for the internet, goes: an outlet, or the internet.
func (x *exchange) way(from string, src, dst netip.Addr) (to *outlet, internet bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	public := x.isPublic(src)
	switch {
	case from == "" && (public || !x.isPublic(dst) && !contains(x.private, dst)): // spoofed, or for nobody here
		return nil, false
	case from == "" || x.isPublic(dst):
		if from != "" && !public {
			return nil, false
		}
		if o := x.outlets[x.owner[dst]]; o != nil {
			return o, false
		}
		for _, o := range x.outlets { // whose engine counts it
			if to == nil || o.vpc < to.vpc {
				to = o
			}
		}
		return to, false
	case public:
		return nil, true
	}
	for _, n := range x.transit[from] {
		if n.prefix.Contains(dst) {
			return x.outlets[n.vpc], false
		}
	}
	return nil, false
}

// send takes packets of a VPC, or of the internet, to where they go.
func (x *exchange) send(from string, ps []packet.Packet) error {
	var out []packet.Packet
	for i := range ps {
		p := &ps[i]
		if p.Len < 20 {
			x.dropped.Add(1)
			continue
		}
		b := p.Bytes()
		to, internet := x.way(from, netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])))
		switch {
		case internet:
			out = append(out, *p)
		case to == nil || !to.take(p):
			x.dropped.Add(1)
		}
	}
	if len(out) == 0 {
		return nil
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	_, err := x.internet.Write(out)
	return err
}

// listen takes what comes from the internet to the VPCs, until the device is closed.
func (x *exchange) listen() error {
	ps := make([]packet.Packet, x.internet.BatchSize())
	for i := range ps {
		ps[i].Buf = make([]byte, x.internet.BufferSize())
	}
	for {
		n, err := x.internet.Read(ps)
		if err != nil {
			return err
		}
		if err := x.send("", ps[:n]); err != nil {
			return err
		}
	}
}

// take copies a packet for the edge to read, and reports whether there was room.
func (o *outlet) take(p *packet.Packet) bool {
	q := packet.From(p.Bytes())
	q.Offload = p.Offload
	select {
	case <-o.closed:
		return false
	case o.in <- q:
		return true
	default:
		return false
	}
}

// Name implements tun.Device.
func (o *outlet) Name() string { return o.vpc }

// MTU implements tun.Device.
func (o *outlet) MTU() (int, error) { return o.mtu, nil }

// BatchSize implements tun.Device.
func (o *outlet) BatchSize() int { return outletBatch }

// BufferSize implements tun.Device.
func (o *outlet) BufferSize() int { return packet.Headroom + 65536 }

// Read implements tun.Device.
func (o *outlet) Read(ps []packet.Packet) (n int, err error) {
	ps = ps[:min(len(ps), outletBatch)]
	if len(ps) == 0 {
		return 0, nil
	}
	select {
	case <-o.closed:
		return 0, os.ErrClosed
	default:
	}
	select {
	case p := <-o.in:
		fill(&ps[0], p)
	case <-o.closed:
		return 0, os.ErrClosed
	}
	for n = 1; n < len(ps); n++ {
		select {
		case p := <-o.in:
			fill(&ps[n], p)
		default:
			return n, nil
		}
	}
	return n, nil
}

func fill(dst *packet.Packet, p packet.Packet) {
	dst.Off, dst.Len, dst.Offload = packet.Headroom, p.Len, p.Offload
	copy(dst.Buf[packet.Headroom:], p.Bytes())
}

// Write implements tun.Device. What the internet's interface refuses is in the error.
func (o *outlet) Write(ps []packet.Packet) (int, error) {
	select {
	case <-o.closed:
		return 0, os.ErrClosed
	default:
	}
	if err := o.x.send(o.vpc, ps); err != nil {
		return 0, err
	}
	return len(ps), nil
}

// Close implements tun.Device.
func (o *outlet) Close() error {
	o.once.Do(func() {
		close(o.closed)
		o.x.mu.Lock()
		defer o.x.mu.Unlock()
		delete(o.x.outlets, o.vpc)
	})
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/netstack"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun/tuntest"
	"github.com/tidegate/tidegate/vpc"
)

// netstackWorld is a World in this process: the drawing of kernelWorld, with gVisor stacks for hosts, and wires in
// memory for TUNs and cables.
type netstackWorld struct {
	*lab.Edge
	hosts   map[string]*netstackHost
	routers []*netstack.Router
	wires   []*tuntest.Device // the ends that are not the edge's
	reading sync.WaitGroup    // a goroutine for each of them
	log     lab.Log
}

// NewNetstackWorld makes the hosts, and an edge with the policy of n. The taps see the edge's packets; the fault is for
// tests. It needs no privilege and works on any system.
func NewNetstackWorld(n *Network, fault lab.Fault, taps ...lab.Tap) (_ World, err error) {
	w := &netstackWorld{hosts: map[string]*netstackHost{}}
	var ports []lab.Port
	defer func() {
		if err != nil {
			if w.Edge == nil {
				for _, p := range ports {
					err = errors.Join(err, p.Device.Close())
				}
			}
			err = errors.Join(err, w.Close())
		}
	}()
	for _, h := range insideHosts {
		near, far := wire(linkMTU)
		ports = append(ports, lab.Port{Name: h.name, Device: near, ID: n.Attachment(h.name), Side: nat.Inside})
		if err := w.addHost(h.name, h.addr, far); err != nil {
			return nil, err
		}
	}
	near, far := wire(linkMTU)
	ports = append(ports, lab.Port{Name: Internet, Device: near, ID: vpc.OutsideAttachment, Side: nat.Outside})
	if err := w.addInternet(far); err != nil {
		return nil, err
	}
	p, err := n.Policy()
	if err != nil {
		return nil, err
	}
	w.Edge, err = lab.NewEdge(lab.EdgeOptions{Policy: p, Ports: ports, Taps: append(taps, w.log.Tap), Fault: fault})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// wire is a cable in memory. It takes all that a scanner sends at once.
func wire(mtu int) (a, b *tuntest.Device) {
	return tuntest.Pipe(tuntest.Options{MTU: mtu, Queue: edgeQueue})
}

// send is what puts a stack's packets on a wire. What finds it full or closed is lost, as on any other.
func send(to *tuntest.Device) func([]byte) {
	return func(b []byte) { _ = to.Send(packet.From(b)) }
}

// receive hands what comes from a wire to a stack, until the world is closed.
func (w *netstackWorld) receive(from *tuntest.Device, inject func([]byte)) {
	w.wires = append(w.wires, from)
	w.reading.Go(func() {
		for {
			p, err := from.Receive(context.Background())
			if err != nil {
				return
			}
			inject(p.Bytes())
		}
	})
}

// addHost puts a host at the end of a wire.
func (w *netstackWorld) addHost(name string, a netip.Addr, end *tuntest.Device) error {
	h := &netstackHost{name: name}
	h.plugged.Store(true)
	out := send(end)
	stack, err := netstack.New(netstack.Config{Addrs: []netip.Addr{a}, MTU: linkMTU, Seed: uint64(len(w.hosts)), Output: func(b []byte) {
		if h.plugged.Load() {
			out(b)
		}
	}})
	if err != nil {
		return fmt.Errorf("host %s: %w", name, err)
	}
	h.Host = stack
	w.hosts[name] = h
	w.receive(end, func(b []byte) {
		if h.plugged.Load() {
			stack.Inject(b)
		}
	})
	return nil
}

// addInternet puts the two routers and the hosts behind them at the edge's outside wire.
func (w *netstackWorld) addInternet(edge *tuntest.Device) error {
	toClient, client := wire(linkMTU)
	toScanner, scanner := wire(linkMTU)
	toTransit, toInternet := wire(narrowMTU)
	toMirror, mirror := wire(linkMTU)
	cable := func(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, 30).Masked()} }
	add := func(wires []*tuntest.Device, interfaces ...netstack.Interface) error {
		for i := range interfaces {
			interfaces[i].Output = send(wires[i])
		}
		r, err := netstack.NewRouter(interfaces...)
		if err != nil {
			return err
		}
		w.routers = append(w.routers, r)
		for _, end := range wires {
			w.receive(end, r.Inject)
		}
		return nil
	}
	return errors.Join(
		add([]*tuntest.Device{edge, toClient, toScanner, toTransit},
			// A real internet would not route private addresses here; this one does, so that it is the edge that refuses them.
			netstack.Interface{Addr: internetAddr, MTU: linkMTU, Routes: []netip.Prefix{publicPool, vpcPrefix}},
			netstack.Interface{Addr: clientAddr.Prev(), MTU: linkMTU, Routes: cable(clientAddr)},
			netstack.Interface{Addr: scannerAddr.Prev(), MTU: linkMTU, Routes: cable(scannerAddr)},
			netstack.Interface{Addr: transitAddr.Prev(), MTU: narrowMTU, Routes: append(cable(transitAddr), cable(mirrorAddr)...)}),
		add([]*tuntest.Device{toInternet, toMirror},
			netstack.Interface{Addr: transitAddr, MTU: narrowMTU, Routes: []netip.Prefix{everywhere}},
			netstack.Interface{Addr: mirrorAddr.Prev(), MTU: linkMTU, Routes: cable(mirrorAddr)}),
		w.addHost(Client, clientAddr, client),
		w.addHost(Scanner, scannerAddr, scanner),
		w.addHost(Mirror, mirrorAddr, mirror))
}

func (w *netstackWorld) Host(name string) Host { return w.hosts[name] }

func (w *netstackWorld) Log() *lab.Log { return &w.log }

func (w *netstackWorld) Follow(n *Network) error {
	p, err := n.Policy()
	if err != nil {
		return err
	}
	if _, err := w.Apply(p); err != nil {
		return err
	}
	for _, h := range insideHosts {
		w.hosts[h.name].plugged.Store(n.instance(h.name).State == vpc.Running)
	}
	return nil
}

func (w *netstackWorld) ChecksumErrors() (sum uint64, _ error) {
	for _, h := range w.hosts {
		sum += h.ChecksumErrors()
	}
	for _, r := range w.routers {
		sum += r.ChecksumErrors()
	}
	return sum, nil
}

// Enter says nothing: there are no shells in such hosts.
func (w *netstackWorld) Enter() []string { return nil }

func (w *netstackWorld) Close() error {
	var errs []error
	if w.Edge != nil {
		errs = append(errs, w.Edge.Close())
	}
	var closers []io.Closer
	for _, h := range w.hosts {
		closers = append(closers, h)
	}
	for _, d := range w.wires {
		closers = append(closers, d)
	}
	for _, c := range closers {
		errs = append(errs, c.Close())
	}
	w.reading.Wait()
	return errors.Join(errs...)
}

// netstackHost is a Host that runs no programs.
type netstackHost struct {
	*netstack.Host
	name    string
	plugged atomic.Bool
}

func (h *netstackHost) Name() string { return h.name }

func (h *netstackHost) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialContext(ctx, network, address)
}

func (h *netstackHost) DialFrom(ctx context.Context, network string, port uint16, remote netip.AddrPort) (net.Conn, error) {
	local := netip.AddrPortFrom(netip.Addr{}, port)
	var c net.Conn
	var err error
	if network == "udp" {
		c, err = h.DialUDP(local, remote)
	} else {
		c, err = h.DialTCP(ctx, local, remote)
	}
	if err != nil {
		return nil, err // and not a nil of some type
	}
	return c, nil
}

func (h *netstackHost) Probe(ctx context.Context, p lab.Probe) (lab.ProbeReply, error) {
	r, err := h.probe(ctx, p)
	if err != nil {
		return r, fmt.Errorf("host %s: probe %s: %w", h.name, p.To, err)
	}
	return r, nil
}

func (h *netstackHost) probe(ctx context.Context, p lab.Probe) (r lab.ProbeReply, err error) {
	c, err := h.DialUDP(netip.AddrPort{}, p.To)
	if err != nil {
		return r, err
	}
	defer c.Close()
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	replies := make(chan lab.ProbeReply, 1)
	defer h.Tap(func(b []byte) {
		e, ok := netstack.ParseICMPError(b)
		if !ok || e.Proto != packet.UDP || e.Src.Port() != port || e.Dst != p.To {
			return
		}
		select {
		case replies <- lab.ProbeReply{From: e.From, Type: e.Type, Code: e.Code, MTU: e.MTU}:
		default: // the first counts
		}
	})()
	if err := errors.Join(c.DontFragment(), c.SetTTL(uint8(p.TTL))); err != nil {
		return r, err
	}
	if _, err := c.Write(make([]byte, p.Size-28)); err != nil {
		return r, err
	}
	select {
	case r := <-replies:
		return r, nil
	case <-ctx.Done():
		return r, context.Cause(ctx)
	}
}

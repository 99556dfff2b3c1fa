// SPDX-License-Identifier: Apache-2.0

package story

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// kernelWorld is a World of network namespaces: a TUN into the edge for each inside host, one for the internet, and
// veth pairs beyond.
//
//	web      ─┐
//	bastion  ─┤               ┌─ client
//	was      ─┼─ edge ─ internet ─ scanner
//	db       ─┘               └─ (MTU 1400) ─ transit ─ mirror
type kernelWorld struct {
	*lab.Edge
	hosts map[string]*lab.Host
	order []string
	log   lab.Log
}

// edgeLink is what an inside host has: its address, and everything else behind the edge.
func edgeLink(h placement) lab.Link {
	return lab.Link{Name: "eth0", Addr: netip.PrefixFrom(h.addr, 32), MTU: linkMTU, Queue: edgeQueue, Routes: []netip.Prefix{everywhere}}
}

// NewKernelWorld makes the hosts, and an edge with the policy of n. The taps see the edge's packets; the fault is for
// tests. It needs root and /dev/net/tun.
func NewKernelWorld(n *Network, fault lab.Fault, taps ...lab.Tap) (_ World, err error) {
	w := &kernelWorld{hosts: map[string]*lab.Host{}}
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
	names := map[string]netip.Addr{Mirror: mirrorAddr, Client: clientAddr, Scanner: scannerAddr}
	for _, h := range insideHosts {
		names[h.name] = h.addr
	}
	// sshd without PAM refuses root where the machine has locked that account. Here it is not locked, and has no password.
	shadow := map[string]string{"/etc/shadow": "root:*:::::::\n"}
	add := func(name string, o lab.HostOptions) error {
		o.Hosts, o.Files = names, shadow
		h, err := lab.NewHost(name, o)
		if err == nil {
			w.hosts[name] = h
			w.order = append(w.order, name)
		}
		return err
	}
	for _, h := range insideHosts {
		if err := add(h.name, lab.HostOptions{}); err != nil {
			return nil, err
		}
		dev, err := w.hosts[h.name].OpenTUN(edgeLink(h))
		if err != nil {
			return nil, err
		}
		ports = append(ports, lab.Port{Name: h.name, Device: dev, ID: n.Attachment(h.name), Side: nat.Inside})
	}
	for _, name := range []string{Internet, Transit, Mirror, Client, Scanner} {
		if err := add(name, lab.HostOptions{Forward: name == Internet || name == Transit}); err != nil {
			return nil, err
		}
	}
	dev, err := w.hosts[Internet].OpenTUN(lab.Link{Name: "edge", Addr: netip.PrefixFrom(internetAddr, 32), MTU: linkMTU, Queue: edgeQueue,
		// A real internet would not route private addresses here; this one does, so that it is the edge that refuses them.
		Routes: []netip.Prefix{publicPool, vpcPrefix}})
	if err != nil {
		return nil, err
	}
	ports = append(ports, lab.Port{Name: Internet, Device: dev, ID: vpc.OutsideAttachment, Side: nat.Outside})
	if err := w.connect(); err != nil {
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

// connect lays the cables of the internet, a small network each.
func (w *kernelWorld) connect() error {
	toTransit := netip.PrefixFrom(transitAddr.Prev(), 30)
	cables := []struct {
		router, host     string
		routerAt, hostAt netip.Prefix
		mtu              int
		behind           []netip.Prefix // what the router reaches through the host
	}{
		{Internet, Client, netip.PrefixFrom(clientAddr.Prev(), 30), netip.PrefixFrom(clientAddr, 30), linkMTU, nil},
		{Internet, Scanner, netip.PrefixFrom(scannerAddr.Prev(), 30), netip.PrefixFrom(scannerAddr, 30), linkMTU, nil},
		{Internet, Transit, toTransit, netip.PrefixFrom(transitAddr, 30), narrowMTU, []netip.Prefix{netip.PrefixFrom(mirrorAddr, 30).Masked()}},
		{Transit, Mirror, netip.PrefixFrom(mirrorAddr.Prev(), 30), netip.PrefixFrom(mirrorAddr, 30), linkMTU, nil},
	}
	for _, c := range cables {
		err := lab.Connect(
			w.hosts[c.router], lab.Link{Name: c.host, Addr: c.routerAt, MTU: c.mtu, Routes: c.behind, Via: via(c.behind, c.hostAt)},
			w.hosts[c.host], lab.Link{Name: "eth0", Addr: c.hostAt, MTU: c.mtu, Routes: []netip.Prefix{everywhere}, Via: c.routerAt.Addr()})
		if err != nil {
			return err
		}
	}
	return nil
}

func via(behind []netip.Prefix, next netip.Prefix) netip.Addr {
	if behind == nil {
		return netip.Addr{}
	}
	return next.Addr()
}

func (w *kernelWorld) Host(name string) Host { return w.hosts[name] }

func (w *kernelWorld) Log() *lab.Log { return &w.log }

func (w *kernelWorld) Plug(name string, connected bool) error {
	i := slices.IndexFunc(insideHosts, func(h placement) bool { return h.name == name })
	if i < 0 {
		return fmt.Errorf("%s is no host of the edge", name)
	}
	if connected {
		return w.hosts[name].Up(edgeLink(insideHosts[i]))
	}
	return w.hosts[name].Down(edgeLink(insideHosts[i]))
}

func (w *kernelWorld) ChecksumErrors() (uint64, error) {
	var sum uint64
	for _, name := range w.order {
		for _, group := range []string{"Tcp", "Udp", "Icmp"} {
			n, err := w.hosts[name].Counter(group, "InCsumErrors")
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

func (w *kernelWorld) Close() error {
	var err error
	if w.Edge != nil {
		err = w.Edge.Close()
	}
	for _, name := range w.order {
		w.hosts[name].Close()
	}
	return err
}

func (w *kernelWorld) Enter() (lines []string) {
	for _, name := range w.order {
		lines = append(lines, fmt.Sprintf("%-9s %s", name, w.hosts[name].Enter()))
	}
	return lines
}

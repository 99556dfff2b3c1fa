// SPDX-License-Identifier: Apache-2.0

package story

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/cloud"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/vpc"
)

// kernelWorld is a World of network namespaces: the cloud of the network's VPC, with a TUN into its edge for each instance
// and one for the internet, and veth pairs beyond.
//
//	web      ─┐
//	bastion  ─┤               ┌─ client
//	was      ─┼─ edge ─ internet ─ scanner
//	db       ─┘               └─ (MTU 1400) ─ transit ─ mirror
type kernelWorld struct {
	cloud   *cloud.Cloud
	vpc     string
	outside map[string]*lab.Host // those that are no instances
	inside  map[string]string    // instances, by name
	log     lab.Log
}

// NewKernelWorld makes the hosts, and an edge with the policy of n. The taps see the edge's packets; the fault is for
// tests. It needs root and /dev/net/tun.
func NewKernelWorld(n *Network, fault lab.Fault, taps ...lab.Tap) (_ World, err error) {
	w := &kernelWorld{vpc: n.vpc, outside: map[string]*lab.Host{}, inside: n.instances}
	names := map[string]netip.Addr{Mirror: mirrorAddr, Client: clientAddr, Scanner: scannerAddr}
	called := map[netip.Addr]string{}
	for _, h := range insideHosts {
		names[h.name], called[h.addr] = h.addr, h.name
	}
	o := lab.HostOptions{Hosts: names,
		// sshd without PAM refuses root where the machine has locked that account. Here it is not locked, and has no password.
		Files: map[string]string{"/etc/shadow": "root:*:::::::\n"}}
	w.cloud, err = cloud.New(cloud.Options{
		Internet: internetAddr, InsideMTU: linkMTU, OutsideMTU: linkMTU, Taps: append(taps, w.log.Tap), Fault: fault, Host: o,
		Name: func(i vpc.Instance) string { return called[i.PrivateIP] },
		// A real internet would not route private addresses here; this one does, so that it is the edge that refuses them.
		Private: []netip.Prefix{vpcPrefix},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	w.outside[Internet] = w.cloud.InternetHost()
	for _, name := range []string{Transit, Mirror, Client, Scanner} {
		o.Forward = name == Transit
		h, err := lab.NewHost(name, o)
		if err != nil {
			return nil, err
		}
		w.outside[name] = h
	}
	if err := w.connect(); err != nil {
		return nil, err
	}
	return w, w.Follow(n)
}

// Follow has the cloud be what the network is.
func (w *kernelWorld) Follow(n *Network) error {
	p, err := n.Policy()
	if err != nil {
		return err
	}
	if _, err := w.cloud.Apply(w.vpc, p); err != nil {
		return err
	}
	return w.cloud.Observe(n.model)
}

func (w *kernelWorld) Stats() nat.Stats { return w.cloud.Edge(w.vpc).Stats() }

func (w *kernelWorld) Sessions() iter.Seq[nat.Session] { return w.cloud.Edge(w.vpc).Sessions() }

func (w *kernelWorld) Err() error { return w.cloud.Err() }

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
			w.outside[c.router], lab.Link{Name: c.host, Addr: c.routerAt, MTU: c.mtu, Routes: c.behind, Via: via(c.behind, c.hostAt)},
			w.outside[c.host], lab.Link{Name: "eth0", Addr: c.hostAt, MTU: c.mtu, Routes: []netip.Prefix{everywhere}, Via: c.routerAt.Addr()})
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

// order is that of the plan, for people.
var order = []string{Web, Bastion, Was, DB, Internet, Transit, Mirror, Client, Scanner}

func (w *kernelWorld) host(name string) *lab.Host {
	if h := w.outside[name]; h != nil {
		return h
	}
	h, _ := w.cloud.Host(w.inside[name])
	return h
}

func (w *kernelWorld) Host(name string) Host { return w.host(name) }

func (w *kernelWorld) Log() *lab.Log { return &w.log }

func (w *kernelWorld) ChecksumErrors() (uint64, error) {
	var sum uint64
	for _, name := range order {
		for _, group := range []string{"Tcp", "Udp", "Icmp"} {
			n, err := w.host(name).Counter(group, "InCsumErrors")
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

func (w *kernelWorld) Close() error {
	for name, h := range w.outside {
		if name != Internet {
			h.Close()
		}
	}
	return w.cloud.Close()
}

func (w *kernelWorld) Enter() (lines []string) {
	for _, name := range order {
		lines = append(lines, fmt.Sprintf("%-9s %s", name, w.host(name).Enter()))
	}
	return lines
}

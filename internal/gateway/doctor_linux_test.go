// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// TestDoctor plants what gets in the way, one thing after the other, and wants each to be named.
func TestDoctor(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	args := []string{"doctor", "--inside", "10.0.0.0/16", "--public", "203.0.113.1"}
	out, exit := b.command(args...)
	if exit != 0 || !strings.Contains(out, "nothing is in the way") {
		t.Fatalf("on a clean machine: exit %d\n%s", exit, out)
	}
	err := onLink(b.gw, "eth2", func(nl *netlink.Handle, l netlink.Link) error {
		return nl.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("172.16.5.0/24"), Gw: srvAddr.AsSlice()})
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, exit := b.command(args...); exit != 0 || !strings.Contains(out, "172.16.5.0/24, on eth2, is not inside") {
		t.Errorf("a network of somebody else: exit %d\n%s", exit, out)
	}
	sysctl := func(name, value string) func() error {
		return func() error { return b.gw.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Src = 100, 254, ipNet("10.0.1.0/24")
	for _, p := range []struct {
		want string
		do   func() error
	}{
		{"a routing rule of somebody else is looked at before the gateway's: 100: from 10.0.1.0/24 to all lookup 254", func() error {
			return onLink(b.gw, "lo", func(nl *netlink.Handle, _ netlink.Link) error { return nl.RuleAdd(rule) })
		}},
		{"rp_filter is strict on eth1", sysctl("ipv4/conf/eth1/rp_filter", "1")},
		{"forwarding is off on eth2 alone", func() error {
			return errors.Join(sysctl("ipv4/ip_forward", "1")(), sysctl("ipv4/conf/eth2/forwarding", "0")())
		}},
		{"the machine forwards IPv6, which goes around the gateway", sysctl("ipv6/conf/all/forwarding", "1")},
		{"203.0.113.1 is an address of lo", func() error {
			return onLink(b.gw, "lo", func(nl *netlink.Handle, l netlink.Link) error {
				return nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet("203.0.113.1/32")})
			})
		}},
		{"the firewall drops forwarded packets by default (chain fw forward)", b.dropForwarded},
	} {
		if err := p.do(); err != nil {
			t.Fatalf("plant %q: %v", p.want, err)
		}
		out, exit := b.command(args...)
		if exit != 1 || !strings.Contains(out, "problem: "+p.want) {
			t.Errorf("exit %d, want %q in\n%s", exit, p.want, out)
		}
	}
}

// dropForwarded is what many a firewall begins with.
func (b *bed) dropForwarded() error {
	return b.gw.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: "fw", Family: nftables.TableFamilyINet}
		drop := nftables.ChainPolicyDrop
		c.AddTable(table)
		c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		return c.Flush()
	})
}

// TestWarns: a gateway that starts behind such a firewall says so.
func TestWarns(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	if err := b.dropForwarded(); err != nil {
		t.Fatal(err)
	}
	if g := b.start(); !strings.Contains(g.text(), `"level":"WARN","msg":"the firewall drops forwarded packets by default (chain fw forward)`) {
		t.Errorf("no warning in\n%s", g.text())
	}
}

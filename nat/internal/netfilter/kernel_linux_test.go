// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/nat/internal/craft"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
)

// kernel is a Linux router that does NAT, in a namespace.
type kernel struct {
	t      *testing.T
	host   *lab.Host
	dev    [2]tun.Device // by nat.Side
	out    [2]chan []byte
	marker [2][]byte
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the kernel's NAT can only be tested by root, in a network namespace (CAP_SYS_ADMIN)")
	}
	host, err := lab.NewHost("router", lab.HostOptions{Forward: true})
	skipIf(t, err, unix.EPERM)
	k := &kernel{t: t, host: host}
	t.Cleanup(host.Close)
	for side, l := range []lab.Link{
		nat.Inside:  {Name: "inside", Addr: netip.PrefixFrom(G, 16), MTU: insideMTU},
		nat.Outside: {Name: "outside", Addr: netip.PrefixFrom(PA, 32), MTU: outsideMTU, Routes: []netip.Prefix{everything}},
	} {
		k.dev[side], err = host.OpenTUN(l)
		skipIf(t, err, tun.ErrNoDevice, tun.ErrPermission)
		k.out[side] = make(chan []byte, 64)
		done := make(chan struct{})
		go func() { defer close(done); k.read(nat.Side(side)) }()
		t.Cleanup(func() { _ = k.dev[side].Close(); <-done })
	}
	// Markers pass between addresses that are on one side both, so that no NAT rule is about them.
	k.marker[nat.Inside] = craft.UDP(craft.IP{Src: G.Next(), Dst: markerInside}, 1, 1, nil)
	k.marker[nat.Outside] = craft.UDP(craft.IP{Src: X.Next(), Dst: markerOutside}, 1, 1, nil)
	skipIf(t, host.Do(k.setup), unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT)
	return k
}

// skipIf fails the test because of an error, unless it is one of those that say that the kernel has no such thing, or not
// for us.
func skipIf(t *testing.T, err error, absent ...error) {
	t.Helper()
	for _, a := range absent {
		if errors.Is(err, a) {
			t.Skip("the kernel's NAT, nf_tables between TUN interfaces in a network namespace, is not to be had here: ", err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

var markerInside, markerOutside = ip4("10.0.255.254"), ip4("192.0.2.254")

// setup is for the host's thread.
func (k *kernel) setup() error {
	// One thread on one processor writes to both interfaces, so that what it writes is forwarded in that order.
	var cpus, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return err
	}
	for i := range len(cpus) * 64 {
		if cpus.IsSet(i) {
			one.Set(i)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	for _, dev := range []string{"all", "inside", "outside"} {
		for _, off := range []string{
			"send_redirects",      // packets that hairpin leave where they came in, which is no mistake
			"accept_source_route", // as distributions have it
		} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/"+off, []byte("0"), 0); err != nil {
				return err
			}
		}
	}
	return errors.Join(addAddress("outside", E1), rules(), forget())
}

func addAddress(dev string, a netip.Addr) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())})
}

// rules are, as nft has them:
//
//	chain prerouting {
//		type nat hook prerouting priority dstnat
//		ip daddr E1 dnat to S
//		ip daddr PA tcp dport 8080 dnat to B:80
//		ip daddr PA udp dport 5353 dnat to B:53
//	}
//	chain postrouting {
//		type nat hook postrouting priority srcnat
//		oifname "outside" ip saddr S snat to E1
//		oifname "outside" ip saddr 10.0.0.0/16 masquerade
//		oifname "inside" ip saddr S ct status dnat snat to E1
//		oifname "inside" ip saddr 10.0.0.0/16 ct status dnat snat to PA
//	}
//	chain input { type filter hook input priority filter; policy drop }
//
// The last one is that of a router that is no server, so that the public addresses are the NAT's alone.
func rules() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	drop := nftables.ChainPolicyDrop
	c.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter, Policy: &drop})
	pre := c.AddChain(&nftables.Chain{Name: "prerouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	post := c.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		r := &nftables.Rule{Table: table, Chain: chain}
		for _, p := range parts {
			r.Exprs = append(r.Exprs, p...)
		}
		c.AddRule(r)
	}
	rule(pre, daddr(E1), to(expr.NATTypeDestNAT, S, 0))
	rule(pre, daddr(PA), dport(packet.TCP, 8080), to(expr.NATTypeDestNAT, B, 80))
	rule(pre, daddr(PA), dport(packet.UDP, 5353), to(expr.NATTypeDestNAT, B, 53))
	rule(post, oif("outside"), saddr(netip.PrefixFrom(S, 32)), to(expr.NATTypeSourceNAT, E1, 0))
	rule(post, oif("outside"), saddr(insideNet), []expr.Any{&expr.Masq{}})
	rule(post, oif("inside"), saddr(netip.PrefixFrom(S, 32)), dnatted(), to(expr.NATTypeSourceNAT, E1, 0))
	rule(post, oif("inside"), saddr(insideNet), dnatted(), to(expr.NATTypeSourceNAT, PA, 0))
	return c.Flush()
}

func equal(b []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

func payload(base expr.PayloadBase, at, n uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: at, Len: n}
}

func daddr(a netip.Addr) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseNetworkHeader, 16, 4), equal(a.AsSlice())}
}

func saddr(p netip.Prefix) []expr.Any {
	mask := be.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{payload(expr.PayloadBaseNetworkHeader, 12, 4),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)}, equal(p.Addr().AsSlice())}
}

func dport(proto uint8, port uint16) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{proto}),
		payload(expr.PayloadBaseTransportHeader, 2, 2), equal(be.AppendUint16(nil, port))}
}

func oif(name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, equal(b)}
}

// ipsDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

func dnatted() []expr.Any {
	bit := ne.AppendUint32(nil, ipsDstNAT)
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bit, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}}
}

func to(kind expr.NATType, a netip.Addr, port uint16) []expr.Any {
	n := &expr.NAT{Type: kind, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}
	e := []expr.Any{&expr.Immediate{Register: 1, Data: a.AsSlice()}, n}
	if port != 0 {
		n.RegProtoMin = 2
		e = append([]expr.Any{&expr.Immediate{Register: 2, Data: be.AppendUint16(nil, port)}}, e...)
	}
	return e
}

// read hands on what leaves on a side.
func (k *kernel) read(side nat.Side) {
	dev := k.dev[side]
	ps := make([]packet.Packet, dev.BatchSize())
	for i := range ps {
		ps[i].Buf = make([]byte, dev.BufferSize())
	}
	for {
		n, err := dev.Read(ps)
		if err != nil {
			return
		}
		for i := range ps[:n] {
			p := ps[i].Clone()
			k.out[side] <- p.Bytes()
		}
	}
}

// send writes a packet on a side and returns what leaves on both.
func (k *kernel) send(from nat.Side, b []byte) (left []output) {
	k.t.Helper()
	err := k.host.Do(func() error {
		var refused *tun.WriteError // what the interface does not take, the kernel drops
		if err := k.write(from, b); err != nil && !errors.As(err, &refused) {
			return err
		}
		return errors.Join(k.write(nat.Inside, k.marker[nat.Inside]), k.write(nat.Outside, k.marker[nat.Outside]))
	})
	if err != nil {
		k.t.Fatal(err)
	}
	patience := time.NewTimer(20 * time.Second)
	defer patience.Stop()
	for _, side := range []nat.Side{nat.Inside, nat.Outside} {
		for marked := false; !marked; {
			select {
			case b := <-k.out[side]:
				if marked = isMarker(b); !marked {
					left = append(left, output{side, b})
				}
			case <-patience.C:
				k.t.Fatalf("a marker that was sent on the %v did not come out", side)
			}
		}
	}
	return left
}

func (k *kernel) write(side nat.Side, b []byte) error {
	p := packet.From(b)
	_, err := k.dev[side].Write([]packet.Packet{p})
	return err
}

func isMarker(b []byte) bool {
	dst := netip.AddrFrom4([4]byte(b[16:20]))
	return dst == markerInside || dst == markerOutside
}

// reset forgets all connections.
func (k *kernel) reset() {
	k.t.Helper()
	if err := k.host.Do(forget); err != nil {
		k.t.Fatal(err)
	}
}

func forget() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }

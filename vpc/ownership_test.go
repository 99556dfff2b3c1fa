// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// ledger is an independent, naive account of who has which public address: it knows the rules and takes from the model
// only what nobody can foresee, the ids and the choice of an idle address, which it checks.
type ledger struct {
	m               *Model
	now             time.Time
	vpc             string
	public, private string
	idle            map[netip.Addr]time.Time // from when on it may be given away
	hosts           []*ledgerHost
	eips            []*ledgerEIP
}

type ledgerHost struct {
	id    string
	auto  bool
	state InstanceState
	lent  netip.Addr
}

type ledgerEIP struct {
	id, association string
	ip              netip.Addr
	host            *ledgerHost
	gateway         string
}

const ledgerQuota, ledgerRest = 4, time.Minute

func newLedger(t *rapid.T) *ledger {
	m, err := New(Config{
		Seed: rapid.Uint64().Draw(t, "seed"), PublicPool: []netip.Prefix{prefix("198.51.100.8/29")},
		AddressQuota: ledgerQuota, CoolDown: ledgerRest,
	})
	fatal(t, err)
	l := &ledger{m: m, now: t0, idle: map[netip.Addr]time.Time{}}
	for ip := addr("198.51.100.8"); ip != addr("198.51.100.16"); ip = ip.Next() {
		l.idle[ip] = t0
	}
	v, err := m.CreateVPC(prefix("10.0.0.0/16"))
	fatal(t, err)
	g := m.CreateInternetGateway()
	fatal(t, m.AttachInternetGateway(g.ID, v.ID))
	fatal(t, m.CreateRoute(v.MainRouteTableID, everything, g.ID))
	public, err := m.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.1.0/24"), MapPublicIPOnLaunch: true})
	fatal(t, err)
	private, err := m.CreateSubnet(CreateSubnetInput{VPCID: v.ID, CIDR: prefix("10.0.2.0/24")})
	fatal(t, err)
	l.vpc, l.public, l.private = v.ID, public.ID, private.ID
	return l
}

func fatal(t rapid.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expect asserts success for "" and the code otherwise, and reports whether the call succeeded.
func expect(t *rapid.T, err error, want Code) bool {
	t.Helper()
	if want == "" && err != nil || want != "" && !errors.Is(err, want) {
		t.Fatalf("got %v, want %q", err, want)
	}
	return err == nil
}

func (l *ledger) ready() bool {
	for _, at := range l.idle {
		if !at.After(l.now) {
			return true
		}
	}
	return false
}

// gave books an address that the model chose.
func (l *ledger) gave(t *rapid.T, ip netip.Addr) netip.Addr {
	at, idle := l.idle[ip]
	if !idle || at.After(l.now) {
		t.Fatalf("%v was given away: idle %v, ready at %v, now %v", ip, idle, at, l.now)
	}
	delete(l.idle, ip)
	return ip
}

func (l *ledger) back(ip netip.Addr) {
	if ip.IsValid() {
		l.idle[ip] = l.now.Add(ledgerRest)
	}
}

func (l *ledger) eipOf(h *ledgerHost) *ledgerEIP {
	for _, e := range l.eips {
		if e.host == h {
			return e
		}
	}
	return nil
}

// lend books the address that h must have got by now, if the rules give it one.
func (l *ledger) lend(t *rapid.T, h *ledgerHost) {
	if h.state == Running && h.auto && l.eipOf(h) == nil && l.ready() {
		i, err := l.m.Instance(h.id)
		fatal(t, err)
		h.lent = l.gave(t, i.PublicIP)
	}
}

func (l *ledger) host(t *rapid.T) *ledgerHost {
	if len(l.hosts) == 0 {
		return &ledgerHost{id: "i-0"}
	}
	return rapid.SampledFrom(l.hosts).Draw(t, "host")
}

func (l *ledger) eip(t *rapid.T) *ledgerEIP {
	if len(l.eips) == 0 {
		return &ledgerEIP{id: "eipalloc-0"}
	}
	return rapid.SampledFrom(l.eips).Draw(t, "eip")
}

func (l *ledger) run(t *rapid.T) {
	h := &ledgerHost{auto: rapid.Bool().Draw(t, "public"), state: Running}
	subnet, want := l.private, Code("")
	if h.auto {
		subnet = l.public
		if !l.ready() {
			want = InsufficientAddressCapacity
		}
	}
	i, err := l.m.RunInstance(l.now, RunInstanceInput{SubnetID: subnet})
	if expect(t, err, want) {
		h.id = i.ID
		l.hosts = append(l.hosts, h)
		l.lend(t, h)
	}
}

func (l *ledger) start(t *rapid.T) {
	h, want := l.host(t), Code("")
	switch {
	case h.state == "":
		want = InstanceNotFound
	case h.state == Terminated:
		want = IncorrectInstanceState
	case h.state == Stopped && h.auto && l.eipOf(h) == nil && !l.ready():
		want = InsufficientAddressCapacity
	}
	_, err := l.m.StartInstance(l.now, h.id)
	if expect(t, err, want) && h.state == Stopped {
		h.state = Running
		l.lend(t, h)
	}
}

func (l *ledger) stop(t *rapid.T) {
	h, want := l.host(t), Code("")
	switch h.state {
	case "":
		want = InstanceNotFound
	case Terminated:
		want = IncorrectInstanceState
	}
	_, err := l.m.StopInstance(l.now, h.id)
	if expect(t, err, want) {
		l.back(h.lent)
		h.lent, h.state = netip.Addr{}, Stopped
	}
}

func (l *ledger) reboot(t *rapid.T) {
	h, want := l.host(t), IncorrectInstanceState
	switch h.state {
	case "":
		want = InstanceNotFound
	case Running:
		want = ""
	}
	_, err := l.m.RebootInstance(h.id)
	expect(t, err, want)
}

func (l *ledger) terminate(t *rapid.T) {
	h, want := l.host(t), Code("")
	if h.state == "" {
		want = InstanceNotFound
	}
	_, err := l.m.TerminateInstance(l.now, h.id)
	if expect(t, err, want) {
		l.back(h.lent)
		h.lent, h.state = netip.Addr{}, Terminated
		if e := l.eipOf(h); e != nil {
			e.host, e.association = nil, ""
		}
	}
}

func (l *ledger) allocate(t *rapid.T) {
	want := Code("")
	switch {
	case len(l.eips) == ledgerQuota:
		want = AddressLimitExceeded
	case !l.ready():
		want = InsufficientAddressCapacity
	}
	a, err := l.m.AllocateAddress(l.now)
	if expect(t, err, want) {
		l.eips = append(l.eips, &ledgerEIP{id: a.ID, ip: l.gave(t, a.PublicIP)})
	}
}

func (l *ledger) release(t *rapid.T) {
	e, want := l.eip(t), Code("")
	switch {
	case !e.ip.IsValid():
		want = AllocationNotFound
	case e.host != nil || e.gateway != "":
		want = IPAddressInUse
	}
	if expect(t, l.m.ReleaseAddress(l.now, e.id), want) {
		l.back(e.ip)
		for i := range l.eips {
			if l.eips[i] == e {
				l.eips = append(l.eips[:i:i], l.eips[i+1:]...)
				break
			}
		}
	}
}

func (l *ledger) associate(t *rapid.T) {
	e, h, stay, want := l.eip(t), l.host(t), rapid.Bool().Draw(t, "no reassociation"), Code("")
	switch {
	case !e.ip.IsValid():
		want = AllocationNotFound
	case h.state == "":
		want = InstanceNotFound
	case h.state == Terminated:
		want = IncorrectInstanceState
	case e.gateway != "":
		want = AuthFailure
	case e.host != nil && e.host != h && stay:
		want = AlreadyAssociated
	}
	a, err := l.m.AssociateAddress(l.now, AssociateAddressInput{AllocationID: e.id, InstanceID: h.id, NoReassociation: stay})
	if !expect(t, err, want) {
		return
	}
	if e.host == h {
		if a.AssociationID != e.association {
			t.Fatalf("%s: a new association %s, though nothing changed", e.association, a.AssociationID)
		}
		return
	}
	if displaced := l.eipOf(h); displaced != nil {
		displaced.host, displaced.association = nil, ""
	}
	loser := e.host
	e.host, e.association = h, a.AssociationID
	if loser != nil {
		l.lend(t, loser)
	}
	l.back(h.lent)
	h.lent = netip.Addr{}
}

func (l *ledger) disassociate(t *rapid.T) {
	e, want := l.eip(t), Code("")
	switch {
	case e.gateway != "":
		want = AuthFailure
	case e.host == nil:
		want = AssociationNotFound
	}
	if expect(t, l.m.DisassociateAddress(l.now, e.association), want) {
		h := e.host
		e.host, e.association = nil, ""
		l.lend(t, h)
	}
}

func (l *ledger) createNATGateway(t *rapid.T) {
	e, want := l.eip(t), Code("")
	switch {
	case !e.ip.IsValid():
		want = AllocationNotFound
	case e.host != nil || e.gateway != "":
		want = AlreadyAssociated
	}
	g, err := l.m.CreateNATGateway(CreateNATGatewayInput{SubnetID: l.public, AllocationID: e.id})
	if expect(t, err, want) {
		e.gateway, e.association = g.ID, g.Addresses[0].AssociationID
	}
}

func (l *ledger) deleteNATGateway(t *rapid.T) {
	e := l.eip(t)
	if e.gateway == "" {
		expect(t, l.m.DeleteNATGateway(e.gateway), NATGatewayNotFound)
		return
	}
	fatal(t, l.m.DeleteNATGateway(e.gateway))
	e.gateway, e.association = "", ""
}

func (l *ledger) wait(t *rapid.T) {
	l.now = l.now.Add(rapid.SampledFrom([]time.Duration{time.Second, ledgerRest / 2, ledgerRest - 1, ledgerRest}).Draw(t, "time"))
}

// agree compares the ledger with all that the model says, and with the policy: there each address is in one place.
func (l *ledger) agree(t *rapid.T) {
	fatal(t, l.m.Check())
	place := map[netip.Addr]string{} // places in the policy, as it has them
	own := func(book map[netip.Addr]string, ip netip.Addr, who string) {
		if have, ok := book[ip]; ok {
			t.Fatalf("%v is %s and %s", ip, have, who)
		}
		book[ip] = who
	}
	want := map[netip.Addr]string{} // and as they should be
	for ip := range l.idle {
		own(want, ip, "unlent")
	}
	for _, e := range l.eips {
		switch {
		case e.gateway != "":
			own(want, e.ip, e.gateway)
		case e.host != nil && e.host.state == Running:
			own(want, e.ip, e.host.id)
		default:
			own(want, e.ip, "unlent")
		}
		a, err := l.m.Address(e.id)
		fatal(t, err)
		host := ""
		if e.host != nil {
			host = e.host.id
		}
		if a.PublicIP != e.ip || a.AssociationID != e.association || a.InstanceID != host || a.NATGatewayID != e.gateway {
			t.Fatalf("the model says %+v, the ledger %+v", a, e)
		}
	}
	inside := map[netip.Addr]string{}
	for _, h := range l.hosts {
		i, err := l.m.Instance(h.id)
		fatal(t, err)
		ip := h.lent
		if ip.IsValid() {
			own(want, ip, h.id)
			if h.state != Running {
				t.Fatalf("%s is %s and has %v", h.id, h.state, ip)
			}
		}
		if e := l.eipOf(h); e != nil {
			ip = e.ip
		}
		if i.PublicIP != ip || i.State != h.state {
			t.Fatalf("the model says %+v, the ledger %+v with %v", i, h, ip)
		}
		inside[i.PrivateIP] = h.id
	}
	if n := len(l.m.DescribeAddresses()); n != len(l.eips) {
		t.Fatalf("%d Elastic IPs, want %d", n, len(l.eips))
	}
	p, err := l.m.Policy(l.vpc)
	fatal(t, err)
	fatal(t, p.Validate())
	for _, s := range p.Static {
		own(place, s.Outside, inside[s.Inside])
	}
	for _, pool := range p.Pools {
		for _, ip := range pool.Addresses {
			own(place, ip, pool.Name)
		}
	}
	for _, q := range p.Unlent {
		for ip := q.Addr(); q.Contains(ip); ip = ip.Next() {
			own(place, ip, "unlent")
		}
	}
	if got, want := fmt.Sprint(place), fmt.Sprint(want); got != want {
		t.Fatalf("the policy has\n%s\nthe ledger\n%s", got, want)
	}
}

// Random sequences of calls, most of them possible and some not: the model and the ledger agree on every answer, and
// at every step each public address has one owner, none is lent to a host that does not run, and none was given away
// before its cool-down was over.
func TestOwnershipOfPublicAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger(t)
		t.Repeat(map[string]func(*rapid.T){
			"":                 l.agree,
			"run":              l.run,
			"start":            l.start,
			"stop":             l.stop,
			"reboot":           l.reboot,
			"terminate":        l.terminate,
			"allocate":         l.allocate,
			"release":          l.release,
			"associate":        l.associate,
			"disassociate":     l.disassociate,
			"createNATGateway": l.createNATGateway,
			"deleteNATGateway": l.deleteNATGateway,
			"wait":             l.wait,
		})
	})
}

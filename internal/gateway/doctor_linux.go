// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
)

// doctor is one examination.
type doctor struct {
	nl      *netlink.Handle
	config  *config.Config // nil: not known
	socket  string         // of the gateway, "" for where it is by default
	devices config.Devices
	found   []Finding
}

// Doctor looks for what gets in the way of a gateway in this network namespace, running or not, and changes nothing.
// With a configuration it looks for more. A gateway that runs is asked at its socket, "" for where that is by default. Its
// error is that it could not look.
func Doctor(c *config.Config, socket string) ([]Finding, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	d := &doctor{nl: nl, config: c, socket: socket, devices: config.Default("gateway").Devices}
	if c != nil {
		d.devices = c.Devices
	}
	return d.look(d.device, d.state, d.rules, d.sysctls, d.addresses, d.strangers, d.conntrack, d.firewall)
}

// obstacles is the part of Doctor that a gateway tells about when it starts: what will keep packets from passing.
func obstacles(nl *netlink.Handle, c *config.Config) ([]Finding, error) {
	d := &doctor{nl: nl, config: c, devices: c.Devices}
	found, err := d.look(d.rules, d.sysctls, d.firewall)
	return slices.DeleteFunc(found, func(f Finding) bool { return !f.Problem }), err
}

// look takes all looks and returns what they found, problems first.
func (d *doctor) look(looks ...func() error) ([]Finding, error) {
	for _, l := range looks {
		if err := l(); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(d.found, func(a, b Finding) int {
		switch {
		case a.Problem == b.Problem:
			return 0
		case a.Problem:
			return -1
		}
		return 1
	})
	return d.found, nil
}

func (d *doctor) problem(do, format string, args ...any) {
	d.found = append(d.found, Finding{true, fmt.Sprintf(format, args...), do})
}

func (d *doctor) note(do, format string, args ...any) {
	d.found = append(d.found, Finding{false, fmt.Sprintf(format, args...), do})
}

func (d *doctor) device() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		d.problem("load the driver (modprobe tun) or pass the device to the container", "there is no /dev/net/tun")
	case err != nil:
		d.problem("run as root, or give the user access to it", "/dev/net/tun cannot be opened: %v", err)
	default:
		_ = f.Close()
	}
	for _, v := range []cap.Value{cap.NET_ADMIN, cap.NET_RAW} {
		if ok, err := cap.GetProc().GetFlag(cap.Effective, v); err != nil || !ok {
			d.problem("run as root, or give the program the capability", "the process lacks %s", strings.ToUpper(v.String()))
		}
	}
	return nil
}

// state says whether a gateway runs here, or has run.
func (d *doctor) state() error {
	rules, err := ourRules(d.nl)
	if err != nil {
		return err
	}
	running, err := runs(d.nl)
	if err != nil {
		return err
	}
	faults, asked := d.ask(rules)
	running = running || asked == nil // where a TUN was deleted only the process itself can tell that it runs
	routes, err := ourRoutes()
	if err != nil {
		return err
	}
	inside, external := told(routes)
	d.findDevices(rules, routes)
	switch {
	case running:
		if asked != nil {
			if faults, err = d.compare(inside, external, rules); err != nil {
				return err
			}
		}
		if errors.Is(asked, context.DeadlineExceeded) {
			d.problem("see whether its process is stopped (SIGCONT), or restart it", "the gateway that runs here does not answer at its socket")
		}
		for _, f := range faults {
			d.problem("see its log: what is its own it puts right by itself, or says there why it cannot",
				"the gateway that runs here is not well: %v", f)
		}
	case len(rules) > 0:
		d.note("start it again (gateway run), or remove the guard (gateway teardown)",
			"no gateway runs here, and the guard of an earlier one refuses traffic from %s", join(inside))
	}
	if v, err := readSysctl("ipv4/ip_forward"); err == nil && v != "1" && !running {
		d.note("nothing: gateway run switches it on", "net.ipv4.ip_forward is off")
	}
	return nil
}

// askTime is how long a gateway has to say how it is.
const askTime = 5 * time.Second

// ask asks the gateway that runs here how it is.
func (d *doctor) ask(rules map[ruleKey]netlink.Rule) ([]control.Fault, error) {
	c := config.Config{Devices: config.Devices{Inside: insideTUN(rules)}, Control: config.Control{Socket: d.socket}}
	if d.config != nil {
		c.Control.Socket = cmp.Or(d.socket, d.config.Control.Socket)
	}
	if c.Devices.Inside == "" || c.SocketPath() == "" {
		return nil, control.ErrNotRunning
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	client := control.NewClient(c.SocketPath())
	defer client.Close()
	s, err := client.Status(ctx)
	if err == nil && s.Network != network() {
		err = control.ErrNotRunning // but one does elsewhere
	}
	return s.Faults, err
}

// compare is what can be seen of a gateway that is not asked: not what it remembers, nor how its loop goes.
func (d *doctor) compare(inside, external []netip.Prefix, rules map[ruleKey]netlink.Rule) ([]control.Fault, error) {
	s := &system{nl: d.nl, devices: d.devices, external: addresses(external),
		plan: plan{inside: inside, external: external, insideDev: d.devices.Inside, outsideDev: d.devices.Outside}}
	for k := range rules {
		if k.priority == ruleSpoof && !slices.Contains(s.plan.uplinks, k.iif) {
			s.plan.uplinks = append(s.plan.uplinks, k.iif)
		}
	}
	for side, name := range []string{d.devices.Inside, d.devices.Outside} {
		if l, err := d.nl.LinkByName(name); err == nil { // else it is gone, which will be said
			s.index[side] = l.Attrs().Index
		}
	}
	o, err := s.outlook()
	if err != nil {
		return nil, err
	}
	s.self, s.defaults = o.self, o.defaults
	return s.examine(d.nl)
}

// addresses are all addresses of prefixes.
func addresses(ps []netip.Prefix) (all []netip.Addr) {
	for _, p := range ps {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			all = append(all, a)
		}
	}
	return all
}

// findDevices learns what the TUNs of the gateway that runs are called.
func (d *doctor) findDevices(rules map[ruleKey]netlink.Rule, routes []netlink.Route) {
	if name := insideTUN(rules); name != "" {
		d.devices.Inside = name
	}
	for _, r := range routes {
		if r.Table != outsideTable || r.Type != unix.RTN_UNICAST {
			continue
		}
		if l, err := d.nl.LinkByIndex(r.LinkIndex); err == nil {
			d.devices.Outside = l.Attrs().Name
		}
	}
}

// rules looks for routing rules that are asked before ours, or between them.
func (d *doctor) rules() error {
	all, err := d.nl.RuleList(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	for _, r := range all {
		local := r.Priority == 0 && r.Table == unix.RT_TABLE_LOCAL
		if r.Protocol == protocol || local || r.Priority > ruleEnd {
			continue
		}
		d.problem(fmt.Sprintf("give it a priority above %d, or make sure that it does not match traffic of the gateway", ruleEnd),
			"a routing rule of somebody else is looked at before the gateway's: %s", ruleText(&r))
	}
	return nil
}

func ruleText(r *netlink.Rule) string {
	text := fmt.Sprintf("%d: from %s to %s", r.Priority, anyOr(r.Src), anyOr(r.Dst))
	if r.IifName != "" {
		text += " iif " + r.IifName
	}
	if r.Mark != 0 {
		text += fmt.Sprintf(" fwmark %#x", r.Mark)
	}
	return fmt.Sprintf("%s lookup %d", text, r.Table)
}

func anyOr(n *net.IPNet) string {
	if n == nil {
		return "all"
	}
	return n.String()
}

func (d *doctor) sysctls() error {
	links, err := d.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	forward, _ := readSysctl("ipv4/ip_forward")
	all := readNumber("ipv4/conf/all/rp_filter")
	for _, l := range links {
		name := l.Attrs().Name
		if name == "lo" || name == d.devices.Inside || name == d.devices.Outside {
			continue
		}
		if max(all, readNumber("ipv4/conf/"+name+"/rp_filter")) == 1 {
			d.problem(fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", name),
				"rp_filter is strict on %s: what comes in there is dropped if the way back is another interface", name)
		}
		if v, err := readSysctl("ipv4/conf/" + name + "/forwarding"); err == nil && v == "0" && forward == "1" {
			d.problem(fmt.Sprintf("sysctl -w net.ipv4.conf.%s.forwarding=1", name), "forwarding is off on %s alone", name)
		}
	}
	if readNumber("ipv6/conf/all/forwarding") == 1 {
		d.problem("sysctl -w net.ipv6.conf.all.forwarding=0, unless inside hosts are meant to have IPv6",
			"the machine forwards IPv6, which goes around the gateway: hosts with IPv6 addresses reach out, and are reached, as themselves")
	}
	return nil
}

func (d *doctor) addresses() error {
	if d.config == nil {
		return nil
	}
	s := &system{nl: d.nl, devices: d.devices, external: d.config.External(), plan: plan{inside: d.config.Inside.Prefixes}}
	err := s.checkAddresses(s.external)
	switch {
	case errors.Is(err, ErrRefused):
		d.problem("see there", "%v", err)
	case err != nil:
		return err
	}
	o, err := s.outlook()
	if err != nil {
		return err
	}
	if !o.self.IsValid() {
		d.problem("give it one, on the interface to the outside",
			"this machine has no address outside of the inside prefixes: path MTU discovery and traceroute through it will not work")
	}
	return nil
}

// strangers looks for networks that the machine is a router for now.
func (d *doctor) strangers() error {
	if d.config == nil {
		return nil
	}
	s := &system{nl: d.nl, plan: plan{inside: d.config.Inside.Prefixes}}
	up, others := map[int]bool{}, map[netip.Prefix]int{}
	err := s.mainRoutes(func(dst netip.Prefix, link int) {
		up[link] = up[link] || dst == everything
		if dst != everything && !s.isInside(dst) {
			others[dst] = link
		}
	})
	if err != nil {
		return err
	}
	for dst, index := range others {
		l, err := d.nl.LinkByIndex(index)
		if up[index] || err != nil {
			continue
		}
		d.note("add it to inside.prefixes, if its hosts are to get out", "%s, on %s, is not inside: the gateway forwards nothing from there",
			dst, l.Attrs().Name)
	}
	return nil
}

// conntrack is not in the way as long as there is room.
func (d *doctor) conntrack() error {
	limit := readNumber("netfilter/nf_conntrack_max")
	if limit == 0 {
		return nil
	}
	used := readNumber("netfilter/nf_conntrack_count")
	if used > limit/10*8 {
		d.problem("sysctl -w net.netfilter.nf_conntrack_max=... to more, or take the firewall's state rules away",
			"the kernel's connection table is nearly full: %d of %d", used, limit)
		return nil
	}
	d.note(fmt.Sprintf("keep net.netfilter.nf_conntrack_max (now %d) above twice the connections that you expect", limit),
		"the kernel tracks connections, too (%d of %d entries): each through the gateway takes two", used, limit)
	return nil
}

// firewall looks at what nftables and iptables do with forwarded packets.
func (d *doctor) firewall() error {
	if b, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && strings.Contains(string(b), "filter") {
		d.note("look at iptables-legacy -S FORWARD", "rules of the old iptables are loaded, which cannot be read from here")
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		if !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
			d.note("look at: nft list ruleset", "nftables cannot be read: %v", err)
		}
		return nil
	}
	for _, ch := range chains {
		d.chain(c, ch)
	}
	return nil
}

func (d *doctor) chain(c *nftables.Conn, ch *nftables.Chain) {
	if ch.Hooknum == nil || ch.Table == nil || ch.Table.Family == nftables.TableFamilyIPv6 || ch.Table.Family == nftables.TableFamilyBridge {
		return
	}
	name := ch.Table.Name + " " + ch.Name
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return // deleted meanwhile
	}
	switch {
	case *ch.Hooknum == *nftables.ChainHookForward && ch.Table.Family != nftables.TableFamilyNetdev:
		allow := fmt.Sprintf("let what comes from or goes to %s and %s pass (nft insert rule %s iifname %q accept; and so on)",
			d.devices.Inside, d.devices.Outside, family(ch.Table)+" "+name, d.devices.Inside)
		if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			d.problem(allow, "the firewall drops forwarded packets by default (chain %s), iptables calls it the FORWARD policy", name)
		} else if len(rules) > 0 {
			d.note(allow, "the firewall has %d rules for forwarded packets (chain %s)", len(rules), name)
		}
	case ch.Type == nftables.ChainTypeNAT && len(rules) > 0 && *ch.Hooknum == *nftables.ChainHookPostrouting:
		d.problem("take the masquerade or snat rules for these packets away",
			"the kernel translates sources, too (chain %s, %d rules), perhaps what the gateway has translated already", name, len(rules))
	}
}

func family(t *nftables.Table) string {
	switch t.Family {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	default:
		return ""
	}
}

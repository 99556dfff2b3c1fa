// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/nat"
)

// Run is the gateway, in the network namespace of the process, until ctx is done, which is no error, another process takes
// over, which is none either, or something fails. It needs CAP_NET_ADMIN and CAP_NET_RAW, and drops all capabilities of the
// process but CAP_NET_ADMIN, which it needs to follow changes of the machine's addresses, to change routes when it is
// reloaded, and to undo what it did. What it leaves behind is the guard, and with state the records.
func Run(ctx context.Context, o Options) error {
	if ok, err := cap.GetProc().GetFlag(cap.Effective, cap.NET_ADMIN); err != nil || !ok {
		return ErrPrivilege
	}
	// In a program with cgo dropPrivileges finds the threads by /proc, and would search the wrong ones for ever.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return errors.New("/proc is not that of this PID namespace: mount it (mount -t proc proc /proc)")
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	g, err := newProcess(ctx, o, nl)
	if err != nil {
		return err
	}
	defer g.close()
	err = g.run(ctx)
	if g.giver != nil && g.giver.conn != nil { // the other process waits
		return errors.Join(err, g.memory.close(), g.giver.give())
	}
	if err != nil && g.taken {
		err = fmt.Errorf("this process had taken over from process %d when it failed, so nothing forwards and the guard refuses traffic: %w", g.taker.PID, err)
	}
	return err
}

// run is Run from where the process has what others left for it.
func (g *process) run(ctx context.Context) (err error) {
	o := g.options
	socket, err := g.listenControl()
	if err != nil {
		return err
	}
	if socket != nil {
		defer socket.Close()
	}
	metrics, err := g.listenMetrics()
	if err != nil {
		return err
	}
	if metrics != nil {
		defer metrics.Close()
	}
	found, err := obstacles(g.nl, o.Config)
	if err != nil {
		return err
	}
	for _, f := range found {
		o.Log.Warn(f.What, "do", f.Do)
	}
	b := newBook(o.Log, uptime)
	s, err := prepare(o.Config, g.nl, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.unless(s.leave, s.undo)()) }()
	engine, err := g.adopt()
	if err != nil {
		return err
	}
	if socket != nil {
		socket.Leave(false) // it is ours alone
	}
	// Its devices come later: the counters are where the records are.
	l := newLoop(engine)
	l.base, l.counts, l.book = 0, g.sizes.FlowCounters, b // the clock of the records
	if s.restore, err = g.memory.settle(l); err != nil {
		return err
	}
	s.given, s.persist = [2][]int{g.fetchQueues(nat.Inside), g.fetchQueues(nat.Outside)}, g.memory.file != nil
	if s.persist {
		s.remember = g.memory.remember
	}
	if err := s.setUp(); err != nil {
		return err
	}
	for i := range s.devices.Queues {
		l.join(s.tuns[nat.Inside][i], s.tuns[nat.Outside][i])
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.watch(ctx); err != nil {
		return err
	}
	r := newReloader(o.Path, o.Config, l, s, o.Log, policyOf)
	stopServing := func() {}
	if metrics != nil {
		stopServing = serve(metrics, o, l, s, r)
	}
	if socket != nil {
		c := newController(l, s, r, o.Version)
		if s.persist {
			g.giver = g.newGiver(s, socket, metrics, cancel)
			c.handover = g.giver.handover
		} else {
			c.handover = (*giver)(nil).handover
		}
		stopMetrics, stopControl := stopServing, c.serve(socket, o.Log)
		stopServing = func() { stopControl(); stopMetrics() }
	}
	stopServing = sync.OnceFunc(stopServing)
	defer stopServing()
	if g.giver != nil {
		g.giver.clear = func() { r.freeze(); socket.Leave(true); stopServing() }
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	s.report(o)
	if socket != nil {
		o.Log.Info("answering at the control socket", "path", socket.Path())
	}
	defer r.follow(o.Reload)()
	defer close(s.stopped) // before anybody waits for a reload

	ended := make(chan error, 1)
	go func() { ended <- l.run(); close(ended) }()
	defer g.supervise(ctx, s, l, r, cancel)()
	if err := g.forwards(); err != nil {
		o.Log.Warn("the process that ran before may say that it failed", "error", err)
	}
	if g.giver != nil {
		close(g.giver.ready)
	}
	err = s.follow(ctx, ended)
	g.end(context.Cause(ctx), err)
	l.stop()
	for range ended { // until the loop is done
	}
	g.farewell()
	return err
}

// runs reports whether there is a gateway in the network namespace: an inside TUN that a rule of ours names, which only a
// process that holds it keeps in being, or gives a carrier. A lock that needs no privilege could be taken by anybody.
func runs(nl *netlink.Handle) (bool, error) {
	rules, err := ourRules(nl)
	if err != nil {
		return false, err
	}
	name := insideTUN(rules)
	if name == "" {
		return false, nil
	}
	link, err := nl.LinkByName(name)
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("interface %s: %w", name, err)
	}
	return link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0, nil
}

// keepsRunning is runs, of a gateway that does not answer: one that was killed a moment ago may look as if it ran, since the
// kernel takes io_uring down, and with it the queue of the TUN, in the background.
func keepsRunning(nl *netlink.Handle) (running bool, err error) {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if running, err = runs(nl); err != nil || !running || time.Now().After(end) {
			return running, err
		}
	}
}

// insideTUN is what a gateway that runs, or was killed, calls its inside TUN; "" is the guard alone.
func insideTUN(rules map[ruleKey]netlink.Rule) string {
	for k := range rules {
		if k.priority == ruleAnswers && k.iif != "lo" {
			return k.iif
		}
	}
	return ""
}

// policyOf is the policy of a configuration on this machine.
func policyOf(c *config.Config) *nat.Policy {
	p, _ := c.Compile()
	admitKernel(p)
	return p
}

// admitKernel lets the errors in that the kernel makes about inbound packets. The engine translates them as if the host
// that the packet was for had sent them.
func admitKernel(p *nat.Policy) {
	p.Attachments = []nat.Attachment{
		{ID: nat.AttachmentID(nat.Inside), Side: nat.Inside, Sources: append(slices.Clone(p.Inside), insideDummy)},
		{ID: nat.AttachmentID(nat.Outside), Side: nat.Outside},
	}
	way := nat.Route{Source: insideDummy}
	if len(p.Pools) > 0 {
		way.Pool = p.Pools[0].Name
	}
	p.Routes = append(p.Routes, way)
}

// report says what was set up.
func (s *system) report(o Options) {
	c := o.Config
	o.Log.Info("forwarding", "inside", join(s.plan.inside), "outside", join(s.plan.external), "static", len(c.Static),
		"forwards", len(c.Forwards), "profile", string(c.Profile))
	io := s.tuns[nat.Inside][0].Stats()
	o.Log.Info("interfaces are up", "inside", s.devices.Inside, "outside", s.devices.Outside, "mtu", s.mtu, "backend", backend(io), "queues", s.devices.Queues)
	if io.Why != nil {
		o.Log.Info("io_uring is not used: packets cost more", "reason", io.Why)
	}
	o.Log.Info("routing is in place", "rules", fmt.Sprintf("%d-%d", ruleSpoof, ruleEnd),
		"tables", fmt.Sprintf("%d, %d", insideTable, outsideTable))
	var changed []string
	for _, v := range s.restore {
		// Those of the TUNs go with them.
		if in := strings.Split(v.name, "/"); !slices.Contains(in, s.devices.Inside) && !slices.Contains(in, s.devices.Outside) {
			changed = append(changed, dotted(v.name))
		}
	}
	if len(changed) > 0 {
		o.Log.Info("changed until the end", "sysctl", strings.Join(changed, " "))
	}
	byLink := map[string][]netip.Prefix{}
	for _, a := range s.answered {
		name := a.link.Attrs().Name
		byLink[name] = append(byLink[name], netip.PrefixFrom(a.addr, 32))
	}
	for name, addrs := range byLink {
		o.Log.Info("answering ARP", "addresses", join(addrs), "interface", name)
	}
	if !s.self.IsValid() {
		o.Log.Warn("this machine has no address outside of the inside prefixes: path MTU discovery and traceroute through it will not work")
	}
}

// join is a list for people.
func join(ps []netip.Prefix) string {
	const most = 16
	var texts []string
	for i, p := range ps {
		switch {
		case i == most:
			return strings.Join(texts, " ") + fmt.Sprintf(" and %d more", len(ps)-most)
		case p.IsSingleIP():
			texts = append(texts, p.Addr().String())
		default:
			texts = append(texts, p.String())
		}
	}
	return strings.Join(texts, " ")
}

// dropPrivileges leaves every thread of the process with CAP_NET_ADMIN alone, and without a way to more.
func dropPrivileges() error {
	keep := cap.NewSet()
	var drop []cap.Value
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if bound, err := cap.GetBound(v); err == nil && bound && v != cap.NET_ADMIN {
			drop = append(drop, v)
		}
	}
	// Without CAP_SETPCAP the bounding set stays; no_new_privs makes up for it.
	if ok, err := cap.GetProc().GetFlag(cap.Effective, cap.SETPCAP); err == nil && ok {
		if err := cap.DropBound(drop...); err != nil {
			return fmt.Errorf("drop capabilities: %w", err)
		}
	}
	_, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	err = errors.Join(err,
		keep.SetFlag(cap.Permitted, true, cap.NET_ADMIN),
		keep.SetFlag(cap.Effective, true, cap.NET_ADMIN),
		keep.SetProc())
	if err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/sdnotify"
	"github.com/tidegate/tidegate/nat"
)

// process is one process of a gateway: what it got from the one before, and what it leaves to the next.
type process struct {
	options Options
	nl      *netlink.Handle
	named   config.Config // with what overrides the file
	sizes   nat.Config
	policy  *nat.Policy
	memory  *memory
	manager *sdnotify.Notifier

	kept  map[string]int // descriptors of the service manager
	taker *taker         // nil: there was nobody to take over from
	taken bool           // and it has stopped
	giver *giver         // nil: nobody can take over from us
	// keeps is decided at the end: whether everything stays in place for the next process.
	keeps bool
	cause error
}

// newProcess looks for what there is, and makes sure that it can be gone on with. Nothing is changed, and a gateway that
// runs goes on.
func newProcess(ctx context.Context, o Options, nl *netlink.Handle) (g *process, err error) {
	g = &process{options: o, nl: nl, named: *o.Config}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.manager, err = sdnotify.FromEnvironment(); err != nil {
		o.Log.Warn("the service manager cannot be told anything", "error", err)
	}
	g.kept = sdnotify.Kept()
	// A reload compares files, so what overrides them is no part of the configuration.
	g.named.Control.Socket = cmp.Or(o.Socket, g.named.Control.Socket)
	g.named.State.File = cmp.Or(o.State, g.named.State.File)
	_, g.sizes = o.Config.Compile()
	g.policy = policyOf(o.Config)
	g.sizes.Shards = shards(o.Config)
	if g.named.SocketPath() != "" {
		g.sizes.Events = eventsKept
	}
	if g.memory, err = newMemory(&g.named, o.Log); err != nil {
		return g, err
	}
	if err := g.findRunning(ctx); err != nil {
		return g, err
	}
	if g.taker != nil {
		return g, g.rehearse()
	}
	var state *os.File
	if fd := g.fetch(fdState); fd > 0 {
		state = os.NewFile(uintptr(fd), fdState)
		defer state.Close()
	}
	return g, g.memory.find(state)
}

// shards is how many parts the tables have: a power of two that is more than the workers of the loop, but no more than a block of
// ports can be dealt to.
func shards(c *config.Config) int {
	n := 4
	for n <= 2*c.Devices.Queues {
		n *= 2
	}
	if b := c.Outside.PortBlock; b > 0 {
		for n > 4 && b < 4*n {
			n /= 2
		}
	}
	return n
}

// findRunning asks a gateway that runs here to hand over, if there is one and that is wanted.
func (g *process) findRunning(ctx context.Context) error {
	running, err := runs(g.nl)
	if err != nil || !running {
		return err
	}
	path := g.named.SocketPath()
	if path != "" && g.options.NoTakeover {
		conn, err := control.Dial(ctx, path)
		if err == nil {
			_ = conn.Close()
			return ErrRunning
		}
	} else if path != "" {
		ask := request{PID: os.Getpid(), Version: g.options.Version, Devices: g.named.Devices, Namespace: g.memory.note.Namespace}
		if g.taker, err = askToTake(ctx, path, ask); err != nil || g.taker != nil {
			return err
		}
	}
	// Nobody answers. What looks like a gateway that runs may be what the service manager kept for us of one that died.
	if g.kept[fdInside] != 0 {
		return nil
	}
	if running, err = keepsRunning(g.nl); running {
		err = ErrRunning
	}
	return err
}

// rehearse adopts the records of the gateway that runs, while it runs, for nothing but to know that it can be done.
func (g *process) rehearse() error {
	if err := otherQueues(g.taker.queues(), g.named.Devices.Queues); err != nil {
		return fmt.Errorf("%w (%w)", ErrRunning, err)
	}
	if g.memory.path == "" && g.named.State.File == config.NoState {
		g.memory.log.Info("taking over for the last time: there is to be no state (state.file)")
	}
	fd := g.fetch(fdState)
	if fd <= 0 {
		return errors.New("the gateway that runs offers no state: stop it first")
	}
	state := os.NewFile(uintptr(fd), fdState)
	defer state.Close()
	if err := g.memory.look(state, g.taker.State); err != nil {
		return err
	}
	if err := g.memory.reserve(g.sizes.RecordsSize()); err != nil {
		return err
	}
	if g.memory.usable() {
		trial := g.sizes
		trial.Records, trial.Events = nil, 0
		_, _, err := nat.Adopt(trial, g.memory.old.Records(), g.policy, uptime())
		if isUnusable(err) {
			err = g.memory.spoilt(err)
		}
		if err != nil {
			return refused(err)
		}
	}
	return nil
}

// fetch is a descriptor that the process before this one, or the service manager, has for us; it is the caller's. 0 is none.
func (g *process) fetch(name string) int {
	if fd := g.taker.fetch(name); fd > 0 {
		return fd
	}
	if g.taker != nil && name != fdControl && name != fdMetrics {
		return 0 // what the service manager has is older
	}
	fd := g.kept[name]
	delete(g.kept, name)
	return fd
}

// fetchQueues are the descriptors of the queues of a side that fetch has. Where the service manager has not as many as there are to
// be, it is to forget them: what it is given next replaces those of the same name alone.
func (g *process) fetchQueues(side nat.Side) (fds []int) {
	var names []string
	for i := range config.MaxQueues {
		name := queueName(int(side), i)
		if fd := g.fetch(name); fd > 0 {
			fds, names = append(fds, fd), append(names, name)
		}
	}
	if g.taker == nil && len(fds) != g.named.Devices.Queues {
		for _, name := range names {
			_ = g.manager.Forget(name)
		}
	}
	return fds
}

// listenControl listens at the control socket, or goes on listening where the process before does; nil is none.
func (g *process) listenControl() (*control.Socket, error) {
	path := g.named.SocketPath()
	if fd := g.fetch(fdControl); fd > 0 {
		return inherit(fd, func(f *os.File) (*control.Socket, error) { return control.Inherit(f, path) })
	}
	return listenControl(path)
}

// listenMetrics is listenControl for metrics.
func (g *process) listenMetrics() (net.Listener, error) {
	at := g.options.Metrics
	if at == "" {
		return nil, nil
	}
	if g.taker != nil && g.taker.Metrics == at {
		if fd := g.fetch(fdMetrics); fd > 0 {
			return inherit(fd, net.FileListener)
		}
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, refuse("metrics cannot be served: %w", err)
	}
	return l, nil
}

// adopt has the gateway that runs, if any, give everything up, and makes the engine.
func (g *process) adopt() (*nat.Engine, error) {
	if g.taker != nil {
		if err := g.taker.take(); err != nil {
			return nil, err
		}
		g.taken = true
		if err := g.memory.own(); err != nil {
			return nil, err
		}
	}
	return g.memory.engine(g.sizes, g.policy, uptime())
}

// newGiver is what hands over to the next process.
func (g *process) newGiver(s *system, socket *control.Socket, metrics net.Listener, end context.CancelCauseFunc) *giver {
	lend := func() (state string, fds map[string]int, err error) {
		if fds, err = s.queues(); err != nil {
			return "", nil, err
		}
		add := func(name string, fd int, err2 error) {
			if err = errors.Join(err, err2); err2 == nil {
				fds[name] = fd
			}
		}
		fd, err2 := g.shareState()
		add(fdState, fd, err2)
		fd, err2 = copyOf(socket)
		add(fdControl, fd, err2)
		if l, ok := metrics.(*net.TCPListener); ok {
			fd, err2 = copyOf(l)
			add(fdMetrics, fd, err2)
		}
		if err != nil {
			closeAll(fds)
			return "", nil, err
		}
		return g.memory.file.Path(), fds, nil
	}
	return &giver{log: g.options.Log, version: g.options.Version, namespace: g.memory.note.Namespace, devices: g.named.Devices,
		metrics: g.options.Metrics, lend: lend, end: end, ready: make(chan struct{})}
}

// shareState is a descriptor of the state file.
func (g *process) shareState() (int, error) {
	f, err := g.memory.file.Share()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return copyOf(f)
}

// errLeave is the cause of an end that leaves everything to the next start.
var errLeave = errors.New("the next start goes on with it")

// supervise tells the service manager what there is to tell, gives it what it is to keep, and listens for Options.Leave,
// until the returned function is called.
func (g *process) supervise(ctx context.Context, s *system, l *loop, r *reloader, end context.CancelCauseFunc) (stop func()) {
	log := g.options.Log
	tell := func(err error) {
		if err != nil {
			log.Warn("the service manager was not reached", "error", err)
		}
	}
	if s.persist && g.manager.Keeps() {
		tell(g.keep(s))
		// By the goroutine that follows the machine, which is this one until it does.
		s.reopened = func() { tell(g.keep(s)) }
	}
	status := fmt.Sprintf("forwarding %s by %s", join(s.plan.inside), join(s.plan.external))
	r.announce = func(begins bool) {
		if begins {
			tell(g.manager.Reloading())
		} else {
			tell(g.manager.Ready(status))
		}
	}
	tell(g.manager.Ready(status))
	done, quit := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var watchdog <-chan time.Time
		if g.manager != nil && g.manager.Watchdog > 0 {
			t := time.NewTicker(g.manager.Watchdog / 3)
			defer t.Stop()
			watchdog = t.C
		}
		seen := map[*turns]uint64{}
		for {
			select {
			case <-watchdog:
				if l.stuck(seen) {
					log.Error("the data path stands still: the service manager is not told that all is well")
				} else {
					tell(g.manager.Alive())
				}
			case <-g.options.Leave:
				end(errLeave)
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// keep gives the queues and the state to the service manager.
func (g *process) keep(s *system) error {
	fds, err := s.queues()
	if err != nil {
		return err
	}
	defer closeAll(fds)
	if g.memory.file.Path() == "" { // what has a name needs nobody who keeps it
		fd, err := g.shareState()
		if err != nil {
			return err
		}
		fds[fdState] = fd
	}
	// What there is no room for is not kept: the state matters most.
	for _, name := range g.keptNames() {
		if fd, ok := fds[name]; ok {
			if err := g.manager.Keep(name, fd); err != nil {
				return err
			}
		}
	}
	return nil
}

// keptNames are the names of what the service manager may keep.
func (g *process) keptNames() []string {
	names := []string{fdState}
	for i := range g.named.Devices.Queues {
		names = append(names, queueName(0, i), queueName(1, i))
	}
	return names
}

// forget has the service manager keep nothing.
func (g *process) forget() {
	for _, name := range g.keptNames() {
		_ = g.manager.Forget(name) // it closes them anyway when the service is stopped
	}
}

// forwards is called when this process does: the one before may end.
func (g *process) forwards() error {
	closeAll(g.kept) // of other times
	g.kept = nil
	if g.taker == nil {
		return nil
	}
	g.options.Log.Info("took over", "pid", g.taker.PID, "version", g.taker.Version)
	err := g.taker.done()
	g.taker.close()
	return err
}

// end decides what becomes of what this process has.
func (g *process) end(cause, err error) {
	handed := errors.Is(cause, errHandedOver)
	g.cause = cause
	g.keeps = g.memory.file != nil && err == nil && (handed || errors.Is(cause, errLeave))
	_ = g.manager.Stopping()
	if handed || !g.keeps {
		g.forget()
	}
}

// unless is one of two ways to let go of something: leave if it stays in place for the next process.
func (g *process) unless(leave, undo func() error) func() error {
	return func() error {
		if g.keeps {
			return leave()
		}
		return undo()
	}
}

// farewell says what is left.
func (g *process) farewell() {
	switch {
	case errors.Is(g.cause, errHandedOver): // which is said when it is done
	case g.keeps:
		g.options.Log.Info("stopped, with everything in place for the next start: packets wait or are dropped until then (gateway teardown ends that)")
	case g.memory.file != nil:
		g.options.Log.Info("stopped: inside traffic is refused until the next start, which goes on with the sessions (gateway teardown ends both)")
	default:
		g.options.Log.Info("stopped: inside traffic is refused until the next start (gateway teardown ends that)")
	}
}

// close gives back what was not used.
func (g *process) close() {
	closeAll(g.kept)
	g.taker.close()
	if g.memory != nil {
		_ = g.memory.close()
	}
	_ = g.manager.Close()
}

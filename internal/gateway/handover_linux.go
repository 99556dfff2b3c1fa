// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// A gateway that starts where one runs takes over from it. They talk over the control socket:
//
//	new: POST /v1/handover, with a request as its body
//	old: 101, an offer in a line, and with it the descriptors that the offer names
//	new: "take"   when everything is ready: the configuration, the privileges, the room, a trial adoption of the records
//	old: "yours"  when it has stopped reading, written what it had, and given up the records
//	new: "done"   when it forwards
//
// Until "take" the old one goes on as if nothing had been, whatever becomes of the new one. From then on the queues of the
// devices hold what comes; whoever reads them next finds it. The new one has the same queues, control socket and metrics
// listener, so nobody is refused in between. If it fails after "take", nothing forwards and the guard holds, which both
// processes say and end with 1.

const (
	// patience is how long a process has to get ready once it has the offer; handoverTime how long anything else may take.
	patience     = 2 * time.Minute
	handoverTime = 30 * time.Second

	upgradeTo = "tidegate-handover"
)

// request is what a process says that wants to take over.
type request struct {
	PID     int
	Version string
	// Namespace is its network namespace.
	Namespace string
	Devices   config.Devices
}

// offer is what it gets. Descriptors are the names of those that come with it.
type offer struct {
	PID         int
	Version     string
	State       string // the path of the state file, "" for a memfd
	Metrics     string // the address, as it was written
	Descriptors []string
}

// The names of descriptors, also for the service manager.
const (
	fdState   = "tidegate-state"
	fdInside  = "tidegate-inside"
	fdOutside = "tidegate-outside"
	fdControl = "control"
	fdMetrics = "metrics"
)

// queueName is the name of the descriptor of a queue: the first has that of its side.
func queueName(side, number int) string {
	name := []string{nat.Inside: fdInside, nat.Outside: fdOutside}[side]
	if number > 0 {
		name += "-" + strconv.Itoa(number)
	}
	return name
}

// maxDescriptors come with an offer at most: queues, state, control socket, metrics listener.
const maxDescriptors = 2*config.MaxQueues + 3

// errHandedOver is the cause of the end of a gateway that another process takes over.
var errHandedOver = errors.New("another process takes over")

// giver is the side of the gateway that runs.
type giver struct {
	log       *slog.Logger
	version   string
	namespace string
	devices   config.Devices
	metrics   string
	// lend are descriptors for an offer, by name; the caller closes them.
	lend  func() (state string, fds map[string]int, err error)
	clear func() // ends the servers and reloads; the data path goes on
	end   context.CancelCauseFunc
	ready chan struct{} // closed when all of this is filled in
	busy  atomic.Bool
	// conn and taker are set before end is called.
	conn  *net.UnixConn
	taker request
}

// may says why a request is refused, or nil.
func (g *giver) may(r *request) error {
	switch {
	case g == nil:
		return errors.New("the gateway that runs keeps no state that could be handed over (state.file): stop it first")
	case r.Namespace != g.namespace:
		return errors.New("the gateway at this control socket runs in another network namespace: write another path with --socket")
	case r.Devices.Inside != g.devices.Inside || r.Devices.Outside != g.devices.Outside:
		return fmt.Errorf("the gateway that runs has the interfaces %s and %s: to take over, the names have to be the same; otherwise stop it first",
			g.devices.Inside, g.devices.Outside)
	}
	return otherQueues(g.devices.Queues, max(r.Devices.Queues, 1)) // older ones have one and do not say so
}

// otherQueues says why a gateway does not take over from one with another number of queues, or nil.
func otherQueues(has, wants int) error {
	if has == wants {
		return nil
	}
	return fmt.Errorf("the gateway that runs has devices.queues: %d, which cannot become %d while it runs: stop it and start again, which its connections survive",
		has, wants)
}

// handover is POST /v1/handover.
func (g *giver) handover(w http.ResponseWriter, r *http.Request) {
	var ask request
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&ask); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("the request is not understood: %w", err))
		return
	}
	if err := g.may(&ask); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	select {
	case <-g.ready:
	case <-r.Context().Done():
		return
	}
	if !g.busy.CompareAndSwap(false, true) {
		fail(w, http.StatusConflict, errors.New("another process is about to take over"))
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.busy.Store(false)
		fail(w, http.StatusInternalServerError, err)
		return
	}
	g.serve(conn, ask)
}

// serve makes the offer and waits for the answer. If that is "take", the connection is for give.
func (g *giver) serve(conn net.Conn, ask request) {
	err := g.propose(conn, ask)
	if err == nil {
		return
	}
	_ = conn.Close()
	g.busy.Store(false) // whoever reads that it is over may be the next to ask
	g.log.Info("another process looked, and did not take over", "pid", ask.PID, "version", ask.Version, "error", err)
}

func (g *giver) propose(conn net.Conn, ask request) error {
	u := control.UnixConn(conn)
	if u == nil {
		return errors.New("no unix socket")
	}
	if err := u.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := g.send(u); err != nil {
		return err
	}
	if err := hear(bufio.NewReader(u), "take"); err != nil {
		return err
	}
	g.log.Info("handing over", "pid", ask.PID, "version", ask.Version)
	g.conn, g.taker = u, ask
	g.clear()
	g.end(errHandedOver)
	return nil
}

// send sends the offer with its descriptors.
func (g *giver) send(u *net.UnixConn) error {
	o := offer{PID: os.Getpid(), Version: g.version, Metrics: g.metrics}
	state, fds, err := g.lend()
	if err != nil {
		return err
	}
	o.State = state
	var rights []int
	for name, fd := range fds {
		defer unix.Close(fd)
		o.Descriptors = append(o.Descriptors, name)
		rights = append(rights, fd)
	}
	line, err := json.Marshal(&o)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n%s\n", upgradeTo, line)
	n, _, err := u.WriteMsgUnix([]byte(text), unix.UnixRights(rights...), nil)
	if err == nil && n < len(text) { // the descriptors went with the first byte
		_, err = u.Write([]byte(text[n:]))
	}
	return err
}

// give tells the other process that everything is its, and waits until it forwards. There is no way back from here.
func (g *giver) give() error {
	defer g.conn.Close()
	if err := g.conn.SetDeadline(time.Now().Add(handoverTime)); err != nil {
		return err
	}
	_, err := io.WriteString(g.conn, "yours\n")
	if err == nil {
		err = hear(bufio.NewReader(g.conn), "done")
	}
	if err != nil {
		return fmt.Errorf("process %d took over and does not forward (%w): the guard refuses traffic until the next start", g.taker.PID, err)
	}
	g.log.Info("handed over", "pid", g.taker.PID)
	return nil
}

// hear reads a line that has to be want.
func hear(r *bufio.Reader, want string) error {
	line, err := r.ReadString('\n')
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it has gone")
	case err != nil:
		return err
	case strings.TrimSuffix(line, "\n") != want:
		return fmt.Errorf("it says %q", line)
	}
	return nil
}

// taker is the side of the process that starts.
type taker struct {
	offer
	conn *net.UnixConn
	in   *bufio.Reader
	fds  map[string]int // those that nobody has fetched
}

// askToTake asks the gateway at a control socket; nil and no error is that there is none. An error that is ErrRunning is a
// gateway that does not hand over.
func askToTake(ctx context.Context, path string, r request) (*taker, error) {
	conn, err := control.Dial(ctx, path)
	if errors.Is(err, control.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t := &taker{conn: conn.(*net.UnixConn), fds: map[string]int{}}
	if err := t.ask(r); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *taker) ask(r request) error {
	body, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	if err := t.conn.SetDeadline(time.Now().Add(handoverTime)); err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, "http://gateway/v1/handover", bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := req.Write(t.conn); err != nil {
		return err
	}
	rights := &rightsReader{conn: t.conn}
	t.in = bufio.NewReader(rights)
	res, err := http.ReadResponse(t.in, req)
	if err != nil {
		return fmt.Errorf("the gateway that runs does not answer: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		var f control.Failure
		if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&f); err != nil || res.StatusCode != http.StatusConflict {
			f.Errors = []string{"it answers " + res.Status + " " + strings.Join(f.Errors, " ")}
		}
		return fmt.Errorf("%w (%s)", ErrRunning, strings.Join(f.Errors, "; "))
	}
	line, err := t.in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &t.offer)
	}
	fds := rights.fds
	for i, name := range t.Descriptors {
		if i < len(fds) {
			t.fds[name] = fds[i]
		}
	}
	if err == nil && len(fds) != len(t.Descriptors) {
		err = fmt.Errorf("%d descriptors of %d came", len(fds), len(t.Descriptors))
	}
	if err != nil {
		return fmt.Errorf("the offer of the gateway that runs: %w", err)
	}
	return nil
}

// rightsReader reads a stream and collects the descriptors that come with it.
type rightsReader struct {
	conn *net.UnixConn
	fds  []int
}

func (r *rightsReader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(maxDescriptors*4))
	n, m, _, _, err := r.conn.ReadMsgUnix(b, oob) // close-on-exec, by package net
	if m > 0 {
		all, perr := unix.ParseSocketControlMessage(oob[:m])
		if perr != nil {
			return n, perr
		}
		for i := range all {
			fds, perr := unix.ParseUnixRights(&all[i])
			if perr != nil {
				return n, perr
			}
			r.fds = append(r.fds, fds...)
		}
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// queues is how many queues of each interface are offered: of the one that has fewer, if they differ.
func (t *taker) queues() int {
	for n := 0; ; n++ {
		for side := range 2 {
			if _, ok := t.fds[queueName(side, n)]; !ok {
				return n
			}
		}
	}
}

// fetch is a descriptor of the offer, which is the caller's then; -1 is none.
func (t *taker) fetch(name string) int {
	if t == nil {
		return -1
	}
	fd, ok := t.fds[name]
	if !ok {
		return -1
	}
	delete(t.fds, name)
	return fd
}

// take has the other process stop, and returns when everything is ours.
func (t *taker) take() error {
	if err := t.conn.SetDeadline(time.Now().Add(handoverTime)); err != nil {
		return err
	}
	_, err := io.WriteString(t.conn, "take\n")
	if err == nil {
		err = hear(t.in, "yours")
	}
	if err != nil {
		return fmt.Errorf("process %d was asked to hand over and did not (%w): look whether it runs", t.PID, err)
	}
	return nil
}

// done tells the other process that it may end.
func (t *taker) done() error {
	_, err := io.WriteString(t.conn, "done\n")
	return err
}

// close ends the talk and closes what nobody has fetched.
func (t *taker) close() {
	if t == nil {
		return
	}
	for _, fd := range t.fds {
		_ = unix.Close(fd)
	}
	t.fds = nil
	_ = t.conn.Close()
}

// copyOf is another descriptor of c's file.
func copyOf(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if cerr != nil {
		return -1, cerr
	}
	return fd, err
}

// inherit makes something of a descriptor by f, and closes it.
func inherit[T any](fd int, f func(*os.File) (T, error)) (T, error) {
	file := os.NewFile(uintptr(fd), "inherited")
	defer file.Close()
	return f(file)
}

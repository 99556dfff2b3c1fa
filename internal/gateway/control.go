// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// controller answers at the control socket. See package control for what. Whatever clients do, it costs the data path the
// time of a few goroutines: their number is bounded, none holds a lock of the engine while it waits for a client, and one
// that waits too long is cut off.
type controller struct {
	l       *loop
	m       machine
	r       *reloader
	version string
	started time.Time
	passes  chan struct{} // full while as many look at the sessions as may
	hub     hub
	closing chan struct{} // closed when those who watch are to go
	// handover is for another process that takes over; nil refuses.
	handover http.HandlerFunc
}

func newController(l *loop, m machine, r *reloader, version string) *controller {
	return &controller{l: l, m: m, r: r, version: version, started: time.Now(), passes: make(chan struct{}, control.MaxPasses),
		hub: hub{l: l, policy: r.policy}, closing: make(chan struct{})}
}

func (c *controller) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/flows", c.flows)
	mux.HandleFunc("GET /v1/events", c.events)
	mux.HandleFunc("GET /v1/stats", c.stats)
	mux.HandleFunc("GET /v1/status", c.status)
	mux.HandleFunc("GET /v1/ports", c.ports)
	mux.HandleFunc("GET /v1/explain", c.explain)
	mux.HandleFunc("POST /v1/reload", c.reload)
	if c.handover != nil {
		mux.HandleFunc("POST /v1/handover", c.handover)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("%s %s: there are GET /v1/flows, /v1/events, /v1/stats, /v1/status, /v1/ports and /v1/explain, and POST /v1/reload", r.Method, r.URL.Path))
	})
	return mux
}

// answerTime is how long a client has to take an answer that is one object.
const answerTime = 10 * time.Second

// serve serves at ln, which it closes, and returns how to stop.
func (c *controller) serve(ln net.Listener, log *slog.Logger) (stop func()) {
	srv := &http.Server{Handler: c.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, IdleTimeout: answerTime,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(control.FewClients(ln)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the control socket is no longer served", "error", err)
		}
	}()
	return func() {
		close(c.closing)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		_ = srv.Close()
		<-done
		c.hub.wait()
	}
}

// fail answers with a line for each thing that err says.
func fail(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // a connection in a test may have none
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(control.Failure{Errors: strings.Split(err.Error(), "\n")}) // the client may be gone
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // as in fail
	_ = json.NewEncoder(w).Encode(v)                                               // as in fail
}

// patient is an answer of any length, to a client that may take its time, but not too much.
type patient struct {
	w  io.Writer
	rc *http.ResponseController
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.rc.SetWriteDeadline(time.Now().Add(control.WriteTimeout)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// pass lets one more look at the sessions, or answers that there are too many already.
func (c *controller) pass(w http.ResponseWriter) (done func(), ok bool) {
	select {
	case c.passes <- struct{}{}:
		return func() { <-c.passes }, true
	default:
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d others look at the sessions at the moment: try again", control.MaxPasses))
		return nil, false
	}
}

func (c *controller) flows(w http.ResponseWriter, r *http.Request) {
	f, err := control.ParseFilter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, ok := c.pass(w)
	if !ok {
		return
	}
	defer done()
	w.Header().Set("Content-Type", "application/jsonl")
	b := bufio.NewWriterSize(patient{w, http.NewResponseController(w)}, 32<<10)
	e := json.NewEncoder(b)
	now := c.l.now()
	for s := range c.l.engine.Sessions(now) {
		flow := control.FlowOf(&s, now, c.l.counts)
		if !f.Match(&flow) {
			continue
		}
		if err := e.Encode(&flow); err != nil {
			panic(http.ErrAbortHandler) // so that the client does not take it for the end
		}
	}
	if err := b.Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// events sends events as they come, until the client goes. What waits for it is bounded; it is told what it missed.
func (c *controller) events(w http.ResponseWriter, r *http.Request) {
	f, err := control.ParseFilter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	watcher, ok := c.hub.watch(f)
	if !ok {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d others watch already", control.MaxWatchers))
		return
	}
	defer c.hub.leave(watcher)
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/jsonl")
	b := bufio.NewWriterSize(patient{w, rc}, 32<<10)
	e := json.NewEncoder(b)
	// Its request was read, and to find out whether it is still there may take any time. The header tells it that it watches.
	if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Now().Add(control.WriteTimeout)), rc.Flush()); err != nil {
		return
	}
	losses := time.NewTicker(time.Second)
	defer losses.Stop()
	for {
		var err error
		select {
		case v := <-watcher.events:
			err = e.Encode(&v)
		case <-losses.C:
		case <-r.Context().Done():
			return
		case <-c.closing:
			return
		}
		if len(watcher.events) == 0 {
			if n := watcher.lost.Swap(0); n > 0 {
				err = errors.Join(err, e.Encode(&control.Event{Time: time.Now().UTC(), Kind: "lost", Lost: n}))
			}
			if b.Buffered() > 0 {
				err = errors.Join(err, b.Flush(), rc.Flush())
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *controller) stats(w http.ResponseWriter, _ *http.Request) {
	st := c.l.engine.Stats(c.l.now())
	source, loaded := c.r.source()
	s := control.Stats{
		Version: c.version, Started: c.started.UTC(), Source: source, Loaded: loaded.UTC(),
		Health: strings.ReplaceAll(control.Lines(c.m.faults()), "\n", "; "),
		Sessions: control.Sessions{Now: st.Sessions, Limit: st.SessionsMax, Created: st.Created, Expired: st.Expired,
			Recycled: st.Recycled, Cut: st.Cut},
		Mappings: st.Mappings, Quarantined: st.Quarantined,
		FragmentSets: int(st.FragmentSets), FragmentBytes: int(st.FragmentBytes), HeldSYNs: int(st.HeldSYNs),
		TableBytes: st.MemoryBytes, Emitted: st.Emitted, ICMPSuppressed: st.ICMPSuppressed,
	}
	for i, n := range st.Verdicts {
		if v := nat.Verdict(i); v != nat.Unset {
			s.Verdicts = append(s.Verdicts, control.Verdict{Name: v.String(), Text: v.Text(), Dropped: v.Dropped(), Packets: n})
		}
	}
	for i := range c.l.sides {
		p := &c.l.sides[i]
		read, write := c.m.dropped(nat.Side(i))
		s.Devices = append(s.Devices, control.Device{
			Side: nat.Side(i).String(), Name: p.name(), ReadPackets: p.readPackets.Load(), ReadBytes: p.readBytes.Load(),
			WrotePackets: p.wrotePackets.Load(), WroteBytes: p.wroteBytes.Load(), Refused: p.refused.Load(), Dropped: read + write,
		})
	}
	answer(w, &s)
}

func (c *controller) status(w http.ResponseWriter, _ *http.Request) {
	s := statusOf(c.l, c.version, c.started, c.m.faults())
	answer(w, &s)
}

// network is which network namespace the process is in, where there are any.
func network() string {
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return ""
	}
	return name
}

func statusOf(l *loop, version string, started time.Time, faults []control.Fault) control.Status {
	s := control.Status{Version: version, Started: started.UTC(), Network: network(), Healthy: len(faults) == 0, Faults: append([]control.Fault{}, faults...)}
	for i := range l.sides {
		p := &l.sides[i]
		if io, ok := p.stats(); ok {
			d := control.Interface{Name: p.name(), Side: nat.Side(i).String(), Backend: backend(io), Queues: len(p.queues)}
			if io.Why != nil {
				d.Reason = io.Why.Error()
			}
			s.Interfaces = append(s.Interfaces, d)
		}
	}
	return s
}

// maxTop bounds the destinations of one answer.
const maxTop = 1000

func (c *controller) ports(w http.ResponseWriter, r *http.Request) {
	top := 20
	if s := r.URL.Query().Get("top"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > maxTop {
			fail(w, http.StatusBadRequest, fmt.Errorf("top: %q: write a number from 0 to %d", s, maxTop))
			return
		}
		top = n
	}
	done, ok := c.pass(w)
	if !ok {
		return
	}
	defer done()
	p := portsOf(c.l.engine, c.r.policy(), c.l.now(), top)
	answer(w, &p)
}

// explain takes as long as the packet would take, or some milliseconds where ports are nearly used up.
func (c *controller) explain(w http.ResponseWriter, r *http.Request) {
	q, err := control.ParseQuestion(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, ok := c.pass(w)
	if !ok {
		return
	}
	defer done()
	from := nat.FromOutside
	if q.From == nat.Inside.String() || q.From == "" && c.isInside(q.Packet.Bytes()) {
		from = nat.FromInside
	}
	answer(w, &control.Explanation{Explanation: c.l.engine.Explain(&q.Packet, from, c.l.now())})
}

// isInside reports whether a packet has a source of the inside.
func (c *controller) isInside(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	src := netip.AddrFrom4([4]byte(b[12:16]))
	return slices.ContainsFunc(c.r.policy().Inside, func(p netip.Prefix) bool { return p.Contains(src) })
}

func (c *controller) reload(w http.ResponseWriter, r *http.Request) {
	dry := false
	if s := r.URL.Query().Get("dry_run"); s != "" {
		var err error
		if dry, err = strconv.ParseBool(s); err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("dry_run: %q: write true or false", s))
			return
		}
	}
	result, err := c.r.reload(dry)
	switch {
	case errors.As(err, new(config.Faults)), errors.Is(err, ErrRefused):
		fail(w, http.StatusUnprocessableEntity, err)
	case errors.Is(err, errNoFile):
		fail(w, http.StatusConflict, err)
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
	default:
		answer(w, &result)
	}
}

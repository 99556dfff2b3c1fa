// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/nat"
)

// controlled is a loop with a control socket.
type controlled struct {
	*wires
	*control.Client
	m      *fakeMachine
	c      *controller
	file   string // of the configuration
	socket string
	stop   func()
}

const controlledFile = "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.1]}\n"

func newControlled(t *testing.T) *controlled {
	t.Helper()
	dir := t.TempDir()
	c := &controlled{wires: newWires(t), m: &fakeMachine{}, file: filepath.Join(dir, "gateway.yaml"), socket: filepath.Join(dir, "gw.sock")}
	c.write(t, controlledFile)
	ln, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	c.c = newController(c.loop, c.m, c.reloader(c.m, c.file), "v1.2.3")
	c.stop = c.c.serve(ln, slog.New(slog.DiscardHandler))
	c.Client = control.NewClient(c.socket)
	t.Cleanup(func() {
		c.Client.Close()
		c.stop()
		if err := c.end(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *controlled) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open makes a session and returns its external endpoint.
func (c *controlled) open(t *testing.T, from, to string) netip.AddrPort {
	t.Helper()
	if err := c.inside.Send(datagram(t, from, to)); err != nil {
		t.Fatal(err)
	}
	ext, _ := ends(t, receive(t, c.outside))
	return ext
}

// lines are the flows as text, in order, without their time-outs.
func (c *controlled) lines(t *testing.T, query string) []string {
	t.Helper()
	q, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	err = c.Flows(t.Context(), q, func(f *control.Flow) error {
		if f.Expires <= 0 || f.Expires > 300 {
			t.Errorf("%+v expires in %v s", f, f.Expires)
		}
		f.Expires = 0
		lines = append(lines, string(f.AppendText(nil)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func TestControlFlows(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("", func(t *testing.T) {
		c := newControlled(t)
		if got := c.lines(t, ""); len(got) != 0 {
			t.Errorf("flows of nobody: %v", got)
		}
		a := c.open(t, "10.0.1.10:5000", "198.51.100.1:123")
		b := c.open(t, "10.0.1.11:6000", "198.51.100.2:123")
		if err := c.outside.Send(datagram(t, "198.51.100.2:123", b.String())); err != nil {
			t.Fatal(err)
		}
		receive(t, c.inside)
		first := "udp      17 0 src=10.0.1.10 dst=198.51.100.1 sport=5000 dport=123 [UNREPLIED] src=198.51.100.1 dst=203.0.113.1 sport=123 dport=" + portOf(a)
		second := "udp      17 0 src=10.0.1.11 dst=198.51.100.2 sport=6000 dport=123 src=198.51.100.2 dst=203.0.113.1 sport=123 dport=" + portOf(b) + " [ASSURED]"
		for query, want := range map[string][]string{
			"": {first, second}, "orig-src=10.0.1.11": {second}, "reply-src=198.51.100.1&proto=udp": {first}, "proto=tcp": {},
		} {
			if d := cmp.Diff(want, c.lines(t, query)); d != "" {
				t.Errorf("%s: %s", query, d)
			}
		}
		var refused *control.Refused
		err := c.Flows(t.Context(), url.Values{"sport": {"x"}}, func(*control.Flow) error { return nil })
		if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest || refused.Error() != `sport: "x": write a port from 1 to 65535` {
			t.Errorf("a bad filter: %v", err)
		}
	})
}

func portOf(a netip.AddrPort) string { _, p, _ := strings.Cut(a.String(), ":"); return p }

func TestControlStats(t *testing.T) {
	c := newControlled(t)
	c.open(t, "10.0.1.10:5000", "198.51.100.1:123")
	if err := c.inside.Send(datagram(t, "10.9.0.1:1", "198.51.100.1:123")); err != nil { // not of the inside
		t.Fatal(err)
	}
	c.open(t, "10.0.1.10:5000", "198.51.100.1:124") // behind it
	c.m.sick = errors.New("interface tg-in is down")
	s, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "v1.2.3" || s.Source != c.file || s.Health != "interface tg-in is down" || s.Started.IsZero() || s.Loaded.IsZero() {
		t.Errorf("%+v", s)
	}
	if want := (control.Sessions{Now: 2, Limit: 1024, Created: 2}); s.Sessions != want || s.Mappings != 1 || s.TableBytes < 64*1024 {
		t.Errorf("%+v, want %+v", s, want)
	}
	packets := map[string]uint64{}
	for _, v := range s.Verdicts {
		packets[v.Name] = v.Packets
		if v.Text == "" || v.Dropped && v.Name == "outbound" || !v.Dropped && v.Name == "spoof" {
			t.Errorf("%+v", v)
		}
	}
	if len(s.Verdicts) != nat.NumVerdicts-1 || packets["outbound"] != 2 || packets["spoof"] != 1 {
		t.Errorf("%+v", s.Verdicts)
	}
	if d := s.Devices[nat.Inside]; d.Side != "inside" || d.Name != "in" || d.ReadPackets != 3 || d.Dropped != 3 {
		t.Errorf("%+v", d)
	}
}

func TestControlPorts(t *testing.T) {
	c := newControlled(t)
	for _, from := range []string{"10.0.1.10:5000", "10.0.1.11:5000", "10.0.1.12:5000"} {
		c.open(t, from, "198.51.100.1:123")
	}
	p, err := c.Ports(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	if p.Sessions != 3 || len(p.Addresses) != 3 || len(p.Destinations) != 0 {
		t.Errorf("%+v", p)
	}
	want := control.AddressPorts{Address: netip.MustParseAddr("203.0.113.1"), Protocol: "udp", Mapping: "endpoint-independent",
		Used: 3, Total: 64512, Ratio: 3. / 64512}
	if p.Addresses[1] != want {
		t.Errorf("%+v, want %+v", p.Addresses[1], want)
	}
	var refused *control.Refused
	if _, err := c.Ports(t.Context(), -1); !errors.As(err, &refused) || refused.Status != http.StatusBadRequest {
		t.Errorf("top -1: %v", err)
	}
}

// TestControlExplain: a live session and one that would be made, from either side, and that to be asked changes nothing.
func TestControlExplain(t *testing.T) {
	c := newControlled(t)
	ext := c.open(t, "10.0.1.10:5000", "198.51.100.1:123")
	stats, flows := c.engine.Stats(c.now()), c.lines(t, "")
	raw := datagram(t, "10.0.1.10:5000", "198.51.100.1:123")
	in, out := "proto=udp&src=198.51.100.1&sport=123&dst=203.0.113.1&dport="+portOf(ext), "proto=udp&src=10.0.1.10&sport=5000&dst=198.51.100.1&dport=123"
	for _, tt := range []struct {
		question string
		verdict  nat.Verdict
		from     string
		texts    []string // what is among it
	}{
		{out, nat.Outbound, "inside", []string{"session   udp 10.0.1.10:5000 = " + ext.String(), "change    source 10.0.1.10:5000 -> " + ext.String()}},
		{in, nat.Inbound, "outside", []string{"session   udp 10.0.1.10:5000 = " + ext.String(), "-> 10.0.1.10:5000"}},
		{in + "&from=inside", nat.DropSpoof, "inside", []string{"policy    Inside: [10.0.0.0/16]", "session   none"}},
		{out + "&from=outside", nat.DropMartian, "outside", []string{"session   none"}},
		{"proto=tcp&src=10.0.1.11&sport=5000&dst=198.51.100.1&dport=80&size=1500", nat.Outbound, "inside", []string{"SYN, 1500 bytes", "session   new: tcp 10.0.1.11:5000", "port      "}},
		{"proto=tcp&src=198.51.100.1&sport=80&dst=203.0.113.1&dport=80&flags=SA", nat.DropNoMapping, "outside", []string{"SYN ACK, 40 bytes", "no_mapping: nobody holds"}},
		{"hex=45", nat.DropMalformed, "outside", []string{"unreadable"}},
		{"hex=" + hex.EncodeToString(raw.Bytes()), nat.Outbound, "inside", []string{"33 bytes, TTL 60", "10.0.1.10:5000 = " + ext.String()}},
	} {
		q, err := url.ParseQuery(tt.question)
		if err != nil {
			t.Fatal(err)
		}
		x, err := c.Explain(t.Context(), q)
		if err != nil {
			t.Errorf("%s: %v", tt.question, err)
			continue
		}
		var text strings.Builder
		if err := x.Print(&text); err != nil {
			t.Fatal(err)
		}
		if x.Verdict != tt.verdict || x.Side != tt.from {
			t.Errorf("%s: from %s: %v, want %v from %s", tt.question, x.Side, x.Verdict, tt.verdict, tt.from)
		}
		for _, want := range tt.texts {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no %q in\n%s", tt.question, want, text.String())
			}
		}
	}
	if d := cmp.Diff(stats, c.engine.Stats(c.now())) + cmp.Diff(flows, c.lines(t, "")); d != "" {
		t.Errorf("the questions have changed something: %s", d)
	}
	var refused *control.Refused
	_, err := c.Explain(t.Context(), url.Values{"proto": {"gre"}, "from": {"above"}})
	if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest || len(refused.Errors) != 2 {
		t.Errorf("a question that is none: %v", err)
	}
}

// TestControlBounds: too many clients are turned away, and the socket goes on.
func TestControlBounds(t *testing.T) {
	c := newControlled(t)
	for range control.MaxPasses {
		c.c.passes <- struct{}{}
	}
	var refused *control.Refused
	if err := c.Flows(t.Context(), nil, nil); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
		t.Errorf("one more pass: %v", err)
	}
	if _, err := c.Ports(t.Context(), 1); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
		t.Errorf("one more pass: %v", err)
	}
	if _, err := c.Explain(t.Context(), url.Values{"hex": {"45"}}); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
		t.Errorf("one more pass: %v", err)
	}
	if _, err := c.Stats(t.Context()); err != nil {
		t.Errorf("no pass: %v", err)
	}
	c.Client.Close()
	var silent []net.Conn
	defer func() {
		for _, conn := range silent {
			_ = conn.Close()
		}
	}()
	// The listener may still hold the client's connection, so a few more are needed to be one too many.
	for range control.MaxClients + 1 {
		conn, err := net.Dial("unix", c.socket)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	last := silent[len(silent)-1]
	_ = last.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !isReset(err) {
		t.Errorf("one client too many reads %d, %v", n, err)
	}
	for _, conn := range silent {
		_ = conn.Close()
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := c.Stats(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("with the others gone: %v", err)
		}
	}
}

func isReset(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") }

func TestControlUnknown(t *testing.T) {
	c := newControlled(t)
	h := c.c.handler()
	for _, tt := range [][2]string{{"GET", "/"}, {"GET", "/v1/reload"}, {"DELETE", "/v1/flows"}} {
		w := &answerOf{header: http.Header{}}
		h.ServeHTTP(w, &http.Request{Method: tt[0], URL: &url.URL{Path: tt[1]}})
		if w.status != http.StatusNotFound || !strings.Contains(w.body.String(), `{"errors":["`+tt[0]+" "+tt[1]) {
			t.Errorf("%v: %d %s", tt, w.status, w.body.String())
		}
	}
}

// answerOf is an answer that is kept.
type answerOf struct {
	header http.Header
	status int
	body   strings.Builder
}

func (a *answerOf) Header() http.Header         { return a.header }
func (a *answerOf) WriteHeader(status int)      { a.status = status }
func (a *answerOf) Write(b []byte) (int, error) { return a.body.Write(b) }

// TestReload: what a new file does is said before and after; a bad one changes nothing, and all its faults come back.
func TestReload(t *testing.T) {
	c := newControlled(t)
	ext := c.open(t, "10.0.1.10:5000", "198.51.100.1:123")
	lives := func(want bool) {
		t.Helper()
		n := len(c.lines(t, ""))
		if (n == 1) != want {
			t.Errorf("%d sessions; is it to live: %v", n, want)
		}
	}
	refused := func(dry bool, status int, want ...string) {
		t.Helper()
		policy := c.c.r.policy()
		_, err := c.Reload(t.Context(), dry)
		var r *control.Refused
		if !errors.As(err, &r) || r.Status != status || len(r.Errors) != len(want) {
			t.Errorf("%v, want %d: %q", err, status, want)
			return
		}
		for i, w := range want {
			if !strings.HasPrefix(r.Errors[i], w) {
				t.Errorf("%q, want %q", r.Errors[i], w)
			}
		}
		if c.c.r.policy() != policy {
			t.Error("another policy is in force")
		}
		lives(true)
	}
	takes := func(dry bool, want control.Reload) {
		t.Helper()
		want.DryRun, want.Source = dry, c.file
		got, err := c.Reload(t.Context(), dry)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
	}

	takes(false, control.Reload{Kept: 1})
	c.write(t, controlledFile+"hairpin: 1\nlimits: {sessions: 2048}\n")
	faults := []string{c.file + ":3: hairpin: must be", c.file + ":4: limits.sessions: cannot change while the gateway runs"}
	faults[0] = c.file + ":3: hairpin: "
	refused(true, http.StatusUnprocessableEntity, faults...)
	refused(false, http.StatusUnprocessableEntity, faults...)
	if _, ok := c.c.r.state(); ok {
		t.Error("the last reload is said to have been taken")
	}
	if err := os.Remove(c.file); err != nil {
		t.Fatal(err)
	}
	refused(false, http.StatusUnprocessableEntity, "the configuration cannot be read ")
	c.write(t, controlledFile+"hairpin: false\n")
	c.m.unfit = refuse("203.0.113.9 is in use")
	refused(false, http.StatusUnprocessableEntity, "203.0.113.9 is in use")
	c.m.unfit = nil

	// The machine fails in the middle: the policy comes back, and what agrees with both lives on.
	c.m.fails = errors.New("no such device")
	refused(false, http.StatusInternalServerError, "the old configuration is in force again, without the 0 sessions that the new one cut: no such device")
	c.m.fails = nil
	if st := c.engine.Stats(c.now()); st.Sessions != 1 {
		t.Errorf("%d sessions", st.Sessions)
	}

	drained := "inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [203.0.113.2], draining: [203.0.113.1]}\n"
	c.write(t, drained)
	changed := []string{"outside.addresses", "outside.draining"}
	takes(true, control.Reload{Changed: changed, Kept: 1, Draining: 1})
	takes(false, control.Reload{Changed: changed, Kept: 1, Draining: 1})
	lives(true)
	if other := c.open(t, "10.0.1.11:5000", "198.51.100.1:123"); other.Addr() != netip.MustParseAddr("203.0.113.2") {
		t.Errorf("a new session has %s", other)
	}
	if again := c.open(t, "10.0.1.10:5000", "198.51.100.1:123"); again != ext {
		t.Errorf("the old one goes on as %s, was %s", again, ext)
	}
	p, err := c.Ports(t.Context(), 0)
	if err != nil || len(p.Addresses) != 6 || !p.Addresses[4].Draining || p.Addresses[4].Used != 1 {
		t.Errorf("%+v, %v", p, err)
	}

	c.write(t, strings.Replace(drained, ", draining: [203.0.113.1]", "", 1))
	takes(true, control.Reload{Changed: changed[1:], Kept: 1, Cut: 1})
	takes(false, control.Reload{Changed: changed[1:], Kept: 1, Cut: 1})
	if got := c.lines(t, "orig-src=10.0.1.10"); len(got) != 0 {
		t.Errorf("lives: %v", got)
	}
	if _, ok := c.c.r.state(); !ok {
		t.Error("the last reload is said to have been refused")
	}
}

// TestReloadFlags: without a file there is nothing to read.
func TestReloadFlags(t *testing.T) {
	w := newWires(t)
	defer func() { _ = w.end() }()
	r := w.reloader(&fakeMachine{}, "")
	if _, err := r.reload(false); !errors.Is(err, errNoFile) {
		t.Errorf("%v", err)
	}
	if name, _ := r.source(); name != "command line" {
		t.Errorf("source %q", name)
	}
}

// TestReloadSignal: a signal reloads, and the end waits for it.
func TestReloadSignal(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newWires(t)
	defer func() { _ = w.end() }()
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(controlledFile+"hairpin: false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.reloader(&fakeMachine{}, file)
	signals := make(chan os.Signal)
	stop := r.follow(signals)
	signals <- os.Interrupt
	stop()
	if r.config().Hairpin {
		t.Error("the file was not read again")
	}
	if !config.Default("gateway").Hairpin {
		t.Fatal("the default is what the file says")
	}
}

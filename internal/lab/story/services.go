// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/lab/debrepo"
)

// The ports of the services.
const (
	echoPort = 7
	sshPort  = 22
	httpPort = 80
	wasPort  = 8080
	dbPort   = 5432
)

// services are the story's servers, all in this process, each with its sockets in its host.
type services struct {
	closers []io.Closer
	wg      sync.WaitGroup
	mirror  mirror
}

// close ends all servers and waits for what they started.
func (s *services) close() error {
	var errs []error
	for _, c := range s.closers {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// start starts all but sshd.
func (s *services) start(w World) error {
	was, db := w.Host(Was), w.Host(DB)
	dbAt := netip.AddrPortFrom(privateAddr(DB), dbPort)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: netip.AddrPortFrom(privateAddr(Was), wasPort).String()})
	proxy.Transport = &http.Transport{DialContext: w.Host(Web).Dial, DisableKeepAlives: true}
	s.mirror.repo = debrepo.New(aptArch, time.Now(), aPackage)
	errs := []error{
		s.serveDB(db),
		s.serveHTTP(was, wasPort, application(was, dbAt.String())),
		s.serveHTTP(w.Host(Web), httpPort, proxy),
		s.serveHTTP(w.Host(Mirror), httpPort, &s.mirror),
	}
	for _, h := range insideHosts {
		errs = append(errs, s.serveEcho(w.Host(h.name)))
	}
	return errors.Join(errs...)
}

func (s *services) serveHTTP(h Host, port uint16, handler http.Handler) error {
	l, err := h.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.closers = append(s.closers, srv)
	s.wg.Go(func() { _ = srv.Serve(l) })
	return nil
}

// serveTCP runs serve for each connection to a port of h.
func (s *services) serveTCP(h Host, port uint16, serve func(net.Conn)) error {
	l, err := h.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	srv := &tcpServer{Listener: l, conns: map[net.Conn]bool{}}
	s.closers = append(s.closers, srv)
	s.wg.Go(func() { srv.run(serve) })
	return nil
}

// tcpServer is a listener that closes its connections with it.
type tcpServer struct {
	net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// run serves until the server is closed and all its connections have ended.
func (t *tcpServer) run(serve func(net.Conn)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := t.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		if t.closed {
			_ = c.Close()
		}
		t.conns[c] = true
		t.mu.Unlock()
		wg.Go(func() {
			serve(c)
			_ = c.Close()
			t.mu.Lock()
			delete(t.conns, c)
			t.mu.Unlock()
		})
	}
}

func (t *tcpServer) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for c := range t.conns {
		_ = c.Close()
	}
	return t.Listener.Close()
}

// serveDB is the database: one line in, one line out, which also tells who asked.
func (s *services) serveDB(db Host) error {
	return s.serveTCP(db, dbPort, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			fmt.Fprintf(c, "row from db, asked by %s\n", host(c.RemoteAddr()))
		}
	})
}

// queryDB asks the database, from h.
func queryDB(ctx context.Context, h Host, db string) (string, error) {
	c, err := h.Dial(ctx, "tcp", db)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "select\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", err
	}
	return line[:len(line)-1], nil
}

// application is the page of was.
func application(was Host, db string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		row, err := queryDB(r.Context(), was, db)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "page from was, asked by %s: %s\n", hostOf(r.RemoteAddr), row)
	})
}

// serveEcho is the UDP service that every inside host has.
func (s *services) serveEcho(h Host) error {
	c, err := h.ListenPacket("udp4", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	s.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteTo(buf[:n], from)
			}
		}
	})
	return nil
}

// mirror is the server on the internet: a Debian repository under /debian/, and some pages for the story. It keeps a log.
type mirror struct {
	repo *debrepo.Repo

	mu  sync.Mutex
	log []access
}

// access is a line of the mirror's log.
type access struct {
	from   netip.AddrPort
	path   string
	status int
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	m.serve(rec, r)
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	m.mu.Lock()
	m.log = append(m.log, access{from: from, path: r.URL.Path, status: rec.status})
	m.mu.Unlock()
}

func (m *mirror) serve(w *statusRecorder, r *http.Request) {
	switch r.URL.Path {
	case "/whoami":
		fmt.Fprintln(w, r.RemoteAddr)
	case "/stream":
		m.stream(w, r)
	case "/upload":
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d bytes %x\n", n, h.Sum(nil))
	default:
		http.StripPrefix("/debian", m.repo).ServeHTTP(w, r)
	}
}

// stream is a download that does not end by itself, and leaves a busy machine time for other things.
func (m *mirror) stream(w *statusRecorder, r *http.Request) {
	chunk := make([]byte, 8192)
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// mark is the present end of the log, since what was added after a mark.
func (m *mirror) mark() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.log)
}

func (m *mirror) since(mark int) []access {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]access(nil), m.log[mark:]...)
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(code int) {
	r.status = code
	r.ResponseWriter.WriteHeader(code)
}

func host(a net.Addr) string { return hostOf(a.String()) }

func hostOf(addrPort string) string {
	h, _, err := net.SplitHostPort(addrPort)
	if err != nil {
		return addrPort
	}
	return h
}

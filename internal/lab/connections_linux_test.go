// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
	"github.com/tidegate/tidegate/tun"
	"github.com/tidegate/tidegate/vpc"
)

// TestFullNATGateway has kernels open 55,000 TCP connections to one destination through one address of a NAT gateway (NGW-4),
// all at the same time, and one more.
func TestFullNATGateway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	const full = 55_000
	c := newCloud(t)
	began := time.Now()
	holders := c.holders(full)
	t.Logf("%d connections, held by %d processes, in %v", full, len(holders), time.Since(began))
	c.await("all are established", func() bool { return c.stats().ActiveConnections == full })
	if s := c.stats(); s.Attempts != full || s.Established != full || s.PortErrors != 0 {
		t.Errorf("%+v", s)
	}
	if n, err := c.net.Counter("Tcp", "CurrEstab"); err != nil || n != full {
		t.Errorf("the server has %d connections, %v", n, err)
	}
	inside := map[netip.AddrPort]netip.AddrPort{} // by external endpoint
	for s := range c.engine.Sessions(c.now()) {
		if s.External.Addr() != c.external || s.External.Port() < 1024 || s.Remote != c.web {
			t.Fatalf("%+v", s)
		}
		inside[s.External] = s.Inside
	}
	if len(inside) != full {
		t.Fatalf("%d connections have %d ports", full, len(inside))
	}

	c.refused("the 55,001st", c.private[0])
	c.passes(c.private[0], "tcp", netip.AddrPortFrom(c.web.Addr(), 444))
	c.passes(c.private[1], "tcp", netip.AddrPortFrom(netip.MustParseAddr("203.0.113.10"), 443))
	c.passes(c.private[0], "udp", c.web)
	c.passes(c.public, "tcp", c.web) // it has an address of its own

	// The server answers some of them, in the order in which they came.
	type pair struct {
		client *holder
		in     netip.AddrPort
		server net.Conn
	}
	var some []pair
	for range 50 {
		s, err := c.listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ext := s.RemoteAddr().(*net.TCPAddr).AddrPort()
		if ext.Addr() != c.external { // that of the host with its own address
			continue
		}
		i := slices.IndexFunc(holders, func(h *holder) bool { return h.ask("has %v", inside[ext]) == "yes" })
		if i < 0 {
			t.Fatalf("nobody has %v", inside[ext])
		}
		some = append(some, pair{holders[i], inside[ext], s})
	}
	talk := func(what string) {
		t.Helper()
		for i, p := range some {
			says := fmt.Sprintf("%s, to client %d", what, i)
			if _, err := io.WriteString(p.server, says); err != nil {
				t.Fatal(err)
			}
			if heard := p.client.ask("hear %v", p.in); heard != strconv.Quote(says) {
				t.Fatalf("heard %q, want %q", heard, says)
			}
		}
	}
	talk("full")

	// One ends. Its port is not free before the connection is forgotten.
	gone := some[0]
	some = some[1:]
	if a := gone.client.ask("shut %v", gone.in); a != "shut" {
		t.Fatal(a)
	}
	if err := gone.server.Close(); err != nil {
		t.Fatal(err)
	}
	if heard := gone.client.ask("hear %v", gone.in); heard != strconv.Quote("") {
		t.Fatalf("heard %s", heard)
	}
	c.await("it is closed", func() bool { return c.stats().ActiveConnections == full+2-1 }) // two have another destination
	c.refused("while it closes", c.private[1])
	c.ahead.Add(int64(241 * time.Second))
	c.await("it is forgotten", func() bool { return c.engine.Stats(c.now()).Expired > 0 })
	c.passes(c.private[0], "tcp", c.web)
	c.refused("with another in its place", c.private[1])
	talk("241 s later")
	if s := c.stats(); s.ActiveConnections != full+2 {
		t.Errorf("%+v", s)
	}
	if err := c.engine.Check(c.now()); err != nil {
		t.Error(err)
	}
	t.Logf("all in %v", time.Since(began))
}

// cloud is a VPC of three hosts, the internet, and between them an engine whose clock can be put ahead.
type cloud struct {
	t           *testing.T
	private     []*Host
	public, net *Host
	web         netip.AddrPort
	external    netip.Addr // of the NAT gateway
	listener    net.Listener
	engine      *nat.Engine
	start       time.Time
	ahead       atomic.Int64
	inside      map[netip.Addr]*wire
	outside     *wire
}

// wire is a device that several goroutines write to.
type wire struct {
	tun.Device
	mu sync.Mutex
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := netip.MustParsePrefix
	all := []netip.Prefix{p("0.0.0.0/0")}
	m, err := vpc.New(vpc.Config{PublicPool: []netip.Prefix{p("198.51.100.128/28")}})
	must(err)
	now := time.Unix(1_700_000_000, 0)
	v, err := m.CreateVPC(p("10.0.0.0/16"))
	must(err)
	igw := m.CreateInternetGateway()
	must(m.AttachInternetGateway(igw.ID, v.ID))
	public, err := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: p("10.0.1.0/24"), MapPublicIPOnLaunch: true})
	must(err)
	private, err := m.CreateSubnet(vpc.CreateSubnetInput{VPCID: v.ID, CIDR: p("10.0.2.0/24")})
	must(err)
	table, err := m.CreateRouteTable(v.ID)
	must(err)
	_, err = m.AssociateRouteTable(table.ID, public.ID)
	must(err)
	must(m.CreateRoute(table.ID, all[0], igw.ID))
	eip, err := m.AllocateAddress(now)
	must(err)
	gateway, err := m.CreateNATGateway(vpc.CreateNATGatewayInput{SubnetID: public.ID, AllocationID: eip.ID})
	must(err)
	must(m.CreateRoute(v.MainRouteTableID, all[0], gateway.ID))

	c := &cloud{t: t, web: netip.MustParseAddrPort("203.0.113.9:443"), external: eip.PublicIP, start: time.Now(), inside: map[netip.Addr]*wire{}}
	devices := map[nat.AttachmentID]*wire{}
	host := func(name string, at nat.AttachmentID, addr netip.Addr) *Host {
		t.Helper()
		h, err := NewHost(name, HostOptions{})
		must(err)
		t.Cleanup(h.Close)
		must(sysctls(h))
		dev, err := h.OpenTUN(Link{Name: "eth0", Addr: netip.PrefixFrom(addr, 32), Queue: 20_000, Routes: all})
		must(err)
		devices[at] = &wire{Device: dev}
		return h
	}
	for _, at := range []struct {
		name   string
		subnet vpc.Subnet
	}{{"a", private}, {"b", private}, {"c", public}} {
		i, err := m.RunInstance(now, vpc.RunInstanceInput{SubnetID: at.subnet.ID})
		must(err)
		h := host(at.name, i.Attachment, i.PrivateIP)
		c.inside[i.PrivateIP] = devices[i.Attachment]
		if at.subnet.ID == private.ID {
			c.private = append(c.private, h)
		} else {
			c.public = h
		}
	}
	c.net = host("net", vpc.OutsideAttachment, c.web.Addr())
	c.outside = devices[vpc.OutsideAttachment]
	second := Link{Name: "lo", Addr: p("203.0.113.10/32")}
	must(c.net.setup(second))

	policy, err := m.Policy(v.ID)
	must(err)
	c.engine, err = nat.New(nat.Config{Sessions: 1 << 17, Shards: 2, FlowCounters: true}, policy)
	must(err)
	c.serve()
	var loops sync.WaitGroup
	for at, w := range devices {
		loops.Go(func() { c.forward(at, w) })
	}
	closed := make(chan struct{})
	loops.Go(func() {
		for w := c.engine.Worker(); ; w.Tick(c.now()) {
			select {
			case <-closed:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		close(closed)
		for _, w := range devices {
			_ = w.Close()
		}
		loops.Wait()
	})
	return c
}

// sysctls let a host have as many connections as it is asked for.
func sysctls(h *Host) error {
	return h.Do(func() error {
		for k, v := range map[string]string{"ipv4/ip_local_port_range": "1024 65535", "core/somaxconn": "65535", "ipv4/tcp_max_syn_backlog": "65535"} {
			if err := os.WriteFile("/proc/sys/net/"+k, []byte(v), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// serve has the internet listen. Connections to the web wait in the kernel until somebody accepts them.
func (c *cloud) serve() {
	c.t.Helper()
	for _, s := range []string{"203.0.113.9:443", "203.0.113.9:444", "203.0.113.10:443"} {
		at := netip.MustParseAddrPort(s)
		err := c.net.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fd), s)
			defer f.Close()
			if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}), unix.Listen(fd, 65535)); err != nil {
				return err
			}
			l, err := net.FileListener(f)
			if err != nil {
				return err
			}
			c.t.Cleanup(func() { _ = l.Close() })
			if at == c.web {
				c.listener = l
			}
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	u, err := c.net.ListenPacket("udp4", c.web.String())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = u.Close() })
	go func() {
		for b := make([]byte, 64); ; {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
}

func (c *cloud) now() time.Duration { return time.Since(c.start) + time.Duration(c.ahead.Load()) }

func (c *cloud) stats() nat.PoolStats { return c.engine.PoolStats(c.now())[0] }

// forward takes what comes from one device through the engine.
func (c *cloud) forward(at nat.AttachmentID, from *wire) {
	w := c.engine.Worker()
	ps := make([]packet.Packet, from.BatchSize())
	for i := range ps {
		ps[i].Buf = make([]byte, from.BufferSize())
	}
	vs := make([]nat.Verdict, len(ps))
	out := map[*wire][]packet.Packet{}
	for {
		n, err := from.Read(ps)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				c.t.Error(err)
			}
			return
		}
		w.Batch(ps[:n], at, c.now(), vs)
		for i, v := range vs[:n] {
			if !v.Forward() {
				continue
			}
			to := c.outside
			if v.Side() == nat.Inside {
				to = c.inside[netip.AddrFrom4([4]byte(ps[i].Bytes()[16:20]))]
			}
			out[to] = append(out[to], ps[i])
		}
		for to, ps := range out {
			to.mu.Lock()
			_, err := to.Write(ps)
			to.mu.Unlock()
			var refused *tun.WriteError // an interface that is full: TCP sends again
			if err != nil && !errors.As(err, &refused) && !errors.Is(err, os.ErrClosed) {
				c.t.Error(err)
			}
			out[to] = ps[:0]
		}
	}
}

// await waits until something that is under way has happened.
func (c *cloud) await(what string, happened func() bool) {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("%s: it does not happen; %+v", what, c.stats())
		}
	}
}

// refused opens a connection that finds no port: as with a NAT gateway of AWS nobody answers, and each SYN is counted.
func (c *cloud) refused(what string, h *Host) {
	c.t.Helper()
	before := c.stats()
	var fds []int
	err := h.Do(func() (err error) {
		fds, err = startTCP(c.web, 1)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.await(what, func() bool { return c.stats().PortErrors > before.PortErrors })
	info, err := unix.GetsockoptTCPInfo(fds[0], unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		c.t.Fatal(err)
	}
	const synSent = 2
	if info.State != synSent {
		c.t.Errorf("%s: the socket is in state %d, want %d", what, info.State, synSent)
	}
	sent := 1 + uint64(info.Total_retrans)
	now := c.stats()
	if n := now.PortErrors - before.PortErrors; n != sent && n != sent+1 { // one more since
		c.t.Errorf("%s: %d SYNs, %d port errors", what, sent, n)
	}
	if now.Attempts != before.Attempts {
		c.t.Errorf("%s: it is counted as an attempt", what)
	}
	if err := unix.Close(fds[0]); err != nil {
		c.t.Fatal(err)
	}
}

// passes opens a connection, or has a datagram come back.
func (c *cloud) passes(h *Host, network string, to netip.AddrPort) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := h.Dial(ctx, network, to.String())
	if err != nil {
		c.t.Errorf("%s to %v by %s: %v", h.Name(), to, network, err)
		return
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	if network == "tcp" {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64)
	if _, err := io.WriteString(conn, "hello"); err != nil {
		c.t.Error(err)
	}
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "hello" {
		c.t.Errorf("%s to %v by %s: %q, %v", h.Name(), to, network, b[:n], err)
	}
}

// startTCP begins n connections from where it is called. Closed, they send a RST, and are gone.
func startTCP(to netip.AddrPort, n int) (fds []int, err error) {
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, os.NewSyscallError("socket", err)
		}
		fds = append(fds, fd)
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return fds, err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return fds, os.NewSyscallError("connect", err)
		}
	}
	return fds, nil
}

// A holder is a process in a host that holds connections. A process may have so many descriptors and no more, which is far
// less than 55,000 on some machines. It is this test binary, started with holderEnv, and is asked line by line.
type holder struct {
	t       *testing.T
	in      io.Writer
	answers *bufio.Scanner
}

const holderEnv = "TIDEGATE_TEST_HOLD"

func init() {
	if s := os.Getenv(holderEnv); s != "" {
		if err := hold(s, os.Stdin, os.Stdout); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// holders has n connections opened, by processes in both private hosts.
func (c *cloud) holders(n int) []*holder {
	c.t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		c.t.Fatal(err)
	}
	each := int(min(limit.Max, 30_000)) - 200
	processes := 2 * ((n + 2*each - 1) / (2 * each)) // as many in each host
	var all []*holder
	for i := range processes {
		part := n / processes
		if i < n%processes {
			part++
		}
		all = append(all, c.startHolder(c.private[i%2], part))
	}
	for _, h := range all {
		if a := h.answer(); a != "open" {
			c.t.Fatal(a)
		}
	}
	return all
}

func (c *cloud) startHolder(h *Host, n int) *holder {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, "/proc/self/exe")
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%v %d", holderEnv, c.web, n))
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := h.Start(cmd); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	return &holder{c.t, in, bufio.NewScanner(out)}
}

func (h *holder) answer() string {
	h.t.Helper()
	if !h.answers.Scan() {
		h.t.Fatalf("a process that holds connections has ended: %v", h.answers.Err())
	}
	return h.answers.Text()
}

func (h *holder) ask(format string, args ...any) string {
	h.t.Helper()
	if _, err := fmt.Fprintf(h.in, format+"\n", args...); err != nil {
		h.t.Fatal(err)
	}
	return h.answer()
}

// hold is the whole of a holder.
func hold(what string, questions io.Reader, answers io.Writer) error {
	s, number, _ := strings.Cut(what, " ")
	to, err := netip.ParseAddrPort(s)
	n, err2 := strconv.Atoi(number)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	fds, err := openTCP(to, n)
	if err != nil {
		return err
	}
	byName := map[netip.AddrPort]int{}
	for _, fd := range fds {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		in := sa.(*unix.SockaddrInet4)
		byName[netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))] = fd
	}
	fmt.Fprintln(answers, "open")
	for sc := bufio.NewScanner(questions); sc.Scan(); {
		verb, s, _ := strings.Cut(sc.Text(), " ")
		at, err := netip.ParseAddrPort(s)
		if err != nil {
			return err
		}
		fd, ok := byName[at]
		switch {
		case verb == "has" && !ok:
			fmt.Fprintln(answers, "no")
		case verb == "has":
			fmt.Fprintln(answers, "yes")
		case verb == "hear": // what there is; nothing is the end
			b := make([]byte, 256)
			n, err := 0, pollFor(fd, unix.POLLIN, 10*time.Second)
			if err == nil {
				n, err = unix.Read(fd, b)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(answers, "%q\n", b[:n])
		case verb == "shut":
			if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
				return err
			}
			fmt.Fprintln(answers, "shut")
		}
	}
	return nil
}

// openTCP opens n connections, some at a time, so that no queue runs over.
func openTCP(to netip.AddrPort, n int) (fds []int, err error) {
	const atOnce = 250
	for len(fds) < n {
		some, err := startTCP(to, min(atOnce, n-len(fds)))
		fds = append(fds, some...)
		if err != nil {
			return fds, err
		}
		for _, fd := range some {
			if err := writable(fd, 30*time.Second); err != nil {
				return fds, fmt.Errorf("of connections up to number %d: %w", len(fds), err)
			}
		}
	}
	return fds, nil
}

func writable(fd int, within time.Duration) error {
	if err := pollFor(fd, unix.POLLOUT, within); err != nil {
		return err
	}
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && e != 0 {
		err = unix.Errno(e)
	}
	return err
}

func pollFor(fd int, what int16, within time.Duration) error {
	for end := time.Now().Add(within); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: what}}, int(max(0, time.Until(end)/time.Millisecond)))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case !time.Now().Before(end):
			return os.ErrDeadlineExceeded
		}
	}
}

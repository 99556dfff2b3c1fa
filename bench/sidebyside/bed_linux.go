// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/lab"
)

// The addresses of the drawing in doc.go.
var (
	insideNet  = netip.MustParsePrefix("10.0.0.0/16")
	inAddr     = netip.MustParseAddr("10.0.1.10")
	gwInside   = netip.MustParseAddr("10.0.1.1")
	gwOutside  = netip.MustParseAddr("198.51.100.2")
	outAddr    = netip.MustParseAddr("198.51.100.1")
	serverAddr = netip.MustParseAddr("192.0.2.1")
	public     = netip.MustParseAddr("203.0.113.1")
	everywhere = netip.MustParsePrefix("0.0.0.0/0")
)

const (
	devInside  = "eth1" // of gw
	devOutside = "eth0"
)

// bed is the namespaces of one visit to a peer, and the agents in them.
type bed struct {
	ctx         context.Context
	in, gw, out *lab.Host
	client      *remote // in "in"
	server      *remote // in "out"
	programs    []*exec.Cmd
	forwarder   int   // its process, 0 if there is none
	said        *tail // what the forwarder said
}

// newBed makes the namespaces. With cable, "in" has a link to "gw"; forward makes gw a router.
func newBed(ctx context.Context, cable, forward bool) (b *bed, err error) {
	b = &bed{ctx: ctx}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	for _, h := range []struct {
		name    string
		host    **lab.Host
		forward bool
	}{{"in", &b.in, false}, {"gw", &b.gw, forward}, {"out", &b.out, false}} {
		if *h.host, err = lab.NewHost(h.name, lab.HostOptions{Forward: h.forward}); err != nil {
			return nil, err
		}
	}
	err = lab.Connect(
		b.out, lab.Link{Name: "eth0", Addr: netip.PrefixFrom(outAddr, 24), Routes: []netip.Prefix{insideNet, netip.PrefixFrom(public, 32)}, Via: gwOutside},
		b.gw, lab.Link{Name: devOutside, Addr: netip.PrefixFrom(gwOutside, 24), Routes: []netip.Prefix{everywhere}, Via: outAddr})
	if err != nil {
		return nil, err
	}
	if cable {
		err = lab.Connect(
			b.gw, lab.Link{Name: devInside, Addr: netip.PrefixFrom(gwInside, 24)},
			b.in, lab.Link{Name: "eth0", Addr: netip.PrefixFrom(inAddr, 24), Routes: []netip.Prefix{everywhere}, Via: gwInside})
		if err != nil {
			return nil, err
		}
	}
	// Short connections, and the sockets that stand for them in gw, may use a port again after a second in TIME_WAIT.
	for _, h := range []*lab.Host{b.in, b.gw} {
		if err := h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0) }); err != nil {
			return nil, err
		}
	}
	err = b.out.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: serverAddr.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	})
	if err != nil {
		return nil, err
	}
	if b.server, err = b.agent(b.out); err != nil {
		return nil, err
	}
	if b.client, err = b.agent(b.in); err != nil {
		return nil, err
	}
	_, err = b.server.ask(request{Op: "serve", Server: serverAddr.String()})
	return b, err
}

// close ends what the bed has started, and takes the namespaces away.
func (b *bed) close() {
	for _, cmd := range slices.Backward(b.programs) {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(3*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
	}
	for _, h := range []*lab.Host{b.in, b.gw, b.out} {
		if h != nil {
			h.Close()
		}
	}
}

// command is a program in a host, in the PID namespace of this process: its id has to mean the same here, and pasta and
// slirp4netns find namespaces by /proc. It dies with the host, and is killed when ctx ends.
func command(ctx context.Context, h *lab.Host, name string, args ...string) *exec.Cmd {
	cmd := h.Command(ctx, name, args...)
	cmd.SysProcAttr.Cloneflags = 0
	cmd.Stderr = os.Stderr
	return cmd
}

// forwarderCommand is a program in gw that close asks to end.
func (b *bed) forwarderCommand(name string, args ...string) *exec.Cmd {
	return command(context.WithoutCancel(b.ctx), b.gw, name, args...)
}

// start starts a forwarder.
func (b *bed) start(cmd *exec.Cmd) error {
	b.said = &tail{}
	cmd.Stderr = b.said
	if cmd.Stdout == nil {
		cmd.Stdout = b.said
	}
	if err := b.gw.Start(cmd); err != nil {
		return err
	}
	b.programs = append(b.programs, cmd)
	b.forwarder = cmd.Process.Pid
	return nil
}

// tail keeps the end of what a program says.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if n := len(t.text) - 2000; n > 0 {
		t.text = t.text[n:]
	}
	return len(p), nil
}

// remote is an agent's other end.
type remote struct {
	enc *json.Encoder
	dec *json.Decoder
}

func (b *bed) agent(h *lab.Host) (*remote, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := command(b.ctx, h, self, "agent") // killed, so that nobody waits for it, when the run is to stop
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.Start(cmd); err != nil {
		return nil, err
	}
	b.programs = append(b.programs, cmd)
	return &remote{json.NewEncoder(in), json.NewDecoder(out)}, nil
}

func (r *remote) ask(q request) (a reply, err error) {
	if err := r.enc.Encode(q); err != nil {
		return a, fmt.Errorf("agent: %w", err)
	}
	if err := r.dec.Decode(&a); errors.Is(err, io.EOF) {
		return a, errors.New("agent: it has ended")
	} else if err != nil {
		return a, fmt.Errorf("agent: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// reachable waits until a ping comes back.
func (b *bed) reachable() error {
	const patience = 15 * time.Second
	for end := time.Now().Add(patience); ; {
		r, err := b.client.ask(request{Op: "rtt", Server: serverAddr.String()})
		if err == nil && len(r.RTT) > 0 {
			return nil
		}
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		if time.Now().After(end) {
			said := ""
			if b.said != nil {
				said = string(b.said.text)
			}
			return fmt.Errorf("no way from in to out after %s: %w\n%s", patience, errors.Join(err, errNoAnswer), said)
		}
		ts := unix.NsecToTimespec((20 * time.Millisecond).Nanoseconds())
		_ = unix.Nanosleep(&ts, nil)
	}
}

var errNoAnswer = errors.New("no answer")

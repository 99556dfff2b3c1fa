// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/bench/sidebyside/forward"
	"github.com/tidegate/tidegate/internal/lab"
)

// peer is one way to do a gateway's job.
type peer struct {
	name, what string
	// extra peers are measured only if they are asked for.
	extra bool
	// cable says that "in" has a link to "gw"; forward that the kernel of gw forwards from the start.
	cable, forward bool
	// prepare builds or finds it, once, and says its version.
	prepare func(*workshop) (version string, err error)
	// get is how to get it where prepare fails.
	get string
	// start starts it in a bed.
	start func(*workshop, *bed) error
}

// workshop is where programs are built: the root of the module, and a directory that goes away.
type workshop struct {
	ctx       context.Context
	root, dir string
	flags     []string // more of them for the gateway
}

func (w *workshop) bin(name string) string { return filepath.Join(w.dir, name) }

// build builds a program of the tree; dir is relative to its root.
func (w *workshop) build(name, dir string) error {
	cmd := exec.CommandContext(w.ctx, "go", "build", "-o", w.bin(name), ".")
	cmd.Dir = filepath.Join(w.root, dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w: %s", dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// configure builds the gateway and writes a configuration for it, with something said of its devices, which is its version.
func (w *workshop) configure(file, devices string) (version string, err error) {
	if err := w.build("gateway", "examples/gateway"); err != nil {
		return "", err
	}
	config := fmt.Sprintf("inside: {prefixes: [%s]}\noutside: {addresses: [%s]}\ndevices: {%s}\n", insideNet, public, devices)
	return "devices." + strings.Replace(devices, ":", "", 1), os.WriteFile(w.bin(file), []byte(config), 0o644)
}

// startConfigured starts the gateway with a configuration of configure.
func (b *bed) startConfigured(w *workshop, file string) error {
	return b.start(b.forwarderCommand(w.bin("gateway"), "run", "--config", w.bin(file)))
}

var peers = []peer{
	{
		name: "kernel", what: "forwarding without NAT: the ceiling of this load", cable: true, forward: true,
		prepare: func(*workshop) (string, error) { return "Linux " + release(), nil },
		start:   func(*workshop, *bed) error { return nil },
	},
	{
		name: base, what: "nft masquerade: 1.00", cable: true, forward: true,
		prepare: func(*workshop) (string, error) {
			return "Linux " + release() + ", rules by google/nftables " + dependency("github.com/google/nftables"), nil
		},
		start: func(_ *workshop, b *bed) error { return b.gw.Do(masquerade) },
		get:   "a kernel with nf_tables and nft_masq",
	},
	{
		name: "tidegate", what: "the gateway of this tree", cable: true,
		prepare: func(w *workshop) (string, error) {
			if err := w.build("gateway", "examples/gateway"); err != nil {
				return "", err
			}
			out, err := exec.CommandContext(w.ctx, w.bin("gateway"), "--version").Output()
			return strings.Join(append([]string{strings.TrimSpace(string(out))}, w.flags...), " "), err
		},
		start: func(w *workshop, b *bed) error {
			args := append([]string{"run", "--inside", insideNet.String(), "--public", public.String()}, w.flags...)
			return b.start(b.forwarderCommand(w.bin("gateway"), args...))
		},
	},
	{
		name: "tidegate-spin", what: "the gateway of this tree, which looks 100 µs for the next packet before it sleeps", cable: true,
		prepare: func(w *workshop) (string, error) { return w.configure("spin.yaml", "busy_poll: 100us") },
		start:   func(w *workshop, b *bed) error { return b.startConfigured(w, "spin.yaml") },
	},
	{
		name: "tidegate-queues", what: "the gateway of this tree with two queues for each interface, and a thread for each", cable: true, extra: true,
		prepare: func(w *workshop) (string, error) { return w.configure("queues.yaml", "queues: 2") },
		start:   func(w *workshop, b *bed) error { return b.startConfigured(w, "queues.yaml") },
	},
	{
		name: "water", what: "this tree's engine over songgao/water: one packet a call, no offload", cable: true, forward: true,
		prepare: func(*workshop) (string, error) { return dependency("github.com/songgao/water"), nil },
		start: func(_ *workshop, b *bed) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return b.startForwarder(self, "water")
		},
	},
	{
		name: "wireguard-tun", what: "this tree's engine over golang.zx2c4.com/wireguard/tun: batches, super-packets split and joined", cable: true, forward: true,
		prepare: func(w *workshop) (string, error) {
			if err := w.build("wgtun", "bench/sidebyside/tools/wgtun"); err != nil {
				return "", err
			}
			info, err := buildinfo.ReadFile(w.bin("wgtun"))
			if err != nil {
				return "", err
			}
			return versionIn(info, "golang.zx2c4.com/wireguard"), nil
		},
		start: func(w *workshop, b *bed) error { return b.startForwarder(w.bin("wgtun")) },
		get:   "a module proxy that has golang.zx2c4.com/wireguard (bench/sidebyside/tools/go.mod)",
	},
	{
		name: "pasta", what: "sockets of gw; its own interface in in, MTU 65,520 as it comes",
		prepare: func(w *workshop) (string, error) { return program(w.ctx, "passt", "pasta", "--version") },
		start: func(_ *workshop, b *bed) error {
			ns, err := b.namespace()
			if err != nil {
				return err
			}
			return b.start(b.forwarderCommand("pasta", "--foreground", "--quiet", "--runas", "0:0", "--config-net", "--no-map-gw", "--no-dhcp", "--no-dhcpv6",
				"--no-ndp", "--no-ra", "--ipv4-only", "--interface", devOutside, "--ns-ifname", "tap0", "--address", inAddr.String(), "--netmask", "24",
				"--gateway", gwInside.String(), "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--netns-only", "--netns", ns))
		},
		get: "apt-get install passt",
	},
	{
		name: "slirp4netns", what: "sockets of gw; its own interface in in, MTU 65,520 as rootless containers have it",
		prepare: func(w *workshop) (string, error) { return program(w.ctx, "slirp4netns", "slirp4netns", "--version") },
		start: func(_ *workshop, b *bed) error {
			ns, err := b.namespace()
			if err != nil {
				return err
			}
			return b.start(b.forwarderCommand("slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", ns, "tap0"))
		},
		get: "apt-get install slirp4netns",
	},
}

// namespace puts the network namespace of "in" into the file system of gw, where it may be opened without a right to look
// into this process. It returns the path.
func (b *bed) namespace() (string, error) {
	var from string
	err := b.in.Do(func() error {
		from = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		return nil
	})
	if err != nil {
		return "", err
	}
	to := filepath.Join(lab.Dir, "in")
	return to, b.gw.Do(func() error {
		if err := os.WriteFile(to, nil, 0o644); err != nil {
			return err
		}
		return unix.Mount(from, to, "", unix.MS_BIND, "")
	})
}

// startForwarder starts a forwarder with TUNs in gw and routes to it as the gateway does: what comes from inside goes into
// one, what comes for the public address into the other.
func (b *bed) startForwarder(name string, args ...string) error {
	cmd := b.forwarderCommand(name, append(args, insideNet.String(), public.String())...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.start(cmd); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != forward.Ready {
		return fmt.Errorf("%s: %q, %w: %s", name, line, errors.Join(err, errNoAnswer), b.said.text)
	}
	return b.gw.Do(func() error {
		const table = 100
		for _, r := range []struct {
			dev   string
			dst   netip.Prefix
			table int
		}{{forward.Inside, everywhere, table}, {forward.Outside, netip.PrefixFrom(public, 32), unix.RT_TABLE_MAIN}} {
			link, err := netlink.LinkByName(r.dev)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			dst := &net.IPNet{IP: r.dst.Addr().AsSlice(), Mask: net.CIDRMask(r.dst.Bits(), 32)}
			if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Table: r.table, Scope: netlink.SCOPE_LINK}); err != nil {
				return err
			}
		}
		rule := netlink.NewRule()
		rule.IifName, rule.Table, rule.Priority, rule.Family = devInside, table, 100, unix.AF_INET
		return netlink.RuleAdd(rule)
	})
}

// masquerade is "nft add rule ip nat postrouting oifname eth0 masquerade", for the thread of a host.
func masquerade() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, devOutside)
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Masq{},
	}})
	return c.Flush()
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// dependency is the version of a module that this program is made of.
func dependency(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown version"
	}
	return versionIn(info, module)
}

func versionIn(info *debug.BuildInfo, module string) string {
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version
		}
	}
	return "of unknown version"
}

// program is the version of an installed program, as it says itself and, on Debian, as the package is called.
func program(ctx context.Context, pkg, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if v, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", pkg).Output(); err == nil {
		line += ", Debian " + string(v)
	}
	return line, nil
}

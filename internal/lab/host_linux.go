// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one machine of a lab. Its methods may be called from several goroutines.
type Host struct {
	name  string
	calls chan func()
	quit  chan struct{}
	done  chan struct{} // closed when the thread has let go of everything
	tid   int
	ns    *os.File // the network namespace
	nl    *netlink.Handle
}

// HostOptions are what NewHost may be told. The zero value is usable.
type HostOptions struct {
	// Hosts are the names in the host's /etc/hosts, beside localhost and its own.
	Hosts map[string]netip.Addr
	// Files replace the text of files of the machine for this host, by absolute path, where the machine has them.
	Files map[string]string
	// Forward makes the host a router.
	Forward bool
}

// NewHost makes a host: loopback up, no other interface, IPv6 off. It needs root (CAP_SYS_ADMIN).
func NewHost(name string, o HostOptions) (*Host, error) {
	h := &Host{name: name, calls: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error)
	go h.thread(o, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

// The main goroutine keeps the process's first thread, which stands for the process in /proc and is never destroyed: no
// host may live on it.
func init() { runtime.LockOSThread() }

// thread is the host: an OS thread in namespaces of its own that does what it is asked to, one call after the other.
// It ends locked, so the runtime destroys it, and with it the namespaces and, by PDEATHSIG, the programs it started.
func (h *Host) thread(o HostOptions, ready chan<- error) {
	runtime.LockOSThread()
	defer close(h.done)
	defer h.closeFiles()
	err := h.enter(o)
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case f := <-h.calls:
			f()
		case <-h.quit:
			return
		}
	}
}

func (h *Host) closeFiles() {
	if h.nl != nil {
		h.nl.Close()
	}
	if h.ns != nil {
		_ = h.ns.Close()
	}
}

func (h *Host) enter(o HostOptions) (err error) {
	// CLONE_NEWNS also ends the sharing of the working directory with the other threads.
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	h.tid = unix.Gettid()
	if h.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(h.name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := h.mounts(o); err != nil {
		return err
	}
	sysctls := map[string]string{
		"ipv6/conf/all/disable_ipv6":  "1",
		"ipv4/ping_group_range":       "0 2147483647", // ping without a raw socket
		"ipv4/icmp_ratelimit":         "0",            // traceroute asks faster than once a second
		"ipv4/conf/all/rp_filter":     "0",            // a leak is to be seen, not to be swallowed
		"ipv4/conf/default/rp_filter": "0",
	}
	if o.Forward {
		sysctls["ipv4/ip_forward"] = "1"
	}
	for k, v := range sysctls {
		if err := os.WriteFile("/proc/sys/net/"+k, []byte(v), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	lo, err := h.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.nl.LinkSetUp(lo)
}

// mounts gives the host a /run and a /root of its own, with the directories that programs expect, and its name files.
func (h *Host) mounts(o HostOptions) error {
	if err := privateMounts(); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	resolv, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		resolv = "" // there is none; nothing to hide
	}
	// Its own /root too: what the user's shell does when it starts is no business of a lab, nor the reverse.
	for _, dir := range []string{"/run", "/root"} {
		err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for _, d := range []string{Dir, "/run/sshd"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n127.0.1.1 %s\n", h.name)
	for _, n := range slices.Sorted(maps.Keys(o.Hosts)) {
		fmt.Fprintf(&b, "%s %s\n", o.Hosts[n], n)
	}
	// No name server: what a lab does never leaves it.
	files := map[string]string{"/etc/hosts": b.String(), resolv: "# none\n"}
	maps.Copy(files, o.Files)
	for over, text := range files {
		if err := bindFile(over, text); err != nil {
			return err
		}
	}
	return nil
}

// privateMounts keeps what is mounted from here on in this mount namespace. That is a property of the mount that the
// root directory is in, and in a chroot only the root of the whole namespace can name it: so go there, and come back.
func privateMounts() error {
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil { // its root is our root now
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return err
	}
	return unix.Chroot(".")
}

// bindFile puts text in the place of a file of the machine, for this host alone. Without such a file it does nothing.
func bindFile(over, text string) error {
	if over == "" {
		return nil
	}
	if _, err := os.Stat(over); err != nil {
		return nil
	}
	f := filepath.Join(Dir, filepath.Base(over))
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(f, over, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", over, err)
	}
	return nil
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Enter is a command line that starts a shell in the host.
func (h *Host) Enter() string {
	return fmt.Sprintf("nsenter --net --mount --uts --target %d bash", h.tid)
}

// Do runs f on the host's thread: files, sockets and processes that f makes are the host's. f must not wait for the
// network, since the host does nothing else meanwhile.
func (h *Host) Do(f func() error) error {
	var err error
	ran := make(chan struct{})
	select {
	case h.calls <- func() { err = f(); close(ran) }:
		<-ran
		return err
	case <-h.done:
		return fmt.Errorf("host %s: %w", h.name, os.ErrClosed)
	}
}

// Close ends the host: its programs are killed, its interfaces are gone once nobody holds a socket in it. Later calls
// fail with os.ErrClosed. It may be called once.
func (h *Host) Close() {
	close(h.quit)
	<-h.done
}

// WriteFile writes a file that only the host sees if it is under Dir; missing directories are made.
func (h *Host) WriteFile(name string, data []byte, mode os.FileMode) error {
	return h.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		return os.WriteFile(name, data, mode)
	})
}

// Link is one interface of a host. Zero fields are left alone.
type Link struct {
	// Name is the interface's name.
	Name string
	// Addr is its address, with the length of the prefix that is reached directly.
	Addr netip.Prefix
	// MTU is in bytes; Queue is how many packets may wait to be sent.
	MTU, Queue int
	// Routes are reached through the interface: by way of Via, or directly if Via is invalid. Table is the routing table
	// that they are in, 0 for the main one.
	Routes []netip.Prefix
	Via    netip.Addr
	Table  int
}

// Connect puts a cable between two hosts.
func Connect(a *Host, la Link, b *Host, lb Link) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: la.Name},
		PeerName:      lb.Name,
		PeerNamespace: netlink.NsFd(int(b.ns.Fd())),
	}
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s - %s: %w", a.name, b.name, err)
	}
	if err := a.setup(la); err != nil {
		return err
	}
	return b.setup(lb)
}

func (h *Host) setup(l Link) error {
	wrap := func(err error) error { return fmt.Errorf("host %s, interface %s: %w", h.name, l.Name, err) }
	link, err := h.nl.LinkByName(l.Name)
	if err != nil {
		return wrap(err)
	}
	if l.MTU != 0 {
		if err := h.nl.LinkSetMTU(link, l.MTU); err != nil {
			return wrap(err)
		}
	}
	if l.Queue != 0 {
		if err := h.nl.LinkSetTxQLen(link, l.Queue); err != nil {
			return wrap(err)
		}
	}
	if l.Addr.IsValid() {
		if err := h.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(l.Addr)}); err != nil {
			return wrap(err)
		}
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return wrap(err)
	}
	return h.route(link, l)
}

func (h *Host) route(link netlink.Link, l Link) error {
	for _, dst := range l.Routes {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Table: l.Table}
		if l.Via.IsValid() {
			r.Gw = l.Via.AsSlice()
		} else {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := h.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("host %s: route to %s: %w", h.name, dst, err)
		}
	}
	return nil
}

// Up connects the interface l.Name, with its routes, which the kernel forgot when it went down.
func (h *Host) Up(l Link) error {
	link, err := h.nl.LinkByName(l.Name)
	if err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return h.route(link, l)
}

// Down disconnects the interface l.Name.
func (h *Host) Down(l Link) error {
	link, err := h.nl.LinkByName(l.Name)
	if err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return h.nl.LinkSetDown(link)
}

// SetAddresses makes these the addresses of the interface l.Name, and keeps those that it has already. Where l.Table is not 0,
// what is sent from them takes the routes of that table, which are l.Routes.
func (h *Host) SetAddresses(l Link, want []netip.Addr) error {
	wrap := func(err error) error { return fmt.Errorf("host %s, interface %s: %w", h.name, l.Name, err) }
	link, err := h.nl.LinkByName(l.Name)
	if err != nil {
		return wrap(err)
	}
	have, err := h.nl.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return wrap(err)
	}
	there := map[netip.Addr]bool{}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		there[ip] = true
		if slices.Contains(want, ip) {
			continue
		}
		if err := h.nl.AddrDel(link, &a); err != nil {
			return wrap(err)
		}
		if l.Table != 0 {
			if err := h.nl.RuleDel(ruleFrom(ip, l.Table)); err != nil && !errors.Is(err, unix.ENOENT) {
				return wrap(err)
			}
		}
	}
	for _, ip := range want {
		if there[ip] {
			continue
		}
		if err := h.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))}); err != nil {
			return wrap(err)
		}
		if l.Table != 0 {
			if err := h.nl.RuleAdd(ruleFrom(ip, l.Table)); err != nil && !errors.Is(err, unix.EEXIST) {
				return wrap(err)
			}
		}
	}
	return nil
}

func ruleFrom(ip netip.Addr, table int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Src, r.Table = unix.AF_INET, ipNet(netip.PrefixFrom(ip, 32)), table
	return r
}

// TID is the host's thread: its namespaces are those of the process's task of that number in /proc.
func (h *Host) TID() int { return h.tid }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Counter is one of the kernel's SNMP counters of the host, such as "Tcp", "InCsumErrors".
func (h *Host) Counter(group, name string) (n uint64, err error) {
	err = h.Do(func() error {
		f, err := os.Open("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		defer f.Close()
		// Two lines a group, the names and the numbers.
		var names []string
		for sc := bufio.NewScanner(f); sc.Scan(); {
			g, rest, _ := strings.Cut(sc.Text(), ": ")
			if g != group {
				continue
			}
			if names == nil {
				names = strings.Fields(rest)
				continue
			}
			for i, v := range strings.Fields(rest) {
				if names[i] == name {
					n, err = strconv.ParseUint(v, 10, 64)
					return err
				}
			}
		}
		return fmt.Errorf("host %s: no counter %s %s", h.name, group, name)
	})
	return n, err
}

// ReadFile reads a file as the host sees it.
func (h *Host) ReadFile(name string) (b []byte, err error) {
	err = h.Do(func() error {
		b, err = os.ReadFile(name)
		return err
	})
	return b, err
}

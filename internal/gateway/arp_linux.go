// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// answered is an external address that the kernel answers ARP requests for on an interface.
type answered struct {
	addr netip.Addr
	link netlink.Link
}

// onLink finds the external addresses that lie in the network of an interface, where nobody routes them to us.
func onLink(nl *netlink.Handle, external []netip.Addr) ([]answered, error) {
	links, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var found []answered
	for _, l := range links {
		a := l.Attrs()
		if trouble(l) != "" || a.RawFlags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) != 0 || len(a.HardwareAddr) != 6 {
			continue
		}
		addrs, err := nl.AddrList(l, unix.AF_INET)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, e := range external {
			for _, own := range addrs {
				if p := prefixOf(own.IPNet); p.Masked().Contains(e) && p.Addr() != e {
					found = append(found, answered{e, l})
					break
				}
			}
		}
	}
	return found, nil
}

// probeWait is how long the present holder of an address has to answer, on a network where everything is near.
const probeWait = 300 * time.Millisecond

// checkInUse asks whether another machine has one of the addresses that we are about to answer for (RFC 5227,
// section 2.1).
func (s *system) checkInUse(external []netip.Addr) error {
	found, err := onLink(s.nl, external)
	if err != nil || len(found) == 0 {
		return err
	}
	byLink := map[int][]answered{}
	for _, f := range found {
		i := f.link.Attrs().Index
		byLink[i] = append(byLink[i], f)
	}
	for _, fs := range byLink {
		if err := probe(s.arp, fs); err != nil {
			return err
		}
	}
	return nil
}

// loopback is the index of lo in every network namespace.
const loopback = 1

// probe sends ARP probes on one interface and waits for answers.
func probe(fd int, fs []answered) error {
	link := fs[0].link
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: link.Attrs().Index}); err != nil {
		return fmt.Errorf("listen for ARP on %s: %w", link.Attrs().Name, err)
	}
	// Afterwards it is to receive nothing again; there is no ARP on lo. What is in its queue is of no interest next time,
	// since an answer counts by the address that it is about.
	defer func() {
		_ = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: loopback}) // else its queue fills up
	}()
	asked := map[netip.Addr]bool{}
	for _, f := range fs {
		asked[f.addr] = true
		if err := sendARP(fd, link, netip.IPv4Unspecified(), f.addr); err != nil {
			return err
		}
	}
	buf := make([]byte, 128)
	for end := time.Now().Add(probeWait); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("ARP on %s: %w", link.Attrs().Name, err)
		}
		if n < 28 || binary.BigEndian.Uint16(buf[6:]) != 2 {
			continue
		}
		if from := netip.AddrFrom4([4]byte(buf[14:18])); asked[from] {
			return refuse("%s is in use by another machine (%s) on %s: release it there, or use another", from,
				net.HardwareAddr(buf[8:14]), link.Attrs().Name)
		}
	}
}

// answer makes the kernel answer for external addresses that lie in the network of an interface, and tells the
// neighbors that they have moved here. Called again it does what is missing: with an interface that goes down, or away,
// the kernel forgets.
func (s *system) answer() error {
	found, err := onLink(s.nl, s.external)
	if err != nil {
		return err
	}
	s.answered = found
	silent, err := unansweredOf(s.nl, found)
	if err != nil {
		return err
	}
	for _, f := range silent {
		name := f.link.Attrs().Name
		// Otherwise it waits up to 0.8 s before it answers, in case somebody else does.
		if err := s.sysctl("ipv4/neigh/"+name+"/proxy_delay", "0"); err != nil {
			return err
		}
		if err := s.nl.NeighSet(f.neigh()); err != nil {
			return fmt.Errorf("answer ARP for %s on %s: %w", f.addr, name, err)
		}
		if err := sendARP(s.arp, f.link, f.addr, f.addr); err != nil { // an announcement: RFC 5227, section 2.3
			return err
		}
	}
	return nil
}

// unansweredOf are those that the kernel does not answer for.
func unansweredOf(nl *netlink.Handle, wanted []answered) (silent []answered, err error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	entries, err := nl.NeighProxyList(0, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list ARP entries: %w", err)
	}
	type key struct {
		addr netip.Addr
		link int
	}
	have := map[key]bool{}
	for _, e := range entries {
		ip, _ := netip.AddrFromSlice(e.IP.To4())
		have[key{ip, e.LinkIndex}] = true
	}
	for _, w := range wanted {
		if !have[key{w.addr, w.link.Attrs().Index}] {
			silent = append(silent, w)
		}
	}
	return silent, nil
}

func (f answered) neigh() *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: f.link.Attrs().Index, Family: unix.AF_INET, Flags: netlink.NTF_PROXY, IP: f.addr.AsSlice()}
}

// arpSocket is bound to no interface, and receives nothing until it is.
func arpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket for ARP: %w", err)
	}
	return fd, nil
}

// sendARP broadcasts a request of sender for target.
func sendARP(fd int, l netlink.Link, sender, target netip.Addr) error {
	b := make([]byte, 28)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1}) // Ethernet, IPv4, request
	copy(b[8:], l.Attrs().HardwareAddr)
	copy(b[14:], sender.AsSlice())
	copy(b[24:], target.AsSlice())
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: l.Attrs().Index, Halen: 6,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	if err := unix.Sendto(fd, b, 0, to); err != nil {
		return fmt.Errorf("send ARP on %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

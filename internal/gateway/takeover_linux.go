// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/tun"
)

// What a gateway leaves on the machine for the next one, and how that goes on with it. With state the TUNs are persistent:
// with them stay their addresses, and the routes and rules that lead to them. While nobody has their queues, the kernel
// drops what is for them; with a descriptor in the hands of the service manager, or of the next process, it waits.

// attach opens a TUN, or goes on with the queue that another process had.
func (s *system) attach(side int, name string) (d tun.Device, err error) {
	if fd := s.given[side]; fd > 0 {
		s.given[side] = 0
		if d, err = tun.FromFD(fd, s.tunOptions(name)); err == nil && d.Name() != name {
			err = errors.Join(errors.New("it is another interface now"), d.Close())
		}
	}
	if d == nil || err != nil { // of an interface that was deleted, or renamed
		if d, err = tun.Open(s.tunOptions(name)); err != nil {
			return nil, err
		}
	}
	// Whatever it was before.
	if err := persistent(d, s.persist); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: %w", name, err), d.Close())
	}
	return d, nil
}

// tunOptions are those of the TUN name.
func (s *system) tunOptions(name string) tun.Options {
	o := tun.Options{Name: name, Spin: time.Duration(s.devices.BusyPoll)}
	switch s.devices.Backend {
	case config.BackendIOURing:
		o.Backend = tun.BackendURing
	case config.BackendPlain:
		o.Backend = tun.BackendLinux
	}
	return o
}

// persistent has a TUN stay when nobody has its queue, or not.
func persistent(d tun.Device, on bool) error {
	k, ok := d.(tun.Keeper)
	if !ok {
		return errors.New("its queue cannot be kept")
	}
	fd, err := k.Descriptor()
	if err != nil {
		return err
	}
	value := 0
	if on {
		value = 1
	}
	return errors.Join(unix.IoctlSetInt(fd, unix.TUNSETPERSIST, value), unix.Close(fd))
}

// clearAway takes away what another configuration left: TUNs of other names, and ARP entries for addresses that are not to
// be answered for any more. It has to come before the rules and routes that tell what was there are replaced.
func (s *system) clearAway() error {
	rules, err := ourRules(s.nl)
	if err != nil {
		return err
	}
	if err := deleteTUNs(s.nl, rules, s.devices.Inside, s.devices.Outside); err != nil {
		return err
	}
	routes, err := ourRoutes()
	if err != nil {
		return err
	}
	_, was := told(routes)
	found, err := onLink(s.nl, s.external)
	if err != nil {
		return err
	}
	_, err = deleteProxiesBut(s.nl, was, found)
	return err
}

// deleteTUNs deletes the TUNs that rules name, if nobody has them, but for those that are to stay.
func deleteTUNs(nl *netlink.Handle, rules map[ruleKey]netlink.Rule, stay ...string) error {
	for k := range rules {
		inside := k.priority == ruleAnswers && k.iif != "lo"
		if !inside && k.priority != rulePassed || slices.Contains(stay, k.iif) {
			continue
		}
		link, err := nl.LinkByName(k.iif)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("interface %s: %w", k.iif, err)
		}
		if !isTUN(link) || link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			continue
		}
		if err := nl.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete interface %s: %w", k.iif, err)
		}
	}
	return nil
}

// deleteOwn deletes our TUNs where they are persistent; otherwise they have gone with their queues.
func (s *system) deleteOwn() error {
	if !s.persist {
		return nil
	}
	var errs []error
	for side, name := range []string{s.devices.Inside, s.devices.Outside} {
		if s.index[side] == 0 {
			continue
		}
		link, err := s.nl.LinkByIndex(s.index[side])
		if err == nil && isTUN(link) {
			err = s.nl.LinkDel(link)
		}
		if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete interface %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func isTUN(l netlink.Link) bool { _, ok := l.(*netlink.Tuntap); return ok }

// queues are descriptors of the queues of both TUNs, by name; the caller closes them.
func (s *system) queues() (fds map[string]int, err error) {
	fds = map[string]int{}
	for side, name := range []string{fdInside, fdOutside} {
		if fds[name], err = s.tuns[side].Descriptor(); err != nil {
			delete(fds, name)
			closeAll(fds)
			return nil, err
		}
	}
	return fds, nil
}

func closeAll(fds map[string]int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// leave lets go of everything and changes nothing: the next process goes on with it.
func (s *system) leave() error {
	var errs []error
	for _, d := range s.tuns {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	if s.arp != 0 {
		errs = append(errs, unix.Close(s.arp))
		s.arp = 0
	}
	return errors.Join(errs...)
}

// undo takes everything back but the guard.
func (s *system) undo() error {
	var errs []error
	if s.plan.insideDev != "" { // otherwise it did not get that far
		_, err := deleteProxies(s.nl, s.plan.external) // another machine may take the addresses over now
		errs = append(errs, err)
	}
	errs = append(errs, s.leave(), s.deleteOwn()) // with a TUN go the routes to it
	if s.plan.insideDev != "" {
		s.plan.insideDev, s.plan.outsideDev = "", ""
		errs = append(errs, s.plan.apply(s.nl))
	}
	for _, r := range slices.Backward(s.restore) {
		if err := r.write(); err != nil && !errors.Is(err, os.ErrNotExist) { // that of a TUN is gone with it
			errs = append(errs, err)
		}
	}
	s.restore = nil
	if s.remember != nil {
		errs = append(errs, s.remember(nil))
	}
	return errors.Join(errs...)
}

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

// attach opens the queues of a TUN, or goes on with those that another process had. On an error none is open.
func (s *system) attach(side int, name string) (ds []tun.Device, err error) {
	fds := s.given[side]
	s.given[side] = nil
	if len(fds) > 0 {
		if ds, err = s.goOn(fds, name); err != nil {
			return nil, err
		}
	}
	if ds == nil {
		ds, err = tun.OpenQueues(s.tunOptions(name))
		if errors.Is(err, unix.EINVAL) { // it may be of the other kind
			if err = s.discardLeft(name, err); err == nil {
				ds, err = tun.OpenQueues(s.tunOptions(name))
			}
		}
		if err != nil {
			return nil, err
		}
	}
	// Whatever it was before.
	if err := persistent(ds[0], s.persist); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: %w", name, err), closeQueues(ds))
	}
	return ds, nil
}

// goOn makes devices of descriptors, which it owns. There are none, and no error, if the interface was deleted or renamed, or has
// not as many queues as it is to have; then it is deleted, since whoever gave them may still hold others, which nobody would read.
func (s *system) goOn(fds []int, name string) (ds []tun.Device, err error) {
	is, multi := kindOf(fds[0])
	if is == name && (len(fds) != s.devices.Queues || multi != (s.devices.Queues > 1)) {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		s.book.log.Warn("the service manager kept another number of queues of an interface than it is to have (devices.queues; "+
			"FileDescriptorStoreMax has to be twice as many and one): it is made anew, without the packets that waited",
			"interface", name, "kept", len(fds), "queues", s.devices.Queues)
		return nil, s.discardKept(name)
	}
	for i, fd := range fds {
		d, err := tun.FromFD(fd, s.tunOptions(name))
		if err == nil {
			ds = append(ds, d)
		}
		if err != nil || d.Name() != name {
			for _, fd := range fds[i+1:] {
				_ = unix.Close(fd)
			}
			_ = closeQueues(ds) // there is nothing to be had of it
			return nil, nil
		}
	}
	return ds, nil
}

// kindOf says which interface a descriptor is of, "" for none, and whether that can have several queues.
func kindOf(fd int) (name string, multi bool) {
	r, err := unix.NewIfreq("")
	if err != nil || unix.IoctlIfreq(fd, unix.TUNGETIFF, r) != nil {
		return "", false
	}
	return r.Name(), r.Uint16()&unix.IFF_MULTI_QUEUE != 0
}

// discardKept deletes a TUN whoever holds queues of it.
func (s *system) discardKept(name string) error {
	link, err := s.nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return deleteLink(s.nl, link)
}

// discardLeft deletes a TUN that a gateway with another kind of queues has left here, if nobody has it. If it is somebody else's,
// the error is why.
func (s *system) discardLeft(name string, why error) error {
	rules, err := ourRules(s.nl)
	if err != nil {
		return err
	}
	left, err := leftTUNs(s.nl, rules)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(left, func(l netlink.Link) bool { return l.Attrs().Name == name })
	if at < 0 {
		return why
	}
	s.book.log.Info("an interface of the last run is made anew, since it is to have another number of queues", "interface", name, "queues", s.devices.Queues)
	return deleteLink(s.nl, left[at])
}

func closeQueues(ds []tun.Device) error {
	var errs []error
	for _, d := range ds {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// tunOptions are those of the TUN name.
func (s *system) tunOptions(name string) tun.Options {
	o := tun.Options{Name: name, Spin: time.Duration(s.devices.BusyPoll), Queues: s.devices.Queues}
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
	left, err := leftTUNs(nl, rules)
	if err != nil {
		return err
	}
	for _, link := range left {
		name := link.Attrs().Name
		if slices.Contains(stay, name) {
			continue
		}
		if err := deleteLink(nl, link); err != nil {
			return err
		}
	}
	return nil
}

// leftTUNs are the TUNs that rules name and nobody has.
func leftTUNs(nl *netlink.Handle, rules map[ruleKey]netlink.Rule) (left []netlink.Link, err error) {
	for k := range rules {
		inside := k.priority == ruleAnswers && k.iif != "lo"
		if !inside && k.priority != rulePassed {
			continue
		}
		link, err := nl.LinkByName(k.iif)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", k.iif, err)
		}
		if isTUN(link) && link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
			left = append(left, link)
		}
	}
	return left, nil
}

// deleteLink deletes an interface, if nobody else has by now.
func deleteLink(nl *netlink.Handle, link netlink.Link) error {
	if err := nl.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", link.Attrs().Name, err)
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
	for side, slots := range s.tuns {
		for i, d := range slots {
			fd, err := d.Descriptor()
			if err != nil {
				closeAll(fds)
				return nil, err
			}
			fds[queueName(side, i)] = fd
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
	for _, slots := range s.tuns {
		for _, d := range slots {
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

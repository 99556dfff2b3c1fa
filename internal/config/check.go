// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Bounds that nobody has reached for a good reason.
const (
	maxPrefixes = 16      // the gateway has a routing rule for each pair of them
	maxPool     = 4096    // addresses
	maxSessions = 1 << 26 // 8 GiB of tables
	minBlock    = 16      // ports; four for each part of the gateway's tables
)

// unusable are addresses that may not be on a wire (RFC 6890).
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
}

// check reports what contradicts itself. Values that could not be read are zero, have been reported and are passed over.
func (c *Config) check(f *faults) {
	c.checkInside(f)
	c.checkOutside(f)
	c.checkStatic(f)
	c.checkForwards(f)
	c.checkModes(f)
	c.checkTimeouts(f)
	c.checkNumbers(f)
	c.checkDevices(f)
	c.checkControl(f)
	c.checkState(f)
	if len(f.all) > 0 {
		return
	}
	// What the engine itself finds, it finds without a line.
	p, _ := c.Compile()
	if err := p.Validate(); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			f.at("", "%s", line)
		}
	}
}

func (c *Config) checkInside(f *faults) {
	ps := c.Inside.Prefixes
	if len(ps) == 0 {
		f.at("inside.prefixes", "is missing: write the address space of the inside hosts, such as [10.0.0.0/16]")
	}
	if len(ps) > maxPrefixes {
		f.at("inside.prefixes", "has %d prefixes, more than %d: join them to larger ones", len(ps), maxPrefixes)
	}
	for i, p := range ps {
		key := fmt.Sprintf("inside.prefixes[%d]", i)
		if !p.IsValid() {
			continue
		}
		for _, u := range unusable {
			if u.Overlaps(p) {
				f.at(key, "%s overlaps %s, which no host can have", p, u)
			}
		}
		for j, q := range ps[:i] {
			if q.IsValid() && q.Overlaps(p) {
				f.at(key, "%s overlaps %s (inside.prefixes[%d]): keep the larger one", p, q, j)
			}
		}
	}
}

// inside is the prefix that has a.
func (c *Config) inside(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range c.Inside.Prefixes {
		if p.IsValid() && p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// pool is the place in outside.addresses that has a, or -1.
func (c *Config) pool(a netip.Addr) int { return indexOf(c.Outside.Addresses, a) }

// indexOf is the place in rs that has a, or -1.
func indexOf(rs []Range, a netip.Addr) int {
	return slices.IndexFunc(rs, func(r Range) bool { return r.From.IsValid() && r.Contains(a) })
}

func (c *Config) checkOutside(f *faults) {
	rs := c.Outside.Addresses
	if len(rs) == 0 && len(c.Static) == 0 {
		f.at("outside.addresses", "is missing: write the public addresses that inside hosts share, such as [203.0.113.1]")
	}
	type item struct {
		key string
		Range
	}
	var all []item
	for i, r := range rs {
		all = append(all, item{fmt.Sprintf("outside.addresses[%d]", i), r})
	}
	for i, r := range c.Outside.Draining {
		all = append(all, item{fmt.Sprintf("outside.draining[%d]", i), r})
	}
	n := 0
	for i, it := range all {
		key, r := it.key, it.Range
		if !r.From.IsValid() {
			continue
		}
		n += r.Len()
		for _, u := range unusable {
			if u.Contains(r.From) || u.Contains(r.To) || r.Contains(u.Addr()) {
				f.at(key, "%s overlaps %s, which may not be on a wire", r, u)
			}
		}
		// RFC 4787 REQ-7: one of the two that the RFC allows is to refuse.
		for _, p := range c.Inside.Prefixes {
			if p.IsValid() && (p.Contains(r.From) || r.Contains(p.Addr())) {
				f.at(key, "%s overlaps the inside prefix %s: an address is either inside or outside", r, p)
			}
		}
		for _, o := range all[:i] {
			if o.From.IsValid() && (o.Contains(r.From) || r.Contains(o.From)) {
				f.at(key, "%s overlaps %s (%s): name each address once", r, o.Range, o.key)
			}
		}
	}
	if n > maxPool {
		f.at("outside.addresses", "has %d addresses, more than %d, with those of outside.draining", n, maxPool)
	}
	if p := c.Outside.Ports; p.Min < 1 || p.Max > 65535 || p.Min > p.Max {
		f.at("outside.ports", "%d to %d is no range of ports: write {min: 1024, max: 65535}, both from 1 to 65535", p.Min, p.Max)
	}
	switch n := c.Outside.PortBlock; {
	case n == 0:
	case n < minBlock || n > 65535:
		f.at("outside.port_block", "%d is out of range: write 0 for off, or ports from %d to 65535", n, minBlock)
	case c.Outside.Pooling != nth[Pooling](0):
		f.at("outside.port_block", "a block is on one address, so it does not go with outside.pooling %s: write paired there", c.Outside.Pooling)
	case c.Profile == "rfc":
		f.at("outside.port_block", "does not go with profile rfc, which keeps inside ports below 1024 there: use another profile")
	}
}

func (c *Config) checkStatic(f *faults) {
	in, out := map[netip.Addr]int{}, map[netip.Addr]int{}
	for i, s := range c.Static {
		key := fmt.Sprintf("static[%d]", i)
		need(f, key, s.Inside.IsValid(), "inside")
		need(f, key, s.Outside.IsValid(), "outside")
		if s.Inside.IsValid() {
			c.checkIsInside(f, key+".inside", s.Inside)
			checkOnce(f, key+".inside", in, s.Inside, i)
		}
		if !s.Outside.IsValid() {
			continue
		}
		checkOnce(f, key+".outside", out, s.Outside, i)
		if p, ok := c.inside(s.Outside); ok {
			f.at(key+".outside", "%s is in the inside prefix %s: an address is either inside or outside", s.Outside, p)
		}
		if j := c.pool(s.Outside); j >= 0 {
			f.at(key+".outside", "%s is shared by all (outside.addresses[%d]): take it out there, or use another", s.Outside, j)
		}
		if j := indexOf(c.Outside.Draining, s.Outside); j >= 0 {
			f.at(key+".outside", "%s has sessions of the pool yet (outside.draining[%d]): take it out there, which ends them, or use another", s.Outside, j)
		}
		for _, u := range unusable {
			if u.Contains(s.Outside) {
				f.at(key+".outside", "%s is in %s, which may not be on a wire", s.Outside, u)
			}
		}
	}
}

// need reports a key of a list item that was not written down.
func need(f *faults, item string, have bool, key string) {
	if _, written := f.places[item+"."+key]; !have && !written {
		f.at(item, "has no %s: write it", key)
	}
}

func (c *Config) checkIsInside(f *faults, key string, a netip.Addr) {
	if _, ok := c.inside(a); !ok && len(c.Inside.Prefixes) > 0 {
		f.at(key, "%s is in none of inside.prefixes: add its prefix there, or use another address", a)
	}
}

// checkOnce reports an address that an earlier 1:1 mapping has.
func checkOnce(f *faults, key string, seen map[netip.Addr]int, a netip.Addr, i int) {
	if j, ok := seen[a]; ok {
		f.at(key, "%s is also in static[%d]: keep one of them", a, j)
		return
	}
	seen[a] = i
}

func (c *Config) checkForwards(f *faults) {
	type endpoint struct {
		proto Proto
		at    netip.AddrPort
	}
	seen := map[endpoint]int{}
	for i, w := range c.Forwards {
		key := fmt.Sprintf("forwards[%d]", i)
		need(f, key, w.Proto != "", "proto")
		need(f, key, w.Outside.IsValid(), "outside")
		need(f, key, w.Inside.IsValid(), "inside")
		if w.Inside.IsValid() {
			c.checkIsInside(f, key+".inside", w.Inside.Addr())
			for j, s := range c.Static {
				if s.Inside == w.Inside.Addr() {
					f.at(key+".inside", "%s answers from its own outside address (static[%d]), where all its ports are open already: "+
						"forward to another address", s.Inside, j)
				}
			}
		}
		if !w.Outside.IsValid() {
			continue
		}
		if c.pool(w.Outside.Addr()) < 0 {
			text := "is not in outside.addresses: add it there, or use an address that is"
			for j, s := range c.Static {
				if s.Outside == w.Outside.Addr() {
					text = fmt.Sprintf("is mapped 1:1 by static[%d], with all its ports: use an address of outside.addresses", j)
				}
			}
			f.at(key+".outside", "%s %s", w.Outside.Addr(), text)
		}
		e := endpoint{w.Proto, w.Outside}
		if j, ok := seen[e]; ok && w.Proto != "" {
			f.at(key+".outside", "%s %s is also in forwards[%d]: keep one of them", w.Proto, w.Outside, j)
		}
		seen[e] = i
	}
}

func (c *Config) checkModes(f *faults) {
	dependent := nth[Mapping](1)
	for _, m := range []struct {
		class string
		Mapping
		Filtering
	}{
		{"udp", c.Mapping.UDP, c.Filtering.UDP},
		{"tcp", c.Mapping.TCP, c.Filtering.TCP},
		{"icmp", c.Mapping.ICMP, c.Filtering.ICMP},
	} {
		if m.Mapping == dependent && string(m.Filtering) != string(dependent) {
			f.at("filtering."+m.class, "%s does not go with mapping.%s %s: write %s", m.Filtering, m.class, m.Mapping, dependent)
		}
	}
}

func (c *Config) checkTimeouts(f *faults) {
	t := &c.Timeouts
	for _, x := range []struct {
		key   string
		value Duration
		floor time.Duration // of the rfc profile
		rfc   string
	}{
		{"udp", t.UDP, 120 * time.Second, "RFC 4787 REQ-5"},
		{"udp_opening", cmp.Or(t.UDPOpening, Duration(300*time.Second)), 120 * time.Second, "RFC 4787 REQ-5"}, // 0 is udp
		{"dns", t.DNS, 120 * time.Second, "RFC 4787 REQ-5"},
		{"tcp_established", t.TCPEstablished, 7440 * time.Second, "RFC 5382 REQ-5"},
		{"tcp_transitory", t.TCPTransitory, 240 * time.Second, "RFC 5382 REQ-5"},
		{"tcp_closing", t.TCPClosing, 240 * time.Second, "RFC 5382 REQ-5"},
		{"icmp", t.ICMP, 60 * time.Second, "RFC 5508 REQ-2"},
	} {
		key, d := "timeouts."+x.key, time.Duration(x.value)
		switch {
		case d < time.Second || d > 7*24*time.Hour:
			f.at(key, "%s is out of range: write a time from 1s to 168h", x.value)
		case c.Profile == "rfc" && d < x.floor:
			f.at(key, "%s is below the %s of %s: raise it, or use another profile", x.value, Duration(x.floor), x.rfc)
		}
	}
	if t.UDPOpening > t.UDP {
		f.at("timeouts.udp_opening", "%s is longer than the %s of timeouts.udp: write 0s for the same", t.UDPOpening, t.UDP)
	}
	if d := time.Duration(t.Fragment); d < time.Second || d > time.Hour {
		f.at("timeouts.fragment", "%s is out of range: write a time from 1s to 1h", t.Fragment)
	}
}

func (c *Config) checkNumbers(f *faults) {
	between := func(key string, v, low, high int) {
		if v < low || v > high {
			f.at(key, "%d is out of range: write a number from %d to %d", v, low, high)
		}
	}
	if c.MSSClamp != 0 {
		// RFC 9293, section 3.7.1: 536 is what every host takes.
		if c.MSSClamp < 536 || c.MSSClamp > 65495 {
			f.at("mss_clamp", "%d is out of range: write 0 for off, or bytes from 536 to 65495", c.MSSClamp)
		}
	}
	between("limits.sessions", c.Limits.Sessions, 1024, maxSessions)
	between("limits.sessions_per_host", c.Limits.SessionsPerHost, 0, maxSessions)
	between("limits.new_per_second_per_host", c.Limits.NewPerSecondPerHost, 0, 65535)
}

func (c *Config) checkDevices(f *faults) {
	d := &c.Devices
	for key, name := range map[string]string{"devices.inside": d.Inside, "devices.outside": d.Outside} {
		// dev_valid_name in the kernel; a percent sign asks it to number the interface.
		if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n") {
			f.at(key, "%q is no name for an interface: write up to 15 letters, digits and dashes", name)
		}
	}
	if d.Inside == d.Outside && d.Inside != "" {
		f.at("devices.outside", "%s is the inside device, too: write another name", d.Outside)
	}
	if d.MTU != 0 && (d.MTU < 576 || d.MTU > 65535) {
		f.at("devices.mtu", "%d is out of range: write 0 for the largest of the other interfaces, or bytes from 576 to 65535", d.MTU)
	}
	if d.BusyPoll < 0 || d.BusyPoll > Duration(time.Millisecond) {
		f.at("devices.busy_poll", "%s is out of range: write 0s for off, or a time up to 1ms, such as 50us", d.BusyPoll)
	}
	if d.Queues < 1 || d.Queues > MaxQueues {
		f.at("devices.queues", "%d is out of range: write 1, or for more readers a number up to %d", d.Queues, MaxQueues)
	}
}

func (c *Config) checkControl(f *faults) {
	// sockaddr_un has room for 107 bytes; the gateway makes the socket under a longer name first.
	if s := c.Control.Socket; s != "" && s != NoSocket && (!path.IsAbs(s) || path.Clean(s) != s || len(s) > 96 || strings.ContainsRune(s, 0)) {
		f.at("control.socket", "%q is no path for a socket: write an absolute one of at most 96 bytes, such as %s/office.sock, or %s", s, SocketDir, NoSocket)
	}
}

func (c *Config) checkState(f *faults) {
	s := c.State.File
	switch {
	case s == "" || s == Memfd || s == NoState:
	case !path.IsAbs(s) || path.Clean(s) != s || len(s) > 4000 || strings.ContainsRune(s, 0):
		f.at("state.file", "%q is no path for a file: write an absolute one on a tmpfs, such as %s/office.state, or %s or %s", s, SocketDir, Memfd, NoState)
	case s == c.SocketPath():
		f.at("state.file", "%s is the control socket, too: write another path", s)
	}
}

// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/control"
	"github.com/tidegate/tidegate/internal/lab"
)

// TestChangeOrNot: in the middle of a change what goes is withdrawn and what comes is not yet published; if the engine
// then refuses, rules, routes and ARP entries are as they were.
func TestChangeOrNot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	gw, err := lab.NewHost("gw", lab.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer gw.Close()
	out, err := lab.NewHost("net", lab.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := netip.MustParsePrefix
	err = lab.Connect(gw, lab.Link{Name: "eth0", Addr: p("198.51.100.2/24"), Routes: []netip.Prefix{p("0.0.0.0/0")}, Via: netip.MustParseAddr("198.51.100.1")},
		out, lab.Link{Name: "eth0", Addr: p("198.51.100.1/24")})
	if err != nil {
		t.Fatal(err)
	}
	parse := func(text string) *config.Config {
		t.Helper()
		c, err := config.Parse("f.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	from := parse("inside: {prefixes: [10.0.0.0/16]}\noutside: {addresses: [198.51.100.60-198.51.100.61, 203.0.113.1]}\n")
	to := parse("inside: {prefixes: [10.1.0.0/16]}\noutside: {addresses: [198.51.100.61-198.51.100.62]}\n")
	err = gw.Do(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		s, err := prepare(from, nl, newBook(slog.New(slog.DiscardHandler), uptime))
		if err != nil {
			return err
		}
		if err := s.setUp(); err != nil {
			return errors.Join(err, s.undo())
		}
		before := machineText(t, s)
		no := errors.New("the engine refuses")
		err = s.changeOrNot(to, func() error {
			if got := machineText(t, s, "answers"); got != "answers 198.51.100.61" {
				t.Errorf("in the middle:\n%s", got)
			}
			if w := machineText(t, s, "way 198.51.100.60"); w != "" {
				t.Errorf("in the middle: %s", w)
			}
			return no
		})
		if !errors.Is(err, no) {
			t.Errorf("%v", err)
		}
		if after := machineText(t, s); after != before {
			t.Errorf("after a change that was refused:\n%s\nbefore:\n%s", after, before)
		}
		if got := control.Lines(s.faults()); got != "ok" {
			t.Errorf("health: %s", got)
		}
		err = s.changeOrNot(to, func() error { return nil })
		if got := machineText(t, s, "answers"); err != nil || got != "answers 198.51.100.61\nanswers 198.51.100.62" {
			t.Errorf("changed: %v\n%s", err, got)
		}
		if all := machineText(t, s); strings.Contains(all, "198.51.100.60") || strings.Contains(all, "10.0.0.0/16") || strings.Contains(all, "203.0.113.1") {
			t.Errorf("left behind:\n%s", all)
		}
		if got := control.Lines(s.faults()); got != "ok" {
			t.Errorf("health: %s", got)
		}
		return s.undo()
	})
	if err != nil {
		t.Error(err)
	}
}

// machineText is what the gateway has in the kernel, a line each; those with one of the prefixes, if there are any.
func machineText(t *testing.T, s *system, prefixes ...string) string {
	t.Helper()
	rules, err := ourRules(s.nl)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range rules {
		lines = append(lines, r.String())
	}
	routes, err := ourRoutes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		kind := "guard "
		if r.Type == unix.RTN_UNICAST {
			kind = "way "
		}
		lines = append(lines, kind+prefixOf(r.Dst).String()+" "+r.String())
	}
	entries, err := s.nl.NeighProxyList(0, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		lines = append(lines, "answers "+e.IP.String())
	}
	if len(prefixes) > 0 {
		lines = slices.DeleteFunc(lines, func(l string) bool {
			return !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(l, p) })
		})
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

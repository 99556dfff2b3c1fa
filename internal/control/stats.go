// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
)

// Stats are the counters and gauges of a gateway since its start.
type Stats struct {
	Version string `json:"version"`
	// Started is when the gateway was, Loaded when its configuration was last read; Source is the file, or "command line".
	Started time.Time `json:"started"`
	Loaded  time.Time `json:"loaded"`
	Source  string    `json:"source"`
	// Health is "ok", or what keeps packets from passing.
	Health   string   `json:"health"`
	Sessions Sessions `json:"sessions"`
	// Mappings is how many external ports endpoint-independent mappings hold; Quarantined how many wait.
	Mappings    int `json:"mappings"`
	Quarantined int `json:"quarantined"`
	// FragmentSets, FragmentBytes and HeldSYNs are what waits.
	FragmentSets  int `json:"fragment_sets"`
	FragmentBytes int `json:"fragment_bytes"`
	HeldSYNs      int `json:"held_syns"`
	// TableBytes is the memory of all tables.
	TableBytes int `json:"table_bytes"`
	// Emitted counts the packets that the engine made, ICMPSuppressed those that the rate limit kept back.
	Emitted        uint64 `json:"emitted"`
	ICMPSuppressed uint64 `json:"icmp_suppressed"`
	// Verdicts are all there are, in a fixed order.
	Verdicts []Verdict `json:"verdicts"`
	Devices  []Device  `json:"devices"`
}

// Sessions are counts of sessions: now, at most, and since the start.
type Sessions struct {
	Now      int    `json:"now"`
	Limit    int    `json:"limit"`
	Created  uint64 `json:"created"`
	Expired  uint64 `json:"expired"`
	Recycled uint64 `json:"recycled"`
	Cut      uint64 `json:"cut"`
}

// Verdict is how many packets came to one end.
type Verdict struct {
	// Name is the label in metrics, Text a sentence about it.
	Name string `json:"name"`
	Text string `json:"text"`
	// Dropped: the packets ended here.
	Dropped bool   `json:"dropped"`
	Packets uint64 `json:"packets"`
}

// Device counts what an interface carried, as on a wire.
type Device struct {
	Side         string `json:"side"`
	Name         string `json:"name"`
	ReadPackets  uint64 `json:"read_packets"`
	ReadBytes    uint64 `json:"read_bytes"`
	WrotePackets uint64 `json:"wrote_packets"`
	WroteBytes   uint64 `json:"wrote_bytes"`
	// Refused are packets that it did not take; Dropped those that the kernel dropped before they were read or after they
	// were written.
	Refused uint64 `json:"refused"`
	Dropped uint64 `json:"dropped"`
}

// Print writes s for people; verdicts that nothing came to are left out.
func (s *Stats) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	const stamp = "2006-01-02 15:04:05 MST"
	fmt.Fprintf(t, "version\t%s, started %s\n", s.Version, s.Started.Format(stamp))
	fmt.Fprintf(t, "configuration\t%s, of %s\n", s.Source, s.Loaded.Format(stamp))
	fmt.Fprintf(t, "health\t%s\n", s.Health)
	n := &s.Sessions
	fmt.Fprintf(t, "sessions\t%d of %d (%s); %d made, %d timed out, %d recycled, %d cut\n", n.Now, n.Limit, percent(n.Now, n.Limit),
		n.Created, n.Expired, n.Recycled, n.Cut)
	fmt.Fprintf(t, "mappings\t%d external ports held, %d in quarantine\n", s.Mappings, s.Quarantined)
	fmt.Fprintf(t, "waiting\t%d datagrams in pieces (%s), %d SYNs\n", s.FragmentSets, size(s.FragmentBytes), s.HeldSYNs)
	fmt.Fprintf(t, "memory\t%s of tables\n", size(s.TableBytes))
	fmt.Fprintf(t, "made here\t%d packets: ICMP errors, resets, fragments; %d ICMP errors kept back by the rate limit\n", s.Emitted, s.ICMPSuppressed)
	for _, d := range s.Devices {
		fmt.Fprintf(t, "%s\t%s: %d packets (%s) read, %d (%s) written, %d refused, %d dropped by the kernel\n", d.Side, d.Name,
			d.ReadPackets, size(int(d.ReadBytes)), d.WrotePackets, size(int(d.WroteBytes)), d.Refused, d.Dropped)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, dropped := range []bool{false, true} {
		fmt.Fprintf(t, "\n%s\n", map[bool]string{false: "Packets that went on", true: "Packets that were dropped"}[dropped])
		none := true
		for _, v := range s.Verdicts {
			if v.Dropped == dropped && v.Packets > 0 {
				fmt.Fprintf(t, "%12d  %s\t%s\n", v.Packets, v.Name, v.Text)
				none = false
			}
		}
		if none {
			fmt.Fprintln(t, "        none")
		}
	}
	return t.Flush()
}

func percent(n, of int) string {
	if of == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(of))
}

// size is bytes for people.
func size(n int) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// Ports is how full the external addresses are.
type Ports struct {
	// Sessions is how many were looked at.
	Sessions int `json:"sessions"`
	// Addresses are all of the pool, with each protocol.
	Addresses []AddressPorts `json:"addresses"`
	// Destinations are the fullest pairs of an address and a destination, the fullest first: of the protocols whose mapping
	// is address-and-port-dependent, where only flows to one destination compete for ports.
	Destinations []DestinationPorts `json:"destinations"`
}

// AddressPorts is one external address and protocol.
type AddressPorts struct {
	Address  netip.Addr `json:"address"`
	Protocol string     `json:"protocol"`
	// Mapping is endpoint-independent, where every flow needs a port of its own here, or address-and-port-dependent.
	Mapping string `json:"mapping"`
	// Draining: it takes no new sessions.
	Draining bool `json:"draining,omitempty"`
	// Used ports, or identifiers, of Total have at least one session.
	Used  int     `json:"used"`
	Total int     `json:"total"`
	Ratio float64 `json:"ratio"`
}

// DestinationPorts is one external address and a destination.
type DestinationPorts struct {
	Address  netip.Addr     `json:"address"`
	Protocol string         `json:"protocol"`
	Remote   netip.AddrPort `json:"remote"`
	// Used of Total ports of the address are in use with this destination.
	Used  int     `json:"used"`
	Total int     `json:"total"`
	Ratio float64 `json:"ratio"`
}

// Print writes p for people.
func (p *Ports) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tPROTO\tUSED\tOF\tFULL\tMAPPING")
	for _, a := range p.Addresses {
		drains := ""
		if a.Draining {
			drains = ", draining"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s%s\n", a.Address, a.Protocol, a.Used, a.Total, percent(a.Used, a.Total), a.Mapping, drains)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(p.Destinations) > 0 {
		fmt.Fprintln(t, "\nADDRESS\tPROTO\tUSED\tOF\tFULL\tDESTINATION")
	}
	for _, d := range p.Destinations {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\n", d.Address, d.Protocol, d.Used, d.Total, percent(d.Used, d.Total), d.Remote)
	}
	return t.Flush()
}

// Reload is what a change of the configuration does, or would do.
type Reload struct {
	DryRun bool   `json:"dry_run"`
	Source string `json:"source"`
	// Changed are the keys that differ from what is in force.
	Changed []string `json:"changed"`
	// Sessions that go on, those of them on addresses that nothing new gets, and sessions that end.
	Kept     int `json:"kept"`
	Draining int `json:"draining"`
	Cut      int `json:"cut"`
}

// Print writes r for people, a line or two.
func (r *Reload) Print(w io.Writer) error {
	verbs := [...]string{"kept", "of them on draining addresses", "cut"}
	if r.DryRun {
		changed := "nothing changes"
		if len(r.Changed) > 0 {
			changed = "changes " + strings.Join(r.Changed, ", ")
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", r.Source, changed); err != nil {
			return err
		}
		verbs[0], verbs[2] = "to keep", "to cut"
	}
	_, err := fmt.Fprintf(w, "sessions: %d %s, %d %s, %d %s\n", r.Kept, verbs[0], r.Draining, verbs[1], r.Cut, verbs[2])
	return err
}

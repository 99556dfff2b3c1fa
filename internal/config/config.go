// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/nat"
)

// Config is the whole configuration, in the order of the file. The shipped gateway.yaml documents every key.
type Config struct {
	Inside    Inside         `yaml:"inside"`
	Outside   Outside        `yaml:"outside"`
	Static    []Static       `yaml:"static"`
	Forwards  []Forward      `yaml:"forwards"`
	Profile   Profile        `yaml:"profile"`
	Mapping   MappingModes   `yaml:"mapping"`
	Filtering FilteringModes `yaml:"filtering"`
	Hairpin   bool           `yaml:"hairpin"`
	// MSSClamp is in bytes, 0 for off.
	MSSClamp int      `yaml:"mss_clamp"`
	Timeouts Timeouts `yaml:"timeouts"`
	Limits   Limits   `yaml:"limits"`
	// FlowCounters keeps packets and bytes for each session.
	FlowCounters bool    `yaml:"flow_counters"`
	Devices      Devices `yaml:"devices"`
	Control      Control `yaml:"control"`
	State        State   `yaml:"state"`
}

// Inside is the private side.
type Inside struct {
	// Prefixes are the address space of the inside hosts.
	Prefixes []netip.Prefix `yaml:"prefixes,flow"`
}

// Outside is the public side.
type Outside struct {
	// Addresses are the pool that inside hosts share.
	Addresses []Range `yaml:"addresses,flow"`
	// Draining are addresses that were part of the pool: their sessions go on, new ones are not made.
	Draining []Range `yaml:"draining,flow"`
	Ports    Ports   `yaml:"ports,flow"`
	Pooling  Pooling `yaml:"pooling"`
	// PortBlock is how many ports an inside host has, and no others; 0 is off.
	PortBlock int `yaml:"port_block"`
}

// Ports are the external ports of TCP and UDP, both bounds included.
type Ports struct {
	Min int `yaml:"min"`
	Max int `yaml:"max"`
}

// Static is a 1:1 mapping.
type Static struct {
	Inside  netip.Addr `yaml:"inside"`
	Outside netip.Addr `yaml:"outside"`
}

// Forward is a port forward.
type Forward struct {
	Proto   Proto          `yaml:"proto"`
	Outside netip.AddrPort `yaml:"outside"`
	Inside  netip.AddrPort `yaml:"inside"`
}

// MappingModes is the mapping of each protocol.
type MappingModes struct {
	UDP  Mapping `yaml:"udp"`
	TCP  Mapping `yaml:"tcp"`
	ICMP Mapping `yaml:"icmp"`
}

// FilteringModes is the filtering of each protocol.
type FilteringModes struct {
	UDP  Filtering `yaml:"udp"`
	TCP  Filtering `yaml:"tcp"`
	ICMP Filtering `yaml:"icmp"`
}

// Timeouts are how long a session lives after the packet that last refreshed it.
type Timeouts struct {
	UDP Duration `yaml:"udp"`
	// UDPOpening is for UDP until the other side has answered; 0 means UDP.
	UDPOpening     Duration `yaml:"udp_opening"`
	DNS            Duration `yaml:"dns"`
	TCPEstablished Duration `yaml:"tcp_established"`
	TCPTransitory  Duration `yaml:"tcp_transitory"`
	TCPClosing     Duration `yaml:"tcp_closing"`
	ICMP           Duration `yaml:"icmp"`
	// Fragment is how long the pieces of a datagram wait for the rest, from the first one on.
	Fragment Duration `yaml:"fragment"`
}

// Limits bound what the gateway keeps.
type Limits struct {
	Sessions int `yaml:"sessions"`
	// SessionsPerHost and NewPerSecondPerHost are for each inside address, 0 for no bound.
	SessionsPerHost     int `yaml:"sessions_per_host"`
	NewPerSecondPerHost int `yaml:"new_per_second_per_host"`
}

// Devices are the TUN interfaces of the gateway; replay has none.
type Devices struct {
	Inside  string `yaml:"inside"`
	Outside string `yaml:"outside"`
	// MTU is in bytes; 0 is the largest of the machine's other interfaces.
	MTU int `yaml:"mtu"`
	// Backend is how packets are read and written.
	Backend Backend `yaml:"backend"`
	// BusyPoll is how long a reader looks for the next packet before it sleeps; 0 is off.
	BusyPoll Duration `yaml:"busy_poll"`
	// Queues is how many queues each interface has, with a reader each: 1 to MaxQueues.
	Queues int `yaml:"queues"`
}

// MaxQueues bounds Devices.Queues: there are as many parts of tables as two readers each can use.
const MaxQueues = 16

// Control is how the gateway is looked at and changed while it runs; replay has none.
type Control struct {
	// Socket is the path of the unix socket, "" for the default of SocketPath, or NoSocket.
	Socket string `yaml:"socket"`
}

// NoSocket is for a gateway that nobody looks at.
const NoSocket = "none"

// SocketDir is where control sockets and state files are by default.
const SocketDir = "/run/tidegate"

// SocketPath is the path of the control socket, or "" for none. By default its name is that of the inside device, which
// no two gateways of a network namespace can share.
func (c *Config) SocketPath() string {
	switch s := c.Control.Socket; s {
	case "":
		return SocketDir + "/" + c.Devices.Inside + ".sock"
	case NoSocket:
		return ""
	default:
		return s
	}
}

// State is what outlives the process of a gateway; replay has none.
type State struct {
	// File is the path of the state file, "" for the default of StatePath, Memfd or NoState.
	File string `yaml:"file"`
	// Unusable is what a start does about a state file that it cannot go on with.
	Unusable Unusable `yaml:"unusable"`
}

const (
	// Memfd is for state in memory without a name, which the service manager keeps in between.
	Memfd = "memfd"
	// NoState is for a gateway whose sessions end with its process.
	NoState = "none"
)

// StatePath is the path of the state file, Memfd, or "" for none. By default its name is that of the inside device, as
// that of the control socket.
func (c *Config) StatePath() string {
	switch f := c.State.File; f {
	case "":
		return SocketDir + "/" + c.Devices.Inside + ".state"
	case NoState:
		return ""
	default:
		return f
	}
}

// The words of the file.
type (
	// Proto is "tcp" or "udp".
	Proto string
	// Profile names a set of defaults: "gateway", "rfc" or "aws".
	Profile string
	// Mapping is how external ports are shared.
	Mapping string
	// Filtering is who may answer.
	Filtering string
	// Pooling is how hosts share the addresses of the pool.
	Pooling string
	// Backend is "auto", "io_uring" or "plain".
	Backend string
	// Unusable is "empty", to start without sessions, or "refuse".
	Unusable string
)

// A word is a string type with few values.
type word interface{ words() []string }

func (Proto) words() []string   { return []string{"tcp", "udp"} }
func (Profile) words() []string { return []string{"gateway", "rfc", "aws"} }

func (Unusable) words() []string { return []string{StartEmpty, Refuse} }

func (Backend) words() []string { return []string{BackendAuto, BackendIOURing, BackendPlain} }

// The values of Backend.
const (
	// BackendAuto is io_uring where the machine has it, otherwise plain.
	BackendAuto = "auto"
	// BackendIOURing does not start without io_uring.
	BackendIOURing = "io_uring"
	// BackendPlain is a system call a packet.
	BackendPlain = "plain"
)

// The values of Unusable.
const (
	StartEmpty = "empty"
	Refuse     = "refuse"
)

// In the order of nat.Mapping, nat.Filtering and nat.Pooling.
func (Mapping) words() []string {
	return []string{"endpoint-independent", "address-and-port-dependent"}
}
func (Filtering) words() []string {
	return []string{"endpoint-independent", "address-dependent", "address-and-port-dependent"}
}
func (Pooling) words() []string { return []string{"paired", "paired-soft", "arbitrary"} }

// index is the place of w among its words, which is its value in package nat.
func index[W interface {
	~string
	word
}](w W) int {
	return slices.Index(w.words(), string(w))
}

// nth is the reverse of index.
func nth[W interface {
	~string
	word
}](i int) W {
	var w W
	return W(w.words()[i])
}

// Duration is written with its unit: 300s, 5m, 2h4m.
type Duration time.Duration

// MarshalText writes whole seconds as such, since that is what the RFCs speak in.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText has written.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = parseDuration(string(text))
	return err
}

func (d Duration) String() string {
	if t := time.Duration(d); t%time.Second != 0 {
		return t.String()
	}
	return fmt.Sprintf("%ds", time.Duration(d)/time.Second)
}

// Range is one or more IPv4 addresses in a row: From to To, both included.
type Range struct{ From, To netip.Addr }

// ParseRange reads an address, a prefix (all of its addresses) or a range "first-last".
func ParseRange(s string) (Range, error) {
	const right = "write an address (203.0.113.1), a range (203.0.113.1-203.0.113.6) or a prefix (203.0.113.0/29)"
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, err1 := parseAddr(from)
		b, err2 := parseAddr(to)
		if err1 != nil || err2 != nil {
			return Range{}, fmt.Errorf("%q is not a range of IPv4 addresses: %s", s, right)
		}
		if b.Less(a) {
			return Range{}, fmt.Errorf("the range %s is empty: write %s-%s", s, b, a)
		}
		return Range{a, b}, nil
	}
	if strings.Contains(s, "/") {
		p, err := parsePrefix(s)
		if err != nil {
			return Range{}, err
		}
		return Range{p.Addr(), last(p)}, nil
	}
	a, err := parseAddr(s)
	if err != nil {
		return Range{}, fmt.Errorf("%q is not an IPv4 address: %s", s, right)
	}
	return Range{a, a}, nil
}

// String is an address, or "first-last".
func (r Range) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	return r.From.String() + "-" + r.To.String()
}

// MarshalText is String.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Contains reports whether a is in r.
func (r Range) Contains(a netip.Addr) bool { return !a.Less(r.From) && !r.To.Less(a) }

// Len is how many addresses r has.
func (r Range) Len() int { return int(number(r.To)-number(r.From)) + 1 }

// All are the addresses of r.
func (r Range) All() []netip.Addr {
	all := make([]netip.Addr, 0, r.Len())
	for a := r.From; ; a = a.Next() {
		all = append(all, a)
		if a == r.To {
			return all
		}
	}
}

// Prefixes are the addresses of r as prefixes, in order.
func (r Range) Prefixes() []netip.Prefix {
	var all []netip.Prefix
	for a := r.From; ; a = last(all[len(all)-1]).Next() {
		bits := 32
		for bits > 0 {
			p := netip.PrefixFrom(a, bits-1)
			if p.Masked() != p || r.To.Less(last(p)) {
				break
			}
			bits--
		}
		all = append(all, netip.PrefixFrom(a, bits))
		if last(all[len(all)-1]) == r.To {
			return all
		}
	}
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// last is the last address of an IPv4 prefix.
func last(p netip.Prefix) netip.Addr {
	n := number(p.Addr()) | uint32(uint64(1)<<(32-p.Bits())-1)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// Default is a Config with the defaults of a profile, and without addresses.
func Default(p Profile) *Config {
	n := natProfile(p)
	t := n.Timeouts
	return &Config{
		Outside: Outside{
			Ports:   Ports{int(n.PortMin), int(n.PortMax)},
			Pooling: nth[Pooling](int(n.Pooling)),
		},
		Profile: p,
		Mapping: MappingModes{
			UDP:  nth[Mapping](int(n.Mapping[nat.ClassUDP])),
			TCP:  nth[Mapping](int(n.Mapping[nat.ClassTCP])),
			ICMP: nth[Mapping](int(n.Mapping[nat.ClassICMP])),
		},
		Filtering: FilteringModes{
			UDP:  nth[Filtering](int(n.Filtering[nat.ClassUDP])),
			TCP:  nth[Filtering](int(n.Filtering[nat.ClassTCP])),
			ICMP: nth[Filtering](int(n.Filtering[nat.ClassICMP])),
		},
		Hairpin: true,
		Timeouts: Timeouts{
			UDP: Duration(t.UDP), UDPOpening: Duration(t.UDPOpening), DNS: Duration(t.DNS), ICMP: Duration(t.ICMP),
			TCPEstablished: Duration(t.TCPEstablished), TCPTransitory: Duration(t.TCPOpening),
			TCPClosing: Duration(t.TCPClosing),
			Fragment:   Duration(nat.DefaultFragmentTimeout),
		},
		Limits:  Limits{Sessions: 1 << 20},
		Devices: Devices{Inside: "tg-in", Outside: "tg-out", Backend: BackendAuto, Queues: 1},
		State:   State{Unusable: StartEmpty},
	}
}

func natProfile(p Profile) nat.Profile {
	switch p {
	case "rfc":
		return nat.RFCProfile()
	case "aws":
		return nat.AWSProfile()
	default:
		return nat.GatewayProfile()
	}
}

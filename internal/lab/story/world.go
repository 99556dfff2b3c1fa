// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"iter"
	"net"
	"net/netip"
	"os"
	"os/exec"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/nat"
)

// World is where the story happens: the hosts of the plan, and the edge between them.
type World interface {
	// Host is the host of that name of the plan.
	Host(name string) Host
	// Follow puts the present state of the network in force: its policy at the edge, and the hosts connected that run.
	Follow(n *Network) error
	// Stats are the edge's counters, Sessions its live sessions.
	Stats() nat.Stats
	Sessions() iter.Seq[nat.Session]
	// Log is what the edge has read and written.
	Log() *lab.Log
	// ChecksumErrors is how many packets the hosts have found wrong so far.
	ChecksumErrors() (uint64, error)
	// Err is what has gone wrong in the edge itself so far.
	Err() error
	// Enter is a line for each host that says how to get a shell there, if there is a way.
	Enter() []string
	// Close ends the world and everything in it.
	Close() error
}

// Host is a machine of the story.
type Host interface {
	Name() string
	// Dial is as net.Dialer.DialContext with a literal address; DialFrom also chooses the local port.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	DialFrom(ctx context.Context, network string, port uint16, remote netip.AddrPort) (net.Conn, error)
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
	// Probe sends a UDP datagram that must not be fragmented, and waits for the ICMP error about it.
	Probe(ctx context.Context, p lab.Probe) (lab.ProbeReply, error)
}

// Machine is a Host that runs programs.
type Machine interface {
	Host
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
	Start(cmd *exec.Cmd) error
	Run(cmd *exec.Cmd) error
	WriteFile(name string, data []byte, mode os.FileMode) error
	ReadFile(name string) ([]byte, error)
}

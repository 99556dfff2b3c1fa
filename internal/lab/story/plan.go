// SPDX-License-Identifier: Apache-2.0

package story

import "net/netip"

// The names of the hosts.
const (
	Web     = "web"
	Bastion = "bastion"
	Was     = "was"
	DB      = "db"

	Internet = "internet" // the router next to the edge
	Transit  = "transit"  // the router in front of the mirror, behind a link with a small MTU
	Mirror   = "mirror"
	Client   = "client"
	Scanner  = "scanner"
)

// The addresses. Public ones are from the documentation ranges of RFC 5737.
var (
	vpcPrefix     = netip.MustParsePrefix("10.0.0.0/16")
	publicSubnet  = netip.MustParsePrefix("10.0.1.0/24")
	privateSubnet = netip.MustParsePrefix("10.0.2.0/24")
	publicPool    = netip.MustParsePrefix("198.51.100.128/25")

	// insideHosts are the hosts of the VPC, in the order of their making.
	insideHosts = []placement{
		{Web, publicSubnet, netip.MustParseAddr("10.0.1.10")},
		{Bastion, publicSubnet, netip.MustParseAddr("10.0.1.20")},
		{Was, privateSubnet, netip.MustParseAddr("10.0.2.10")},
		{DB, privateSubnet, netip.MustParseAddr("10.0.2.20")},
	}

	mirrorAddr  = netip.MustParseAddr("203.0.113.10")
	clientAddr  = netip.MustParseAddr("203.0.113.18")
	scannerAddr = netip.MustParseAddr("203.0.113.26")

	internetAddr = netip.MustParseAddr("192.0.2.1") // the internet's end of the edge's link
	transitAddr  = netip.MustParseAddr("192.0.2.6")
)

type placement struct {
	name   string
	subnet netip.Prefix
	addr   netip.Addr
}

const (
	linkMTU = 1500
	// narrowMTU is the MTU between the internet and transit: path-MTU discovery has to find it through the edge.
	narrowMTU = 1400
	// edgeQueue, in packets, takes all that a scanner sends at once, however long the edge has to wait for a processor.
	edgeQueue = 4096
)

func privateAddr(name string) netip.Addr {
	for _, h := range insideHosts {
		if h.name == name {
			return h.addr
		}
	}
	panic("no such host in the plan: " + name)
}

// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"time"
)

// Side is one of the two sides of a NAT.
type Side uint8

const (
	// Inside is where the private hosts are (RFC 2663: local).
	Inside Side = iota
	// Outside is where the external addresses are seen (RFC 2663: global).
	Outside
)

// String is "inside" or "outside".
func (s Side) String() string {
	if s == Outside {
		return "outside"
	}
	return "inside"
}

// Direction is the way of a packet through the NAT.
type Direction uint8

const (
	// Out is from inside to outside, In the way back.
	Out Direction = iota
	In
)

// Policy says who may go where, and as whom. It is a plain value: Engine.Apply copies what it needs and keeps none of
// the slices. Zero values mean "nothing": a Policy without routes lets nobody out.
type Policy struct {
	// Attachments are the places where packets come from. None means two: FromInside, that may use any inside source,
	// and FromOutside, with the kernel as the router on both.
	Attachments []Attachment
	// Inside is the inside address space. Packets between its addresses are never translated (Untouched).
	Inside []netip.Prefix
	// Routes decide how an inside source leaves. The longest Source wins, then the longest Destination within it.
	Routes []Route
	// Pools are what routes name.
	Pools []Pool
	// Static are 1:1 mappings (basic NAT, RFC 3022), stateless and for every protocol.
	Static []Static
	// Forwards are port forwards: inbound sessions to an inside endpoint.
	Forwards []Forward
	// Services are the gateway's own endpoints on external addresses; packets to them get the verdict ToHost and
	// their ports are never given out (M-15).
	Services []Service
	// Unlent are external addresses that are ours and not in use: packets to them end as DropUnassigned, packets
	// from outside that claim them as source are martians. Addresses of pools and static mappings need no mention.
	Unlent []netip.Prefix
	// Restrictions are hosts that may not start everything and be sent everything. Hosts that none names may.
	Restrictions []Restriction
	// RestrictionTimeouts are those of the sessions that remember flows of restricted hosts where they pass no pool. Zero
	// values are those of GatewayProfile; UDP, and its opening, are for all protocols without ports, too.
	RestrictionTimeouts Timeouts
	// HairpinOff refuses packets from inside to external endpoints instead of looping them (RFC 4787 REQ-9).
	HairpinOff bool
	// MSSClamp lowers the MSS option of SYNs that are translated to at most this many bytes; 0 leaves it (T-16).
	MSSClamp uint16
	// InsideRouter (unless Pool.Router says otherwise) and OutsideRouter are the source addresses of the ICMP errors that the engine makes for hosts
	// inside and outside. Invalid: the destination of the packet in question for inside hosts; for outside hosts the
	// external address it was sent to.
	InsideRouter, OutsideRouter netip.Addr
	// ICMPErrorsPerSecond bounds the ICMP errors that the engine itself makes in a second, counted from the first of them;
	// 0 means 100, negative none at all.
	ICMPErrorsPerSecond int
	// StrictQuotes drops ICMP errors that quote a header with a wrong checksum (RFC 5508 REQ-3a) instead of passing
	// and counting them (B-9).
	StrictQuotes bool
	// DropBadResets drops RSTs outside the window of their connection instead of forwarding them without effect (T-10).
	DropBadResets bool
	// HostSessions bounds the live sessions of one inside address, HostRate its new ones a second; 0 is no bound.
	HostSessions, HostRate int
}

// Attachment is a place where packets come from and go to.
type Attachment struct {
	// ID is what Worker.Translate is called with.
	ID AttachmentID
	// Side is its side.
	Side Side
	// Sources are the addresses that packets from an inside attachment may have; none means all of Policy.Inside.
	// (Packets from the outside may have any source that is not ours.)
	Sources []netip.Prefix
	// Router says that the engine is the router here: it takes one step off the TTL of what comes in, and answers for
	// it. Otherwise the kernel has done so.
	Router bool
	// MTU is the largest IP packet that may leave here, in bytes; 0 means that somebody else answers for that. With
	// several attachments on a side the smallest counts.
	MTU int
}

// AttachmentID names an attachment.
type AttachmentID uint16

// The attachments of a Policy that names none.
const (
	FromInside  AttachmentID = 0
	FromOutside AttachmentID = 1
)

// Route is one way out.
type Route struct {
	// Source and Destination are matched by longest prefix; an invalid Destination is everything.
	Source, Destination netip.Prefix
	// Static lets a source leave through its own 1:1 mapping, if it has one.
	Static bool
	// Pool is the name of the pool for sources that do not leave by Static; "" is none: DropNoPath.
	Pool string
	// Bypass sends packets on untranslated, and lets their answers in: it is for destinations that know the inside
	// addresses (RFC 6888 REQ-6). It outranks Static and Pool, and is the one way for an inside source to get outside.
	Bypass bool
}

// Pool is external addresses with one behaviour.
type Pool struct {
	// Name is what routes call it.
	Name string
	// Addresses are given out from, in any order. An address is in one pool only, and in no static mapping.
	Addresses []netip.Addr
	// Draining are further addresses: their sessions go on, new ones are not made.
	Draining []netip.Addr
	// Private lets the addresses lie within Policy.Inside (a private NAT gateway, NGW-11): what leaves through the pool does
	// so on the outside, for destinations beyond Policy.Inside that have a way to them. They are external addresses all the
	// same: no inside host's, and one that sends to them hears nothing (DropNoMapping).
	Private bool
	// Router is the source address of the ICMP errors that the engine makes for inside hosts about packets that leave
	// through this pool (NGW-10); invalid: Policy.InsideRouter.
	Router netip.Addr
	// Profile is the behaviour, usually one of GatewayProfile, RFCProfile and AWSProfile; the zero value is the first.
	Profile Profile
}

// Static is a 1:1 mapping.
type Static struct{ Inside, Outside netip.Addr }

// Forward is a port forward: what arrives for Outside goes to Inside.
type Forward struct {
	// Protocol is packet.TCP or packet.UDP.
	Protocol uint8
	// Outside is an address of a pool, and a port; Inside the endpoint behind it.
	Outside, Inside netip.AddrPort
}

// Restriction holds inside hosts to what is allowed, statefully (a security group): they may start the flows that a rule
// of Out covers and be sent those that one of In covers. Answers pass whatever the rules say, as long as the flow's session
// lives, and so do flows that were started under other rules. All else is DropNotAllowed.
type Restriction struct {
	// Name tells one restriction from another over changes of policy: while a host has one of the same name, its flows go
	// on; when it has none, or another, they are cut.
	Name string
	// Hosts are inside addresses. A host is in one restriction at most.
	Hosts []netip.Addr
	// In and Out are what may be sent to a host and what it may start; none means nothing. The first packet of a flow is
	// judged, of TCP also a later SYN, and an ICMP error that is not about a live flow of the host. Restrictions that have
	// the same slice share what is made of it.
	In, Out []Allow
}

// Allow is one rule of a Restriction.
type Allow struct {
	// Protocol is an IP protocol number, -1 for all.
	Protocol int
	// PortMin and PortMax bound the port of the receiving end, both included: of In the host's own, of Out the remote one
	// as the host knows it; all are 0 to 65535. For ICMP they bound type<<8 | code. Other protocols have none.
	PortMin, PortMax uint16
	// Remotes are the addresses that the other end may have, as the host sees them; none means all.
	Remotes []netip.Prefix
}

// Service is an endpoint of the gateway's own.
type Service struct {
	// Protocol is packet.TCP or packet.UDP.
	Protocol uint8
	Endpoint netip.AddrPort
}

// Mapping is how external ports are shared (RFC 4787, section 4.1).
type Mapping uint8

const (
	// EndpointIndependent: one external endpoint for each inside endpoint, whoever it talks to.
	EndpointIndependent Mapping = iota
	// AddressAndPortDependent: one for each session, and a port may serve several remote endpoints at once (RFC 7857,
	// section 3), so that only sessions to one destination compete for ports.
	AddressAndPortDependent
)

// Filtering is who may send to a mapping (RFC 4787, section 5).
type Filtering uint8

const (
	// FilterEndpointIndependent: anybody.
	FilterEndpointIndependent Filtering = iota
	// FilterAddressDependent: any port of an address that was sent to.
	FilterAddressDependent
	// FilterAddressAndPortDependent: only the endpoint that was sent to.
	FilterAddressAndPortDependent
)

// Pooling is how hosts share the addresses of a pool (RFC 4787, section 4.1).
type Pooling uint8

const (
	// Paired: all sessions of a host use one address; with that one full they are refused.
	Paired Pooling = iota
	// PairedSoft: with that one full, new sessions use another.
	PairedSoft
	// Arbitrary: any address that has a port.
	Arbitrary
)

// Refusal is what the sender of a packet without state hears.
type Refusal uint8

const (
	// RefuseSilently: nothing.
	RefuseSilently Refusal = iota
	// RefuseProhibited: ICMP 3/13 (RFC 5508 REQ-8).
	RefuseProhibited
	// RefuseHostUnreachable: ICMP 3/1 (RFC 6888 REQ-11).
	RefuseHostUnreachable
)

// Stray is what happens to an outbound TCP segment, not a SYN, that belongs to no session.
type Stray uint8

const (
	// StrayDrop: dropped (DropNoSession).
	StrayDrop Stray = iota
	// StrayReset: dropped, and the sender gets a RST (DropReset), as a NAT gateway does after its idle time-out.
	StrayReset
	// StrayPickup: it makes an established session whose window is not known.
	StrayPickup
)

// Protocol classes that profiles have settings for.
const (
	ClassTCP = iota
	ClassUDP
	ClassICMP
	NumClasses
)

// Profile is the behaviour of a pool. Start from a function that returns one and change what you need: Policy
// validation names every value that contradicts another. The zero value stands for GatewayProfile.
type Profile struct {
	// Name is for people; validation uses it in messages. "rfc" makes validation hold the floors of the RFCs.
	Name string
	// Mapping and Filtering by class. AddressAndPortDependent mapping needs AddressAndPortDependent filtering.
	Mapping   [NumClasses]Mapping
	Filtering [NumClasses]Filtering
	Pooling   Pooling
	// PortMin and PortMax bound the external ports of TCP and UDP, both included; ICMP identifiers are not bounded.
	PortMin, PortMax uint16
	// PreserveClass keeps inside ports below 1024 below it, from 512 up (RFC 4787 REQ-3a); PreserveParity keeps even
	// ports even (REQ-4); PreservePort keeps the port where it is free and belongs to the shard of the flow.
	PreserveClass, PreserveParity, PreservePort bool
	// PortBlock gives every inside address a block of so many consecutive ports (identifiers, for ICMP) on one address of
	// the pool, and no others, so that an external endpoint tells the host without a log (RFC 7422): Policy.Subscriber.
	// Blocks are dealt to the addresses of the Source of the routes to the pool, in the order of those; a route more at
	// the end moves nobody. 0 is off. It needs Paired pooling, and at least two ports for each of Config.Shards, of which a
	// flow can have only those of its own shard: with four, blocks from 64 ports on waste little.
	PortBlock int
	// PortsPerDestination bounds the sessions of one external address to one destination; 0 is no bound beyond the
	// ports themselves. It needs AddressAndPortDependent mapping.
	PortsPerDestination int
	// Quarantine is how long the port of an ended endpoint-independent mapping with endpoint-independent filtering is
	// not given to anybody (RFC 6888 REQ-8).
	Quarantine time.Duration
	// NoRecycling lets no new session of the pool take the record of one that never saw an answer when the table is full
	// (RFC 6888 REQ-11, to the letter). Without it the oldest of those gives way, so that a flood of SYNs cannot lock
	// everybody out. Answered sessions never give way.
	NoRecycling bool
	// NoPort is what the sender hears when there is no port or record left.
	NoPort Refusal
	// Stray is for outbound TCP segments without a session.
	Stray Stray
	// HoldSYN keeps unsolicited inbound SYNs for 6 s and answers those that nobody asked for with ICMP 3/3 (RFC 5382
	// REQ-4); otherwise they are dropped silently.
	HoldSYN bool
	// InboundRefresh lets inbound packets, too, extend UDP and ICMP sessions (RFC 4787 REQ-6a).
	InboundRefresh bool
	// FragmentsUDPOnly drops fragments of other protocols (DropFragmentPolicy).
	FragmentsUDPOnly bool
	Timeouts         Timeouts
}

// Timeouts are how long a session lives after the packet that last refreshed it. Zero means the value of the profile
// named in the comment of each; they are rounded to milliseconds.
type Timeouts struct {
	// UDP is for UDP (RFC 4787 REQ-5: at least 120 s), DNS for UDP to port 53.
	UDP, DNS time.Duration
	// UDPOpening is for UDP before the other side has answered (not for DNS): zero means UDP, and it is no longer than
	// that. Linux has 30 s for it.
	UDPOpening time.Duration
	// TCPEstablished (RFC 5382 REQ-5: at least 7,440 s), TCPOpening (before the handshake is done), TCPClosing (after a
	// FIN each way, or a RST; RFC 7857, section 2).
	TCPEstablished, TCPOpening, TCPClosing time.Duration
	// ICMP is for queries (RFC 5508 REQ-2: at least 60 s).
	ICMP time.Duration
}

// GatewayProfile is the default, for a box that people sit behind: UDP and ICMP endpoint-independent, TCP by session
// with ports overlapping, so that connections to many servers never run out.
func GatewayProfile() Profile {
	return Profile{
		Name:      "gateway",
		Mapping:   [NumClasses]Mapping{ClassTCP: AddressAndPortDependent},
		Filtering: [NumClasses]Filtering{FilterAddressAndPortDependent, FilterAddressDependent, FilterAddressDependent},
		Pooling:   Paired,
		PortMin:   1024, PortMax: 65535,
		NoPort: RefuseProhibited,
		Stray:  StrayDrop,
		Timeouts: Timeouts{
			UDP: 300 * time.Second, DNS: 20 * time.Second, ICMP: 60 * time.Second,
			TCPEstablished: 7440 * time.Second, TCPOpening: 240 * time.Second, TCPClosing: 60 * time.Second,
		},
	}
}

// RFCProfile follows RFC 4787, 5382, 5508 and 7857 to the letter. With 240 s for closing connections and one owner a
// port it sustains about 270 new TCP connections a second for each external address.
func RFCProfile() Profile {
	return Profile{
		Name:      "rfc",
		Filtering: [NumClasses]Filtering{FilterEndpointIndependent, FilterEndpointIndependent, FilterEndpointIndependent},
		Pooling:   Paired,
		PortMin:   1024, PortMax: 65535,
		PreserveClass: true,
		Quarantine:    120 * time.Second,
		NoRecycling:   true,
		NoPort:        RefuseProhibited,
		HoldSYN:       true,
		Timeouts: Timeouts{
			UDP: 300 * time.Second, DNS: 300 * time.Second, ICMP: 60 * time.Second,
			TCPEstablished: 7440 * time.Second, TCPOpening: 240 * time.Second, TCPClosing: 240 * time.Second,
		},
	}
}

// AWSProfile behaves as the NAT gateway of Amazon VPC is documented to: 55,000 sessions for each destination and
// address, 350 s idle, RST afterwards, nothing in that was not asked for. It is below the floors of the RFCs.
func AWSProfile() Profile {
	const d = AddressAndPortDependent
	const f = FilterAddressAndPortDependent
	idle := 350 * time.Second
	return Profile{
		Name:      "aws",
		Mapping:   [NumClasses]Mapping{d, d, d},
		Filtering: [NumClasses]Filtering{f, f, f},
		Pooling:   Arbitrary,
		PortMin:   1024, PortMax: 65535,
		PortsPerDestination: 55000,
		NoPort:              RefuseSilently,
		Stray:               StrayReset,
		InboundRefresh:      true,
		FragmentsUDPOnly:    true,
		Timeouts: Timeouts{
			UDP: idle, DNS: idle, ICMP: idle, TCPEstablished: idle, TCPOpening: 240 * time.Second, TCPClosing: 240 * time.Second,
		},
	}
}

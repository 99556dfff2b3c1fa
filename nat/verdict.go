// SPDX-License-Identifier: Apache-2.0

package nat

import "fmt"

// Verdict is what became of a packet: the decision, its reason, the index of its counter and its text in one.
type Verdict uint8

// The packet goes on: on the Side that Verdict.Side names.
const (
	// Unset is the zero value; the engine never returns it.
	Unset Verdict = iota
	// Outbound left with a translated source: to the outside.
	Outbound
	// Inbound is an answer, or a packet to a port forward: to the inside.
	Inbound
	// StaticOutbound and StaticInbound went through a 1:1 mapping.
	StaticOutbound
	StaticInbound
	// Hairpin went from one inside host to the external endpoint of another (RFC 4787 REQ-9): back to the inside.
	Hairpin
	// Untouched goes from inside to inside, by its own addresses.
	Untouched
	// Bypassed leaves untranslated since the policy says so (RFC 6888 REQ-6).
	Bypassed
	// ToHost is for a service of the gateway's own on an external address, untranslated.
	ToHost
	// ErrorOutbound and ErrorInbound are translated ICMP errors, quotes and all.
	ErrorOutbound
	ErrorInbound

	lastForward
)

// The packet was taken in and is not to be sent; something may come of it later.
const (
	// HeldFragment waits for the rest of its datagram.
	HeldFragment Verdict = lastForward + iota
	// Reassembled completed its datagram: all the pieces are among the emitted packets.
	Reassembled
	// HeldSYN is an inbound SYN that the inside may yet ask for (RFC 5382 REQ-4).
	HeldSYN
	// Fragmented was cut to the egress MTU: the pieces are among the emitted packets.
	Fragmented

	lastHeld
)

// The packet is dropped.
const (
	// DropMalformed: less than a header, or an option or transport header that contradicts itself or the packet.
	DropMalformed Verdict = lastHeld + iota
	// DropHeaderLength: a header length below 20 bytes.
	DropHeaderLength
	// DropTotalLength: a total length below that of the header; DropTruncated: one beyond the bytes that there are.
	DropTotalLength
	DropTruncated
	// DropHeaderChecksum: the IP header checksum is wrong.
	DropHeaderChecksum
	// DropNotIPv4: another version of IP.
	DropNotIPv4
	// DropSourceRoute: a loose or strict source route option (RFC 7126).
	DropSourceRoute
	// DropTTL: the time to live ended here.
	DropTTL
	// DropMartian: a source or destination that may not be on a wire (RFC 1812, section 5.3.7).
	DropMartian
	// DropSpoof: a source that does not belong to where the packet came from (RFC 2827).
	DropSpoof
	// DropAttachment: the packet came from an attachment that the policy does not have.
	DropAttachment
	// DropProtocol: a protocol that NAPT cannot translate, or an ICMP message that is none of its kinds.
	DropProtocol
	// DropBadFlags: TCP flags that no stack sends, without a session.
	DropBadFlags
	// DropNoPath: the source has neither a public address nor a route to a NAT pool.
	DropNoPath
	// DropNoMapping: inbound to an external address and port that nobody holds.
	DropNoMapping
	// DropUnassigned: inbound to an address that is not in the external set.
	DropUnassigned
	// DropFiltered: inbound to a held port, from an endpoint that its filter refuses.
	DropFiltered
	// DropNoSession: a TCP segment that starts nothing and belongs to nothing.
	DropNoSession
	// DropReset: as DropNoSession, and the inside sender was sent a RST.
	DropReset
	// DropNoPort: no external port is left for this flow.
	DropNoPort
	// DropTableFull: no session record is left.
	DropTableFull
	// DropHostLimit: the inside host has as many sessions as it may have; DropHostRate: it makes them too fast.
	DropHostLimit
	DropHostRate
	// DropTooBig: larger than the egress MTU, and not to be fragmented.
	DropTooBig
	// DropICMPNoMapping: an ICMP error about a packet that no mapping knows.
	DropICMPNoMapping
	// DropICMPChecksum: an ICMP error whose own checksum is wrong (RFC 5508 REQ-3).
	DropICMPChecksum
	// DropICMPQuote: an ICMP error whose quote cannot be read, or is an error itself.
	DropICMPQuote
	// DropICMPQuoteChecksum: the quoted IP header's checksum is wrong, and the policy is strict (RFC 5508 REQ-3a).
	DropICMPQuoteChecksum
	// DropTinyFragment: a first fragment without its transport header, or one that overwrites it (RFC 1858, RFC 3128).
	DropTinyFragment
	// DropFragmentOverlap: two pieces disagree about the same bytes, or the datagram was spoiled before (RFC 5722).
	DropFragmentOverlap
	// DropFragmentDuplicate: an exact copy of a piece at hand.
	DropFragmentDuplicate
	// DropFragmentLimit: no room for more pieces in total, of this source or of this datagram.
	DropFragmentLimit
	// DropFragmentPolicy: fragments of this protocol do not pass (a NAT gateway forwards those of UDP alone).
	DropFragmentPolicy
	// DropLand: translation would have made source and destination the same endpoint.
	DropLand
	// DropHairpin: hairpinning is off, or would loop a second time.
	DropHairpin
	// DropOutOfWindow: a RST outside the window, with the policy set to drop it.
	DropOutOfWindow
	// DropNotAllowed: no rule of a restricted host covers the packet, and it is no answer.
	DropNotAllowed
	// DropLeak: the result would have carried a source outside the external set. It never happens; if it does, the
	// packet stays here.
	DropLeak

	numVerdicts
)

// NumVerdicts is the number of verdicts: a valid one is less.
const NumVerdicts = int(numVerdicts)

var verdictInfo = [numVerdicts]struct{ name, text string }{
	Unset:                 {"unset", "not yet decided"},
	Outbound:              {"outbound", "translated, inside to outside"},
	Inbound:               {"inbound", "translated, outside to inside"},
	StaticOutbound:        {"static_outbound", "translated 1:1, inside to outside"},
	StaticInbound:         {"static_inbound", "translated 1:1, outside to inside"},
	Hairpin:               {"hairpin", "from one inside host to the external endpoint of another"},
	Untouched:             {"untouched", "inside to inside, not translated"},
	Bypassed:              {"bypassed", "excepted from translation by the policy"},
	ToHost:                {"to_host", "for a service of the gateway itself"},
	ErrorOutbound:         {"icmp_error_outbound", "ICMP error translated with its quote, inside to outside"},
	ErrorInbound:          {"icmp_error_inbound", "ICMP error translated with its quote, outside to inside"},
	HeldFragment:          {"held_fragment", "a fragment that waits for the rest of its datagram"},
	Reassembled:           {"reassembled", "the fragment that completed its datagram, which was sent on"},
	HeldSYN:               {"held_syn", "an inbound SYN kept for six seconds in case the inside asks for it"},
	Fragmented:            {"fragmented", "cut to the egress MTU"},
	DropMalformed:         {"malformed", "less than a header, or an option or transport header that contradicts itself or the packet"},
	DropHeaderLength:      {"header_length", "the IP header length is below 20 bytes"},
	DropTotalLength:       {"total_length", "the total length is below that of the header"},
	DropTruncated:         {"truncated", "the total length is beyond the bytes that arrived"},
	DropHeaderChecksum:    {"header_checksum", "the IP header checksum is wrong"},
	DropNotIPv4:           {"not_ipv4", "not an IPv4 packet"},
	DropSourceRoute:       {"src_route", "a source route option"},
	DropTTL:               {"ttl", "the time to live ended here"},
	DropMartian:           {"martian", "an address that may not be on a wire"},
	DropSpoof:             {"spoof", "a source that does not belong to where the packet came from"},
	DropAttachment:        {"attachment", "from an attachment that the policy does not have"},
	DropProtocol:          {"proto", "a protocol or ICMP message that cannot be translated"},
	DropBadFlags:          {"bad_flags", "TCP flags that start no connection"},
	DropNoPath:            {"no_public_path", "the source has no public address and no route to a NAT pool"},
	DropNoMapping:         {"no_mapping", "nobody holds this external port"},
	DropUnassigned:        {"unassigned", "the destination is no external address"},
	DropFiltered:          {"filtered", "the port is held, but not for this remote endpoint"},
	DropNoSession:         {"no_session", "a TCP segment that belongs to no session"},
	DropReset:             {"reset", "a TCP segment of an ended session, answered with a RST"},
	DropNoPort:            {"no_port", "no external port is left for this flow"},
	DropTableFull:         {"table_full", "no session record is left"},
	DropHostLimit:         {"host_limit", "the host has as many sessions as it may have"},
	DropHostRate:          {"host_rate", "the host makes sessions faster than it may"},
	DropTooBig:            {"too_big", "larger than the egress MTU, and not to be fragmented"},
	DropICMPNoMapping:     {"icmp_err_no_mapping", "an ICMP error about a packet that no mapping knows"},
	DropICMPChecksum:      {"icmp_checksum", "an ICMP error whose checksum is wrong"},
	DropICMPQuote:         {"icmp_quote", "an ICMP error whose quote cannot be read or is an error itself"},
	DropICMPQuoteChecksum: {"icmp_quote_checksum", "an ICMP error that quotes a header with a wrong checksum"},
	DropTinyFragment:      {"tiny_fragment", "a fragment that hides or overwrites its transport header"},
	DropFragmentOverlap:   {"fragment_overlap", "a piece of a datagram whose pieces overlap"},
	DropFragmentDuplicate: {"fragment_duplicate", "a copy of a piece at hand"},
	DropFragmentLimit:     {"fragment_limit", "no room for more pieces"},
	DropFragmentPolicy:    {"fragment_policy", "fragments of this protocol do not pass"},
	DropLand:              {"land", "source and destination would be the same endpoint"},
	DropHairpin:           {"no_hairpin", "hairpinning is off, or would loop"},
	DropOutOfWindow:       {"out_of_window", "a RST outside the window of its connection"},
	DropNotAllowed:        {"not_allowed", "no rule of the host's security groups allows it"},
	DropLeak:              {"leak", "the result had a source outside the external set"},
}

// String is the stable name, as in metrics and logs.
func (v Verdict) String() string {
	if v >= numVerdicts {
		return "invalid"
	}
	return verdictInfo[v].name
}

// MarshalText is String, so that a Verdict is its name in JSON.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText takes what MarshalText gives.
func (v *Verdict) UnmarshalText(b []byte) error {
	for i := range verdictInfo {
		if verdictInfo[i].name == string(b) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("nat: no verdict is called %q", b)
}

// Text is a short description for people.
func (v Verdict) Text() string {
	if v >= numVerdicts {
		return "invalid"
	}
	return verdictInfo[v].text
}

// Forward reports whether the packet is to be sent on.
func (v Verdict) Forward() bool { return v > Unset && v < lastForward }

// Dropped reports whether the packet ended here.
func (v Verdict) Dropped() bool { return v >= lastHeld && v < numVerdicts }

// Side is where a packet with a Forward verdict goes.
func (v Verdict) Side() Side {
	switch v {
	case Outbound, StaticOutbound, ErrorOutbound, Bypassed:
		return Outside
	default:
		return Inside
	}
}

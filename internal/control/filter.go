// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Filter chooses flows as the flags of conntrack do; what is zero chooses all. "Original" is the first packet as it came,
// "reply" an answer to it as it comes.
type Filter struct {
	// Protocol is tcp, udp or icmp.
	Protocol string
	// The addresses of both directions.
	OrigSrc, OrigDst, ReplySrc, ReplyDst netip.Prefix
	// The ports of the original direction.
	SrcPort, DstPort int
	// State is a state of TCP as conntrack or as Flow.State calls it.
	State string
	// SrcNAT and DstNAT choose flows whose source, whose destination is translated to an address of the prefix.
	SrcNAT, DstNAT netip.Prefix
}

var states = []string{"SYN_SENT", "SYN_RECV", "ESTABLISHED", "TIME_WAIT", "CLOSE",
	"opening", "established", "closing", "reset", "udp", "dns", "query"}

// any4 is all addresses.
var any4 = netip.MustParsePrefix("0.0.0.0/0")

// parameters are the names that ParseFilter knows, and what each does with its value.
var parameters = map[string]func(*Filter, string) error{
	"proto": func(f *Filter, s string) error {
		if f.Protocol = strings.ToLower(s); numbers[f.Protocol] == 0 {
			return errors.New("write tcp, udp or icmp")
		}
		return nil
	},
	"orig-src":  func(f *Filter, s string) error { return parsePrefix(s, &f.OrigSrc) },
	"orig-dst":  func(f *Filter, s string) error { return parsePrefix(s, &f.OrigDst) },
	"reply-src": func(f *Filter, s string) error { return parsePrefix(s, &f.ReplySrc) },
	"reply-dst": func(f *Filter, s string) error { return parsePrefix(s, &f.ReplyDst) },
	"sport":     func(f *Filter, s string) error { return parsePort(s, &f.SrcPort) },
	"dport":     func(f *Filter, s string) error { return parsePort(s, &f.DstPort) },
	"state": func(f *Filter, s string) error {
		f.State = s
		if !slices.ContainsFunc(states, func(o string) bool { return strings.EqualFold(o, s) }) {
			return fmt.Errorf("write one of %s", strings.Join(states[:5], ", "))
		}
		return nil
	},
	"src-nat": func(f *Filter, s string) error { return parseNAT(s, &f.SrcNAT) },
	"dst-nat": func(f *Filter, s string) error { return parseNAT(s, &f.DstNAT) },
}

// ParseFilter reads the parameters of a request. The error names all that are wrong.
func ParseFilter(q url.Values) (f Filter, err error) { return f, parse(q, parameters, &f) }

// parse has each parameter of q set what it is about in to.
func parse[T any](q url.Values, known map[string]func(*T, string) error, to *T) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(q)) {
		set, ok := known[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%s is no parameter: there are %s", name,
				strings.Join(slices.Sorted(maps.Keys(known)), ", ")))
		case len(q[name]) != 1:
			errs = append(errs, fmt.Errorf("%s is given %d times: once is enough", name, len(q[name])))
		default:
			if err := set(to, q[name][0]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %.80q: %w", name, q[name][0], err))
			}
		}
	}
	return errors.Join(errs...)
}

func parsePrefix(s string, to *netip.Prefix) (err error) {
	if a, aerr := netip.ParseAddr(s); aerr == nil && a.Is4() {
		*to = netip.PrefixFrom(a, 32)
		return nil
	}
	if *to, err = netip.ParsePrefix(s); err != nil || !to.Addr().Is4() {
		return errors.New("write an IPv4 address or prefix, such as 10.0.0.0/16")
	}
	*to = to.Masked()
	return nil
}

// parseNAT takes no value, too: any address.
func parseNAT(s string, to *netip.Prefix) error {
	if *to = any4; s == "" {
		return nil
	}
	return parsePrefix(s, to)
}

func parsePort(s string, to *int) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return errors.New("write a port from 1 to 65535")
	}
	*to = int(n)
	return nil
}

// Match reports whether the filter chooses the flow.
func (f *Filter) Match(w *Flow) bool {
	if f.Protocol != "" && f.Protocol != w.Protocol || f.State != "" && !w.isState(f.State) {
		return false
	}
	original, reply := w.tuples()
	has := func(p netip.Prefix, a netip.AddrPort) bool { return !p.IsValid() || p.Contains(a.Addr()) }
	port := func(want int, a netip.AddrPort) bool {
		return want == 0 || want == int(a.Port()) && w.Protocol != "icmp"
	}
	// What answers are sent to, and come from, is what the first packet was translated to.
	return has(f.OrigSrc, original.src) && has(f.OrigDst, original.dst) && has(f.ReplySrc, reply.src) && has(f.ReplyDst, reply.dst) &&
		port(f.SrcPort, original.src) && port(f.DstPort, original.dst) &&
		(!f.SrcNAT.IsValid() || original.src != reply.dst && f.SrcNAT.Contains(reply.dst.Addr())) &&
		(!f.DstNAT.IsValid() || original.dst != reply.src && f.DstNAT.Contains(reply.src.Addr()))
}

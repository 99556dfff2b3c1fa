// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/packet"
)

const (
	maxHops      = 8
	tracePort    = 33434 // where nobody listens, by tradition
	probeTimeout = time.Second
	portUnreach  = 3 // ICMP code of packet.Unreachable
	fragNeeded   = 4
)

// address finds the address in a line of traceroute: the three traceroutes there are print it in different places, and
// only one of them can be told to print nothing else.
var address = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b`)

// traceroute is the routers from h to dst and dst itself, "*" for one that does not answer.
func (t Tools) traceroute(ctx context.Context, h Host, dst netip.Addr) ([]string, error) {
	m, program, ok := t.real(h, "traceroute")
	if !ok {
		return goTraceroute(ctx, h, dst)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	out, err := output(ctx, m, program, "-q", "1", "-w", "2", "-m", strconv.Itoa(maxHops), dst.String())
	if err != nil {
		return nil, err
	}
	return parseTraceroute(out), nil
}

func parseTraceroute(out string) (hops []string) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if n, err := strconv.Atoi(f[0]); err == nil && n == len(hops)+1 {
			hop := address.FindString(line)
			if hop == "" {
				hop = "*"
			}
			hops = append(hops, hop)
		}
	}
	return hops
}

func goTraceroute(ctx context.Context, h Host, dst netip.Addr) ([]string, error) {
	var hops []string
	for ttl := 1; ttl <= maxHops; ttl++ {
		to := netip.AddrPortFrom(dst, uint16(tracePort+ttl-1))
		r, err := probe(ctx, h, lab.Probe{To: to, TTL: ttl, Size: 60})
		if err != nil {
			hops = append(hops, "*")
			continue
		}
		hops = append(hops, r.From.String())
		if r.Type == packet.Unreachable {
			break
		}
	}
	return hops, nil
}

func probe(ctx context.Context, h Host, p lab.Probe) (lab.ProbeReply, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return h.Probe(ctx, p)
}

var resumePMTU = regexp.MustCompile(`Resume: pmtu (\d+)`)

// pathMTU is the MTU of the path from h to dst, as the routers on it tell.
func (t Tools) pathMTU(ctx context.Context, h Host, dst netip.Addr) (int, error) {
	m, program, ok := t.real(h, "tracepath")
	if !ok {
		return goPathMTU(ctx, h, dst)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := output(ctx, m, program, "-n", "-m", strconv.Itoa(maxHops), dst.String())
	if err != nil {
		return 0, err
	}
	found := resumePMTU.FindStringSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("tracepath: no path MTU: %s", lastLine(out))
	}
	return strconv.Atoi(found[1])
}

func goPathMTU(ctx context.Context, h Host, dst netip.Addr) (int, error) {
	for mtu := linkMTU; ; {
		r, err := probe(ctx, h, lab.Probe{To: netip.AddrPortFrom(dst, tracePort), Size: mtu})
		switch {
		case err != nil:
			return 0, fmt.Errorf("a packet of %d bytes: %w", mtu, err)
		case r.Type == packet.Unreachable && r.Code == portUnreach && r.From == dst:
			return mtu, nil
		case r.Type == packet.Unreachable && r.Code == fragNeeded && r.MTU >= 68 && r.MTU < mtu:
			mtu = r.MTU
		default:
			return 0, fmt.Errorf("a packet of %d bytes: %s answers ICMP type %d code %d", mtu, r.From, r.Type, r.Code)
		}
	}
}

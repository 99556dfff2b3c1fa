// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/packet"
)

// scanTimeout is how long the scanner waits for answers, to all questions at once, when the last question has got to the
// edge and those that have to answer have done so, or had patience for it. A host sends a second SYN within that time, and
// scanAgain is when a second datagram follows the first.
const (
	scanTimeout = 1500 * time.Millisecond
	scanAgain   = 500 * time.Millisecond
)

// endpoint is what a scanner looks at.
type endpoint struct {
	proto uint8
	addr  netip.AddrPort
}

func (e endpoint) String() string {
	p := "tcp"
	if e.proto == packet.UDP {
		p = "udp"
	}
	return fmt.Sprintf("%s/%s", e.addr, p)
}

// scanTargets are the ports of the story's services on all of the pool, and what else is of interest.
func scanTargets(more ...endpoint) []endpoint {
	targets := more
	for a := publicPool.Addr(); publicPool.Contains(a); a = a.Next() {
		for _, port := range []uint16{sshPort, httpPort, dbPort, wasPort} {
			targets = append(targets, endpoint{packet.TCP, netip.AddrPortFrom(a, port)})
		}
		targets = append(targets, endpoint{packet.UDP, netip.AddrPortFrom(a, echoPort)})
	}
	return targets
}

// scanFor tries each target from the scanner, and returns those that answered: TCP by a connection, UDP by a datagram.
// Those of want should.
func (s *Story) scanFor(ctx context.Context, targets, want []endpoint) []endpoint {
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	var (
		mu   sync.Mutex
		open []endpoint
		wg   sync.WaitGroup
		h    = s.Host(Scanner)
		mark = s.Log().Mark()
	)
	answered := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !slices.ContainsFunc(want, func(e endpoint) bool { return !slices.Contains(open, e) })
	}
	// So many questions, and answers, take their time on a busy machine, and what was not asked yet is not shut.
	wg.Go(func() {
		for ctx.Err() == nil && !s.asked(mark, targets) {
			wait(ctx, 50*time.Millisecond)
		}
		for end := time.Now().Add(patience); !answered() && time.Now().Before(end) && ctx.Err() == nil; {
			wait(ctx, 50*time.Millisecond)
		}
		wait(ctx, scanTimeout)
		cancel()
	})
	for _, t := range targets {
		wg.Go(func() {
			if answers(ctx, h, t) {
				mu.Lock()
				defer mu.Unlock()
				open = append(open, t)
			}
		})
	}
	wg.Wait()
	slices.SortFunc(open, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return slices.Compact(open)
}

// asked says whether the edge has seen a packet of the scanner for each target since a mark.
func (s *Story) asked(mark int, targets []endpoint) bool {
	left := map[endpoint]bool{}
	for _, t := range targets {
		left[t] = true
	}
	s.Log().Find(mark, func(p *lab.Seen) bool {
		if p.Src.Addr() == scannerAddr && p.Outside && !p.Sent {
			delete(left, endpoint{p.Proto, p.Dst})
		}
		return false
	})
	return len(left) == 0
}

func answers(ctx context.Context, h Host, t endpoint) bool {
	network := "tcp"
	if t.proto == packet.UDP {
		network = "udp"
	}
	c, err := h.Dial(ctx, network, t.addr.String())
	if err != nil {
		return false
	}
	defer c.Close()
	if t.proto == packet.TCP {
		return true
	}
	for ctx.Err() == nil {
		_ = c.SetReadDeadline(time.Now().Add(scanAgain))
		if _, err := c.Write([]byte("anybody there?")); err != nil {
			return false
		}
		n, err := c.Read(make([]byte, 64))
		if err == nil {
			return n > 0
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
	return false
}

// exposure is what a scan should find: the services of a host at a public address.
func exposure(host string, public netip.Addr) []endpoint {
	ports := map[string][]uint16{Web: {sshPort, httpPort}, Bastion: {sshPort}, Was: {sshPort, wasPort}, DB: {sshPort, dbPort}}
	open := []endpoint{{packet.UDP, netip.AddrPortFrom(public, echoPort)}}
	for _, p := range ports[host] {
		open = append(open, endpoint{packet.TCP, netip.AddrPortFrom(public, p)})
	}
	return open
}

// list is endpoints in order, for comparison and for people.
func list(es []endpoint) string {
	if len(es) == 0 {
		return "nothing"
	}
	es = slices.Clone(es)
	slices.SortFunc(es, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	var s []string
	for _, e := range es {
		s = append(s, e.String())
	}
	return strings.Join(s, " ")
}

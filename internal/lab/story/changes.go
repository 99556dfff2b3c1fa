// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/packet"
)

// Step 6: what an Elastic IP opened is shut when it goes, for what is under way too, and only that.
func (s *Story) disassociated(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	elastic := []netip.Addr{s.net.public(Was), s.net.public(DB)}

	transfer, err := startTransfer(ctx, s.Host(Was))
	if !s.works("a download on was begins", err) {
		return
	}
	defer transfer.close()
	visits := startVisits(ctx, s.Host(Client), s.net.public(Web))
	sh, err := s.ssh(patience).start(ctx, s.net.public(Bastion), privateAddr(Was), cmdEcho)
	if err != nil {
		s.failed("a shell on was, through bastion", err)
		return
	}
	s.say(sh, "before", "the shell on was, through bastion, answers")

	for _, h := range []string{Was, DB} {
		s.works("disassociate the Elastic IP of "+h, s.net.disassociate(h))
	}
	s.works("apply", s.apply())
	mark := s.Log().Mark()

	before := transfer.settle(ctx) // what was on its way may arrive
	apt, err := newAPT(s.tools, s.Host(Was), impatience)
	if err != nil {
		s.failed("set up the package manager", err)
		return
	}
	s.fails("update on was", apt.update(ctx))
	s.equal("bytes of the download that came since", 0, transfer.bytes.Load()-before)
	s.exposed(ctx, Web, Bastion)
	through := s.Log().Find(mark, func(p *lab.Seen) bool {
		return p.Sent && p.Outside && (p.Src.Addr() == elastic[0] || p.Src.Addr() == elastic[1])
	})
	s.equal("packets that left from the two addresses since", 0, len(through))
	s.say(sh, "after", "the same shell still answers")
	_ = sh.Close()
	s.works("the shell ends", sh.wait())
	pages, connections, err := visits.end()
	if s.works("pages of web that the client loaded all the while", err) {
		s.check("how many", pages > 1, "more than 1", fmt.Sprint(pages))
		s.equal("over how many connections", 1, connections)
	}
}

// transfer is a download that does not end by itself.
type transfer struct {
	bytes  atomic.Int64
	cancel context.CancelFunc
	done   chan struct{}
}

// startTransfer begins one and returns when it is well under way.
func startTransfer(ctx context.Context, h Host) (*transfer, error) {
	ctx, cancel := context.WithCancel(ctx)
	hurry := time.AfterFunc(patience, cancel)
	defer hurry.Stop()
	c := httpClient(h)
	c.Timeout = 0 // of the whole answer, which is endless
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/stream", mirrorAddr), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 32768); err != nil {
		cancel()
		return nil, errors.Join(err, resp.Body.Close())
	}
	t := &transfer{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		defer resp.Body.Close()
		buf := make([]byte, 16384)
		for {
			n, err := resp.Body.Read(buf)
			t.bytes.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	return t, nil
}

// settle waits until nothing has come for a moment, if that happens at all, and returns how many bytes there are.
func (t *transfer) settle(ctx context.Context) int64 {
	const moment = 200 * time.Millisecond
	n := t.bytes.Load()
	for range 10 {
		wait(ctx, moment)
		before := n
		if n = t.bytes.Load(); n == before {
			break
		}
	}
	return n
}

func (t *transfer) close() {
	t.cancel()
	<-t.done
}

// visits is a client that loads the page of web again and again, over one connection if that holds.
type visits struct {
	cancel      context.CancelFunc
	done        chan struct{}
	pages       int
	connections atomic.Int64
	err         error
}

func startVisits(ctx context.Context, h Host, web netip.Addr) *visits {
	ctx, cancel := context.WithCancel(ctx)
	v := &visits{cancel: cancel, done: make(chan struct{})}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			v.connections.Add(1)
			return h.Dial(ctx, network, address)
		},
	}}
	go func() {
		defer close(v.done)
		defer c.CloseIdleConnections()
		for ctx.Err() == nil {
			if _, err := get(context.WithoutCancel(ctx), c, fmt.Sprintf("http://%s/", web)); err != nil {
				v.err = errors.Join(v.err, err)
				return
			}
			v.pages++
			wait(ctx, 200*time.Millisecond)
		}
	}()
	return v
}

func (v *visits) end() (pages, connections int, err error) {
	v.cancel()
	<-v.done
	return v.pages, int(v.connections.Load()), v.err
}

// wait lets time pass.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Step 7: many hosts, one address, one way.
func (s *Story) natGateway(ctx context.Context) {
	gateway, err := s.net.natGateway()
	if err == nil {
		err = s.apply()
	}
	if !s.works("a NAT gateway, and the private subnet's route to it", err) {
		return
	}
	public, mark := gateway.PublicIP, s.Log().Mark()
	if !s.updateTogether(ctx, public) {
		return // nothing of the rest can work
	}
	held := s.samePort(ctx, public)
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()

	// The scanner also tries the very ports that sessions hold right now.
	var more []endpoint
	for e := range s.Sessions() {
		if e.External.Addr() == public {
			more = append(more, endpoint{e.Protocol, e.External})
		}
	}
	s.check("sessions at "+public.String()+" whose ports the scanner tries too", len(more) >= 2, "2 or more", fmt.Sprint(len(more)))
	s.scan(ctx, more, Web, Bastion)
	let := s.Log().Find(mark, func(p *lab.Seen) bool {
		return p.Sent && (p.Port == Was || p.Port == DB) && p.Src.Addr() == scannerAddr
	})
	s.equal("packets of the scanner that reached was or db", 0, len(let))

	hops, err := s.tools.traceroute(ctx, s.Host(Was), mirrorAddr)
	if s.works("traceroute from was to the mirror", err) {
		s.equal("the way", fmt.Sprint([]netip.Addr{gateway.PrivateIP, internetAddr, transitAddr, mirrorAddr}), fmt.Sprint(hops))
	}
	s.upload(ctx)
	mtu, err := s.tools.pathMTU(ctx, s.Host(Was), mirrorAddr)
	if s.works("path-MTU discovery from was to the mirror", err) {
		s.equal("the path MTU", narrowMTU, mtu)
	}
}

// updateTogether updates was and db at the same time, and says whether both worked.
func (s *Story) updateTogether(ctx context.Context, public netip.Addr) bool {
	logged := s.services.mirror.mark()
	hosts := []string{Was, DB}
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			var a *apt
			if a, errs[i] = newAPT(s.tools, s.Host(h), patience); errs[i] == nil {
				errs[i] = a.update(ctx)
			}
		})
	}
	wg.Wait()
	both := true
	for i, h := range hosts {
		both = s.works("update on "+h+", at the same time", errs[i]) && both
	}
	if both {
		s.equal("who the mirror saw", public, askers(s.services.mirror.since(logged)))
	}
	return both
}

// samePort connects was and db to the mirror from the same source port, and returns the connections.
func (s *Story) samePort(ctx context.Context, public netip.Addr) (held []net.Conn) {
	const port = 40000
	mark := s.Log().Mark()
	var seen []netip.AddrPort
	for _, h := range []string{Was, DB} {
		c, at, err := s.whoAmI(ctx, s.Host(h), port)
		if c != nil {
			held = append(held, c)
		}
		if !s.works(fmt.Sprintf("%s connects to the mirror from port %d", h, port), err) {
			return held
		}
		s.equal("the address the mirror sees", public, at.Addr())
		seen = append(seen, at)
	}
	s.check("the ports the mirror sees", seen[0].Port() != seen[1].Port(), "two", fmt.Sprintf("%d and %d", seen[0].Port(), seen[1].Port()))
	syns := s.Log().Find(mark, func(p *lab.Seen) bool {
		return p.Sent && p.Outside && p.Proto == packet.TCP && p.Flags&(packet.SYN|packet.ACK) == packet.SYN && (p.Src == seen[0] || p.Src == seen[1])
	})
	s.check("SYNs from those two endpoints on the wire", len(syns) >= 2, "2", fmt.Sprint(len(syns)))
	return held
}

// whoAmI asks the mirror who it is talking to, and leaves the connection open.
func (s *Story) whoAmI(ctx context.Context, h Host, port uint16) (net.Conn, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	none := netip.AddrPort{}
	c, err := h.DialFrom(ctx, "tcp", port, netip.AddrPortFrom(mirrorAddr, httpPort))
	if err != nil {
		return nil, none, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	// A transport over this one connection.
	t := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return keepOpen{c}, nil }}
	text, err := get(ctx, &http.Client{Transport: t}, fmt.Sprintf("http://%s/whoami", mirrorAddr))
	if err != nil {
		return c, none, err
	}
	at, err := netip.ParseAddrPort(text)
	return c, at, err
}

// keepOpen is a connection that its user does not close.
type keepOpen struct{ net.Conn }

func (keepOpen) Close() error { return nil }

// upload sends more than a path MTU from was, so that TCP has to find it.
func (s *Story) upload(ctx context.Context) {
	mark := s.Log().Mark()
	data := bytes.Repeat([]byte("tide"), 1<<17)
	c := httpClient(s.Host(Was))
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/upload", mirrorAddr), bytes.NewReader(data))
	if err != nil {
		s.failed("upload from was", err)
		return
	}
	got, err := read(c.Do(req))
	if s.works(fmt.Sprintf("upload of %d bytes from was", len(data)), err) {
		s.equal("what the mirror got", fmt.Sprintf("%d bytes %x", len(data), sha256.Sum256(data)), got)
	}
	told := s.Log().Find(mark, func(p *lab.Seen) bool {
		return p.Sent && p.Port == Was && p.Proto == packet.ICMP && p.Type == packet.Unreachable && p.Code == fragNeeded
	})
	s.check("\"fragmentation needed\" that reached was", len(told) > 0, "some", some(len(told)))
}

// Step 8: a lent address is lent.
func (s *Story) restart(ctx context.Context) {
	old := s.net.public(Web)
	client := s.Host(Client)
	err := s.net.stop(Web)
	if err == nil {
		err = s.apply()
	}
	if !s.works("web stops", err) {
		return
	}
	s.equal("who has "+old.String(), "nobody", s.net.owner(old))
	s.check("the edge knows it as not lent", s.unlent(old), "yes", yes(s.unlent(old)))
	s.exposed(ctx, Bastion)

	err = s.net.start(Web)
	if err == nil {
		err = s.apply()
	}
	if !s.works("web starts", err) {
		return
	}
	fresh := s.net.public(Web)
	s.check("its public address", publicPool.Contains(fresh) && fresh != old, "another than "+old.String(), fresh.String())
	page, err := s.tools.fetch(ctx, client, fmt.Sprintf("http://%s/", fresh))
	if s.works("the client loads the page at "+fresh.String(), err) {
		s.equal("what it says", pageFor(privateAddr(Web)), page)
	}
	s.exposed(ctx, Web, Bastion)
}

// unlent says whether the policy of the model counts an address as ours and not in use.
func (s *Story) unlent(a netip.Addr) bool {
	p, err := s.net.Policy()
	if err != nil {
		return false
	}
	for _, u := range p.Unlent {
		if u.Contains(a) {
			return true
		}
	}
	return false
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

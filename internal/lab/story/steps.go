// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/nat"
)

// Step 1: plain traffic inside the VPC is not translated.
func (s *Story) privateTalk(ctx context.Context) {
	was, db := privateAddr(Was), privateAddr(DB)
	row, err := queryDB(ctx, s.Host(Was), netip.AddrPortFrom(db, dbPort).String())
	if s.works("was asks db", err) {
		s.equal("what db answers", fmt.Sprintf("row from db, asked by %s", was), row)
	}
	page, err := s.tools.fetch(ctx, s.Host(DB), fmt.Sprintf("http://%s:%d/", was, wasPort))
	if s.works("db loads the page of was", err) {
		s.equal("what was answers", pageFor(db), page)
	}
}

// pageFor is the page of was when asker asks for it.
func pageFor(asker netip.Addr) string {
	return fmt.Sprintf("page from was, asked by %s: row from db, asked by %s", asker, privateAddr(Was))
}

// Step 2: 1:1 translation in, plain traffic behind it.
func (s *Story) page(ctx context.Context) {
	public := s.net.public(Web)
	s.check("the public address that web was lent", publicPool.Contains(public), "one of "+publicPool.String(), public.String())
	mark := s.Log().Mark()
	page, err := s.tools.fetch(ctx, s.Host(Client), fmt.Sprintf("http://%s/", public))
	if s.works("the client loads the page", err) {
		s.equal("what it says", pageFor(privateAddr(Web)), page)
	}
	came := s.Log().Find(mark, func(p *lab.Seen) bool { return p.Port == Web && p.Sent && p.Src.Addr() == clientAddr })
	s.check("packets of the client, by its own address, that reached web", len(came) > 0, "some", some(len(came)))
}

// Step 3: a jump host, and nothing but that.
func (s *Story) jump(ctx context.Context) {
	client, bastion, direct := s.ssh(patience), s.net.public(Bastion), netip.Addr{}
	name, err := client.run(ctx, direct, bastion, cmdName)
	if s.works("ssh from the client to bastion", err) {
		s.equal("the host it reaches", Bastion, name)
	}
	for _, h := range []string{Was, DB} {
		name, err = client.run(ctx, bastion, privateAddr(h), cmdName)
		if s.works("ssh through bastion to "+h, err) {
			s.equal("the host it reaches", h, name)
		}
	}
	peer, err := client.run(ctx, bastion, privateAddr(Was), cmdPeer)
	if err != nil {
		s.failed("who was sees", err)
	} else {
		from, _, _ := strings.Cut(peer, " ")
		s.equal("who was sees", privateAddr(Bastion), from)
	}
	before := s.Stats().Verdicts[nat.DropUnassigned]
	_, err = s.ssh(impatience).run(ctx, direct, privateAddr(Was), cmdName)
	s.fails("ssh from the client straight to was", err)
	s.counted(nat.DropUnassigned, before, 1)
}

func (s *Story) ssh(timeout time.Duration) *sshClient {
	return &sshClient{tools: s.tools, keys: s.keys, from: s.Host(Client), timeout: timeout}
}

// Step 4: no public address and no NAT gateway means no way out, and the edge says so.
func (s *Story) noPath(ctx context.Context) {
	apt, err := newAPT(s.tools, s.Host(Was), impatience)
	if err != nil {
		s.failed("set up the package manager", err)
		return
	}
	mark, before := s.Log().Mark(), s.Stats().Verdicts[nat.DropNoPath]
	s.fails("update on was", apt.update(ctx))
	left := s.Log().Find(mark, func(p *lab.Seen) bool { return p.Port == Was && !p.Sent && p.Dst.Addr() == mirrorAddr })
	s.check("packets from was to the mirror", len(left) > 0, "some", some(len(left)))
	came := s.Log().Find(mark, func(p *lab.Seen) bool { return p.Port == Was && p.Sent && p.Src.Addr() == mirrorAddr })
	s.equal("answers to was", 0, len(came))
	s.counted(nat.DropNoPath, before, max(len(left), 1))
}

// counted checks that the edge gave a reason at least so many times since its counter was before.
func (s *Story) counted(v nat.Verdict, before uint64, least int) {
	n := s.Stats().Verdicts[v] - before
	s.check(fmt.Sprintf("the edge's counter %s (%s)", v, v.Text()), n >= uint64(least), fmt.Sprintf("%d or more", least), fmt.Sprint(n))
}

// Step 5: an Elastic IP opens both ways.
func (s *Story) elastic(ctx context.Context) {
	for _, h := range []string{Was, DB} {
		ip, err := s.net.associate(h)
		if err == nil {
			err = s.apply()
		}
		s.works(fmt.Sprintf("associate the Elastic IP %s with %s", ip, h), err)
	}
	for _, h := range []string{Was, DB} {
		s.update(ctx, h, s.net.public(h))
	}
	apt, err := newAPT(s.tools, s.Host(Was), patience)
	if err != nil {
		s.failed("set up the package manager", err)
		return
	}
	s.works("update on was, again", apt.update(ctx))
	deb, err := apt.download(ctx)
	if s.works("download of "+aPackage.Name, err) {
		s.check("what came", strings.HasPrefix(string(deb), "!<arch>\ndebian-binary"), "a Debian package", kind(deb))
	}
	s.exposed(ctx, Web, Bastion, Was, DB)
}

// update checks that a package update on a host works, and that the mirror saw a certain address.
func (s *Story) update(ctx context.Context, h string, as netip.Addr) {
	mark := s.services.mirror.mark()
	apt, err := newAPT(s.tools, s.Host(h), patience)
	if err == nil {
		err = apt.update(ctx)
	}
	if s.works("update on "+h, err) {
		s.equal("who the mirror saw", as, askers(s.services.mirror.since(mark)))
	}
}

// askers are the addresses in the mirror's log.
func askers(log []access) string {
	var who []string
	seen := map[netip.Addr]bool{}
	for _, a := range log {
		if !seen[a.from.Addr()] {
			seen[a.from.Addr()] = true
			who = append(who, a.from.Addr().String())
		}
	}
	if len(who) == 0 {
		return "nobody"
	}
	return strings.Join(who, " ")
}

// exposed checks that the scanner finds the services of these hosts and nothing else.
func (s *Story) exposed(ctx context.Context, hosts ...string) {
	s.scan(ctx, nil, hosts...)
}

func (s *Story) scan(ctx context.Context, more []endpoint, hosts ...string) {
	var want []endpoint
	for _, h := range hosts {
		want = append(want, exposure(h, s.net.public(h))...)
	}
	s.equal("what the scanner finds (that is: "+strings.Join(hosts, ", ")+")", list(want), list(s.scanFor(ctx, scanTargets(more...), want)))
}

// apply puts the present state of the model in force.
func (s *Story) apply() error { return s.Follow(s.net) }

func some(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

func kind(b []byte) string {
	if strings.HasPrefix(string(b), "!<arch>\ndebian-binary") {
		return "a Debian package"
	}
	return fmt.Sprintf("%d bytes of something else", len(b))
}

// say sends a line to an echo over ssh, and checks that it comes back.
func (s *Story) say(sh *shell, line, what string) {
	got := make([]byte, len(line)+1)
	_, err := io.WriteString(sh, line+"\n")
	if err == nil {
		_, err = io.ReadFull(sh, got)
	}
	if err != nil {
		s.failed(what, err)
		return
	}
	s.equal(what, line, strings.TrimSpace(string(got)))
}

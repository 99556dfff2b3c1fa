// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"github.com/tidegate/tidegate/conntrack"
	"github.com/tidegate/tidegate/packet"
)

// missed is how many packets of a shard a lookup found nothing for.
func (w *Worker) missed(items []item, n uint8) (missed int) {
	for i, h := range w.hs[:len(items)] {
		if h == conntrack.None && items[i].state == fast && items[i].shard == n {
			missed++
		}
	}
	return missed
}

// expect is what the second and third stage are for packets without a session that go out through a pool: most of them will
// make one. It loads what that takes: the slots of the mapping, of the ports that the allocator will look at, and of the
// session, and who has those ports. What another flow changes meanwhile makes a guess wrong, and nothing else.
func (w *Worker) expect(sh *shard, items []item, att *attachment, number uint8) {
	t := sh.t
	n, m := 0, 0
	for i := range items {
		it := &items[i]
		if it.state != fast || it.shard != number || w.hs[i] != conntrack.None {
			continue
		}
		v := &it.v
		pool, ok := w.plainPool(att, v)
		if !ok {
			continue
		}
		it.state, it.pool = opens, uint16(pool)
		f := &w.flows[n]
		k, _ := class(v.Proto)
		f.item, f.settled, f.independent = uint8(i), false, w.pol.pools[pool].Mapping[k] == EndpointIndependent
		if f.independent {
			w.ask.tags[m], w.ask.at[m] = t.MappingTag(v.Src, v.SrcPort, it.pool, v.Proto), uint8(n)
			m++
		}
		n++
	}
	flows := w.flows[:n]
	touched := t.TouchFree(n) + t.LookupMapping(w.ask.tags[:m], w.ask.hs[:m])
	for i, h := range w.ask.hs[:m] {
		if h != conntrack.None { // it has a port already
			flows[w.ask.at[i]].settled = true
		}
	}
	words := uint32(0)
	for i := range flows {
		if f := &flows[i]; !f.settled {
			f.settled = !w.foresee(sh, f, &items[f.item], words)
			f.foreseen = !f.settled
			words++
		} else {
			f.foreseen = false
		}
	}
	for round := range foreseen {
		touched += w.expectPorts(sh, items, flows, round, true) + w.expectPorts(sh, items, flows, round, false)
	}
	for i := range flows {
		if f := &flows[i]; f.independent && f.foreseen {
			v := &items[f.item].v
			touched += t.TouchIn(t.InTag(f.ext, v.Dst, f.port, v.Proto))
		}
	}
	w.touched += touched
}

// expectPorts looks who has the next port of each flow of one kind of mapping that has found none yet.
func (w *Worker) expectPorts(sh *shard, items []item, flows []newFlow, round int, independent bool) (touched uint64) {
	t, m := sh.t, 0
	for i := range flows {
		f := &flows[i]
		if f.settled || f.independent != independent {
			continue
		}
		v := &items[f.item].v
		f.port = f.ports[round]
		if w.ask.at[m] = uint8(i); independent {
			w.ask.tags[m] = t.HolderTag(f.ext, f.port, v.Proto)
		} else {
			w.ask.tags[m] = t.InTag(f.ext, v.Dst, f.port, v.Proto)
		}
		m++
	}
	tags, hs := w.ask.tags[:m], w.ask.hs[:m]
	if independent {
		touched = t.LookupHolder(tags, hs)
	} else {
		touched = t.LookupIn(tags, hs)
	}
	for i, h := range hs {
		flows[w.ask.at[i]].settled = h == conntrack.None
	}
	return touched
}

// foresee finds the address and the ports that the allocator will look at, if so many flows get a random word before this
// one. It reports false if there are none.
func (w *Worker) foresee(sh *shard, f *newFlow, it *item, words uint32) bool {
	v, d := &it.v, &w.pol.pools[it.pool]
	k, _ := class(v.Proto)
	q := want{
		proto: v.Proto, k: k, pool: d, in: v.Src, inPort: v.SrcPort, rem: v.Dst, remPort: uint16(outPorts(v)), independent: f.independent,
		span: w.spanOf(d, k, v.Src, v.SrcPort, sh.number), random: sh.random.ahead(words),
	}
	if len(d.addrs) == 0 || q.span.n == 0 {
		return false
	}
	f.ext = d.addrs[w.e.firstAddress(&q)]
	ports := f.ports[:]
	if d.PreservePort && q.span.has(uint32(q.inPort)) {
		ports[0], ports = q.inPort, ports[1:]
	}
	q.onlyParity, q.parityOfPort = d.PreserveParity && k != ClassICMP, uint32(q.inPort)&1
	if c := sh.crowds.find(&q, f.ext); c != nil {
		i, ok := c.choose(&q)
		for j := range ports {
			ports[j] = uint16(q.span.port(i))
		}
		return ok || len(ports) < foreseen
	}
	for j := range ports {
		ports[j] = uint16(q.guess())
	}
	return true
}

// plainPool is the pool that a packet from inside goes out through where fromInside would find nothing else to do.
func (w *Worker) plainPool(att *attachment, v *packet.View) (number int, ok bool) {
	pol := w.pol
	if !pol.owners.surelyRemote(v.Dst) || v.Src == v.Dst || !att.allows(pol, v.Src) {
		return 0, false
	}
	way, ok := pol.route(v.Src, v.Dst)
	if !ok || way.bypass || way.pool < 0 || way.static && pol.outOf.get(v.Src) != 0 {
		return 0, false
	}
	return way.pool, true
}

// open1 is one for a packet that plainPool has found a pool for.
func (w *Worker) open1(p *packet.Packet, it *item, from AttachmentID, att *attachment) Verdict {
	f := flow{p: p, v: it.v, from: from, att: att, length: p.Len - int(it.v.L4), pool: int(it.pool), dir: Out}
	before := len(w.emitted)
	return w.settle(&f, w.naptOut(&f, f.pool, owner{}), before)
}

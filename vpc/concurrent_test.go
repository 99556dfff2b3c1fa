// SPDX-License-Identifier: Apache-2.0

package vpc

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidegate/tidegate/nat"
	"github.com/tidegate/tidegate/packet"
)

// Many callers move one Elastic IP between two instances while both send and the internet answers. A change, its
// policy and the engine that takes it are under one lock, as the owner of a Model has to do it; the packets are not.
func TestEIP2_ConcurrentMovesAreLinear(t *testing.T) {
	e := newEdge(t)
	hosts := [2]Instance{e.run(e.private), e.run(e.private)}
	e.ok(e.CreateRoute(e.vpc.MainRouteTableID, everything, e.igw.ID))
	eip := e.associate(e.allocate(), hosts[0])
	e.apply()

	var (
		mu     sync.Mutex
		change atomic.Uint64 // odd while one is under way
		owner  atomic.Int32
	)
	outbound := [2][]byte{tcp(hosts[0].PrivateIP, 5000, r1, 80).build(t), tcp(hosts[1].PrivateIP, 5000, r1, 80).build(t)}
	inbound := tcp(r1, 80, eip.PublicIP, 5000).build(t)
	// out sends a packet of host h, and says whether it left: as the Elastic IP or not at all.
	out := func(w *nat.Worker, h int) (left bool) {
		p := packet.From(outbound[h])
		switch v := w.Translate(&p, hosts[h].Attachment, 0); v {
		case nat.StaticOutbound:
			if got := netip.AddrFrom4([4]byte(p.Bytes()[12:])); got != eip.PublicIP {
				t.Errorf("a packet of host %d left as %v", h, got)
			}
			return true
		case nat.DropNoPath:
		default:
			t.Errorf("a packet of host %d: %v", h, v)
		}
		return false
	}
	// in sends a packet to the Elastic IP, and says where it arrived.
	in := func(w *nat.Worker) netip.Addr {
		p := packet.From(inbound)
		if v := w.Translate(&p, OutsideAttachment, 0); v != nat.StaticInbound {
			t.Errorf("a packet to the Elastic IP: %v", v)
		}
		return netip.AddrFrom4([4]byte(p.Bytes()[16:]))
	}

	var movers, senders sync.WaitGroup
	done := make(chan struct{})
	for h := range hosts {
		senders.Go(func() {
			w := e.engine.Worker()
			for {
				select {
				case <-done:
					return
				default:
				}
				before, o := change.Load(), int(owner.Load())
				left := out(w, h)
				if before%2 == 0 && change.Load() == before && left != (o == h) {
					t.Errorf("a packet of host %d left: %v, while host %d had the address", h, left, o)
				}
			}
		})
	}
	for n := range 100 {
		movers.Go(func() {
			w := e.engine.Worker()
			for range 5 {
				mu.Lock()
				change.Add(1)
				_, err := e.AssociateAddress(e.now, AssociateAddressInput{AllocationID: eip.ID, InstanceID: hosts[n%2].ID})
				p, _ := e.Policy(e.vpc.ID)
				if _, refused := e.engine.Apply(p, 0); err != nil || refused != nil {
					t.Error(err, refused)
				}
				owner.Store(int32(n % 2))
				change.Add(1)
				// The call has returned: from here on one has it and the other has not, both ways.
				if !out(w, n%2) || out(w, 1-n%2) || in(w) != hosts[n%2].PrivateIP {
					t.Errorf("host %d has the address, but packets say otherwise", n%2)
				}
				mu.Unlock()
			}
		})
	}
	movers.Wait()
	close(done)
	senders.Wait()
	last := int(owner.Load())
	equal(t, "the last commit wins", e.address(eip).InstanceID, hosts[last].ID)
	e.isPublic("the last owner", hosts[last], eip.PublicIP)
	e.isShut("the other", hosts[1-last])
}
